//! The services of other processes as a [`Backend`]: which server a call goes to, and what is done
//! when that fails.
//!
//! ```text
//! call ─▶ choose (table, breaker, balance) ─▶ server ─▶ connection ─▶ wire ─▶ … ─▶ reply ─▶ the one call that waits for it
//!           ▲                                   │ lost, refused
//!           └────────── again, if harmless ─────┘
//! ```
//!
//! Owns the servers of one core, the calls under way and the rules of repeating. Pure: it is told
//! the time, has connections opened by a hook, and each connection's task tells it what came. Where
//! to look: `attempt` makes a call, `server` is one process with its connections, `balance` chooses
//! among several, `breaker` leaves one alone that fails, `budget` bounds repeating, `serial` keeps
//! calls apart, `health` and `silence` look after servers.
//!
//! Invariants: a reply reaches the one call it was numbered for, or nobody; a call that may not be
//! repeated is written at most once; nobody waits for a server that is known to be unreachable.

mod attempt;
mod balance;
mod breaker;
mod budget;
mod connection;
mod health;
pub mod instance;
mod serial;
mod silence;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

pub use self::connection::Connection;
pub use self::instance::Server;
pub use self::serial::SerialCalls;
use self::{balance::Balancer, breaker::Breaker, budget::Budget, instance::Connectivity};
use crate::{
    base::{pending_calls::Calls, random::Random, time::Pause},
    config::settings::Algorithm,
    contract::{
        backend::{Backend, BackendEvent, CallError},
        endpoints::{Endpoints, MethodSet, Wire},
        methods::{Method, Service},
    },
    metrics,
    proto::ReplyStatus,
    rpc::wire::{ReceivedReply, WireError},
};

/// The rules of a remote backend; each is a key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct RemoteOptions {
    /// How long a call may take, further attempts included.
    pub timeout_ms: u64,
    /// The longest reply.
    pub max_reply_bytes: usize,
    /// Connections to one server of the classic wire.
    pub pool_size: usize,
    /// Connections to one server with ids.
    pub connections_per_instance: usize,
    /// How a server is chosen.
    pub algorithm: Algorithm,
    /// Further attempts.
    pub max_retries: u32,
    /// The pause before one server is asked a third time; it doubles from there.
    pub retry_interval_ms: u64,
    /// Failures in a row that take a server out.
    pub breaker_threshold: u32,
    /// How often each server is asked whether it is alive.
    pub health_check_ms: u64,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// With an answer, which came over `connection_id`.
    Answered {
        /// The answer, not looked at.
        body: Vec<u8>,
        /// Over which connection it came.
        connection_id: u64,
    },
    /// The server said that it will not answer.
    Status(ReplyStatus),
    /// Nothing of it was written.
    NotWritten,
    /// The connection broke after it may have been written.
    Lost,
    /// Its time was over.
    TimedOut,
}

impl Outcome {
    fn of_reply(reply: &ReceivedReply<'_>, connection_id: u64) -> Self {
        match reply.status {
            ReplyStatus::ReplyOk => Self::Answered {
                body: reply.body.to_vec(),
                connection_id,
            },
            status => Self::Status(status),
        }
    }
}

/// What a connection is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Calls; opened again whenever it is lost.
    Permanent,
    /// Calls that wait for one; until it is lost.
    Further,
    /// To see whether that can be done at all.
    Check,
}

/// What opens connections: starts a task that does.
pub type Dial = Box<dyn Fn(&Rc<Remote>, &Rc<Server>, Purpose)>;

/// What a remote backend depends on.
pub struct Dependencies {
    /// Opens connections.
    pub dial: Dial,
    /// Lets time pass.
    pub pause: Box<dyn Fn(Duration) -> Pause>,
    /// Permits of calls that services of the classic wire cannot take two of at one time; the cores
    /// share them.
    pub serial: Arc<SerialCalls>,
    /// What draws begin with.
    pub random: Random,
}

