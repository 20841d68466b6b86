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

mod failure;
mod member;
mod row;
mod stream;

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Instant,
};

use rusqlite::{Connection, OptionalExtension, params};

pub(super) use self::{
    failure::Failure,
    stream::{CursorKey, StreamId},
};
use super::cursor::Cursor;
use crate::id::{GroupId, MessageId, UserId};

/// Streams and cursors remembered at most: some 70 bytes each, the room in their tables included.
const REMEMBERED_LIMIT: usize = 524_288;
/// How long a confirmation may wait to be written, in milliseconds. Lost in a crash, it comes again as a repeat.
const WRITE_BACK_MS: i64 = 250;

/// A group's members as far as sending needs them.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::service) struct Members {
    /// How many there are.
    pub(in crate::service) count: u32,
    /// The one with the most unconfirmed messages when last looked.
    pub(in crate::service) slowest: UserId,
    /// The number up to which no member can have more than the limit unconfirmed.
    pub(in crate::service) room_until_seq: u64,
}

struct Remembered {
    cursor: Cursor,
    dirty: bool,
}

/// Whether the store may write now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::service) enum Mode {
    /// Writes are part of a transaction.
    Normal,
    /// Storage failed a moment ago: reads only, and marks are kept in memory until there is room.
    ReadsOnly,
}

/// See the module's description.
pub(in crate::service) struct Store {
    connection: Connection,
    mode: Mode,
    in_transaction: bool,
    inbox_limit: u64,
    /// The last number of each loaded stream.
    last_seqs: HashMap<StreamId, u64>,
    /// Of each loaded group: who is in it, counted.
    members: HashMap<StreamId, Members>,
    cursors: HashMap<CursorKey, Remembered>,
    dirty: Vec<CursorKey>,
    urgent: Vec<CursorKey>,
    write_back_due_ms: Option<i64>,
    write_all: bool,
    touched_streams: Vec<StreamId>,
    touched_cursors: Vec<CursorKey>,
}

