//! The store: the one connection, its transaction, and what is remembered of streams and cursors between transactions.
//!
//! Owns the rules of durability. A transaction begins with the first write of a batch and ends in [`Store::commit`] or
//! [`Store::roll_back`]; nothing else opens one. Never publishes, never answers, knows no sockets.
//!
//! Invariants:
//! - A remembered stream's `last_seq` is that of the open transaction; after a roll-back every stream that was touched is forgotten.
//! - A remembered inbox has its cursor remembered too. A remembered cursor is never older than its row.
//! - A dirty cursor stays dirty until a commit that wrote it succeeded.
//! - All that is remembered is bounded: past [`REMEMBERED_LIMIT`] it is forgotten at the end of a batch, after it was written.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Instant,
};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::{cursor::Cursor, range_set::RangeSet};
use crate::{
    id::{GroupId, UserId},
    proto::Code,
};

/// Streams and cursors remembered at most: some 200 bytes each.
const REMEMBERED_LIMIT: usize = 262_144;
/// How long a confirmation may wait to be written, in milliseconds. Lost in a crash, it comes again as a repeat.
const WRITE_BACK_MS: i64 = 250;

/// An inbox or a group, as a row knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct StreamId(i64);

impl StreamId {
    /// The inbox of a user.
    pub(super) fn inbox(user: UserId) -> Self {
        Self(user.wrapping_mul(2))
    }

    /// The messages of a group.
    pub(super) fn group(group: GroupId) -> Self {
        Self(group.wrapping_mul(2).wrapping_add(1))
    }

    /// The stream stored as `row`.
    pub(super) fn from_row(row: i64) -> Self {
        Self(row)
    }

    /// The number in the tables.
    pub(super) fn row(self) -> i64 {
        self.0
    }

    /// The group whose stream this is; `None`: an inbox.
    pub(super) fn group_id(self) -> Option<GroupId> {
        (self.0 & 1 == 1).then_some(self.0 >> 1)
    }

    /// The user or the group whose stream this is.
    pub(super) fn owner(self) -> i64 {
        self.0 >> 1
    }
}

/// One user's place in one stream.
pub(super) type CursorKey = (StreamId, UserId);

/// Why a call, or the whole batch, could not be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The answer is no; the words are for people.
    #[error("refused: {1}")]
    Refused(Code, &'static str),
    /// The store takes no writes now; the same call may succeed later.
    #[error("the store takes no writes now")]
    NoWrites,
    /// One statement failed; the transaction goes on without it.
    #[error("statement: {0}")]
    Statement(rusqlite::Error),
    /// Storage failed (disk full, input or output): the transaction cannot go on.
    #[error("storage: {0}")]
    Storage(rusqlite::Error),
    /// A row does not hold what it must.
    #[error("damaged row: {0}")]
    Damaged(&'static str),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed,
            ) => Self::Storage(error),
            _ => Self::Statement(error),
        }
    }
}

/// What is remembered of a stream.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// The number of its last message.
    pub(super) last_seq: u64,
    /// Of a group: who is in it, counted.
    pub(super) members: Members,
}

/// A group's members as far as sending needs them; of an inbox all zero.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Members {
    /// How many there are.
    pub(super) count: u32,
    /// The one with the most unconfirmed messages when last looked.
    pub(super) slowest: UserId,
    /// The number up to which no member can have more than the limit unconfirmed.
    pub(super) room_until_seq: u64,
}

struct Remembered {
    cursor: Cursor,
    dirty: bool,
}

/// Whether the store may write now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Writes are part of a transaction.
    Normal,
    /// Storage failed a moment ago: reads only, and marks are kept in memory until there is room.
    ReadsOnly,
}

/// See the module's description.
pub(super) struct Store {
    connection: Connection,
    mode: Mode,
    began: Option<Instant>,
    inbox_limit: u64,
    streams: HashMap<StreamId, Stream>,
    cursors: HashMap<CursorKey, Remembered>,
    dirty: Vec<CursorKey>,
    urgent: Vec<CursorKey>,
    write_back_due_ms: Option<i64>,
    write_all: bool,
    touched_streams: Vec<StreamId>,
    touched_cursors: Vec<CursorKey>,
}

impl Store {
    pub(super) fn new(connection: Connection, inbox_limit: u64) -> Self {
        Self {
            connection,
            mode: Mode::Normal,
            began: None,
            inbox_limit,
            streams: HashMap::new(),
            cursors: HashMap::new(),
            dirty: Vec::new(),
            urgent: Vec::new(),
            write_back_due_ms: None,
            write_all: false,
            touched_streams: Vec::new(),
            touched_cursors: Vec::new(),
        }
    }

    /// The connection, for reading.
    pub(super) fn read(&self) -> &Connection {
        &self.connection
    }

