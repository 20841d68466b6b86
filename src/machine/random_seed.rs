//! Where draws begin that are no secrets.

use crate::base::random::Random;

/// A sequence that hardly anybody else has; without a random source any will do.
pub fn random() -> Random {
    Random::seeded(getrandom::u64().unwrap_or(0))
}
