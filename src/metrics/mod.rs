//! What is counted, who counts it, and how it is told.
//!
//! Owns the numbers of the process: one [`Core`] for each core, written by that core alone; one
//! [`Store`] for the store; and [`Registry`], which holds them all for whoever reads, those of
//! discovery too. Never decides anything by them. A number is never behind a lock: a change is a
//! relaxed load and store ([`cell`]), and a scrape reads what is there. What is away outside, and
//! why, stands beside the number that says so.
//!
//! Names, help texts and labels stand in one table, [`names`]; [`exposition`] writes it out.

pub mod cell;
mod discovery;
pub mod exposition;
mod family;
pub mod label;
pub mod names;
pub mod outage;
pub mod process;
pub mod server;

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

pub use cell::{Counter, Gauge, Heartbeat, Histogram, Peak, SharedCounter, SharedGauge};
pub use discovery::Discovery;
pub use label::{Label, PasswordLoss, PerLabel, PushDrop};
pub use server::Server;

pub use crate::protocol::codec::Carrier;

use crate::{
    base::close::{CloseReason, Misfit},
    contract::{backend::CallError, methods::Service},
    limits::Refusal,
    metrics::outage::{Outage, Reason},
    protocol::{command::Verb, error_code::ErrorCode, http::response::Status},
};

/// How commands of one kind were answered.
#[derive(Debug, Default)]
struct CommandResults {
    /// With `+OK`.
    ok: Counter,
    /// With `-ERR`.
    error: Counter,
}

/// Calls to one service that brought no answer, by why.
type CallErrors = PerLabel<CallError, Counter, { <CallError as Label>::ALL.len() }>;

