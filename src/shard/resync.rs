//! The resync after pushes may have been lost: all streams and memberships here are asked for
//! again, some at a time.
//!
//! Owns the passes over all streams and over all memberships: what of them is still to be asked
//! for, and how much is asked for at one time. The flows that ask are [`Effect::Resync`]. Messages
//! and memberships are of different services, and neither pass waits for the other.
//!
//! Invariants: each user and group is in a queue once; at most as many flows are under way as there
//! are permits; the passes of a kind begin a second apart, and one that was asked for meanwhile
//! comes after.

use std::{collections::VecDeque, sync::Arc};

use super::{Effect, Shard};
use crate::{
    base::id::{GroupId, Stream, UserId},
    shard::{FETCHES, sequencer::Fetch},
};

/// Flows under way of each kind: together, as many as may fetch at one time.
const MESSAGES_AT_ONCE: usize = FETCHES - MEMBERSHIPS_AT_ONCE;
const MEMBERSHIPS_AT_ONCE: usize = 16;
/// So long the messages of groups wait at most until it is known who is still in them.
const GROUPS_WAIT_MS: u64 = 5_000;
/// Between the beginnings of two passes.
const PASS_MS: u64 = 1_000;

/// Something of which pushes may have been lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResyncTarget {
    /// The messages of a stream.
    Messages(Stream),
    /// Which groups a user is in.
    Memberships(UserId),
}

/// A permit for one flow of a resync. It is free again once it is dropped, whatever becomes of the
/// flow.
#[derive(Debug)]
pub struct ResyncPermit {
    _held: Arc<()>,
}

/// Where the passes of a resync stand.
#[derive(Debug, Default)]
pub(super) struct Resync {
    messages: Pass,
    memberships: Pass,
    /// Groups wait until then at most.
    groups_wait_until_ms: Option<u64>,
}

/// The pass over one kind of target.
#[derive(Debug, Default)]
struct Pass {
    queue: VecDeque<ResyncTarget>,
    /// Each permit has a clone.
    permits: Arc<()>,
    began_ms: Option<u64>,
    /// Another pass is due.
    again: bool,
}

impl Resync {
    /// Each is asked for once, in the pass of its kind, by as many flows as may.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn assert_invariants(&self) {
        for (pass, at_once) in [
            (&self.messages, MESSAGES_AT_ONCE),
            (&self.memberships, MEMBERSHIPS_AT_ONCE),
        ] {
            let once: std::collections::HashSet<&ResyncTarget> = pass.queue.iter().collect();
            assert_eq!(once.len(), pass.queue.len(), "I10: resynced twice");
            // The pass itself holds one.
            let flows = Arc::strong_count(&pass.permits) - 1;
            assert!(flows <= at_once, "I10: {flows} flows at one time");
        }
        let messages = self.messages.queue.iter();
        let is_of_messages = |target: &ResyncTarget| matches!(target, ResyncTarget::Messages(_));
        assert!(messages.clone().all(is_of_messages), "I10: {messages:?}");
        let memberships = self.memberships.queue.iter();
        assert!(
            !memberships.clone().any(is_of_messages),
            "I10: {memberships:?}"
        );
    }

    #[cfg(test)]
    pub(super) fn is_under_way(&self) -> bool {
        [&self.messages, &self.memberships].iter().any(|pass| {
            pass.again || !pass.queue.is_empty() || Arc::strong_count(&pass.permits) > 1
        })
    }
}

impl Pass {
    /// Begins another pass if one is due, over what there is now.
    fn begin(&mut self, now_ms: u64, all: impl Iterator<Item = ResyncTarget>) {
        let is_early = self
            .began_ms
            .is_some_and(|began_ms| now_ms < began_ms + PASS_MS);
        if self.again && self.queue.is_empty() && !is_early {
            self.again = false;
            self.began_ms = Some(now_ms);
            self.queue.extend(all);
        }
    }

