//! The data directory: making it, and holding it for one gateway alone.
//!
//! Owns the lock. Knows nothing of what is kept in the directory: whoever composes the process decides whether it needs the
//! directory for itself.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use crate::error::{ExitCode, StartupError};

/// The file that is locked. It stays behind: what counts is the lock, which ends with the process, however that ends.
const LOCK_FILE: &str = "lock";

/// Holds the data directory until it is dropped or the process ends.
#[derive(Debug)]
#[must_use = "the directory is given up when this is dropped"]
pub struct DataDirLock {
    _file: File,
}

/// Makes the directory where it is missing, and takes it for this process alone.
///
/// # Errors
/// A directory that cannot be made or written, or that another process holds.
pub fn lock(data_dir: &Path) -> Result<DataDirLock, StartupError> {
    let shown = data_dir.display();
    // Messages and password hashes lie in it: nobody else's business, down to the names of the files.
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir);
    made.map_err(|error| {
        StartupError::new(
            ExitCode::Preflight,
            format!("cannot create the data directory {shown}"),
            error,
            "choose another gateway_service.data_dir, or make its parent writable for this user",
        )
    })?;
    let cannot_lock = |cause: &dyn std::fmt::Display, remedy: &str| {
        let what = format!("cannot have the data directory {shown} for itself");
        StartupError::new(ExitCode::Preflight, what, cause, remedy)
    };
    let not_writable = "make it writable for this user, or choose another gateway_service.data_dir";
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(data_dir.join(LOCK_FILE))
        .map_err(|error| cannot_lock(&error, not_writable))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = holder(&mut file);
            return Err(cannot_lock(
                &format!("{holder} has it"),
                "stop that im-gateway, or give this one its own gateway_service.data_dir",
            ));
        }
        Err(TryLockError::Error(error)) => {
            return Err(cannot_lock(
                &error,
                "choose a gateway_service.data_dir on a file system with locks, such as a local disk",
            ));
        }
    }
    // For people only; a full disk must not keep the gateway from serving what it has.
    if let Err(error) = note_holder(&mut file) {
        log::warn!("cannot note the process id in {shown}/{LOCK_FILE}: {error}");
    }
    Ok(DataDirLock { _file: file })
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
            drop(held);
        }
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
