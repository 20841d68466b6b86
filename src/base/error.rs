//! Errors that end the process: what failed, why, what to do about it, and the exit code that says
//! so.

use std::fmt;

/// The exit codes of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// It ran and failed.
    Runtime = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong.
    Config = 3,
    /// The machine does not offer what is needed: io_uring, locked memory, the port, a readable
    /// file.
    Preflight = 4,
    /// Another live gateway has this gateway's id.
    Backend = 5,
    /// The drain deadline passed with clients left.
    DrainTimeout = 6,
}

/// Why the program cannot start or go on: one plain message with its remedy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct StartupError {
    /// What could not be done, as in "cannot listen on 127.0.0.1:6000".
    pub what: String,
    /// What the system said, as in "address in use"; empty where there is nothing to add.
    pub cause: String,
    /// What the operator can do; empty where nobody knows.
    pub remedy: String,
    /// The exit code.
    pub code: ExitCode,
}

impl StartupError {
    /// An error of the given kind.
    pub fn new(
        code: ExitCode,
        what: impl Into<String>,
        cause: impl fmt::Display,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            what: what.into(),
            cause: cause.to_string(),
            remedy: remedy.into(),
            code,
        }
    }
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.cause.is_empty() {
            write!(f, ": {}", self.cause)?;
        }
        if !self.remedy.is_empty() {
            write!(f, "\n  remedy: {}", self.remedy)?;
        }
        Ok(())
    }
}