/// The numbers of one core. The core is their only writer, but for [`Core::inbox_overflowed`].
///
/// Aligned to two cache lines (the processor fetches them in pairs), so that no core's writing
/// slows another's.
#[derive(Debug)]
#[repr(align(128))]
pub struct Core {
    /// When the core last came round; for `/livez`, not exposed.
    pub heartbeat: Heartbeat,
    /// Open client connections.
    connections: PerLabel<Carrier, Gauge, { <Carrier as Label>::ALL.len() }>,
    /// Connections that are logged in.
    pub sessions_authenticated: Gauge,
    /// Connections taken from the listener.
    pub connections_accepted_total: Counter,
    /// Answers to HTTP requests.
    http_responses: PerLabel<Status, Counter, { Status::ALL.len() }>,
    /// Connections turned away.
    connections_refused: PerLabel<Refusal, Counter, { <Refusal as Label>::ALL.len() }>,
    /// Connections before their first request.
    pub prefaces: Gauge,
    /// Connections that ended before it.
    misfits: PerLabel<Misfit, Counter, { Misfit::ALL.len() }>,
    /// TLS handshakes that were finished.
    pub tls_handshakes_total: Counter,
    /// Failures of `accept`.
    pub accept_errors_total: Counter,
    /// Connections that ended.
    connections_closed: PerLabel<CloseReason, Counter, { CloseReason::ALL.len() }>,
    /// Commands answered.
    commands: PerLabel<Verb, CommandResults, { Verb::COUNT }>,
    /// Time from a command that calls a backend to its reply.
    command_duration: PerLabel<Verb, Histogram, { Verb::COUNT }>,
    /// Replies of `-ERR`.
    errors: PerLabel<ErrorCode, Counter, { ErrorCode::COUNT }>,
    /// Messages from clients that were stored.
    pub messages_received_total: Counter,
    /// Ids of messages that the store had for other messages.
    pub message_id_conflicts_total: Counter,
    /// MSG and GMSG lines written.
    pub messages_sent_total: Counter,
    /// Bytes read from client sockets.
    pub transport_received_bytes_total: Counter,
    /// Bytes written to client sockets.
    pub transport_sent_bytes_total: Counter,
    /// Bytes queued for clients.
    pub outbox_bytes: Gauge,
    /// Connections closed as slow consumers.
    pub slow_consumers_total: Counter,
    /// Times a connection went over its commands per second.
    pub rate_limited_commands_total: Counter,
    /// Login attempts refused because there were too many before.
    pub rate_limited_login_total: Counter,
    /// Registrations refused because their network had made so many.
    pub rate_limited_registration_total: Counter,
    /// Lines that break the protocol.
    pub protocol_errors_total: Counter,
    /// Pushes written to nobody.
    push_dropped: PerLabel<PushDrop, Counter, { <PushDrop as Label>::ALL.len() }>,
    /// Pushes that found the inbox full; counted by whoever wanted to hand them over.
    inbox_full: SharedCounter,
    /// Holes found in the numbering of pushes.
    pub push_gaps_total: Counter,
    /// Times a stream went back to what the store has.
    pub push_step_backs_total: Counter,
    /// Local connections one push went to.
    pub fanout_recipients: Histogram,
    /// Backend calls without an answer.
    backend_rpc_errors: PerLabel<Service, CallErrors, { Service::ALL.len() }>,
    /// Backend calls under way.
    pub backend_inflight: Gauge,
    /// Instances of each service that can be called.
    backend_instances_up: PerLabel<Service, Gauge, { Service::ALL.len() }>,
    /// Why nobody serves a service, by its number.
    pub service_troubles: [Reason; Service::ALL.len()],
    /// Open connections to backends.
    pub backend_connections: Gauge,
    /// Further attempts at backend calls.
    pub backend_retries_total: Counter,
    /// Replies of backends that nobody waited for.
    pub backend_stray_replies_total: Counter,
    /// Times a backend that failed was left alone.
    pub backend_ejections_total: Counter,
    /// TLS handshakes with backends that failed.
    pub backend_handshakes_failed_total: Counter,
    /// Numbers of groups in answers that were none.
    pub backend_bad_numbers_total: Counter,
    /// Users who are logged in and whose route Presence does not know.
    pub users_without_route: Gauge,
    /// 1 while the push bus is connected and subscribed to.
    pub bus_connected: Gauge,
    /// Why there is no connection to the push bus.
    pub bus_outage: Outage,
    /// Connections made to the push bus.
    pub bus_connections_total: Counter,
    /// Replies and pushes waiting in the core's inbox.
    pub core_queue_depth: Gauge,
    /// Longest turn of the loop lately, in microseconds.
    pub core_loop_stall_us: Peak,
    /// Panics caught while one connection, command or push was served.
    pub panics_total: Counter,
}

impl Core {
    /// All zero.
    pub fn new() -> Self {
        Self {
            heartbeat: Heartbeat::default(),
            connections: PerLabel::default(),
            sessions_authenticated: Gauge::default(),
            connections_accepted_total: Counter::default(),
            http_responses: PerLabel::default(),
            connections_refused: PerLabel::default(),
            prefaces: Gauge::default(),
            misfits: PerLabel::default(),
            tls_handshakes_total: Counter::default(),
            accept_errors_total: Counter::default(),
            connections_closed: PerLabel::default(),
            commands: PerLabel::default(),
            command_duration: PerLabel::new(Histogram::of_durations),
            errors: PerLabel::default(),
            messages_received_total: Counter::default(),
            message_id_conflicts_total: Counter::default(),
            messages_sent_total: Counter::default(),
            transport_received_bytes_total: Counter::default(),
            transport_sent_bytes_total: Counter::default(),
            outbox_bytes: Gauge::default(),
            slow_consumers_total: Counter::default(),
            rate_limited_commands_total: Counter::default(),
            rate_limited_login_total: Counter::default(),
            rate_limited_registration_total: Counter::default(),
            protocol_errors_total: Counter::default(),
            push_dropped: PerLabel::default(),
            inbox_full: SharedCounter::default(),
            push_gaps_total: Counter::default(),
            push_step_backs_total: Counter::default(),
            fanout_recipients: Histogram::of_counts(),
            backend_rpc_errors: PerLabel::default(),
            backend_inflight: Gauge::default(),
            backend_instances_up: PerLabel::default(),
            service_troubles: Default::default(),
            backend_connections: Gauge::default(),
            backend_retries_total: Counter::default(),
            backend_stray_replies_total: Counter::default(),
            backend_ejections_total: Counter::default(),
            backend_handshakes_failed_total: Counter::default(),
            backend_bad_numbers_total: Counter::default(),
            users_without_route: Gauge::default(),
            bus_connected: Gauge::default(),
            bus_outage: Outage::default(),
            bus_connections_total: Counter::default(),
            core_queue_depth: Gauge::default(),
            core_loop_stall_us: Peak::default(),
            panics_total: Counter::default(),
        }
    }

