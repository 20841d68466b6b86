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

/// Where messages have numbers of their own, from 1 up: a user's inbox, or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// The direct messages to a user.
    Direct(UserId),
    /// The messages of a group.
    Group(GroupId),
}

impl Stream {
    /// The stream of a message as it is written on the wire: of group `group_id`, or where that is
    /// 0 of the inbox of `user`.
    pub fn of(user: UserId, group_id: GroupId) -> Self {
        match group_id {
            0 => Self::Direct(user),
            group => Self::Group(group),
        }
    }

    /// The group as it is written on the wire: 0 for an inbox.
    pub fn group_id(self) -> GroupId {
        match self {
            Self::Direct(_) => 0,
            Self::Group(group) => group,
        }
    }
}

/// Names one connection for as long as it lives: a slot of its core's slab and the slot's
/// generation.
///
/// A late reply, timer or close that carries the key of an earlier tenant of the slot finds
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey {
    /// Index into the core's slab.
    pub slot: u32,
    /// Incremented each time the slot is given to a new connection.
    pub generation: u32,
}

/// Where pushes for a user go: one core of one gateway, written `<gateway_id>#<core>`. Cheap to
/// clone: clones share the text.
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

/// Where the snowflakes' time ends, in Unix milliseconds: in September 2084.
pub const ID_TIME_END_UNIX_MS: u64 = SNOWFLAKE_EPOCH_UNIX_MS + (1 << TIME_BITS);

/// How many workers can make ids beside each other; a worker's number is smaller.
pub const WORKERS_MAX: u16 = 1 << WORKER_BITS;
/// From this number on workers are services, which give ids to messages that come without one;
/// cores have smaller numbers.
pub const FIRST_SERVICE_WORKER: u16 = WORKERS_MAX - 64;

/// How many milliseconds' ids of a lease are kept for when it is not extended: some 245 million.
pub const LEASE_ROOM_MS: u64 = 60_000;

/// The ids that are one maker's alone: those of a worker number, made of the times from one moment
/// to another. Who has the number afterwards makes none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdLease {
    /// The worker number.
    pub worker: u16,
    /// The first time, in Unix milliseconds.
    pub from_ms: u64,
    /// The time behind the last one, in Unix milliseconds.
    pub until_ms: u64,
}

impl IdLease {
    /// All ids of `worker`, for ever: nobody else ever has the number.
    pub fn endless(worker: u16) -> Self {
        Self {
            worker,
            from_ms: 0,
            until_ms: u64::MAX,
        }
    }
}

/// Makes the ids of one worker: 41 bits of milliseconds since 2015, 10 bits of worker, 12 bits of
/// sequence.
///
/// Each id is greater than the one before, whatever the clock does: when it steps back, or when a
/// millisecond's 4096 numbers are used up, the generator goes on counting from where it was,
/// borrowing from the milliseconds to come.
///
/// No id lies outside of the lease. Near its end ids follow the clock no longer and are only
/// counted up, so that the last [`LEASE_ROOM_MS`] last for hours, should it not be extended.
#[derive(Clone, Debug)]
pub struct MessageIds {
    worker: u16,
    /// The next id without its worker: milliseconds, then sequence. Counting it up carries from one
    /// into the other.
    next: u64,
    /// The counter behind the last id of the lease.
    end: u64,
    /// Up to which time ids follow the clock, in milliseconds since the snowflakes' beginning.
    follows_until_ms: u64,
    /// The sequence at which a millisecond of the clock begins; not 0 once somebody else was found
    /// to make the same ids.
    first_sequence: u64,
    /// Where the next such sequence comes from.
    random: u64,
}

/// `unix_ms` as snowflakes count; `None`: outside of the 69 years that 41 bits hold.
fn snowflake_ms(unix_ms: u64) -> Option<u64> {
    unix_ms
        .checked_sub(SNOWFLAKE_EPOCH_UNIX_MS)
        .filter(|ms| *ms < 1 << TIME_BITS)
}

/// When `id` was made, in Unix milliseconds, by the clock of whoever made it.
pub fn made_ms(id: MessageId) -> i64 {
    // 41 bits and a date of this century: no overflow.
    SNOWFLAKE_EPOCH_UNIX_MS as i64 + (id >> (WORKER_BITS + SEQUENCE_BITS))
}

impl MessageIds {
    /// The ids of worker number `worker`, for ever.
    ///
    /// # Panics
    /// If `worker` is not less than [`WORKERS_MAX`]: two workers with the same bits would make the
    /// same ids.
    pub fn new(worker: u16) -> Self {
        let mut ids = Self::without_lease();
        ids.lease(&IdLease::endless(worker));
        ids
    }

