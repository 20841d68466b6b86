//! The names of things: users, groups, messages, sessions, connections, routes.
//!
//! Owns the newtypes and the snowflake generator. Never knows a clock: `unix_ms` is handed in.

use std::{fmt, sync::Arc};

/// A user's number: positive, given by the User Service.
pub type UserId = i64;
/// A group's number: positive, given by the Group Service.
pub type GroupId = i64;
/// A message's number: a snowflake ([`MessageIds`]) unless the Message Service answers its own.
pub type MessageId = i64;
/// A session's number: a snowflake too; unique over all gateways of a system.
pub type SessionId = u64;

/// Names one connection for as long as it lives: a slot of its core's slab and the slot's generation.
///
/// A late reply, timer or close that carries the key of an earlier tenant of the slot finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey {
    /// Index into the core's slab.
    pub slot: u32,
    /// Incremented each time the slot is given to a new connection.
    pub generation: u32,
}

/// Where pushes for a user go: one core of one gateway, written `<gateway_id>#<core>`. Cheap to clone: clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(Arc<str>);

impl RouteId {
    /// The route of core number `core` of the gateway named `gateway_id`.
    pub fn new(gateway_id: &str, core: usize) -> Self {
        Self(format!("{gateway_id}#{core}").into())
    }

    /// The route as it travels: `<gateway_id>#<core>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 2015-01-01T00:00:00Z in Unix milliseconds: where the snowflakes' time begins.
const SNOWFLAKE_EPOCH_UNIX_MS: u64 = 1_420_070_400_000;

const TIME_BITS: u32 = 41;
const WORKER_BITS: u32 = 10;
const SEQUENCE_BITS: u32 = 12;

/// How many workers can make ids beside each other; a worker's number is smaller.
pub const WORKERS_MAX: u16 = 1 << WORKER_BITS;
/// From this number on workers are services, which give ids to messages that come without one; cores have smaller numbers.
pub const FIRST_SERVICE_WORKER: u16 = WORKERS_MAX - 64;

/// Makes the ids of one worker: 41 bits of milliseconds since 2015, 10 bits of worker, 12 bits of sequence.
///
/// Each id is greater than the one before, whatever the clock does: when it steps back, or when a millisecond's 4096
/// numbers are used up, the generator goes on counting from where it was, borrowing from the milliseconds to come.
#[derive(Clone, Debug)]
pub struct MessageIds {
    worker: u16,
    /// The next id without its worker: milliseconds, then sequence. Counting it up carries from one into the other.
    next: u64,
}

impl MessageIds {
    /// The ids of worker number `worker`.
    ///
    /// # Panics
    /// If `worker` is not less than [`WORKERS_MAX`]: two workers with the same bits would make the same ids.
    pub fn new(worker: u16) -> Self {
        assert!(
            worker < WORKERS_MAX,
            "worker number {worker} does not fit in {WORKER_BITS} bits"
        );
        Self { worker, next: 0 }
    }

    /// The ids of worker number `worker` that are greater than `last`, for a start after which the clock may be behind
    /// where it was when `last` was made.
    ///
    /// # Panics
    /// As [`MessageIds::new`].
    pub fn starting_after(worker: u16, last: MessageId) -> Self {
        let last_ms = u64::try_from(last).map_or(0, |bits| bits >> (WORKER_BITS + SEQUENCE_BITS));
        Self {
            next: (last_ms + 1) << SEQUENCE_BITS,
            ..Self::new(worker)
        }
    }

    /// Ids are those of worker number `worker` from now on, and still grow.
    ///
    /// # Panics
    /// As [`MessageIds::new`].
    pub fn set_worker(&mut self, worker: u16) {
        *self = Self {
            // Its next millisecond: within one, a smaller worker number would make smaller ids.
            next: ((self.next >> SEQUENCE_BITS) + 1) << SEQUENCE_BITS,
            ..Self::new(worker)
        };
    }

    /// Leaves out `count` ids.
    pub fn skip(&mut self, count: u32) {
        self.next += u64::from(count);
    }

