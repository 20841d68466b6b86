//! A growing delay for those who fail to log in, by client network and by user name.
//!
//! Owns two bounded tables of failures, and the counts of attempts under way. Never sees a password, and keeps user names
//! only as keyed hashes. The caller asks [`LoginGuard::begin`] before it spends anything on an attempt, and reports with
//! [`LoginGuard::end`] how it ended.
//!
//! # The rule
//! A record counts failures; one is forgotten for every `delay_max_ms` that passes. Up to `attempts` failures are free,
//! each further one closes the door for `delay_ms`, twice that, and so on up to `delay_max_ms`. So whoever keeps failing
//! gets, in the long run, one attempt per `delay_max_ms` and network, and whoever stops is forgotten in bounded time.
//!
//! An attempt under way counts as a failure until it is known to be none: else all attempts sent at the same moment would
//! find the door open. One that ends by a fault of the backend, and so tells nothing about the password, never happened.
//!
//! # Networks
//! A log-in that succeeds does not clear the network's record: else an attacker with an account of his own would log
//! in between two guesses at somebody else's and never wait.
//!
//! # User names
//! Anybody can fail in somebody else's name, so this side must slow down guessing from many networks without shutting the
//! owner out. Two things see to it:
//! - its delay stops growing at [`USER_DELAY_MAX_MS`], whatever `delay_max_ms` is;
//! - a network from which this user logged in before is not held up by it, only by its own record. Nobody but the
//!   owner of the password can make a network known.
//!
//! # Registrations
//! A registration guesses at nothing and is no attempt, but it costs as much as one. So a network may have
//! [`REGISTRATIONS_UNDER_WAY`] of them under way, and no single client takes every place in the queue for passwords.
//!
//! # Bounds
//! Each table holds `capacity` records; the networks known for users share a third one. A new record in a full table takes
//! the place of the one that would be forgotten first, that is the mildest and, among equals, the oldest. To flush out
//! a name that has failed *n* times, an attacker has to fail more than *n* times in each of `capacity` other names, from
//! networks that the first table slows down meanwhile, and each of those failures costs a full password check. What is
//! under way is bounded by the number of connections, each of which has one command at a time.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
};

use super::ClientNetwork;

/// The longest delay because of failures in a user's name, in milliseconds.
const USER_DELAY_MAX_MS: u64 = 30_000;

/// Registrations of one network that may be under way at one time.
pub const REGISTRATIONS_UNDER_WAY: u32 = 16;

/// In how many milliseconds a registration past those may be tried again.
const REGISTRATION_RETRY_MS: u64 = 1_000;

/// How an attempt to log in ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    /// It was refused for its credentials.
    Failed,
    /// Its credentials were good.
    Succeeded,
    /// It came to no verdict.
    Faulted,
}

/// The rule's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginGuardOptions {
    /// Failures without a delay.
    pub attempts: u32,
    /// The delay after the first failure past those, in milliseconds.
    pub delay_ms: u64,
    /// The longest delay, and the time in which one failure is forgotten, in milliseconds.
    pub delay_max_ms: u64,
    /// Records in each table.
    pub capacity: usize,
}

/// Who failed to log in lately, and how long they have to wait.
#[derive(Debug)]
pub struct LoginGuard {
    networks: FailureTable<ClientNetwork>,
    users: FailureTable<u64>,
    known: BoundedTable<u64, ()>,
    registrations: UnderWay<ClientNetwork>,
    hasher: RandomState,
    latest_ms: u64,
}

impl LoginGuard {
    /// A guard that has seen nobody fail.
    pub fn new(options: LoginGuardOptions) -> Self {
        let user_options = LoginGuardOptions {
            delay_ms: options.delay_ms.min(USER_DELAY_MAX_MS),
            ..options
        };
        Self {
            networks: FailureTable::new(options, options.delay_max_ms),
            users: FailureTable::new(user_options, options.delay_max_ms.min(USER_DELAY_MAX_MS)),
            known: BoundedTable::new(options.capacity),
            registrations: UnderWay::default(),
            hasher: RandomState::new(),
            latest_ms: 0,
        }
    }

    /// Begins an attempt, or says in how many milliseconds (at least 1) one may be made. Each attempt begun must be ended
    /// once. `None` is an exempt address: it may always, and nothing it does is counted.
    pub fn begin(&mut self, ip: Option<IpAddr>, user: &str, now_ms: u64) -> Result<(), u64> {
        self.check(ip, user, now_ms)?;
        if let Some(ip) = ip {
            self.networks.under_way.enter(ClientNetwork::of(ip));
            self.users.under_way.enter(self.hasher.hash_one(user));
        }
        Ok(())
    }

