//! A queue in which everybody's turn comes by what they have used, not by when they asked.
//!
//! Start-time fair queueing: an item may begin at the latest of "now" and the moment the same
//! key's last item ended, on a clock that counts cost instead of time; now is the latest beginning
//! of what was taken. It ends as much later as it is expected to cost, and the earliest end is
//! next. So whoever has used nothing lately goes before all who have; of many who have used
//! nothing, whoever asks little goes before who asks much; and a key that asks one thing at a
//! time, as most do, pays for the last one all the same. Now and then the earliest beginning is
//! next, so that dear things are not put off by cheap ones for ever.
//! Pure: costs are corrected after the fact, in any unit.
//!
//! Invariants: items of one key keep their order; a key with items that is not being served has
//! exactly one turn; a key is never further behind than the cost of its last item; keys remembered
//! without items are bounded.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
};

/// Keys remembered at most, whether or not they have items.
const KEYS_REMEMBERED: usize = 65_536;

/// One of so many items is that with the earliest beginning, whatever it is expected to cost.
const BY_START: u64 = 16;

/// See the module's description.
pub(super) struct FairQueue<K, T> {
    lanes: HashMap<K, Lane<T>>,
    /// The next item of each key that is not being served: when it may begin, and the order of
    /// coming for those that begin together. With each, when it ends as expected.
    by_start: BTreeMap<(u64, u64), (K, u64)>,
    /// The same by that end; with each, when it may begin.
    by_end: BTreeMap<(u64, u64), (K, u64)>,
    taken: u64,
    now: u64,
    next_order: u64,
    len: usize,
    lane_limit: usize,
}

struct Lane<T> {
    /// Each with its expected cost.
    items: VecDeque<(T, u64)>,
    /// When what was taken last has ended.
    ended: u64,
    /// An item was taken and its cost is not known yet.
    is_served: bool,
}

impl<K: Copy + Eq + Hash, T> FairQueue<K, T> {
    /// An empty queue that holds at most `lane_limit` items of one key.
    pub(super) fn new(lane_limit: usize) -> Self {
        Self {
            lanes: HashMap::new(),
            by_start: BTreeMap::new(),
            by_end: BTreeMap::new(),
            taken: 0,
            now: 0,
            next_order: 0,
            len: 0,
            lane_limit,
        }
    }

    /// How many items wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts an item that is `expected` to cost so much behind the others of `key`, or gives it back
    /// where these are too many.
    pub(super) fn push(&mut self, key: K, item: T, expected: u64) -> Result<(), T> {
        if self.lanes.len() >= KEYS_REMEMBERED && !self.lanes.contains_key(&key) {
            self.lanes
                .retain(|_, lane| lane.is_served || !lane.items.is_empty());
        }
        let now = self.now;
        let lane = self.lanes.entry(key).or_insert_with(|| Lane {
            items: VecDeque::new(),
            ended: now,
            is_served: false,
        });
        if lane.items.len() >= self.lane_limit {
            return Err(item);
        }
        lane.items.push_back((item, expected));
        self.len += 1;
        if lane.items.len() == 1 && !lane.is_served {
            self.schedule(key);
        }
        self.check_invariants();
        Ok(())
    }

    /// Takes the item whose turn it is. Its key has no further turn until [`FairQueue::spend`] says
    /// what it cost.
    pub(super) fn pop(&mut self) -> Option<(K, T)> {
        let (key, start) = self.pop_turn()?;
        let lane = self.lanes.get_mut(&key)?;
        let (item, _) = lane.items.pop_front()?;
        lane.is_served = true;
        lane.ended = start;
        self.now = self.now.max(start);
        self.len -= 1;
        self.check_invariants();
        Some((key, item))
    }

    /// What was taken of `key` is done, and cost so much.
    pub(super) fn spend(&mut self, key: K, cost: u64) {
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        lane.is_served = false;
        lane.ended = lane.ended.saturating_add(cost);
        if !lane.items.is_empty() {
            self.schedule(key);
        } else if lane.ended <= self.now {
            self.lanes.remove(&key);
        } else {
            // It is remembered for what it has used: room for items would be most of its memory.
            lane.items = VecDeque::new();
        }
        self.check_invariants();
    }

    /// It has changed: in debug builds, what must always hold is checked.
    fn check_invariants(&self) {
        #[cfg(debug_assertions)]
        if self.lanes.len() <= super::invariants::CHECKED {
            self.assert_invariants();
        }
    }