    /// No ids yet.
    pub fn without_lease() -> Self {
        Self {
            worker: 0,
            next: 0,
            end: 0,
            follows_until_ms: 0,
            first_sequence: 0,
            random: 1,
        }
    }

    /// With a seed that no other maker has, to get out of another one's way with.
    pub fn with_seed(self, seed: u64) -> Self {
        Self {
            random: seed | 1,
            ..self
        }
    }

    /// The ids of worker number `worker` that are greater than `last`, for a start after which the
    /// clock may be behind where it was when `last` was made.
    ///
    /// # Panics
    /// As [`MessageIds::new`].
    pub fn starting_after(worker: u16, last: MessageId) -> Self {
        let last_ms = u64::try_from(last).map_or(0, |bits| bits >> (WORKER_BITS + SEQUENCE_BITS));
        // Whoever stored the very last id there is did not make it by the clock.
        let start_ms = Some(last_ms + 1).filter(|ms| *ms < 1 << TIME_BITS);
        Self {
            next: start_ms.unwrap_or(0) << SEQUENCE_BITS,
            ..Self::new(worker)
        }
    }

    /// Ids are those of `lease` from now on, and still grow.
    ///
    /// # Panics
    /// As [`MessageIds::new`].
    pub fn lease(&mut self, lease: &IdLease) {
        assert!(
            lease.worker < WORKERS_MAX,
            "worker number {} does not fit in {WORKER_BITS} bits",
            lease.worker
        );
        if lease.worker != self.worker && self.next > 0 {
            // Its next millisecond: within one, a smaller worker number would make smaller ids.
            self.next = ((self.next >> SEQUENCE_BITS) + 1) << SEQUENCE_BITS;
        }
        self.worker = lease.worker;
        let from_ms = lease.from_ms.saturating_sub(SNOWFLAKE_EPOCH_UNIX_MS);
        self.next = self.next.max(from_ms.min(1 << TIME_BITS) << SEQUENCE_BITS);
        let until_ms = lease.until_ms.saturating_sub(SNOWFLAKE_EPOCH_UNIX_MS);
        self.end = until_ms.min(1 << TIME_BITS) << SEQUENCE_BITS;
        self.follows_until_ms = until_ms.saturating_sub(LEASE_ROOM_MS);
    }

    /// The same ids without an end, for what need not be told from the ids of whoever has the
    /// number next.
    pub fn endless(&self) -> Self {
        Self {
            end: 1 << (TIME_BITS + SEQUENCE_BITS),
            follows_until_ms: 1 << TIME_BITS,
            ..self.clone()
        }
    }

    /// Somebody else makes the same ids: from now on each millisecond begins at another sequence,
    /// taken at random. Counting on would not do, as the clock overtakes it, and the other one,
    /// which is told at the same moment, does the same.
    pub fn avoid_others(&mut self) {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.first_sequence = self.random >> (u64::BITS - SEQUENCE_BITS);
        self.next = (((self.next >> SEQUENCE_BITS) + 1) << SEQUENCE_BITS) + self.first_sequence;
    }