    /// The next target that somebody is still here for, if there is a permit for it.
    fn next(
        &mut self,
        at_once: usize,
        mut is_here: impl FnMut(&ResyncTarget) -> bool,
    ) -> Option<Effect> {
        // The pass itself holds one.
        if Arc::strong_count(&self.permits) > at_once {
            return None;
        }
        let queue = &mut self.queue;
        let target = std::iter::from_fn(|| queue.pop_front()).find(|target| is_here(target))?;
        let permit = ResyncPermit {
            _held: Arc::clone(&self.permits),
        };
        Some(Effect::Resync { target, permit })
    }
}

impl Shard {
    /// Pushes may have been lost: whatever is numbered is fetched from the last number on, and
    /// memberships are read anew.
    pub fn on_gap(&mut self) {
        self.metrics.push_gaps_total.inc();
        self.resync.messages.again = true;
        self.resync.memberships.again = true;
        let until_ms = self.now_ms() + GROUPS_WAIT_MS;
        self.resync.groups_wait_until_ms.get_or_insert(until_ms);
        for group in self.groups.values_mut() {
            if !group.members.is_empty() {
                group.unknown.extend(group.members.keys());
                group.messages.pause();
            }
        }
        self.continue_resync();
    }

    /// It is known again which groups `user` is in, or that nobody knows it.
    pub fn memberships_known(&mut self, user: UserId) {
        for slot in self.slots_of(user) {
            for group in self.groups_of(self.key_of(slot)) {
                self.membership_known(slot, group);
            }
        }
    }

    /// Nothing more is to be asked of this session; if it was the last one, what waited for `group`
    /// goes out.
    pub(super) fn membership_known(&mut self, slot: u32, group: GroupId) {
        if let Some(entry) = self.groups.get_mut(&group)
            && entry.unknown.remove(&slot)
            && entry.unknown.is_empty()
        {
            entry.messages.resume();
            self.fetch_missed(Stream::Group(group));
        }
    }

    /// Nobody answers who is in which group: it goes on as if nothing had changed.
    fn wait_no_longer(&mut self) {
        let waiting = self.groups.iter();
        let waiting = waiting.filter(|(_, group)| !group.unknown.is_empty());
        let waiting: Vec<GroupId> = waiting.map(|(group, _)| *group).collect();
        for group in waiting {
            if let Some(entry) = self.groups.get_mut(&group) {
                entry.unknown.clear();
                entry.messages.resume();
                self.fetch_missed(Stream::Group(group));
            }
        }
    }

    /// A flow of a pass has ended, or time has passed: starts the next ones.
    pub fn continue_resync(&mut self) {
        let now_ms = self.now_ms();
        let wait = &mut self.resync.groups_wait_until_ms;
        if wait.take_if(|until_ms| now_ms >= *until_ms).is_some() {
            self.wait_no_longer();
        }
        let (users, groups) = (&self.users, &self.groups);
        let is_here = |target: &ResyncTarget| match target {
            ResyncTarget::Messages(Stream::Direct(user)) | ResyncTarget::Memberships(user) => {
                users.contains_key(user)
            }
            ResyncTarget::Messages(Stream::Group(group)) => groups.contains_key(group),
        };
        let Resync {
            messages,
            memberships,
            ..
        } = &mut self.resync;
        let inboxes = users.keys().copied().map(Stream::Direct);
        let streams = inboxes.chain(groups.keys().copied().map(Stream::Group));
        messages.begin(now_ms, streams.map(ResyncTarget::Messages));
        memberships.begin(now_ms, users.keys().copied().map(ResyncTarget::Memberships));
        for (pass, at_once) in [
            (messages, MESSAGES_AT_ONCE),
            (memberships, MEMBERSHIPS_AT_ONCE),
        ] {
            self.effects
                .extend(std::iter::from_fn(|| pass.next(at_once, is_here)));
        }
    }

    /// Messages of `stream` may have been lost: the fetch to start, if one is.
    pub fn missed(&mut self, stream: Stream) -> Option<Fetch> {
        self.sequencer_mut(stream)?.gap_possible()
    }
}
