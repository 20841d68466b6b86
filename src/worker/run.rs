//! A core's loop. Each turn: take what other threads handed over, what sockets have, what is due;
//! give it to the shard; let flows run; write what is to be sent, once per connection. Then wait in
//! the core's epoll set until there is something new, or something is due.
//!
//! Invariants: a panic while one connection is served ends that connection and no other; the thread
//! blocks only when no task is ready, nothing waits in the shard, and the inbox is armed.

mod accept;
mod acknowledge;
mod arrive;
mod handshakes;

use std::{
    cell::Cell,
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
};

use futures_lite::FutureExt;

pub use self::handshakes::HandshakeLimits;
use self::{accept::Accepting, arrive::Arrivals, handshakes::Handshakes};
use super::{
    Runtime,
    client::Client,
    listener::Listener,
    poller::{Poller, Readiness, Source},
    refused::Refused,
    transport::{Scratch, Transfer},
};
use crate::{
    base::{close::CloseReason, id::ConnectionKey},
    contract::{backend::Backend, bus::PushSource},
    flow::{background, commands, core::Core},
    handoff::{
        event::{CoreEvent, CoreSummary},
        inbox::Inbox,
    },
    limits::Exempt,
    metrics,
    session::job::Job,
    shard::{Effect, TICK_MS},
};

/// What one read takes at most; one buffer of this size serves all connections of the core.
const READ_BYTES: usize = 64 * 1024;
/// Reads of one connection per turn, so that one flood does not keep the others waiting.
const READS_PER_TURN: usize = 4;
/// How often in one turn flows run and what they said is sent, before sockets are looked at again.
const ROUNDS_PER_TURN: usize = 16;

/// What a worker is made of.
pub struct WorkerParts<B, P> {
    /// The core.
    pub core: Rc<Core<B, P>>,
    /// Where other threads leave things for it.
    pub inbox: Arc<Inbox<CoreEvent>>,
    /// Its share of each listener.
    pub listeners: Vec<Listener>,
    /// Who may say for whom it passes a connection on.
    pub trusted_proxies: Exempt,
    /// How many TLS handshakes it may have.
    pub handshakes: HandshakeLimits,
    /// The kernel's send buffer of a connection on which somebody has logged in.
    pub send_buffer_bytes: usize,
    /// Its epoll set.
    pub poller: Poller,
    /// What its tasks run on, in that set.
    pub runtime: Rc<Runtime>,
    /// Its counters.
    pub metrics: Arc<metrics::Core>,
}

/// One core at work.
pub struct Worker<B, P> {
    core: Rc<Core<B, P>>,
    inbox: Arc<Inbox<CoreEvent>>,
    metrics: Arc<metrics::Core>,
    poller: Poller,
    runtime: Rc<Runtime>,
    /// None once the core drains.
    listeners: Vec<Listener>,
    trusted_proxies: Exempt,
    arrivals: Arrivals,
    handshakes: Handshakes,
    send_buffer_bytes: usize,
    accepting: Accepting,
    refused: Refused,
    /// By slot.
    clients: Vec<Option<Client>>,
    buffer: Box<[u8]>,
    scratch: Scratch,
    next_tick_ms: u64,
    /// Confirmations are being gathered until then.
    gathering_until_us: Option<u64>,
    /// Flows and effects under way.
    flows: Rc<Cell<usize>>,
    // Lists of one turn, kept for their memory.
    ready: Vec<Readiness>,
    events: Vec<CoreEvent>,
    keys: Vec<ConnectionKey>,
    effects: Vec<Effect>,
}

