//! What the bus brings, routed to the sessions it is for.
//!
//! Owns the order of pushes: every number of a user's inbox and of a group goes out once and in
//! order, what is missing is fetched first. A push is encoded once per core. What nobody here is
//! waiting for is counted and dropped: the store still has it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    Effect, Shard, Standing,
    delivery::Origin,
    encoded_push::EncodedPush,
    sequencer::{Answer, Fetch, Numbered, Offer, Sequencer, StepBack},
};
use crate::{
    base::{
        close::CloseReason,
        id::{ConnectionKey, GroupId, MessageId, Stream, UserId},
    },
    metrics::PushDrop,
    proto::{PushKind, PushMessage},
    session::outbox::Delivery,
};

/// Messages of one stream that are held while a gap before them is fetched; further ones are
/// fetched too.
const HELD_MESSAGES: usize = 1000;

impl Shard {
    /// Routes one push.
    pub fn on_push(&mut self, message: Arc<PushMessage>) {
        match PushKind::try_from(message.kind) {
            Ok(PushKind::Message) if message.group_id == 0 && !message.to_many.is_empty() => {
                self.copy_to_sender(&message);
            }
            Ok(PushKind::Message) => self.on_message(message),
            Ok(PushKind::Notice) => self.notice(&message),
            Ok(PushKind::Kick) => self.kick(&message),
            Ok(PushKind::GroupJoined | PushKind::GroupLeft) if !self.is_here(message.to) => {
                self.metrics.push_dropped(PushDrop::NoReceiver);
            }
            Ok(PushKind::GroupJoined) => {
                let standing = Standing {
                    last_seq: Some(message.seq),
                    since: Some(message.seq),
                };
                self.user_joined(message.to, message.group_id, standing);
            }
            Ok(PushKind::GroupLeft) => self.user_left(message.to, message.group_id),
            Ok(PushKind::CatchUp) => self.on_gap(),
            Err(_) => self.metrics.push_dropped(PushDrop::Malformed),
        }
        self.check_invariants();
    }

    /// Messages of `stream` may have been published to nobody.
    pub fn fetch_missed(&mut self, stream: Stream) {
        if let Some(fetch) = self.missed(stream) {
            self.effects.push(Effect::Fetch { stream, fetch });
        }
    }

    /// The answer to [`Effect::Fetch`]: what the store has of the numbers asked for.
    pub fn fetched(&mut self, stream: Stream, fetch: Fetch, page: Page) {
        let Some(sequencer) = self.sequencer_mut(stream) else {
            return;
        };
        let next = sequencer.fetched(fetch, page.answer());
        let step_back = sequencer.take_step_back();
        if let Some(step_back) = step_back {
            self.step_back(stream, step_back);
        }
        self.go_on(stream, next);
    }

    /// A fetch could not be done; says it may be tried again, and with what.
    pub fn fetch_failed(&mut self, stream: Stream, fetch: Fetch) -> Option<Fetch> {
        let sequencer = self.sequencer_mut(stream)?;
        sequencer.fetch_failed(fetch);
        sequencer.retry()
    }

    /// The order of a stream that somebody here gets.
    pub(super) fn sequencer_mut(
        &mut self,
        stream: Stream,
    ) -> Option<&mut Sequencer<Arc<PushMessage>>> {
        match stream {
            Stream::Direct(user) => self.users.get_mut(&user).map(|user| &mut user.messages),
            Stream::Group(group) => self.groups.get_mut(&group).map(|group| &mut group.messages),
        }
    }

    /// The same, to look at.
    pub(super) fn sequencer(&self, stream: Stream) -> Option<&Sequencer<Arc<PushMessage>>> {
        match stream {
            Stream::Direct(user) => self.users.get(&user).map(|user| &user.messages),
            Stream::Group(group) => self.groups.get(&group).map(|group| &group.messages),
        }
    }

    /// The user in whose name messages of `stream` after `after` may be read. Of a group it is a
    /// member on this core: the service shows nobody what came before the membership. The next one
    /// with each attempt, since a member may have left unheard. `None`: nobody is there while
    /// somebody is about to come.
    pub fn reader(&self, stream: Stream, after: u64, attempt: usize) -> Option<UserId> {
        match stream {
            Stream::Direct(user) => Some(user),
            Stream::Group(group) => self.group_reader(group, after, attempt),
        }
    }

