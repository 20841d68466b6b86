//! One process that serves calls: its connections, the calls that wait for one, and whether it can
//! be reached at all.
//!
//! Owns the choice of a connection. A server of the classic wire takes one call at a time per
//! connection, from a pool that grows up to its size; then calls wait in line. One with ids takes
//! them all over a fixed number of connections. Knows no socket: a connection is opened and held by
//! a task that tells how it went.
//!
//! Invariants: a classic connection has at most one call out, and is closed when that call is given
//! up; a call is written at most once.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
};

use smallvec::SmallVec;

use super::{
    Outcome,
    breaker::Breaker,
    connection::{Connection, State},
    silence::Silence,
};
use crate::{
    base::pending_calls::Calls,
    contract::endpoints::Wire,
    proto::PingRequest,
    rpc::wire::{Arguments, Caller, OutgoingCall, ReceivedReply, WireError, with_arguments},
};

/// Calls that wait for a connection of one server at most.
const QUEUE_CALLS: usize = 1024;
/// Calls that one server with ids has not answered at most.
const OUTSTANDING_CALLS: usize = 16 * 1024;
/// Numbers from here on are those of pings, which no call has.
const FIRST_PING: u64 = 1 << 63;

/// Whether a server can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connectivity {
    /// It is being connected to and nothing speaks against it: calls wait for that.
    Connecting,
    /// It is connected.
    Up,
    /// It could not be connected to; this is tried again and again.
    Down,
}

/// Why a server did not take a call. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too much is waiting for it already.
    Full,
    /// It went down.
    Down,
}

/// A call that waits for a connection.
#[derive(Debug)]
struct Queued {
    number: u64,
    service: &'static str,
    method: &'static str,
    timeout_ms: u32,
    args: Vec<u8>,
}

impl Queued {
    fn of(call: &OutgoingCall<'_>) -> Self {
        let mut args = Vec::with_capacity(call.args.len());
        call.args.encode(&mut args);
        Self {
            number: call.number,
            service: call.service,
            method: call.method,
            timeout_ms: call.timeout_ms,
            args,
        }
    }

    fn send(&self, connection: &Connection) -> bool {
        let encode = |into: &mut Vec<u8>| into.extend_from_slice(&self.args);
        connection.call(&OutgoingCall {
            number: self.number,
            service: self.service,
            method: self.method,
            timeout_ms: self.timeout_ms,
            args: Arguments::new(self.args.len(), &encode),
        })
    }
}

/// See the module's description.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub wire: Wire,
    /// Stands for the connection of calls that have none yet.
    queue_id: u64,
    max_reply_bytes: usize,
    /// Connections of the classic wire at most.
    pool_size: usize,
    connections: RefCell<Vec<Rc<Connection>>>,
    /// Further connections that were asked for, and have not come to anything yet.
    expected_connections: Cell<usize>,
    queue: RefCell<VecDeque<Queued>>,
    connectivity: Cell<Connectivity>,
    /// Judges its answers.
    pub breaker: RefCell<Breaker>,
    /// It answers `HealthService.Ping`.
    pub answers_ping: Cell<bool>,
    /// It stores messages, and publishes them.
    pub(super) stores_messages: Cell<bool>,
    /// No instance has it any more: no new calls.
    retired: Cell<bool>,
    outstanding: Cell<usize>,
    silence: RefCell<Silence>,
    /// Why it is of no use, as far as is known.
    trouble: RefCell<Option<String>>,
    next_ping: Cell<u64>,
}

impl Server {
    /// A server that is about to be connected to. `queue_id` stands for the connection of
    /// calls that have none yet.
    pub fn new(
        address: SocketAddr,
        wire: Wire,
        queue_id: u64,
        (pool_size, max_reply_bytes): (usize, usize),
        breaker: Breaker,
    ) -> Self {
        Self {
            address,
            wire,
            queue_id,
            max_reply_bytes,
            pool_size,
            connections: RefCell::default(),
            expected_connections: Cell::default(),
            queue: RefCell::default(),
            connectivity: Cell::new(Connectivity::Connecting),
            breaker: RefCell::new(breaker),
            answers_ping: Cell::new(false),
            stores_messages: Cell::new(false),
            retired: Cell::new(false),
            outstanding: Cell::default(),
            silence: RefCell::default(),
            trouble: RefCell::default(),
            next_ping: Cell::new(FIRST_PING),
        }
    }