impl<B: Backend + 'static, P: PushSource + 'static> Worker<B, P> {
    /// Puts a worker together; to be called on its executor.
    ///
    /// # Errors
    /// Where the epoll set takes nothing more.
    pub fn new(parts: WorkerParts<B, P>) -> io::Result<Self> {
        let poller = parts.poller;
        for (number, listener) in (0..).zip(&parts.listeners) {
            poller.add(&listener.socket, Source::Listener(number))?;
        }
        poller.add(&*parts.inbox, Source::Inbox)?;
        Ok(Self {
            core: parts.core,
            inbox: parts.inbox,
            metrics: parts.metrics,
            poller,
            runtime: parts.runtime,
            listeners: parts.listeners,
            trusted_proxies: parts.trusted_proxies,
            arrivals: Arrivals::default(),
            handshakes: Handshakes::new(parts.handshakes),
            send_buffer_bytes: parts.send_buffer_bytes,
            accepting: Accepting::default(),
            refused: Refused::default(),
            clients: Vec::new(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            scratch: Scratch::default(),
            next_tick_ms: 0,
            gathering_until_us: None,
            flows: Rc::default(),
            ready: Vec::new(),
            events: Vec::new(),
            keys: Vec::new(),
            effects: Vec::new(),
        })
    }

    /// Serves until the core has drained.
    ///
    /// # Errors
    /// Where the system does not let it wait.
    pub async fn run(mut self) -> io::Result<()> {
        loop {
            let began_us = self.core.advance_clock().monotonic_us;
            self.take_in(began_us);
            let is_idle = self.settle().await;
            let took_us = self.core.advance_clock().monotonic_us - began_us;
            self.metrics
                .core_loop_stall_us
                .observe(began_us / 1000, took_us);
            if self.has_drained() {
                break;
            }
            self.begin_gathering();
            self.wait(is_idle)?;
        }
        self.metrics.heartbeat.end();
        Ok(())
    }

    fn has_drained(&self) -> bool {
        let shard = self.core.shard();
        self.listeners.is_empty()
            && self.flows.get() == 0
            && shard.is_empty()
            && !shard.has_work()
            && !shard.has_to_gather()
    }

    /// Takes what is new: the time, what other threads handed over, what sockets have.
    fn take_in(&mut self, now_us: u64) {
        self.runtime.timers.advance(now_us);
        self.core.backend.expire_calls(now_us);
        self.take_inbox();
        self.take_ready();
        self.tick(now_us);
        self.resume();
    }

    /// Lets flows run, and sends what is to be sent when none is ready, so that a connection gets
    /// all of it at once; sooner if a flow asks what its client has acknowledged. `false`: there is
    /// more to do, for which sockets should not wait.
    async fn settle(&mut self) -> bool {
        for _ in 0..ROUNDS_PER_TURN {
            let ran = self.runtime.tasks.give_way().await;
            if ran && !self.core.shard().has_pressing_questions() {
                continue;
            }
            let worked = self.hand_out();
            if !ran && !worked {
                return !self.core.shard().has_work();
            }
        }
        self.hand_out();
        false
    }

    /// Sends what is to be sent and starts what is to be done; says whether there was anything.
    fn hand_out(&mut self) -> bool {
        let mut worked = self.flush();
        worked |= self.gather();
        worked |= self.drop_expired();
        worked | self.start_effects()
    }

    /// Waits for a socket, another thread or the clock; without `is_idle`, only looks.
    fn wait(&mut self, is_idle: bool) -> io::Result<()> {
        let longest_ms = if is_idle && self.inbox.arm() {
            self.pause_ms()
        } else {
            0
        };
        let outcome = self.poller.wait(longest_ms, &mut self.ready);
        self.inbox.disarm();
        outcome
    }

    /// How long nothing is due.
    fn pause_ms(&self) -> u64 {
        let now_us = self.core.shard().now().monotonic_us;
        let deadline_ms = self.core.backend.next_deadline_ms();
        let next_us = [
            Some(self.next_tick_ms * 1000),
            self.gathering_until_us,
            deadline_ms.map(|deadline_ms| deadline_ms.saturating_mul(1000)),
            self.runtime.timers.next_us(),
        ]
        .into_iter()
        .flatten()
        .fold(u64::MAX, u64::min);
        let pause_ms = next_us.saturating_sub(now_us).div_ceil(1000);
        debug_assert!(pause_ms <= TICK_MS, "the tick bounds every pause");
        pause_ms
    }

    fn take_inbox(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        let dropped = self.inbox.take_all(&mut events);
        self.metrics.core_queue_depth.set(events.len() as u64);
        if dropped > 0 {
            self.metrics.inbox_overflowed(dropped as u64);
            self.core.shard().on_gap();
        }
        for event in events.drain(..) {
            match event {
                CoreEvent::Backend(event) => self.core.backend.on_event(event),
                CoreEvent::Wake(waker) => waker.wake(),
                CoreEvent::IdLease(lease) => self.core.shard().lease_ids(&lease),
                CoreEvent::Push(message) => {
                    self.guarded(None, |worker| worker.core.shard().on_push(message));
                }
                CoreEvent::Ask(answer) => {
                    // Who asked may have given up.
                    let _ = answer.send(self.summary());
                }
                CoreEvent::Drain => self.drain(),
            }
        }
        self.events = events;
    }

    fn summary(&self) -> CoreSummary {
        let counts = self.core.shard().counts();
        CoreSummary {
            connections: counts.connections,
            users: counts.users,
            groups: counts.groups,
            flows: self.flows.get(),
        }
    }

    fn take_ready(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        for readiness in ready.drain(..) {
            match readiness.source {
                Source::Listener(number) => self.accept(number),
                Source::Arrival(key) => {
                    self.guarded(None, |worker| worker.on_arrival(key, readiness))
                }
                // What it is about has been taken.
                Source::Inbox => {}
                Source::Outbound(key) => self.runtime.outbound.on_ready(key, readiness),
                Source::Connection(key) => {
                    self.guarded(Some(key), |worker| worker.on_connection(key, readiness));
                }
            }
        }
        self.ready = ready;
    }

    fn tick(&mut self, now_us: u64) {
        let now_ms = now_us / 1000;
        if now_ms < self.next_tick_ms {
            return;
        }
        self.next_tick_ms = now_ms + TICK_MS;
        self.metrics.heartbeat.beat(now_ms);
        self.core.backend.advance(now_us.div_ceil(1000));
        self.core.bus.advance(now_ms);
        if self.core.backend.pushes_in_doubt() {
            self.core.shard().on_gap();
        }
        self.core.shard().tick();
        self.refused.tick(now_ms);
        self.expire_arrivals(now_ms);
        self.begin_handshakes();
        self.resume_accepting(now_ms);
    }

    fn on_connection(&mut self, key: ConnectionKey, readiness: Readiness) {
        if readiness.broken {
            self.drop_client(key, CloseReason::ConnectionLost);
            return;
        }
        if readiness.writable {
            if let Some(client) = self.client_mut(key) {
                client.flush();
            }
            if self.core.shard().unblock(key) {
                self.flush_client(key);
            }
        }
        if readiness.readable {
            if let Some(client) = self.client_mut(key) {
                client.readable = true;
                client.ending |= readiness.ending;
            }
            self.read(key);
        }
    }

    fn client_mut(&mut self, key: ConnectionKey) -> Option<&mut Client> {
        self.clients
            .get_mut(key.slot as usize)?
            .as_mut()
            .filter(|client| client.key == key)
    }

    /// Reads and hands over until there is nothing more, the shard wants no more, or the turn's
    /// share is used up.
    fn read(&mut self, key: ConnectionKey) {
        for _ in 0..READS_PER_TURN {
            let Some(client) = self
                .clients
                .get_mut(key.slot as usize)
                .and_then(Option::as_mut)
            else {
                return;
            };
            if client.key != key || !client.readable {
                return;
            }
            if !client.shut && !self.core.shard().can_read(key) {
                return;
            }
            // What is only read to be thrown away is thrown away fast.
            let room = if client.shut {
                self.buffer.len()
            } else {
                self.core.shard().read_room(key).min(self.buffer.len())
            };
            match client.read(&mut self.buffer[..room], &mut self.scratch) {
                // Nothing for the session, or for one that is over.
                Transfer::Bytes(0) => {}
                Transfer::Bytes(_) if client.shut => {}
                Transfer::Bytes(count) => {
                    let job = self.core.shard().feed(key, &self.buffer[..count]);
                    if let Some(job) = job {
                        self.start_job(job);
                    }
                }
                Transfer::WouldBlock => return,
                Transfer::End => {
                    if client.shut {
                        client.closed = true;
                        self.drop_if_settled(key);
                    } else {
                        self.core.shard().end_of_input(key);
                    }
                    return;
                }
                Transfer::Lost => {
                    self.drop_client(key, CloseReason::ConnectionLost);
                    return;
                }
            }
        }
        self.core.shard().resume_later(key);
    }

    fn resume(&mut self) {
        let mut keys = std::mem::take(&mut self.keys);
        self.core.shard().take_resumable(&mut keys);
        for key in keys.drain(..) {
            self.guarded(Some(key), |worker| {
                let job = worker.core.shard().resume(key);
                if let Some(job) = job {
                    worker.start_job(job);
                }
                worker.read(key);
            });
        }
        self.keys = keys;
    }

    fn flush(&mut self) -> bool {
        let mut keys = std::mem::take(&mut self.keys);
        self.core.shard().take_dirty(&mut keys);
        let worked = !keys.is_empty();
        for key in keys.drain(..) {
            self.guarded(Some(key), |worker| worker.flush_client(key));
        }
        self.keys = keys;
        worked
    }

    fn flush_client(&mut self, key: ConnectionKey) {
        let Some(client) = self
            .clients
            .get_mut(key.slot as usize)
            .and_then(Option::as_mut)
            .filter(|client| client.key == key)
        else {
            return;
        };
        let mut shard = self.core.shard();
        if !client.has_room && shard.is_known(key) {
            client.make_room(self.send_buffer_bytes);
        }
        let unsent = shard.unsent(key);
        let length = unsent.len();
        if length > 0 {
            let transfer = if shard.is_blocked(key) {
                Transfer::WouldBlock
            } else {
                client.write(unsent, &mut self.scratch)
            };
            match transfer {
                Transfer::Bytes(count) => shard.sent(key, count, count < length),
                Transfer::WouldBlock => shard.sent(key, 0, true),
                Transfer::End | Transfer::Lost => {
                    drop(shard);
                    self.drop_client(key, CloseReason::ConnectionLost);
                    return;
                }
            }
        }
        let finished = shard.is_finished(key);
        drop(shard);
        if let Some(reason) = finished {
            self.finish(key, reason);
        }
    }

    /// The session has ended and all is sent: closes our side and gives the client time to read it.
    fn finish(&mut self, key: ConnectionKey, reason: CloseReason) {
        let is_awaited = self.core.shard().awaits(key);
        if reason == CloseReason::ClientClosed && !is_awaited {
            self.drop_client(key, reason);
        } else if let Some(client) = self.client_mut(key)
            && !client.shut
        {
            client.close_writing();
            client.readable = true;
            self.read(key);
        }
    }

    fn drop_client(&mut self, key: ConnectionKey, reason: CloseReason) {
        self.ask(key);
        self.core.shard().remove(key, reason);
        let Some(place) = self.clients.get_mut(key.slot as usize) else {
            return;
        };
        if let Some(client) = place.take_if(|client| client.key == key) {
            self.core.gateway.admission().release(client.counted_ip);
        }
    }

    fn drop_expired(&mut self) -> bool {
        let mut keys = std::mem::take(&mut self.keys);
        self.core.shard().take_expired(&mut keys);
        let worked = !keys.is_empty();
        for key in keys.drain(..) {
            self.drop_client(key, CloseReason::ConnectionLost);
        }
        self.keys = keys;
        worked
    }

    fn start_effects(&mut self) -> bool {
        let mut effects = std::mem::take(&mut self.effects);
        self.core.shard().take_effects(&mut effects);
        let worked = !effects.is_empty();
        for effect in effects.drain(..) {
            self.spawn(None, background::run(Rc::clone(&self.core), effect));
        }
        self.effects = effects;
        worked
    }

    /// Runs the flow of a job, and of the jobs that turn up behind it, to the end.
    fn start_job(&self, job: Job) {
        let core = Rc::clone(&self.core);
        let key = job.key;
        self.spawn(Some(key), async move {
            let mut next = Some(job);
            while let Some(mut job) = next {
                let replies = commands::run(&core, &mut job).await;
                next = core.shard().complete(&job, &replies);
            }
        });
    }

    /// Runs a flow beside the loop. If it panics, the connection it works for is closed.
    fn spawn(&self, key: Option<ConnectionKey>, flow: impl Future<Output = ()> + 'static) {
        let (core, metrics) = (Rc::clone(&self.core), Arc::clone(&self.metrics));
        let flows = Rc::clone(&self.flows);
        flows.set(flows.get() + 1);
        // Each future around it would hold it twice, once before and once while it runs.
        let flow = Box::pin(flow);
        self.runtime.tasks.spawn(async move {
            if AssertUnwindSafe(flow).catch_unwind().await.is_err() {
                metrics.panics_total.inc();
                if let Some(key) = key {
                    core.shard().end(key, CloseReason::Internal);
                }
            }
            flows.set(flows.get() - 1);
        });
    }

    /// Serves one connection; if that panics, closes it.
    fn guarded(&mut self, key: Option<ConnectionKey>, serve: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| serve(self))).is_err() {
            self.metrics.panics_total.inc();
            if let Some(key) = key {
                self.drop_client(key, CloseReason::Internal);
            }
        }
    }

    fn drain(&mut self) {
        // Connections still in its queue are reset: their clients try the next gateway.
        self.listeners.clear();
        self.refused.clear();
        self.drop_arrivals();
        self.core.shard().drain();
    }
}