    /// S7.
    #[cfg(any(test, debug_assertions))]
    fn assert_invariants(&self) {
        let lanes = self.lanes.values();
        let items = lanes.clone().map(|lane| lane.items.len());
        assert_eq!(self.len, items.clone().sum::<usize>(), "S7: the length");
        assert!(
            items.max().is_none_or(|most| most <= self.lane_limit),
            "S7: more of one key than may wait"
        );
        let mut turns = self.by_end.values().map(|(key, _)| key);
        let has_items = |key| {
            let lane = self.lanes.get(key);
            lane.is_some_and(|lane| !lane.is_served && !lane.items.is_empty())
        };
        assert!(turns.all(has_items), "S7: a turn for nothing");
        let waiting = lanes.filter(|lane| !lane.is_served && !lane.items.is_empty());
        assert_eq!(self.by_end.len(), waiting.count(), "S7: the turns");
        assert_eq!(self.by_end.len(), self.by_start.len(), "S7: both orders");
    }

    /// Gives the first item of `key` its turn.
    fn schedule(&mut self, key: K) {
        let Some(lane) = self.lanes.get(&key) else {
            return;
        };
        let expected = lane.items.front().map_or(0, |(_, expected)| *expected);
        let start = lane.ended.max(self.now);
        let end = start.saturating_add(expected);
        let order = self.next_order;
        self.by_start.insert((start, order), (key, end));
        self.by_end.insert((end, order), (key, start));
        self.next_order += 1;
    }