    /// Stands for the connection of calls that have none yet.
    pub fn queue_id(&self) -> u64 {
        self.queue_id
    }

    /// Whether it can be called.
    pub(super) fn connectivity(&self) -> Connectivity {
        self.connectivity.get()
    }

    /// Calls that it has not answered.
    pub fn outstanding(&self) -> usize {
        self.outstanding.get()
    }

    /// Open connections.
    fn open_connections(&self) -> usize {
        self.connections
            .borrow()
            .iter()
            .filter(|connection| connection.is_open())
            .count()
    }

    fn has(&self, connection: &Connection) -> bool {
        let connections = self.connections.borrow();
        connections.iter().any(|other| other.id == connection.id)
    }

    /// Whether a connection is being opened that calls may wait for.
    fn is_connecting(&self) -> bool {
        let connections = self.connections.borrow();
        let mut states = connections.iter().map(|connection| connection.state.get());
        states.any(|state| state == State::Connecting)
    }

    /// Its connections changed: this is what follows from them.
    fn set_connectivity(&self, to: Connectivity) {
        let (open, is_connecting) = (self.open_connections(), self.is_connecting());
        let follows = match to {
            Connectivity::Up => open > 0,
            Connectivity::Connecting => open == 0 && is_connecting,
            Connectivity::Down => open == 0 && !is_connecting,
        };
        assert!(follows, "{to:?} with {open} open connections");
        self.connectivity.set(to);
    }

    /// What holds between any two of the calls below.
    fn check(&self) {
        let waiting = self.queue.borrow().len();
        assert!(waiting <= QUEUE_CALLS, "{waiting} calls wait");
        assert!(
            self.connectivity() != Connectivity::Down || waiting == 0,
            "{waiting} calls wait for nothing"
        );
        let connections = self.connections.borrow().len() + self.expected_connections.get();
        // The permanent one may come back after further ones have taken its place.
        assert!(
            self.wire != Wire::Classic || connections <= self.pool_size + 1,
            "{connections} connections of {}",
            self.pool_size
        );
    }

    /// Whether it can tell that it is alive without being asked anything else.
    pub(super) fn can_be_pinged(&self) -> bool {
        // With ids, even "unknown method" is an answer.
        self.wire == Wire::WithIds || self.answers_ping.get()
    }

    /// Whether a call may go to it now. One that can be pinged is probed by pings alone.
    pub(super) fn is_eligible(&self, now_ms: u64) -> bool {
        let breaker = self.breaker.borrow();
        !self.retired.get()
            && self.connectivity() != Connectivity::Down
            && (breaker.is_closed() || !self.can_be_pinged() && breaker.lets_through(now_ms))
    }

    /// Whether calls can be expected to be answered.
    pub(super) fn is_up(&self) -> bool {
        self.connectivity() == Connectivity::Up && self.breaker.borrow().is_closed()
    }

