//! From one push to one connection: what is sent when, what waits, and what a sent byte confirms.

use std::collections::HashMap;

use super::{Effect, Shard};
use crate::{
    close::CloseReason,
    id::{ConnectionKey, GroupId, MessageId, UserId},
    proto::AckRange,
    protocol::command::AckMode,
    session::{EarlyPush, Manual, outbox::Delivery},
};

/// Confirmations gathered until they are handed to the store without waiting longer.
const ACKS_PER_BATCH: usize = 100;

/// Pushes that may wait for a log-in to be answered; more than that is a client that will pull anyway.
const EARLY_PUSHES: usize = 1000;

/// What a session with `ack=manual` is to be sent next of what was held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// Whose messages.
    pub user: UserId,
    /// Of which group; 0: direct ones.
    pub group: GroupId,
    /// The last number it was sent.
    pub after: u64,
    /// The last number that was pushed to others.
    pub to: u64,
    /// How many it may be sent.
    pub room: usize,
}

impl Shard {
    /// What waits to be sent.
    pub fn unsent(&self, key: ConnectionKey) -> &[u8] {
        self.connection(key)
            .map_or(&[], |connection| connection.outbox.unsent())
    }

    /// The kernel took `count` bytes and, where `blocked`, would take no more.
    pub fn sent(&mut self, key: ConnectionKey, count: usize, blocked: bool) {
        self.metrics.transport_sent_bytes_total.add(count as u64);
        let limit = self.options.outbound_queue_bytes;
        let Some(connection) = self
            .connections
            .get_mut(key.slot as usize)
            .filter(|connection| connection.generation == key.generation)
        else {
            return;
        };
        let was_congested = connection.congested(limit);
        connection.blocked = blocked;
        let acks = &mut self.acks;
        connection
            .outbox
            .advance(count, &mut self.pool, |delivery| confirm(acks, delivery));
        if connection.outbox.unasked() > limit {
            self.metrics.slow_consumers_total.inc();
            self.end(key, CloseReason::SlowConsumer);
        } else if was_congested && !connection.congested(limit) {
            self.resumable.push(key);
        }
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
        let limit = self.options.outbound_queue_bytes;
        self.connection(key)
            .is_some_and(|connection| connection.congested(limit))
    }

    /// Why the session ended, once all its lines are sent.
    pub fn is_finished(&self, key: ConnectionKey) -> Option<CloseReason> {
        let connection = self.connection(key)?;
        let reason = connection.session.ended?;
        connection.outbox.unsent().is_empty().then_some(reason)
    }

    /// Queues a push line for a session: at once, after its log-in is answered, or not at all where the client
    /// confirms for itself and has confirmed too little.
    pub(super) fn deliver(
        &mut self,
        slot: u32,
        line: &[u8],
        message_id: MessageId,
        delivery: Option<Delivery>,
    ) {
        let connection = &mut self.connections[slot as usize];
        let ack_mode = connection.session.ack_mode;
        let Some(login) = connection.session.login_mut() else {
            return;
        };
        if !login.ready {
            if login.early.len() < EARLY_PUSHES {
                login.early.push(EarlyPush {
                    line: line.to_vec(),
                    message_id,
                    delivery,
                });
            }
            return;
        }
        if message_id != 0 {
            if let Some(manual) = &mut login.manual
                && !admit(manual, ack_mode, message_id, delivery, &self.options)
            {
                return;
            }
            self.metrics.messages_sent_total.inc();
        }
        connection
            .outbox
            .bytes(&mut self.pool)
            .extend_from_slice(line);
        if let Some(delivery) = delivery
            && ack_mode == AckMode::Auto
        {
            connection.outbox.mark(delivery, &mut self.pool);
        }
        self.mark_dirty(slot);
    }

    /// The log-in of `key` has been answered: what came before goes out now.
    pub(super) fn activate(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connection_mut(key) else {
            return;
        };
        let manual = connection.session.ack_mode == AckMode::Manual;
        let Some(login) = connection.session.login_mut() else {
            return;
        };
        login.ready = true;
        let early = std::mem::take(&mut login.early);
        self.metrics.sessions_authenticated.inc();
        if manual {
            self.begin_account(key);
        }
        for push in early {
            self.deliver(key.slot, &push.line, push.message_id, push.delivery);
            // Logging in asks for what was handed out before.
            self.connections[key.slot as usize]
                .outbox
                .asked_for(push.line.len(), &mut self.pool);
        }
    }

