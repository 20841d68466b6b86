//! What the log says of closed connections: a line for each that went wrong, but in a flood.
//!
//! Owns the rate of those lines. Any client can bring them about as often as it likes, and must not fill the log with
//! them; the metrics count every one.

use std::net::SocketAddr;

use crate::{
    close::CloseReason,
    id::UserId,
    limits::{Rate, TokenBucket},
};

/// Lines a core may write.
const RATE: Rate = Rate {
    per_second: 5,
    burst: 50,
};

/// The log of one core's closed connections.
#[derive(Debug)]
pub struct CloseLog {
    bucket: TokenBucket,
    left_out: u64,
}

impl Default for CloseLog {
    fn default() -> Self {
        Self {
            bucket: TokenBucket::full(&RATE),
            left_out: 0,
        }
    }
}

impl CloseLog {
    /// Tells of a connection that was closed just now.
    pub fn note(&mut self, reason: CloseReason, peer: SocketAddr, user: UserId, now_ms: u64) {
        let level = match reason {
            CloseReason::ClientClosed
            | CloseReason::Quit
            | CloseReason::ConnectionLost
            | CloseReason::Shutdown => log::Level::Debug,
            CloseReason::Internal => log::Level::Error,
            _ => log::Level::Info,
        };
        let reason = reason.word();
        // Nobody had logged in on many of those that go wrong.
        let user = if user == 0 {
            String::new()
        } else {
            format!(" user={user}")
        };
        if level != log::Level::Info {
            log::log!(level, "connection closed reason={reason} peer={peer}{user}");
        } else if self.bucket.try_take(&RATE, now_ms).is_err() {
            self.left_out += 1;
        } else {
            let left_out = std::mem::take(&mut self.left_out);
            let before = if left_out > 0 {
                format!(" left_out_before={left_out}")
            } else {
                String::new()
            };
            log::info!("connection closed reason={reason} peer={peer}{user}{before}");
        }
    }
}
