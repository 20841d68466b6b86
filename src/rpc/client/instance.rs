//! One process that serves calls: its connections, the calls that wait for one, and whether it can be reached at all.
//!
//! Owns the choice of a connection. A server of the classic wire takes one call at a time per connection, from a pool that
//! grows up to its size; then calls wait in line. One with ids takes them all over a fixed number of connections. Knows no
//! socket: a connection is opened and held by a task that tells how it went.
//!
//! Invariants: a classic connection has at most one call out, and is closed when that call is given up; a call is written at
//! most once.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
};

use smallvec::SmallVec;

use super::{Outcome, breaker::Breaker, silence::Silence};
use crate::{
    base::{pending_calls::Calls, send_buffer::Outgoing},
    contract::endpoints::Wire,
    rpc::wire::mprpc::{self, CallHead, FramingError, Unfinished},
};

/// Calls that wait for a connection of one server at most.
const QUEUE_CALLS: usize = 1024;
/// Calls that one server with ids has not answered at most.
const OUTSTANDING_CALLS: usize = 16 * 1024;
/// Numbers from here on are those of pings, which no call has.
const FIRST_PING: u64 = 1 << 63;

/// Whether a server can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It is being connected to and nothing speaks against it: calls wait for that.
    Opening,
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

/// One connection to a server.
#[derive(Debug)]
pub struct Link {
    /// Its number among all ways of the core.
    way: u64,
    open: Cell<bool>,
    /// It is being opened, and nothing says that it will fail.
    hopeful: Cell<bool>,
    /// This side closes it.
    closing: Cell<bool>,
    /// It has carried a reply.
    useful: Cell<bool>,
    /// When the ping that is out over it was sent.
    pinged_ms: Cell<Option<u64>>,
    /// Classic: the call that is out.
    current: Cell<Option<u64>>,
    input: RefCell<Unfinished>,
    /// What is said over it.
    pub outgoing: Outgoing,
}

impl Link {
    /// Whether it has carried a reply.
    pub fn was_useful(&self) -> bool {
        self.useful.get()
    }

    /// Whether a call of the classic wire is out over it.
    #[cfg(test)]
    pub fn is_busy(&self) -> bool {
        self.current.get().is_some()
    }

    /// Whether calls may go over it.
    pub fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Whether it was this side that ended it.
    pub(super) fn was_closed(&self) -> bool {
        self.closing.get()
    }

    fn close(&self) {
        self.open.set(false);
        self.hopeful.set(false);
        self.closing.set(true);
        self.outgoing.close();
    }
}

/// A classic call that waits for a connection, ready to be written.
#[derive(Debug)]
struct Queued {
    number: u64,
    frame: Vec<u8>,
}