    fn group_reader(&self, group: GroupId, after: u64, attempt: usize) -> Option<UserId> {
        let members = &self.groups.get(&group)?.members;
        // Where all came later, nobody here is owed what came before the first of them.
        let baselines = members.iter().map(|(slot, member)| (slot, member.baseline));
        let oldest = baselines.clone().map(|(_, baseline)| baseline).min()?;
        let readers = baselines.filter(|(_, baseline)| *baseline <= oldest.max(after));
        let (slot, _) = readers.clone().nth(attempt % readers.count().max(1))?;
        let login = self.connections[*slot as usize].session.login()?;
        Some(login.user)
    }

    fn on_message(&mut self, message: Arc<PushMessage>) {
        let stream = Stream::of(message.to, message.group_id);
        let Some(sequencer) = self.sequencer_mut(stream) else {
            self.metrics.push_dropped(PushDrop::NoReceiver);
            return;
        };
        if message.seq == 0 {
            // A backend without numbers: it goes out as it comes.
            self.send(stream, &message, Origin::Bus);
            return;
        }
        match sequencer.offer(message.seq, message, HELD_MESSAGES) {
            Offer::Deliver(message) => self.send(stream, &message, Origin::Bus),
            Offer::Drop => self.metrics.push_dropped(PushDrop::Duplicate),
            Offer::Held { fetch } => self.fetch(stream, fetch),
        }
        self.send_ready(stream);
    }

    /// Sends what is next by now and starts the fetch that is needed, if one is.
    pub(super) fn go_on(&mut self, stream: Stream, next: Option<Fetch>) {
        self.send_ready(stream);
        self.fetch(stream, next);
        self.check_invariants();
    }

    fn fetch(&mut self, stream: Stream, fetch: Option<Fetch>) {
        if let Some(fetch) = fetch {
            self.metrics.push_gaps_total.inc();
            self.effects.push(Effect::Fetch { stream, fetch });
        }
    }

    /// What this core believed of the stream was wrong: what sessions believed because of it is,
    /// too.
    fn step_back(&mut self, stream: Stream, step_back: StepBack) {
        self.metrics.push_step_backs_total.inc();
        for slot in self.slots_in(stream) {
            let login = self.connections[slot as usize].session.login_mut();
            let Some(login) = login else { continue };
            if let Some(window) = &mut login.window
                && let Some(last) = window.last_sent.get_mut(&stream)
                && *last > step_back.to
            {
                let repeats_to = window.repeats_to.entry(stream).or_default();
                *repeats_to = (*repeats_to).max((*last).min(step_back.end));
                *last = step_back.to;
            }
            match stream {
                Stream::Direct(_) => step_back.correct(&mut login.baseline),
                Stream::Group(group) => {
                    let group = self.groups.get_mut(&group);
                    if let Some(member) = group.and_then(|group| group.members.get_mut(&slot)) {
                        step_back.correct(&mut member.baseline);
                        member.baseline = member.baseline.max(member.floor);
                    }
                }
            }
        }
    }

    /// Sends what was held and is now next: it was fetched, or waited for what was.
    fn send_ready(&mut self, stream: Stream) {
        while let Some(message) = self
            .sequencer_mut(stream)
            .and_then(|sequencer| sequencer.pop_ready())
        {
            self.send(stream, &message, Origin::Store);
        }
    }

    /// Queues a message to every session of the stream it is for.
    fn send(&mut self, stream: Stream, message: &Arc<PushMessage>, origin: Origin) {
        self.encode_once(message, |shard, push| match stream {
            Stream::Direct(user) => shard.send_direct(user, push, origin),
            Stream::Group(group) => shard.send_group(group, push, origin),
        });
    }

