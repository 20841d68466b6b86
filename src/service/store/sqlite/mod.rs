//! The storage over one SQLite file.
//!
//! Owns the connection. All SQL of the services is in this folder: `schema` has the tables, the
//! other files one subject each. Statements are prepared once and kept.
//!
//! Shared by several processes, each transaction that may write holds SQLite's one lock for writing
//! from its beginning, so what it has read stays true until it ends; `queue_lock` sees to it that
//! everybody gets to it.

mod accounts;
pub(in crate::service) mod copy;
mod cursors;
mod failure;
mod groups;
mod lock;
mod messages;
mod queue_lock;
mod routes;
pub(in crate::service) mod schema;
mod sessions;
mod skeletons;
mod times;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Release},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;

use self::{
    lock::{LockedOut, WriteLock},
    queue_lock::QueueLock,
};
use super::{Failure, storage::Transactions};
use crate::{base::error::StartupError, machine::data_dir, proto::Code};

/// See the module's description.
pub(in crate::service) struct Sqlite {
    connection: Connection,
    log_path: PathBuf,
    /// How far the log was copied at the last attempt to shorten it.
    copied_before: Option<i64>,
    /// Where several processes share the file.
    shared: Option<Shared>,
    /// While the main file has to stay as it is: whether it has.
    held: Option<Arc<AtomicBool>>,
}

struct Shared {
    queue: QueueLock,
    lock: WriteLock,
}

/// How far the log was copied.
struct Checkpoint {
    /// Somebody was in the way of emptying it.
    is_busy: bool,
    /// Pages in the log.
    pages: i64,
    /// Pages of it that are in the main file.
    copied: i64,
}

impl Checkpoint {
    fn is_all(&self) -> bool {
        self.copied >= self.pages
    }
}

impl Sqlite {
    /// Opens the file in `data_dir`, creating both where missing, and brings it to the present
    /// schema. `is_shared`: other processes may have it open, too; else it is locked for this one.
    pub(in crate::service) fn open(data_dir: &Path, is_shared: bool) -> Result<Self, StartupError> {
        data_dir::make(data_dir)?;
        let log_path = data_dir.join(format!("{}-wal", schema::FILE_NAME));
        if !is_shared {
            return Ok(Self {
                connection: schema::open(data_dir, &schema::Locking::Exclusive)?,
                log_path,
                copied_before: None,
                shared: None,
                held: None,
            });
        }
        let queue = QueueLock::open(data_dir)?;
        // One after the other: while the first makes the file what it has to be, the others wait.
        let held = queue.take();
        let locked_out = LockedOut::default();
        let locking = schema::Locking::Shared(locked_out.clone());
        let connection = schema::open(data_dir, &locking)?;
        drop(held);
        Ok(Self {
            connection,
            shared: Some(Shared {
                queue,
                lock: WriteLock::of(data_dir, locked_out),
            }),
            log_path,
            copied_before: None,
            held: None,
        })
    }

