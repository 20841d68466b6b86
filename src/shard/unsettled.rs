//! Logins that were answered although a service was away: what of them is still to be told or
//! asked.
//!
//! Owns the list of users and what each lacks. The flow that goes through it is [`Effect::Settle`];
//! one at a time.
//!
//! Invariants: whoever stands here has a session on this core and lacks something; while anybody
//! stands here, a flow is under way.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use super::{Effect, Shard};
use crate::base::id::UserId;

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
        let entry = self.unsettled.users.entry(user).or_default();
        if lack.route && !entry.route {
            self.metrics.users_without_route.inc();
        }
        entry.route |= lack.route;
        entry.groups |= lack.groups;
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

    /// How many users lack something.
    pub fn count_unsettled(&self) -> usize {
        self.unsettled.users.len()
    }

    /// `user` lacks this no more.
    pub fn settled(&mut self, user: UserId, settled: Lack) {
        let Some(entry) = self.unsettled.users.get_mut(&user) else {
            return;
        };
        if settled.route && entry.route {
            self.metrics.users_without_route.dec();
        }
        entry.route &= !settled.route;
        entry.groups &= !settled.groups;
        if *entry == Lack::NOTHING {
            self.unsettled.users.remove(&user);
        }
    }

    /// The last session of `user` has gone.
    pub(super) fn forget_unsettled(&mut self, user: UserId) {
        self.settled(user, Lack::ROUTE);
        self.settled(user, Lack::GROUPS);
    }
}
