//! The one SQLite file: opening it, its settings, its tables, and the way from each older version
//! to this one.
//!
//! Invariants: `PRAGMA user_version` counts the migrations that ran; each runs whole or not at all;
//! a file of a newer version is never touched. Unless it is told to share, the connection holds the
//! file exclusively, so a second gateway cannot write to it.
//!
//! Tables are laid out for appending: `messages` is ordered by `msg_id`, which grows with time, so
//! a commit writes the end of the table and not a page per inbox. A *stream* is a user's inbox
//! (`2 * user_id`) or a group (`2 * group_id + 1`).

use std::{path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{lock::LockedOut, queue_lock::Patience, skeletons};
use crate::base::error::{ExitCode, StartupError};

/// The name of the file in the data directory.
pub(in crate::service) const FILE_NAME: &str = "im-gateway.db";

/// How long opening waits for another process that is just letting go of the file.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// Pages of the write-ahead log (64 MiB) after which a commit copies them into the main file. A
/// page that many commits changed is copied once, so a longer log is less work: with 4000 pages, a
/// thousand busy inboxes stored a third fewer messages a second.
pub(super) const CHECKPOINT_PAGES: u32 = 16000;
/// Memory for pages, in KiB (negative means KiB to SQLite).
const CACHE_SIZE_KIB: i64 = -65_536;

/// Prepared statements kept: more than there are.
const STATEMENTS_KEPT: usize = 128;

/// Every step from an empty file to the present schema, in order. A released step is never changed.
const MIGRATIONS: &[&str] = &[
    // 1: accounts, contacts, groups, messages and where every reader stands.
    "CREATE TABLE users (
        user_id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        password_hash TEXT NOT NULL,
        created_ms INTEGER NOT NULL
    );
    CREATE TABLE friends (
        user_id INTEGER NOT NULL,
        friend_id INTEGER NOT NULL,
        PRIMARY KEY (user_id, friend_id)
    ) WITHOUT ROWID;
    CREATE INDEX friends_by_friend ON friends (friend_id, user_id);
    CREATE TABLE groups (
        group_id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        description TEXT NOT NULL,
        creator_id INTEGER NOT NULL,
        created_ms INTEGER NOT NULL
    );
    CREATE TABLE messages (
        msg_id INTEGER PRIMARY KEY,
        stream INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        sender INTEGER NOT NULL,
        ts_ms INTEGER NOT NULL,
        client_msg_id TEXT,
        text TEXT NOT NULL
    );
    CREATE UNIQUE INDEX messages_by_stream ON messages (stream, seq);
    CREATE UNIQUE INDEX messages_by_client ON messages (sender, client_msg_id) WHERE client_msg_id IS NOT NULL;
    CREATE TABLE streams (
        stream INTEGER PRIMARY KEY,
        last_seq INTEGER NOT NULL
    );
    CREATE TABLE cursors (
        stream INTEGER NOT NULL,
        user_id INTEGER NOT NULL,
        since INTEGER NOT NULL,
        floor INTEGER NOT NULL,
        confirmed BLOB NOT NULL,
        handed BLOB NOT NULL,
        open_from INTEGER,
        PRIMARY KEY (stream, user_id)
    ) WITHOUT ROWID;
    CREATE INDEX cursors_by_user ON cursors (user_id, stream);",
    // 2: who is connected where, for services that are a process of their own.
    "CREATE TABLE routes (
        user_id INTEGER NOT NULL,
        session_id INTEGER NOT NULL,
        route_id TEXT NOT NULL,
        device TEXT NOT NULL,
        bound_order INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        PRIMARY KEY (user_id, session_id)
    ) WITHOUT ROWID;
    CREATE INDEX routes_by_expiry ON routes (expires_ms);",
    // Which sessions were ended before their tokens' time, and who has gone offline without coming
    // back yet.
    "CREATE TABLE session_epochs (
        user_id INTEGER PRIMARY KEY,
        epoch INTEGER NOT NULL,
        since_ms INTEGER NOT NULL,
        kept_session INTEGER NOT NULL
    );
    CREATE TABLE ended_sessions (
        user_id INTEGER NOT NULL,
        session_id INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        PRIMARY KEY (user_id, session_id)
    ) WITHOUT ROWID;
    CREATE INDEX ended_sessions_by_expiry ON ended_sessions (expires_ms);
    ALTER TABLE routes ADD COLUMN login_session INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE departures (
        user_id INTEGER PRIMARY KEY,
        due_ms INTEGER NOT NULL
    );
    CREATE INDEX departures_by_time ON departures (due_ms);",
    // The store's own time, by which routes expire and messages and their tags grow old.
    "CREATE TABLE time_base (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        boot TEXT NOT NULL,
        offset_ms INTEGER NOT NULL,
        last_ms INTEGER NOT NULL,
        last_unix_ms INTEGER NOT NULL
    );
    ALTER TABLE messages ADD COLUMN stored_ms INTEGER;",
    // The networks that users logged in from.
    "CREATE TABLE known_networks (
        user_id INTEGER NOT NULL,
        network BLOB NOT NULL,
        seen_ms INTEGER NOT NULL,
        PRIMARY KEY (user_id, network)
    ) WITHOUT ROWID;",
    // What names look like. Not unique: accounts may be older than the rule that no two look alike.
    "ALTER TABLE users ADD COLUMN skeleton TEXT NOT NULL DEFAULT '';
    CREATE INDEX users_by_skeleton ON users (skeleton);
    CREATE TABLE skeleton_rules (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        version TEXT NOT NULL
    );",
];

