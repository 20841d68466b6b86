//! What the limits by address and name count in: who has something under way, and a table that
//! never grows past its size.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

/// How many of each key are under way; a key without any has no entry.
#[derive(Debug)]
pub(super) struct UnderWay<K> {
    pub(super) counts: HashMap<K, u32>,
}

impl<K> Default for UnderWay<K> {
    fn default() -> Self {
        Self {
            counts: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash> UnderWay<K> {
    pub(super) fn count(&self, key: &K) -> u64 {
        self.counts.get(key).copied().map_or(0, u64::from)
    }

    pub(super) fn enter(&mut self, key: K) {
        *self.counts.entry(key).or_insert(0) += 1;
    }

    pub(super) fn leave(&mut self, key: &K) {
        match self.counts.get_mut(key) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => {
                self.counts.remove(key);
            }
            None => debug_assert!(false, "ended more than was begun"),
        }
    }
}

/// A map of at most `capacity` entries, each with a rank; a new one takes the place of the lowest
/// in rank.
#[derive(Debug)]
pub(super) struct BoundedTable<K, V> {
    capacity: usize,
    pub(super) entries: HashMap<K, (u64, V)>,
    by_rank: BTreeSet<(u64, K)>,
}

impl<K: Copy + Eq + Hash + Ord, V: Copy> BoundedTable<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            entries: HashMap::new(),
            by_rank: BTreeSet::new(),
        }
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    pub(super) fn get(&self, key: &K) -> Option<(u64, V)> {
        self.entries.get(key).copied()
    }

    pub(super) fn put(&mut self, key: K, rank: u64, value: V) {
        self.remove(&key);
        if self.capacity == 0 {
            return;
        }
        if self.entries.len() >= self.capacity
            && let Some((_, lowest)) = self.by_rank.pop_first()
        {
            self.entries.remove(&lowest);
        }
        self.entries.insert(key, (rank, value));
        self.by_rank.insert((rank, key));
        self.check_invariants();
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some((rank, _)) = self.entries.remove(key) {
            self.by_rank.remove(&(rank, *key));
        }
    }

    pub(super) fn drop_ranked_up_to(&mut self, rank: u64) {
        while let Some((lowest, key)) = self.by_rank.first().copied()
            && lowest <= rank
        {
            self.by_rank.pop_first();
            self.entries.remove(&key);
        }
    }

    fn check_invariants(&self) {
        debug_assert_eq!(self.entries.len(), self.by_rank.len());
        debug_assert!(self.entries.len() <= self.capacity);
    }
}
