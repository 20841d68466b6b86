//! Whether calls to a server go unanswered: reason to ask whether it lives, sooner than usual.
//!
//! Pure: told the time, and what is out and has been answered.

/// Calls out and none answered for so long is silence. Most calls take some milliseconds.
const SILENCE_MS: u64 = 250;

/// See the module's description.
#[derive(Debug, Default)]
pub struct Silence {
    /// Answers so far.
    answers: u64,
    /// Since when there have been so many answers, and calls out.
    since: Option<(u64, u64)>,
}

impl Silence {
    /// The server answered something.
    pub fn broken(&mut self) {
        self.answers = self.answers.wrapping_add(1);
    }

    /// Looked at now and then, with the number of calls that are out: whether nothing comes back.
    pub(super) fn lasts(&mut self, now_ms: u64, outstanding: usize) -> bool {
        if outstanding == 0 {
            self.since = None;
            return false;
        }
        match self.since {
            Some((answers, since_ms)) if answers == self.answers => {
                assert!(now_ms >= since_ms, "the clock goes on");
                now_ms - since_ms >= SILENCE_MS
            }
            _ => {
                self.since = Some((self.answers, now_ms));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_while_calls_are_out_and_nothing_is_answered() {
        let mut silence = Silence::default();
        assert!(!silence.lasts(0, 0) && !silence.lasts(10_000, 0));
        assert!(!silence.lasts(10_000, 1));
        assert!(!silence.lasts(10_000 + SILENCE_MS - 1, 1));
        assert!(silence.lasts(10_000 + SILENCE_MS, 2));
        silence.broken();
        assert!(!silence.lasts(20_000, 1), "one was answered");
        assert!(silence.lasts(20_000 + SILENCE_MS, 1));
        assert!(!silence.lasts(30_000, 0), "nothing is out");
        assert!(!silence.lasts(30_001, 1));
    }
}