    /// Whose turn it is, and when it begins.
    fn pop_turn(&mut self) -> Option<(K, u64)> {
        self.taken += 1;
        if self.taken.is_multiple_of(BY_START) {
            let ((start, order), (key, end)) = self.by_start.pop_first()?;
            self.by_end.remove(&(end, order));
            Some((key, start))
        } else {
            let ((_, order), (key, start)) = self.by_end.pop_first()?;
            self.by_start.remove(&(start, order));
            Some((key, start))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO_LIMIT: usize = usize::MAX;

    /// Serves everything at `cost` by key, and says in which order.
    fn serve(queue: &mut FairQueue<u8, u32>, cost: impl Fn(u8) -> u64) -> Vec<(u8, u32)> {
        let mut served = Vec::new();
        while let Some((key, item)) = queue.pop() {
            served.push((key, item));
            queue.spend(key, cost(key));
        }
        served
    }

    #[test]
    fn items_of_one_key_keep_their_order() {
        let mut queue = FairQueue::new(NO_LIMIT);
        for item in 0..5 {
            assert_eq!(queue.push(1, item, 0), Ok(()));
        }
        let order: Vec<u32> = serve(&mut queue, |_| 7)
            .into_iter()
            .map(|(_, item)| item)
            .collect();
        assert_eq!(order, [0, 1, 2, 3, 4]);
        assert!(queue.is_empty());
    }

    #[test]
    fn whoever_comes_late_and_asks_little_does_not_wait_behind_a_long_line() {
        let mut queue = FairQueue::new(NO_LIMIT);
        for item in 0..1000 {
            assert_eq!(queue.push(1, item, 0), Ok(()));
        }
        for _ in 0..10 {
            let (key, _) = queue.pop().unwrap();
            queue.spend(key, 100);
        }
        assert_eq!(queue.push(2, 0, 0), Ok(()));
        assert_eq!(queue.pop(), Some((2, 0)));
    }

    #[test]
    fn who_asks_one_dear_thing_at_a_time_pays_for_the_last_one() {
        let mut queue: FairQueue<u8, u32> = FairQueue::new(NO_LIMIT);
        let mut served = [0u64; 2];
        let costs = [100, 1];
        for key in [0, 1] {
            assert_eq!(queue.push(key, 0, 0), Ok(()));
        }
        // Each asks again as soon as it is answered, so nobody ever has two items waiting.
        for _ in 0..2000 {
            let (key, item) = queue.pop().unwrap();
            queue.spend(key, costs[usize::from(key)]);
            served[usize::from(key)] += costs[usize::from(key)];
            assert_eq!(queue.push(key, item, 0), Ok(()));
        }
        let [dear, cheap] = served;
        assert!(dear.abs_diff(cheap) <= 100, "{dear} and {cheap}");
    }

    #[test]
    fn of_many_who_have_used_nothing_whoever_asks_little_is_next() {
        let mut queue = FairQueue::new(NO_LIMIT);
        for key in 0..90 {
            assert_eq!(queue.push(key, 0, 450), Ok(()));
        }
        let (key, _) = queue.pop().unwrap();
        assert_eq!(queue.push(200, 1, 20), Ok(()));
        queue.spend(key, 450);
        assert_eq!(queue.pop(), Some((200, 1)));
    }

    #[test]
    fn a_dear_thing_is_not_put_off_for_ever_by_cheap_ones_of_others() {
        let mut queue = FairQueue::new(NO_LIMIT);
        assert_eq!(queue.push(0, 0, 450), Ok(()));
        for key in 1..10 {
            assert_eq!(queue.push(key, 0, 20), Ok(()));
        }
        // Each cheap one is followed by one of somebody new.
        for key in 10..1000 {
            let (served, _) = queue.pop().unwrap();
            if served == 0 {
                assert!(key > 15, "the cheap ones go first");
                return;
            }
            queue.spend(served, 20);
            assert_eq!(queue.push(key, 0, 20), Ok(()));
        }
        panic!("it has waited for a thousand others");
    }

    #[test]
    fn a_key_holds_no_more_than_it_may() {
        let mut queue = FairQueue::new(2);
        assert_eq!(queue.push(1, 0, 0), Ok(()));
        assert_eq!(queue.push(1, 1, 0), Ok(()));
        assert_eq!(queue.push(1, 2, 0), Err(2));
        assert_eq!(queue.push(2, 3, 0), Ok(()));
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn a_key_that_is_remembered_keeps_no_room_for_items() {
        let mut queue = FairQueue::new(NO_LIMIT);
        assert_eq!(queue.push(1, [0u8; 100], 0), Ok(()));
        assert!(queue.pop().is_some());
        queue.spend(1, 1000);
        assert!(queue.lanes.values().all(|lane| lane.items.capacity() == 0));
        assert_eq!(queue.lanes.len(), 1);
    }

    #[test]
    fn keys_that_have_nothing_waiting_are_forgotten_in_the_end() {
        let mut queue = FairQueue::new(NO_LIMIT);
        for key in 0..3 * KEYS_REMEMBERED {
            assert_eq!(queue.push(key, (), 0), Ok(()));
            assert!(queue.pop().is_some());
            queue.spend(key, 1);
        }
        assert!(queue.lanes.len() <= KEYS_REMEMBERED);
    }

    proptest! {
        /// Whatever comes when, nothing is lost or doubled, each key keeps its order, and two keys
        /// that wait all the time are served alike but for one item of each.
        #[test]
        fn everything_is_served_once_and_fairly(
            steps in prop::collection::vec((0u8..4, 1u64..50, any::<bool>()), 1..300),
        ) {
            let mut queue = FairQueue::new(NO_LIMIT);
            let mut next = [0u32; 4];
            let mut expected = [0u32; 4];
            let mut pushed = 0;
            let mut popped = 0;
            for (key, cost, is_push) in steps {
                if is_push {
                    prop_assert_eq!(queue.push(key, next[usize::from(key)], 0), Ok(()));
                    next[usize::from(key)] += 1;
                    pushed += 1;
                } else if let Some((key, item)) = queue.pop() {
                    prop_assert_eq!(item, expected[usize::from(key)]);
                    expected[usize::from(key)] += 1;
                    popped += 1;
                    queue.spend(key, cost);
                }
                prop_assert_eq!(queue.len(), pushed - popped);
                queue.assert_invariants();
            }
        }

        #[test]
        fn backlogged_keys_get_the_same_but_for_one_item_each(
            costs in prop::collection::vec(1u64..1000, 2..6),
        ) {
            let mut queue = FairQueue::new(NO_LIMIT);
            let mut served = vec![0u64; costs.len()];
            for (key, _) in costs.iter().enumerate() {
                for item in 0..100u32 {
                    prop_assert_eq!(queue.push(key, item, 0), Ok(()));
                }
            }
            // As long as nobody has run out.
            for _ in 0..100 {
                let (key, _) = queue.pop().unwrap();
                queue.spend(key, costs[key]);
                served[key] += costs[key];
            }
            let dearest = *costs.iter().max().unwrap();
            for (one, other) in served.iter().zip(served.iter().skip(1)) {
                prop_assert!(one.abs_diff(*other) <= 2 * dearest, "{served:?} of {costs:?}");
            }
        }
    }
}
