//! The unacknowledged window of a session, and sending what was held back because of it.
//!
//! Owns the rule of `unconfirmed_limit`: at the limit a session is throttled, and is pushed nothing
//! that can be fetched later; once it has room again, what it missed is fetched and sent, stream by
//! stream, until it is up to date. A session that reads what was fetched more slowly than others
//! is throttled in the same way, whoever confirms for it.

use std::sync::Arc;

use super::{Effect, Shard, delivery::Origin};
use crate::{
    base::id::{ConnectionKey, MessageId, SessionId, Stream, UserId},
    proto::PushMessage,
    protocol::command::{AckMode, PULL_LIMIT_MAX},
    session::{Window, outbox::Delivery},
};

/// What a session with `ack=manual` is to be sent next of what was held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// For which session of the connection.
    pub session_id: SessionId,
    /// Whose messages.
    pub user: UserId,
    /// Of which stream.
    pub stream: Stream,
    /// The last number it was sent.
    pub after: u64,
    /// The last number that was pushed to others.
    pub to: u64,
    /// How many it may be sent.
    pub room: usize,
}

impl Shard {
    /// A login was just answered: what was pushed since its baselines is only now going out.
    pub(super) fn window_from_baselines(&mut self, key: ConnectionKey) {
        let Some(login) = self.connection(key).and_then(|c| c.session.login()) else {
            return;
        };
        let streams = login.streams();
        let last_sent = streams
            .map(|stream| (stream, self.baseline(key.slot, stream)))
            .collect();
        if let Some(window) = self.window_mut(key) {
            window.last_sent = last_sent;
        }
    }

    /// From now on the client confirms for itself: a window of what it has not confirmed. A stream
    /// here may not be as far yet as the session's baseline.
    pub(super) fn open_window(&mut self, key: ConnectionKey) {
        let session = self.connection(key).map(|connection| &connection.session);
        let Some(login) = session
            .filter(|session| session.is_logged_in())
            .and_then(|session| session.login())
            .filter(|login| login.window.is_none())
        else {
            return;
        };
        let streams = login.streams();
        let window = Window {
            last_sent: streams
                .map(|stream| {
                    let last = self.last(stream).unwrap_or(0);
                    (stream, last.max(self.baseline(key.slot, stream)))
                })
                .collect(),
            ..Window::default()
        };
        if let Some(login) = self.connection_mut(key).and_then(|c| c.session.login_mut()) {
            login.window = Some(Box::new(window));
        }
    }

    /// Up to which number messages of `stream` came before the session in `slot` got any: those
    /// wait for `pull`.
    pub(super) fn baseline(&self, slot: u32, stream: Stream) -> u64 {
        let baseline = match stream {
            Stream::Direct(_) => {
                let login = self.connections[slot as usize].session.login();
                login.map(|login| login.baseline)
            }
            Stream::Group(group) => {
                let group = self.groups.get(&group);
                let member = group.and_then(|group| group.members.get(&slot));
                member.map(|member| member.baseline)
            }
        };
        baseline.unwrap_or(0)
    }

    /// The last number of `stream` that was pushed here.
    pub(super) fn last(&self, stream: Stream) -> Option<u64> {
        self.sequencer(stream)?.last()
    }

    /// The client confirmed these itself.
    pub fn confirmed(&mut self, key: ConnectionKey, ids: &[MessageId]) {
        if let Some(window) = self.window_mut(key) {
            for id in ids {
                window.unconfirmed.remove(id);
            }
        }
        self.catch_up_if_throttled(key);
    }

    /// The session has no room for what was fetched, beginning with `delivery`: it is sent that and
    /// what follows at the pace at which it reads.
    pub(super) fn throttle_by_window(&mut self, key: ConnectionKey, delivery: Delivery) {
        let is_new = self.window_mut(key).is_none();
        let sequencer = self.sequencer(delivery.stream);
        let repeats_to = sequencer.map_or(0, |sequencer| sequencer.repeats_to());
        self.open_window(key);
        let Some(window) = self.window_mut(key) else {
            return;
        };
        window.throttled = true;
        if is_new {
            let last_sent = delivery.seq.saturating_sub(1);
            window.last_sent.insert(delivery.stream, last_sent);
            window.repeats_to.insert(delivery.stream, repeats_to);
        }
        self.catch_up_if_throttled(key);
    }