    /// Ends an attempt that [`LoginGuard::begin`] let in.
    pub fn end(&mut self, ip: Option<IpAddr>, user: &str, outcome: LoginOutcome, now_ms: u64) {
        let Some(address) = ip else { return };
        self.networks.under_way.leave(&ClientNetwork::of(address));
        self.users.under_way.leave(&self.hasher.hash_one(user));
        match outcome {
            LoginOutcome::Failed => self.failed(ip, user, now_ms),
            LoginOutcome::Succeeded => self.succeeded(ip, user, now_ms),
            LoginOutcome::Faulted => {}
        }
    }

    /// Begins a registration, or says in how many milliseconds one may be made. Each one begun must be ended once.
    pub fn begin_registration(&mut self, ip: Option<IpAddr>) -> Result<(), u64> {
        let Some(network) = ip.map(ClientNetwork::of) else {
            return Ok(());
        };
        if self.registrations.count(&network) >= u64::from(REGISTRATIONS_UNDER_WAY) {
            return Err(REGISTRATION_RETRY_MS);
        }
        self.registrations.enter(network);
        Ok(())
    }

    /// Ends a registration that [`LoginGuard::begin_registration`] let in.
    pub fn end_registration(&mut self, ip: Option<IpAddr>) {
        if let Some(ip) = ip {
            self.registrations.leave(&ClientNetwork::of(ip));
        }
    }

    fn check(&mut self, ip: Option<IpAddr>, user: &str, now_ms: u64) -> Result<(), u64> {
        let Some(ip) = ip else { return Ok(()) };
        let now_ms = self.advance(now_ms);
        let network = ClientNetwork::of(ip);
        let mut wait_ms = self.networks.wait_ms(&network, now_ms);
        if !self.known.contains(&self.hasher.hash_one((network, user))) {
            wait_ms = wait_ms.max(self.users.wait_ms(&self.hasher.hash_one(user), now_ms));
        }
        if wait_ms == 0 { Ok(()) } else { Err(wait_ms) }
    }

    fn failed(&mut self, ip: Option<IpAddr>, user: &str, now_ms: u64) {
        let Some(ip) = ip else { return };
        let now_ms = self.advance(now_ms);
        self.networks.failed(ClientNetwork::of(ip), now_ms);
        self.users.failed(self.hasher.hash_one(user), now_ms);
    }

    /// The failures in the user's name are forgotten, and the network is known for this user.
    fn succeeded(&mut self, ip: Option<IpAddr>, user: &str, now_ms: u64) {
        let Some(ip) = ip else { return };
        let now_ms = self.advance(now_ms);
        let network = ClientNetwork::of(ip);
        self.users.table.remove(&self.hasher.hash_one(user));
        self.known
            .put(self.hasher.hash_one((network, user)), now_ms, ());
    }

    fn advance(&mut self, now_ms: u64) -> u64 {
        self.latest_ms = self.latest_ms.max(now_ms);
        self.latest_ms
    }
}

/// The failures of one kind of key.
///
/// A record's rank in the table is the moment at which its last failure is forgotten; the number of failures follows from
/// it, since each adds `forget_ms`.
#[derive(Debug)]
struct FailureTable<K> {
    attempts: u32,
    delay_ms: u64,
    delay_max_ms: u64,
    forget_ms: u64,
    failures_max: u64,
    table: BoundedTable<K, u64>,
    under_way: UnderWay<K>,
}

impl<K: Copy + Eq + Hash + Ord> FailureTable<K> {
    fn new(options: LoginGuardOptions, delay_max_ms: u64) -> Self {
        let mut table = Self {
            attempts: options.attempts,
            delay_ms: options.delay_ms,
            delay_max_ms,
            forget_ms: options.delay_max_ms.max(1),
            failures_max: 0,
            table: BoundedTable::new(options.capacity),
            under_way: UnderWay::default(),
        };
        // More failures than the longest delay takes would only make the record last longer.
        let growing = (1..=u64::from(u64::BITS))
            .find(|n| table.delay_after(u64::from(options.attempts) + n) >= delay_max_ms);
        table.failures_max = u64::from(options.attempts) + growing.unwrap_or(1);
        table
    }

