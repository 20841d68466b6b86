//! How many lines of a connection made no sense lately.
//!
//! The count falls with time: a person mistypes now and then for hours, a port scanner does so at
//! once.

/// One bad line is forgiven in so many milliseconds.
const FORGIVEN_AFTER_MS: u64 = 60_000;
/// So many lines before the last one the client is told.
const WARNED_BEFORE_END: u32 = 2;

/// The bad lines of one connection that are not yet forgiven.
#[derive(Clone, Copy, Debug, Default)]
pub struct BadLines {
    count: u32,
    /// Up to when time has been made use of to forgive.
    forgiven_until_ms: u64,
}

/// What one more bad line leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Nothing yet.
    Ample,
    /// The client is told: so many more, and the connection ends.
    Short(u32),
    /// The connection ends.
    Over,
}

impl BadLines {
    /// Counts a bad line. `limit` of them within a short time are too many.
    pub fn note(&mut self, now_ms: u64, limit: u32) -> Patience {
        self.forgive(now_ms);
        self.count += 1;
        match limit.saturating_sub(self.count) {
            0 => Patience::Over,
            left @ 1..=WARNED_BEFORE_END => Patience::Short(left),
            _ => Patience::Ample,
        }
    }

    fn forgive(&mut self, now_ms: u64) {
        if self.count == 0 {
            self.forgiven_until_ms = now_ms;
            return;
        }
        let forgiven = now_ms.saturating_sub(self.forgiven_until_ms) / FORGIVEN_AFTER_MS;
        self.forgiven_until_ms += forgiven * FORGIVEN_AFTER_MS;
        self.count = self
            .count
            .saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        if self.count == 0 {
            self.forgiven_until_ms = now_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_before_the_end_are_announced() {
        let mut lines = BadLines::default();
        for _ in 0..7 {
            assert_eq!(lines.note(5, 10), Patience::Ample);
        }
        assert_eq!(lines.note(5, 10), Patience::Short(2));
        assert_eq!(lines.note(5, 10), Patience::Short(1));
        assert_eq!(lines.note(5, 10), Patience::Over);
    }

    #[test]
    fn one_a_minute_is_never_too_many() {
        let mut lines = BadLines::default();
        for minute in 0..1000 {
            assert_eq!(
                lines.note(minute * FORGIVEN_AFTER_MS, 3),
                Patience::Short(2)
            );
        }
    }

    #[test]
    fn a_part_of_a_minute_counts_toward_the_next_line() {
        let mut lines = BadLines::default();
        lines.note(0, 10);
        lines.note(FORGIVEN_AFTER_MS / 2, 10);
        lines.note(FORGIVEN_AFTER_MS, 10);
        assert_eq!(lines.count, 2);
        lines.note(2 * FORGIVEN_AFTER_MS, 10);
        assert_eq!(lines.count, 2);
    }

    #[test]
    fn a_limit_of_one_ends_at_once_and_silence_forgives_all() {
        assert_eq!(BadLines::default().note(0, 1), Patience::Over);
        let mut lines = BadLines::default();
        for _ in 0..9 {
            lines.note(0, 10);
        }
        assert_eq!(lines.note(u64::MAX, 10), Patience::Ample);
    }
}
