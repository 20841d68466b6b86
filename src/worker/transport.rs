//! How a connection's bytes travel: the socket, and what reading or writing it came to.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt::set_socket_send_buffer_size,
};

use crate::machine::sys;

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

/// An accepted connection's bytes on their way.
pub(super) struct Transport {
    socket: OwnedFd,
}

impl Transport {
    /// Over a non-blocking socket.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// The socket again.
    pub(super) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Reads what is there.
    pub(super) fn read(&self, into: &mut [u8]) -> Transfer {
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
    pub(super) fn write(&self, bytes: &[u8]) -> Transfer {
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

    /// The kernel may hold so much that is to be sent.
    pub(super) fn make_room(&self, send_buffer_bytes: usize) {
        // Where it fails, the connection is slower, and right.
        let _ = set_socket_send_buffer_size(&self.socket, send_buffer_bytes);
    }

    /// How many of the bytes the kernel took the peer has not acknowledged; `None` where it cannot
    /// be known.
    pub(super) fn unacknowledged(&self) -> Option<u64> {
        sys::unacknowledged(&self.socket).ok()
    }

    /// Closes our side.
    pub(super) fn close_writing(&self) {
        // It fails only where the connection is gone already.
        let _ = shutdown(&self.socket, Shutdown::Write);
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
