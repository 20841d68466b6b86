//! From one push to one connection: what is sent when, what waits, and what a sent byte confirms.

use std::{collections::HashMap, sync::Arc};

use super::{
    Effect, Shard,
    encoded_push::{EncodedPush, push_of},
    window::{admit, note_had},
};
use crate::{
    base::{
        close::{CloseReason, LINGER_MS},
        id::{ConnectionKey, MessageId, Stream, UserId},
    },
    proto::{AckRange, PushMessage},
    protocol::{command::AckMode, request::ReplyTo},
    session::{Login, job::Job, outbox::Delivery},
};

/// Confirmations of one call: one push to a large group makes many in one turn.
const ACKS_AT_ONCE: usize = 4096;

/// Pushes that may wait for a login to be answered, and no more than a queue holds of bytes; the
/// rest is fetched once it is.
const EARLY_PUSHES: usize = 1000;

/// How a push came to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The bus brought it when it was stored: that it is not read counts against its reader.
    Bus,
    /// It was fetched, or held back for what was: it is sent at the pace at which it is read.
    Store,
}

impl Shard {
    /// What waits to be sent.
    pub fn unsent(&self, key: ConnectionKey) -> &[u8] {
        self.connection(key)
            .map_or(&[], |connection| connection.outbox.unsent())
    }

    /// The kernel took `count` bytes and, where `blocked`, would take no more. It confirms nothing.
    pub fn sent(&mut self, key: ConnectionKey, count: usize, blocked: bool) {
        let now_ms = self.now_ms();
        self.metrics.transport_sent_bytes_total.add(count as u64);
        let limit = self.options.outbound_queue_bytes;
        let Some(connection) = self
            .connections
            .get_mut(key.slot as usize)
            .filter(|connection| connection.generation == key.generation)
        else {
            return;
        };
        let was_congested = connection.congested(&self.options);
        connection.blocked = blocked;
        let goes_on = connection
            .outbox
            .advance(count, connection.codec, now_ms, &mut self.pool);
        let unsent = connection.outbox.unsent().len() as u64;
        let counted = std::mem::replace(&mut connection.counted_unsent, unsent);
        self.metrics.outbox_bytes.add(unsent);
        self.metrics.outbox_bytes.sub(counted);
        if connection.session.ended().is_none() && connection.outbox.unasked() > limit {
            self.metrics.slow_consumers_total.inc();
            self.end(key, CloseReason::SlowConsumer);
        } else if was_congested && !connection.congested(&self.options) {
            self.resume_later(key);
        }
        if goes_on {
            self.give_time(key, now_ms);
        }
        self.ask_after_sending(key);
    }

    /// A piece of a long answer has left: the next has a time of its own.
    fn give_time(&mut self, key: ConnectionKey, now_ms: u64) {
        let connection = &mut self.connections[key.slot as usize];
        assert!(
            connection.session.ended().is_some(),
            "a long answer is the last"
        );
        connection.session.deadline_ms = now_ms + LINGER_MS;
        self.mark_dirty(key.slot);
    }

    /// The kernel has room again; `false`: there was no need for any.
    pub fn unblock(&mut self, key: ConnectionKey) -> bool {
        self.connection_mut(key)
            .is_some_and(|connection| std::mem::take(&mut connection.blocked))
    }

    /// Whether writing now is known to be in vain.
    pub fn is_blocked(&self, key: ConnectionKey) -> bool {
        self.connection(key)
            .is_some_and(|connection| connection.blocked)
    }

    /// Whether so much is unsent that more should wait.
    pub fn is_congested(&self, key: ConnectionKey) -> bool {
        self.connection(key)
            .is_some_and(|connection| connection.congested(&self.options))
    }

    /// How much the connection has ever been given to send, in bytes.
    pub fn written(&self, key: ConnectionKey) -> u64 {
        self.connection(key)
            .map_or(0, |connection| connection.outbox.end())
    }

    /// Whether what is confirmed by its arrival has arrived as far as it is among the first `end`
    /// bytes, or the connection is gone.
    pub fn is_confirmed(&self, key: ConnectionKey, end: u64) -> bool {
        self.connection(key)
            .is_none_or(|connection| connection.outbox.is_confirmed(end))
    }

    /// Whether somebody is logged in on the connection, or about to be.
    pub fn is_known(&self, key: ConnectionKey) -> bool {
        self.connection(key)
            .is_some_and(|connection| connection.session.login().is_some())
    }

    /// Why the session ended, once all its lines are sent.
    pub fn is_finished(&self, key: ConnectionKey) -> Option<CloseReason> {
        let connection = self.connection(key)?;
        let reason = connection.session.ended()?;
        connection.outbox.unsent().is_empty().then_some(reason)
    }

