//! Which number belongs to which name, as far as logins have shown.
//!
//! Owns the table, which is bounded: past its size the name that was learnt first goes. No password
//! and no token is ever in it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::base::id::UserId;

/// Takes a name that is new, and its number, to where they are kept. Never waits.
pub type Note = Arc<dyn Fn(&str, UserId) + Send + Sync>;

/// Names at most.
const NAMES: usize = 64 * 1024;

/// Names with their numbers.
#[derive(Clone, Debug, Default)]
pub struct KnownUsers {
    numbers: HashMap<String, UserId>,
    /// Each name once, in the order in which they were learnt.
    order: VecDeque<String>,
}

impl KnownUsers {
    /// Learns whose name `name` is; `false`: that was known.
    pub fn learn(&mut self, name: &str, user: UserId) -> bool {
        if let Some(known) = self.numbers.get_mut(name) {
            return std::mem::replace(known, user) != user;
        }
        if self.order.len() >= NAMES
            && let Some(first) = self.order.pop_front()
        {
            self.numbers.remove(&first);
        }
        self.order.push_back(name.to_owned());
        self.numbers.insert(name.to_owned(), user);
        assert_eq!(self.order.len(), self.numbers.len(), "each name once");
        true
    }

    /// Whose name `name` is.
    pub(super) fn number_of(&self, name: &str) -> Option<UserId> {
        self.numbers.get(name).copied()
    }

    /// How many names are known.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// All names with their numbers, in the order in which they were learnt.
    pub fn iter(&self) -> impl Iterator<Item = (&str, UserId)> {
        let names = self.order.iter();
        names.filter_map(|name| Some((name.as_str(), self.number_of(name)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_number_that_was_learnt_last() {
        let mut known = KnownUsers::default();
        assert!(known.learn("alice", 1) && known.learn("bob", 2));
        assert!(!known.learn("alice", 1), "nothing new");
        assert!(known.learn("alice", 3));
        assert_eq!(known.number_of("alice"), Some(3));
        assert_eq!(known.number_of("carol"), None);
        assert_eq!(known.iter().collect::<Vec<_>>(), [("alice", 3), ("bob", 2)]);
    }

    #[test]
    fn past_its_size_the_name_that_was_learnt_first_goes() {
        let mut known = KnownUsers::default();
        for number in 1..=NAMES as i64 + 1 {
            known.learn(&number.to_string(), number);
        }
        assert_eq!(known.len(), NAMES);
        assert_eq!(known.numbers.len(), NAMES);
        assert_eq!(known.number_of("1"), None);
        assert_eq!(known.number_of("2"), Some(2));
    }
}