    /// The next id; `None`: the lease is used up. A clock that shows a time outside of the 69 years
    /// that 41 bits hold is ignored.
    pub fn next(&mut self, unix_ms: u64) -> Option<MessageId> {
        let clock_ms = snowflake_ms(unix_ms).unwrap_or(0);
        let clock_ms = clock_ms.min(self.follows_until_ms);
        let counter = (self.next).max((clock_ms << SEQUENCE_BITS) + self.first_sequence);
        if counter >= self.end {
            return None;
        }
        self.next = counter + 1;

        let sequence_mask = (1 << SEQUENCE_BITS) - 1;
        let time_ms = counter >> SEQUENCE_BITS;
        let id = (time_ms << (WORKER_BITS + SEQUENCE_BITS))
            | (u64::from(self.worker) << SEQUENCE_BITS)
            | (counter & sequence_mask);
        // 63 bits, as the end of a lease fits in 41: never negative.
        Some(id as MessageId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_760_000_000_000;

    /// The next id of a generator that has one.
    fn next(ids: &mut MessageIds, unix_ms: u64) -> MessageId {
        ids.next(unix_ms).expect("an id is left")
    }

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
        let id = next(&mut ids, NOW);
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
        let first = next(&mut ids, NOW);
        let further: Vec<MessageId> = (0..4096).map(|_| next(&mut ids, NOW)).collect();
        let last = further[4095];
        assert_eq!(unix_ms_of(first), NOW);
        assert_eq!(unix_ms_of(last), NOW + 1);
        assert_eq!(worker_of(last), 1023);
    }

    #[test]
    fn a_clock_out_of_range_is_ignored() {
        let mut ids = MessageIds::new(1);
        let before = next(&mut ids, NOW);
        let past = next(&mut ids, 0);
        let future = next(&mut ids, u64::MAX);
        let after = next(&mut ids, NOW);
        assert!(before < past && past < future && future < after);
        assert_eq!(unix_ms_of(after), NOW);
    }

    #[test]
    fn ids_grow_over_a_change_of_worker() {
        let mut ids = MessageIds::new(9);
        let last = (0..100).map(|_| next(&mut ids, NOW)).last();
        ids.lease(&IdLease::endless(3));
        let next = next(&mut ids, NOW);
        assert_eq!(worker_of(next), 3);
        assert!(Some(next) > last);
    }

    #[test]
    fn a_restart_with_a_clock_behind_goes_on_after_the_last_id() {
        let mut ids = MessageIds::new(9);
        let made: Vec<MessageId> = (0..5000).map(|_| next(&mut ids, NOW)).collect();
        let last = made[4999];
        for worker in [0, 9, 1023] {
            let mut ids = MessageIds::starting_after(worker, last);
            let next = next(&mut ids, NOW - 60_000);
            assert!(next > last);
            assert_eq!(worker_of(next), worker);
        }
        assert!(MessageIds::starting_after(0, MessageId::MAX).next(NOW) > Some(0));
        assert!(MessageIds::starting_after(0, -5).next(NOW) > Some(0));
    }

    fn lease(worker: u16, from_ms: u64, until_ms: u64) -> IdLease {
        IdLease {
            worker,
            from_ms,
            until_ms,
        }
    }

    #[test]
    fn without_a_lease_there_are_no_ids() {
        let mut ids = MessageIds::without_lease();
        assert_eq!(ids.next(NOW), None);
        ids.lease(&lease(5, 0, NOW + 120_000));
        assert_eq!(unix_ms_of(next(&mut ids, NOW)), NOW);
    }

    #[test]
    fn ids_begin_where_those_of_the_predecessor_end_though_the_clock_is_behind() {
        let mut ids = MessageIds::without_lease();
        ids.lease(&lease(5, NOW + 20_000, NOW + 150_000));
        assert_eq!(unix_ms_of(next(&mut ids, NOW)), NOW + 20_000);
        assert_eq!(unix_ms_of(next(&mut ids, NOW + 1000)), NOW + 20_000);
        assert_eq!(unix_ms_of(next(&mut ids, NOW + 30_000)), NOW + 30_000);
    }

    #[test]
    fn near_the_end_of_a_lease_ids_are_counted_and_past_it_there_are_none() {
        let mut ids = MessageIds::without_lease();
        let until = NOW + LEASE_ROOM_MS;
        ids.lease(&lease(5, 0, until));
        // The clock goes far past the end, and the ids do not follow.
        for step in 0..10_000 {
            let id = next(&mut ids, NOW + step * 1000);
            assert!(unix_ms_of(id) <= NOW + 3, "{step}");
        }
        ids.next += (LEASE_ROOM_MS << SEQUENCE_BITS) - 10_001;
        let last = next(&mut ids, NOW);
        assert_eq!(unix_ms_of(last), until - 1);
        assert_eq!(ids.next(NOW), None);
        assert_eq!(ids.next(until + 1), None);
        assert!(ids.endless().next(NOW).is_some());
        // Extended, they follow the clock again.
        ids.lease(&lease(5, 0, NOW + 10_000_000));
        assert_eq!(unix_ms_of(next(&mut ids, NOW + 9_000_000)), NOW + 9_000_000);
    }

    #[test]
    fn two_that_make_the_same_ids_soon_make_others() {
        let mut makers = [1_u64, 2].map(|seed| MessageIds::new(5).with_seed(seed << 40));
        let mut taken = std::collections::BTreeSet::new();
        let mut conflicts = 0;
        for step in 0..10_000 {
            for ids in &mut makers {
                while !taken.insert(next(ids, NOW + step)) {
                    conflicts += 1;
                    ids.avoid_others();
                }
            }
        }
        assert!((1..10).contains(&conflicts), "{conflicts}");
    }

    #[test]
    fn a_clock_set_far_ahead_stays_within_the_lease_and_harms_nobody_when_it_is_set_back() {
        let mut ids = MessageIds::without_lease();
        ids.lease(&lease(5, 0, NOW + 120_000));
        let ahead = next(&mut ids, NOW + 3_600_000);
        assert!(unix_ms_of(ahead) <= NOW + 120_000 - LEASE_ROOM_MS);
        let after = next(&mut ids, NOW);
        assert!(after > ahead);
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
                    let id = next(&mut ids, unix_ms);
                    prop_assert!(id > last);
                    prop_assert_eq!(worker_of(id), worker);
                    prop_assert!(unix_ms_of(id) >= unix_ms);
                    last = id;
                }
            }
        }
    }
}