    /// The session gets `stream` late, and others here have had what was sent after number `since`.
    pub(super) fn catch_up_from(&mut self, key: ConnectionKey, stream: Stream, since: u64) {
        self.open_window(key);
        if let Some(window) = self.window_mut(key) {
            window.last_sent.insert(stream, since);
            window.throttled = true;
        }
        self.catch_up_if_throttled(key);
    }

    /// Whether messages of `stream` should not be fetched just now, since nobody of those who get
    /// them has room for more. Who is throttled has them fetched alone, and is not waited for.
    pub fn is_full(&self, stream: Stream) -> bool {
        let mut anybody = false;
        for slot in self.slots_in(stream) {
            let connection = &self.connections[slot as usize];
            let window = connection
                .session
                .login()
                .and_then(|login| login.window.as_ref());
            if window.is_some_and(|window| window.throttled) {
                continue;
            }
            if !connection.congested(&self.options) {
                return false;
            }
            anybody = true;
        }
        anybody
    }

    pub(super) fn catch_up_if_throttled(&mut self, key: ConnectionKey) {
        let login = self.connection_mut(key).and_then(|c| c.session.login_mut());
        if let Some(login) = login
            && let Some(window) = &mut login.window
            && window.throttled
            && !window.catching_up
        {
            window.catching_up = true;
            let session_id = login.session_id;
            self.effects.push(Effect::CatchUp { key, session_id });
        }
    }

    /// What the session is to be sent next of what was held back; `None`: nothing, it is up to
    /// date, full, or gone.
    pub fn next_catch_up(&mut self, key: ConnectionKey, session_id: SessionId) -> Option<CatchUp> {
        let limit = self.options.unconfirmed_limit;
        let session = &self.connection(key)?.session;
        let ack_mode = session.ack_mode;
        let login = session
            .login()
            .filter(|login| login.session_id == session_id)?;
        let window = login.window.as_ref()?;
        let room = match ack_mode {
            AckMode::Manual => limit.saturating_sub(window.unconfirmed.len()),
            AckMode::Auto => limit,
        };
        let user = login.user;
        let next = login.streams().find_map(|stream| {
            let to = self.last(stream)?;
            let after = window.last_sent.get(&stream).copied().unwrap_or(to);
            (after < to).then_some(CatchUp {
                session_id,
                user,
                stream,
                after,
                to,
                room,
            })
        });
        let window = self.window_mut(key)?;
        match next {
            Some(catch_up) if catch_up.room > 0 => Some(catch_up),
            Some(_) => {
                window.catching_up = false;
                None
            }
            None => {
                window.throttled = false;
                window.catching_up = false;
                if ack_mode == AckMode::Auto
                    && let Some(login) =
                        self.connection_mut(key).and_then(|c| c.session.login_mut())
                {
                    login.window = None;
                }
                None
            }
        }
    }

    /// Sends what was fetched for [`Shard::next_catch_up`], in order.
    pub fn caught_up(&mut self, key: ConnectionKey, catch_up: CatchUp, messages: Vec<PushMessage>) {
        // The client may have logged out meanwhile, and in again as somebody else.
        if !self.is_logged_in(key, catch_up.session_id) {
            return;
        }
        if let Some(window) = self.window_mut(key) {
            window.throttled = false;
        }
        let nothing = messages.is_empty();
        let repeats_to = self.window_mut(key).map_or(0, |window| {
            let repeats_to = window.repeats_to.get(&catch_up.stream);
            repeats_to.copied().unwrap_or(0)
        });
        for mut message in messages {
            message.redelivery |= message.seq <= repeats_to;
            let message = Arc::new(message);
            let queued = self.encode_once(&message, |shard, push| {
                shard.deliver(key.slot, push, Origin::Store)
            });
            if queued > 0 {
                let delivery = Delivery::of(catch_up.user, &message);
                self.note_fetched(key, message.msg_id, delivery);
            }
        }
        if let Some(window) = self.window_mut(key) {
            window.throttled = true;
            if nothing {
                // The store has none of them any more: they were confirmed elsewhere.
                note_sent(
                    window,
                    Delivery {
                        user: catch_up.user,
                        stream: catch_up.stream,
                        seq: catch_up.to,
                        own: false,
                    },
                );
            }
        }
    }

