//! When to read: the rule that keeps trouble elsewhere cheap here.
//!
//! Owns the waits. Pure: the time is handed in.

use std::time::{Duration, Instant};

/// Events are gathered for this long, because they come in groups: a backend registers dozens of
/// nodes.
const GATHER: Duration = Duration::from_millis(50);

/// Reads are at least so far apart, so that a node that comes and goes all the time costs four
/// reads a second.
const READ_GAP: Duration = Duration::from_millis(250);

/// Decides when to read what has changed.
#[derive(Debug, Default)]
pub(super) struct ReadPacing {
    /// The first event that no read has followed.
    changed: Option<Instant>,
    last_read: Option<Instant>,
}

impl ReadPacing {
    /// Something changed.
    pub(super) fn changed(&mut self, now: Instant) {
        self.changed.get_or_insert(now);
    }

    /// A read ended. What changed while it went on is told after this.
    pub(super) fn read(&mut self, now: Instant) {
        debug_assert!(
            self.last_read.is_none_or(|last| last <= now),
            "reads come one after the other"
        );
        self.changed = None;
        self.last_read = Some(now);
        debug_assert!(self.due().is_none(), "nothing has changed since");
    }

    /// When to read next; `None`: nothing has changed.
    pub(super) fn due(&self) -> Option<Instant> {
        let gathered = self.changed? + GATHER;
        Some(match self.last_read {
            Some(last) => gathered.max(last + READ_GAP),
            None => gathered,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_is_read_soon_and_a_stream_of_changes_four_times_a_second() {
        let start = Instant::now();
        let mut pacing = ReadPacing::default();
        assert_eq!(pacing.due(), None);
        pacing.changed(start);
        assert_eq!(pacing.due(), Some(start + GATHER));

        let (mut reads, mut now) = (0, start);
        while now < start + Duration::from_secs(10) {
            now += Duration::from_millis(10);
            pacing.changed(now);
            if pacing.due().is_some_and(|due| due <= now) {
                pacing.read(now);
                reads += 1;
            }
        }
        assert!((30..=41).contains(&reads), "{reads}");
    }

    #[test]
    fn a_lone_change_after_a_quiet_time_is_read_soon() {
        let start = Instant::now();
        let mut pacing = ReadPacing::default();
        pacing.read(start);
        assert_eq!(pacing.due(), None);
        let later = start + Duration::from_secs(5);
        pacing.changed(later);
        pacing.changed(later + GATHER);
        assert_eq!(pacing.due(), Some(later + GATHER));
    }
}