    /// Waits until this process may write.
    fn join_queue(&self) -> Option<queue_lock::Held<'_>> {
        self.shared.as_ref().map(|shared| shared.queue.take())
    }

    /// Copies the log into the main file, as far as that is possible.
    fn checkpoint(&self, kind: &str) -> rusqlite::Result<Checkpoint> {
        let pragma = format!("PRAGMA wal_checkpoint({kind})");
        self.connection.query_row(&pragma, [], |row| {
            Ok(Checkpoint {
                is_busy: row.get(0)?,
                pages: row.get(1)?,
                copied: row.get(2)?,
            })
        })
    }

    /// So many pages in the log are enough for a commit to copy them; 0: none ever are.
    fn checkpoint_after(&self, pages: u32) -> rusqlite::Result<()> {
        (self.connection).pragma_update(None, "wal_autocheckpoint", pages)
    }

    /// The connection, for tests that look behind the services or get in their way.
    #[cfg(test)]
    pub(in crate::service) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Transactions for Sqlite {
    fn begin(&mut self) -> Result<(), Failure> {
        let asked = Instant::now();
        let _place = self.join_queue();
        let begun = self
            .connection
            .prepare_cached("BEGIN IMMEDIATE")?
            .execute([]);
        match (begun, &self.shared) {
            (Ok(_), shared) => {
                if let Some(shared) = shared {
                    shared.lock.had();
                }
                Ok(())
            }
            (Err(error), Some(shared)) if failure::is_locked(&error) => {
                Err(Failure::Storage(shared.lock.missed(asked).into()))
            }
            (Err(error), _) => Err(Failure::Storage(error.into())),
        }
    }

    fn kept_from_writing(&self) -> Duration {
        let shared = self.shared.as_ref();
        shared.map_or(Duration::ZERO, |shared| shared.lock.missed_for())
    }

    fn begin_reading(&mut self) -> Result<(), Failure> {
        self.connection.prepare_cached("BEGIN")?.execute([])?;
        Ok(())
    }

    fn version(&self) -> Result<i64, Failure> {
        Ok(self
            .connection
            .prepare_cached("PRAGMA data_version")?
            .query_row([], |row| row.get(0))?)
    }

    fn commit(&mut self) -> Result<(), Failure> {
        self.connection
            .prepare_cached("COMMIT")?
            .execute([])
            .map_err(|error| Failure::Storage(error.into()))?;
        Ok(())
    }

    fn roll_back(&mut self) {
        if self.in_transaction()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            log::error!("cannot roll back: {error}");
        }
    }

    fn in_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    fn probe(&mut self) -> Result<(), Failure> {
        const VERSION: &str = "user_version";
        let version: i64 = self
            .connection
            .pragma_query_value(None, VERSION, |row| row.get(0))?;
        Ok(self.connection.pragma_update(None, VERSION, version)?)
    }

    fn tidy(&mut self, shorten: bool) {
        if self.held.is_some() {
            // Giving back room matters more than a copy.
            if !shorten {
                return;
            }
            self.let_go();
        }
        // Emptying the log takes the lock for writing; copying it does not.
        let _place = shorten.then(|| self.join_queue());
        let kind = if shorten { "TRUNCATE" } else { "PASSIVE" };
        if let Err(error) = self.checkpoint(kind) {
            log::warn!("cannot checkpoint the store: {error}");
        }
    }

    fn hold_file(&mut self) -> Result<Arc<AtomicBool>, Failure> {
        if self.shared.is_some() {
            return Err(Failure::Refused(
                Code::Invalid,
                "others change the file, too",
            ));
        }
        self.let_go();
        // From here on only a checkpoint could change the main file, and there is none of its own
        // accord.
        self.checkpoint_after(0)?;
        if self.checkpoint("TRUNCATE")?.is_busy {
            self.checkpoint_after(schema::CHECKPOINT_PAGES)?;
            return Err(Failure::NoWrites);
        }
        let held = Arc::new(AtomicBool::new(true));
        self.held = Some(Arc::clone(&held));
        Ok(held)
    }

    fn let_go(&mut self) {
        let Some(held) = self.held.take() else {
            return;
        };
        held.store(false, Release);
        if let Err(error) = self.checkpoint_after(schema::CHECKPOINT_PAGES) {
            log::warn!("the store's log will grow: {error}");
        }
    }

    fn log_bytes(&self) -> u64 {
        // A log that is not there is short.
        std::fs::metadata(&self.log_path).map_or(0, |log| log.len())
    }

    fn shorten_log(&mut self, long_bytes: u64) -> bool {
        if self.shared.is_none() || self.log_bytes() <= long_bytes {
            self.copied_before = None;
            return false;
        }
        // Emptying the log waits for those who read it. Copying does not, and goes as far as the
        // oldest of them allows: if that is not further than last time, waiting is in vain, and
        // keeps everybody from writing.
        match self.checkpoint("PASSIVE") {
            Ok(done) if !done.is_all() && self.copied_before == Some(done.copied) => return true,
            Ok(done) => self.copied_before = Some(done.copied),
            Err(error) => log::warn!("cannot checkpoint the store: {error}"),
        }
        self.tidy(true);
        false
    }
}