    /// Messages that were handed out before and not confirmed: they go out right after the log-in is answered, before
    /// whatever was pushed meanwhile.
    pub fn redeliver(
        &mut self,
        key: ConnectionKey,
        messages: Vec<(Vec<u8>, MessageId, Option<Delivery>)>,
    ) {
        let Some(login) = self
            .connection(key)
            .and_then(|connection| connection.session.login())
            .filter(|_| !messages.is_empty())
        else {
            return;
        };
        // What was stored since the log-in comes as a push.
        let baselines: HashMap<GroupId, u64> = std::iter::once((0, login.baseline))
            .chain(
                login
                    .groups
                    .iter()
                    .map(|group| (*group, self.group_baseline(*group, key.slot))),
            )
            .collect();
        let before = |delivery: &Option<Delivery>| {
            delivery.is_some_and(|delivery| {
                baselines
                    .get(&delivery.group)
                    .is_some_and(|baseline| delivery.seq <= *baseline)
            })
        };
        if let Some(login) = self
            .connection_mut(key)
            .and_then(|connection| connection.session.login_mut())
        {
            let redelivered = messages
                .into_iter()
                .filter(|(_, _, delivery)| before(delivery))
                .map(|(line, message_id, delivery)| EarlyPush {
                line,
                message_id,
                delivery,
            });
            login.early.splice(0..0, redelivered);
        }
    }

    /// From now on the client confirms for itself: keeps account of what it has not confirmed.
    pub(super) fn begin_account(&mut self, key: ConnectionKey) {
        let Some(login) = self.connection(key).and_then(|c| c.session.login()) else {
            return;
        };
        if login.manual.is_some() || !login.ready {
            return;
        }
        let manual = Manual {
            direct_last: self.direct_last(login.user).unwrap_or(0),
            group_last: login
                .groups
                .iter()
                .map(|group| (*group, self.group_last(*group).unwrap_or(0)))
                .collect(),
            ..Manual::default()
        };
        if let Some(login) = self.connection_mut(key).and_then(|c| c.session.login_mut()) {
            login.manual = Some(Box::new(manual));
        }
    }

    fn group_baseline(&self, group: GroupId, slot: u32) -> u64 {
        let members = self.groups.get(&group).map(|group| &group.members);
        members
            .and_then(|members| members.iter().find(|member| member.slot == slot))
            .map_or(0, |member| member.baseline)
    }

    fn direct_last(&self, user: UserId) -> Option<u64> {
        self.users.get(&user)?.direct.last()
    }

    fn group_last(&self, group: GroupId) -> Option<u64> {
        self.groups.get(&group)?.messages.last()
    }

    /// The client confirmed these itself.
    pub fn confirmed(&mut self, key: ConnectionKey, ids: &[MessageId]) {
        if let Some(manual) = self.manual_mut(key) {
            for id in ids {
                manual.unconfirmed.remove(id);
            }
        }
        self.catch_up_if_behind(key);
    }

    pub(super) fn catch_up_if_behind(&mut self, key: ConnectionKey) {
        if let Some(manual) = self.manual_mut(key)
            && manual.behind
            && !manual.catching_up
        {
            manual.catching_up = true;
            self.effects.push(Effect::CatchUp(key));
        }
    }

    /// What the session is to be sent next of what was held back; `None`: nothing, it is up to date, full, or gone.
    pub fn next_catch_up(&mut self, key: ConnectionKey) -> Option<CatchUp> {
        let limit = self.options.unconfirmed_limit;
        let session = &self.connection(key)?.session;
        let ack_mode = session.ack_mode;
        let login = session.login()?;
        let manual = login.manual.as_ref()?;
        let room = match ack_mode {
            AckMode::Manual => limit.saturating_sub(manual.unconfirmed.len()),
            AckMode::Auto => limit,
        };
        let streams = std::iter::once((0, manual.direct_last, self.direct_last(login.user))).chain(
            login.groups.iter().map(|group| {
                let sent = manual.group_last.get(group).copied();
                let last = self.group_last(*group);
                (*group, sent.or(last).unwrap_or(0), last)
            }),
        );
        let user = login.user;
        let next = streams
            .filter_map(|(group, after, last)| Some((group, after, last?)))
            .find(|(_, after, last)| after < last)
            .map(|(group, after, to)| CatchUp {
                user,
                group,
                after,
                to,
                room,
            });
        let manual = self.manual_mut(key)?;
        match next {
            Some(catch_up) if catch_up.room > 0 => Some(catch_up),
            Some(_) => {
                manual.catching_up = false;
                None
            }
            None => {
                manual.behind = false;
                manual.catching_up = false;
                if ack_mode == AckMode::Auto
                    && let Some(login) = self.connection_mut(key).and_then(|c| c.session.login_mut())
                {
                    login.manual = None;
                }
                None
            }
        }
    }

