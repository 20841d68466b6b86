//! The store: the storage, its transaction, and what is remembered of streams and cursors between
//! transactions.
//!
//! Owns the rules of durability. A transaction begins with the first write of a batch, or, where
//! other processes use the storage too, with the batch itself; it ends in [`Store::commit`] or
//! [`Store::roll_back`]; nothing else opens one. Never publishes, never answers, knows no sockets,
//! and no SQL: that is behind the traits in `storage`.
//!
//! Invariants:
//! - A remembered stream's `last_seq` is that of the open transaction; after a roll-back every
//!   stream that was touched is forgotten.
//! - A remembered inbox has its cursor remembered too. A remembered cursor is never older than its
//!   row.
//! - A dirty cursor stays dirty until a commit that wrote it succeeded.
//! - Messages are committed to a stream together with the open cursors of it, or after them.
//! - Shared with other processes, nothing is believed that was read before any of them committed,
//!   and no cursor stays dirty past its batch.
//! - All that is remembered is bounded: past [`REMEMBERED_LIMIT`] it is forgotten at the end of a
//!   batch, after it was written.

mod failure;
mod member;
pub(super) mod sqlite;
pub(super) mod storage;
mod stream;

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

pub(super) use self::{
    failure::Failure,
    storage::Storage,
    stream::{CursorKey, StreamId},
};
use super::cursor::Cursor;
use crate::base::id::UserId;

/// Streams and cursors remembered at most: some 70 bytes each, the room in their tables included.
const REMEMBERED_LIMIT: usize = 524_288;
/// How long a confirmation may wait to be written, in milliseconds. Lost in a crash, it comes again
/// as a repeat.
const WRITE_BACK_MS: i64 = 250;
/// Cursors that one commit writes beside those that must not wait: more would hold up whoever waits
/// for that commit.
const WRITE_BACK_CURSORS: usize = 512;
/// When the next of them are due.
const WRITE_BACK_NEXT_MS: i64 = 10;

/// A group's members as far as sending needs them.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::service) struct Members {
    /// How many there are; `None`: another process may have changed it.
    pub(in crate::service) count: Option<u32>,
    /// The one with the most unconfirmed messages when last looked.
    pub(in crate::service) slowest: UserId,
    /// The number up to which no member can have more than the limit unconfirmed. Whoever joins or
    /// confirms, here or in another process, it stays true.
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
pub(in crate::service) struct Store<S> {
    storage: S,
    mode: Mode,
    /// Whether other processes use the storage, too.
    is_shared: bool,
    foreign_users: bool,
    /// What the storage was like when this process last looked.
    version: Option<i64>,
    in_transaction: bool,
    /// Whether the open transaction changes anything.
    has_written: bool,
    /// How often [`Store::write`] was asked.
    writes: u64,
    inbox_limit: u64,
    /// The last number of each loaded stream.
    last_seqs: HashMap<StreamId, u64>,
    /// Of each group that was loaded: who is in it, counted.
    members: HashMap<StreamId, Members>,
    cursors: HashMap<CursorKey, Remembered>,
    dirty: Vec<CursorKey>,
    urgent: Vec<CursorKey>,
    /// Of the dirty ones, those opened since they were written: they are written with the next
    /// message of their stream.
    opened: BTreeSet<CursorKey>,
    write_back_due_ms: Option<i64>,
    write_all: bool,
    touched_streams: Vec<StreamId>,
    touched_cursors: Vec<CursorKey>,
}

impl<S: Storage> Store<S> {
    /// Over `storage`; `is_shared`: other processes use it, too.
    pub(in crate::service) fn new(storage: S, is_shared: bool, inbox_limit: u64) -> Self {
        Self {
            storage,
            mode: Mode::Normal,
            is_shared,
            foreign_users: false,
            version: None,
            in_transaction: false,
            has_written: false,
            writes: 0,
            inbox_limit,
            last_seqs: HashMap::new(),
            members: HashMap::new(),
            cursors: HashMap::new(),
            dirty: Vec::new(),
            urgent: Vec::new(),
            opened: BTreeSet::new(),
            write_back_due_ms: None,
            write_all: false,
            touched_streams: Vec::new(),
            touched_cursors: Vec::new(),
        }
    }

    /// Takes every positive number for a user's: accounts are kept elsewhere.
    pub(in crate::service) fn with_foreign_users(self, foreign_users: bool) -> Self {
        Self {
            foreign_users,
            ..self
        }
    }

    /// The storage, for reading.
    pub(in crate::service) fn read(&self) -> &S {
        &self.storage
    }

    /// The storage, for writing: begins the batch's transaction with its first write.
    pub(in crate::service) fn write(&mut self) -> Result<&mut S, Failure> {
        if self.mode == Mode::ReadsOnly {
            return Err(Failure::NoWrites);
        }
        if !self.in_transaction {
            self.storage.begin()?;
            self.in_transaction = true;
        }
        self.has_written = true;
        self.writes += 1;
        Ok(&mut self.storage)
    }

    /// A number that is another after a write than before.
    pub(in crate::service) fn writes(&self) -> u64 {
        self.writes
    }

