//! The bus over Redis Pub/Sub: what one core listens to, over one connection of its own.
//!
//! Owns the set of channels and the state of the connection. Pure: the task that holds the socket
//! brings bytes and takes bytes, and the core's clock comes by [`Subscriber::tick`]. The `redis`
//! crate packs commands and parses values.
//!
//! ```text
//!   Closed ── connected ──▶ Greeting ── all confirmed, probed ───▶ Listening
//!     ▲                        │ refused, or too slow                  │ lost, or a probe did not come back
//!     └────────────────────────┴────────────────────────────────────────┘
//! ```
//!
//! Pub/Sub keeps nothing for who is away, so each time `Listening` begins, whatever is numbered has
//! to be fetched from the store. A connection may be alive while its subscriptions are not: so the
//! core publishes to a channel of its own, and listens.
//!
//! Invariant: a channel that is wanted is subscribed to on every connection before `Listening`.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    error::Error,
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
};

use redis::{PushKind as RespPush, Value};

use super::{
    credentials::Credentials,
    resp::{ProtocolError, RespReader},
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

/// How often a probe is sent, and how long its way back may take.
const PROBE_INTERVAL_MS: u64 = 5_000;
const PROBE_TIMEOUT_MS: u64 = 5_000;
/// How long a new connection may take until everything is confirmed.
const GREETING_TIMEOUT_MS: u64 = 5_000;
/// How long a login waits for a group's channel. After that it goes on: what is missed until the
/// channel is confirmed is fetched then.
const SUBSCRIBE_TIMEOUT_MS: u64 = 1_000;
/// Channels in one command.
const CHANNELS_PER_COMMAND: usize = 500;
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Greeting { until_ms: u64, unconfirmed: usize },
    Listening,
}

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
enum GivenUp {
    #[error("Redis refused: {0}")]
    Refused(String),
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
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
    phase: Cell<Phase>,
    /// Groups whose channel somebody gave up waiting for.
    late: RefCell<HashSet<GroupId>>,
    /// Of the present connection.
    send_buffer: RefCell<Rc<SharedSendBuffer>>,
    reader: RefCell<RespReader>,
    probe: Cell<Probe>,
    now_ms: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
    /// Why this side closed the connection last.
    closed_because: Cell<&'static str>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Probe {
    /// When the last one was sent.
    sent_ms: u64,
    /// It has not come back yet.
    is_out: bool,
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
            phase: Cell::new(Phase::Closed),
            send_buffer: RefCell::default(),
            reader: RefCell::new(RespReader::new(VALUE_MAX_BYTES)),
            probe: Cell::default(),
            now_ms: Cell::default(),
            waiting: RefCell::default(),
            closed_because: Cell::default(),
        })
    }

    /// Whether everything that is wanted is subscribed to.
    pub fn is_listening(&self) -> bool {
        self.phase.get() == Phase::Listening
    }

    /// A connection is open: greets as whoever `credentials` say, and subscribes to everything.
    /// The first probe follows, so that `Listening` is known to work in both directions.
    pub fn connected(&self, credentials: Option<&Credentials>) -> Rc<SharedSendBuffer> {
        let send_buffer = Rc::new(SharedSendBuffer::default());
        *self.send_buffer.borrow_mut() = Rc::clone(&send_buffer);
        *self.reader.borrow_mut() = RespReader::new(VALUE_MAX_BYTES);
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
        self.enter(Phase::Greeting {
            until_ms: self.now_ms.get() + GREETING_TIMEOUT_MS,
            unconfirmed: names.len() + 1,
        });
        send_buffer.append(|bytes| {
            let mut hello = redis::cmd("HELLO");
            hello.arg(3);
            if let Some(credentials) = credentials {
                hello
                    .arg("AUTH")
                    .arg(&credentials.user)
                    .arg(credentials.password.expose());
            }
            hello.write_packed_command(bytes);
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

    /// Goes over to `to`, which the drawing above must show; answers that come are a step within
    /// `Greeting`.
    fn enter(&self, to: Phase) {
        let from = self.phase.get();
        let is_drawn = match to {
            Phase::Closed => true,
            // Whoever is connected anew was told of the loss before.
            Phase::Greeting { unconfirmed, .. } => from != Phase::Listening && unconfirmed > 0,
            Phase::Listening => matches!(from, Phase::Greeting { unconfirmed: 1, .. }),
        };
        assert!(is_drawn, "a subscriber goes from {from:?} to {to:?}");
        self.phase.set(to);
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
        self.enter(Phase::Closed);
        self.wake_waiting();
    }

    /// Takes bytes of the present connection and tells `on_event` what they brought.
    ///
    /// # Errors
    /// Why the connection must be given up.
    pub fn received(
        &self,
        bytes: &[u8],
        mut on_event: impl FnMut(BusEvent),
    ) -> Result<(), Box<dyn Error>> {
        let mut reader = self.reader.borrow_mut();
        reader.feed(bytes, |value| self.take(value, &mut on_event))?;
        Ok(())
    }

    fn take(&self, value: Value, on_event: &mut impl FnMut(BusEvent)) -> Result<(), GivenUp> {
        match value {
            Value::Push {
                kind: RespPush::Message,
                data,
            } => self.take_message(data, on_event),
            Value::Push {
                kind: RespPush::Subscribe,
                data,
            } => self.confirm(&data, on_event),
            // The words of an error are Redis's own, and repeat no argument of ours but the names
            // of channels.
            Value::ServerError(error) => return Err(GivenUp::Refused(refusal(&error))),
            // Answers to HELLO and PUBLISH, and confirmations of leaving, say nothing new.
            _ => {}
        }
        Ok(())
    }

    fn take_message(&self, data: Vec<Value>, on_event: &mut impl FnMut(BusEvent)) {
        let [Value::BulkString(channel), Value::BulkString(payload)] = &data[..] else {
            return on_event(BusEvent::Malformed);
        };
        let channel = String::from_utf8_lossy(channel);
        if channel == self.probe_channel {
            self.probe.set(Probe {
                is_out: false,
                ..self.probe.get()
            });
            self.greeting_goes_on(on_event);
            return;
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
    }

    fn confirm(&self, data: &[Value], on_event: &mut impl FnMut(BusEvent)) {
        if let Some(Value::BulkString(channel)) = data.first()
            && let Some(group) = channels::group_of(&String::from_utf8_lossy(channel))
            && let Some(confirmed) = self.groups.borrow_mut().get_mut(&group)
        {
            *confirmed = true;
            if self.late.borrow_mut().remove(&group) {
                on_event(BusEvent::LateGroup(group));
            }
        }
        self.greeting_goes_on(on_event);
        self.wake_waiting();
    }

    /// One more of the answers that a greeting waits for has come.
    fn greeting_goes_on(&self, on_event: &mut impl FnMut(BusEvent)) {
        if let Phase::Greeting {
            until_ms,
            unconfirmed,
        } = self.phase.get()
        {
            let unconfirmed = unconfirmed.saturating_sub(1);
            self.enter(match unconfirmed {
                0 => Phase::Listening,
                unconfirmed => Phase::Greeting {
                    until_ms,
                    unconfirmed,
                },
            });
            if unconfirmed == 0 {
                self.probe.set(Probe {
                    sent_ms: self.now_ms.get(),
                    is_out: false,
                });
                on_event(BusEvent::Listening);
            }
        }
    }

    /// Tells the time: sends a probe where one is due, and gives up a connection that is too slow.
    pub fn tick(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
        let send_buffer = Rc::clone(&self.send_buffer.borrow());
        let probe = self.probe.get();
        match self.phase.get() {
            Phase::Closed => {}
            Phase::Greeting { until_ms, .. } => {
                if now_ms >= until_ms {
                    self.close(&send_buffer, "it does not answer");
                }
            }
            Phase::Listening if probe.is_out && now_ms >= probe.sent_ms + PROBE_TIMEOUT_MS => {
                self.close(&send_buffer, "its subscriptions are dead");
            }
            Phase::Listening if !probe.is_out && now_ms >= probe.sent_ms + PROBE_INTERVAL_MS => {
                send_buffer.append(|bytes| self.pack_probe(bytes));
                self.probe.set(Probe {
                    sent_ms: now_ms,
                    is_out: true,
                });
            }
            Phase::Listening => {}
        }
        self.wake_waiting();
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
        if self.phase.get() == Phase::Closed {
            // It is subscribed to with everything else, and what was missed until then is fetched.
            return;
        }
        if is_new {
            self.say("SUBSCRIBE", group);
            if let Phase::Greeting {
                until_ms,
                unconfirmed,
            } = self.phase.get()
            {
                self.enter(Phase::Greeting {
                    until_ms,
                    unconfirmed: unconfirmed + 1,
                });
            }
        }
        let until_ms = self.now_ms.get() + SUBSCRIBE_TIMEOUT_MS;
        poll_fn(|context| {
            let unconfirmed = self.groups.borrow().get(&group) == Some(&false);
            if !unconfirmed || self.phase.get() == Phase::Closed {
                return Poll::Ready(());
            }
            if self.now_ms.get() < until_ms {
                self.waiting.borrow_mut().push(context.waker().clone());
                return Poll::Pending;
            }
            self.late.borrow_mut().insert(group);
            Poll::Ready(())
        })
        .await;
    }

    fn unsubscribe(&self, group: GroupId) {
        self.late.borrow_mut().remove(&group);
        if self.groups.borrow_mut().remove(&group).is_some() && self.phase.get() != Phase::Closed {
            self.say("UNSUBSCRIBE", group);
        }
    }

    fn advance(&self, now_ms: u64) {
        self.tick(now_ms);
    }
}

#[cfg(test)]
mod tests;
