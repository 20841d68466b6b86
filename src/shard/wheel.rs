//! A coarse timing wheel: when to look at which connection again.
//!
//! Owns one entry per armed connection of one core. Never knows what a connection waits for, nor
//! whether it still lives: an entry is a key and a moment, nothing is ever cancelled, and whoever
//! is woken says whether there is a next time. That makes activity free: a connection that reads a
//! line notes the time and leaves its entry where it is; when the entry comes up, the connection
//! finds that its time has moved and has itself armed again.
//!
//! Invariants: an entry comes up once, never before its time, and with the first [`Wheel::advance`]
//! that reaches the end of the tick its time lies in; a moment beyond the wheel's horizon
//! (`tick_ms × slots`) waits for further turns; one call visits each slot at most once, however
//! long the pause before it was.

use crate::base::id::ConnectionKey;

/// The wheel of one core.
#[derive(Debug)]
pub(super) struct Wheel {
    tick_ms: u64,
    /// The last tick that was visited; tick `t` ends at `t × tick_ms`.
    current_tick: u64,
    slots: Box<[Vec<Entry>]>,
    armed: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: ConnectionKey,
    due_tick: u64,
}

impl Wheel {
    /// An empty wheel of `slots` ticks, `tick_ms` each, at time 0. Both are at least 1.
    pub fn new(tick_ms: u64, slots: usize) -> Self {
        Self {
            tick_ms: tick_ms.max(1),
            current_tick: 0,
            slots: (0..slots.max(1)).map(|_| Vec::new()).collect(),
            armed: 0,
        }
    }

    /// Has `key` come up at `due_ms`, or with the next tick if that is past. A key that is armed
    /// twice comes up twice.
    pub fn schedule(&mut self, key: ConnectionKey, due_ms: u64) {
        let due_tick = due_ms
            .div_ceil(self.tick_ms)
            .max(self.current_tick.saturating_add(1));
        let slot = self.slot_of(due_tick);
        self.slots[slot].push(Entry { key, due_tick });
        self.armed += 1;
    }

    /// Hands every key whose time has come to `due`, which answers when it should come up next, if
    /// it should.
    ///
    /// A `now_ms` before the one of an earlier call does nothing.
    pub fn advance(&mut self, now_ms: u64, mut due: impl FnMut(ConnectionKey) -> Option<u64>) {
        let now_tick = now_ms / self.tick_ms;
        let first_tick = self.current_tick.saturating_add(1);
        if now_tick < first_tick {
            return;
        }
        // What is armed from here on lies after `now_tick`, so no key comes up twice in one call.
        self.current_tick = now_tick;
        let turn = self.slots.len() as u64 - 1;
        for tick in first_tick..=now_tick.min(first_tick.saturating_add(turn)) {
            self.visit(self.slot_of(tick), now_tick, &mut due);
        }
    }

