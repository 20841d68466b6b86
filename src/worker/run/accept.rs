//! Taking connections in: accepting, admitting or refusing them, and pausing where the system has
//! no room.

use std::{net::SocketAddr, os::fd::OwnedFd};

use rustix::net::{SocketFlags, acceptfrom_with};

use super::Worker;
use crate::{
    base::{back_off::BackOff, close::CloseReason},
    contract::{backend::Backend, bus::PushSource},
    limits::Refusal,
    protocol::{command::Dialect, error_code::ErrorCode, reply::Reply},
    session::Peer,
    worker::{
        client::{Client, canonical_ip},
        poller::Source,
    },
};

/// Connections accepted per turn.
const ACCEPTS_PER_TURN: usize = 64;

/// Accepting after it failed: paused, longer each time, until it works again.
pub(super) struct AcceptPause {
    until_ms: Option<u64>,
    back_off: BackOff,
}

impl Default for AcceptPause {
    fn default() -> Self {
        Self {
            until_ms: None,
            back_off: BackOff::accepting(),
        }
    }
}

impl<B: Backend + 'static, P: PushSource + 'static> Worker<B, P> {
    /// Tries again what was paused, once its pause is over.
    pub(super) fn resume_accepting(&mut self, now_ms: u64) {
        if let Some(listener) = &self.listener
            && self
                .accept_pause
                .until_ms
                .is_some_and(|until| until <= now_ms)
        {
            self.accept_pause.until_ms = None;
            if self.poller.add(listener, Source::Listener).is_err() {
                self.accept_pause.until_ms = Some(now_ms + self.accept_pause.back_off.next_ms());
            }
        }
    }

    pub(super) fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.listener else {
                return;
            };
            match acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((socket, address)) => {
                    self.accept_pause.back_off.reset();
                    // Without an address the peer is gone already.
                    if let Some(address) = address.and_then(|address| address.try_into().ok()) {
                        self.admit(socket, address);
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return,
                // The client gave up while it waited.
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
                Err(error) => {
                    self.pause_accepting(error);
                    return;
                }
            }
        }
    }

    /// Accepting failed for a reason that will not go away at once: leaves the queue to the kernel
    /// for a while.
    fn pause_accepting(&mut self, error: rustix::io::Errno) {
        self.metrics.accept_errors_total.inc();
        let pause = &mut self.accept_pause;
        if pause.back_off.is_reset() {
            log::warn!("cannot accept connections: {error}; trying again with pauses");
        }
        let now_ms = self.core.shard().now().monotonic_us / 1000;
        pause.until_ms = Some(now_ms + pause.back_off.next_ms());
        if let Some(listener) = &self.listener {
            self.poller.remove(listener);
        }
    }

    fn admit(&mut self, socket: OwnedFd, address: SocketAddr) {
        let ip = canonical_ip(address);
        let exempt = self.core.gateway.exempt.contains(ip);
        let counted_ip = (!exempt).then_some(ip);
        let admitted = self.core.gateway.admission().admit(counted_ip);
        if let Err(refusal) = admitted {
            self.refuse(socket, refusal);
            return;
        }
        let key = self.core.shard().accept(Peer {
            ip,
            port: address.port(),
            exempt,
        });
        let watched = self.poller.add(&socket, Source::Connection(key));
        let slot = key.slot as usize;
        if slot >= self.clients.len() {
            self.clients.resize_with(slot + 1, || None);
        }
        self.clients[slot] = Some(Client::new(key, socket, counted_ip));
        if watched.is_err() {
            self.drop_client(key, CloseReason::ConnectionLost);
        }
    }

    fn refuse(&mut self, socket: OwnedFd, refusal: Refusal) {
        let words = match refusal {
            Refusal::MaxConnections => "the gateway is full",
            Refusal::PerIp => "too many from this address",
        };
        self.metrics.connection_refused(refusal);
        let code = ErrorCode::TooManyConnections;
        self.metrics.error(code);
        let mut line = Vec::new();
        Reply::error(code, words).write(None, Dialect::Colon, &mut line);
        let now_ms = self.core.shard().now().monotonic_us / 1000;
        self.refused.refuse(socket, &line, now_ms);
    }
}
