//! Logins that were answered although a service was away: what of them is still to be told or
//! asked.
//!
//! Owns the list of users and what each lacks. The flow that goes through it is [`Effect::Settle`];
//! one at a time.
//!
//! A user's route, as this core knows it (and likewise, what its groups are):
//!
//! ```text
//!                login with Presence
//!   not here ───────────────────────────▶ bound
//!      │                                  │   ▲
//!      │          another one without it  │   │ bound by the flow
//!      │                                  ▼   │
//!      └────────────────────────────────▶ lacking
//!                login without Presence
//!
//!   bound, lacking ── last session gone ──▶ not here
//! ```
//!
//! Invariants: whoever stands here has a session on this core and lacks something; while anybody
//! stands here, a flow is under way.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use super::{Effect, Shard, Standing};
use crate::{
    base::id::{ConnectionKey, GroupId, UserId},
    proto::PushMessage,
};

/// What a user on this core lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lack {
    /// Presence does not know the route.
    pub route: bool,
    /// The user's groups are not known.
    pub groups: bool,
}

impl Lack {
    /// Nothing is lacking.
    pub const NOTHING: Self = Self {
        route: false,
        groups: false,
    };
    /// A route, and no more.
    pub const ROUTE: Self = Self {
        route: true,
        groups: false,
    };
    /// Groups, and no more.
    pub const GROUPS: Self = Self {
        route: false,
        groups: true,
    };
}

/// The place of the one flow that settles; free again once it is dropped, whatever becomes of the
/// flow.
#[derive(Debug)]
pub struct Settling {
    _place: Arc<()>,
}

/// Who lacks what.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    users: BTreeMap<UserId, Lack>,
    /// The flow under way has a clone.
    place: Arc<()>,
}

#[cfg(any(test, debug_assertions))]
impl Unsettled {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&UserId, &Lack)> {
        self.users.iter()
    }
}

impl Shard {
    /// `user` has logged in and lacks this, beside what is known already.
    pub fn lacks(&mut self, user: UserId, lack: Lack) {
        if lack == Lack::NOTHING || !self.is_here(user) {
            return;
        }
        let known = self.lack_of(user);
        let lack = Lack {
            route: known.route || lack.route,
            groups: known.groups || lack.groups,
        };
        self.come_to_lack(user, lack);
        // The list itself holds one.
        if Arc::strong_count(&self.unsettled.place) == 1 {
            let place = Settling {
                _place: Arc::clone(&self.unsettled.place),
            };
            self.effects.push(Effect::Settle(place));
        }
    }

    /// The next user who lacks what is wanted, in their order and round and round; `after`: the one
    /// before.
    pub fn next_lacking(
        &self,
        after: Option<UserId>,
        wanted: impl Fn(&Lack) -> bool,
    ) -> Option<UserId> {
        let users = &self.unsettled.users;
        let behind = users.range((after.map_or(Unbounded, Excluded), Unbounded));
        let mut round = behind.chain(users);
        round.find(|(_, lack)| wanted(lack)).map(|(user, _)| *user)
    }

    /// Whether a login of `user` could not learn its groups.
    pub fn lacks_groups(&self, user: UserId) -> bool {
        self.lack_of(user).groups
    }

    /// As [`Shard::set_memberships`]. Sessions that learn of a group only now are sent what was
    /// `handed_out` of it and not confirmed, as a login that knows its groups is.
    pub fn take_up_groups(
        &mut self,
        user: UserId,
        as_of: u64,
        groups: &[(GroupId, Standing)],
        handed_out: &[PushMessage],
    ) -> bool {
        let slots = self.slots_of(user).into_iter();
        let known: Vec<(ConnectionKey, Vec<GroupId>)> = slots
            .map(|slot| self.key_of(slot))
            .map(|key| (key, self.groups_of(key)))
            .collect();
        if !self.set_memberships(user, as_of, groups) {
            return false;
        }
        // Higher numbers come as pushes.
        let before = |message: &PushMessage| {
            groups.iter().any(|(group, standing)| {
                *group == message.group_id && standing.last_seq >= Some(message.seq)
            })
        };
        for (key, known) in known {
            let mut learnt = self.groups_of(key);
            learnt.retain(|group| !known.contains(group));
            for message in handed_out {
                if learnt.contains(&message.group_id) && before(message) {
                    self.send_again(key, user, message);
                }
            }
        }
        true
    }

    /// How many users lack something.
    pub fn count_unsettled(&self) -> usize {
        self.unsettled.users.len()
    }

    /// `user` lacks this no more.
    pub fn settled(&mut self, user: UserId, settled: Lack) {
        let known = self.lack_of(user);
        let lack = Lack {
            route: known.route && !settled.route,
            groups: known.groups && !settled.groups,
        };
        self.come_to_lack(user, lack);
    }

    fn lack_of(&self, user: UserId) -> Lack {
        let lack = self.unsettled.users.get(&user);
        lack.copied().unwrap_or(Lack::NOTHING)
    }

    /// From now on `user` lacks this, and no more: a step that the drawing shows.
    fn come_to_lack(&mut self, user: UserId, lack: Lack) {
        assert!(
            lack == Lack::NOTHING || self.is_here(user),
            "who is not here lacks nothing"
        );
        let before = match lack {
            Lack::NOTHING => self.unsettled.users.remove(&user),
            lack => self.unsettled.users.insert(user, lack),
        };
        match (before.is_some_and(|before| before.route), lack.route) {
            (false, true) => self.metrics.users_without_route.inc(),
            (true, false) => self.metrics.users_without_route.dec(),
            (false, false) | (true, true) => {}
        }
    }

    /// The last session of `user` has gone.
    pub(super) fn forget_unsettled(&mut self, user: UserId) {
        self.come_to_lack(user, Lack::NOTHING);
    }
}
