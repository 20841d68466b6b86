//! What must always hold in a shard, checked in debug builds after every entry, and how full its tables are.

use super::Shard;

/// For the simulation, which wants everything to be given back.
#[cfg(test)]
impl Shard {
    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// How many entries the timing wheel has.
    pub(crate) fn armed(&self) -> usize {
        self.wheel.len()
    }

    /// How many connections wait to be asked what they have.
    pub(crate) fn to_be_asked(&self) -> usize {
        self.questions.waiting()
    }

    /// Whether something is still to be looked for.
    pub(crate) fn is_searching(&self) -> bool {
        self.search.is_under_way()
    }

    /// How many users have a session here, and how many groups are known.
    pub(crate) fn table_sizes(&self) -> (usize, usize) {
        (self.users.len(), self.groups.len())
    }
}

impl Shard {
    /// In debug builds, checks what must always hold; costs time proportional to the shard, so small ones only.
    pub(super) fn check_invariants(&self) {
        if !cfg!(debug_assertions) || self.connections.len() > 64 {
            return;
        }
        for (user_id, user) in &self.users {
            debug_assert!(!user.slots.is_empty(), "user {user_id} without session");
            for slot in &user.slots {
                let session = &self.connections[*slot as usize].session;
                debug_assert_eq!(session.login().map(|login| login.user), Some(*user_id));
            }
        }
        for (group_id, group) in &self.groups {
            debug_assert!(group.holds > 0 || !group.members.is_empty());
            for slot in group.members.keys() {
                let session = &self.connections[*slot as usize].session;
                debug_assert!(
                    session
                        .login()
                        .is_some_and(|login| login.groups.contains(group_id))
                );
            }
        }
        for key in &self.dirty {
            debug_assert!(
                self.connection(*key)
                    .is_none_or(|connection| connection.dirty)
            );
        }
    }
}