    /// So many instances of `service` can be called.
    pub fn set_instances_up(&self, service: Service, count: u64) {
        self.backend_instances_up.at(service).set(count);
    }

    /// How many instances of `service` can be called.
    pub fn instances_up(&self, service: Service) -> u64 {
        self.backend_instances_up.at(service).get()
    }

    /// Open client connections of this carrier.
    pub fn connections(&self, carrier: Carrier) -> &Gauge {
        self.connections.at(carrier)
    }

    /// An HTTP request was answered.
    pub fn http_response(&self, status: Status) {
        self.http_responses.at(status).inc();
    }

    /// Counts a connection that was closed before its first request.
    pub fn misfit(&self, reason: Misfit) {
        self.misfits.at(reason).inc();
    }

    /// A connection was turned away before it was served.
    pub fn connection_refused(&self, reason: Refusal) {
        self.connections_refused.at(reason).inc();
    }

    /// A connection ended.
    pub fn connection_closed(&self, reason: CloseReason) {
        self.connections_closed.at(reason).inc();
    }

    /// A command was answered: with `+OK` if `ok`, else with `-ERR`.
    #[inline]
    pub fn command(&self, verb: Verb, ok: bool) {
        let results = self.commands.at(verb);
        if ok {
            results.ok.inc();
        } else {
            results.error.inc();
        }
    }

    /// A command that called a backend was answered after `duration_us` microseconds.
    #[inline]
    pub fn command_took(&self, verb: Verb, duration_us: u64) {
        self.command_duration.at(verb).observe_us(duration_us);
    }

    /// An `-ERR` was sent.
    pub fn error(&self, code: ErrorCode) {
        self.errors.at(code).inc();
    }

    /// A push that arrived was written to nobody.
    pub fn push_dropped(&self, reason: PushDrop) {
        self.push_dropped.at(reason).inc();
    }

    /// `count` pushes found the core's inbox full. The one number of a core that any thread may add
    /// to.
    pub fn inbox_overflowed(&self, count: u64) {
        self.inbox_full.add(count);
    }

    /// A backend call brought no answer.
    pub fn backend_failed(&self, service: Service, error: CallError) {
        self.backend_rpc_errors.at(service).at(error).inc();
    }
}

impl Default for Core {
    fn default() -> Self {
        Self::new()
    }
}

/// The numbers of the store. The store thread is their only writer, except where a cell is shared.
#[derive(Debug)]
#[repr(align(128))]
pub struct Store {
    /// Transactions committed.
    pub commits: Counter,
    /// Messages stored by one transaction, of those that stored any.
    pub batch_messages: Histogram,
    /// Time one commit took.
    pub commit_duration: Histogram,
    /// Transactions that failed, and calls that failed alone.
    pub errors: Counter,
    /// Calls that panicked.
    pub panics: Counter,
    /// Messages stored.
    pub messages: Counter,
    /// Messages deleted by the sweep.
    pub swept_messages: Counter,
    /// Length of the write-ahead log.
    pub log_bytes: Gauge,
    /// Times the wall clock was found to be set.
    pub clock_steps: Counter,
    /// Calls left waiting when the store last took a batch.
    pub queue_depth: Gauge,
    /// For how long other processes have kept this one from writing, in milliseconds.
    pub lock_wait_ms: Gauge,
    /// Why nothing can be written.
    pub outage: Outage,
    /// Logins and registrations waiting for the password pool.
    pub password_queue_depth: SharedGauge,
    /// Passwords that were not hashed, by why.
    pub passwords_unhashed:
        PerLabel<PasswordLoss, SharedCounter, { <PasswordLoss as Label>::ALL.len() }>,
}