    /// The client pulled a message. What it never confirms is noted up to a bound: past it, its
    /// window is full anyway.
    pub(super) fn note_pulled(
        &mut self,
        key: ConnectionKey,
        ack_mode: AckMode,
        message_id: MessageId,
        delivery: Option<Delivery>,
    ) {
        let Some(window) = self
            .connections
            .get_mut(key.slot as usize)
            .filter(|connection| connection.generation == key.generation)
            .and_then(|connection| connection.session.login_mut())
            .and_then(|login| login.window.as_mut())
        else {
            return;
        };
        if ack_mode == AckMode::Manual && window.unconfirmed.len() < window_bound(&self.options) {
            window.unconfirmed.insert(message_id);
        }
        let is_ahead =
            delivery.is_some_and(|delivery| delivery.seq > window.last_sent(delivery.stream));
        if is_ahead {
            note_had(window, message_id, &self.options);
        }
    }

    pub(super) fn window_mut(&mut self, key: ConnectionKey) -> Option<&mut Window> {
        self.connection_mut(key)?
            .session
            .login_mut()?
            .window
            .as_deref_mut()
    }

    /// The session sent this itself and is not pushed it; what is held back later begins behind it.
    pub(super) fn pass_over(&mut self, slot: u32, delivery: Option<Delivery>) {
        let login = self.connections[slot as usize].session.login_mut();
        if let Some(window) = login.and_then(|login| login.window.as_mut())
            && let Some(delivery) = delivery
            && !window.throttled
        {
            note_sent(window, delivery);
        }
    }
}

/// Whether a message may be sent to a client that has (or had) a window; notes it if so.
pub(super) fn admit(
    window: &mut Window,
    ack_mode: AckMode,
    message_id: MessageId,
    delivery: Option<Delivery>,
    options: &super::ShardOptions,
) -> bool {
    let Some(delivery) = delivery else {
        // Without a number it could not be fetched later: it goes out now, as with any backend that
        // keeps no numbers.
        return true;
    };
    if window.throttled {
        return false;
    }
    // It has it already: pulled, or sent before the stream went back.
    if window.pulled.remove(&message_id) || window.unconfirmed.contains(&message_id) {
        note_sent(window, delivery);
        return false;
    }
    if ack_mode == AckMode::Manual {
        if window.unconfirmed.len() >= options.unconfirmed_limit {
            window.throttled = true;
            return false;
        }
        if !delivery.own {
            window.unconfirmed.insert(message_id);
        }
    }
    note_sent(window, delivery);
    true
}

/// The client has a message that has still to be sent to it, and is not sent it then.
pub(super) fn note_had(window: &mut Window, message_id: MessageId, options: &super::ShardOptions) {
    if window.pulled.len() < window_bound(options) {
        window.pulled.insert(message_id);
    }
}

/// What a window notes of one kind at most.
fn window_bound(options: &super::ShardOptions) -> usize {
    options.unconfirmed_limit + PULL_LIMIT_MAX as usize
}

impl Window {
    /// The last number of `stream` that the client was sent.
    pub(super) fn last_sent(&self, stream: Stream) -> u64 {
        self.last_sent.get(&stream).copied().unwrap_or(0)
    }
}

fn note_sent(window: &mut Window, delivery: Delivery) {
    let last = window.last_sent.entry(delivery.stream).or_insert(0);
    *last = (*last).max(delivery.seq);
}
