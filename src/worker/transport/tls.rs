//! TLS between a connection's bytes and its socket.
//!
//! Owns what of a record has come, what was decrypted and not read, and what is encrypted and has
//! not left. Sans-IO but for the socket that it is handed: everything is tried again when the
//! socket can. Invariants: nothing more is read while something decrypted waits, and nothing more
//! is encrypted while a record has not left, so that each of the three is a record at most.

use std::{mem, os::fd::OwnedFd, sync::Arc};

use rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

use super::{Transfer, recv, send};

/// What of the peer's there may be that makes no whole message yet: a record, or the part of a
/// handshake that is the longest, its certificates.
const RECEIVED_MAX_BYTES: usize = 32 * 1024;
/// What goes into one record.
const PLAIN_MAX_BYTES: usize = 16 * 1024;
/// What a record has beside that, in every version.
const RECORD_OVERHEAD_BYTES: usize = 256;

/// Buffers that all connections of a core share: between two calls nothing is in them.
pub(in crate::worker) struct Scratch {
    received: Box<[u8]>,
    sealed: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            received: vec![0; RECEIVED_MAX_BYTES].into_boxed_slice(),
            sealed: Vec::new(),
        }
    }
}

/// How often one call reads from the socket, so that what brings nothing for the reader keeps no
/// core.
const READS_PER_CALL: usize = 4;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// What came before there was TLS is still to be taken in.
    Begun,
    /// The handshake is under way.
    Handshake,
    /// Bytes go both ways.
    Open,
    /// The peer says nothing more.
    PeerClosed,
    /// It broke the protocol.
    Failed,
}

/// What is to be done once bytes may go to the peer.
enum Goal<'a> {
    /// Nothing: what has come is taken in.
    TakeIn,
    /// To encrypt this.
    Seal(&'a [u8]),
    /// To say that nothing more comes.
    Close,
}

/// The server's side of one TLS connection.
pub(super) struct Tls {
    connection: UnbufferedServerConnection,
    phase: Phase,
    /// What has come and makes no whole message yet.
    received: Vec<u8>,
    /// What was decrypted and not read, from `read` on.
    plain: Vec<u8>,
    read: usize,
    /// The socket has nothing more, and will tell when it has.
    is_dry: bool,
    /// What is encrypted and has not left.
    sealed: Vec<u8>,
    /// Our side is to be closed once that has left.
    is_closing: bool,
}

