//! What the log says of clients that go wrong: a line for each, but in a flood.
//!
//! Owns the rate of those lines. Any client can bring them about as often as it likes, and must not
//! fill the log with them; the metrics count every one. What a client wrote never stands in them: a
//! name may be a password in the wrong place.

use std::net::SocketAddr;

use crate::{
    base::{close::CloseReason, id::UserId},
    limits::{Rate, TokenBucket},
    protocol::error_code::ErrorCode,
};

/// Lines of one kind that a core may write.
const RATE: Rate = Rate {
    per_second: 5,
    burst: 50,
};

/// The log of one core's clients.
#[derive(Debug, Default)]
pub(super) struct ClientLog {
    closed: Budget,
    failed_logins: Budget,
}

/// How many lines of one kind may still be written.
#[derive(Debug)]
struct Budget {
    bucket: TokenBucket,
    left_out: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            bucket: TokenBucket::full(&RATE),
            left_out: 0,
        }
    }
}

impl Budget {
    /// What to add to the line that may be written now; `None`: it is left out, and counted.
    fn take(&mut self, now_ms: u64) -> Option<String> {
        if self.bucket.try_take(&RATE, now_ms).is_err() {
            self.left_out += 1;
            return None;
        }
        Some(match std::mem::take(&mut self.left_out) {
            0 => String::new(),
            left_out => format!(" left_out_before={left_out}"),
        })
    }
}

impl ClientLog {
    /// Tells of a connection that was closed just now.
    pub fn closed(&mut self, reason: CloseReason, peer: SocketAddr, user: UserId, now_ms: u64) {
        let level = match reason {
            CloseReason::ClientClosed
            | CloseReason::Quit
            | CloseReason::ConnectionLost
            | CloseReason::Shutdown => log::Level::Debug,
            CloseReason::Internal => log::Level::Error,
            _ => log::Level::Info,
        };
        let left_out = if level == log::Level::Info {
            match self.closed.take(now_ms) {
                Some(left_out) => left_out,
                None => return,
            }
        } else {
            String::new()
        };
        let reason = reason.word();
        // Nobody had logged in on many of those that go wrong.
        let user = if user == 0 {
            String::new()
        } else {
            format!(" user={user}")
        };
        log::log!(
            level,
            "connection closed reason={reason} peer={peer}{user}{left_out}"
        );
    }

    /// Tells of a password or a token that was refused just now.
    pub(super) fn login_failed(
        &mut self,
        command: &str,
        code: ErrorCode,
        peer: SocketAddr,
        now_ms: u64,
    ) {
        if let Some(left_out) = self.failed_logins.take(now_ms) {
            let code = code.word();
            log::info!("login failed command={command} code={code} peer={peer}{left_out}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_of_in_part_and_what_was_left_out_is_counted() {
        let mut budget = Budget::default();
        let written = (0..1000).filter(|_| budget.take(0).is_some()).count();
        assert_eq!(written, RATE.burst as usize);
        let left_out = 1000 - written;
        assert_eq!(
            budget.take(1000),
            Some(format!(" left_out_before={left_out}"))
        );
        assert_eq!(budget.take(1000), Some(String::new()));
    }
}
