//! A token bucket of 16 bytes: a steady rate with room for a burst, and for debts of what turned
//! out dear.
//!
//! Owns the arithmetic of one bucket; the [`Rate`] is the same for many buckets, so it is handed in
//! with each call. Never rounds: the level is kept in thousandths of a token, and a millisecond
//! adds exactly `per_second` of them.
//!
//! Invariants: in any stretch of `w` milliseconds at most `burst + per_second × w / 1000` tokens
//! are granted, and as many fewer as were charged; a debt is at most a burst.

/// What one token costs, so that a millisecond's share of a token is a whole number.
const TOKEN_UNITS: i64 = 1000;

/// How many tokens a bucket holds and how fast they come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come back each second. With 0 none ever does.
    pub per_second: u32,
    /// The most tokens that can be saved up. With 0 nothing is ever granted.
    pub burst: u32,
}

impl Rate {
    fn capacity_units(&self) -> i64 {
        i64::from(self.burst) * TOKEN_UNITS
    }
}

/// The state of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Below 0: what was charged and is not paid yet.
    level_units: i64,
    refilled_ms: u64,
}

impl TokenBucket {
    /// A bucket with a whole burst in it.
    pub fn full(rate: &Rate) -> Self {
        Self {
            level_units: rate.capacity_units(),
            refilled_ms: 0,
        }
    }

    /// Takes one token, or says in how many milliseconds one will be there (`u64::MAX`: never at
    /// this rate).
    ///
    /// A `now_ms` earlier than one seen before is taken for the latest seen.
    pub fn try_take(&mut self, rate: &Rate, now_ms: u64) -> Result<(), u64> {
        let elapsed_ms = now_ms.saturating_sub(self.refilled_ms);
        self.refilled_ms = self.refilled_ms.max(now_ms);
        let refill = elapsed_ms.saturating_mul(u64::from(rate.per_second));
        self.level_units = self
            .level_units
            .saturating_add_unsigned(refill)
            .min(rate.capacity_units());

        if self.level_units >= TOKEN_UNITS {
            self.level_units -= TOKEN_UNITS;
            return Ok(());
        }
        if rate.per_second == 0 || rate.burst == 0 {
            return Err(u64::MAX);
        }
        let missing = self.level_units.abs_diff(TOKEN_UNITS);
        Err(missing.div_ceil(u64::from(rate.per_second)))
    }

    /// What was granted turned out to cost so many tokens more, though never more than a burst: the
    /// next token comes once they are back.
    pub fn charge(&mut self, rate: &Rate, tokens: u32) {
        let units = i64::from(tokens.min(rate.burst)) * TOKEN_UNITS;
        let deepest = -rate.capacity_units();
        self.level_units = (self.level_units - units).max(deepest);
    }

