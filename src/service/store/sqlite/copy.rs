//! A copy of the file while other processes use it, or none: SQLite's online backup.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, backup::Backup};

use super::schema::FILE_NAME;

/// Pages copied at once, and the pause behind them: whoever stores messages wants the disk, too.
const PAGES_AT_ONCE: std::ffi::c_int = 1024;
const PAUSE: Duration = Duration::from_millis(2);

/// How long another process is waited for that is just beginning or ending to use the file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Copies the file in `data_dir` to `target`, which is empty, as it is at one moment.
pub(in crate::service) fn copy(data_dir: &Path, target: &Path) -> rusqlite::Result<()> {
    let existing = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(data_dir.join(FILE_NAME), existing)?;
    source.busy_timeout(LOCK_TIMEOUT)?;
    // What others commit from here on is not seen, so that the copy ends however much that is. It
    // stays in the log as long as this transaction lasts.
    source.execute_batch("BEGIN")?;
    source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let mut copy = Connection::open_with_flags(target, existing)?;
    // Nobody has the copy before it is whole, and then the caller has it written to disk.
    copy.pragma_update(None, "journal_mode", "OFF")?;
    copy.pragma_update(None, "synchronous", "OFF")?;
    Backup::new(&source, &mut copy)?.run_to_completion(PAGES_AT_ONCE, PAUSE, None)
}