impl Tls {
    /// Of a connection of which `received` has come.
    pub(super) fn new(config: Arc<ServerConfig>, received: Vec<u8>) -> Result<Self, rustls::Error> {
        debug_assert!(received.len() < RECEIVED_MAX_BYTES);
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            phase: Phase::Begun,
            received,
            plain: Vec::new(),
            read: 0,
            is_dry: false,
            sealed: Vec::new(),
            is_closing: false,
        })
    }

    /// Whether the handshake is over, and well.
    pub(super) fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::PeerClosed)
    }

    /// How many bytes are encrypted and have not left.
    pub(super) fn unsent(&self) -> usize {
        self.sealed.len()
    }

    /// Whether the socket may have more, although less came than there was room for.
    pub(super) fn may_have_more(&self) -> bool {
        !self.is_dry
    }

    /// Reads what there is.
    pub(super) fn read(
        &mut self,
        socket: &OwnedFd,
        into: &mut [u8],
        scratch: &mut Scratch,
    ) -> Transfer {
        self.is_dry = false;
        if self.phase == Phase::Begun {
            self.phase = Phase::Handshake;
            let mut begun = mem::take(&mut self.received);
            self.take_in(socket, &mut begun);
        }
        let mut filled = self.take_plain(into);
        for _ in 0..READS_PER_CALL {
            if filled == into.len() {
                break;
            }
            let end = match self.phase {
                Phase::Failed => Transfer::Lost,
                Phase::PeerClosed => Transfer::End,
                _ => self.receive(socket, scratch),
            };
            if !matches!(end, Transfer::Bytes(_)) {
                self.is_dry = end == Transfer::WouldBlock;
                return match filled {
                    0 => end,
                    _ => Transfer::Bytes(filled),
                };
            }
            filled += self.take_plain(&mut into[filled..]);
        }
        Transfer::Bytes(filled)
    }

    /// Moves what was decrypted; says how much.
    fn take_plain(&mut self, into: &mut [u8]) -> usize {
        let waiting = &self.plain[self.read..];
        let count = waiting.len().min(into.len());
        into[..count].copy_from_slice(&waiting[..count]);
        self.read += count;
        if self.read == self.plain.len() {
            self.plain = Vec::new();
            self.read = 0;
        }
        count
    }

    /// Reads once from the socket and takes in what that brings.
    fn receive(&mut self, socket: &OwnedFd, scratch: &mut Scratch) -> Transfer {
        debug_assert!(self.plain.is_empty(), "what waits is read first");
        let kept = self.received.len();
        if kept == RECEIVED_MAX_BYTES {
            // No message is so long.
            self.phase = Phase::Failed;
            return Transfer::Lost;
        }
        scratch.received[..kept].copy_from_slice(&self.received);
        let outcome = recv(socket, &mut scratch.received[kept..]);
        if let Transfer::Bytes(count) = outcome {
            self.take_in(socket, &mut scratch.received[..kept + count]);
        }
        outcome
    }

    /// Takes in all that has come, keeps what makes no whole message, and answers what is to be
    /// answered.
    fn take_in(&mut self, socket: &OwnedFd, come: &mut [u8]) {
        let (taken, _) = self.drive(come, Goal::TakeIn);
        self.received = come[taken..].to_vec();
        if self.flush(socket) == Transfer::Lost {
            self.phase = Phase::Failed;
        }
    }

    /// Has rustls go on, from `come`, until the goal is reached or more has to come; says how much
    /// it took, and whether the goal was reached.
    fn drive(&mut self, come: &mut [u8], goal: Goal<'_>) -> (usize, bool) {
        let mut taken = 0;
        if self.phase == Phase::Failed {
            return (0, false);
        }
        loop {
            let status = self.connection.process_tls_records(&mut come[taken..]);
            let UnbufferedStatus { discard, state, .. } = status;
            taken += discard;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        self.plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut self.sealed, |out| data.encode(out));
                    if self.phase == Phase::Failed {
                        return (taken, false);
                    }
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.phase = Phase::PeerClosed,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    if self.phase == Phase::Handshake {
                        self.phase = Phase::Open;
                    }
                    let done = match goal {
                        Goal::TakeIn => true,
                        Goal::Seal(bytes) => encrypt(&mut self.sealed, bytes.len(), |out| {
                            traffic.encrypt(bytes, out)
                        }),
                        Goal::Close => {
                            encrypt(&mut self.sealed, 0, |out| traffic.queue_close_notify(out))
                        }
                    };
                    return (taken, done);
                }
                // It has one thing to say yet: the alert that tells the peer why. Asked for more,
                // it would judge again what has come.
                Err(error) if self.phase != Phase::Failed => {
                    log::debug!("a TLS connection fails: {error}");
                    self.phase = Phase::Failed;
                }
                Ok(_) | Err(_) => return (taken, false),
            }
        }
    }

    /// The same with what was kept, where nothing new has come.
    fn drive_kept(&mut self, goal: Goal<'_>) -> bool {
        let mut kept = mem::take(&mut self.received);
        let (taken, done) = self.drive(&mut kept, goal);
        kept.drain(..taken);
        self.received = kept;
        done
    }

    /// Encrypts, a record at a time, as long as all that is encrypted leaves. What is encrypted
    /// cannot be taken back, so it counts as written; [`Tls::unsent`] says what of it has not left.
    pub(super) fn write(
        &mut self,
        socket: &OwnedFd,
        bytes: &[u8],
        scratch: &mut Scratch,
    ) -> Transfer {
        let mut written = 0;
        for part in bytes.chunks(PLAIN_MAX_BYTES) {
            match self.flush(socket) {
                Transfer::Bytes(_) => {}
                Transfer::WouldBlock if written > 0 => break,
                other => return other,
            }
            // What leaves at once needs no memory of its own.
            mem::swap(&mut self.sealed, &mut scratch.sealed);
            let sent = match self.drive_kept(Goal::Seal(part)) {
                true => send(socket, &self.sealed),
                false => Transfer::Lost,
            };
            mem::swap(&mut self.sealed, &mut scratch.sealed);
            let gone = match sent {
                Transfer::Bytes(gone) => gone,
                Transfer::WouldBlock => 0,
                lost => return lost,
            };
            self.sealed = scratch.sealed[gone..].to_vec();
            scratch.sealed.clear();
            written += part.len();
        }
        Transfer::Bytes(written)
    }

    /// Sends what is encrypted and has not left: all of it, or it would block.
    pub(super) fn flush(&mut self, socket: &OwnedFd) -> Transfer {
        while !self.sealed.is_empty() {
            match send(socket, &self.sealed) {
                Transfer::Bytes(count) => drop(self.sealed.drain(..count)),
                other => return other,
            }
        }
        self.sealed = Vec::new();
        if mem::take(&mut self.is_closing) {
            super::shut(socket);
        }
        Transfer::Bytes(0)
    }

    /// Says that nothing more comes, and closes our side once that has left.
    pub(super) fn close_writing(&mut self, socket: &OwnedFd) {
        // Where it cannot be said any more, the end of the connection says it.
        self.drive_kept(Goal::Close);
        self.is_closing = true;
        // What does not leave now leaves when the socket can.
        self.flush(socket);
    }
}

/// Appends what `encode` writes, which says how much room it needs.
fn encode(sealed: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let start = sealed.len();
    loop {
        match encode(&mut sealed[start..]) {
            Ok(count) => return sealed.truncate(start + count),
            Err(EncodeError::InsufficientSize(needed)) => {
                sealed.resize(start + needed.required_size, 0);
            }
            Err(EncodeError::AlreadyEncoded) => return sealed.truncate(start),
        }
    }
}

/// Appends the record that `encrypt` makes of so many `bytes`; `false`: it makes none any more.
fn encrypt(
    sealed: &mut Vec<u8>,
    bytes: usize,
    encrypt: impl FnOnce(&mut [u8]) -> Result<usize, EncryptError>,
) -> bool {
    let start = sealed.len();
    sealed.resize(start + bytes + RECORD_OVERHEAD_BYTES, 0);
    let count = encrypt(&mut sealed[start..]);
    debug_assert!(!matches!(count, Err(EncryptError::InsufficientSize(_))));
    sealed.truncate(start + count.as_ref().map_or(0, |count| *count));
    count.is_ok()
}
