//! Friends are told who comes online and who has gone.
//!
//! Owns who is told, and when: of a coming at once, of a going only when the user has stayed away
//! for a while, so that a change of networks is no news. Where routes live in the storage, so do
//! departures, and whichever process finds one due tells of it; else they are here, and die with
//! the connections.
//!
//! Invariants: of one user at most [`TOLD_LIMIT`] others are told, and whom the user lists before
//! any stranger; what is kept of departures is bounded.

use std::collections::{HashMap, VecDeque};

use super::{
    engine::Engine,
    store::{Failure, Storage},
};
use crate::{
    base::id::UserId,
    proto::{PushKind, PushMessage},
};

/// Who is told of one user, at most.
const TOLD_LIMIT: usize = 1000;
/// So long after a user's last session the others are told that the user is gone.
const OFFLINE_AFTER_MS: i64 = 30_000;
/// Departures told at once.
const DEPARTURES_AT_ONCE: usize = 64;
/// Departures that are remembered; of those before them nobody is told.
const DEPARTURES_LIMIT: usize = 262_144;

/// Users who have gone and have not come back, where routes live in memory.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// When each is to be told of.
    due_ms: HashMap<UserId, i64>,
    /// The same in the order of time; who has come back, or gone again, is in it still.
    in_order: VecDeque<(i64, UserId)>,
}

impl Departures {
    fn note(&mut self, user: UserId, due_ms: i64) {
        if self.in_order.len() >= DEPARTURES_LIMIT
            && let Some((due_ms, oldest)) = self.in_order.pop_front()
        {
            self.forget_if_due(oldest, due_ms);
        }
        self.due_ms.insert(user, due_ms);
        self.in_order.push_back((due_ms, user));
    }

    fn forget(&mut self, user: UserId) {
        self.due_ms.remove(&user);
    }

    /// Whether the departure of `user` was the one noted for `due_ms`; then it is forgotten.
    fn forget_if_due(&mut self, user: UserId, due_ms: i64) -> bool {
        let is_it = self.due_ms.get(&user) == Some(&due_ms);
        if is_it {
            self.due_ms.remove(&user);
        }
        is_it
    }

    fn take_due(&mut self, now_ms: i64) -> Vec<UserId> {
        let mut due = Vec::new();
        while due.len() < DEPARTURES_AT_ONCE
            && let Some(&(due_ms, user)) = self.in_order.front()
            && due_ms <= now_ms
        {
            self.in_order.pop_front();
            if self.forget_if_due(user, due_ms) {
                due.push(user);
            }
        }
        due
    }

    /// How many are remembered, those who are back included.
    #[cfg(debug_assertions)]
    pub(super) fn len(&self) -> usize {
        self.in_order.len()
    }

    /// S6.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn assert_invariants(&self) {
        let in_order: std::collections::HashSet<&(i64, UserId)> = self.in_order.iter().collect();
        for (user, due_ms) in &self.due_ms {
            assert!(
                in_order.contains(&(*due_ms, *user)),
                "S6: the departure of user {user} has no place"
            );
        }
        assert!(
            self.in_order.len() <= DEPARTURES_LIMIT,
            "S6: too many departures"
        );
    }

    /// When the first of them is due; `None`: there is none.
    pub(super) fn next_due_ms(&self) -> Option<i64> {
        self.in_order.front().map(|(due_ms, _)| *due_ms)
    }
}

impl<S: Storage> Engine<S> {
    /// The user's first route is there.
    pub(super) fn has_come(&mut self, user: UserId) -> Result<(), Failure> {
        if self.presence.is_in_storage() {
            self.store.write()?.delete_departure(user)?;
        } else {
            self.departures.forget(user);
        }
        self.tell(user, "friend_online")
    }

    /// The user's last route is gone.
    pub(super) fn has_gone(&mut self, user: UserId) -> Result<(), Failure> {
        let due_ms = self.now_ms.saturating_add(OFFLINE_AFTER_MS);
        if self.presence.is_in_storage() {
            self.store.write()?.put_departure(user, due_ms)
        } else {
            self.departures.note(user, due_ms);
            Ok(())
        }
    }

    /// Whether a departure is due that nobody was told of. Looks without waiting for anybody.
    pub(super) fn has_due_departures(&self, now_ms: i64) -> bool {
        if !self.presence.is_in_storage() {
            return self
                .departures
                .next_due_ms()
                .is_some_and(|due| due <= now_ms);
        }
        match self.store.read().due_departures(now_ms, 1) {
            Ok(due) => !due.is_empty(),
            Err(error) => {
                log::warn!("cannot look for users who have gone: {error}");
                false
            }
        }
    }

    /// Tells of departures that are due, some at a time.
    pub(super) fn tell_departures(&mut self) -> Result<(), Failure> {
        let now_ms = self.now_ms;
        let due = if self.presence.is_in_storage() {
            let due = self
                .store
                .read()
                .due_departures(now_ms, DEPARTURES_AT_ONCE)?;
            for user in &due {
                self.store.write()?.delete_departure(*user)?;
            }
            due
        } else {
            self.departures.take_due(now_ms)
        };
        for user in due {
            if !self.is_bound(user)? {
                self.tell(user, "friend_offline")?;
            }
        }
        Ok(())
    }

    /// Tells whom the user lists, those first who list the user as well, then others who do, as far
    /// as they are online.
    fn tell(&mut self, user: UserId, kind: &str) -> Result<(), Failure> {
        let rows = self.store.read();
        let mut told = rows.friends_mutual_first(user)?;
        told.truncate(TOLD_LIMIT);
        if told.len() < TOLD_LIMIT {
            told.extend(rows.followers(user, (TOLD_LIMIT - told.len()) as u32)?);
        }
        let mut name = None;
        for friend in told {
            if friend == user || !self.is_bound(friend)? {
                continue;
            }
            let name = match &name {
                Some(name) => name,
                None => name.insert(self.store.read().name_of(user)?.unwrap_or_default()),
            };
            let notice = PushMessage {
                from: user,
                to: friend,
                ts_ms: self.unix_ms,
                kind: PushKind::Notice.into(),
                text: format!("{kind} uid={user} name={name}"),
                ..Default::default()
            };
            self.push_to(friend, notice)?;
        }
        Ok(())
    }
}
