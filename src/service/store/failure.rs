//! How a call to the store fails, and whether the batch can go on without it.

use std::error::Error;

use crate::proto::Code;

/// What the storage itself says of a failure.
pub(in crate::service) type Cause = Box<dyn Error + Send + Sync>;

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
    Statement(Cause),
    /// Storage failed (disk full, input or output): the transaction cannot go on.
    #[error("storage: {0}")]
    Storage(Cause),
    /// The file does not hold what it must: this call cannot be done, now or later. The transaction
    /// goes on without it.
    #[error("damaged file: {0}")]
    Corrupt(Cause),
    /// A row does not hold what it must.
    #[error("damaged row: {0}")]
    Damaged(&'static str),
}
