//! Message ids for those who send none, and for an id that is already somebody else's.
//!
//! Pure: the time is handed in. 41 bits of milliseconds since 2015, 10 bits of worker, 12 bits of sequence.

use crate::id::MessageId;

/// 2015-01-01T00:00:00Z in Unix milliseconds.
const EPOCH_MS: i64 = 1_420_070_400_000;
const WORKER_BITS: u32 = 10;
const SEQUENCE_BITS: u32 = 12;

/// Gives ids that grow, whatever the clock does.
#[derive(Debug)]
pub(super) struct MessageIds {
    worker: i64,
    // Milliseconds since the epoch and the sequence, as one number: a full sequence borrows the next millisecond.
    last: i64,
}

impl MessageIds {
    /// Ids of the worker with this number; only its lower ten bits count.
    pub(super) fn new(worker_id: u16) -> Self {
        Self {
            worker: i64::from(worker_id) & ((1 << WORKER_BITS) - 1),
            last: 0,
        }
    }

    /// The next id at `now_ms` (Unix time).
    pub(super) fn next(&mut self, now_ms: i64) -> MessageId {
        let elapsed_ms = now_ms.saturating_sub(EPOCH_MS).clamp(0, (1 << 41) - 1);
        self.last = (self.last + 1).max(elapsed_ms << SEQUENCE_BITS);
        let sequence = self.last & ((1 << SEQUENCE_BITS) - 1);
        let time_ms = self.last >> SEQUENCE_BITS;
        (time_ms << (WORKER_BITS + SEQUENCE_BITS)) | (self.worker << SEQUENCE_BITS) | sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_while_the_clock_stands_still_or_goes_back() {
        let mut ids = MessageIds::new(1023);
        let mut last = 0;
        for step in 0..10_000 {
            let id = ids.next(1_760_000_000_000 - step / 100);
            assert!(id > last);
            last = id;
        }
    }
}