    /// The connection, for writing: begins the batch's transaction with its first write.
    pub(super) fn write(&mut self) -> Result<&Connection, Failure> {
        if self.mode == Mode::ReadsOnly {
            return Err(Failure::NoWrites);
        }
        if self.began.is_none() {
            self.connection
                .prepare_cached("BEGIN IMMEDIATE")?
                .execute([])
                .map_err(Failure::Storage)?;
            self.began = Some(Instant::now());
        }
        Ok(&self.connection)
    }

    pub(super) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// Whether writes are refused now.
    pub(super) fn is_reads_only(&self) -> bool {
        self.mode == Mode::ReadsOnly
    }

    /// Whether SQLite ended the batch's transaction by itself.
    pub(super) fn lost_transaction(&self) -> bool {
        self.began.is_some() && self.connection.is_autocommit()
    }

    pub(super) fn inbox_limit(&self) -> u64 {
        self.inbox_limit
    }

    /// When the next write-back of confirmations is due, on the clock that `commit` is told.
    pub(super) fn write_back_due_ms(&self) -> Option<i64> {
        self.write_back_due_ms
    }

    /// Remembers the inbox of `user` and its cursor; `false`: there is no such user.
    pub(super) fn load_inbox(&mut self, user: UserId, is_bound: bool) -> Result<bool, Failure> {
        let stream = StreamId::inbox(user);
        if self.streams.contains_key(&stream) {
            return Ok(true);
        }
        let known = self
            .connection
            .prepare_cached("SELECT 1 FROM users WHERE user_id = ?1")?
            .exists([user])?;
        if !known {
            return Ok(false);
        }
        let last_seq = self.stored_last_seq(stream)?;
        let key = (stream, user);
        if !self.cursors.contains_key(&key) {
            let cursor = self.stored_cursor(key)?.unwrap_or_default();
            self.remember_cursor(key, cursor, last_seq, is_bound);
        }
        self.streams.insert(
            stream,
            Stream {
                last_seq,
                members: Members::default(),
            },
        );
        Ok(true)
    }

    /// Remembers a group's stream; `false`: there is no such group.
    ///
    /// Looks at every member once: what an earlier process left open ends here, before the group gets a new number.
    pub(super) fn load_group(
        &mut self,
        group: GroupId,
        is_bound: impl Fn(UserId) -> bool,
    ) -> Result<bool, Failure> {
        let stream = StreamId::group(group);
        if self.streams.contains_key(&stream) {
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
        self.streams.insert(stream, Stream { last_seq, members });
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
                        let cursor = cursor_from_row(row, 1)?;
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
    pub(super) fn group_has_room(
        &mut self,
        group: GroupId,
        is_bound: impl Fn(UserId) -> bool,
    ) -> Result<bool, Failure> {
        let stream = StreamId::group(group);
        let Some(&Stream { last_seq, members }) = self.streams.get(&stream) else {
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
        if let Some(known) = self.streams.get_mut(&stream) {
            known.members = members;
        }
        Ok(last_seq < members.room_until_seq)
    }

    /// The cursor of a member of a group that is loaded; `None`: no member.
    pub(super) fn load_member(
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

    fn remember_cursor(
        &mut self,
        key: CursorKey,
        mut cursor: Cursor,
        last_seq: u64,
        is_bound: bool,
    ) {
        let left_open = cursor.open_from.is_some() && !is_bound;
        if left_open {
            cursor.close(last_seq);
        }
        self.cursors.insert(
            key,
            Remembered {
                cursor,
                dirty: false,
            },
        );
        if left_open {
            self.mark_dirty(key);
        }
    }

    fn stored_last_seq(&self, stream: StreamId) -> Result<u64, Failure> {
        let in_messages: Option<i64> = self
            .connection
            .prepare_cached("SELECT max(seq) FROM messages WHERE stream = ?1")?
            .query_row([stream.row()], |row| row.get(0))?;
        // Kept apart only once the last messages themselves may be gone.
        let kept: Option<i64> = self
            .connection
            .prepare_cached("SELECT last_seq FROM streams WHERE stream = ?1")?
            .query_row([stream.row()], |row| row.get(0))
            .optional()?;
        let last_seq = in_messages.unwrap_or(0).max(kept.unwrap_or(0));
        u64::try_from(last_seq).map_err(|_| Failure::Damaged("a negative number of a message"))
    }

    fn stored_cursor(&self, key: CursorKey) -> Result<Option<Cursor>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT since, floor, confirmed, handed, open_from FROM cursors WHERE stream = ?1 AND user_id = ?2",
        )?;
        let mut rows = statement.query(params![key.0.row(), key.1])?;
        rows.next()?.map(|row| cursor_from_row(row, 0)).transpose()
    }

    /// The streams of the groups `user` is in, ascending.
    pub(super) fn group_streams(&self, user: UserId) -> Result<Vec<StreamId>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT stream FROM cursors WHERE user_id = ?1 AND stream % 2 = 1 ORDER BY stream",
        )?;
        let streams = statement.query_map([user], |row| row.get(0).map(StreamId::from_row))?;
        Ok(streams.collect::<Result<_, _>>()?)
    }

