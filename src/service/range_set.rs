//! A set of numbers kept as merged ranges: what a reader has confirmed, what was handed to it.
//!
//! Pure. Invariants: ranges are inclusive, ascending, and never overlap or touch; `len` is the sum
//! of their lengths. Numbers are those of a stream: they start at 1 and never reach `u64::MAX`.

/// A set of numbers as ascending ranges, both ends included, that neither overlap nor touch.
///
/// Nearly all sets are empty, and there are two for each user: an empty one is a null pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RangeSet(Option<Box<Ranges>>);

/// What is in a set that is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges {
    list: Vec<(u64, u64)>,
    len: u64,
}

/// The stored form of a set could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored set of ranges is malformed")]
pub(super) struct MalformedRanges;

impl RangeSet {
    /// How many numbers are in the set.
    pub(super) fn len(&self) -> u64 {
        self.0.as_ref().map_or(0, |ranges| ranges.len)
    }

    fn list(&self) -> &[(u64, u64)] {
        self.0.as_ref().map_or(&[], |ranges| &ranges.list)
    }

    fn drop_if_empty(&mut self) {
        self.0.take_if(|ranges| ranges.list.is_empty());
    }

    /// S1.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn assert_invariants(&self) {
        let list = self.list();
        assert!(
            self.0.is_none() || !list.is_empty(),
            "S1: room for an empty set"
        );
        assert!(list.iter().all(|range| range.0 <= range.1), "S1: {self:?}");
        let mut pairs = list.windows(2);
        assert!(
            pairs.all(|pair| pair[0].1 + 1 < pair[1].0),
            "S1: ranges touch: {self:?}"
        );
        let lengths = list.iter().map(|range| range.1 - range.0 + 1);
        assert_eq!(self.len(), lengths.sum::<u64>(), "S1: the length");
    }

    /// Whether `number` is in the set.
    pub(super) fn contains(&self, number: u64) -> bool {
        let list = self.list();
        let after = list.partition_point(|range| range.0 <= number);
        after > 0 && list[after - 1].1 >= number
    }

    /// Adds `from..=to` and tells how many numbers are new. An empty range (`from > to`) adds
    /// nothing.
    pub(super) fn insert(&mut self, from: u64, to: u64) -> u64 {
        if from > to {
            return 0;
        }
        let Ranges { list, len } = &mut **self.0.get_or_insert_default();
        // The ranges that overlap or touch `from..=to` become one range with it.
        let first = list.partition_point(|range| range.1.saturating_add(1) < from);
        let end = list.partition_point(|range| range.0 <= to.saturating_add(1));
        let mut merged = (from, to);
        let mut covered = 0;
        for range in &list[first..end] {
            merged = (merged.0.min(range.0), merged.1.max(range.1));
            covered += range.1 - range.0 + 1;
        }
        if end == first + 1 {
            list[first] = merged;
        } else {
            list.splice(first..end, [merged]);
        }
        let added = merged.1 - merged.0 + 1 - covered;
        *len += added;
        added
    }

    /// The lowest range.
    pub(super) fn first(&self) -> Option<(u64, u64)> {
        self.list().first().copied()
    }

    /// Takes every number up to and including `number` out.
    pub(super) fn remove_up_to(&mut self, number: u64) {
        let Some(Ranges { list, len }) = self.0.as_deref_mut() else {
            return;
        };
        let gone = list.partition_point(|range| range.1 <= number);
        for range in list.drain(..gone) {
            *len -= range.1 - range.0 + 1;
        }
        if let Some(range) = list.first_mut().filter(|range| range.0 <= number) {
            *len -= number - range.0 + 1;
            range.0 = number + 1;
        }
        self.drop_if_empty();
    }

    /// Takes every number above `number` out.
    pub(super) fn remove_above(&mut self, number: u64) {
        let Some(Ranges { list, len }) = self.0.as_deref_mut() else {
            return;
        };
        let kept = list.partition_point(|range| range.0 <= number);
        for range in list.drain(kept..) {
            *len -= range.1 - range.0 + 1;
        }
        if let Some(range) = list.last_mut().filter(|range| range.1 > number) {
            *len -= range.1 - number;
            range.1 = number;
        }
        self.drop_if_empty();
    }

    /// The first run of numbers in `from..=to` that are not in the set.
    pub(super) fn next_gap(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let list = self.list();
        let mut next = list.partition_point(|range| range.1 < from);
        let mut start = from;
        if let Some(range) = list.get(next).filter(|range| range.0 <= from) {
            start = range.1.checked_add(1)?;
            next += 1;
        }
        if start > to {
            return None;
        }
        let end = list.get(next).map_or(to, |range| to.min(range.0 - 1));
        Some((start, end))
    }

    /// The first run of numbers in `from..=to` that are in the set.
    pub(super) fn next_run(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let list = self.list();
        let next = list.partition_point(|range| range.1 < from);
        let range = list.get(next).filter(|range| range.0 <= to)?;
        Some((range.0.max(from), range.1.min(to)))
    }

    /// The compact stored form: for each range its distance from the one before and its length, as
    /// varints.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.list().len() * 3);
        let mut position = 0;
        for &(from, to) in self.list() {
            put_varint(&mut bytes, from - position);
            put_varint(&mut bytes, to - from);
            position = to;
        }
        bytes
    }

    /// Reads the stored form back.
    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self, MalformedRanges> {
        let mut ranges = Ranges::default();
        let mut position: u64 = 0;
        while !bytes.is_empty() {
            let distance = take_varint(&mut bytes)?;
            let length = take_varint(&mut bytes)?;
            let from = position.checked_add(distance).ok_or(MalformedRanges)?;
            let to = from.checked_add(length).ok_or(MalformedRanges)?;
            // Distances below 2 would touch the range before; only the first range may start at 0
            // or 1.
            if (distance < 2 && position != 0) || to == u64::MAX {
                return Err(MalformedRanges);
            }
            ranges.len += length + 1;
            ranges.list.push((from, to));
            position = to;
        }
        let mut set = Self(Some(Box::new(ranges)));
        set.drop_if_empty();
        Ok(set)
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value as u8) | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, MalformedRanges> {
    let mut value: u64 = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(MalformedRanges)?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return Err(MalformedRanges);
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(MalformedRanges)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, u64),
        RemoveUpTo(u64),
        RemoveAbove(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (1u64..60, 0u64..8).prop_map(|(from, length)| Step::Insert(from, from + length)),
            1 => (0u64..60).prop_map(Step::RemoveUpTo),
            1 => (0u64..60).prop_map(Step::RemoveAbove),
        ];
        prop::collection::vec(step, 0..40)
    }

    fn assert_same(set: &RangeSet, model: &BTreeSet<u64>) {
        assert_eq!(set.len(), model.len() as u64);
        for number in 0..80 {
            assert_eq!(set.contains(number), model.contains(&number), "{number}");
        }
        set.assert_invariants();
    }

    proptest! {
        #[test]
        fn any_sequence_of_changes_equals_a_plain_set(steps in steps()) {
            let mut set = RangeSet::default();
            let mut model = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Insert(from, to) => {
                        let added = (from..=to).filter(|number| model.insert(*number));
                        let added = added.count() as u64;
                        prop_assert_eq!(set.insert(from, to), added);
                    }
                    Step::RemoveUpTo(number) => {
                        set.remove_up_to(number);
                        model.retain(|known| *known > number);
                    }
                    Step::RemoveAbove(number) => {
                        set.remove_above(number);
                        model.retain(|known| *known <= number);
                    }
                }
                assert_same(&set, &model);
            }
        }

        #[test]
        fn gaps_and_members_together_cover_every_number_once(
            steps in steps(), from in 1u64..70, length in 0u64..70,
        ) {
            let mut set = RangeSet::default();
            for step in steps {
                if let Step::Insert(from, to) = step {
                    set.insert(from, to);
                }
            }
            let to = from + length;
            let mut next = from;
            let mut missing = Vec::new();
            while let Some((start, end)) = set.next_gap(next, to) {
                prop_assert!(start >= next && start <= end && end <= to);
                missing.extend(start..=end);
                next = end + 1;
            }
            let expected: Vec<u64> = (from..=to).filter(|number| !set.contains(*number)).collect();
            prop_assert_eq!(missing, expected);
        }

        #[test]
        fn the_stored_form_reads_back_the_same(steps in steps()) {
            let mut set = RangeSet::default();
            for step in steps {
                if let Step::Insert(from, to) = step {
                    set.insert(from.saturating_mul(1 << 40), to.saturating_mul(1 << 40));
                }
            }
            prop_assert_eq!(RangeSet::decode(&set.encode()), Ok(set));
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Ok(set) = RangeSet::decode(&bytes) {
                set.assert_invariants();
            }
        }
    }
}
