//! The bus over Redis Pub/Sub: what one core listens to, over one connection of its own.
//!
//! Owns the set of channels and the state of the connection. Pure: the task that holds the socket
//! brings bytes and takes bytes, and the core's clock comes by [`Subscriber::tick`]. The `redis`
//! crate packs commands and parses values.
//!
//! `connection` draws what a connection goes through. A subscriber's is prepared, and the
//! subscriber listening, once every subscription is confirmed and a first probe has come back.
//! Pub/Sub keeps nothing for who is away, so each time listening begins, whatever is numbered has
//! to be fetched from the store. A connection may be alive while its subscriptions are not: so the
//! core publishes to a channel of its own, and listens; nothing else answers a probe.
//!
//! Invariant: a channel that is wanted is subscribed to on every connection before it listens.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
};

use redis::{PushKind as RespPush, Value};

use super::{
    connection::{Connection, ConnectionError, Due, Received},
    credentials::Credentials,
    resp::ProtocolError,
    target::refusal,
};
use crate::{
    base::{
        id::{GroupId, RouteId},
        send_buffer::SharedSendBuffer,
    },
    contract::{
        bus::PushSource,
        channels,
        push_mac::PushKey,
        push_payload::{self, Belief, Refused},
    },
    proto::PushMessage,
};

/// How long a login waits for a group's channel. After that it goes on: what is missed until the
/// channel is confirmed is fetched then.
const SUBSCRIBE_TIMEOUT_MS: u64 = 1_000;
/// Channels in one command.
const CHANNELS_PER_COMMAND: usize = 500;
/// Channels that every core listens to.
const OWN_CHANNELS: usize = 4;
/// The longest value that is read: far above what one publish of ours carries.
const VALUE_MAX_BYTES: usize = 16 * 1024 * 1024;

/// What the connection brought.
#[derive(Debug, PartialEq)]
pub enum BusEvent {
    /// A push.
    Push(PushMessage),
    /// A payload that is no push.
    Malformed,
    /// A push without proof of who published it.
    Unsigned,
    /// Everything is subscribed to from now on; before, pushes may have been lost.
    Listening,
    /// A group is subscribed to from now on, later than somebody waited for it.
    LateGroup(GroupId),
}

/// One core's subscriptions. Shared by the core, which wants channels, and the task that holds the
/// connection.
pub struct Subscriber {
    route: RouteId,
    /// The channel of the core's own probes.
    probe_channel: String,
    /// The channel on which MPIM's Presence publishes.
    mpim_channel: String,
    /// What pushes are signed with; `None`: they are believed without.
    key: Option<Arc<PushKey>>,
    /// Groups that are wanted; whether the present connection has confirmed each.
    groups: RefCell<HashMap<GroupId, bool>>,
    connection: RefCell<Connection>,
    /// Answers that the present connection waits for until it listens.
    unconfirmed: Cell<usize>,
    /// Groups whose channel somebody gave up waiting for.
    late: RefCell<HashSet<GroupId>>,
    /// Of the present connection.
    send_buffer: RefCell<Rc<SharedSendBuffer>>,
    now_ms: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
    /// Why this side closed the connection last.
    closed_because: Cell<&'static str>,
}

impl Subscriber {
    /// The subscriber of the core that `route` names.
    pub fn new(route: RouteId, key: Option<Arc<PushKey>>) -> Rc<Self> {
        Rc::new(Self {
            probe_channel: channels::probe(&route),
            mpim_channel: channels::mpim(&route),
            route,
            key,
            groups: RefCell::default(),
            late: RefCell::default(),
            connection: RefCell::new(Connection::new(VALUE_MAX_BYTES)),
            unconfirmed: Cell::default(),
            send_buffer: RefCell::default(),
            now_ms: Cell::default(),
            waiting: RefCell::default(),
            closed_because: Cell::default(),
        })
    }

    /// Whether everything that is wanted is subscribed to.
    fn is_listening(&self) -> bool {
        self.connection.borrow().is_ready()
    }

    /// Whether the present connection has listened, though it may be known to be dead by now.
    pub fn has_listened(&self) -> bool {
        self.connection.borrow().was_ready()
    }