    /// No instance has it any more: its connections end once their calls are answered.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        self.close_if_done();
    }

    /// Whether no instance has it any more.
    pub fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Ends the connections of a retired server that owes nothing.
    fn close_if_done(&self) {
        if self.retired.get() && self.outstanding.get() == 0 {
            self.close_connections();
        }
    }

    fn close_connections(&self) {
        for connection in &*self.connections.borrow() {
            connection.close();
        }
    }

    /// A connection is being opened as `connection_id`; `connecting`: calls may wait for it,
    /// `expected`: it was asked for beside those that are kept for ever.
    pub fn opening(&self, connection_id: u64, connecting: bool, expected: bool) -> Rc<Connection> {
        if expected {
            assert!(self.expected_connections.get() > 0, "it was asked for");
            self.expected_connections
                .set(self.expected_connections.get() - 1);
        }
        let connection = Rc::new(Connection::new(
            connection_id,
            Caller::new(self.wire, self.max_reply_bytes),
            connecting,
        ));
        self.connections.borrow_mut().push(Rc::clone(&connection));
        if connecting && self.connectivity() == Connectivity::Down {
            self.set_connectivity(Connectivity::Connecting);
        }
        self.check();
        connection
    }

    /// A connection is open.
    pub fn opened(&self, connection: &Connection, calls: &Calls<Outcome>) {
        debug_assert!(self.has(connection), "a connection of this server");
        connection.enter(State::Open);
        self.set_connectivity(Connectivity::Up);
        self.send_queued(connection, calls);
        self.check();
    }

    /// A connection could not be opened, or is gone: what was out over it is lost.
    pub fn lost(&self, connection: &Connection, calls: &Calls<Outcome>) {
        self.connections
            .borrow_mut()
            .retain(|other| other.id != connection.id);
        connection.enter(State::Lost);
        assert!(!self.has(connection), "what is lost is forgotten");
        calls.finish_all(connection.id, || Outcome::Lost);
        if self.open_connections() > 0 {
            return;
        }
        if self.is_connecting() {
            // Calls wait for that one. If it fails, it will come by here, too.
            self.set_connectivity(Connectivity::Connecting);
            return;
        }
        self.set_connectivity(Connectivity::Down);
        for queued in self.queue.borrow_mut().drain(..) {
            calls.finish(queued.number, self.queue_id, Outcome::NotWritten);
        }
        self.check();
    }

    /// Whether a further connection would help the calls that wait; it is expected then, and must
    /// be opened.
    pub(super) fn expects_connection(&self) -> bool {
        let connections = self.connections.borrow();
        let closed = connections
            .iter()
            .filter(|connection| !connection.is_open())
            .count();
        let expected = self.expected_connections.get();
        let wanted = self.wire == Wire::Classic
            && self.connectivity() == Connectivity::Up
            && self.queue.borrow().len() > closed + expected
            && connections.len() + expected < self.pool_size;
        if wanted {
            self.expected_connections.set(expected + 1);
        }
        wanted
    }

    /// Sends `call`, or queues it. Every call that was taken must be [ended](Self::ended).
    ///
    /// # Errors
    /// Where there is no room or no hope.
    pub(super) fn send(
        &self,
        call: &OutgoingCall<'_>,
        calls: &Calls<Outcome>,
    ) -> Result<(), Refused> {
        if self.connectivity() == Connectivity::Down {
            return Err(Refused::Down);
        }
        let connection = match self.wire {
            Wire::Classic => self.idle_connection(),
            Wire::WithIds if self.outstanding.get() >= OUTSTANDING_CALLS => {
                return Err(Refused::Full);
            }
            Wire::WithIds => self.next_connection(call.number),
        };
        match connection {
            Some(connection) => {
                if !connection.call(call) {
                    return Err(Refused::Full);
                }
                calls.redirect(call.number, self.queue_id, connection.id);
            }
            None => {
                let mut queue = self.queue.borrow_mut();
                if queue.len() >= QUEUE_CALLS {
                    return Err(Refused::Full);
                }
                queue.push_back(Queued::of(call));
            }
        }
        self.check();
        self.outstanding.set(self.outstanding.get() + 1);
        Ok(())
    }

    fn idle_connection(&self) -> Option<Rc<Connection>> {
        let connections = self.connections.borrow();
        let idle = |connection: &&Rc<Connection>| connection.has_room();
        connections.iter().find(idle).cloned()
    }

    fn next_connection(&self, number: u64) -> Option<Rc<Connection>> {
        let connections = self.connections.borrow();
        let open = connections.iter().filter(|connection| connection.is_open());
        let count = open.clone().count();
        open.clone()
            .nth(number as u32 as usize % count.max(1))
            .cloned()
    }

    /// Sends queued calls that are still waited for over `connection`, as long as it has room.
    fn send_queued(&self, connection: &Connection, calls: &Calls<Outcome>) {
        while connection.has_room() {
            let Some(queued) = self.queue.borrow_mut().pop_front() else {
                return;
            };
            if !calls.is_open(queued.number, self.queue_id) {
                continue;
            }
            if queued.send(connection) {
                calls.redirect(queued.number, self.queue_id, connection.id);
            } else {
                calls.finish(queued.number, self.queue_id, Outcome::NotWritten);
            }
        }
    }

    /// A call that was taken has ended. Unanswered, it leaves a classic connection of which nobody
    /// knows whose its next reply is.
    pub fn ended(&self, number: u64) {
        assert!(self.outstanding.get() > 0, "a call ends once");
        self.outstanding.set(self.outstanding.get() - 1);
        for connection in &*self.connections.borrow() {
            connection.give_up(number);
        }
        self.close_if_done();
    }

    /// An answer that came over `connection_id` made no sense: nothing that follows can be trusted.
    pub(super) fn poison(&self, connection_id: u64) {
        for connection in &*self.connections.borrow() {
            if connection.id == connection_id {
                connection.close();
            }
        }
    }

    /// Takes bytes that came over `connection`; says how many replies came that nobody waits for.
    ///
    /// # Errors
    /// What makes it impossible to go on with the connection.
    pub fn received(
        &self,
        connection: &Connection,
        bytes: &[u8],
        calls: &Calls<Outcome>,
    ) -> Result<u64, WireError> {
        debug_assert!(self.has(connection), "a connection of this server");
        let mut strays = 0;
        connection.wire.borrow_mut().receive(bytes, |reply| {
            connection.useful.set(true);
            strays += u64::from(!self.take_reply(connection, &reply, calls));
        })?;
        self.send_queued(connection, calls);
        Ok(strays)
    }

    /// Ends the call or the ping that `reply` is for; `false`: nobody waits for that.
    fn take_reply(
        &self,
        connection: &Connection,
        reply: &ReceivedReply<'_>,
        calls: &Calls<Outcome>,
    ) -> bool {
        self.silence.borrow_mut().broken();
        if reply.number >= FIRST_PING {
            connection.pinged_ms.set(None);
            self.breaker.borrow_mut().succeeded();
            return true;
        }
        let outcome = Outcome::of_reply(reply, connection.id);
        calls.finish(reply.number, connection.id, outcome)
    }

    /// Asks the server whether it is alive, over each connection on which that can be asked now.
    pub fn ping(&self, now_ms: u64, timeout_ms: u64) {
        if !self.can_be_pinged() {
            return;
        }
        let connections: SmallVec<[Rc<Connection>; 4]> = match self.wire {
            Wire::Classic => self.idle_connection().into_iter().collect(),
            Wire::WithIds => {
                let connections = self.connections.borrow();
                connections
                    .iter()
                    .filter(|connection| connection.is_open())
                    .cloned()
                    .collect()
            }
        };
        for connection in connections {
            if connection.pinged_ms.get().is_none() {
                self.ping_over(&connection, now_ms, timeout_ms);
            }
        }
    }

    fn ping_over(&self, connection: &Connection, now_ms: u64, timeout_ms: u64) {
        let number = self.next_ping.get();
        assert!(number >= FIRST_PING, "the number of a call");
        assert!(connection.pinged_ms.get().is_none(), "one ping at a time");
        self.next_ping.set(number.wrapping_add(1).max(FIRST_PING));
        // One that cannot even be written will not be answered either: it is overdue in its turn.
        with_arguments(&PingRequest::default(), |args| {
            connection.call(&OutgoingCall {
                number,
                service: "HealthService",
                method: "Ping",
                timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
                args,
            })
        });
        connection.pinged_ms.set(Some(now_ms));
        self.breaker.borrow_mut().started(now_ms);
    }

    /// Whether calls are out and nothing has been answered for a while.
    pub(super) fn is_silent(&self, now_ms: u64) -> bool {
        let outstanding = self.outstanding();
        self.silence.borrow_mut().lasts(now_ms, outstanding)
    }

    /// Why it is of no use.
    pub(super) fn set_trouble(&self, trouble: String) {
        self.trouble.replace(Some(trouble));
    }

    /// What was said of it last.
    pub fn trouble(&self) -> String {
        let trouble = self.trouble.borrow();
        trouble
            .clone()
            .unwrap_or_else(|| "is being connected to".to_owned())
    }

    /// Whether a ping has been out for `timeout_ms`. Then the server gives no sign of life.
    pub(super) fn gave_no_sign(&self, now_ms: u64, timeout_ms: u64) -> bool {
        let is_overdue = |connection: &Rc<Connection>| {
            let sent_ms = connection.pinged_ms.get();
            !connection.was_closed()
                && sent_ms.is_some_and(|sent_ms| now_ms >= sent_ms + timeout_ms)
        };
        self.connections.borrow().iter().any(is_overdue)
    }

    /// Counts it as dead: it gets no calls until it has shown that it is not, and its connections
    /// are made anew.
    pub(super) fn eject(&self, now_ms: u64) {
        self.breaker.borrow_mut().trip(now_ms);
        self.close_connections();
    }
}
