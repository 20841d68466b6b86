//! Connections that were not taken in: told why, and kept for a moment so that they can read it.
//!
//! Owns their sockets, which are closed as all are ([`base::close`](crate::base::close)). Bounded:
//! in a flood the oldest makes room, for it has had its time.

use std::{collections::VecDeque, os::fd::OwnedFd};

use rustix::net::{SendFlags, Shutdown, send, shutdown};

use crate::base::close::LINGER_MS;

/// How many are kept at one time, per core.
const LINGERING: usize = 32;

/// The refused connections of one core.
#[derive(Default)]
pub struct Refused {
    /// Until when each is kept; the oldest first.
    sockets: VecDeque<(u64, OwnedFd)>,
}

impl Refused {
    /// Sends the answer that says why, and closes our side. The socket is new: its send buffer has
    /// room for the answer.
    pub fn refuse(&mut self, socket: OwnedFd, answer: &[u8], now_ms: u64) {
        // Both fail only where the client has gone already.
        let _ = send(&socket, answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        let _ = shutdown(&socket, Shutdown::Write);
        if self.sockets.len() >= LINGERING {
            self.sockets.pop_front();
        }
        self.sockets.push_back((now_ms + LINGER_MS, socket));
    }

    /// Closes those whose time is over.
    pub fn tick(&mut self, now_ms: u64) {
        let is_over = |(until_ms, _): &mut (u64, OwnedFd)| *until_ms <= now_ms;
        while self.sockets.pop_front_if(is_over).is_some() {}
    }

    /// Closes all of them.
    pub fn clear(&mut self) {
        self.sockets.clear();
    }
}