    /// A connection is open: logs in as whoever `credentials` say, and subscribes to everything.
    /// The first probe follows, so that listening is known to work in both directions.
    pub fn connected(&self, credentials: Option<&Credentials>) -> Rc<SharedSendBuffer> {
        let send_buffer = Rc::new(SharedSendBuffer::default());
        *self.send_buffer.borrow_mut() = Rc::clone(&send_buffer);
        let mut names = vec![
            channels::push(&self.route),
            self.mpim_channel.clone(),
            channels::BROADCAST.to_owned(),
            self.probe_channel.clone(),
        ];
        for (group, confirmed) in &mut *self.groups.borrow_mut() {
            *confirmed = false;
            names.push(channels::group(*group));
        }
        // What listening begins with covers them.
        self.late.borrow_mut().clear();
        assert_eq!(
            names.len(),
            OWN_CHANNELS + self.groups.borrow().len(),
            "all that is wanted is subscribed to"
        );
        self.unconfirmed.set(names.len() + 1);
        send_buffer.append(|bytes| {
            let mut connection = self.connection.borrow_mut();
            connection.open(credentials, self.now_ms.get(), bytes);
            for names in names.chunks(CHANNELS_PER_COMMAND) {
                redis::cmd("SUBSCRIBE")
                    .arg(names)
                    .write_packed_command(bytes);
            }
            self.pack_probe(bytes);
        });
        send_buffer
    }

    fn pack_probe(&self, bytes: &mut Vec<u8>) {
        redis::cmd("PUBLISH")
            .arg(&self.probe_channel)
            .arg("")
            .write_packed_command(bytes);
    }

    /// Why this side has closed the present connection.
    pub fn closed_because(&self) -> &'static str {
        self.closed_because.get()
    }

    fn close(&self, send_buffer: &SharedSendBuffer, reason: &'static str) {
        self.closed_because.set(reason);
        send_buffer.close();
    }

    /// The connection is gone.
    pub fn disconnected(&self) {
        self.connection.borrow_mut().closed();
        self.wake_waiting();
    }

    /// Takes bytes of the present connection and tells `on_event` what they brought.
    ///
    /// # Errors
    /// Why the connection must be given up.
    pub fn received(
        &self,
        mut bytes: &[u8],
        mut on_event: impl FnMut(BusEvent),
    ) -> Result<(), ConnectionError> {
        while let Some(received) = self.next(&mut bytes)? {
            // What a login is answered with says nothing new: all that follows is asked for.
            if let Received::Value(value) = received {
                self.take(value, &mut on_event)?;
            }
        }
        Ok(())
    }

    fn next(&self, bytes: &mut &[u8]) -> Result<Option<Received>, ConnectionError> {
        self.connection.borrow_mut().next(bytes)
    }

    fn take(
        &self,
        value: Value,
        on_event: &mut impl FnMut(BusEvent),
    ) -> Result<(), ConnectionError> {
        match value {
            Value::Push {
                kind: RespPush::Message,
                data,
            } => self.take_message(data, on_event),
            Value::Push {
                kind: RespPush::Subscribe,
                data,
            } => self.confirm(&data, on_event),
            Value::ServerError(error) => Err(ConnectionError::Refused(refusal(&error))),
            // Answers to PUBLISH, and confirmations of leaving, say nothing new.
            _ => Ok(()),
        }
    }

    fn take_message(
        &self,
        data: Vec<Value>,
        on_event: &mut impl FnMut(BusEvent),
    ) -> Result<(), ConnectionError> {
        let [Value::BulkString(channel), Value::BulkString(payload)] = &data[..] else {
            on_event(BusEvent::Malformed);
            return Ok(());
        };
        let channel = String::from_utf8_lossy(channel);
        if channel == self.probe_channel {
            return self.probe_came_back(on_event);
        }
        let belief = match &self.key {
            None => Belief::All,
            Some(_) if channel == self.mpim_channel => Belief::Plain,
            Some(key) => Belief::Signed(key),
        };
        let messages = push_payload::read(&channel, payload, belief);
        for message in messages.unwrap_or_else(|refused| vec![Err(refused)]) {
            on_event(match message {
                Ok(message) => BusEvent::Push(message),
                Err(Refused::NotAPush) => BusEvent::Malformed,
                Err(Refused::Unsigned) => BusEvent::Unsigned,
            });
        }
        Ok(())
    }

    fn probe_came_back(&self, on_event: &mut impl FnMut(BusEvent)) -> Result<(), ConnectionError> {
        if self.is_listening() {
            // Anybody may publish there: one that was not waited for says as much.
            self.connection.borrow_mut().answered(self.now_ms.get());
            return Ok(());
        }
        self.count_confirmation(on_event)
    }

    fn confirm(
        &self,
        data: &[Value],
        on_event: &mut impl FnMut(BusEvent),
    ) -> Result<(), ConnectionError> {
        if let Some(Value::BulkString(channel)) = data.first()
            && let Some(group) = channels::group_of(&String::from_utf8_lossy(channel))
            && let Some(confirmed) = self.groups.borrow_mut().get_mut(&group)
        {
            *confirmed = true;
            if self.late.borrow_mut().remove(&group) {
                on_event(BusEvent::LateGroup(group));
            }
        }
        self.check();
        self.wake_waiting();
        self.count_confirmation(on_event)
    }

    /// One more of the answers that listening waits for has come.
    fn count_confirmation(
        &self,
        on_event: &mut impl FnMut(BusEvent),
    ) -> Result<(), ConnectionError> {
        let unconfirmed = self.unconfirmed.get();
        if self.is_listening() {
            return Ok(());
        }
        let unconfirmed = unconfirmed.saturating_sub(1);
        self.unconfirmed.set(unconfirmed);
        if unconfirmed > 0 {
            return Ok(());
        }
        let mut connection = self.connection.borrow_mut();
        if !connection.is_preparing() {
            return Err(ProtocolError::Unasked.into());
        }
        connection.prepared(self.now_ms.get());
        drop(connection);
        on_event(BusEvent::Listening);
        Ok(())
    }

    /// Tells the time: sends a probe where one is due, and gives up a connection that is too slow.
    pub fn tick(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
        let due = self.connection.borrow_mut().advance(now_ms);
        let send_buffer = Rc::clone(&self.send_buffer.borrow());
        match due {
            Ok(Due::Nothing) => {}
            Ok(Due::Probe) => {
                send_buffer.append(|bytes| self.pack_probe(bytes));
            }
            Err(ConnectionError::NoAnswer) => {
                self.close(&send_buffer, "its subscriptions are dead");
            }
            Err(_) => self.close(&send_buffer, "it does not answer"),
        }
        self.wake_waiting();
    }

    /// Whoever is late is wanted, and not confirmed; who listens waits for nothing.
    fn check(&self) {
        let (groups, late) = (self.groups.borrow(), self.late.borrow());
        debug_assert!(
            late.iter().all(|group| groups.get(group) == Some(&false)),
            "a group is late that nobody wants, or that is confirmed"
        );
        assert!(
            !self.is_listening() || self.unconfirmed.get() == 0,
            "a core that listens waits for nothing"
        );
    }

    fn wake_waiting(&self) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }

    fn say(&self, command: &str, group: GroupId) {
        let mut command = redis::cmd(command);
        command.arg(channels::group(group));
        self.send_buffer
            .borrow()
            .append(|bytes| command.write_packed_command(bytes));
    }
}