/// One core's way to the services of other processes.
pub struct Remote {
    options: RemoteOptions,
    metrics: Arc<metrics::Core>,
    dependencies: Dependencies,
    calls: Calls<Outcome>,
    servers: RefCell<HashMap<(SocketAddr, Wire), Rc<Server>>>,
    services: RefCell<[Offer; Service::ALL.len()]>,
    budget: RefCell<Budget>,
    random: RefCell<Random>,
    now_ms: Cell<u64>,
    next_ping_ms: Cell<u64>,
    next_connection_id: Cell<u64>,
    pushes_in_doubt: Cell<bool>,
}

/// Who offers one service.
struct Offer {
    hosts: Vec<Host>,
    balancer: Balancer,
}

/// One instance of a service.
#[derive(Clone)]
struct Host {
    server: Rc<Server>,
    weight: u32,
    methods: MethodSet,
}

impl Remote {
    /// A backend that knows no server yet.
    pub fn new(
        options: RemoteOptions,
        metrics: Arc<metrics::Core>,
        mut dependencies: Dependencies,
    ) -> Rc<Self> {
        assert!(options.timeout_ms > 0, "no call would be answered");
        assert!(
            options.pool_size > 0 && options.connections_per_instance > 0,
            "no call would be sent"
        );
        let mut random = dependencies.random.split();
        Rc::new(Self {
            options,
            metrics,
            random: RefCell::new(dependencies.random.split()),
            dependencies,
            calls: Calls::default(),
            servers: RefCell::default(),
            services: RefCell::new(std::array::from_fn(|_| Offer {
                hosts: Vec::new(),
                balancer: Balancer::new(options.algorithm, random.split()),
            })),
            budget: RefCell::default(),
            now_ms: Cell::default(),
            next_ping_ms: Cell::new(options.health_check_ms),
            next_connection_id: Cell::default(),
            pushes_in_doubt: Cell::default(),
        })
    }

    /// A sequence of random numbers for whoever keeps one of its connections.
    pub fn random(&self) -> Random {
        self.random.borrow_mut().split()
    }

    fn new_connection_id(&self) -> u64 {
        let id = self.next_connection_id.get();
        self.next_connection_id.set(id + 1);
        id
    }

    /// Takes over a new table: connects to servers that are new, and lets go of those that are
    /// gone.
    fn update(self: &Rc<Self>, endpoints: &Endpoints) {
        let mut new = Vec::new();
        let mut listed: HashMap<(SocketAddr, Wire), Rc<Server>> = HashMap::new();
        for service in Service::ALL {
            let hosts: Vec<Host> = endpoints
                .of(service)
                .iter()
                .map(|instance| {
                    let key = (instance.address, instance.wire);
                    let server = listed.entry(key).or_insert_with(|| {
                        let known = self.servers.borrow().get(&key).cloned();
                        known.unwrap_or_else(|| {
                            let server = self.new_server(instance.address, instance.wire);
                            new.push(Rc::clone(&server));
                            server
                        })
                    });
                    server
                        .answers_ping
                        .set(endpoints.answers_ping(instance.address));
                    if service == Service::Message {
                        server.stores_messages.set(true);
                    }
                    Host {
                        server: Rc::clone(server),
                        weight: instance.weight,
                        methods: instance.methods,
                    }
                })
                .collect();
            let mut services = self.services.borrow_mut();
            let offer = &mut services[service as usize];
            let stays = |host: &Host| {
                hosts
                    .iter()
                    .any(|new| Rc::ptr_eq(&new.server, &host.server))
            };
            if service == Service::Message && !offer.hosts.iter().all(stays) {
                self.pushes_in_doubt.set(true);
            }
            offer.hosts = hosts;
        }
        let before = std::mem::replace(&mut *self.servers.borrow_mut(), listed);
        for (key, server) in before {
            if !self.servers.borrow().contains_key(&key) {
                server.retire();
            }
        }
        assert!(
            self.servers.borrow().values().all(|one| !one.is_retired()),
            "who is listed is not retired"
        );
        for server in new {
            let permanent = match server.wire {
                Wire::Classic => 1,
                Wire::WithIds => self.options.connections_per_instance,
            };
            for _ in 0..permanent {
                (self.dependencies.dial)(self, &server, Purpose::Permanent);
            }
        }
    }