impl Store {
    pub(in crate::service) fn new(connection: Connection, inbox_limit: u64) -> Self {
        Self {
            connection,
            mode: Mode::Normal,
            in_transaction: false,
            inbox_limit,
            last_seqs: HashMap::new(),
            members: HashMap::new(),
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
    pub(in crate::service) fn read(&self) -> &Connection {
        &self.connection
    }

    /// The connection, for writing: begins the batch's transaction with its first write.
    pub(in crate::service) fn write(&mut self) -> Result<&Connection, Failure> {
        if self.mode == Mode::ReadsOnly {
            return Err(Failure::NoWrites);
        }
        if !self.in_transaction {
            self.connection
                .prepare_cached("BEGIN IMMEDIATE")?
                .execute([])
                .map_err(Failure::Storage)?;
            self.in_transaction = true;
        }
        Ok(&self.connection)
    }

    pub(in crate::service) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// Whether writes are refused now.
    pub(in crate::service) fn is_reads_only(&self) -> bool {
        self.mode == Mode::ReadsOnly
    }

    /// Whether SQLite ended the batch's transaction by itself.
    pub(in crate::service) fn lost_transaction(&self) -> bool {
        self.in_transaction && self.connection.is_autocommit()
    }

    pub(in crate::service) fn inbox_limit(&self) -> u64 {
        self.inbox_limit
    }

    /// When the next write-back of confirmations is due, on the clock that `commit` is told.
    pub(in crate::service) fn write_back_due_ms(&self) -> Option<i64> {
        self.write_back_due_ms
    }

    /// Remembers the inbox of `user` and its cursor; `false`: there is no such user.
    pub(in crate::service) fn load_inbox(
        &mut self,
        user: UserId,
        is_bound: bool,
    ) -> Result<bool, Failure> {
        let stream = StreamId::inbox(user);
        if self.last_seqs.contains_key(&stream) {
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
        self.last_seqs.insert(stream, last_seq);
        Ok(true)
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
        rows.next()?.map(|row| row::read_cursor(row, 0)).transpose()
    }

    /// The last number of a loaded stream; 0 for one that is not loaded.
    pub(in crate::service) fn last_seq(&self, stream: StreamId) -> u64 {
        self.last_seqs.get(&stream).copied().unwrap_or(0)
    }

    /// How many members a loaded group has.
    pub(in crate::service) fn member_count(&self, group: GroupId) -> u32 {
        self.members
            .get(&StreamId::group(group))
            .map_or(0, |members| members.count)
    }

    /// A loaded cursor.
    pub(in crate::service) fn cursor(&mut self, key: CursorKey) -> Option<&mut Cursor> {
        self.cursors
            .get_mut(&key)
            .map(|remembered| &mut remembered.cursor)
    }

    /// Notes that a message with number `seq` was inserted into a loaded stream.
    pub(in crate::service) fn advance(&mut self, stream: StreamId, seq: u64) {
        self.touched_streams.push(stream);
        if let Some(last_seq) = self.last_seqs.get_mut(&stream) {
            *last_seq = seq;
        }
    }

    /// A loaded cursor changed; it is written soon.
    pub(in crate::service) fn mark_dirty(&mut self, key: CursorKey) {
        if let Some(remembered) = self.cursors.get_mut(&key)
            && !remembered.dirty
        {
            remembered.dirty = true;
            self.dirty.push(key);
        }
    }

    /// A loaded cursor changed; it is written with this batch.
    pub(in crate::service) fn mark_urgent(&mut self, key: CursorKey) {
        self.mark_dirty(key);
        self.urgent.push(key);
    }

    /// Whether a loaded cursor has changes that no commit has written.
    pub(in crate::service) fn is_dirty(&self, key: CursorKey) -> bool {
        self.cursors
            .get(&key)
            .is_some_and(|remembered| remembered.dirty)
    }

    /// All changed cursors are written with this batch.
    pub(in crate::service) fn write_back_all(&mut self) {
        self.write_all = true;
    }

    /// Ends the batch: writes the cursors that must be written, commits, and tells how long the commit took if there was a transaction.
    pub(in crate::service) fn commit(&mut self, now_ms: i64) -> Result<Option<u64>, Failure> {
        if self.mode == Mode::ReadsOnly {
            self.end_batch(now_ms);
            return Ok(None);
        }
        let due = self.write_back_due_ms.is_some_and(|due| due <= now_ms);
        let full = self.last_seqs.len() + self.cursors.len() > REMEMBERED_LIMIT;
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
                row::write_cursor(&self.connection, key, &known.cursor)?;
            }
        }
        let mut duration_us = None;
        if self.in_transaction {
            let began = Instant::now();
            self.connection
                .prepare_cached("COMMIT")?
                .execute([])
                .map_err(Failure::Storage)?;
            self.in_transaction = false;
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
    pub(in crate::service) fn roll_back(&mut self, now_ms: i64) {
        if std::mem::take(&mut self.in_transaction)
            && !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            log::error!("cannot roll back: {error}");
        }
        for key in std::mem::take(&mut self.touched_cursors) {
            self.cursors.remove(&key);
        }
        let mut real_last_seqs = HashMap::new();
        for stream in std::mem::take(&mut self.touched_streams) {
            self.last_seqs.remove(&stream);
            self.members.remove(&stream);
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
    pub(in crate::service) fn forget_all(&mut self) {
        self.last_seqs.clear();
        self.members.clear();
        self.cursors.clear();
        self.dirty.clear();
        self.urgent.clear();
        self.write_back_due_ms = None;
    }

    /// The greatest id of a stored message, 0 if there is none.
    pub(in crate::service) fn last_message_id(&self) -> Result<MessageId, Failure> {
        let last: Option<MessageId> =
            self.connection
                .query_row("SELECT max(msg_id) FROM messages", [], |row| row.get(0))?;
        Ok(last.unwrap_or(0))
    }

    /// Writes what is there already, to see whether writing works: it does if the commit succeeds.
    pub(in crate::service) fn probe(&mut self) -> Result<(), Failure> {
        const VERSION: &str = "user_version";
        let connection = self.write()?;
        let version: i64 = connection.pragma_query_value(None, VERSION, |row| row.get(0))?;
        connection.pragma_update(None, VERSION, version)?;
        Ok(())
    }

    /// Copies the write-ahead log into the main file. `shorten`: and empties the log.
    pub(in crate::service) fn checkpoint(&self, shorten: bool) {
        let kind = if shorten { "TRUNCATE" } else { "PASSIVE" };
        let done = self
            .connection
            .query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |_| Ok(()));
        if let Err(error) = done {
            log::warn!("cannot checkpoint the store: {error}");
        }
    }
}
