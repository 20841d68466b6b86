//! Something outside that is away, and why as far as is known now: one reason for the log and for
//! `/readyz`.
//!
//! Owns when the log is told: when the reason is another one, and every now and then while it lasts.
//! Whoever keeps a connection reports what went wrong at each attempt, and the end of it all.

use std::{
    fmt::Display,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How often the log is told the same reason.
const TOLD_AGAIN: Duration = Duration::from_secs(30);

/// The longest reason that is kept: an error in some words, for each of some addresses.
const REASON_BYTES: usize = 512;

/// See the module's description. Shared by whoever keeps the connection and whoever asks about it.
#[derive(Debug, Default)]
pub struct Outage {
    present: Mutex<Option<Present>>,
}

#[derive(Debug)]
struct Present {
    reason: String,
    told: Instant,
}

impl Outage {
    /// An attempt failed for this reason. `true`: the log should be told.
    pub fn report(&self, reason: &impl Display) -> bool {
        self.report_at(reason, Instant::now())
    }

    fn report_at(&self, reason: &impl Display, now: Instant) -> bool {
        let mut reason = reason.to_string();
        reason.truncate(reason.floor_char_boundary(REASON_BYTES));
        let mut present = self.present();
        let is_told = present.as_ref().is_some_and(|present| {
            present.reason == reason && now.duration_since(present.told) < TOLD_AGAIN
        });
        if !is_told {
            *present = Some(Present { reason, told: now });
        }
        !is_told
    }

    /// It is over. `true`: there was one.
    pub fn end(&self) -> bool {
        self.present().take().is_some()
    }

    /// What went wrong last; `None`: nothing, or nothing is known.
    pub fn reason(&self) -> Option<String> {
        let present = self.present();
        present.as_ref().map(|present| present.reason.clone())
    }

    /// `what`, and why, where that is known.
    pub fn explain(&self, what: &str) -> String {
        match self.reason() {
            Some(reason) => format!("{what}: {reason}"),
            None => what.to_owned(),
        }
    }

    fn present(&self) -> MutexGuard<'_, Option<Present>> {
        // Nothing is half done while the lock is held.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        assert!(!outage.report_at(&"refused", seconds(31)));
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
