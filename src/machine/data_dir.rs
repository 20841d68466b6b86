//! The data directory: making it, and holding it, for one process alone or together with others of
//! its kind.
//!
//! Owns the lock. Knows nothing of what is kept in the directory: whoever composes the process
//! decides whether it needs the directory for itself. Invariant: who has it alone has nobody beside
//! it, and none who shares it has one who has it alone.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use crate::base::error::{ExitCode, StartupError};

/// The file that is locked. It stays behind: what counts is the lock, which ends with the process,
/// however that ends.
const LOCK_FILE: &str = "lock";

/// The files that are locked for slots, each with its number behind it; older versions lock the
/// same. They stay behind as well.
const SLOT_FILE: &str = "seat.";

/// Holds the data directory until it is dropped or the process ends.
#[derive(Debug)]
#[must_use = "the directory is given up when this is dropped"]
pub struct DataDirLock {
    _file: File,
}

/// Makes the directory where it is missing, and takes it for this process alone: a gateway that
/// serves by itself, or a backend that is told to be the only one.
///
/// # Errors
/// A directory that cannot be made or written, or that another process holds.
pub fn lock(data_dir: &Path) -> Result<DataDirLock, StartupError> {
    take(data_dir, Claim::Alone)
}

/// Makes the directory where it is missing, and takes it together with other backends that share
/// it.
///
/// # Errors
/// A directory that cannot be made or written, or that another process holds for itself.
pub fn lock_shared(data_dir: &Path) -> Result<DataDirLock, StartupError> {
    take(data_dir, Claim::Shared)
}

/// How a process wants the directory.
#[derive(Clone, Copy)]
enum Claim {
    Alone,
    Shared,
}

impl Claim {
    fn refused(self, data_dir: &Path, cause: &dyn std::fmt::Display, remedy: &str) -> StartupError {
        let shown = data_dir.display();
        let what = match self {
            Self::Alone => format!("cannot have the data directory {shown} for itself"),
            Self::Shared => format!("cannot share the data directory {shown}"),
        };
        StartupError::new(ExitCode::Preflight, what, cause, remedy)
    }
}

/// What to do where files cannot be locked.
const NO_LOCKS: &str =
    "choose a gateway_service.data_dir on a file system with locks, such as a local disk";

/// Makes the directory where it is missing.
///
/// # Errors
/// A directory that cannot be made.
pub fn make(data_dir: &Path) -> Result<(), StartupError> {
    // Messages and password hashes lie in it: nobody else's business, down to the names of the
    // files.
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir);
    made.map_err(|error| {
        StartupError::new(
            ExitCode::Preflight,
            format!("cannot create the data directory {}", data_dir.display()),
            error,
            "choose another gateway_service.data_dir, or make its parent writable for this user",
        )
    })
}

/// Opens a file of the directory that processes which share it lock, and makes it where it is
/// missing.
///
/// # Errors
/// A directory that cannot be written.
pub fn open_shared_lock_file(data_dir: &Path, name: &str) -> Result<File, StartupError> {
    open_lock_file(data_dir, name, Claim::Shared)
}

fn open_lock_file(data_dir: &Path, name: &str, claim: Claim) -> Result<File, StartupError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(data_dir.join(name))
        .map_err(|error| {
            claim.refused(
                data_dir,
                &error,
                "make it writable for this user, or choose another gateway_service.data_dir",
            )
        })
}

fn take(data_dir: &Path, claim: Claim) -> Result<DataDirLock, StartupError> {
    make(data_dir)?;
    let mut file = open_lock_file(data_dir, LOCK_FILE, claim)?;
    let locked = match claim {
        Claim::Alone => file.try_lock(),
        Claim::Shared => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = holder(&mut file);
            return Err(claim.refused(
                data_dir,
                &format!("{holder} has it"),
                "stop that im-gateway, or give this one its own gateway_service.data_dir",
            ));
        }
        Err(TryLockError::Error(error)) => {
            return Err(claim.refused(data_dir, &error, NO_LOCKS));
        }
    }
    // For people only; a full disk must not keep the gateway from serving what it has. Of several,
    // the last one stands there.
    if let Err(error) = note_holder(&mut file) {
        log::warn!(
            "cannot note the process id in {}/{LOCK_FILE}: {error}",
            data_dir.display()
        );
    }
    Ok(DataDirLock { _file: file })
}

