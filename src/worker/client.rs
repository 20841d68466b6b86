//! One client's socket: what is known of it beyond what the kernel says.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use rustix::net::{
    RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt::set_socket_send_buffer_size,
};

use crate::{base::id::ConnectionKey, machine::sys};

/// A client's socket.
pub struct Client {
    /// The session it belongs to.
    pub key: ConnectionKey,
    /// The address that was counted, or `None` for an exempt one.
    pub counted_ip: Option<IpAddr>,
    /// There is (or may be) something to read that was left for later.
    pub readable: bool,
    /// The peer has closed its sending side: reading goes on until it says so.
    pub ending: bool,
    /// Our side is closed; the client is being given time to read its last lines.
    pub(super) shut: bool,
    /// The peer's is, too: all that is waited for is that it acknowledges what it was sent.
    pub closed: bool,
    /// The kernel's send buffer has the size of a connection on which somebody has logged in.
    pub has_room: bool,
    socket: OwnedFd,
}

/// What reading or writing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now; an event will tell.
    WouldBlock,
    /// The peer has closed its sending side.
    End,
    /// The connection is lost.
    Lost,
}

impl Client {
    /// Wraps an accepted, non-blocking socket.
    pub fn new(key: ConnectionKey, socket: OwnedFd, counted_ip: Option<IpAddr>) -> Self {
        Self {
            key,
            counted_ip,
            readable: false,
            ending: false,
            shut: false,
            closed: false,
            has_room: false,
            socket,
        }
    }

    /// Reads what is there.
    pub fn read(&self, into: &mut [u8]) -> Transfer {
        loop {
            return match recv(&self.socket, &mut *into, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => Transfer::End,
                Ok((_, count)) => Transfer::Bytes(count),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => Transfer::WouldBlock,
                Err(_) => Transfer::Lost,
            };
        }
    }

    /// Writes as much as the kernel takes.
    pub fn write(&self, bytes: &[u8]) -> Transfer {
        loop {
            return match send(
                &self.socket,
                bytes,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(count) => Transfer::Bytes(count),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => Transfer::WouldBlock,
                Err(_) => Transfer::Lost,
            };
        }
    }

    /// Somebody has logged in: the kernel may hold more for it.
    pub fn make_room(&mut self, send_buffer_bytes: usize) {
        self.has_room = true;
        // Where it fails, the connection is slower, and right.
        let _ = set_socket_send_buffer_size(&self.socket, send_buffer_bytes);
    }

    /// How many of the bytes the kernel took the peer has not acknowledged; `None` where it cannot
    /// be known.
    pub fn unacknowledged(&self) -> Option<u64> {
        sys::unacknowledged(&self.socket).ok()
    }

    /// Closes our side, so that the client reads an end after its last line (`base/close.rs`).
    pub(super) fn close_writing(&mut self) {
        self.shut = true;
        // It fails only where the connection is gone already.
        let _ = shutdown(&self.socket, Shutdown::Write);
    }
}

/// The address of an accepted socket as limits know it: an IPv4 client of an IPv6 listener is an
/// IPv4 client.
pub(super) fn canonical_ip(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}