impl Store {
    /// All zero.
    pub fn new() -> Self {
        Self {
            commits: Counter::default(),
            batch_messages: Histogram::of_counts(),
            commit_duration: Histogram::of_durations(),
            errors: Counter::default(),
            panics: Counter::default(),
            messages: Counter::default(),
            swept_messages: Counter::default(),
            log_bytes: Gauge::default(),
            clock_steps: Counter::default(),
            queue_depth: Gauge::default(),
            lock_wait_ms: Gauge::default(),
            outage: Outage::default(),
            password_queue_depth: SharedGauge::default(),
            passwords_unhashed: PerLabel::default(),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

/// A core that has not come round for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The core's number.
    pub core: usize,
    /// How long it has been silent.
    pub silent_ms: u64,
}

/// All numbers of the process, and the clock they are measured by.
#[derive(Debug)]
pub struct Registry {
    /// One for each core, in the order of their numbers.
    pub cores: Vec<Arc<Core>>,
    /// The store's.
    pub store: Arc<Store>,
    /// Those of a backend process; `None` in a gateway.
    pub server: Option<Arc<Server>>,
    /// How discovery is doing.
    pub discovery: Arc<Discovery>,
    /// The files of certificates in use, each with the second since 1970 until which the first in
    /// it is good.
    pub certificates: Mutex<Vec<(String, u64)>>,
    /// Whether metrics that were renamed are written under their old names too.
    pub old_names: bool,
    /// The zero of `now_ms`.
    pub started: Instant,
    /// When the process started, by the wall clock.
    pub started_unix_ms: u64,
}

impl Registry {
    /// Numbers for `cores` cores, all zero. `started` is the zero of the `now_ms` that cores beat
    /// with.
    pub fn new(cores: usize, started: Instant, started_unix_ms: u64) -> Self {
        Self {
            cores: (0..cores).map(|_| Arc::new(Core::new())).collect(),
            store: Arc::new(Store::new()),
            server: None,
            discovery: Arc::default(),
            certificates: Mutex::default(),
            old_names: true,
            started,
            started_unix_ms,
        }
    }

    /// Numbers for a backend process, all zero. It has no cores: their families stay empty.
    pub fn of_backend(server: Arc<Server>, started: Instant, started_unix_ms: u64) -> Self {
        Self {
            server: Some(server),
            ..Self::new(0, started, started_unix_ms)
        }
    }

    /// Monotonic milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Cores that have not come round for longer than `HEARTBEAT_LIMIT_MS`.
    pub fn stalls(&self) -> Vec<Stall> {
        let now_ms = self.now_ms();
        self.cores
            .iter()
            .enumerate()
            .filter_map(|(core, numbers)| {
                let silent_ms = numbers.heartbeat.stalled_for_ms(now_ms)?;
                Some(Stall { core, silent_ms })
            })
            .collect()
    }

    /// Open connections: of the clients of all cores, or of the gateways of a backend process.
    pub fn connections(&self) -> u64 {
        let carriers = self.cores.iter().flat_map(|core| core.connections.iter());
        let clients = carriers.map(|(_, count)| count.get());
        let server = self.server.iter().map(|server| server.connections.get());
        clients.chain(server).sum()
    }

    /// Logged-in connections of all cores.
    pub fn sessions(&self) -> u64 {
        self.cores
            .iter()
            .map(|core| core.sessions_authenticated.get())
            .sum()
    }
}