    /// Queues a push line for a session: at once, after its login is answered, or not at all where
    /// the client confirms for itself and has confirmed too little.
    ///
    /// Says how many bytes were queued.
    pub(super) fn deliver(
        &mut self,
        slot: u32,
        push: &mut EncodedPush<'_>,
        origin: Origin,
    ) -> usize {
        let key = self.key_of(slot);
        let limit = self.options.outbound_queue_bytes;
        let connection = &mut self.connections[slot as usize];
        let ack_mode = connection.session.ack_mode;
        let is_answered = connection.session.is_logged_in();
        let Some(login) = connection.session.login_mut() else {
            return 0;
        };
        let message_id = push.message_id();
        let delivery = Delivery::of(login.user, push.message());
        if let Some(delivery) = delivery
            && login.was_pulled_ahead(delivery.stream, delivery.seq, message_id)
        {
            if let Some(window) = &mut login.window
                && window.throttled
            {
                // It is among what is fetched for this session alone.
                note_had(window, message_id, &self.options);
            }
            self.pass_over(slot, Some(delivery));
            return 0;
        }
        if !is_answered {
            login.hold_early(push.message(), delivery.is_some(), limit);
            return 0;
        }
        if origin == Origin::Store
            && let Some(delivery) = delivery
            && connection.outbox.unsent().len() > limit
        {
            self.throttle_by_window(key, delivery);
            return 0;
        }
        if message_id != 0 {
            if let Some(window) = &mut login.window
                && !admit(window, ack_mode, message_id, delivery, &self.options)
            {
                return 0;
            }
            self.metrics.messages_sent_total.inc();
        }
        let bytes = push.bytes(connection.codec);
        connection
            .outbox
            .bytes(&mut self.pool)
            .extend_from_slice(bytes);
        let confirms = delivery.filter(|delivery| ack_mode == AckMode::Auto && !delivery.own);
        connection.outbox.mark(confirms, &mut self.pool);
        if origin == Origin::Store {
            connection.outbox.asked_for(bytes.len(), &mut self.pool);
        }
        let queued = bytes.len();
        self.mark_dirty(slot);
        queued
    }

    /// The login of `key` has been answered: what came before goes out now.
    pub(super) fn activate(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connection_mut(key) else {
            return;
        };
        let manual = connection.session.ack_mode == AckMode::Manual;
        if connection.session.login().is_some() {
            connection.session.answer_login();
        }
        let Some(login) = connection.session.login_mut() else {
            return;
        };
        let early = std::mem::take(&mut login.early);
        let missed = login.early_missed;
        self.metrics.sessions_authenticated.inc();
        if manual || missed {
            self.open_window(key);
            self.window_from_baselines(key);
        }
        for push in early {
            let queued = self.encode_once(&push, |shard, push| {
                shard.deliver(key.slot, push, Origin::Bus)
            });
            // Logging in asks for what was handed out before.
            self.connections[key.slot as usize]
                .outbox
                .asked_for(queued, &mut self.pool);
        }
        if missed && let Some(window) = self.window_mut(key) {
            window.throttled = true;
            self.catch_up_if_throttled(key);
        }
    }

    /// Messages that were handed out before and not confirmed: they go out right after the login
    /// is answered, before whatever was pushed meanwhile.
    pub fn redeliver(&mut self, key: ConnectionKey, messages: Vec<PushMessage>) {
        let Some(login) = self
            .connection(key)
            .and_then(|connection| connection.session.login())
            .filter(|_| !messages.is_empty())
        else {
            return;
        };
        // What was stored since the login comes as a push.
        let streams = login.streams();
        let baselines: HashMap<Stream, u64> = streams
            .map(|stream| (stream, self.baseline(key.slot, stream)))
            .collect();
        let user = login.user;
        let before = |message: &PushMessage| {
            let delivery = Delivery::of(user, message);
            delivery.is_some_and(|delivery| {
                let baseline = baselines.get(&delivery.stream);
                baseline.is_some_and(|baseline| delivery.seq <= *baseline)
            })
        };
        if let Some(login) = self
            .connection_mut(key)
            .and_then(|connection| connection.session.login_mut())
        {
            let redelivered = messages.into_iter().filter(before).map(Arc::new);
            login.early.splice(0..0, redelivered);
        }
    }

    /// Sends messages that `job` has pulled, in order: as pushes before the reply, or in the reply.
    pub fn deliver_pulled(&mut self, job: &Job, messages: &[PushMessage]) {
        let (key, to) = (job.key, &job.commands[0].to);
        for message in messages {
            self.send_stored(key, job.user(), message, |shard, confirms| match to {
                ReplyTo::Json(_) | ReplyTo::Protobuf(_) | ReplyTo::Http(_) => {
                    shard.page_in(key, to, &push_of(message), confirms);
                }
                ReplyTo::Line(_) | ReplyTo::Upgrade(_) | ReplyTo::HeaderLogin(_) => {
                    shard.push_pulled(key, message, confirms);
                }
            });
        }
    }

    /// Sends a message that was handed out before and not confirmed, as a push.
    pub(super) fn send_again(&mut self, key: ConnectionKey, user: UserId, message: &PushMessage) {
        self.send_stored(key, user, message, |shard, confirms| {
            shard.push_pulled(key, message, confirms);
        });
    }

