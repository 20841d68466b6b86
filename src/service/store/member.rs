//! Memberships: who reads a group, since which number, and how far behind the slowest is.
//!
//! Invariant: a group has room as long as its last number is below `room_until_seq`; only a look at
//! every member raises it.

use super::{Failure, Members, Storage, Store, StreamId};
use crate::{
    base::id::{GroupId, UserId},
    service::cursor::Cursor,
};

impl<S: Storage> Store<S> {
    /// Remembers a group's stream; `false`: there is no such group.
    ///
    /// Looks at every member once: what an earlier process left open ends here, before the group
    /// gets a new number.
    pub(in crate::service) fn load_group(
        &mut self,
        group: GroupId,
        is_bound: impl Fn(&S, UserId) -> Result<bool, Failure>,
    ) -> Result<bool, Failure> {
        let stream = StreamId::group(group);
        if self.last_seqs.contains_key(&stream) {
            return Ok(true);
        }
        let was_looked_at = self.members.contains_key(&stream);
        if !was_looked_at && !self.storage.group_exists(group)? {
            return Ok(false);
        }
        let last_seq = self.storage.last_seq(stream)?;
        if !was_looked_at {
            let members = self.look_at_members(stream, last_seq, is_bound)?;
            self.members.insert(stream, members);
        }
        self.last_seqs.insert(stream, last_seq);
        Ok(true)
    }

    fn look_at_members(
        &mut self,
        stream: StreamId,
        last_seq: u64,
        is_bound: impl Fn(&S, UserId) -> Result<bool, Failure>,
    ) -> Result<Members, Failure> {
        let mut members = Members::default();
        let mut count = 0;
        let mut most_unconfirmed = 0;
        let mut left_open = Vec::new();
        self.storage.each_cursor(stream, |user, cursor| {
            count += 1;
            let unconfirmed = match self.cursors.get(&(stream, user)) {
                Some(remembered) => remembered.cursor.unconfirmed(last_seq),
                None => {
                    let unconfirmed = cursor.unconfirmed(last_seq);
                    if cursor.open_from.is_some() && !is_bound(&self.storage, user)? {
                        left_open.push((user, cursor));
                    }
                    unconfirmed
                }
            };
            if unconfirmed >= most_unconfirmed {
                most_unconfirmed = unconfirmed;
                members.slowest = user;
            }
            Ok(())
        })?;
        for (user, cursor) in left_open {
            self.remember_cursor((stream, user), cursor, last_seq, true);
        }
        members.count = Some(count);
        members.room_until_seq = last_seq + self.inbox_limit.saturating_sub(most_unconfirmed);
        Ok(members)
    }

    /// How many members a loaded group has.
    pub(in crate::service) fn member_count(&mut self, group: GroupId) -> Result<u32, Failure> {
        let stream = StreamId::group(group);
        let Some(members) = self.members.get_mut(&stream) else {
            return Ok(0);
        };
        match members.count {
            Some(count) => Ok(count),
            None => Ok(*members.count.insert(self.storage.reader_count(stream)?)),
        }
    }

    /// Whether a group can take one more message without any member passing the limit of
    /// unconfirmed ones.
    ///
    /// Costs a comparison as long as there is room, and a look at one member while that one is what
    /// fills it.
    pub(in crate::service) fn group_has_room(
        &mut self,
        group: GroupId,
        is_bound: impl Fn(&S, UserId) -> Result<bool, Failure>,
    ) -> Result<bool, Failure> {
        let stream = StreamId::group(group);
        let last_seq = self.last_seq(stream);
        let Some(&members) = self.members.get(&stream) else {
            return Err(Failure::Damaged("a group that was not loaded"));
        };
        if last_seq < members.room_until_seq {
            return Ok(true);
        }
        let limit = self.inbox_limit;
        if let Some(cursor) = self.load_member(stream, members.slowest)?
            && cursor.unconfirmed(last_seq) >= limit
        {
            return Ok(false);
        }
        let members = self.look_at_members(stream, last_seq, is_bound)?;
        self.members.insert(stream, members);
        Ok(last_seq < members.room_until_seq)
    }

    /// The cursor of a member of a group that is loaded; `None`: no member.
    pub(in crate::service) fn load_member(
        &mut self,
        stream: StreamId,
        user: UserId,
    ) -> Result<Option<&mut Cursor>, Failure> {
        let key = (stream, user);
        if !self.cursors.contains_key(&key) {
            let Some(cursor) = self.storage.cursor(key)? else {
                return Ok(None);
            };
            let last_seq = self.last_seq(stream);
            // Loading the group has ended what was left open, so an open one belongs to a bound
            // user.
            self.remember_cursor(key, cursor, last_seq, false);
        }
        Ok(self
            .cursors
            .get_mut(&key)
            .map(|remembered| &mut remembered.cursor))
    }

    /// Inserts a membership that starts after the group's last number.
    pub(in crate::service) fn insert_member(
        &mut self,
        group: GroupId,
        user: UserId,
        is_bound: bool,
    ) -> Result<(), Failure> {
        let stream = StreamId::group(group);
        let last_seq = self.last_seq(stream);
        let mut cursor = Cursor::joining_after(last_seq);
        if is_bound {
            cursor.open(last_seq);
        }
        let key = (stream, user);
        self.touched_streams.push(stream);
        self.touched_cursors.push(key);
        self.write()?.write_cursor(key, &cursor)?;
        self.remember_cursor(key, cursor, last_seq, false);
        if let Some(members) = self.members.get_mut(&stream) {
            members.count = members.count.map(|count| count + 1);
        }
        Ok(())
    }

    /// Ends a membership.
    pub(in crate::service) fn delete_member(
        &mut self,
        group: GroupId,
        user: UserId,
    ) -> Result<(), Failure> {
        let stream = StreamId::group(group);
        let key = (stream, user);
        self.touched_streams.push(stream);
        self.touched_cursors.push(key);
        self.write()?.delete_cursor(key)?;
        self.cursors.remove(&key);
        self.opened.remove(&key);
        if let Some(members) = self.members.get_mut(&stream) {
            members.count = members.count.map(|count| count.saturating_sub(1));
        }
        Ok(())
    }

    /// Of a stream: the numbers every reader has confirmed reach up to here without a hole.
    pub(in crate::service) fn confirmed_by_all(&self, stream: StreamId) -> Result<u64, Failure> {
        let mut lowest = self.last_seq(stream);
        self.storage.each_floor(stream, |user, stored| {
            let known = self.cursors.get(&(stream, user));
            lowest = lowest.min(known.map_or(stored, |known| known.cursor.floor));
        })?;
        Ok(lowest)
    }
}
