//! How long to wait before something that failed is tried again, and others try at the same moment:
//! never quite as long as anybody else.
//!
//! Pure: the random sequence is given. Invariant: a wait is between half of what is due and all of
//! it.

use super::{
    random::Random,
    repeat::{Repeat, Waits},
};

/// See the module's description.
#[derive(Clone, Debug)]
pub struct BackOff {
    waits: Waits,
    random: Random,
}

impl BackOff {
    /// Waits of about those of `policy`.
    pub fn new(policy: Repeat, random: Random) -> Self {
        Self {
            waits: policy.waits(),
            random,
        }
    }

    /// The waits of whoever tries for ever to reach something outside of this process.
    pub fn connecting(random: Random) -> Self {
        Self::new(Repeat::CONNECT, random)
    }

    /// The next wait.
    pub fn next_ms(&mut self) -> u64 {
        let full = self.waits.next_ms();
        let wait = full / 2 + self.random.below(full / 2 + 1);
        assert!(wait >= full / 2 && wait <= full, "{wait} of {full} ms");
        wait
    }

    /// Whether nothing has failed since the last success.
    pub fn is_reset(&self) -> bool {
        self.waits.is_reset()
    }

    /// It worked: the next wait is a short one again.
    pub fn reset(&mut self) {
        self.waits.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_again() {
        let mut back_off = BackOff::new(Repeat::new(50, 1000), Random::seeded(7));
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
            let mut back_off = BackOff::new(Repeat::new(1000, 1000), Random::seeded(seed));
            std::array::from_fn::<u64, 4, _>(|_| back_off.next_ms())
        };
        assert_ne!(waits(1), waits(2));
    }
}