    /// Whether more was charged than was there, when a token was last asked for.
    pub fn is_in_debt(&self) -> bool {
        self.level_units < 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bucket_is_sixteen_bytes() {
        assert_eq!(size_of::<TokenBucket>(), 16);
    }

    #[test]
    fn a_burst_is_granted_and_then_the_rate() {
        let rate = Rate {
            per_second: 50,
            burst: 100,
        };
        let mut bucket = TokenBucket::full(&rate);
        for _ in 0..100 {
            assert_eq!(bucket.try_take(&rate, 5_000), Ok(()));
        }
        assert_eq!(bucket.try_take(&rate, 5_000), Err(20));
        assert_eq!(bucket.try_take(&rate, 5_019), Err(1));
        assert_eq!(bucket.try_take(&rate, 5_020), Ok(()));
        assert_eq!(bucket.try_take(&rate, 5_020), Err(20));
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_does_not_drift() {
        let rate = Rate {
            per_second: 3,
            burst: 1,
        };
        let mut bucket = TokenBucket::full(&rate);
        let granted = (0..=1_000_000)
            .filter(|now_ms| bucket.try_take(&rate, *now_ms).is_ok())
            .count();
        // With room for one token only, each comes at the first whole millisecond it is due: every
        // 334, 333, 333 ms at best, and what exceeds one token is not saved.
        assert_eq!(granted, 1 + 1_000_000 / 334);
        let saving = Rate {
            per_second: 3,
            burst: 2,
        };
        let mut bucket = TokenBucket::full(&saving);
        let granted = (0..=1_000_000)
            .filter(|now_ms| bucket.try_take(&saving, *now_ms).is_ok())
            .count();
        assert_eq!(granted, 2 + 3_000);
    }

    #[test]
    fn a_rate_of_nothing_grants_the_burst_and_no_more() {
        let rate = Rate {
            per_second: 0,
            burst: 1,
        };
        let mut bucket = TokenBucket::full(&rate);
        assert_eq!(bucket.try_take(&rate, 0), Ok(()));
        assert_eq!(bucket.try_take(&rate, u64::MAX), Err(u64::MAX));
        let nothing = Rate {
            per_second: 9,
            burst: 0,
        };
        assert_eq!(
            TokenBucket::full(&nothing).try_take(&nothing, 9),
            Err(u64::MAX)
        );
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let rate = Rate {
            per_second: u32::MAX,
            burst: u32::MAX,
        };
        let mut bucket = TokenBucket::full(&rate);
        assert_eq!(bucket.try_take(&rate, u64::MAX), Ok(()));
        assert_eq!(bucket.try_take(&rate, 0), Ok(()));
    }

    #[test]
    fn what_is_charged_is_paid_before_the_next_token() {
        let rate = Rate {
            per_second: 50,
            burst: 100,
        };
        let mut bucket = TokenBucket::full(&rate);
        assert_eq!(bucket.try_take(&rate, 0), Ok(()));
        bucket.charge(&rate, 50);
        assert!(!bucket.is_in_debt());
        assert_eq!(bucket.try_take(&rate, 0), Ok(()));
        bucket.charge(&rate, 98);
        assert!(bucket.is_in_debt());
        // 50 short of nothing, and one more for the next.
        assert_eq!(bucket.try_take(&rate, 0), Err(1_020));
        assert_eq!(bucket.try_take(&rate, 1_019), Err(1));
        assert!(!bucket.is_in_debt());
        assert_eq!(bucket.try_take(&rate, 1_020), Ok(()));
    }

    #[test]
    fn a_debt_is_a_burst_at_most_whatever_is_charged() {
        let rate = Rate {
            per_second: 10,
            burst: 20,
        };
        let mut bucket = TokenBucket::full(&rate);
        assert_eq!(bucket.try_take(&rate, 0), Ok(()));
        for _ in 0..3 {
            bucket.charge(&rate, u32::MAX);
        }
        assert_eq!(bucket.try_take(&rate, 0), Err(2_100));
    }

    /// The rule itself: a token may be granted now if, counted from every earlier grant, the number
    /// stays within the burst and the rate. A token is worth 1000 and a bucket is full at the
    /// start.
    fn naive(rate: &Rate, grants: &[u64], now_ms: u64) -> bool {
        rate.burst > 0
            && grants.iter().enumerate().all(|(index, granted_ms)| {
                let count = (grants.len() - index + 1) as u128;
                let allowed = u128::from(rate.burst) * 1000
                    + u128::from(rate.per_second) * u128::from(now_ms - granted_ms);
                count * 1000 <= allowed
            })
    }

    proptest! {
        #[test]
        fn it_grants_exactly_what_the_rule_allows(
            per_second in 0u32..2_000,
            burst in 0u32..20,
            steps in prop::collection::vec(0u64..300, 1..200),
        ) {
            let rate = Rate { per_second, burst };
            let mut bucket = TokenBucket::full(&rate);
            let mut now_ms = 0;
            let mut grants = Vec::new();
            for step in steps {
                now_ms += step;
                let before = bucket;
                let answer = bucket.try_take(&rate, now_ms);
                prop_assert_eq!(answer.is_ok(), naive(&rate, &grants, now_ms));
                match answer {
                    Ok(()) => grants.push(now_ms),
                    Err(u64::MAX) => {}
                    Err(wait_ms) => {
                        let mut early = before;
                        prop_assert!(early.try_take(&rate, now_ms + wait_ms - 1).is_err());
                        let mut in_time = before;
                        prop_assert!(in_time.try_take(&rate, now_ms + wait_ms).is_ok());
                    }
                }
            }
        }

        #[test]
        fn a_clock_that_jumps_about_never_grants_more(
            per_second in 1u32..100,
            burst in 1u32..20,
            times in prop::collection::vec(0u64..10_000, 1..300),
        ) {
            let rate = Rate { per_second, burst };
            let mut bucket = TokenBucket::full(&rate);
            let granted = times.iter().filter(|now_ms| bucket.try_take(&rate, **now_ms).is_ok());
            let granted = granted.count() as u64;
            let latest = *times.iter().max().unwrap();
            let earliest = times[0];
            let span = latest.saturating_sub(earliest);
            prop_assert!(granted * 1000 <= u64::from(burst) * 1000 + u64::from(per_second) * span);
        }
    }
}
