//! What a connection has still to be sent, and what it was sent and has not acknowledged.
//!
//! An idle connection owns no buffer: it borrows one of its core's when there is something to say
//! and gives it back when all is sent and every delivery in it is acknowledged. Invariant: bytes
//! leave in the order they were written, and a delivery is confirmed only after the peer's TCP has
//! acknowledged its last byte. That the kernel took it says nothing: a link that is dead takes as
//! much as one that works.

use std::collections::VecDeque;

use crate::{
    base::{
        id::{Stream, UserId},
        mutation::{Mutation, is_seeded},
    },
    proto::{PushKind, PushMessage},
    protocol::codec::Codec,
};

/// A message on its way to a client, named as the store counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Whom it goes to.
    pub user: UserId,
    /// What it is numbered in.
    pub stream: Stream,
    /// Its number there.
    pub seq: u64,
    /// The receiver wrote it on another device: nobody waits for its confirmation.
    pub own: bool,
}

impl Delivery {
    /// What `message` is in an inbox or a group of `user`; `None`: it has no number there, as it is
    /// of a backend without numbers, a copy for its sender, or no message at all.
    pub fn of(user: UserId, message: &PushMessage) -> Option<Self> {
        let stream = Stream::of(user, message.group_id);
        let is_copy = stream == Stream::Direct(user) && !message.to_many.is_empty();
        let is_numbered = message.kind() == PushKind::Message && message.seq != 0 && !is_copy;
        is_numbered.then_some(Self {
            user,
            stream,
            seq: message.seq,
            // What one sent oneself is no news to one's inbox: the store counts it as confirmed.
            own: message.group_id != 0 && message.from == user,
        })
    }
}

/// The output of one connection that its peer is not known to have.
#[derive(Debug, Default)]
pub struct Outbox {
    /// How many bytes were sent and taken out of the buffer, ever.
    base: u64,
    buffer: Option<Box<Buffer>>,
}

#[derive(Debug, Default)]
struct Buffer {
    /// A message begins where they do.
    bytes: Vec<u8>,
    /// How many of `bytes` the kernel has.
    sent: usize,
    /// What follows the last byte: taken in piece by piece, as there is room.
    rest: &'static [u8],
    /// How many of the unsent bytes, at most, were written because the client asked for them.
    asked_for: usize,
    /// Pushes and the offsets, counted from the first byte ever, at which they end, each with what
    /// it confirms.
    marks: VecDeque<(u64, Option<Delivery>)>,
    /// Since when the peer has acknowledged nothing of what it was sent; of use while something is
    /// unacknowledged.
    silent_since_ms: u64,
    /// Up to which byte it had acknowledged when it was asked last.
    acknowledged: u64,
    /// How often it was asked in a row and had acknowledged nothing more.
    asked_in_vain: u32,
}

/// What the peer has been found to have acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// A push among it, at least one.
    pub of_pushes: bool,
    /// There is more to ask for: since when nothing was acknowledged, and how often it was asked in
    /// vain since.
    pub waits: Option<(u64, u32)>,
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

/// Buffers the pool keeps, and the capacity up to which it keeps one: enough for a turn's fan-out,
/// a bounded 4 MiB.
const POOLED_BUFFERS: usize = 1024;
const POOLED_CAPACITY: usize = 4096;
const POOLED_MARKS: usize = 16;

/// Sent bytes are moved out of the buffer from this many on. Only as many are moved as were sent,
/// so that moving stays cheap per byte; and what was sent is not kept, so that a buffer is no
/// longer than what is unsent asks for.
const COMPACT_FROM: usize = 1024;

impl Outbox {
    /// Where to write more.
    pub fn bytes(&mut self, pool: &mut BufferPool) -> &mut Vec<u8> {
        &mut self.buffer(pool).bytes
    }

    /// Notes that a push ends with what was written last, and what its acknowledgement confirms.
    pub fn mark(&mut self, confirms: Option<Delivery>, pool: &mut BufferPool) {
        let end = self.end();
        let marks = &mut self.buffer(pool).marks;
        assert!(
            marks.back().is_none_or(|(last_end, _)| *last_end <= end),
            "what is written last ends last"
        );
        // Of those that confirm nothing, the first and the last of a row tell enough of the peer's
        // life.
        if confirms.is_none()
            && let [.., (_, None), (last_end, None)] = marks.make_contiguous()
        {
            *last_end = end;
        } else {
            marks.push_back((end, confirms));
        }
    }

    /// What is still to be sent.
    pub fn unsent(&self) -> &[u8] {
        self.buffer
            .as_ref()
            .map_or(&[], |buffer| &buffer.bytes[buffer.sent..])
    }

    /// The offset at which what was written last ends, counted from the first byte ever.
    pub fn end(&self) -> u64 {
        let kept = self.buffer.as_ref().map_or(0, |buffer| buffer.bytes.len());
        self.base + kept as u64
    }

