//! The retry budget: retries are at most a tenth of the calls, so that they cannot drown servers
//! that are struggling.
//!
//! Pure: counts in tenths, no clock. Invariant: never more than [`Budget::CAPACITY`] retries at
//! once.

/// See the module's description.
#[derive(Debug)]
pub(super) struct Budget {
    tenths: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            tenths: Self::CAPACITY * 10,
        }
    }
}

impl Budget {
    /// Retries that can be saved up: enough for the calls that were out when a server died.
    const CAPACITY: u32 = 1000;

    /// A call was made.
    pub(super) fn earn(&mut self) {
        assert!(
            self.tenths <= Self::CAPACITY * 10,
            "no more is saved than can be"
        );
        self.tenths = (self.tenths + 1).min(Self::CAPACITY * 10);
    }

    /// Takes one retry; `false`: there is none left.
    pub fn spend(&mut self) -> bool {
        match self.tenths.checked_sub(10) {
            Some(rest) => {
                self.tenths = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_up_is_spent_and_then_one_call_in_ten_is_repeated() {
        let mut budget = Budget::default();
        let at_once = (0..10_000).filter(|_| budget.spend()).count();
        assert_eq!(at_once, Budget::CAPACITY as usize);
        let repeated = (0..1000)
            .filter(|_| {
                budget.earn();
                budget.spend()
            })
            .count();
        assert_eq!(repeated, 100);
    }
}
