//! How a connection's bytes travel: over its socket as they are, or by TLS.

mod tls;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    io::Errno,
    net::{self, RecvFlags, SendFlags, Shutdown, sockopt::set_socket_send_buffer_size},
};
use rustls::ServerConfig;

pub(super) use self::tls::Scratch;
use self::tls::Tls;
use crate::machine::sys;

/// What reading or writing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// So many bytes; none: nothing for the reader yet, and there may be more.
    Bytes(usize),
    /// Nothing now; an event will tell.
    WouldBlock,
    /// The peer has closed its sending side.
    End,
    /// The connection is lost.
    Lost,
}

/// An accepted connection's bytes on their way: as they are, or by TLS.
pub(super) struct Transport {
    socket: OwnedFd,
    tls: Option<Box<Tls>>,
}

impl Transport {
    /// Over a non-blocking socket, as they are.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, tls: None }
    }

    /// By TLS from now on; `received` has come of that already.
    ///
    /// # Errors
    /// Where rustls has no use for the configuration.
    pub(super) fn secure(
        &mut self,
        config: Arc<ServerConfig>,
        received: Vec<u8>,
    ) -> Result<(), rustls::Error> {
        assert!(self.tls.is_none(), "there is one handshake");
        self.tls = Some(Box::new(Tls::new(config, received)?));
        Ok(())
    }

    /// Whether TLS was begun and its handshake is over.
    pub(super) fn is_secured(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_established())
    }

    /// The socket again.
    pub(super) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Reads what is there.
    pub(super) fn read(&mut self, into: &mut [u8], scratch: &mut Scratch) -> Transfer {
        match &mut self.tls {
            None => recv(&self.socket, into),
            Some(tls) => tls.read(&self.socket, into, scratch),
        }
    }

    /// Whether there may be more to read, although less came than there was room for.
    pub(super) fn may_have_more(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.may_have_more())
    }

    /// Writes as much as there is room for. By TLS what is written may still wait for the socket;
    /// [`Transport::unacknowledged`] counts it.
    pub(super) fn write(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Transfer {
        match &mut self.tls {
            None => send(&self.socket, bytes),
            Some(tls) => tls.write(&self.socket, bytes, scratch),
        }
    }

    /// The socket has room again: sends what waits for it.
    pub(super) fn flush(&mut self) {
        if let Some(tls) = &mut self.tls {
            // Where it is lost, the next to read or write is told.
            tls.flush(&self.socket);
        }
    }

    /// The kernel may hold so much that is to be sent.
    pub(super) fn make_room(&self, send_buffer_bytes: usize) {
        // Where it fails, the connection is slower, and right.
        let _ = set_socket_send_buffer_size(&self.socket, send_buffer_bytes);
    }

    /// How many of the bytes that were written the peer has not acknowledged; `None` where it
    /// cannot be known. By TLS never fewer than it is: a record is longer than what is in it.
    pub(super) fn unacknowledged(&self) -> Option<u64> {
        let waiting = self.tls.as_ref().map_or(0, |tls| tls.unsent());
        let sent = sys::unacknowledged(&self.socket).ok()?;
        Some(sent + waiting as u64)
    }

    /// Closes our side.
    pub(super) fn close_writing(&mut self) {
        match &mut self.tls {
            None => shut(&self.socket),
            Some(tls) => tls.close_writing(&self.socket),
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads once from the socket.
fn recv(socket: &OwnedFd, into: &mut [u8]) -> Transfer {
    loop {
        return match net::recv(socket, &mut *into, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Transfer::End,
            Ok((_, count)) => Transfer::Bytes(count),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Transfer::WouldBlock,
            Err(_) => Transfer::Lost,
        };
    }
}

/// Writes as much as the kernel takes.
fn send(socket: &OwnedFd, bytes: &[u8]) -> Transfer {
    loop {
        return match net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => Transfer::Bytes(count),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Transfer::WouldBlock,
            Err(_) => Transfer::Lost,
        };
    }
}

/// Closes our side of the socket.
fn shut(socket: &OwnedFd) {
    // It fails only where the connection is gone already.
    let _ = net::shutdown(socket, Shutdown::Write);
}

#[cfg(test)]
mod tests;