    /// The delay that the `failures`th failure brings.
    fn delay_after(&self, failures: u64) -> u64 {
        let Some(doublings) = failures.checked_sub(u64::from(self.attempts) + 1) else {
            return 0;
        };
        let factor = 1u64
            .checked_shl(u32::try_from(doublings).unwrap_or(u32::MAX))
            .unwrap_or(u64::MAX);
        self.delay_ms.saturating_mul(factor).min(self.delay_max_ms)
    }

    fn wait_ms(&mut self, key: &K, now_ms: u64) -> u64 {
        self.table.drop_ranked_up_to(now_ms);
        let (forgotten_ms, open_ms) = self.table.get(key).unwrap_or((now_ms, now_ms));
        let wait_ms = open_ms.saturating_sub(now_ms);
        match self.under_way.count(key) {
            0 => wait_ms,
            // As if they had all failed just now.
            count => wait_ms.max(self.delay_after(self.failures(forgotten_ms, now_ms) + count)),
        }
    }

    /// How many failures count at `now_ms` in a record whose last one is forgotten at `forgotten_ms`.
    fn failures(&self, forgotten_ms: u64, now_ms: u64) -> u64 {
        forgotten_ms.saturating_sub(now_ms).div_ceil(self.forget_ms)
    }

    fn failed(&mut self, key: K, now_ms: u64) {
        self.table.drop_ranked_up_to(now_ms);
        let (forgotten_ms, open_ms) = self.table.get(&key).unwrap_or((now_ms, now_ms));
        let longest_ms = self.forget_ms.saturating_mul(self.failures_max);
        let forgotten_ms = forgotten_ms
            .saturating_add(self.forget_ms)
            .min(now_ms.saturating_add(longest_ms));
        let failures = self.failures(forgotten_ms, now_ms);
        let open_ms = open_ms.max(now_ms.saturating_add(self.delay_after(failures)));
        self.table.put(key, forgotten_ms, open_ms);
    }
}

/// How many of each key are under way; a key without any has no entry.
#[derive(Debug)]
struct UnderWay<K> {
    counts: HashMap<K, u32>,
}

impl<K> Default for UnderWay<K> {
    fn default() -> Self {
        Self {
            counts: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash> UnderWay<K> {
    fn count(&self, key: &K) -> u64 {
        self.counts.get(key).copied().map_or(0, u64::from)
    }

    fn enter(&mut self, key: K) {
        *self.counts.entry(key).or_insert(0) += 1;
    }

    fn leave(&mut self, key: &K) {
        match self.counts.get_mut(key) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => {
                self.counts.remove(key);
            }
            None => debug_assert!(false, "ended more than was begun"),
        }
    }
}

/// A map of at most `capacity` entries, each with a rank; a new one takes the place of the lowest in rank.
#[derive(Debug)]
struct BoundedTable<K, V> {
    capacity: usize,
    entries: HashMap<K, (u64, V)>,
    by_rank: BTreeSet<(u64, K)>,
}

impl<K: Copy + Eq + Hash + Ord, V: Copy> BoundedTable<K, V> {
    fn new(capacity: usize) -> Self {
        Self {
            capacity,
            entries: HashMap::new(),
            by_rank: BTreeSet::new(),
        }
    }

    fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    fn get(&self, key: &K) -> Option<(u64, V)> {
        self.entries.get(key).copied()
    }

    fn put(&mut self, key: K, rank: u64, value: V) {
        self.remove(&key);
        if self.capacity == 0 {
            return;
        }
        if self.entries.len() >= self.capacity
            && let Some((_, lowest)) = self.by_rank.pop_first()
        {
            self.entries.remove(&lowest);
        }
        self.entries.insert(key, (rank, value));
        self.by_rank.insert((rank, key));
        self.check_invariants();
    }

    fn remove(&mut self, key: &K) {
        if let Some((rank, _)) = self.entries.remove(key) {
            self.by_rank.remove(&(rank, *key));
        }
    }

    fn drop_ranked_up_to(&mut self, rank: u64) {
        while let Some((lowest, key)) = self.by_rank.first().copied()
            && lowest <= rank
        {
            self.by_rank.pop_first();
            self.entries.remove(&key);
        }
    }

    fn check_invariants(&self) {
        debug_assert_eq!(self.entries.len(), self.by_rank.len());
        debug_assert!(self.entries.len() <= self.capacity);
    }
}

#[cfg(test)]
mod tests;
