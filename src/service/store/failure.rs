//! How a call to the store fails, and whether the batch can go on without it.

use rusqlite::ErrorCode;

use crate::proto::Code;

/// Why a call, or the whole batch, could not be done.
#[derive(Debug, thiserror::Error)]
pub(in crate::service) enum Failure {
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