    /// The last number of a loaded stream; 0 for one that is not loaded.
    pub(super) fn last_seq(&self, stream: StreamId) -> u64 {
        self.streams.get(&stream).map_or(0, |known| known.last_seq)
    }

    /// A loaded stream.
    pub(super) fn stream(&self, stream: StreamId) -> Option<&Stream> {
        self.streams.get(&stream)
    }

    /// A loaded cursor.
    pub(super) fn cursor(&mut self, key: CursorKey) -> Option<&mut Cursor> {
        self.cursors
            .get_mut(&key)
            .map(|remembered| &mut remembered.cursor)
    }

    /// Notes that a message with number `seq` was inserted into a loaded stream.
    pub(super) fn advance(&mut self, stream: StreamId, seq: u64) {
        self.touched_streams.push(stream);
        if let Some(known) = self.streams.get_mut(&stream) {
            known.last_seq = seq;
        }
    }

    /// Inserts a membership that starts after the group's last number.
    pub(super) fn insert_member(
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
        write_cursor(self.write()?, key, &cursor)?;
        self.remember_cursor(key, cursor, last_seq, true);
        if let Some(known) = self.streams.get_mut(&stream) {
            known.members.count += 1;
        }
        Ok(())
    }

    /// Ends a membership.
    pub(super) fn delete_member(&mut self, group: GroupId, user: UserId) -> Result<(), Failure> {
        let stream = StreamId::group(group);
        let key = (stream, user);
        self.touched_streams.push(stream);
        self.touched_cursors.push(key);
        self.write()?
            .prepare_cached("DELETE FROM cursors WHERE stream = ?1 AND user_id = ?2")?
            .execute(params![stream.row(), user])?;
        self.cursors.remove(&key);
        if let Some(known) = self.streams.get_mut(&stream) {
            known.members.count = known.members.count.saturating_sub(1);
        }
        Ok(())
    }

    /// A loaded cursor changed; it is written soon.
    pub(super) fn mark_dirty(&mut self, key: CursorKey) {
        if let Some(remembered) = self.cursors.get_mut(&key)
            && !remembered.dirty
        {
            remembered.dirty = true;
            self.dirty.push(key);
        }
    }

    /// A loaded cursor changed; it is written with this batch.
    pub(super) fn mark_urgent(&mut self, key: CursorKey) {
        self.mark_dirty(key);
        self.urgent.push(key);
    }

    /// Whether a loaded cursor has changes that no commit has written.
    pub(super) fn is_dirty(&self, key: CursorKey) -> bool {
        self.cursors
            .get(&key)
            .is_some_and(|remembered| remembered.dirty)
    }

    /// All changed cursors are written with this batch.
    pub(super) fn write_back_all(&mut self) {
        self.write_all = true;
    }