    /// Has `to_sessions` deliver a push, with the core's buffers for its encodings.
    pub(super) fn encode_once<T>(
        &mut self,
        message: &Arc<PushMessage>,
        to_sessions: impl FnOnce(&mut Self, &mut EncodedPush<'_>) -> T,
    ) -> T {
        let mut push = EncodedPush::new(message, std::mem::take(&mut self.encodings));
        let result = to_sessions(self, &mut push);
        self.encodings = push.into_buffers();
        result
    }

    fn send_direct(&mut self, user: UserId, push: &mut EncodedPush<'_>, origin: Origin) {
        let seq = push.message().seq;
        for slot in self.slots_of(user) {
            let baseline = self.baseline(slot, Stream::Direct(user));
            if seq == 0 || seq > baseline {
                self.deliver(slot, push, origin);
            }
        }
    }

    fn send_group(&mut self, group: GroupId, push: &mut EncodedPush<'_>, origin: Origin) {
        let message = push.message();
        // Taken out for the loop: delivering touches sessions, never the list of members.
        let Some(members) = self
            .groups
            .get_mut(&group)
            .map(|group| std::mem::take(&mut group.members))
        else {
            return;
        };
        let mut recipients = 0;
        for (slot, member) in &members {
            let Some(login) = self.connections[*slot as usize].session.login() else {
                continue;
            };
            if message.seq != 0 && message.seq <= member.baseline {
                continue;
            }
            let wrote_it = login.user == message.from && login.session_id == message.session_id;
            if message.session_id != 0 && wrote_it {
                let delivery = Delivery::of(login.user, message);
                self.pass_over(*slot, delivery);
                continue;
            }
            recipients += 1;
            self.deliver(*slot, push, origin);
        }
        if let Some(group) = self.groups.get_mut(&group) {
            group.members = members;
        }
        self.metrics.fanout_recipients.observe(recipients);
    }

    /// The sender's other devices get a copy, which is in nobody's inbox and has no number.
    fn copy_to_sender(&mut self, message: &Arc<PushMessage>) {
        if !message.to_many.iter().any(|user| self.is_here(*user)) {
            self.metrics.push_dropped(PushDrop::NoReceiver);
        }
        self.encode_once(message, |shard, push| {
            for user in &message.to_many {
                for slot in shard.slots_of(*user) {
                    let login = shard.connections[slot as usize].session.login();
                    if login.is_some_and(|login| login.session_id != message.session_id) {
                        shard.deliver(slot, push, Origin::Bus);
                    }
                }
            }
        });
    }

    fn notice(&mut self, message: &Arc<PushMessage>) {
        let slots: Vec<u32> = match (message.to, message.to_many.as_slice()) {
            (0, []) => self
                .users
                .values()
                .flat_map(|user| user.slots.clone())
                .collect(),
            (to, []) => self.slots_of(to).to_vec(),
            (_, many) => many.iter().flat_map(|user| self.slots_of(*user)).collect(),
        };
        let is_for_somebody = message.to != 0 || !message.to_many.is_empty();
        if slots.is_empty() && is_for_somebody {
            self.metrics.push_dropped(PushDrop::NoReceiver);
        }
        self.encode_once(message, |shard, push| {
            for slot in slots {
                shard.deliver(slot, push, Origin::Bus);
            }
        });
    }

    fn kick(&mut self, message: &PushMessage) {
        let keys: SmallVec<[ConnectionKey; 2]> = self
            .slots_of(message.to)
            .into_iter()
            .filter(|slot| {
                let login = self.connections[*slot as usize].session.login();
                message.session_id == 0
                    || login.is_some_and(|login| login.session_id == message.session_id)
            })
            .map(|slot| self.key_of(slot))
            .collect();
        let reason = match message.text.as_str() {
            "replaced" => CloseReason::Replaced,
            "revoked" => CloseReason::Revoked,
            _ => CloseReason::Admin,
        };
        if keys.is_empty() {
            self.metrics.push_dropped(PushDrop::NoReceiver);
        }
        for key in keys {
            self.end(key, reason);
        }
    }

    /// The slots of the sessions that get the messages of `stream`.
    pub(super) fn slots_in(&self, stream: Stream) -> SmallVec<[u32; 2]> {
        match stream {
            Stream::Direct(user) => self.slots_of(user),
            Stream::Group(group) => self.groups.get(&group).map_or_else(SmallVec::new, |group| {
                group.members.keys().copied().collect()
            }),
        }
    }

    pub(super) fn slots_of(&self, user: UserId) -> SmallVec<[u32; 2]> {
        self.users
            .get(&user)
            .map_or_else(SmallVec::new, |user| user.slots.clone())
    }
}

/// What the store answered to a fetch.
#[derive(Debug, Default)]
pub struct Page {
    /// What it has.
    pub messages: Vec<PushMessage>,
    /// It may have more of what was asked for.
    pub more: bool,
    /// The last number of the stream, if it is known.
    pub end: Option<u64>,
}

impl Page {
    fn answer(self) -> Answer<Arc<PushMessage>> {
        let messages = self.messages.into_iter();
        Answer {
            items: messages
                .map(|message| (message.seq, Arc::new(message)))
                .collect(),
            more: self.more,
            end: self.end,
        }
    }
}

impl StepBack {
    /// A session is pushed what comes after `baseline`. One behind the end was never the store's.
    fn correct(&self, baseline: &mut u64) {
        if *baseline > self.end {
            *baseline = self.to;
        }
    }
}

impl Numbered for Arc<PushMessage> {
    fn id(&self) -> MessageId {
        self.msg_id
    }

    fn mark_repeat(&mut self) {
        Arc::make_mut(self).redelivery = true;
    }

    /// The store does not say which session wrote a message.
    fn adopt(&mut self, pushed: &Self) {
        if self.session_id != pushed.session_id {
            Arc::make_mut(self).session_id = pushed.session_id;
        }
    }
}