/// See the module's description.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub wire: Wire,
    /// The way of calls that have no connection yet.
    way: u64,
    max_reply_bytes: usize,
    /// Connections of the classic wire at most.
    pool_size: usize,
    links: RefCell<Vec<Rc<Link>>>,
    /// Further connections that were asked for, and of which nothing has been heard yet.
    expected_links: Cell<usize>,
    queue: RefCell<VecDeque<Queued>>,
    reach: Cell<Reach>,
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

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum BrokenStream {
    /// Its bytes are no frames.
    #[error("the server's bytes cannot be understood: {0}")]
    Framing(#[from] FramingError),
    /// A classic reply that nobody asked for: whose the next one would be is unknown.
    #[error("the server answered what it was not asked")]
    Unasked,
}

impl Server {
    /// A server that is about to be connected to. `way` numbers it among all ways of the core.
    pub fn new(
        address: SocketAddr,
        wire: Wire,
        way: u64,
        (pool_size, max_reply_bytes): (usize, usize),
        breaker: Breaker,
    ) -> Self {
        Self {
            address,
            wire,
            way,
            max_reply_bytes,
            pool_size,
            links: RefCell::default(),
            expected_links: Cell::default(),
            queue: RefCell::default(),
            reach: Cell::new(Reach::Opening),
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

    /// The way of calls that have no connection yet.
    pub fn way(&self) -> u64 {
        self.way
    }

    /// Whether it can be called.
    pub(super) fn reach(&self) -> Reach {
        self.reach.get()
    }

    /// Calls that it has not answered.
    pub fn outstanding(&self) -> usize {
        self.outstanding.get()
    }

    /// Open connections.
    fn open_links(&self) -> usize {
        self.links
            .borrow()
            .iter()
            .filter(|link| link.is_open())
            .count()
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
            && self.reach() != Reach::Down
            && (breaker.is_closed() || !self.can_be_pinged() && breaker.lets_through(now_ms))
    }

    /// Whether calls can be expected to be answered.
    pub(super) fn is_up(&self) -> bool {
        self.reach() == Reach::Up && self.breaker.borrow().is_closed()
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
            self.close_links();
        }
    }

    fn close_links(&self) {
        for link in &*self.links.borrow() {
            link.close();
        }
    }

    /// A connection is being opened under the number `way`; `hopeful`: calls may wait for it, `expected`: it was asked for
    /// beside those that are kept for ever.
    pub fn opening(&self, way: u64, hopeful: bool, expected: bool) -> Rc<Link> {
        if expected {
            self.expected_links
                .set(self.expected_links.get().saturating_sub(1));
        }
        let link = Rc::new(Link {
            way,
            open: Cell::new(false),
            hopeful: Cell::new(hopeful),
            closing: Cell::new(false),
            useful: Cell::new(false),
            pinged_ms: Cell::default(),
            current: Cell::new(None),
            input: RefCell::default(),
            outgoing: Outgoing::default(),
        });
        self.links.borrow_mut().push(Rc::clone(&link));
        if hopeful && self.reach() == Reach::Down {
            self.reach.set(Reach::Opening);
        }
        link
    }

    /// A connection is open.
    pub fn opened(&self, link: &Link, calls: &Calls<Outcome>) {
        link.open.set(true);
        link.hopeful.set(false);
        self.reach.set(Reach::Up);
        match self.wire {
            Wire::Classic => {
                self.send_queued(link, calls);
            }
            Wire::WithIds => while self.send_queued(link, calls) {},
        }
    }

    /// A connection could not be opened, or is gone: what was out over it is lost.
    pub fn lost(&self, link: &Link, calls: &Calls<Outcome>) {
        self.links
            .borrow_mut()
            .retain(|other| other.way != link.way);
        link.open.set(false);
        calls.finish_all(link.way, || Outcome::Lost);
        if self.open_links() > 0 {
            return;
        }
        if self.links.borrow().iter().any(|other| other.hopeful.get()) {
            // Calls wait for that one. If it fails, it will come by here, too.
            self.reach.set(Reach::Opening);
            return;
        }
        self.reach.set(Reach::Down);
        for queued in self.queue.borrow_mut().drain(..) {
            calls.finish(queued.number, self.way, Outcome::NotWritten);
        }
    }

    /// Whether a further connection would help the calls that wait; it is expected then, and must be opened.
    pub(super) fn expects_link(&self) -> bool {
        let links = self.links.borrow();
        let closed = links.iter().filter(|link| !link.is_open()).count();
        let expected = self.expected_links.get();
        let wanted = self.wire == Wire::Classic
            && self.reach() == Reach::Up
            && self.queue.borrow().len() > closed + expected
            && links.len() + expected < self.pool_size;
        if wanted {
            self.expected_links.set(expected + 1);
        }
        wanted
    }

    /// Sends call `number`, or queues it; `write` writes it in full. Every call that was taken must be [ended](Self::ended).
    ///
    /// # Errors
    /// Where there is no room or no hope.
    pub fn send(
        &self,
        number: u64,
        calls: &Calls<Outcome>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Refused> {
        if self.reach() == Reach::Down {
            return Err(Refused::Down);
        }
        let link = match self.wire {
            Wire::Classic => self.idle_link(),
            Wire::WithIds if self.outstanding.get() >= OUTSTANDING_CALLS => {
                return Err(Refused::Full);
            }
            Wire::WithIds => self.next_link(number),
        };
        match link {
            Some(link) => {
                if !link.outgoing.append(write) {
                    return Err(Refused::Full);
                }
                self.put_on(&link, number, calls);
            }
            None => {
                let mut queue = self.queue.borrow_mut();
                if queue.len() >= QUEUE_CALLS {
                    return Err(Refused::Full);
                }
                let mut frame = Vec::new();
                write(&mut frame);
                queue.push_back(Queued { number, frame });
            }
        }
        self.outstanding.set(self.outstanding.get() + 1);
        Ok(())
    }

    fn put_on(&self, link: &Link, number: u64, calls: &Calls<Outcome>) {
        calls.redirect(number, self.way, link.way);
        if self.wire == Wire::Classic {
            link.current.set(Some(number));
        }
    }

    fn idle_link(&self) -> Option<Rc<Link>> {
        let links = self.links.borrow();
        let idle = |link: &&Rc<Link>| link.is_open() && link.current.get().is_none();
        links.iter().find(idle).cloned()
    }

    fn next_link(&self, number: u64) -> Option<Rc<Link>> {
        let links = self.links.borrow();
        let open = links.iter().filter(|link| link.is_open());
        let count = open.clone().count();
        open.clone()
            .nth(number as u32 as usize % count.max(1))
            .cloned()
    }

    /// Writes the first queued call that is still waited for; `false`: there is none.
    fn send_queued(&self, link: &Link, calls: &Calls<Outcome>) -> bool {
        while let Some(queued) = self.queue.borrow_mut().pop_front() {
            if calls.is_open(queued.number, self.way) {
                let Queued { number, frame } = queued;
                if link
                    .outgoing
                    .append(|bytes| bytes.extend_from_slice(&frame))
                {
                    self.put_on(link, number, calls);
                } else {
                    calls.finish(number, self.way, Outcome::NotWritten);
                }
                return true;
            }
        }
        false
    }

    /// A call that was taken has ended. Unanswered, it leaves a classic connection of which nobody knows whose its next
    /// reply is.
    pub fn ended(&self, number: u64) {
        self.outstanding
            .set(self.outstanding.get().saturating_sub(1));
        for link in &*self.links.borrow() {
            if link.current.get() == Some(number) {
                link.close();
            }
        }
        self.close_if_done();
    }

    /// An answer that came over `way` made no sense: nothing that follows can be trusted.
    pub(super) fn distrust(&self, way: u64) {
        for link in &*self.links.borrow() {
            if link.way == way {
                link.close();
            }
        }
    }

    /// Takes bytes that came over `link`; says how many replies came that nobody waits for.
    ///
    /// # Errors
    /// What makes it impossible to go on with the connection.
    pub fn received(
        &self,
        link: &Link,
        bytes: &[u8],
        calls: &Calls<Outcome>,
    ) -> Result<u64, BrokenStream> {
        let mut strays = 0;
        let mut input = link.input.borrow_mut();
        input.feed(bytes, |rest| {
            let (number, outcome, taken) = match self.wire {
                Wire::Classic => {
                    let Some((body, taken)) =
                        mprpc::read_classic_reply(rest, self.max_reply_bytes)?
                    else {
                        // Something came although nothing is out.
                        let unasked = !rest.is_empty() && link.current.get().is_none();
                        return if unasked {
                            Err(BrokenStream::Unasked)
                        } else {
                            Ok(None)
                        };
                    };
                    let number = link.current.take().ok_or(BrokenStream::Unasked)?;
                    (number, Outcome::answered(body, link.way), taken)
                }
                Wire::WithIds => {
                    let Some((frame, taken)) = mprpc::read_reply(rest, self.max_reply_bytes)?
                    else {
                        return Ok(None);
                    };
                    let outcome = Outcome::of_frame(&frame, link.way);
                    (frame.header.call_id, outcome, taken)
                }
            };
            link.useful.set(true);
            if !self.take_reply(link, number, outcome, calls) {
                strays += 1;
            }
            Ok(Some(taken))
        })?;
        drop(input);
        if self.wire == Wire::Classic && link.is_open() && link.current.get().is_none() {
            self.send_queued(link, calls);
        }
        Ok(strays)
    }

    /// Ends the call or the ping with this number; `false`: nobody waits for that.
    fn take_reply(
        &self,
        link: &Link,
        number: u64,
        outcome: Outcome,
        calls: &Calls<Outcome>,
    ) -> bool {
        self.silence.borrow_mut().broken();
        if number >= FIRST_PING {
            link.pinged_ms.set(None);
            self.breaker.borrow_mut().succeeded();
            return true;
        }
        calls.finish(number, link.way, outcome)
    }

    /// Asks the server whether it is alive, over each connection on which that can be asked now.
    pub fn ping(&self, now_ms: u64, timeout_ms: u64) {
        if !self.can_be_pinged() {
            return;
        }
        let links: SmallVec<[Rc<Link>; 4]> = match self.wire {
            Wire::Classic => self.idle_link().into_iter().collect(),
            Wire::WithIds => {
                let links = self.links.borrow();
                links
                    .iter()
                    .filter(|link| link.is_open())
                    .cloned()
                    .collect()
            }
        };
        for link in links {
            if link.pinged_ms.get().is_none() {
                self.ping_over(&link, now_ms, timeout_ms);
            }
        }
    }

    fn ping_over(&self, link: &Link, now_ms: u64, timeout_ms: u64) {
        let number = self.next_ping.get();
        self.next_ping.set(number.wrapping_add(1).max(FIRST_PING));
        let head = CallHead {
            service: "HealthService",
            method: "Ping",
            call_id: match self.wire {
                Wire::Classic => 0,
                Wire::WithIds => number,
            },
            timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
        };
        let request = crate::proto::PingRequest::default();
        // One that cannot even be written will not be answered either: it is overdue in its turn.
        link.outgoing
            .append(|bytes| mprpc::write_call(head, &request, bytes));
        if self.wire == Wire::Classic {
            link.current.set(Some(number));
        }
        link.pinged_ms.set(Some(now_ms));
        self.breaker.borrow_mut().started(now_ms);
    }

    /// Whether calls are out and nothing has been answered for a while.
    pub fn is_silent(&self, now_ms: u64) -> bool {
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
        let is_overdue = |link: &Rc<Link>| {
            let sent_ms = link.pinged_ms.get();
            !link.was_closed() && sent_ms.is_some_and(|sent_ms| now_ms >= sent_ms + timeout_ms)
        };
        self.links.borrow().iter().any(is_overdue)
    }

    /// Counts it as dead: it gets no calls until it has shown that it is not, and its connections are made anew.
    pub fn give_up(&self, now_ms: u64) {
        self.breaker.borrow_mut().trip(now_ms);
        self.close_links();
    }
}
