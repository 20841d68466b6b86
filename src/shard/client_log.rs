//! What the log says of clients that go wrong: a line for each, but in a flood.
//!
//! Owns the rate of those lines. Any client can bring them about as often as it likes, and must not
//! fill the log with them; the metrics count every one. What a client wrote never stands in them: a
//! name may be a password in the wrong place.

use std::net::SocketAddr;

use crate::{
    base::{close::CloseReason, id::UserId},
    limits::{LogBudget, Rate},
    protocol::error_code::ErrorCode,
};

/// Lines of one kind that a core may write.
const RATE: Rate = Rate {
    per_second: 5,
    burst: 50,
};

/// The log of one core's clients.
#[derive(Debug)]
pub(super) struct ClientLog {
    closed: LogBudget,
    failed_logins: LogBudget,
}

impl Default for ClientLog {
    fn default() -> Self {
        Self {
            closed: LogBudget::new(RATE),
            failed_logins: LogBudget::new(RATE),
        }
    }
}

/// What to add to a line before which so many were left out.
fn noted(left_out: u64) -> String {
    match left_out {
        0 => String::new(),
        left_out => format!(" left_out_before={left_out}"),
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
                Some(left_out) => noted(left_out),
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
            let (code, left_out) = (code.word(), noted(left_out));
            log::info!("login failed command={command} code={code} peer={peer}{left_out}");
        }
    }
}
