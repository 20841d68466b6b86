//! Redis's protocol as it comes: bytes to values.
//!
//! Owns the bytes of a value that is not whole, and their bound. What a value is the `redis` crate
//! knows. Pure.

use std::io::{self, Read};

use redis::{Parser, Value};

/// Why nothing that follows can be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtocolError {
    /// Bytes that are no value.
    #[error("what came is not Redis's protocol: {0}")]
    Malformed(String),
    /// A value beyond the limit.
    #[error("a value of more than {0} bytes")]
    TooLong(usize),
    /// A value that answers no command that was sent.
    #[error("it answers what is not asked")]
    Unasked,
}

/// See the module's description.
pub(super) struct RespReader {
    parser: Parser,
    /// Bytes since the last whole value.
    pending_bytes: usize,
    max_bytes: usize,
}

impl RespReader {
    /// For a new connection; values are no longer than `max_bytes`.
    pub(super) fn new(max_bytes: usize) -> Self {
        assert!(max_bytes > 0, "no value would fit");
        Self {
            parser: Parser::new(),
            pending_bytes: 0,
            max_bytes,
        }
    }

    /// Takes bytes that follow those before, and hands each value to `each`.
    ///
    /// # Errors
    /// Bytes that are no values, and those of `each`; the reader is of no use then.
    pub(super) fn feed<E: From<ProtocolError>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Value) -> Result<(), E>,
    ) -> Result<(), E> {
        self.pending_bytes += bytes.len();
        let mut source = Source(bytes);
        loop {
            match self.parser.parse_value(&mut source) {
                Ok(value) => {
                    self.pending_bytes = source.0.len();
                    each(value)?;
                }
                // What the source says at its end: the value is not whole.
                Err(error) if error.is_timeout() => break,
                Err(error) => {
                    return Err(ProtocolError::Malformed(error.category().to_owned()).into());
                }
            }
        }
        assert!(
            source.0.is_empty(),
            "the parser asks for more only when it has everything"
        );
        if self.pending_bytes > self.max_bytes {
            return Err(ProtocolError::TooLong(self.max_bytes).into());
        }
        Ok(())
    }
}

/// Bytes that end in "not now" instead of an end, which makes the parser keep what it has.
struct Source<'a>(&'a [u8]);

impl Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_at_every_split() {
        let stream = b"+OK\r\n:0\r\n-NOPERM this user has no permissions\r\n:123\r\n$4\r\nfour\r\n";
        for split in 0..=stream.len() {
            let mut reader = RespReader::new(4096);
            let mut values = Vec::new();
            for part in [&stream[..split], &stream[split..]] {
                let fed = reader.feed(part, |value| {
                    values.push(value);
                    Ok::<_, ProtocolError>(())
                });
                fed.expect("values");
            }
            assert_eq!(values.len(), 5, "split at {split}");
            assert!(matches!(values[2], Value::ServerError(_)));
            assert_eq!(values[4], Value::BulkString(b"four".to_vec()));
        }
    }

    #[test]
    fn what_is_no_value_or_never_ends_is_found_out() {
        let feed = |bytes: &[u8]| RespReader::new(100).feed(bytes, |_| Err(ProtocolError::Unasked));
        let malformed = feed(b"HTTP/1.1 400 Bad Request\r\n");
        assert!(matches!(malformed, Err(ProtocolError::Malformed(_))));
        let mut endless = b"$5000\r\n".to_vec();
        assert_eq!(feed(&endless), Ok(()));
        endless.resize(101, b'x');
        assert_eq!(feed(&endless), Err(ProtocolError::TooLong(100)));
        assert_eq!(feed(b":1\r\n"), Err(ProtocolError::Unasked));
    }
}