impl PushSource for Rc<Subscriber> {
    async fn subscribe(&self, group: GroupId) {
        let is_new = {
            let mut groups = self.groups.borrow_mut();
            let before = groups.len();
            groups.entry(group).or_insert(false);
            groups.len() > before
        };
        if !self.connection.borrow().is_open() {
            // It is subscribed to with everything else, and what was missed until then is fetched.
            return;
        }
        if is_new {
            self.say("SUBSCRIBE", group);
            if !self.is_listening() {
                self.unconfirmed.set(self.unconfirmed.get() + 1);
            }
            self.check();
        }
        let until_ms = self.now_ms.get() + SUBSCRIBE_TIMEOUT_MS;
        poll_fn(|context| {
            let unconfirmed = self.groups.borrow().get(&group) == Some(&false);
            if !unconfirmed || !self.connection.borrow().is_open() {
                return Poll::Ready(());
            }
            if self.now_ms.get() < until_ms {
                self.waiting.borrow_mut().push(context.waker().clone());
                return Poll::Pending;
            }
            self.late.borrow_mut().insert(group);
            self.check();
            Poll::Ready(())
        })
        .await;
    }

    fn unsubscribe(&self, group: GroupId) {
        self.late.borrow_mut().remove(&group);
        let was_wanted = self.groups.borrow_mut().remove(&group).is_some();
        self.check();
        if was_wanted && self.connection.borrow().is_open() {
            self.say("UNSUBSCRIBE", group);
        }
    }

    fn advance(&self, now_ms: u64) {
        self.tick(now_ms);
    }
}

#[cfg(test)]
mod tests;
