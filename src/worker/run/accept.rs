//! Taking connections in: accepting, admitting or refusing them, and pausing where the system has
//! no room.

use std::{io, net::SocketAddr, os::fd::OwnedFd};

use rustix::net::{SocketFlags, acceptfrom_with};

use super::Worker;
use crate::{
    base::{
        accept_pause::{AcceptPause, Pause},
        close::CloseReason,
    },
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

/// Accepting while it fails.
#[derive(Default)]
pub(super) struct Accepting {
    pause: AcceptPause,
    /// Until when the listener is out of the epoll set.
    paused_until_ms: Option<u64>,
}

impl<B: Backend + 'static, P: PushSource + 'static> Worker<B, P> {
    /// Tries again what was paused, once its pause is over.
    pub(super) fn resume_accepting(&mut self, now_ms: u64) {
        if let Some(listener) = &self.listener
            && self
                .accepting
                .paused_until_ms
                .is_some_and(|until_ms| until_ms <= now_ms)
        {
            let is_back = self.poller.add(listener, Source::Listener).is_ok();
            self.accepting.paused_until_ms =
                (!is_back).then(|| now_ms + self.accepting.pause.again().ms);
        }
    }

    pub(super) fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.listener else {
                return;
            };
            match acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((socket, address)) => {
                    self.accepting.pause.accepted();
                    // Without an address the peer is gone already.
                    if let Some(address) = address.and_then(|address| address.try_into().ok()) {
                        self.admit(socket, address);
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return,
                Err(error) => {
                    let error = error.into();
                    if let Some(pause) = self.accepting.pause.failed(&error) {
                        self.pause_accepting(pause, &error);
                        return;
                    }
                }
            }
        }
    }

    /// Accepting failed for a reason that will not go away at once: leaves the queue to the kernel
    /// for a while.
    fn pause_accepting(&mut self, pause: Pause, error: &io::Error) {
        self.metrics.accept_errors_total.inc();
        if pause.is_first {
            log::warn!("cannot accept connections: {error}; trying again with pauses");
        }
        let now_ms = self.core.shard().now().monotonic_us / 1000;
        self.accepting.paused_until_ms = Some(now_ms + pause.ms);
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
