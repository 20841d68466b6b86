//! What a connection has still to be sent, and which deliveries that confirms once it has left.
//!
//! An idle connection owns no buffer: it borrows one of its core's when there is something to say and gives it back
//! when all is sent. Invariant: bytes leave in the order they were written, and a delivery is confirmed only after its
//! last byte was taken by the kernel.

use std::collections::VecDeque;

use crate::id::{GroupId, UserId};

/// A message on its way to a client, named as the store counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Whose inbox it is in.
    pub user: UserId,
    /// The group, or 0 for a direct message.
    pub group: GroupId,
    /// Its number there.
    pub seq: u64,
    /// The receiver wrote it on another device: nobody waits for its confirmation.
    pub own: bool,
}

/// The unsent output of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    buffer: Option<Box<Buffer>>,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// How many of `bytes` the kernel has.
    sent: usize,
    /// How many bytes were sent and taken out of `bytes` before.
    base: u64,
    /// How many of the unsent bytes, at most, were written because the client asked for them.
    asked_for: usize,
    /// Deliveries and the offsets, counted from the first byte ever, at which they end.
    marks: VecDeque<(u64, Delivery)>,
}

/// Buffers nobody uses just now; shared by all connections of a core.
#[derive(Debug, Default)]
pub struct BufferPool {
    #[allow(
        clippy::vec_box,
        reason = "a connection holds one pointer, which moves between it and the pool as it is"
    )]
    free: Vec<Box<Buffer>>,
}

/// Buffers the pool keeps, and the capacity up to which it keeps one: enough for a turn's fan-out, a bounded 4 MiB.
const POOLED_BUFFERS: usize = 1024;
const POOLED_CAPACITY: usize = 4096;

/// Sent bytes are moved out of the buffer from this many on, so that moving stays cheap per byte.
const COMPACT_FROM: usize = 64 * 1024;

impl Outbox {
    /// Where to write more.
    pub fn bytes(&mut self, pool: &mut BufferPool) -> &mut Vec<u8> {
        &mut self.buffer(pool).bytes
    }

    /// Notes that `delivery` ends with what was written last.
    pub fn mark(&mut self, delivery: Delivery, pool: &mut BufferPool) {
        let buffer = self.buffer(pool);
        let end = buffer.base + buffer.bytes.len() as u64;
        buffer.marks.push_back((end, delivery));
    }

    /// What is still to be sent.
    pub fn unsent(&self) -> &[u8] {
        self.buffer
            .as_ref()
            .map_or(&[], |buffer| &buffer.bytes[buffer.sent..])
    }

    /// Notes that the kernel took `count` bytes; `confirmed` is given each delivery that has now left in full.
    pub fn advance(
        &mut self,
        count: usize,
        pool: &mut BufferPool,
        mut confirmed: impl FnMut(Delivery),
    ) {
        let Some(buffer) = &mut self.buffer else {
            return;
        };
        buffer.sent += count;
        debug_assert!(buffer.sent <= buffer.bytes.len());
        let sent_ever = buffer.base + buffer.sent as u64;
        while let Some(&(end, delivery)) = buffer.marks.front() {
            if end > sent_ever {
                break;
            }
            buffer.marks.pop_front();
            confirmed(delivery);
        }
        // What is left is at most what was asked for, however much was before.
        buffer.asked_for = buffer.asked_for.min(buffer.bytes.len() - buffer.sent);
        if buffer.sent == buffer.bytes.len() {
            self.clear(pool);
        } else if buffer.sent >= COMPACT_FROM && buffer.sent * 2 >= buffer.bytes.len() {
            buffer.bytes.drain(..buffer.sent);
            buffer.base = sent_ever;
            buffer.sent = 0;
        }
    }

    /// Notes that the last `count` bytes were asked for: that they wait is not held against the client.
    pub fn asked_for(&mut self, count: usize, pool: &mut BufferPool) {
        self.buffer(pool).asked_for += count;
    }