/// Who may have the file open.
#[derive(Clone, Debug)]
pub(in crate::service) enum Locking {
    /// This connection alone.
    Exclusive,
    /// Other processes, too; it is told whether they let this one write.
    Shared(LockedOut),
}

/// Opens the file in `data_dir`, creating it where missing, and brings it to the present schema.
pub(in crate::service) fn open(
    data_dir: &Path,
    locking: &Locking,
) -> Result<Connection, StartupError> {
    let path = data_dir.join(FILE_NAME);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection =
        Connection::open_with_flags(&path, flags).map_err(|error| cannot_open(&path, &error))?;
    restrict_to_owner(&path);
    configure(&mut connection, locking).map_err(|error| cannot_open(&path, &error))?;
    migrate(&mut connection, MIGRATIONS).map_err(|error| match error {
        MigrationError::Newer { found, known } => too_new(&path, found, known),
        MigrationError::Sqlite(error) => cannot_open(&path, &error),
    })?;
    skeletons::refresh(&mut connection).map_err(|error| cannot_open(&path, &error))?;
    Ok(connection)
}

/// What a file in `data_dir` holds, in a line; `None`: there is none. Changes nothing.
pub(in crate::service) fn describe(data_dir: &Path) -> Result<Option<String>, StartupError> {
    let path = data_dir.join(FILE_NAME);
    if !path.exists() {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let read = || -> rusqlite::Result<(i64, i64)> {
        let connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(LOCK_TIMEOUT)?;
        let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let accounts = match version {
            0 => 0,
            _ => connection.query_row("SELECT count(*) FROM users", (), |row| row.get(0))?,
        };
        Ok((version, accounts))
    };
    let (version, accounts) = read().map_err(|error| cannot_open(&path, &error))?;
    if version > MIGRATIONS.len() as i64 {
        return Err(too_new(&path, version, MIGRATIONS.len()));
    }
    let shown = path.display();
    Ok(Some(format!(
        "{shown}, {accounts} accounts, schema version {version}"
    )))
}

/// Messages and password hashes are nobody else's business. A file system without permissions is
/// not an error.
fn restrict_to_owner(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)) {
        log::warn!("cannot restrict {} to its owner: {error}", path.display());
    }
}

fn configure(connection: &mut Connection, locking: &Locking) -> rusqlite::Result<()> {
    match locking {
        Locking::Exclusive => {
            connection.busy_timeout(LOCK_TIMEOUT)?;
            // Before the journal mode, so that the log's index lives in our memory and the lock is
            // taken at once.
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        }
        Locking::Shared(locked_out) => {
            let locked_out = locked_out.clone();
            let mut patience = Patience::of(locked_out.patience());
            connection.busy_handler(Some(move |naps_before| {
                if naps_before == 0 {
                    patience = Patience::of(locked_out.patience());
                }
                patience.nap()
            }))?;
        }
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "cache_size", CACHE_SIZE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(())
}

#[derive(Debug, thiserror::Error)]
pub(in crate::service) enum MigrationError {
    #[error("schema version {found} is newer than {known}")]
    Newer { found: i64, known: usize },
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Runs the steps of `migrations` that the file has not seen, each in its own transaction.
pub(in crate::service) fn migrate(
    connection: &mut Connection,
    migrations: &[&str],
) -> Result<(), MigrationError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = migrations.len();
    let done = usize::try_from(found)
        .ok()
        .filter(|done| *done <= known)
        .ok_or(MigrationError::Newer { found, known })?;
    for (number, step) in migrations.iter().enumerate().skip(done) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let now: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if now > number as i64 {
            // Another process was faster.
            continue;
        }
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", (number + 1) as i64)?;
        transaction.commit()?;
    }
    Ok(())
}

fn too_new(path: &Path, found: i64, known: usize) -> StartupError {
    StartupError::new(
        ExitCode::Preflight,
        format!("cannot use the store {}", path.display()),
        format!("it has schema version {found}, this program knows versions up to {known}"),
        "start the newer im-gateway that wrote it, or point gateway_service.data_dir elsewhere",
    )
}

fn cannot_open(path: &Path, error: &rusqlite::Error) -> StartupError {
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process has it open: stop that im-gateway, or give this one its own gateway_service.data_dir"
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "the file is damaged or not ours: move it away, or restore it from a copy"
        }
        Some(ErrorCode::DiskFull) => "make room on that disk",
        _ => {
            "make the file and its directory readable and writable for this user, or choose another gateway_service.data_dir"
        }
    };
    StartupError::new(
        ExitCode::Preflight,
        format!("cannot open the store {}", path.display()),
        error,
        remedy,
    )
}