    /// Notes that the kernel took `count` bytes; `true`: there are more now, of what the output
    /// ends with.
    pub fn advance(
        &mut self,
        count: usize,
        codec: Codec,
        now_ms: u64,
        pool: &mut BufferPool,
    ) -> bool {
        let awaited = self.awaits();
        let Some(buffer) = &mut self.buffer else {
            return false;
        };
        let mut goes_on = false;
        buffer.sent += count;
        assert!(
            buffer.sent <= buffer.bytes.len(),
            "the kernel took more than there is"
        );
        // What is left is at most what was asked for, however much was before.
        buffer.asked_for = buffer.asked_for.min(buffer.bytes.len() - buffer.sent);
        if buffer.sent == buffer.bytes.len() {
            self.base += buffer.sent as u64;
            buffer.sent = 0;
            buffer.bytes.clear();
            buffer.bytes.shrink_to(POOLED_CAPACITY);
            let (piece, rest) = buffer.rest.split_at(buffer.rest.len().min(POOLED_CAPACITY));
            buffer.bytes.extend_from_slice(piece);
            buffer.rest = rest;
            goes_on = !piece.is_empty();
            self.release_if_done(pool);
        } else if buffer.sent >= COMPACT_FROM && buffer.sent * 2 >= buffer.bytes.len() {
            // What is kept begins with a message.
            let gone = codec.last_end(&buffer.bytes, buffer.sent);
            buffer.bytes.drain(..gone);
            buffer.bytes.shrink_to(buffer.bytes.len() * 2);
            self.base += gone as u64;
            buffer.sent -= gone;
        }
        if !awaited
            && self.awaits()
            && let Some(buffer) = &mut self.buffer
        {
            buffer.silent_since_ms = now_ms;
            buffer.asked_in_vain = 0;
        }
        goes_on
    }

    /// Whether the kernel has pushes in full that are not known to be acknowledged.
    pub fn awaits(&self) -> bool {
        self.buffer.as_ref().is_some_and(|buffer| {
            let sent_ever = self.base + buffer.sent as u64;
            let first = buffer.marks.front();
            first.is_some_and(|(end, _)| *end <= sent_ever)
        })
    }

    /// Whether every delivery that ends at `end` or before, sent or not, is acknowledged.
    pub fn is_confirmed(&self, end: u64) -> bool {
        let marks = self.buffer.iter().flat_map(|buffer| &buffer.marks);
        // Those that confirm nothing come in twos at most.
        let first = marks.into_iter().find(|(_, confirms)| confirms.is_some());
        first.is_none_or(|(first_end, _)| *first_end > end)
    }

    /// The peer has acknowledged all that was sent but the last `outstanding` bytes; `confirmed` is
    /// given each delivery it has now in full.
    pub fn acknowledge(
        &mut self,
        outstanding: u64,
        now_ms: u64,
        pool: &mut BufferPool,
        mut confirmed: impl FnMut(Delivery),
    ) -> Progress {
        let is_mutated = is_seeded(Mutation::SentCountsAsAcknowledged);
        let outstanding = if is_mutated { 0 } else { outstanding };
        let mut of_pushes = false;
        if let Some(buffer) = &mut self.buffer {
            let up_to = (self.base + buffer.sent as u64).saturating_sub(outstanding);
            while let Some((_, confirms)) = buffer.marks.pop_front_if(|(end, _)| *end <= up_to) {
                of_pushes = true;
                confirms.into_iter().for_each(&mut confirmed);
            }
            if up_to > buffer.acknowledged {
                buffer.acknowledged = up_to;
                buffer.silent_since_ms = now_ms;
                buffer.asked_in_vain = 0;
            } else {
                buffer.asked_in_vain += 1;
            }
        }
        self.release_if_done(pool);
        let waits = self.buffer.as_ref().filter(|_| self.awaits());
        Progress {
            of_pushes,
            waits: waits.map(|buffer| (buffer.silent_since_ms, buffer.asked_in_vain)),
        }
    }

    /// Notes that the last `count` bytes were asked for: that they wait is not held against the
    /// client.
    pub fn asked_for(&mut self, count: usize, pool: &mut BufferPool) {
        let buffer = self.buffer(pool);
        buffer.asked_for += count;
        debug_assert!(
            buffer.asked_for <= buffer.bytes.len() - buffer.sent,
            "more was asked for than is unsent"
        );
    }

    /// Ends with `rest`, of which little is in memory at a time, however slowly it is read. Nothing
    /// may be written after it.
    pub fn end_with(&mut self, rest: &'static [u8], pool: &mut BufferPool) {
        let buffer = self.buffer(pool);
        assert!(!buffer.bytes.is_empty(), "a head comes first");
        assert!(buffer.rest.is_empty(), "an output ends once");
        buffer.rest = rest;
    }