    /// Sends what was fetched for [`Shard::next_catch_up`]: encoded lines with their ids and numbers, in order.
    pub fn caught_up(
        &mut self,
        key: ConnectionKey,
        catch_up: CatchUp,
        lines: &[(Vec<u8>, MessageId, u64)],
    ) {
        if let Some(manual) = self.manual_mut(key) {
            manual.behind = false;
        }
        for (line, message_id, seq) in lines {
            let delivery = Delivery {
                user: catch_up.user,
                group: catch_up.group,
                seq: *seq,
            };
            self.deliver(key.slot, line, *message_id, Some(delivery));
        }
        if let Some(manual) = self.manual_mut(key) {
            manual.behind = true;
            if lines.is_empty() {
                // The store has none of them any more: they were confirmed elsewhere.
                note_sent(
                    manual,
                    Delivery {
                        user: catch_up.user,
                        group: catch_up.group,
                        seq: catch_up.to,
                    },
                );
            }
        }
    }

    /// The catch-up could not be done now; the client's next confirmation tries again.
    pub fn catch_up_failed(&mut self, key: ConnectionKey) {
        if let Some(manual) = self.manual_mut(key) {
            manual.catching_up = false;
        }
    }

    fn manual_mut(&mut self, key: ConnectionKey) -> Option<&mut Manual> {
        self.connection_mut(key)?
            .session
            .login_mut()?
            .manual
            .as_deref_mut()
    }

    /// Sends pulled messages: encoded lines with their ids and numbers, in order.
    pub fn deliver_pulled(
        &mut self,
        key: ConnectionKey,
        lines: Vec<(Vec<u8>, MessageId, Option<Delivery>)>,
    ) {
        for (line, message_id, delivery) in lines {
            let Some(connection) = self.connections.get_mut(key.slot as usize).filter(|c| {
                c.generation == key.generation && c.session.ended.is_none()
            }) else {
                return;
            };
            connection
                .outbox
                .bytes(&mut self.pool)
                .extend_from_slice(&line);
            connection.outbox.asked_for(line.len(), &mut self.pool);
            match (connection.session.ack_mode, delivery) {
                (AckMode::Auto, Some(delivery)) => {
                    connection.outbox.mark(delivery, &mut self.pool);
                }
                (AckMode::Manual, _) => {
                    if let Some(manual) = connection
                        .session
                        .login_mut()
                        .and_then(|login| login.manual.as_mut())
                    {
                        manual.unconfirmed.insert(message_id);
                    }
                }
                (AckMode::Auto, None) => {}
            }
            self.metrics.messages_sent_total.inc();
            self.mark_dirty(key.slot);
        }
    }

    /// Whether confirmations wait to be handed to the store.
    pub fn has_acks(&self) -> bool {
        !self.acks.is_empty()
    }

    /// Hands out the confirmations gathered so far if they are many.
    pub fn flush_full_acks(&mut self) {
        if self.acks.len() >= ACKS_PER_BATCH {
            self.flush_acks();
        }
    }

    /// Hands out the confirmations gathered so far.
    pub fn flush_acks(&mut self) {
        let acks = self.take_acks();
        if !acks.is_empty() {
            self.effects.push(Effect::Confirm(acks));
        }
    }

    /// Takes the confirmations gathered so far.
    pub fn take_acks(&mut self) -> Vec<AckRange> {
        std::mem::take(&mut self.acks)
    }
}

/// Notes one delivery, in the range of the one before where it continues it.
fn confirm(acks: &mut Vec<AckRange>, delivery: Delivery) {
    if let Some(last) = acks.last_mut()
        && last.user_id == delivery.user
        && last.group_id == delivery.group
        && last.to_seq + 1 == delivery.seq
    {
        last.to_seq = delivery.seq;
        return;
    }
    acks.push(AckRange {
        user_id: delivery.user,
        from_seq: delivery.seq,
        to_seq: delivery.seq,
        group_id: delivery.group,
    });
}

/// Whether a message may be sent to a client that keeps (or kept) its own account; notes it if so.
fn admit(
    manual: &mut Manual,
    ack_mode: AckMode,
    message_id: MessageId,
    delivery: Option<Delivery>,
    options: &super::ShardOptions,
) -> bool {
    let Some(delivery) = delivery else {
        // Without a number it could not be fetched later: it goes out now, as with any backend that keeps no numbers.
        return true;
    };
    if manual.behind {
        return false;
    }
    if ack_mode == AckMode::Manual {
        if manual.unconfirmed.len() >= options.unconfirmed_limit {
            manual.behind = true;
            return false;
        }
        manual.unconfirmed.insert(message_id);
    }
    note_sent(manual, delivery);
    true
}

fn note_sent(manual: &mut Manual, delivery: Delivery) {
    match delivery.group {
        0 => manual.direct_last = manual.direct_last.max(delivery.seq),
        group => {
            let last = manual.group_last.entry(group).or_insert(0);
            *last = (*last).max(delivery.seq);
        }
    }
}