    /// The next id. A clock that shows a time outside of the 69 years that 41 bits hold is ignored.
    pub fn next(&mut self, unix_ms: u64) -> MessageId {
        let since_epoch_ms = unix_ms
            .checked_sub(SNOWFLAKE_EPOCH_UNIX_MS)
            .filter(|ms| *ms < 1 << TIME_BITS)
            .unwrap_or(0);
        let counter = self.next.max(since_epoch_ms << SEQUENCE_BITS);
        self.next = counter + 1;

        let sequence_mask = (1 << SEQUENCE_BITS) - 1;
        let time_ms = (counter >> SEQUENCE_BITS) & ((1 << TIME_BITS) - 1);
        let id = (time_ms << (WORKER_BITS + SEQUENCE_BITS))
            | (u64::from(self.worker) << SEQUENCE_BITS)
            | (counter & sequence_mask);
        // 63 bits: never negative.
        id as MessageId
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_760_000_000_000;

    fn worker_of(id: MessageId) -> u16 {
        (id >> SEQUENCE_BITS) as u16 & (WORKERS_MAX - 1)
    }

    /// When `id` was made; a little later than that where the generator had to borrow.
    fn unix_ms_of(id: MessageId) -> u64 {
        SNOWFLAKE_EPOCH_UNIX_MS + (id as u64 >> (WORKER_BITS + SEQUENCE_BITS))
    }

    #[test]
    fn an_id_tells_its_worker_and_its_time() {
        let mut ids = MessageIds::new(777);
        let id = ids.next(NOW);
        assert!(id > 0);
        assert_eq!(worker_of(id), 777);
        assert_eq!(unix_ms_of(id), NOW);
        assert_eq!(
            id,
            (((NOW - SNOWFLAKE_EPOCH_UNIX_MS) as i64) << 22) | (777 << 12)
        );
    }

    #[test]
    fn the_4097th_id_of_a_millisecond_borrows_from_the_next() {
        let mut ids = MessageIds::new(1023);
        let first = ids.next(NOW);
        let further: Vec<MessageId> = (0..4096).map(|_| ids.next(NOW)).collect();
        let last = further[4095];
        assert_eq!(unix_ms_of(first), NOW);
        assert_eq!(unix_ms_of(last), NOW + 1);
        assert_eq!(worker_of(last), 1023);
    }

    #[test]
    fn a_clock_out_of_range_is_ignored() {
        let mut ids = MessageIds::new(1);
        let before = ids.next(NOW);
        let past = ids.next(0);
        let future = ids.next(u64::MAX);
        let after = ids.next(NOW);
        assert!(before < past && past < future && future < after);
        assert_eq!(unix_ms_of(after), NOW);
    }

    #[test]
    fn ids_grow_over_a_change_of_worker() {
        let mut ids = MessageIds::new(9);
        let last = (0..100).map(|_| ids.next(NOW)).last();
        ids.set_worker(3);
        let next = ids.next(NOW);
        assert_eq!(worker_of(next), 3);
        assert!(Some(next) > last);
    }

    #[test]
    fn a_restart_with_a_clock_behind_goes_on_after_the_last_id() {
        let mut ids = MessageIds::new(9);
        let made: Vec<MessageId> = (0..5000).map(|_| ids.next(NOW)).collect();
        let last = made[4999];
        for worker in [0, 9, 1023] {
            let mut ids = MessageIds::starting_after(worker, last);
            let next = ids.next(NOW - 60_000);
            assert!(next > last);
            assert_eq!(worker_of(next), worker);
        }
        assert!(MessageIds::starting_after(0, -5).next(NOW) > 0);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_worker_number_that_would_overlap_another_is_refused() {
        MessageIds::new(WORKERS_MAX);
    }

    proptest! {
        #[test]
        fn ids_grow_strictly_and_name_their_worker_whatever_the_clock_does(
            worker in 0..WORKERS_MAX,
            times in prop::collection::vec((NOW - 100..NOW + 100, 1usize..3000), 1..20),
        ) {
            let mut ids = MessageIds::new(worker);
            let mut last = 0;
            for (unix_ms, count) in times {
                for _ in 0..count {
                    let id = ids.next(unix_ms);
                    prop_assert!(id > last);
                    prop_assert_eq!(worker_of(id), worker);
                    prop_assert!(unix_ms_of(id) >= unix_ms);
                    last = id;
                }
            }
        }
    }
}
