//! Whether the store takes writes: told once at each change.
//!
//! Pure but for the telling. A store that failed counts as failing until a write succeeds some time
//! after the last failure, so that one on the edge of a full disk does not change its mind with
//! every batch. [`Health::probe_is_due`] says when to try a write of no consequence: whoever is
//! sent no clients because of a failure would else never find out that it is over.

use std::sync::Arc;

/// Takes `true` when the store begins to fail and `false` when it works again. Called on the store
/// thread: must not block.
pub type FailureReport = Arc<dyn Fn(bool) + Send + Sync>;

/// Time after a failure before a success counts.
pub(super) const CALM_MS: u64 = 1000;

/// See the module's description.
pub(super) struct Health {
    report: FailureReport,
    /// When a write last failed, in Unix milliseconds; `None`: the store works.
    failed_ms: Option<i64>,
}

impl Health {
    /// Of a store that works.
    pub(super) fn new(report: FailureReport) -> Self {
        Self {
            report,
            failed_ms: None,
        }
    }

    /// A transaction could not be written.
    pub(super) fn failed(&mut self, now_ms: i64) {
        if self.failed_ms.replace(now_ms).is_none() {
            (self.report)(true);
        }
    }

    /// A transaction was written. `true`: with it a failure has ended.
    pub(super) fn committed(&mut self, now_ms: i64) -> bool {
        let is_over = self.is_calm(now_ms);
        if is_over {
            self.failed_ms = None;
            (self.report)(false);
        }
        is_over
    }

    /// Whether the store fails.
    pub(super) fn is_failing(&self) -> bool {
        self.failed_ms.is_some()
    }

    /// Whether it is time to see if the failure is over.
    pub(super) fn probe_is_due(&self, now_ms: i64) -> bool {
        self.is_calm(now_ms)
    }

    /// Failing, but not lately. A clock that was set back makes no difference.
    fn is_calm(&self, now_ms: i64) -> bool {
        self.failed_ms
            .is_some_and(|failed_ms| now_ms.abs_diff(failed_ms) >= CALM_MS)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn each_change_is_told_once_and_a_success_amid_failures_is_none() {
        let told: Arc<Mutex<Vec<bool>>> = Arc::default();
        let mut health = Health::new({
            let told = Arc::clone(&told);
            Arc::new(move |failing| told.lock().expect("not poisoned").push(failing))
        });
        health.committed(0);
        assert!(!health.probe_is_due(1_000_000));
        for now_ms in [10_000, 10_001, 10_900] {
            health.failed(now_ms);
            health.committed(now_ms + 1);
        }
        assert!(health.is_failing() && !health.probe_is_due(11_000));
        assert!(
            health.probe_is_due(11_900),
            "once nothing failed for a while"
        );
        assert!(
            health.probe_is_due(5_000),
            "also when the clock was set back"
        );
        health.committed(11_900);
        assert!(!health.is_failing());
        health.committed(13_000);
        health.failed(14_000);
        assert_eq!(*told.lock().expect("not poisoned"), [true, false, true]);
    }
}
