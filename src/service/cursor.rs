//! Where one user stands in one stream (its inbox, or a group): what it confirmed, what it was
//! handed.
//!
//! Pure: numbers in, answers out; no storage, no clock.
//! Invariants: `since <= floor`; everything up to `floor` is confirmed or does not count;
//! `confirmed` holds only numbers above `floor + 1`, so that `floor` is always as high as it can
//! be; `handed` holds only numbers above `floor`.

use super::range_set::RangeSet;

/// One user's standing in one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The last number before the membership began: this and earlier ones are none of the user's
    /// business.
    pub(super) since: u64,
    /// Everything up to here is confirmed.
    pub(super) floor: u64,
    /// Confirmed above `floor`.
    pub(super) confirmed: RangeSet,
    /// Handed out above `floor`: pulled, or published while the user had a route.
    pub(super) handed: RangeSet,
    /// While the user has a route: everything from this number on counts as handed out.
    pub(super) open_from: Option<u64>,
}

impl Cursor {
    /// The cursor of one who joins after `last_seq`.
    pub(super) fn joining_after(last_seq: u64) -> Self {
        Self {
            since: last_seq,
            floor: last_seq,
            ..Self::default()
        }
    }

    /// S2, and S1 of its sets.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn assert_invariants(&self) {
        self.confirmed.assert_invariants();
        self.handed.assert_invariants();
        assert!(self.since <= self.floor, "S2: it begins above its floor");
        let confirmed = self.confirmed.first();
        assert!(
            confirmed.is_none_or(|(first, _)| first > self.floor + 1),
            "S2: the floor could be higher"
        );
        let handed = self.handed.first();
        assert!(
            handed.is_none_or(|(first, _)| first > self.floor),
            "S2: handed out below the floor"
        );
    }

    /// It has changed: in debug builds, what must always hold is checked.
    fn check_invariants(&self) {
        #[cfg(debug_assertions)]
        self.assert_invariants();
    }

    /// How many of the numbers up to `last_seq` are not confirmed.
    pub(super) fn unconfirmed(&self, last_seq: u64) -> u64 {
        last_seq
            .saturating_sub(self.floor)
            .saturating_sub(self.confirmed.len())
    }

    /// Whether `seq` is confirmed, or does not count for this user.
    pub(super) fn is_confirmed(&self, seq: u64) -> bool {
        seq <= self.floor || self.confirmed.contains(seq)
    }

    /// Whether `seq` may have been handed out before and is not confirmed.
    pub(super) fn is_redelivery(&self, seq: u64) -> bool {
        !self.is_confirmed(seq)
            && (self.open_from.is_some_and(|from| seq >= from) || self.handed.contains(seq))
    }

    /// Confirms `from..=to`, as far as these numbers exist, and tells how many were not confirmed
    /// before.
    pub(super) fn confirm(&mut self, from: u64, to: u64, last_seq: u64) -> u64 {
        let from = from.max(self.floor + 1);
        let to = to.min(last_seq);
        if from > to {
            return 0;
        }
        if from > self.floor + 1 {
            let added = self.confirmed.insert(from, to);
            self.check_invariants();
            return added;
        }
        // In order, as nearly always: the floor rises, and with it what was confirmed above it and
        // now adjoins.
        let confirmed_before = self.confirmed.len();
        self.confirmed.remove_up_to(to);
        let added = to - from + 1 - (confirmed_before - self.confirmed.len());
        self.floor = to;
        if let Some((start, end)) = self.confirmed.first()
            && start == to + 1
        {
            self.floor = end;
            self.confirmed.remove_up_to(end);
        }
        self.handed.remove_up_to(self.floor);
        self.check_invariants();
        added
    }

    /// Notes that `seq` is being handed out; tells whether that was news.
    pub(super) fn hand_out(&mut self, seq: u64) -> bool {
        if seq <= self.floor || self.open_from.is_some_and(|from| seq >= from) {
            return false;
        }
        self.handed.insert(seq, seq) > 0
    }

    /// Notes that `from..=to` was handed out; tells whether any of that was news.
    pub(super) fn hand_out_range(&mut self, from: u64, to: u64) -> bool {
        let from = from.max(self.floor + 1);
        from <= to && self.handed.insert(from, to) > 0
    }

    /// The user got its first route: what is published from now on counts as handed out.
    pub(super) fn open(&mut self, last_seq: u64) {
        self.close(last_seq);
        self.open_from = Some(last_seq + 1);
    }

    /// The user's last route is gone: what came since `open`, up to `last_seq`, was handed out.
    pub(super) fn close(&mut self, last_seq: u64) {
        if let Some(from) = self.open_from.take() {
            self.handed.insert(from.max(self.floor + 1), last_seq);
        }
        self.check_invariants();
    }

    /// Forgets everything above `last_seq`: these numbers were taken back and will be given to
    /// other messages.
    pub(super) fn forget_above(&mut self, last_seq: u64) {
        self.since = self.since.min(last_seq);
        self.floor = self.floor.min(last_seq);
        self.confirmed.remove_above(last_seq);
        self.handed.remove_above(last_seq);
        self.open_from = self.open_from.map(|from| from.min(last_seq + 1));
        self.check_invariants();
    }

    /// The first run of unconfirmed numbers in `from..=last_seq`.
    pub(super) fn next_unconfirmed(&self, from: u64, last_seq: u64) -> Option<(u64, u64)> {
        self.confirmed.next_gap(from.max(self.floor + 1), last_seq)
    }

    /// A run of unconfirmed numbers in `from..=last_seq` that were handed out before; there is none
    /// before it.
    pub(super) fn next_redelivery(&self, from: u64, last_seq: u64) -> Option<(u64, u64)> {
        let mut from = from;
        loop {
            let gap = self.next_unconfirmed(from, last_seq)?;
            let handed = self.handed.next_run(gap.0, gap.1);
            let live = self
                .open_from
                .map(|open_from| (open_from.max(gap.0), gap.1))
                .filter(|(start, end)| start <= end);
            let found = match (handed, live) {
                (Some(handed), Some(live)) => Some(handed.min(live)),
                (handed, live) => handed.or(live),
            };
            if found.is_some() {
                return found;
            }
            from = gap.1 + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Arrive,
        Confirm(u64, u64),
        HandOut(u64),
        Open,
        Close,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Arrive),
            2 => (0u64..40, 0u64..6).prop_map(|(from, length)| Step::Confirm(from, from + length)),
            2 => (1u64..40).prop_map(Step::HandOut),
            1 => Just(Step::Open),
            1 => Just(Step::Close),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        #[test]
        fn runs_of_redeliveries_are_exactly_the_numbers_handed_out_and_not_confirmed(
            handed in prop::collection::vec(1u64..60, 0..30),
            confirmed in prop::collection::vec(1u64..60, 0..30),
            open_from in prop::option::of(1u64..60),
        ) {
            let mut cursor = Cursor::default();
            for seq in handed {
                cursor.hand_out(seq);
            }
            for seq in confirmed {
                cursor.confirm(seq, seq, 60);
            }
            cursor.open_from = open_from;
            let (mut runs, mut from) = (Vec::new(), 1);
            while let Some((start, end)) = cursor.next_redelivery(from, 60) {
                runs.extend(start..=end);
                from = end + 1;
            }
            let expected: Vec<u64> = (1..=60).filter(|seq| cursor.is_redelivery(*seq)).collect();
            prop_assert_eq!(runs, expected);
        }

        #[test]
        fn any_history_equals_a_plain_list_of_marks(since in 0u64..5, steps in steps()) {
            let mut cursor = Cursor::joining_after(since);
            let mut last_seq = since;
            let mut bound = false;
            let mut confirmed = BTreeSet::new();
            let mut handed = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Arrive => {
                        last_seq += 1;
                        if bound {
                            handed.insert(last_seq);
                        }
                    }
                    Step::Confirm(from, to) => {
                        let expected = (from..=to)
                            .filter(|seq| *seq > since && *seq <= last_seq)
                            .filter(|seq| confirmed.insert(*seq))
                            .count() as u64;
                        prop_assert_eq!(cursor.confirm(from, to, last_seq), expected);
                    }
                    Step::HandOut(seq) if seq <= last_seq => {
                        cursor.hand_out(seq);
                        handed.insert(seq);
                    }
                    Step::HandOut(_) => {}
                    Step::Open => {
                        cursor.open(last_seq);
                        bound = true;
                    }
                    Step::Close => {
                        cursor.close(last_seq);
                        bound = false;
                    }
                }
                let unconfirmed = last_seq - since - confirmed.len() as u64;
                prop_assert_eq!(cursor.unconfirmed(last_seq), unconfirmed);
                for seq in since + 1..=last_seq {
                    prop_assert_eq!(cursor.is_confirmed(seq), confirmed.contains(&seq));
                    let redelivery = handed.contains(&seq) && !confirmed.contains(&seq);
                    prop_assert_eq!(cursor.is_redelivery(seq), redelivery);
                }
                cursor.assert_invariants();
            }
        }
    }

    #[test]
    fn numbers_taken_back_leave_no_mark_on_the_messages_that_get_them_next() {
        let mut cursor = Cursor::default();
        cursor.open(0);
        cursor.confirm(1, 1, 3);
        cursor.confirm(3, 3, 3);
        cursor.forget_above(1);
        assert_eq!(cursor.unconfirmed(1), 0);
        assert!(!cursor.is_confirmed(2) && !cursor.is_confirmed(3));
        cursor.close(1);
        assert!(!cursor.is_redelivery(2));
    }
}
