//! How soon what has failed is tried again, and how often: all policies of the program.
//!
//! Pure. Invariant: waits double from the first up to the longest. Where many may fail at the same
//! moment because of the same outside thing, they are made uneven
//! ([`BackOff`](super::back_off::BackOff)).

use std::time::Duration;

/// How soon something is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    first_ms: u64,
    longest_ms: u64,
}

impl Repeat {
    /// Of whoever tries for ever to reach a server, a registry or a bus: whatever was restarted is
    /// used again within about a second.
    pub(super) const CONNECT: Self = Self::new(50, 1_000);
    /// Of a listener that cannot accept.
    pub(super) const ACCEPT: Self = Self::new(50, 1_000);
    /// Of a call that a core owes to a service: to confirm, to forget a route, to fetch what is
    /// missing. See [`OWED_ATTEMPTS`].
    pub const OWED: Self = Self::new(50, 5_000);
    /// Of calls that logins could not make, for all users of a core together.
    pub const SETTLE: Self = Self::new(100, 2_000);
    /// Of taking a route away by hand; it ends by itself after a while, so it is not worth more
    /// than [`PART_ATTEMPTS`].
    pub const PART: Self = Self::new(100, 1_600);
    /// Of looking whether a reader has room again.
    pub const READER: Self = Self::new(10, 320);
    /// Of looking whether the holder of a claim has gone.
    pub const CLAIM: Self = Self::new(200, 200);
    /// Of trying for nodes that others have.
    pub const NODES: Self = Self::new(2_000, 2_000);

    /// From `first_ms`, doubling up to `longest_ms`.
    pub const fn new(first_ms: u64, longest_ms: u64) -> Self {
        assert!(first_ms <= longest_ms, "the first wait is the shortest");
        Self {
            first_ms,
            longest_ms,
        }
    }

    /// The first wait, and where the longest is no longer, every one.
    pub const fn first(self) -> Duration {
        Duration::from_millis(self.first_ms)
    }

    /// The waits, one after the other.
    pub const fn waits(self) -> Waits {
        Waits {
            policy: self,
            next_ms: self.first_ms,
        }
    }
}

/// How often a call that a core owes to a service is made, where it is given up at all.
pub const OWED_ATTEMPTS: u32 = 8;
/// How often it is tried to take a route away by hand.
pub const PART_ATTEMPTS: u32 = 5;

/// The waits of one who tries again.
#[derive(Clone, Debug)]
pub struct Waits {
    policy: Repeat,
    next_ms: u64,
}

impl Waits {
    /// The next wait.
    pub fn next_ms(&mut self) -> u64 {
        let Repeat {
            first_ms,
            longest_ms,
        } = self.policy;
        let wait_ms = self.next_ms;
        assert!(
            (first_ms..=longest_ms).contains(&wait_ms),
            "{wait_ms} ms of {:?}",
            self.policy
        );
        self.next_ms = wait_ms.saturating_mul(2).min(longest_ms);
        wait_ms
    }

    /// Whether nothing has failed since the last success.
    pub fn is_reset(&self) -> bool {
        self.next_ms == self.policy.first_ms
    }

    /// It worked: the next wait is a short one again.
    pub fn reset(&mut self) {
        self.next_ms = self.policy.first_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_longest_and_start_again() {
        let mut waits = Repeat::new(100, 500).waits();
        assert!(waits.is_reset());
        let lengths: Vec<u64> = (0..5).map(|_| waits.next_ms()).collect();
        assert_eq!(lengths, [100, 200, 400, 500, 500]);
        assert!(!waits.is_reset());
        waits.reset();
        assert_eq!(waits.next_ms(), 100);
    }

    #[test]
    fn one_whose_waits_are_all_alike_stays_at_them() {
        let mut waits = Repeat::CLAIM.waits();
        assert_eq!([waits.next_ms(), waits.next_ms()], [200, 200]);
        assert_eq!(Repeat::CLAIM.first(), Duration::from_millis(200));
    }
}
