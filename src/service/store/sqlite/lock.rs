//! SQLite's one lock for writing, as those see it who share the file: for how long they have been
//! kept from it, and by whom.
//!
//! A process that hangs while it has the lock keeps it, and nobody can take it away. So whoever has
//! waited for it in vain says who has it, and from then on only tries: reading would wait each
//! time, too, and those who want to write are better told at once.

use std::{
    cell::{Cell, OnceCell},
    fs::{self, File},
    mem::ManuallyDrop,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};

use super::{queue_lock, schema};

/// Where the locks for writing, copying the log and recovering it are in the log's index: three
/// bytes, one for each (sqlite.org/walformat.html, 2.3.2).
const LOCKS: (u64, u64) = (120, 3);

/// How long is waited for the lock once it could not be had.
const PATIENCE_LOCKED_OUT: Duration = Duration::from_millis(20);

/// Whether the last wait for the lock was in vain. Shared with the handler that waits.
#[derive(Clone, Debug, Default)]
pub(in crate::service) struct LockedOut(Arc<AtomicBool>);

impl LockedOut {
    /// How long to wait for the lock now.
    pub(super) fn patience(&self) -> Duration {
        match self.0.load(Relaxed) {
            true => PATIENCE_LOCKED_OUT,
            false => queue_lock::LOCK_PATIENCE,
        }
    }
}

/// See the module's description.
pub(super) struct WriteLock {
    index_path: PathBuf,
    /// The log's index. It must never be closed: that would take from this process all locks it has
    /// on it, SQLite's own, too.
    index: OnceCell<Option<ManuallyDrop<File>>>,
    locked_out: LockedOut,
    /// Since when it could not be had.
    since: Cell<Option<Instant>>,
}

impl WriteLock {
    /// The lock of the file in `data_dir`.
    pub(super) fn of(data_dir: &Path, locked_out: LockedOut) -> Self {
        Self {
            index_path: data_dir.join(format!("{}-shm", schema::FILE_NAME)),
            index: OnceCell::new(),
            locked_out,
            since: Cell::default(),
        }
    }

    /// It could be had.
    pub(super) fn had(&self) {
        if let Some(since) = self.since.take() {
            self.locked_out.0.store(false, Relaxed);
            log::warn!(
                "the database's lock is free again after {:.1?}",
                since.elapsed()
            );
        }
    }

    /// It could not be had, after a wait that began at `asked`. Who has it, in words.
    pub(super) fn missed(&self, asked: Instant) -> String {
        if self.since.get().is_none() {
            self.since.set(Some(asked));
        }
        self.locked_out.0.store(true, Relaxed);
        match self.holder() {
            Some(pid) if is_stopped(pid) => format!(
                "process {pid} has the database's lock and is stopped: let it go on (kill -CONT) or end it"
            ),
            Some(pid) => format!("process {pid} has the database's lock"),
            None => "another process has the database's lock".to_owned(),
        }
    }

    /// For how long it could not be had.
    pub(super) fn missed_for(&self) -> Duration {
        self.since
            .get()
            .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The id of the process that has it; `None`: nobody has it any more, or that cannot be seen
    /// from here.
    fn holder(&self) -> Option<i32> {
        let open = || File::open(&self.index_path).ok().map(ManuallyDrop::new);
        let index = self.index.get_or_init(open).as_ref()?;
        let (start, length) = LOCKS;
        let wanted = Flock {
            start,
            length,
            pid: None,
            typ: FlockType::WriteLock,
            offset_type: FlockOffsetType::Set,
        };
        let found = fcntl_getlk(&**index, &wanted).ok().flatten()?;
        found.pid.map(|pid| pid.as_raw_nonzero().get())
    }
}

/// Whether the process was stopped by a signal or a debugger (proc_pid_stat(5)).
fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| state.starts_with(['T', 't']))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    #[test]
    fn a_stopped_process_is_known() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep(1)");
        let pid = i32::try_from(child.id()).expect("an id");
        assert!(!is_stopped(pid));
        kill_process(Pid::from_child(&child), Signal::STOP).expect("it runs");
        while !is_stopped(pid) {
            std::thread::yield_now();
        }
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        assert!(!is_stopped(pid));
    }

    #[test]
    fn who_is_locked_out_waits_only_once() {
        let locked_out = LockedOut::default();
        let lock = WriteLock::of(Path::new("/nowhere"), locked_out.clone());
        assert_eq!(locked_out.patience(), queue_lock::LOCK_PATIENCE);
        assert_eq!(lock.missed_for(), Duration::ZERO);
        let asked = Instant::now();
        assert_eq!(
            lock.missed(asked),
            "another process has the database's lock"
        );
        assert_eq!(locked_out.patience(), PATIENCE_LOCKED_OUT);
        let first = lock.missed_for();
        lock.missed(Instant::now());
        assert!(lock.missed_for() >= first && lock.missed_for() <= asked.elapsed());
        lock.had();
        assert_eq!(locked_out.patience(), queue_lock::LOCK_PATIENCE);
        assert_eq!(lock.missed_for(), Duration::ZERO);
    }
}
