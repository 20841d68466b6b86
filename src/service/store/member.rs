//! Memberships: who reads a group, since which number, and how far behind the slowest is.
//!
//! Invariant: a group has room as long as its last number is below `room_until_seq`; only a look at every member raises it.

use rusqlite::params;

use super::{Failure, Members, Store, StreamId, row};
use crate::{
    id::{GroupId, UserId},
    service::cursor::Cursor,
};

impl Store {
    /// Remembers a group's stream; `false`: there is no such group.
    ///
    /// Looks at every member once: what an earlier process left open ends here, before the group gets a new number.
    pub(in crate::service) fn load_group(
        &mut self,
        group: GroupId,
        is_bound: impl Fn(UserId) -> bool,
    ) -> Result<bool, Failure> {
        let stream = StreamId::group(group);
        if self.last_seqs.contains_key(&stream) {
            return Ok(true);
        }
        let known = self
            .connection
            .prepare_cached("SELECT 1 FROM groups WHERE group_id = ?1")?
            .exists([group])?;
        if !known {
            return Ok(false);
        }
        let last_seq = self.stored_last_seq(stream)?;
        let members = self.look_at_members(stream, last_seq, is_bound)?;
        self.last_seqs.insert(stream, last_seq);
        self.members.insert(stream, members);
        Ok(true)
    }

    fn look_at_members(
        &mut self,
        stream: StreamId,
        last_seq: u64,
        is_bound: impl Fn(UserId) -> bool,
    ) -> Result<Members, Failure> {
        let mut members = Members::default();
        let mut most_unconfirmed = 0;
        let mut left_open = Vec::new();
        {
            let mut statement = self.connection.prepare_cached(
                "SELECT user_id, since, floor, confirmed, handed, open_from FROM cursors WHERE stream = ?1",
            )?;
            let mut rows = statement.query([stream.row()])?;
            while let Some(row) = rows.next()? {
                let user: UserId = row.get(0)?;
                members.count += 1;
                let unconfirmed = match self.cursors.get(&(stream, user)) {
                    Some(remembered) => remembered.cursor.unconfirmed(last_seq),
                    None => {
                        let cursor = row::read_cursor(row, 1)?;
                        let unconfirmed = cursor.unconfirmed(last_seq);
                        if cursor.open_from.is_some() && !is_bound(user) {
                            left_open.push((user, cursor));
                        }
                        unconfirmed
                    }
                };
                if unconfirmed >= most_unconfirmed {
                    most_unconfirmed = unconfirmed;
                    members.slowest = user;
                }
            }
        }
        for (user, cursor) in left_open {
            self.remember_cursor((stream, user), cursor, last_seq, false);
        }
        members.room_until_seq = last_seq + self.inbox_limit.saturating_sub(most_unconfirmed);
        Ok(members)
    }

    /// Whether a group can take one more message without any member passing the limit of unconfirmed ones.
    ///
    /// Costs a comparison as long as there is room, and a look at one member while that one is what fills it.
    pub(in crate::service) fn group_has_room(
        &mut self,
        group: GroupId,
        is_bound: impl Fn(UserId) -> bool,
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
            let Some(cursor) = self.stored_cursor(key)? else {
                return Ok(None);
            };
            let last_seq = self.last_seq(stream);
            // Loading the group has ended what was left open, so an open one belongs to a bound user.
            self.remember_cursor(key, cursor, last_seq, true);
        }
        Ok(self
            .cursors
            .get_mut(&key)
            .map(|remembered| &mut remembered.cursor))
    }

    /// The streams of the groups `user` is in, ascending.
    pub(in crate::service) fn group_streams(&self, user: UserId) -> Result<Vec<StreamId>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT stream FROM cursors WHERE user_id = ?1 AND stream % 2 = 1 ORDER BY stream",
        )?;
        let streams = statement.query_map([user], |row| row.get(0).map(StreamId::from_row))?;
        Ok(streams.collect::<Result<_, _>>()?)
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
        row::write_cursor(self.write()?, key, &cursor)?;
        self.remember_cursor(key, cursor, last_seq, true);
        if let Some(members) = self.members.get_mut(&stream) {
            members.count += 1;
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
        self.write()?
            .prepare_cached("DELETE FROM cursors WHERE stream = ?1 AND user_id = ?2")?
            .execute(params![stream.row(), user])?;
        self.cursors.remove(&key);
        if let Some(members) = self.members.get_mut(&stream) {
            members.count = members.count.saturating_sub(1);
        }
        Ok(())
    }

    /// Of a stream: the numbers every reader has confirmed reach up to here without a hole.
    pub(in crate::service) fn confirmed_by_all(
        &mut self,
        stream: StreamId,
    ) -> Result<u64, Failure> {
        let mut lowest = self.last_seq(stream);
        let mut statement = self
            .connection
            .prepare_cached("SELECT user_id, floor FROM cursors WHERE stream = ?1")?;
        let mut rows = statement.query([stream.row()])?;
        while let Some(row) = rows.next()? {
            let user: UserId = row.get(0)?;
            let floor = match self.cursors.get(&(stream, user)) {
                Some(known) => known.cursor.floor,
                None => row.get::<_, i64>(1)?.try_into().unwrap_or(0),
            };
            lowest = lowest.min(floor);
        }
        Ok(lowest)
    }
}
