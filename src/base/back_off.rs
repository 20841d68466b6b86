//! How long to wait before something that failed is tried again: longer each time, and never quite
//! as long as anybody else.
//!
//! Pure: the random sequence is given. Invariant: a wait is between half of what is due and all of
//! it, and what is due doubles up to the longest.

use super::random::Random;

/// Waits between attempts to reach a server, a registry or a bus: whatever was restarted is used
/// again within about a second.
const FIRST_CONNECT_MS: u64 = 50;
const LONGEST_CONNECT_MS: u64 = 1000;

/// See the module's description.
#[derive(Clone, Debug)]
pub struct BackOff {
    first_ms: u64,
    longest_ms: u64,
    next_ms: u64,
    random: Random,
}

impl BackOff {
    /// Waits of about `first_ms`, doubling up to `longest_ms`.
    pub fn new(first_ms: u64, longest_ms: u64, random: Random) -> Self {
        assert!(first_ms <= longest_ms, "the first wait is the shortest");
        Self {
            first_ms,
            longest_ms,
            next_ms: first_ms,
            random,
        }
    }

    /// The waits of whoever tries for ever to reach something outside of this process.
    pub fn connecting(random: Random) -> Self {
        Self::new(FIRST_CONNECT_MS, LONGEST_CONNECT_MS, random)
    }

    /// The next wait.
    pub fn next_ms(&mut self) -> u64 {
        let full = self.next_ms;
        self.next_ms = full.saturating_mul(2).min(self.longest_ms);
        let wait = full / 2 + self.random.below(full / 2 + 1);
        assert!(wait >= full / 2 && wait <= full, "{wait} of {full} ms");
        wait
    }

    /// Whether nothing has failed since the last success.
    pub fn is_reset(&self) -> bool {
        self.next_ms == self.first_ms
    }

    /// It worked: the next wait is a short one again.
    pub fn reset(&mut self) {
        self.next_ms = self.first_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_again() {
        let mut back_off = BackOff::new(50, 1000, Random::seeded(7));
        assert!(back_off.is_reset());
        let waits: Vec<u64> = (0..7).map(|_| back_off.next_ms()).collect();
        for (wait, full) in waits.iter().zip([50, 100, 200, 400, 800, 1000, 1000]) {
            assert!((full / 2..=full).contains(wait), "{waits:?}");
        }
        assert!(!back_off.is_reset());
        back_off.reset();
        assert!(back_off.is_reset() && (25..=50).contains(&back_off.next_ms()));
    }

    #[test]
    fn who_fails_at_the_same_moment_does_not_come_back_at_the_same_moment() {
        let waits = |seed| {
            let mut back_off = BackOff::new(1000, 1000, Random::seeded(seed));
            std::array::from_fn::<u64, 4, _>(|_| back_off.next_ms())
        };
        assert_ne!(waits(1), waits(2));
    }
}