    /// How many entries are armed.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn len(&self) -> usize {
        self.armed
    }

    /// Whose entries there are.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn keys(&self) -> impl Iterator<Item = &ConnectionKey> {
        self.slots.iter().flatten().map(|entry| &entry.key)
    }

    /// Whether nothing is armed.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.armed == 0
    }

    fn visit(
        &mut self,
        slot: usize,
        now_tick: u64,
        due: &mut impl FnMut(ConnectionKey) -> Option<u64>,
    ) {
        let mut entries = std::mem::take(&mut self.slots[slot]);
        entries.retain(|entry| {
            if entry.due_tick > now_tick {
                return true;
            }
            self.armed -= 1;
            if let Some(next_ms) = due(entry.key) {
                self.schedule(entry.key, next_ms);
            }
            false
        });
        // The slot's memory goes with what was in it, so that a burst of arrivals does not stay for
        // ever in every slot it passes through.
        entries.shrink_to(entries.len() * 2);
        let armed_meanwhile = std::mem::replace(&mut self.slots[slot], entries);
        self.slots[slot].extend(armed_meanwhile);
    }

    fn slot_of(&self, tick: u64) -> usize {
        (tick % self.slots.len() as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(slot: u32) -> ConnectionKey {
        ConnectionKey {
            slot,
            generation: 1,
        }
    }

    fn come_up(wheel: &mut Wheel, now_ms: u64) -> Vec<u32> {
        let mut keys = Vec::new();
        wheel.advance(now_ms, |key| {
            keys.push(key.slot);
            None
        });
        keys.sort_unstable();
        keys
    }

    #[test]
    fn an_entry_is_sixteen_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }

    #[test]
    fn a_key_comes_up_once_and_not_before_its_time() {
        let mut wheel = Wheel::new(100, 8);
        wheel.schedule(key(1), 250);
        wheel.schedule(key(2), 300);
        wheel.schedule(key(3), 301);
        assert!(come_up(&mut wheel, 299).is_empty());
        assert_eq!(come_up(&mut wheel, 300), [1, 2]);
        assert!(come_up(&mut wheel, 399).is_empty());
        assert_eq!(come_up(&mut wheel, 400), [3]);
        assert!(come_up(&mut wheel, 10_000).is_empty());
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_time_beyond_the_horizon_waits_for_further_turns() {
        let mut wheel = Wheel::new(100, 4);
        wheel.schedule(key(1), 1_000);
        for now_ms in (0..1_000).step_by(50) {
            assert!(come_up(&mut wheel, now_ms).is_empty());
        }
        assert_eq!(wheel.len(), 1);
        assert_eq!(come_up(&mut wheel, 1_000), [1]);
    }

    #[test]
    fn a_time_in_the_past_comes_up_with_the_next_tick() {
        let mut wheel = Wheel::new(100, 4);
        assert!(come_up(&mut wheel, 5_000).is_empty());
        wheel.schedule(key(1), 10);
        assert!(come_up(&mut wheel, 5_050).is_empty());
        assert_eq!(come_up(&mut wheel, 5_100), [1]);
    }

    #[test]
    fn a_key_that_is_always_due_comes_up_once_a_call() {
        let mut wheel = Wheel::new(100, 4);
        wheel.schedule(key(1), 0);
        for now_ms in [100, 5_000, 5_100] {
            let mut calls = 0;
            wheel.advance(now_ms, |_| {
                calls += 1;
                Some(0)
            });
            assert_eq!(calls, 1, "at {now_ms}");
        }
    }

    #[test]
    fn a_long_pause_brings_up_everything_due_in_one_call() {
        let mut wheel = Wheel::new(100, 4);
        for n in 0..20 {
            wheel.schedule(key(n), u64::from(n) * 100);
        }
        assert_eq!(come_up(&mut wheel, 1_000), (0..=10).collect::<Vec<_>>());
        assert_eq!(come_up(&mut wheel, u64::MAX), (11..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_clock_that_steps_back_does_nothing() {
        let mut wheel = Wheel::new(100, 4);
        assert!(come_up(&mut wheel, 1_000).is_empty());
        wheel.schedule(key(1), 1_200);
        assert!(come_up(&mut wheel, 0).is_empty());
        assert_eq!(come_up(&mut wheel, 1_200), [1]);
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_list_of_due_times(
            slots in 1usize..9,
            steps in prop::collection::vec(
                (0u64..700, prop::collection::vec(0u64..3_000, 0..4), 0u64..900),
                1..80,
            ),
        ) {
            const TICK_MS: u64 = 100;
            let mut wheel = Wheel::new(TICK_MS, slots);
            // What must come up at which tick's end.
            let mut list: Vec<(u64, u32)> = Vec::new();
            let (mut now_ms, mut next_key, mut visited_tick) = (0u64, 0u32, 0u64);
            for (step_ms, arm_in_ms, rearm_in_ms) in steps {
                for delay_ms in arm_in_ms {
                    let due_ms = now_ms + delay_ms;
                    wheel.schedule(key(next_key), due_ms);
                    list.push((due_ms.div_ceil(TICK_MS).max(visited_tick + 1), next_key));
                    next_key += 1;
                }
                now_ms += step_ms;
                visited_tick = now_ms / TICK_MS;
                let (mut expected, mut later): (Vec<_>, Vec<_>) =
                    list.drain(..).partition(|(tick, _)| *tick <= visited_tick);
                // Every third key asks for another time.
                let next_ms = now_ms + rearm_in_ms;
                let again = |slot: u32| slot.is_multiple_of(3).then_some(next_ms);
                let mut actual = Vec::new();
                wheel.advance(now_ms, |key| {
                    actual.push(key.slot);
                    again(key.slot)
                });
                for (_, slot) in &expected {
                    if let Some(due_ms) = again(*slot) {
                        later.push((due_ms.div_ceil(TICK_MS).max(visited_tick + 1), *slot));
                    }
                }
                list = later;
                expected.sort_unstable_by_key(|(_, slot)| *slot);
                actual.sort_unstable();
                let expected: Vec<_> = expected.into_iter().map(|(_, slot)| slot).collect();
                prop_assert_eq!(actual, expected);
                prop_assert_eq!(wheel.len(), list.len());
            }
        }
    }
}
