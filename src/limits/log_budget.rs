//! Lines of one kind that others can bring about as often as they like: a flood is told of in part,
//! and what was left out is counted.

use super::{Rate, TokenBucket};

/// See the module's description.
#[derive(Debug)]
pub struct LogBudget {
    rate: Rate,
    bucket: TokenBucket,
    left_out: u64,
}

impl LogBudget {
    /// As many lines as `rate` says.
    pub fn new(rate: Rate) -> Self {
        Self {
            bucket: TokenBucket::full(&rate),
            rate,
            left_out: 0,
        }
    }

    /// Whether a line may be written now: how many were left out before it. `None`: it is left out,
    /// too.
    pub fn take(&mut self, now_ms: u64) -> Option<u64> {
        if self.bucket.try_take(&self.rate, now_ms).is_err() {
            self.left_out += 1;
            return None;
        }
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_of_in_part_and_what_was_left_out_is_counted() {
        let rate = Rate {
            per_second: 5,
            burst: 50,
        };
        let mut budget = LogBudget::new(rate);
        let written = (0..1000).filter(|_| budget.take(0).is_some()).count();
        assert_eq!(written, 50);
        assert_eq!(budget.take(1000), Some(950));
        assert_eq!(budget.take(1000), Some(0));
    }
}
