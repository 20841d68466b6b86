//! From an accepted connection to a session: carries out what the preface says of its first bytes.
//!
//! Owns the connections of which it is not known yet what carries them. Bounded: each keeps no more
//! than a proxy's header has, or, from a trusted proxy, the head of a request; and has the time to
//! log in for it, a proxy's header a second of that.

use std::{
    io, mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use slab::Slab;

use super::Worker;
use crate::{
    base::{
        close::{CloseReason, Misfit},
        id::ConnectionKey,
    },
    contract::{backend::Backend, bus::PushSource},
    protocol::codec::Codec,
    session::Peer,
    tls::Acceptor,
    worker::{
        client::{Client, canonical},
        poller::{Poller, Readiness, Source},
        preface::{Carrier, Preface, Step, proxy::HEADER_MAX_BYTES},
        transport::{Transfer, Transport},
    },
};

/// How long a proxy may take to say for whom it passes a connection on.
const PROXY_TIME_MS: u64 = 1000;
/// Reads of one connection at a time. No handshake needs so many, unless its peer sends what is of
/// no use.
const READS_AT_ONCE: usize = 16;

/// A connection before its first request.
pub(super) struct Arrival {
    pub(super) transport: Transport,
    /// The client's, or the proxy's until it has said for whom it comes.
    pub(super) address: SocketAddr,
    /// What it is counted by.
    pub(super) counted_ip: Option<IpAddr>,
    /// A proxy of HTTP comes, for whomever.
    is_forwarded: bool,
    pub(super) preface: Preface,
    /// What a TLS handshake begins with.
    acceptor: Option<Arc<Acceptor>>,
    /// When that was to begin, and whether it is under way.
    handshake: Option<(u64, bool)>,
    /// What was read of it and not taken.
    bytes: Vec<u8>,
    generation: u32,
    accepted_ms: u64,
}

impl Arrival {
    /// Of a connection that was accepted and counted.
    pub(super) fn new(
        transport: Transport,
        address: SocketAddr,
        counted_ip: Option<IpAddr>,
        preface: Preface,
        acceptor: Option<Arc<Acceptor>>,
        accepted_ms: u64,
    ) -> Self {
        Self {
            transport,
            address,
            counted_ip,
            is_forwarded: false,
            preface,
            acceptor,
            handshake: None,
            bytes: Vec::new(),
            generation: 0,
            accepted_ms,
        }
    }

    /// Why it is to be closed now; `None`: it has time.
    fn is_late(&self, now_ms: u64, login_ms: u64, handshake_ms: u64) -> Option<Misfit> {
        let (due_ms, misfit) = match self.handshake {
            Some((since_ms, _)) => (since_ms + handshake_ms, Misfit::LateHandshake),
            None if self.preface.awaits_proxy() => {
                (self.accepted_ms + PROXY_TIME_MS, Misfit::LateProxy)
            }
            None => (self.accepted_ms + login_ms, Misfit::Late),
        };
        (now_ms >= due_ms).then_some(misfit)
    }
}

/// The connections of one core before their first request.
#[derive(Default)]
pub(super) struct Arrivals {
    slots: Slab<Arrival>,
    next_generation: u32,
}

impl Arrivals {
    fn insert(&mut self, arrival: Arrival) -> ConnectionKey {
        self.next_generation = self.next_generation.wrapping_add(1);
        let generation = self.next_generation;
        let slot = self.slots.insert(Arrival {
            generation,
            ..arrival
        });
        let slot = u32::try_from(slot).expect("fewer connections than descriptors");
        ConnectionKey { slot, generation }
    }

    fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut Arrival> {
        let arrival = self.slots.get_mut(key.slot as usize)?;
        (arrival.generation == key.generation).then_some(arrival)
    }

    fn remove(&mut self, key: ConnectionKey) -> Option<Arrival> {
        self.get_mut(key)?;
        Some(self.slots.remove(key.slot as usize))
    }

    fn keys(&self) -> impl Iterator<Item = (ConnectionKey, &Arrival)> {
        self.slots.iter().map(|(slot, arrival)| {
            let key = ConnectionKey {
                slot: slot as u32,
                generation: arrival.generation,
            };
            (key, arrival)
        })
    }
}

impl<B: Backend + 'static, P: PushSource + 'static> Worker<B, P> {
    /// Takes in a connection that was accepted and counted: at once where nothing has to be known
    /// of it, else when that is known.
    pub(super) fn arrive(&mut self, mut arrival: Arrival) {
        if let Step::Known(carrier) = arrival.preface.step(&[], &self.trusted_proxies) {
            self.enter(arrival, carrier, |poller, transport, source| {
                poller.add(transport, source)
            });
            return;
        }
        let key = self.arrivals.insert(arrival);
        self.metrics.prefaces.inc();
        let watched = self.arrivals.get_mut(key).map(|arrival| {
            self.poller
                .add(&arrival.transport, Source::Arrival(key))
                .is_ok()
        });
        if watched != Some(true) {
            self.turn_away(key, Misfit::Lost);
        }
    }

    /// Something has happened to a connection before its first request.
    pub(super) fn on_arrival(&mut self, key: ConnectionKey, readiness: Readiness) {
        if readiness.broken {
            self.turn_away(key, Misfit::Lost);
        }
        if readiness.writable
            && let Some(arrival) = self.arrivals.get_mut(key)
        {
            arrival.transport.flush();
        }
        self.read_arrival(key);
        self.begin_handshakes();
    }

    /// Reads until it is known what the connection is, or there is no more. What is kept is
    /// bounded, and past that bound everything is known; a handshake that wants more is none.
    fn read_arrival(&mut self, key: ConnectionKey) {
        for _ in 0..READS_AT_ONCE {
            let Some(arrival) = self.arrivals.get_mut(key) else {
                return;
            };
            if matches!(arrival.handshake, Some((_, false))) {
                // Its turn has not come: what it sends waits in the kernel.
                return;
            }
            let buffer = &mut self.buffer[..HEADER_MAX_BYTES];
            let transfer = arrival.transport.read(buffer, &mut self.scratch);
            if let Transfer::Bytes(count) = transfer {
                arrival.bytes.extend_from_slice(&self.buffer[..count]);
            }
            let has_handshake = arrival.handshake.is_some();
            if has_handshake && arrival.transport.is_secured() {
                arrival.handshake = None;
                arrival.preface.secured();
                self.handshakes.ended();
                self.metrics.tls_handshakes_total.inc();
            }
            self.step(key);
            match transfer {
                Transfer::Bytes(_) => {}
                Transfer::WouldBlock => return,
                Transfer::Lost if has_handshake => self.turn_away(key, Misfit::Handshake),
                Transfer::End | Transfer::Lost => self.turn_away(key, Misfit::Lost),
            }
        }
        self.turn_away(key, Misfit::Handshake);
    }

    /// Begins the TLS handshakes whose turn it is.
    pub(super) fn begin_handshakes(&mut self) {
        let now_ms = self.core.shard().now().monotonic_us / 1000;
        while let Some(key) = self.handshakes.next(now_ms) {
            self.guarded(None, |worker| worker.begin_handshake(key));
        }
    }

    fn begin_handshake(&mut self, key: ConnectionKey) {
        let Some(arrival) = self.arrivals.get_mut(key) else {
            return;
        };
        let bytes = mem::take(&mut arrival.bytes);
        let config = arrival.acceptor.as_ref().map(|acceptor| acceptor.config());
        let begun = config.map(|config| arrival.transport.secure(config, bytes));
        if !matches!(begun, Some(Ok(()))) {
            self.turn_away(key, Misfit::Handshake);
            return;
        }
        if let Some((_, is_under_way)) = &mut arrival.handshake {
            *is_under_way = true;
        }
        self.handshakes.begun();
        self.read_arrival(key);
    }

    /// Does what the preface says until it wants more, or the connection is none of its any more.
    fn step(&mut self, key: ConnectionKey) {
        let now_ms = self.core.shard().now().monotonic_us / 1000;
        while let Some(arrival) = self.arrivals.get_mut(key) {
            match arrival.preface.step(&arrival.bytes, &self.trusted_proxies) {
                Step::Wait => return,
                Step::Proxied { length, client } => {
                    arrival.bytes.drain(..length);
                    self.name(key, client, length > 0);
                }
                Step::Known(carrier) => {
                    if let Some(arrival) = self.forget(key) {
                        self.enter(arrival, carrier, |poller, transport, source| {
                            poller.watch_as(transport, source)
                        });
                    }
                }
                Step::Secure => {
                    arrival.handshake = Some((now_ms, false));
                    self.handshakes.wait(key);
                }
                Step::Refused(misfit) => self.turn_away(key, misfit),
            }
        }
    }

    /// A proxy has said for whom it comes: that is who is counted. `None`: for itself.
    /// `was_header`: by a header of its own, before the first request.
    fn name(&mut self, key: ConnectionKey, client: Option<SocketAddr>, was_header: bool) {
        let Some(arrival) = self.arrivals.get_mut(key) else {
            return;
        };
        arrival.address = client.map_or(arrival.address, canonical);
        arrival.is_forwarded = !was_header;
        // One proxy may stand before another.
        if was_header && self.trusted_proxies.contains(arrival.address.ip()) {
            arrival.preface.may_be_forwarded();
        }
        let counted_ip = self.core.gateway.counted(arrival.address.ip());
        let mut admission = self.core.gateway.admission();
        // Under one lock nobody takes its place.
        admission.release(arrival.counted_ip);
        let admitted = admission.admit(counted_ip);
        drop(admission);
        match admitted {
            Ok(()) => arrival.counted_ip = counted_ip,
            Err(refusal) => {
                if let Some(arrival) = self.forget(key) {
                    let expected = arrival.preface.expected();
                    self.refuse(arrival.transport.into_socket(), refusal, expected);
                }
            }
        }
    }

    /// Nothing more of it is a preface.
    fn forget(&mut self, key: ConnectionKey) -> Option<Arrival> {
        let arrival = self.arrivals.remove(key)?;
        self.metrics.prefaces.dec();
        if let Some((_, true)) = arrival.handshake {
            self.handshakes.ended();
        }
        Some(arrival)
    }

    /// It is known what carries the connection: it gets what that takes. `watch` has the core hear
    /// of its session from now on.
    fn enter(
        &mut self,
        arrival: Arrival,
        carrier: Carrier,
        watch: impl FnOnce(&Poller, &Transport, Source) -> io::Result<()>,
    ) {
        let Arrival {
            transport,
            address,
            counted_ip,
            is_forwarded,
            bytes,
            ..
        } = arrival;
        let is_begun = !bytes.is_empty() || transport.is_secured();
        let peer = Peer {
            ip: address.ip(),
            port: address.port(),
            exempt: counted_ip.is_none(),
            is_forwarded,
        };
        let codec = match carrier {
            Carrier::Lines => Codec::Line,
            Carrier::Http => Codec::Http,
        };
        let key = self.core.shard().accept(peer, codec);
        let watched = watch(&self.poller, &transport, Source::Connection(key));
        let slot = key.slot as usize;
        if slot >= self.clients.len() {
            self.clients.resize_with(slot + 1, || None);
        }
        let mut client = Client::new(key, transport, counted_ip);
        // What the socket has, an event will tell; what was read of it already, none would.
        client.readable = is_begun;
        self.clients[slot] = Some(client);
        if watched.is_err() {
            self.drop_client(key, CloseReason::ConnectionLost);
        } else if is_begun {
            self.guarded(Some(key), |worker| {
                // By TLS, what is known may come before there is anything to handle.
                let job = match bytes.is_empty() {
                    true => None,
                    false => worker.core.shard().feed(key, &bytes),
                };
                if let Some(job) = job {
                    worker.start_job(job);
                }
                worker.read(key);
            });
        }
    }

    /// Closes a connection before its first request.
    fn turn_away(&mut self, key: ConnectionKey, misfit: Misfit) {
        if let Some(arrival) = self.forget(key) {
            self.metrics.misfit(misfit);
            self.core.gateway.admission().release(arrival.counted_ip);
            let (address, now_ms) = (arrival.address, self.core.shard().now().monotonic_us / 1000);
            if misfit == Misfit::Handshake {
                // So that it can read the alert that says why.
                self.refused
                    .refuse(arrival.transport.into_socket(), &[], now_ms);
            }
            log::debug!(
                "{address} is closed before its first request: {}",
                misfit.word()
            );
        }
    }

    /// Closes those that have had their time.
    pub(super) fn expire_arrivals(&mut self, now_ms: u64) {
        let login_ms = self.core.shard().options().login_timeout_ms;
        let handshake_ms = self.handshakes.timeout_ms();
        let late = self.arrivals.keys().filter_map(|(key, arrival)| {
            let misfit = arrival.is_late(now_ms, login_ms, handshake_ms)?;
            Some((key, misfit))
        });
        for (key, misfit) in late.collect::<Vec<_>>() {
            self.turn_away(key, misfit);
        }
    }

    /// The core drains: those that have not begun will begin elsewhere.
    pub(super) fn drop_arrivals(&mut self) {
        let keys: Vec<_> = self.arrivals.keys().map(|(key, _)| key).collect();
        for key in keys {
            self.turn_away(key, Misfit::Shutdown);
        }
    }
}