    /// Has `send` write a message from the store to a session of `user`, unless it has ended, and
    /// notes that the session has it.
    fn send_stored(
        &mut self,
        key: ConnectionKey,
        user: UserId,
        message: &PushMessage,
        send: impl FnOnce(&mut Self, Option<Delivery>),
    ) {
        let (message_id, delivery) = (message.msg_id, Delivery::of(user, message));
        let Some(connection) = self
            .connection_mut(key)
            .filter(|connection| connection.session.ended().is_none())
        else {
            return;
        };
        let ack_mode = connection.session.ack_mode;
        send(self, delivery.filter(|_| ack_mode == AckMode::Auto));
        self.note_pulled(key, ack_mode, message_id, delivery);
        self.metrics.messages_sent_total.inc();
        self.note_fetched(key, message_id, delivery);
    }

    /// Sends a message that was pulled as a push.
    fn push_pulled(
        &mut self,
        key: ConnectionKey,
        message: &PushMessage,
        confirms: Option<Delivery>,
    ) {
        let connection = &mut self.connections[key.slot as usize];
        let before = connection.outbox.end();
        let out = connection.outbox.bytes(&mut self.pool);
        connection.codec.write_push(&push_of(message), out);
        let length = (connection.outbox.end() - before) as usize;
        connection.outbox.asked_for(length, &mut self.pool);
        if confirms.is_some() {
            connection.outbox.mark(confirms, &mut self.pool);
        }
        self.mark_dirty(key.slot);
    }

    /// The session was sent a message from the store by itself. If that has still to be pushed, it
    /// is not pushed to this session.
    pub(super) fn note_fetched(
        &mut self,
        key: ConnectionKey,
        message_id: MessageId,
        delivery: Option<Delivery>,
    ) {
        if let Some(delivery) = delivery
            && !self.was_pushed(delivery, message_id)
            && let Some(login) = self.connection_mut(key).and_then(|c| c.session.login_mut())
        {
            login.pulled_ahead_of_push(delivery.stream, delivery.seq, message_id);
        }
    }

    /// Whether the message has had its turn to be pushed on this core.
    fn was_pushed(&self, delivery: Delivery, message_id: MessageId) -> bool {
        self.sequencer(delivery.stream)
            .is_some_and(|sequencer| sequencer.has_passed(delivery.seq, message_id))
    }

    /// Whether confirmations wait to be handed to the store.
    pub(super) fn has_acks(&self) -> bool {
        !self.acks.is_empty()
    }

    /// Hands out the confirmations gathered so far.
    pub fn flush_acks(&mut self) {
        let acks = self.take_acks();
        self.confirm_later(acks);
    }

    /// Has these confirmed, in portions that a service takes.
    pub fn confirm_later(&mut self, acks: Vec<AckRange>) {
        if acks.len() <= ACKS_AT_ONCE {
            // The common case, and nothing is copied.
            self.effects
                .extend((!acks.is_empty()).then_some(Effect::Confirm(acks)));
            return;
        }
        let portions = acks.chunks(ACKS_AT_ONCE);
        self.effects
            .extend(portions.map(|portion| Effect::Confirm(portion.to_vec())));
    }

    /// Takes the confirmations gathered so far.
    pub(super) fn take_acks(&mut self) -> Vec<AckRange> {
        std::mem::take(&mut self.acks)
    }

    /// Takes those of `user` alone: a pull does not wait for those of others, nor fail with them.
    pub fn take_acks_of(&mut self, user: UserId) -> Vec<AckRange> {
        let of_user = self.acks.extract_if(.., |ack| ack.user_id == user);
        of_user.collect()
    }
}

/// Notes one delivery, in the range of the one before where it continues it.
pub(super) fn confirm(acks: &mut Vec<AckRange>, delivery: Delivery) {
    if let Some(last) = acks.last_mut()
        && last.user_id == delivery.user
        && last.group_id == delivery.stream.group_id()
        && last.to_seq.checked_add(1) == Some(delivery.seq)
    {
        last.to_seq = delivery.seq;
        return;
    }
    acks.push(AckRange {
        user_id: delivery.user,
        from_seq: delivery.seq,
        to_seq: delivery.seq,
        group_id: delivery.stream.group_id(),
    });
}

impl Login {
    /// Keeps a push until the login is answered. Where one could not be kept, none behind it is:
    /// all of them are fetched then.
    fn hold_early(&mut self, push: &Arc<PushMessage>, is_numbered: bool, limit: usize) {
        let size = size_of::<PushMessage>() + push.text.len();
        let is_full = self.early.len() >= EARLY_PUSHES || self.early_bytes + size > limit;
        // What has no number cannot be fetched.
        if is_full || self.early_missed && is_numbered {
            self.early_missed |= is_numbered;
            return;
        }
        self.early_bytes += size;
        self.early.push(Arc::clone(push));
    }
}
