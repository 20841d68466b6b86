//! The queue of processes that wait to write to the same file.
//!
//! Owns a lock of its own beside SQLite's, on a file that holds nothing. SQLite lets whoever asks
//! next have its lock, and others ask again after a nap: a busy process would lock the others out
//! for as long as it is busy. So who waits for SQLite's lock holds the queue's lock, and who has
//! just let SQLite's lock go has to wait for the queue's first. A courtesy, not a safeguard:
//! whoever cannot get the queue's lock goes on without it.

use std::{
    cell::Cell,
    fs::{File, TryLockError},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::{base::error::StartupError, machine::data_dir};

/// The file that is locked; it stays behind.
const QUEUE_FILE: &str = "turn";

/// Longest wait for the queue's lock.
const QUEUE_PATIENCE: Duration = Duration::from_millis(500);
/// Longest wait for SQLite's lock: a disk that is busy may let a commit take a second. With the
/// wait in the queue, it is less than a gateway waits for an answer.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Whoever has not let go of the lock for that long may hang: for a while nobody waits for it
/// again.
const QUEUE_DISTRUSTED: Duration = Duration::from_secs(5);
/// How often who waits looks again: a commit takes some milliseconds, so first often, then at
/// leisure.
const SHORT_NAP: Duration = Duration::from_micros(100);
const LONG_NAP: Duration = Duration::from_millis(1);
const SHORT_NAPS: u32 = 100;

/// See the module's description.
pub(super) struct QueueLock {
    file: File,
    /// When it was waited for in vain.
    missed: Cell<Option<Instant>>,
}

/// Lets the next one go on when it is dropped.
pub(super) struct Held<'a> {
    queue: Option<&'a QueueLock>,
}

impl QueueLock {
    /// The queue of those who share `data_dir`.
    pub(super) fn open(data_dir: &Path) -> Result<Self, StartupError> {
        let file = data_dir::open_shared_lock_file(data_dir, QUEUE_FILE)?;
        Ok(Self {
            file,
            missed: Cell::default(),
        })
    }

    /// Waits for the queue's lock.
    pub(super) fn take(&self) -> Held<'_> {
        let missed = self.missed.get();
        let is_distrusted = missed.is_some_and(|missed| missed.elapsed() < QUEUE_DISTRUSTED);
        let mut patience = Patience::of(if is_distrusted {
            Duration::ZERO
        } else {
            QUEUE_PATIENCE
        });
        loop {
            match self.file.try_lock() {
                Ok(()) => {
                    self.missed.set(None);
                    return Held { queue: Some(self) };
                }
                Err(TryLockError::WouldBlock) if patience.nap() => {}
                Err(TryLockError::WouldBlock) => {
                    if !is_distrusted {
                        self.missed.set(Some(Instant::now()));
                    }
                    return Held { queue: None };
                }
                Err(TryLockError::Error(error)) => {
                    log::warn!("cannot queue with the other processes: {error}");
                    return Held { queue: None };
                }
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(queue) = self.queue
            && let Err(error) = queue.file.unlock()
        {
            log::warn!("cannot let the other processes go on: {error}");
        }
    }
}

/// A wait with an end.
pub(super) struct Patience {
    ends: Instant,
    naps: u32,
}

impl Patience {
    /// A wait that begins now.
    pub(super) fn of(length: Duration) -> Self {
        Self {
            ends: Instant::now() + length,
            naps: 0,
        }
    }

    /// Sleeps a little; `false`: it has been long enough.
    pub(super) fn nap(&mut self) -> bool {
        if Instant::now() >= self.ends {
            return false;
        }
        self.naps += 1;
        thread::sleep(if self.naps <= SHORT_NAPS {
            SHORT_NAP
        } else {
            LONG_NAP
        });
        true
    }
}
