//! What came of a stream and is not whole yet.
//!
//! Owns the bytes between two reads. Pure. Invariant: it holds what its reader could make nothing
//! of, and nothing else; so its reader's limit is its bound.

/// See the module's description.
#[derive(Debug, Default)]
pub struct ReceiveBuffer {
    bytes: Vec<u8>,
}

impl ReceiveBuffer {
    /// How many bytes wait for the rest of their frame.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes `bytes` that followed what is here, and has `take` take frames off the front: it says
    /// how many bytes it took, `None` when the rest is not a whole frame.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn feed<E>(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<Option<usize>, E>,
    ) -> Result<(), E> {
        let mut drain = |mut rest: &[u8]| -> Result<usize, E> {
            while let Some(taken) = take(rest)? {
                assert!(
                    taken > 0 && taken <= rest.len(),
                    "a frame has bytes, and all of them came"
                );
                rest = &rest[taken..];
            }
            Ok(rest.len())
        };
        if self.bytes.is_empty() {
            let left = drain(bytes)?;
            self.bytes.extend_from_slice(&bytes[bytes.len() - left..]);
        } else {
            self.bytes.extend_from_slice(bytes);
            let left = drain(&self.bytes)?;
            self.bytes.drain(..self.bytes.len() - left);
        }
        if self.bytes.is_empty() {
            // An idle connection keeps no buffer.
            self.bytes = Vec::new();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of three bytes.
    fn take(frames: &mut Vec<Vec<u8>>, rest: &[u8]) -> Result<Option<usize>, ()> {
        let frame = rest.first_chunk::<3>();
        frames.extend(frame.map(|frame| frame.to_vec()));
        Ok(frame.map(|frame| frame.len()))
    }

    #[test]
    fn frames_are_found_at_every_split_and_an_idle_buffer_has_no_room() {
        for cut in 0..=6 {
            let (mut buffer, mut frames) = (ReceiveBuffer::default(), Vec::new());
            for part in [&b"abcdef"[..cut], &b"abcdef"[cut..]] {
                let fed = buffer.feed(part, |rest| take(&mut frames, rest));
                fed.expect("frames");
            }
            assert_eq!(frames, [b"abc", b"def"]);
            assert!(buffer.is_empty() && buffer.bytes.capacity() == 0);
        }
    }

    #[test]
    #[should_panic(expected = "all of them came")]
    fn a_reader_that_takes_what_has_not_come_is_found_out() {
        let _ = ReceiveBuffer::default().feed(b"ab", |_| Ok::<_, ()>(Some(3)));
    }
}
