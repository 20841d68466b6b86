//! Taking connections in: accepting, admitting or refusing them, and pausing where the system has
//! no room.

use std::{io, net::SocketAddr, os::fd::OwnedFd};

use rustix::net::{SocketFlags, acceptfrom_with};

use super::{Worker, arrive::Arrival};
use crate::{
    base::{
        accept_pause::{AcceptPause, Pause},
        close::Misfit,
    },
    contract::{backend::Backend, bus::PushSource},
    limits::Refusal,
    protocol::{
        codec::Codec,
        command::Dialect,
        error_code::ErrorCode,
        http::response::{self, Status},
        reply::Reply,
        request::ReplyTo,
    },
    worker::{
        client::canonical,
        poller::Source,
        preface::{Expected, Preface},
        transport::Transport,
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
        let is_over = |until_ms: &mut u64| *until_ms <= now_ms;
        if self.accepting.paused_until_ms.take_if(is_over).is_none() {
            return;
        }
        let mut listeners = (0..).zip(&self.listeners);
        let are_back = listeners.all(|(number, listener)| {
            let added = self.poller.add(&listener.socket, Source::Listener(number));
            added.is_ok()
        });
        if !are_back {
            self.stop_accepting();
            self.accepting.paused_until_ms = Some(now_ms + self.accepting.pause.again().ms);
        }
    }

    pub(super) fn accept(&mut self, number: u8) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get(usize::from(number)) else {
                return;
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match acceptfrom_with(&listener.socket, flags) {
                Ok((socket, address)) => {
                    self.accepting.pause.accepted();
                    // Without an address the peer is gone already.
                    if let Some(address) = address.and_then(|address| address.try_into().ok()) {
                        self.admit(number, socket, address);
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
        self.stop_accepting();
    }

    fn stop_accepting(&mut self) {
        for listener in &self.listeners {
            self.poller.remove(&listener.socket);
        }
    }

    fn admit(&mut self, number: u8, socket: OwnedFd, address: SocketAddr) {
        let Some(listener) = self.listeners.get(usize::from(number)) else {
            return;
        };
        let (expected, acceptor) = (listener.expected, listener.acceptor.clone());
        let address = canonical(address);
        let is_proxy = self.trusted_proxies.contains(address.ip());
        if expected.proxy && !is_proxy {
            self.metrics.misfit(Misfit::UntrustedProxy);
            return;
        }
        // A proxy is not counted for itself, but for whom it comes.
        let counted_ip = match expected.proxy || expected.http && is_proxy {
            true => None,
            false => self.core.gateway.counted(address.ip()),
        };
        let admitted = self.core.gateway.admission().admit(counted_ip);
        if let Err(refusal) = admitted {
            self.refuse(socket, refusal, expected);
            return;
        }
        let now_ms = self.core.shard().now().monotonic_us / 1000;
        let mut preface = Preface::new(expected);
        if is_proxy && !expected.proxy {
            preface.may_be_forwarded();
        }
        self.arrive(Arrival::new(
            Transport::new(socket),
            address,
            counted_ip,
            preface,
            acceptor,
            now_ms,
        ));
    }

    /// Tells a connection why it is not taken in, in the form of what its listener carries.
    pub(super) fn refuse(&mut self, socket: OwnedFd, refusal: Refusal, expected: Expected) {
        let words = match refusal {
            Refusal::MaxConnections => "the gateway is full",
            Refusal::PerIp => "too many from this address",
        };
        self.metrics.connection_refused(refusal);
        let code = ErrorCode::TooManyConnections;
        self.metrics.error(code);
        let mut answer = Vec::new();
        if expected.lines {
            let (reply, to) = (Reply::error(code, words), ReplyTo::Line(Dialect::Colon));
            Codec::Line.write_reply(&reply, None, &to, &mut answer);
        } else {
            let status = Status::of(code);
            self.metrics.http_response(status);
            response::write_error(status, code, words, &mut answer);
        }
        let now_ms = self.core.shard().now().monotonic_us / 1000;
        self.refused.refuse(socket, &answer, now_ms);
    }
}