    /// How many bytes are unsent beyond what the client asked for.
    pub fn unasked(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| {
            (buffer.bytes.len() - buffer.sent).saturating_sub(buffer.asked_for)
        })
    }

    /// Gives up everything unsent but the rest of a line that was begun, so that the client still reads whole lines.
    pub fn drop_unsent_lines(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            let begun = buffer.sent > 0 && buffer.bytes[buffer.sent - 1] != b'\n';
            let keep = if begun {
                memchr::memchr(b'\n', &buffer.bytes[buffer.sent..])
                    .map_or(buffer.bytes.len(), |end| buffer.sent + end + 1)
            } else {
                buffer.sent
            };
            buffer.bytes.truncate(keep);
            buffer.marks.clear();
            buffer.asked_for = 0;
        }
    }

    /// Gives the buffer back.
    pub fn clear(&mut self, pool: &mut BufferPool) {
        if let Some(mut buffer) = self.buffer.take()
            && pool.free.len() < POOLED_BUFFERS
            && buffer.bytes.capacity() <= POOLED_CAPACITY
        {
            buffer.bytes.clear();
            buffer.marks.clear();
            buffer.sent = 0;
            buffer.base = 0;
            buffer.asked_for = 0;
            pool.free.push(buffer);
        }
    }

    fn buffer(&mut self, pool: &mut BufferPool) -> &mut Buffer {
        self.buffer
            .get_or_insert_with(|| pool.free.pop().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(seq: u64) -> Delivery {
        Delivery {
            user: 7,
            group: 0,
            seq,
            own: false,
        }
    }

    #[test]
    fn a_delivery_is_confirmed_with_its_last_byte_and_not_before() {
        let (mut outbox, mut pool) = (Outbox::default(), BufferPool::default());
        for seq in 1..=2 {
            outbox.bytes(&mut pool).extend_from_slice(b"line\n");
            outbox.mark(delivery(seq), &mut pool);
        }
        let mut confirmed = Vec::new();
        for expected in [
            &[][..],
            &[],
            &[],
            &[],
            &[1],
            &[1],
            &[1],
            &[1],
            &[1],
            &[1, 2],
        ] {
            outbox.advance(1, &mut pool, |delivery| confirmed.push(delivery.seq));
            assert_eq!(confirmed, expected);
        }
        assert!(outbox.unsent().is_empty());
    }

    #[test]
    fn what_leaves_is_what_was_written_however_it_leaves() {
        let (mut outbox, mut pool) = (Outbox::default(), BufferPool::default());
        let (mut written, mut read, mut confirmed) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..2000_u64 {
            let line = vec![b'a' + (round % 26) as u8; (round % 300) as usize + 1];
            outbox.bytes(&mut pool).extend_from_slice(&line);
            outbox.mark(delivery(round), &mut pool);
            written.extend_from_slice(&line);
            let take = outbox.unsent().len() * (round as usize % 5) / 5;
            read.extend_from_slice(&outbox.unsent()[..take]);
            outbox.advance(take, &mut pool, |delivery| confirmed.push(delivery.seq));
        }
        read.extend_from_slice(outbox.unsent());
        outbox.advance(outbox.unsent().len(), &mut pool, |delivery| {
            confirmed.push(delivery.seq);
        });
        assert_eq!(read, written);
        assert_eq!(confirmed, (0..2000).collect::<Vec<_>>());
    }

    #[test]
    fn giving_up_unsent_lines_keeps_the_rest_of_a_begun_one() {
        let (mut outbox, mut pool) = (Outbox::default(), BufferPool::default());
        outbox
            .bytes(&mut pool)
            .extend_from_slice(b"one\ntwo\nthree\n");
        outbox.mark(delivery(1), &mut pool);
        outbox.advance(5, &mut pool, |_| ());
        outbox.drop_unsent_lines();
        assert_eq!(outbox.unsent(), b"wo\n");
        outbox.advance(3, &mut pool, |_| panic!("its delivery was given up"));
        outbox.drop_unsent_lines();
        assert!(outbox.unsent().is_empty());
    }
}