    fn new_server(&self, address: SocketAddr, wire: Wire) -> Rc<Server> {
        Rc::new(Server::new(
            address,
            wire,
            self.new_connection_id(),
            (self.options.pool_size, self.options.max_reply_bytes),
            Breaker::new(self.options.breaker_threshold),
        ))
    }

    /// A connection to `server` is being opened; `connecting`: nothing says that it will fail.
    pub fn opening(&self, server: &Server, connecting: bool, purpose: Purpose) -> Rc<Connection> {
        server.opening(
            self.new_connection_id(),
            connecting,
            purpose == Purpose::Further,
        )
    }

    /// The connection is open. `false`: it was given up while it was being opened, and must be let
    /// go.
    pub fn opened(&self, server: &Server, connection: &Connection) -> bool {
        if connection.was_closed() {
            return false;
        }
        server.opened(connection, &self.calls);
        self.metrics.backend_connections.inc();
        if !server.breaker.borrow().is_closed() {
            // It failed before, and may be another process by now.
            server.ping(self.now_ms.get(), self.options.timeout_ms);
        }
        true
    }

    /// Bytes came over the connection.
    ///
    /// # Errors
    /// What makes it impossible to go on with it.
    pub fn received(
        &self,
        server: &Server,
        connection: &Connection,
        bytes: &[u8],
    ) -> Result<(), WireError> {
        let strays = server.received(connection, bytes, &self.calls)?;
        self.metrics.backend_stray_replies_total.add(strays);
        Ok(())
    }

    /// The connection could not be opened, or (`was_open`) is gone.
    pub fn lost(&self, server: &Server, connection: &Connection, was_open: bool) {
        if was_open {
            self.metrics.backend_connections.dec();
        }
        if was_open && !connection.was_closed() {
            // However many calls were out over it, it is one failure.
            self.count_failure(server);
            if server.stores_messages.get() && connection.was_useful() {
                // It may have died between storing and publishing.
                self.pushes_in_doubt.set(true);
            }
        }
        server.lost(connection, &self.calls);
    }

    /// A connection was opened to see whether that can be done, and it cannot.
    pub fn unreachable(&self, server: &Server) {
        self.report_ejection(server, "cannot be reached");
        server.eject(self.now_ms.get());
    }

    fn count_failure(&self, server: &Server) {
        if server.breaker.borrow_mut().failed(self.now_ms.get()) {
            self.report_ejection(server, "fails");
        }
    }

    /// It cannot be connected to, for this reason. What follows from that is [`Self::lost`].
    pub fn refused(&self, server: &Server, reason: &dyn std::fmt::Display) {
        server.set_trouble(format!("cannot be connected to: {reason}"));
    }

    /// Somebody in a server's place belongs to another cluster, or to none.
    pub fn handshake_failed(&self) {
        self.metrics.backend_handshakes_failed_total.inc();
    }

    fn report_ejection(&self, server: &Server, why: &str) {
        server.set_trouble(why.to_owned());
        self.metrics.backend_ejections_total.inc();
        log::warn!("{} {why} and is left alone for a while", server.address);
    }
}

impl Backend for Rc<Remote> {
    async fn call<M: Method>(&self, request: M::Request) -> Result<M::Response, CallError> {
        let outcome = self.attempts::<M>(&request).await;
        if let Err(error) = &outcome {
            self.metrics.backend_failed(M::SERVICE, *error);
        }
        outcome
    }

    fn on_event(&self, event: BackendEvent) {
        match event {
            BackendEvent::Endpoints(endpoints) => self.update(&endpoints),
            // No service of this process is asked.
            BackendEvent::Reply { .. } => {}
        }
    }

    fn advance(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
        self.check_health(now_ms);
    }

    fn expire_calls(&self, now_us: u64) {
        self.now_ms.set(now_us.div_ceil(1000));
        self.calls.expire(now_us / 1000, || Outcome::TimedOut);
    }

    fn next_deadline_ms(&self) -> Option<u64> {
        self.calls.next_deadline_ms()
    }

    fn pushes_in_doubt(&self) -> bool {
        self.pushes_in_doubt.take()
    }
}
