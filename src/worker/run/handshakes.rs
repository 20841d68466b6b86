//! How many TLS handshakes a core has under way, and begins: each costs it far more than a command.
//!
//! Owns the counts and who waits. Pure: the time comes in. Bounded by the connections there may be;
//! whoever waits does not lose its place, but its time runs.

use std::collections::VecDeque;

use crate::{
    base::id::ConnectionKey,
    limits::{Rate, TokenBucket},
};

/// What a core may have.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeLimits {
    /// Under way at one time.
    pub at_once: usize,
    /// Begun in a second.
    pub per_second: u32,
    /// How long one may take, the wait for it included.
    pub timeout_ms: u64,
}

/// The handshakes of a core.
pub(super) struct Handshakes {
    limits: HandshakeLimits,
    rate: Rate,
    bucket: TokenBucket,
    under_way: usize,
    waiting: VecDeque<ConnectionKey>,
}

impl Handshakes {
    /// None under way.
    pub(super) fn new(limits: HandshakeLimits) -> Self {
        let rate = Rate {
            per_second: limits.per_second,
            // What comes between two ticks comes at once.
            burst: limits.per_second.div_ceil(10),
        };
        Self {
            limits,
            bucket: TokenBucket::full(&rate),
            rate,
            under_way: 0,
            waiting: VecDeque::new(),
        }
    }

    /// How long one may take.
    pub(super) fn timeout_ms(&self) -> u64 {
        self.limits.timeout_ms
    }

    /// A connection has to wait for its turn.
    pub(super) fn wait(&mut self, key: ConnectionKey) {
        self.waiting.push_back(key);
    }

    /// Whose turn it is; it may have gone, and then has had no handshake.
    pub(super) fn next(&mut self, now_ms: u64) -> Option<ConnectionKey> {
        if self.under_way >= self.limits.at_once || self.waiting.is_empty() {
            return None;
        }
        self.bucket.try_take(&self.rate, now_ms).ok()?;
        self.waiting.pop_front()
    }

    /// One is under way.
    pub(super) fn begun(&mut self) {
        self.under_way += 1;
    }

    /// One that was under way is over, well or not.
    pub(super) fn ended(&mut self) {
        assert!(self.under_way > 0, "who ends was begun");
        self.under_way -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u32) -> impl Iterator<Item = ConnectionKey> {
        (0..count).map(|slot| ConnectionKey {
            slot,
            generation: 1,
        })
    }

    fn handshakes(at_once: usize, per_second: u32) -> Handshakes {
        Handshakes::new(HandshakeLimits {
            at_once,
            per_second,
            timeout_ms: 1000,
        })
    }

    fn begin(handshakes: &mut Handshakes, now_ms: u64) -> usize {
        std::iter::from_fn(|| handshakes.next(now_ms).map(|_| handshakes.begun())).count()
    }

    #[test]
    fn no_more_are_under_way_than_may_be_and_others_come_in_turn() {
        let mut handshakes = handshakes(3, 1000);
        keys(5).for_each(|key| handshakes.wait(key));
        assert_eq!(begin(&mut handshakes, 0), 3);
        handshakes.ended();
        assert_eq!(handshakes.next(0).map(|key| key.slot), Some(3));
    }

    #[test]
    fn no_more_begin_in_a_second_than_may() {
        let mut handshakes = handshakes(1000, 50);
        keys(500).for_each(|key| handshakes.wait(key));
        let begun: usize = (0..=10)
            .map(|tick| begin(&mut handshakes, tick * 100))
            .sum();
        assert_eq!(begun, 55, "those that come at once, and a second's");
    }
}
