//! Random draws of modules that know no random source: they are given a seed.

/// A sequence of numbers, xorshift64. Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence that begins with `seed`.
    pub fn seeded(seed: u64) -> Self {
        // Odd, so never 0, which would stay 0.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number; never 0.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        assert!(self.0 != 0, "a sequence that reached 0 would stay there");
        self.0
    }

    /// A number below `limit`, which is above 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0, "nothing is below 0");
        self.draw() % limit
    }

    /// Another sequence.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self::seeded(self.draw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_seed_has_its_own_sequence_and_so_has_each_part_of_one() {
        let draws =
            |mut random: Random| -> Vec<u64> { (0..8).map(|_| random.below(1000)).collect() };
        assert_eq!(draws(Random::seeded(7)), draws(Random::seeded(7)));
        assert_ne!(draws(Random::seeded(7)), draws(Random::seeded(8)));
        let mut whole = Random::seeded(0);
        assert_ne!(draws(whole.split()), draws(whole.split()));
    }
}