/// A number that no other process with this directory has, for as long as this is held.
#[derive(Debug)]
#[must_use = "the number is given up when this is dropped"]
pub struct Slot {
    /// From 0 on, the lowest that was free.
    pub number: u16,
    _file: File,
}

/// Takes the lowest number below `count` that no other process has. What processes over one store
/// make of their own is told apart by it.
///
/// # Errors
/// A directory that cannot be written, or that has `count` processes already.
pub fn take_slot(data_dir: &Path, count: u16) -> Result<Slot, StartupError> {
    for number in 0..count {
        let file = open_shared_lock_file(data_dir, &format!("{SLOT_FILE}{number}"))?;
        match file.try_lock() {
            Ok(()) => {
                return Ok(Slot {
                    number,
                    _file: file,
                });
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(Claim::Shared.refused(data_dir, &error, NO_LOCKS));
            }
        }
    }
    Err(Claim::Shared.refused(
        data_dir,
        &format!("those that share it are {count} already"),
        "start fewer processes with this gateway_service.data_dir",
    ))
}

/// Who has the directory now, alone or with others, in words; `None`: nobody, as far as can be
/// seen. Makes nothing.
pub fn holder_of(data_dir: &Path) -> Option<String> {
    let mut file = File::open(data_dir.join(LOCK_FILE)).ok()?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Some(holder(&mut file)),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

fn note_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

/// Whoever noted itself in the file, in words.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(20).read_to_string(&mut text);
    let id: Option<u32> = read.ok().and_then(|_| text.trim().parse().ok());
    id.map_or_else(
        || "another process".to_owned(),
        |id| format!("the process {id}"),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_directory_is_held_by_one_at_a_time_and_free_again_after() {
        let parent = TempDir::new().expect("a directory");
        let data_dir = parent.path().join("a/b");
        for _ in 0..2 {
            let held = lock(&data_dir).expect("free");
            let refused = lock(&data_dir).expect_err("held");
            assert_eq!(refused.code, ExitCode::Preflight);
            assert_eq!(
                refused.cause,
                format!("the process {} has it", std::process::id())
            );
            assert!(refused.remedy.contains("gateway_service.data_dir"));
            let holder = format!("the process {}", std::process::id());
            assert_eq!(holder_of(&data_dir), Some(holder));
            drop(held);
            assert_eq!(holder_of(&data_dir), None);
        }
    }

    #[test]
    fn those_who_share_a_directory_keep_out_whoever_wants_it_alone_and_the_other_way_round() {
        let data_dir = TempDir::new().expect("a directory");
        let first = lock_shared(data_dir.path()).expect("free");
        let second = lock_shared(data_dir.path()).expect("shared");
        drop(first);
        let refused = lock(data_dir.path()).expect_err("still held by one");
        assert!(refused.what.contains("for itself"), "{refused}");
        drop(second);
        let alone = lock(data_dir.path()).expect("free");
        let refused = lock_shared(data_dir.path()).expect_err("held by one alone");
        assert!(refused.what.contains("cannot share"), "{refused}");
        assert!(refused.cause.ends_with("has it"), "{refused}");
        drop(alone);
        let _shared = lock_shared(data_dir.path()).expect("free again");
    }

    #[test]
    fn no_two_processes_have_the_same_slot() {
        let data_dir = TempDir::new().expect("a directory");
        let first = take_slot(data_dir.path(), 2).expect("free");
        let second = take_slot(data_dir.path(), 2).expect("free");
        assert_eq!((first.number, second.number), (0, 1));
        let refused = take_slot(data_dir.path(), 2).expect_err("full");
        assert!(refused.cause.contains("2 already"), "{refused}");
        drop(first);
        assert_eq!(take_slot(data_dir.path(), 2).expect("free").number, 0);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_with_its_remedy() {
        let error = lock(Path::new("/proc/nowhere")).expect_err("no such place");
        assert_eq!(error.code, ExitCode::Preflight);
        assert!(error.what.contains("/proc/nowhere"));
    }

    #[test]
    fn a_lock_file_left_behind_is_no_lock() {
        let data_dir = TempDir::new().expect("a directory");
        fs::write(
            data_dir.path().join(LOCK_FILE),
            "a longer text than any process id\n",
        )
        .expect("written");
        let held = lock(data_dir.path()).expect("free");
        drop(held);
        let text = fs::read_to_string(data_dir.path().join(LOCK_FILE)).expect("read");
        assert_eq!(text, format!("{}\n", std::process::id()));
    }
}
