//! One client's connection: what is known of it beyond what the kernel says.

use std::net::{IpAddr, SocketAddr};

use super::transport::{Scratch, Transfer, Transport};
use crate::base::id::ConnectionKey;

/// A client's connection.
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
    transport: Transport,
}

impl Client {
    /// Of the session with this key.
    pub(super) fn new(
        key: ConnectionKey,
        transport: Transport,
        counted_ip: Option<IpAddr>,
    ) -> Self {
        Self {
            key,
            counted_ip,
            readable: false,
            ending: false,
            shut: false,
            closed: false,
            has_room: false,
            transport,
        }
    }

    /// Reads what is there.
    pub(super) fn read(&mut self, into: &mut [u8], scratch: &mut Scratch) -> Transfer {
        let transfer = self.transport.read(into, scratch);
        // A short read empties the socket; what comes later comes with an event.
        self.readable = match transfer {
            Transfer::Bytes(count) => {
                count == into.len() || self.ending || self.transport.may_have_more()
            }
            _ => false,
        };
        transfer
    }

    /// Writes as much as there is room for.
    pub(super) fn write(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Transfer {
        self.transport.write(bytes, scratch)
    }

    /// The socket has room again.
    pub(super) fn flush(&mut self) {
        self.transport.flush();
    }

    /// Somebody has logged in: the kernel may hold more for it.
    pub fn make_room(&mut self, send_buffer_bytes: usize) {
        self.has_room = true;
        self.transport.make_room(send_buffer_bytes);
    }

    /// How many of the bytes that left the peer has not acknowledged; `None` where it cannot be
    /// known.
    pub fn unacknowledged(&self) -> Option<u64> {
        self.transport.unacknowledged()
    }

    /// Closes our side, so that the client reads an end after its last line (`base/close.rs`).
    pub(super) fn close_writing(&mut self) {
        self.shut = true;
        self.transport.close_writing();
    }
}

/// The address of an accepted socket as limits know it: an IPv4 client of an IPv6 listener is an
/// IPv4 client.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
