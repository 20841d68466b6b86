//! Which password is hashed next, and which one goes when too many wait.
//!
//! Two lanes take turns while both have something, so neither logins nor registrations wait for
//! more than as many of the others. Within a lane networks take turns, so whoever sends a hundred
//! at once waits for himself. A full lane takes a newcomer from a network that has few waiting, at
//! the expense of the one with the most. Values in, values out: no thread, no clock.

use std::collections::{HashMap, VecDeque};

/// What a password is hashed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Logins,
    Registrations,
}

/// See the module's description.
pub(super) struct Lanes<J> {
    logins: FairQueue<J>,
    registrations: FairQueue<J>,
    next: Lane,
}

impl<J> Default for Lanes<J> {
    fn default() -> Self {
        Self {
            logins: FairQueue::default(),
            registrations: FairQueue::default(),
            next: Lane::Logins,
        }
    }
}

impl<J> Lanes<J> {
    /// Queues a job of `network` in a lane with room for `room`; the one that loses its place is
    /// handed back.
    pub(super) fn push(&mut self, lane: Lane, network: Vec<u8>, room: usize, job: J) -> Option<J> {
        self.lane(lane).push(network, room, job)
    }

    /// The next job: of the lane whose turn it is, if it has one.
    pub(super) fn pop(&mut self) -> Option<J> {
        let (lane, other) = match self.next {
            Lane::Logins => (Lane::Logins, Lane::Registrations),
            Lane::Registrations => (Lane::Registrations, Lane::Logins),
        };
        if let Some(job) = self.lane(lane).pop() {
            self.next = other;
            return Some(job);
        }
        self.lane(other).pop()
    }

    /// Whether nothing waits in the lane that is not `lane`.
    pub(super) fn is_other_empty(&self, lane: Lane) -> bool {
        match lane {
            Lane::Logins => self.registrations.length == 0,
            Lane::Registrations => self.logins.length == 0,
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut FairQueue<J> {
        match lane {
            Lane::Logins => &mut self.logins,
            Lane::Registrations => &mut self.registrations,
        }
    }
}

/// A queue in which networks take turns. A network without a job has no entry.
struct FairQueue<J> {
    jobs: HashMap<Vec<u8>, VecDeque<J>>,
    rotation: VecDeque<Vec<u8>>,
    length: usize,
}

impl<J> Default for FairQueue<J> {
    fn default() -> Self {
        Self {
            jobs: HashMap::new(),
            rotation: VecDeque::new(),
            length: 0,
        }
    }
}

impl<J> FairQueue<J> {
    fn push(&mut self, network: Vec<u8>, room: usize, job: J) -> Option<J> {
        let mut lost = None;
        if self.length >= room {
            let own = self.jobs.get(&network).map_or(0, VecDeque::len);
            let length = |network: &Vec<u8>| self.jobs.get(network).map_or(0, VecDeque::len);
            // Of several, the one whose turn is furthest away.
            let longest = self.rotation.iter().max_by_key(|network| length(network));
            let longest = longest.filter(|network| length(network) > own + 1);
            // With two or more jobs, it keeps its entry.
            lost = longest
                .cloned()
                .and_then(|network| self.jobs.get_mut(&network)?.pop_back());
            if lost.is_none() {
                return Some(job);
            }
            self.length -= 1;
        }
        if !self.jobs.contains_key(&network) {
            self.rotation.push_back(network.clone());
        }
        self.jobs.entry(network).or_default().push_back(job);
        self.length += 1;
        self.check_invariants();
        lost
    }

    fn pop(&mut self) -> Option<J> {
        let network = self.rotation.pop_front()?;
        let jobs = self.jobs.get_mut(&network)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.jobs.remove(&network);
        } else {
            self.rotation.push_back(network);
        }
        self.length -= usize::from(job.is_some());
        self.check_invariants();
        job
    }

    /// S8, in debug builds.
    fn check_invariants(&self) {
        debug_assert_eq!(self.rotation.len(), self.jobs.len(), "S8: the turns");
        let waiting = self.jobs.values().map(VecDeque::len);
        debug_assert!(
            waiting.clone().all(|some| some > 0),
            "S8: a turn for nothing"
        );
        debug_assert_eq!(self.length, waiting.sum::<usize>(), "S8: the length");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 100;

    fn drain(lanes: &mut Lanes<u32>) -> Vec<u32> {
        std::iter::from_fn(|| lanes.pop()).collect()
    }

    fn network(number: u8) -> Vec<u8> {
        vec![number]
    }

    #[test]
    fn logins_and_registrations_take_turns_while_both_wait() {
        let mut lanes = Lanes::default();
        for number in 0..6 {
            lanes.push(Lane::Registrations, network(1), ROOM, 100 + number);
        }
        for number in 0..3 {
            lanes.push(Lane::Logins, network(2), ROOM, number);
        }
        assert!(!lanes.is_other_empty(Lane::Logins));
        assert_eq!(
            drain(&mut lanes),
            [0, 100, 1, 101, 2, 102, 103, 104, 105],
            "neither waits for more than one of the others"
        );
        assert!(lanes.is_other_empty(Lane::Logins) && lanes.is_other_empty(Lane::Registrations));
    }

    #[test]
    fn networks_take_turns_and_each_keeps_its_own_order() {
        let mut lanes = Lanes::default();
        for number in 0..5 {
            lanes.push(Lane::Logins, network(1), ROOM, 10 + number);
        }
        for number in 0..2 {
            lanes.push(Lane::Logins, network(2), ROOM, 20 + number);
        }
        lanes.push(Lane::Logins, network(3), ROOM, 30);
        assert_eq!(drain(&mut lanes), [10, 20, 30, 11, 21, 12, 13, 14]);
    }

    #[test]
    fn a_full_lane_takes_a_place_from_the_network_with_the_most() {
        let mut lanes = Lanes::default();
        for number in 0..4 {
            assert_eq!(lanes.push(Lane::Logins, network(1), 4, 10 + number), None);
        }
        // The crowd itself gets no more, a newcomer does.
        assert_eq!(lanes.push(Lane::Logins, network(1), 4, 14), Some(14));
        assert_eq!(lanes.push(Lane::Logins, network(2), 4, 20), Some(13));
        assert_eq!(lanes.push(Lane::Logins, network(2), 4, 21), Some(12));
        // Two each: nobody is better off than who comes now.
        assert_eq!(lanes.push(Lane::Logins, network(2), 4, 22), Some(22));
        // One place is not taken from who has one only, or two and the newcomer would have as many.
        assert_eq!(lanes.push(Lane::Logins, network(3), 4, 30), Some(21));
        assert_eq!(lanes.push(Lane::Registrations, network(1), 1, 40), None);
        assert_eq!(drain(&mut lanes), [10, 40, 20, 30, 11]);
    }

    #[test]
    fn a_lane_without_room_takes_nothing() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.push(Lane::Logins, network(1), 0, 1), Some(1));
        assert_eq!(lanes.pop(), None);
    }
}
