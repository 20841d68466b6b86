//! What the tables call a stream: a user's inbox or a group's messages, in one space of numbers.

use crate::base::id::{GroupId, UserId};

/// An inbox or a group, as a row knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::service) struct StreamId(i64);

impl StreamId {
    /// The inbox of a user.
    pub(in crate::service) fn inbox(user: UserId) -> Self {
        Self(user.wrapping_mul(2))
    }

    /// The messages of a group.
    pub(in crate::service) fn group(group: GroupId) -> Self {
        Self(group.wrapping_mul(2).wrapping_add(1))
    }

    /// The stream stored as `row`.
    pub(in crate::service) fn from_row(row: i64) -> Self {
        Self(row)
    }

    /// The number in the tables.
    pub(in crate::service) fn row(self) -> i64 {
        self.0
    }

    /// The group whose stream this is; `None`: an inbox.
    pub(in crate::service) fn group_id(self) -> Option<GroupId> {
        (self.0 & 1 == 1).then_some(self.0 >> 1)
    }

    /// The user or the group whose stream this is.
    pub(in crate::service) fn owner(self) -> i64 {
        self.0 >> 1
    }
}

/// One user's place in one stream.
pub(in crate::service) type CursorKey = (StreamId, UserId);
