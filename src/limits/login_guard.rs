//! A growing delay for those who fail to log in, by client network and by user name.
//!
//! Owns two bounded tables of failures, and the counts of attempts under way. Never sees a
//! password, and keeps user names only as keyed hashes. The caller asks [`LoginGuard::begin`]
//! before it spends anything on an attempt, and reports with [`LoginGuard::end`] how it ended.
//!
//! # The rule
//! A record counts failures; one is forgotten for every `delay_max_ms` that passes. Up to
//! `attempts` failures are free, each further one closes the door for `delay_ms`, twice that, and
//! so on up to `delay_max_ms`. So whoever keeps failing gets, in the long run, one attempt per
//! `delay_max_ms` and network, and whoever stops is forgotten in bounded time.
//!
//! # Attempts under way
//! They are no failures: sixty people behind one address may log in at the same moment. But were
//! they not counted at all, all guesses sent at the same moment would find the door open. So no
//! more are under way at one time than may fail before the door closes; whoever comes then stands
//! [`Held::Behind`] them, and goes in as soon as one of them turns out to be good. One that ends by
//! a fault of the backend, and so tells nothing about the password, never happened.
//!
//! # Networks
//! A login that succeeds does not clear the network's record: else an attacker with an account of
//! his own would log in between two guesses at somebody else's and never wait.
//!
//! # User names
//! Anybody can fail in somebody else's name, so this side must slow down guessing from many
//! networks without shutting the owner out. Two things see to it:
//! - its delay stops growing at [`USER_DELAY_MAX_MS`], whatever `delay_max_ms` is;
//! - a network from which this user logged in before is not held up by it, only by its own record.
//!   Nobody but the owner of the password can make a network known. Which ones are known is asked
//!   of the User Service ([`Held::ByName`] says that it matters, [`LoginGuard::begin_as_known`]
//!   that it is so); where that does not remember them, this table does.
//!
//! # Exempt addresses
//! Behind an address that is exempt, such as a proxy's, is anybody: it has no record of its own and
//! is nobody's known network. Names are counted there as everywhere, or whoever comes by the proxy
//! could guess without end.
//!
//! # Bounds
//! Each table holds `capacity` records; the networks known for users share a third one. A new
//! record in a full table takes the place of the one that would be forgotten first, that is the
//! mildest and, among equals, the oldest. To flush out a name that has failed *n* times, an
//! attacker has to fail more than *n* times in each of `capacity` other names, from networks that
//! the first table slows down meanwhile, and each of those failures costs a full password check.
//! What is under way is bounded by the number of connections, each of which has one command at a
//! time.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
};

use super::{
    ClientNetwork,
    tables::{BoundedTable, UnderWay},
};

/// The longest delay because of failures in a user's name, in milliseconds.
const USER_DELAY_MAX_MS: u64 = 30_000;