    /// Where the storage is shared: begins the batch's transaction, so that nobody else changes
    /// what it reads, and forgets what another process may have changed. `true`: there was such a
    /// change.
    pub(in crate::service) fn begin_batch(&mut self) -> Result<bool, Failure> {
        if !self.is_shared {
            return Ok(false);
        }
        if self.mode == Mode::ReadsOnly {
            // Fails where not even reading works; then each call finds out for itself.
            if self.storage.begin_reading().is_ok() {
                self.in_transaction = true;
            }
            self.version = None;
            self.forget_all();
            return Ok(true);
        }
        self.storage.begin()?;
        self.in_transaction = true;
        let version = self.storage.version()?;
        let is_changed = self.version.replace(version) != Some(version);
        if is_changed {
            self.forget_changeable();
        }
        Ok(is_changed)
    }

    /// Another process has committed: only what no commit can make wrong is believed any more.
    fn forget_changeable(&mut self) {
        self.last_seqs.clear();
        self.cursors.clear();
        for members in self.members.values_mut() {
            members.count = None;
        }
    }

    /// Where the storage is shared and cannot be written: refuses a call that left marks on
    /// cursors. They would be lost with the next change of another process.
    pub(in crate::service) fn refuse_marks(&mut self) -> Result<(), Failure> {
        if self.is_shared && self.mode == Mode::ReadsOnly && !self.dirty.is_empty() {
            self.forget_all();
            return Err(Failure::NoWrites);
        }
        Ok(())
    }

    pub(in crate::service) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// Whether writes are refused now.
    pub(in crate::service) fn is_reads_only(&self) -> bool {
        self.mode == Mode::ReadsOnly
    }

    /// Whether the storage ended the batch's transaction by itself.
    pub(in crate::service) fn lost_transaction(&self) -> bool {
        self.mode == Mode::Normal && self.in_transaction && !self.storage.in_transaction()
    }

    pub(in crate::service) fn inbox_limit(&self) -> u64 {
        self.inbox_limit
    }

    /// When the next write-back of confirmations is due, on the clock that `commit` is told.
    pub(in crate::service) fn write_back_due_ms(&self) -> Option<i64> {
        self.write_back_due_ms
    }

    /// Remembers the inbox of `user` and its cursor; `false`: there is no such user. A cursor left
    /// open by a user who is not bound any more is closed.
    pub(in crate::service) fn load_inbox(
        &mut self,
        user: UserId,
        is_bound: impl Fn(&S, UserId) -> Result<bool, Failure>,
    ) -> Result<bool, Failure> {
        let stream = StreamId::inbox(user);
        if self.last_seqs.contains_key(&stream) {
            return Ok(true);
        }
        let is_foreign = self.foreign_users && user > 0;
        if !is_foreign && !self.storage.user_exists(user)? {
            return Ok(false);
        }
        let last_seq = self.storage.last_seq(stream)?;
        let key = (stream, user);
        if !self.cursors.contains_key(&key) {
            let cursor = self.storage.cursor(key)?.unwrap_or_default();
            let is_open = cursor.open_from.is_some();
            let left_open = is_open && !is_bound(&self.storage, user)?;
            self.remember_cursor(key, cursor, last_seq, left_open);
        }
        self.last_seqs.insert(stream, last_seq);
        Ok(true)
    }

