//! What holds of one stream between two calls of its caller, who drains it and starts what it is
//! told to: I8 of the shard.

use super::{Numbered, Phase, Sequencer};

impl<T: Numbered> Sequencer<T> {
    /// Whether everything waits, whatever comes.
    pub(in crate::shard) fn is_paused(&self) -> bool {
        self.gap.as_ref().is_some_and(|gap| gap.is_paused)
    }

    /// Checks what holds between two calls of a caller that drains and starts what it is told to.
    ///
    /// # Panics
    /// If something does not.
    pub(in crate::shard) fn assert_invariants(&self) {
        let Some(gap) = &self.gap else {
            return;
        };
        assert!(gap.ready.is_empty(), "what is in order was not taken");
        assert!(gap.step_back.is_none(), "a step back was not taken");
        let Some(last) = self.last() else {
            assert_eq!(gap.phase, Phase::Quiet, "fetched from nowhere");
            return;
        };
        if gap.is_paused {
            return;
        }
        assert!(
            gap.held.keys().all(|seq| *seq > last),
            "what had its turn is held"
        );
        match gap.phase {
            Phase::Quiet => {
                assert!(gap.held.is_empty(), "something is missing, and not fetched");
                assert!(
                    !gap.open_end,
                    "something may be missing, and is not fetched"
                );
                assert!(
                    gap.doubted.is_none(),
                    "a number is in doubt, and not compared"
                );
            }
            Phase::Fetching { fetch, doubted } => {
                assert!(fetch.to == 0 || fetch.after < fetch.to, "{fetch:?}");
                // It may be older than what is remembered and compared.
                let has_passed = |seq| seq <= fetch.to;
                assert!(doubted.is_none_or(has_passed), "{doubted:?} in {fetch:?}");
            }
            Phase::AwaitingRetry => {}
        }
    }
}