/// Why an attempt may not begin now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// For so many milliseconds (at least 1) none may be made.
    For(u64),
    /// The same because of failures in this user's name alone: it does not hold for a network from
    /// which the user logged in before.
    ByName(u64),
    /// As many are under way as may fail: one that ends well makes room.
    Behind,
}

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
            hasher: RandomState::new(),
            latest_ms: 0,
        }
    }

    /// Begins an attempt, or says why not. Each attempt begun must be ended once. `ip` is `None`
    /// for an exempt address.
    pub fn begin(&mut self, ip: Option<IpAddr>, user: &str, now_ms: u64) -> Result<(), Held> {
        self.check(ip, user, now_ms)?;
        self.enter(ip, user);
        Ok(())
    }

    /// The same from a network of which somebody else knows, or finds out before the password is
    /// looked at, that the user logged in from there: failures in the user's name do not count.
    pub fn begin_as_known(&mut self, ip: IpAddr, user: &str, now_ms: u64) -> Result<(), Held> {
        let now_ms = self.advance(now_ms);
        match self.networks.door(&ClientNetwork::of(ip), now_ms) {
            Door::Open => {}
            Door::Crowded => return Err(Held::Behind),
            Door::Closed(wait_ms) => return Err(Held::For(wait_ms)),
        }
        self.enter(Some(ip), user);
        Ok(())
    }

    fn enter(&mut self, ip: Option<IpAddr>, user: &str) {
        if let Some(ip) = ip {
            self.networks.under_way.enter(ClientNetwork::of(ip));
        }
        self.users.under_way.enter(self.hasher.hash_one(user));
    }

    /// Ends an attempt that was let in.
    pub fn end(&mut self, ip: Option<IpAddr>, user: &str, outcome: LoginOutcome, now_ms: u64) {
        if let Some(address) = ip {
            self.networks.under_way.leave(&ClientNetwork::of(address));
        }
        self.users.under_way.leave(&self.hasher.hash_one(user));
        match outcome {
            LoginOutcome::Failed => self.failed(ip, user, now_ms),
            LoginOutcome::Succeeded => self.succeeded(ip, user, now_ms),
            LoginOutcome::Faulted => {}
        }
    }

    fn check(&mut self, ip: Option<IpAddr>, user: &str, now_ms: u64) -> Result<(), Held> {
        let now_ms = self.advance(now_ms);
        let network = ip.map(ClientNetwork::of);
        let is_known = network
            .is_some_and(|network| self.known.contains(&self.hasher.hash_one((network, user))));
        let of_network = network.map_or(Door::Open, |network| self.networks.door(&network, now_ms));
        let of_name = if is_known {
            Door::Open
        } else {
            self.users.door(&self.hasher.hash_one(user), now_ms)
        };
        match (of_network, of_name) {
            (Door::Closed(one_ms), Door::Closed(other_ms)) => Err(Held::For(one_ms.max(other_ms))),
            (Door::Closed(wait_ms), _) => Err(Held::For(wait_ms)),
            (_, Door::Closed(wait_ms)) if network.is_none() => Err(Held::For(wait_ms)),
            (_, Door::Closed(wait_ms)) => Err(Held::ByName(wait_ms)),
            (Door::Crowded, _) | (_, Door::Crowded) => Err(Held::Behind),
            (Door::Open, Door::Open) => Ok(()),
        }
    }

    fn failed(&mut self, ip: Option<IpAddr>, user: &str, now_ms: u64) {
        let now_ms = self.advance(now_ms);
        if let Some(ip) = ip {
            self.networks.failed(ClientNetwork::of(ip), now_ms);
        }
        self.users.failed(self.hasher.hash_one(user), now_ms);
    }

    /// The failures in the user's name are forgotten, and the network is known for this user.
    fn succeeded(&mut self, ip: Option<IpAddr>, user: &str, now_ms: u64) {
        let now_ms = self.advance(now_ms);
        self.users.table.remove(&self.hasher.hash_one(user));
        if let Some(network) = ip.map(ClientNetwork::of) {
            let known = self.hasher.hash_one((network, user));
            self.known.put(known, now_ms, ());
        }
    }

    fn advance(&mut self, now_ms: u64) -> u64 {
        self.latest_ms = self.latest_ms.max(now_ms);
        self.latest_ms
    }
}

/// What one of the two tables has to say.
enum Door {
    Open,
    /// As many are under way as may fail.
    Crowded,
    /// For so many milliseconds.
    Closed(u64),
}

/// The failures of one kind of key.
///
/// A record's rank in the table is the moment at which its last failure is forgotten; the number of
/// failures follows from it, since each adds `forget_ms`.
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

    fn door(&mut self, key: &K, now_ms: u64) -> Door {
        self.table.drop_ranked_up_to(now_ms);
        let (forgotten_ms, open_ms) = self.table.get(key).unwrap_or((now_ms, now_ms));
        if open_ms > now_ms {
            return Door::Closed(open_ms - now_ms);
        }
        let under_way = self.under_way.count(key);
        // If they all failed, would the next one find the door closed?
        let failures = self.failures(forgotten_ms, now_ms) + under_way;
        if under_way > 0 && self.delay_after(failures) > 0 {
            Door::Crowded
        } else {
            Door::Open
        }
    }

    /// How many failures count at `now_ms` in a record whose last one is forgotten at
    /// `forgotten_ms`.
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

#[cfg(test)]
mod tests;