    fn remember_cursor(
        &mut self,
        key: CursorKey,
        mut cursor: Cursor,
        last_seq: u64,
        left_open: bool,
    ) {
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

    /// The last number of a loaded stream; 0 for one that is not loaded.
    pub(in crate::service) fn last_seq(&self, stream: StreamId) -> u64 {
        self.last_seqs.get(&stream).copied().unwrap_or(0)
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
        // A page marks the same one again and again.
        if self.urgent.last() != Some(&key) {
            self.urgent.push(key);
        }
    }

    /// A loaded cursor was opened. As long as its stream gets no message, the row is as true as it
    /// was, so that it is written with the next message, unless it was before: a user in many
    /// groups does not have all their rows written at once.
    pub(in crate::service) fn mark_opened(&mut self, key: CursorKey) {
        assert!(
            !self.is_shared,
            "others would not see that the cursor is open"
        );
        self.mark_dirty(key);
        self.opened.insert(key);
    }

    /// Whether the batch at hand has as many cursors to write as one commit should.
    pub(in crate::service) fn is_laden(&self) -> bool {
        let rows = if self.is_shared {
            &self.dirty
        } else {
            &self.urgent
        };
        rows.len() >= WRITE_BACK_CURSORS
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

    /// How many of those in line are written this time. Some may have been written as urgent
    /// already.
    fn portion_to_write_back(&self) -> usize {
        let is_dirty = |key: &CursorKey| self.cursors.get(key).is_some_and(|known| known.dirty);
        let places = self.dirty.iter().enumerate();
        let mut dirty = places.filter(|(_, key)| is_dirty(key));
        dirty
            .nth(WRITE_BACK_CURSORS)
            .map_or(self.dirty.len(), |(place, _)| place)
    }

    /// Which cursors are written with the batch at hand: the first `late` of those in line, and
    /// those that must not wait.
    fn keys_to_write(&self, late: usize) -> Vec<CursorKey> {
        let mut keys = self.dirty[..late].to_vec();
        if late < self.dirty.len() {
            keys.extend(&self.urgent);
            for &stream in &self.touched_streams {
                let of_stream = (stream, UserId::MIN)..=(stream, UserId::MAX);
                keys.extend(self.opened.range(of_stream));
            }
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Ends the batch: writes the cursors that must be written, commits, and tells how long the
    /// commit took if there was anything to commit.
    pub(in crate::service) fn commit(&mut self, now_ms: i64) -> Result<Option<u64>, Failure> {
        if self.mode == Mode::ReadsOnly {
            self.end_reading();
            self.end_batch(now_ms);
            return Ok(None);
        }
        let due = self.write_back_due_ms.is_some_and(|due| due <= now_ms);
        let streams = self.last_seqs.len().max(self.members.len());
        let full = streams + self.cursors.len() > REMEMBERED_LIMIT;
        let late = if self.is_shared || full || self.write_all {
            self.dirty.len()
        } else if due {
            self.portion_to_write_back()
        } else {
            0
        };
        let keys = self.keys_to_write(late);
        if !keys.is_empty() {
            self.write()?;
        }
        for &key in &keys {
            if let Some(known) = self.cursors.get(&key).filter(|known| known.dirty) {
                self.storage.write_cursor(key, &known.cursor)?;
            }
        }
        let mut duration_us = None;
        if self.in_transaction {
            let began = Instant::now();
            self.storage.commit()?;
            self.in_transaction = false;
            if std::mem::take(&mut self.has_written) {
                duration_us = Some(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
        }
        for key in keys {
            if let Some(remembered) = self.cursors.get_mut(&key) {
                remembered.dirty = false;
            }
            self.opened.remove(&key);
        }
        self.dirty.drain(..late);
        if self.dirty.is_empty() {
            self.write_back_due_ms = None;
        } else if late > 0 {
            self.write_back_due_ms = Some(now_ms + WRITE_BACK_NEXT_MS);
        }
        if full {
            self.forget_all();
        }
        self.end_batch(now_ms);
        Ok(duration_us)
    }

    fn end_reading(&mut self) {
        if std::mem::take(&mut self.in_transaction) {
            self.storage.roll_back();
        }
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
        // Only while nothing can be written: better to forget a confirmation than to grow without
        // end.
        if self.cursors.len() > 2 * REMEMBERED_LIMIT {
            self.forget_all();
        }
        debug_assert!(
            self.opened.iter().all(|key| self.is_dirty(*key)),
            "an opened cursor that is written is not remembered as unwritten"
        );
    }

    /// Takes the transaction back, and with it all that was remembered because of it.
    pub(in crate::service) fn roll_back(&mut self, now_ms: i64) {
        if std::mem::take(&mut self.in_transaction) {
            self.storage.roll_back();
        }
        self.has_written = false;
        if self.is_shared {
            self.forget_all();
            return self.end_batch(now_ms);
        }
        for key in std::mem::take(&mut self.touched_cursors) {
            self.cursors.remove(&key);
            self.opened.remove(&key);
        }
        let mut real_last_seqs = HashMap::new();
        for stream in std::mem::take(&mut self.touched_streams) {
            self.last_seqs.remove(&stream);
            self.members.remove(&stream);
            if let Entry::Vacant(unknown) = real_last_seqs.entry(stream) {
                match self.storage.last_seq(stream) {
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
        self.opened.clear();
        self.write_back_due_ms = None;
    }

    /// Writes what is there already, to see whether writing works: it does if the commit succeeds.
    pub(in crate::service) fn probe(&mut self) -> Result<(), Failure> {
        self.write()?.probe()
    }

    /// Lets the storage do what a quiet moment is for. `shorten`: and give back what room it can.
    pub(in crate::service) fn tidy(&mut self, shorten: bool) {
        self.storage.tidy(shorten);
    }

    /// Has the main file stay as it is, with all that was committed in it.
    pub(in crate::service) fn hold_file(&mut self) -> Result<Arc<AtomicBool>, Failure> {
        self.storage.hold_file()
    }

    /// The main file may change again.
    pub(in crate::service) fn let_go(&mut self) {
        self.storage.let_go();
    }

    /// The same, if the log is longer than `long_bytes` and others use it. `true`: somebody who
    /// reads keeps it so long.
    pub(in crate::service) fn shorten_log(&mut self, long_bytes: u64) -> bool {
        self.storage.shorten_log(long_bytes)
    }

    /// Room that the log takes, in bytes.
    pub(in crate::service) fn log_bytes(&self) -> u64 {
        self.storage.log_bytes()
    }

    /// For how long others have kept this process from writing; zero: they do not.
    pub(in crate::service) fn kept_from_writing(&self) -> Duration {
        self.storage.kept_from_writing()
    }

    /// Whether other processes use the storage, too.
    pub(in crate::service) fn is_shared(&self) -> bool {
        self.is_shared
    }
}