    /// Ends the batch: writes the cursors that must be written, commits, and tells how long the transaction took if there was one.
    pub(super) fn commit(&mut self, now_ms: i64) -> Result<Option<u64>, Failure> {
        if self.mode == Mode::ReadsOnly {
            self.end_batch(now_ms);
            return Ok(None);
        }
        let due = self.write_back_due_ms.is_some_and(|due| due <= now_ms);
        let full = self.streams.len() + self.cursors.len() > REMEMBERED_LIMIT;
        let everything = due || full || self.write_all;
        let keys = if everything {
            self.dirty.clone()
        } else {
            self.urgent.clone()
        };
        if !keys.is_empty() {
            self.write()?;
        }
        for &key in &keys {
            if let Some(known) = self.cursors.get(&key).filter(|known| known.dirty) {
                write_cursor(&self.connection, key, &known.cursor)?;
            }
        }
        let mut duration_us = None;
        if let Some(began) = self.began {
            self.connection
                .prepare_cached("COMMIT")?
                .execute([])
                .map_err(Failure::Storage)?;
            self.began = None;
            duration_us = Some(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        for key in keys {
            if let Some(remembered) = self.cursors.get_mut(&key) {
                remembered.dirty = false;
            }
        }
        if everything {
            self.dirty.clear();
            self.write_back_due_ms = None;
        }
        if full {
            self.forget_all();
        }
        self.end_batch(now_ms);
        Ok(duration_us)
    }

    fn end_batch(&mut self, now_ms: i64) {
        self.urgent.clear();
        self.touched_streams.clear();
        self.touched_cursors.clear();
        self.write_all = false;
        self.write_back_due_ms = match self.write_back_due_ms {
            _ if self.dirty.is_empty() => None,
            // Past and not done: storage failed. Not at once again, or the thread would spin.
            Some(due) if due > now_ms => Some(due),
            _ => Some(now_ms + WRITE_BACK_MS),
        };
        // Only while nothing can be written: better to forget a confirmation than to grow without end.
        if self.cursors.len() > 2 * REMEMBERED_LIMIT {
            self.forget_all();
        }
    }

    /// Takes the transaction back, and with it all that was remembered because of it.
    pub(super) fn roll_back(&mut self, now_ms: i64) {
        if self.began.take().is_some() && !self.connection.is_autocommit() {
            if let Err(error) = self.connection.execute_batch("ROLLBACK") {
                log::error!("cannot roll back: {error}");
            }
        }
        for key in std::mem::take(&mut self.touched_cursors) {
            self.cursors.remove(&key);
        }
        let mut real_last_seqs = HashMap::new();
        for stream in std::mem::take(&mut self.touched_streams) {
            self.streams.remove(&stream);
            if let Entry::Vacant(unknown) = real_last_seqs.entry(stream) {
                match self.stored_last_seq(stream) {
                    Ok(last_seq) => unknown.insert(last_seq),
                    Err(error) => {
                        log::error!("cannot read the store back after a roll-back: {error}");
                        self.forget_all();
                        return self.end_batch(now_ms);
                    }
                };
            }
        }
        // Marks on numbers that were taken back must not stick to the messages that get them next.
        for key in &self.dirty {
            if let Some(&last_seq) = real_last_seqs.get(&key.0)
                && let Some(known) = self.cursors.get_mut(key)
            {
                known.cursor.forget_above(last_seq);
            }
        }
        self.end_batch(now_ms);
    }

    /// Forgets everything, written or not: after a bug, only the file is to be believed.
    pub(super) fn forget_all(&mut self) {
        self.streams.clear();
        self.cursors.clear();
        self.dirty.clear();
        self.urgent.clear();
        self.write_back_due_ms = None;
    }

    /// Copies the write-ahead log into the main file. `shorten`: and empties the log.
    pub(super) fn checkpoint(&self, shorten: bool) {
        let kind = if shorten { "TRUNCATE" } else { "PASSIVE" };
        let done = self
            .connection
            .query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |_| Ok(()));
        if let Err(error) = done {
            log::warn!("cannot checkpoint the store: {error}");
        }
    }

    /// Of a stream: the numbers every reader has confirmed reach up to here without a hole.
    pub(super) fn confirmed_by_all(&mut self, stream: StreamId) -> Result<u64, Failure> {
        let mut lowest = self.last_seq(stream);
        let mut statement = self
            .connection
            .prepare_cached("SELECT user_id, floor FROM cursors WHERE stream = ?1")?;
        let mut rows = statement.query([stream.row()])?;
        while let Some(row) = rows.next()? {
            let user: UserId = row.get(0)?;
            let floor = match self.cursors.entry((stream, user)) {
                Entry::Occupied(known) => known.get().cursor.floor,
                Entry::Vacant(_) => row.get::<_, i64>(1)?.try_into().unwrap_or(0),
            };
            lowest = lowest.min(floor);
        }
        Ok(lowest)
    }
}

fn cursor_from_row(row: &rusqlite::Row<'_>, first: usize) -> Result<Cursor, Failure> {
    let number = |index: usize| -> Result<u64, Failure> {
        u64::try_from(row.get::<_, i64>(first + index)?)
            .map_err(|_| Failure::Damaged("a negative number in a cursor"))
    };
    let ranges = |index: usize| -> Result<RangeSet, Failure> {
        let bytes = row.get_ref(first + index)?;
        let bytes = bytes
            .as_blob()
            .map_err(|_| Failure::Damaged("ranges of a cursor"))?;
        RangeSet::decode(bytes).map_err(|_| Failure::Damaged("ranges of a cursor"))
    };
    let open_from = row
        .get::<_, Option<i64>>(first + 4)?
        .and_then(|from| u64::try_from(from).ok());
    Ok(Cursor {
        since: number(0)?,
        floor: number(1)?,
        confirmed: ranges(2)?,
        handed: ranges(3)?,
        open_from,
    })
}

fn write_cursor(connection: &Connection, key: CursorKey, cursor: &Cursor) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "INSERT INTO cursors (stream, user_id, since, floor, confirmed, handed, open_from)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (stream, user_id) DO UPDATE SET since = excluded.since, floor = excluded.floor,
                confirmed = excluded.confirmed, handed = excluded.handed, open_from = excluded.open_from",
        )?
        .execute(params![
            key.0.row(),
            key.1,
            cursor.since as i64,
            cursor.floor as i64,
            cursor.confirmed.encode(),
            cursor.handed.encode(),
            cursor.open_from.map(|from| from as i64),
        ])?;
    Ok(())
}