    /// How many bytes are unsent beyond what the client asked for.
    pub fn unasked(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| {
            (buffer.bytes.len() - buffer.sent).saturating_sub(buffer.asked_for)
        })
    }

    /// Gives up everything unsent but the rest of a message that was begun, so that the client
    /// still reads whole messages. What was sent may still be acknowledged.
    pub fn drop_unsent(&mut self, codec: Codec) {
        if let Some(buffer) = &mut self.buffer {
            let keep = codec.first_end(&buffer.bytes, buffer.sent);
            buffer.bytes.truncate(keep);
            let sent_ever = self.base + buffer.sent as u64;
            buffer.marks.retain(|(end, _)| *end <= sent_ever);
            buffer.asked_for = 0;
        }
    }

    /// Gives the buffer back, whatever is in it.
    pub fn clear(&mut self, pool: &mut BufferPool) {
        if let Some(mut buffer) = self.buffer.take()
            && pool.free.len() < POOLED_BUFFERS
            && buffer.bytes.capacity() <= POOLED_CAPACITY
        {
            let (mut bytes, mut marks) = (
                std::mem::take(&mut buffer.bytes),
                std::mem::take(&mut buffer.marks),
            );
            bytes.clear();
            marks.clear();
            marks.shrink_to(POOLED_MARKS);
            *buffer = Buffer {
                bytes,
                marks,
                ..Buffer::default()
            };
            pool.free.push(buffer);
        }
    }

    /// Gives the buffer back once nothing in it is waited for.
    fn release_if_done(&mut self, pool: &mut BufferPool) {
        if self
            .buffer
            .as_ref()
            .is_some_and(|buffer| buffer.bytes.is_empty() && buffer.marks.is_empty())
        {
            self.clear(pool);
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

    const AT: u64 = 0;

    fn delivery(seq: u64) -> Delivery {
        Delivery {
            user: 7,
            stream: Stream::Direct(7),
            seq,
            own: false,
        }
    }

    /// An outbox with `lines`, each a push that confirms its number.
    fn outbox(lines: &[&str], pool: &mut BufferPool) -> Outbox {
        let mut outbox = Outbox::default();
        for (line, seq) in lines.iter().zip(1..) {
            outbox.bytes(pool).extend_from_slice(line.as_bytes());
            outbox.mark(Some(delivery(seq)), pool);
        }
        outbox
    }

    /// What is confirmed by the peer having all that was sent but `outstanding` bytes.
    fn confirmed(outbox: &mut Outbox, outstanding: u64, pool: &mut BufferPool) -> Vec<u64> {
        let mut confirmed = Vec::new();
        outbox.acknowledge(outstanding, AT, pool, |delivery| {
            confirmed.push(delivery.seq);
        });
        confirmed
    }

    #[test]
    fn a_long_end_is_taken_in_piece_by_piece() {
        static LONG: [u8; 10_000] = [b'a'; 10_000];
        let mut pool = BufferPool::default();
        let mut outbox = Outbox::default();
        outbox.bytes(&mut pool).extend_from_slice(b"head");
        outbox.end_with(&LONG, &mut pool);
        let mut lengths = Vec::new();
        loop {
            lengths.push(outbox.unsent().len());
            // The kernel takes it in two goes.
            assert!(!outbox.advance(1, Codec::Http, AT, &mut pool));
            let left = outbox.unsent().len();
            if !outbox.advance(left, Codec::Http, AT, &mut pool) {
                break;
            }
        }
        assert_eq!(lengths, [4, 4096, 4096, 1808]);
        assert!(outbox.buffer.is_none(), "the buffer is given back");
    }

    #[test]
    fn a_delivery_is_confirmed_with_the_acknowledgement_of_its_last_byte_and_not_before() {
        let mut pool = BufferPool::default();
        let mut outbox = outbox(&["line\n", "line\n"], &mut pool);
        assert!(!outbox.awaits());
        outbox.advance(7, Codec::Line, AT, &mut pool);
        assert!(outbox.awaits());
        assert_eq!(confirmed(&mut outbox, 7, &mut pool), [0; 0]);
        assert_eq!(confirmed(&mut outbox, 3, &mut pool), [0; 0]);
        assert_eq!(confirmed(&mut outbox, 2, &mut pool), [1]);
        assert!(!outbox.awaits(), "the second is not sent in full");
        outbox.advance(3, Codec::Line, AT, &mut pool);
        assert!(outbox.unsent().is_empty() && outbox.awaits());
        for outstanding in (1..=5).rev() {
            assert_eq!(confirmed(&mut outbox, outstanding, &mut pool), [0; 0]);
        }
        assert_eq!(confirmed(&mut outbox, 0, &mut pool), [2]);
        assert!(!outbox.awaits() && outbox.buffer.is_none());
    }

    #[test]
    fn what_leaves_is_what_was_written_however_it_leaves_and_is_acknowledged() {
        let (mut outbox, mut pool) = (Outbox::default(), BufferPool::default());
        let (mut written, mut read, mut seqs) = (Vec::new(), Vec::new(), Vec::new());
        let mut acknowledged = 0;
        for round in 0..2000_u64 {
            let line = vec![b'a' + (round % 26) as u8; (round % 300) as usize + 1];
            outbox.bytes(&mut pool).extend_from_slice(&line);
            outbox.mark(Some(delivery(round)), &mut pool);
            written.extend_from_slice(&line);
            assert_eq!(outbox.end(), written.len() as u64);
            let take = outbox.unsent().len() * (round as usize % 5) / 5;
            read.extend_from_slice(&outbox.unsent()[..take]);
            outbox.advance(take, Codec::Line, AT, &mut pool);
            acknowledged += (read.len() - acknowledged) * (round as usize % 3) / 2;
            let outstanding = (read.len() - acknowledged) as u64;
            seqs.extend(confirmed(&mut outbox, outstanding, &mut pool));
            let next = seqs.len() as u64;
            let bytes_of = |count: u64| (0..count).map(|n| n % 300 + 1).sum::<u64>();
            assert!(bytes_of(next) <= acknowledged as u64);
            assert!(bytes_of(next + 1) > acknowledged as u64);
            assert!(outbox.is_confirmed(bytes_of(next)));
        }
        read.extend_from_slice(outbox.unsent());
        outbox.advance(outbox.unsent().len(), Codec::Line, AT, &mut pool);
        seqs.extend(confirmed(&mut outbox, 0, &mut pool));
        assert_eq!(read, written);
        assert_eq!(seqs, (0..2000).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_sent_is_not_kept_behind_what_is_not() {
        let (mut outbox, mut pool) = (Outbox::default(), BufferPool::default());
        for _ in 0..1000 {
            let line = [&[b'x'; 499][..], b"\n"].concat();
            outbox.bytes(&mut pool).extend_from_slice(&line);
            outbox.advance(outbox.unsent().len() - 1, Codec::Line, AT, &mut pool);
            assert!(outbox.bytes(&mut pool).capacity() <= 4 * COMPACT_FROM);
        }
    }

    #[test]
    fn giving_up_unsent_lines_keeps_the_rest_of_a_begun_one() {
        let mut pool = BufferPool::default();
        let mut outbox = outbox(&["one\n", "two\n", "three\n"], &mut pool);
        outbox.advance(5, Codec::Line, AT, &mut pool);
        outbox.drop_unsent(Codec::Line);
        assert_eq!(outbox.unsent(), b"wo\n");
        outbox.advance(3, Codec::Line, AT, &mut pool);
        outbox.drop_unsent(Codec::Line);
        assert!(outbox.unsent().is_empty());
        let had = confirmed(&mut outbox, 0, &mut pool);
        assert_eq!(had, [1], "what was sent before is still confirmed");
    }

    #[test]
    fn a_line_that_was_begun_long_ago_is_still_ended() {
        let (mut outbox, mut pool) = (Outbox::default(), BufferPool::default());
        let line = [&[b'x'; 5000][..], b"\n"].concat();
        outbox.bytes(&mut pool).extend_from_slice(&line);
        outbox.bytes(&mut pool).extend_from_slice(b"another\n");
        for _ in 0..49 {
            outbox.advance(100, Codec::Line, AT, &mut pool);
        }
        outbox.drop_unsent(Codec::Line);
        assert_eq!(outbox.unsent(), &line[4900..]);
    }

    #[test]
    fn pushes_that_confirm_nothing_are_noticed_and_take_no_room() {
        let (mut outbox, mut pool) = (Outbox::default(), BufferPool::default());
        for _ in 0..1000 {
            outbox.bytes(&mut pool).extend_from_slice(b"NOTICE\n");
            outbox.mark(None, &mut pool);
            outbox.advance(7, Codec::Line, AT, &mut pool);
        }
        let marks = |outbox: &Outbox| outbox.buffer.as_ref().map_or(0, |b| b.marks.len());
        assert_eq!(marks(&outbox), 2);
        assert!(outbox.is_confirmed(outbox.end()));
        let mut had = |outstanding| {
            outbox.acknowledge(outstanding, AT, &mut pool, |_| {
                panic!("it confirms nothing")
            })
        };
        assert!(!had(7 * 1000).of_pushes);
        assert!(had(7 * 500).of_pushes, "the first ones");
        assert_eq!(had(7).waits, Some((AT, 0)));
        assert_eq!(had(7).waits, Some((AT, 1)), "nothing more than before");
        let rest = had(0);
        assert!(rest.of_pushes && rest.waits.is_none());
    }
}
