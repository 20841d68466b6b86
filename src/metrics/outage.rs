//! Something outside that is away, and why as far as is known now: one reason for the log and for
//! `/readyz`.
//!
//! Owns when the log is told: when the reason is another one, and every now and then while it
//! lasts. Whoever keeps a connection reports what went wrong at each attempt, and the end of it
//! all.

use std::{
    fmt::Display,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How often the log is told the same reason, and at most how often another one: where attempts
/// fail in turns for several reasons, it would be told of each.
const TOLD_AGAIN: Duration = Duration::from_secs(30);
const NEWS_APART: Duration = Duration::from_secs(1);

/// The longest reason that is kept: an error in some words, for each of some addresses.
const REASON_BYTES: usize = 512;

/// Why something does not work now, in words. Shared by whoever knows and whoever asks.
#[derive(Debug, Default)]
pub struct Reason(Mutex<Option<String>>);

impl Reason {
    /// This is why; `None`: it works, or nothing is known. `true`: there was a reason before.
    pub fn set(&self, reason: Option<String>) -> bool {
        let reason = reason.map(|mut reason| {
            reason.truncate(reason.floor_char_boundary(REASON_BYTES));
            assert!(reason.len() <= REASON_BYTES, "a reason is kept in part");
            reason
        });
        std::mem::replace(&mut *locked(&self.0), reason).is_some()
    }

    /// What was said last.
    pub fn get(&self) -> Option<String> {
        locked(&self.0).clone()
    }

    /// `what`, and why, where that is known.
    pub fn explain(&self, what: &str) -> String {
        match self.get() {
            Some(reason) => format!("{what}: {reason}"),
            None => what.to_owned(),
        }
    }
}

/// See the module's description. Shared by whoever keeps the connection and whoever asks about it.
#[derive(Debug, Default)]
pub struct Outage {
    reason: Reason,
    /// What the log was told last, and when.
    told: Mutex<Option<(String, Instant)>>,
}

impl Outage {
    /// An attempt failed for this reason. `true`: the log should be told.
    pub fn report(&self, reason: &impl Display) -> bool {
        self.report_at(reason, Instant::now())
    }

    fn report_at(&self, reason: &impl Display, now: Instant) -> bool {
        let reason = reason.to_string();
        let mut told = locked(&self.told);
        let is_due = told.as_ref().is_none_or(|(said, at)| {
            let pause = if *said == reason {
                TOLD_AGAIN
            } else {
                NEWS_APART
            };
            now.duration_since(*at) >= pause
        });
        if is_due {
            *told = Some((reason.clone(), now));
        }
        self.reason.set(Some(reason));
        is_due
    }

    /// It is over. `true`: there was one.
    pub fn end(&self) -> bool {
        *locked(&self.told) = None;
        self.reason.set(None)
    }

    /// What went wrong last; `None`: nothing, or nothing is known.
    pub fn reason(&self) -> Option<String> {
        self.reason.get()
    }

    /// `what`, and why, where that is known.
    pub fn explain(&self, what: &str) -> String {
        self.reason.explain(what)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is half done while the lock is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_told_of_each_reason_once_in_a_while_and_of_another_one_at_once() {
        let (outage, start) = (Outage::default(), Instant::now());
        let seconds = |count| start + Duration::from_secs(count);
        assert_eq!(outage.explain("no pushes"), "no pushes");
        assert!(outage.report_at(&"refused", start));
        assert!(!outage.report_at(&"refused", seconds(29)));
        assert!(outage.report_at(&"refused", seconds(30)));
        assert!(!outage.report_at(&"WRONGPASS", start + Duration::from_millis(30_999)));
        assert!(outage.report_at(&"WRONGPASS", seconds(31)));
        assert_eq!(outage.explain("no pushes"), "no pushes: WRONGPASS");
        assert!(outage.end() && !outage.end());
        assert_eq!(outage.reason(), None);
        assert!(outage.report_at(&"WRONGPASS", seconds(32)));
    }

    #[test]
    fn a_reason_of_any_length_is_kept_in_part() {
        let outage = Outage::default();
        outage.report(&"\u{4f60}".repeat(1000));
        let reason = outage.reason().expect("a reason");
        assert!(reason.len() <= REASON_BYTES && reason.len() > REASON_BYTES - 4);
    }
}
