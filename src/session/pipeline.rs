//! What was read behind a send whose fate is not known.
//!
//! A send that was answered `TIMEOUT` or `BACKEND_UNAVAILABLE` may still be stored. What follows it
//! in the same breath must not overtake it, so it gets the same answer. Pure.

use crate::protocol::{error_code::ErrorCode, reply::Reply};

/// The unhandled input that a connection may have in memory while a command of it is out, in bytes.
pub const PIPELINE_BYTES: usize = 64 * 1024;

/// Input that was read before a send failed: its sends fail, too.
#[derive(Debug)]
pub struct FailedBehind {
    /// So many bytes of what is unhandled.
    bytes: usize,
    /// What its sends are answered.
    reply: Reply,
}

impl FailedBehind {
    /// Whatever is among the next `bytes`, where `reply` leaves open what became of a send.
    pub fn of(reply: &Reply, bytes: usize) -> Option<Self> {
        (bytes > 0 && leaves_open(reply)).then(|| Self {
            bytes,
            reply: reply.clone(),
        })
    }

    /// A message of `length` bytes, its end included, is handled; `None`: it was read later, at
    /// least its end.
    pub fn next_message(&mut self, length: usize) -> Option<&Reply> {
        self.bytes = self.bytes.checked_sub(length)?;
        Some(&self.reply)
    }
}

/// Whether a message may be stored although its sender is told `reply`.
pub fn leaves_open(reply: &Reply) -> bool {
    matches!(
        reply,
        Reply::Error {
            code: ErrorCode::Timeout | ErrorCode::BackendUnavailable,
            ..
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: ErrorCode) -> Reply {
        Reply::error(code, "")
    }

    #[test]
    fn lines_that_were_read_before_the_failure_share_its_answer_and_later_ones_do_not() {
        let timeout = failed(ErrorCode::Timeout);
        let mut behind = FailedBehind::of(&timeout, 25).expect("bytes behind it");
        assert_eq!(behind.next_message(10), Some(&timeout));
        assert_eq!(behind.next_message(10), Some(&timeout));
        // Its beginning was read before, its end was not.
        assert_eq!(behind.next_message(10), None);
    }

    #[test]
    fn an_answer_that_says_what_happened_stops_nobody() {
        for code in [
            ErrorCode::Overloaded,
            ErrorCode::NotFound,
            ErrorCode::Internal,
        ] {
            assert!(FailedBehind::of(&failed(code), 25).is_none());
        }
        assert!(FailedBehind::of(&failed(ErrorCode::BackendUnavailable), 25).is_some());
        assert!(FailedBehind::of(&failed(ErrorCode::Timeout), 0).is_none());
    }
}
