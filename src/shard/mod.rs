//! All sessions of one core: who is connected, who is logged in where, what they are owed, when
//! they are due.
//!
//! Owns the slab of connections, the tables of users and groups, and the timing wheel. Never does
//! I/O, never knows a clock or a runtime: bytes, pushes and the time come in; bytes to send wait in
//! outboxes, and what needs a backend leaves as [`Job`](crate::session::job::Job)s and [`Effect`]s.
//! The worker carries them out.
//!
//! - [`input`] bytes → lines → answers and jobs
//! - [`login`] users, devices, group memberships, and how they end
//! - [`push`] what the bus brings → the sessions it is for, in order
//! - `encoded_push` a push → its bytes, once per codec
//! - [`delivery`] one push → one connection, and what that confirms
//! - `web` handshakes, and what else is asked by HTTP
//! - `page` what was pulled, gathered into objects
//! - [`acknowledgement`] what peers have of what they were sent, and when they are asked
//! - [`window`] what a client that confirms for itself still owes, and what was held back from it
//! - [`resync`] what is asked for again after pushes may have been lost, and at what pace
//! - [`deadlines`] what happens when nothing happens
//! - [`sequencer`], `wheel` the order of one stream's numbers, and the timing wheel: neither knows
//!   the shard
//! - [`core`] the shard together with what else a command can reach, and the only locks here: what
//!   the cores share
//!
//! - `invariants` what must always hold, numbered, and checked in debug builds

pub mod acknowledgement;
mod api;
mod client_log;
mod command;
pub mod deadlines;
pub mod delivery;
mod effect;
mod encoded_push;
mod header_login;
pub mod input;
mod invariants;
pub mod login;
mod options;
mod page;
pub mod push;
pub mod resync;
pub mod sequencer;
pub mod unsettled;
mod web;
mod wheel;
pub mod window;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use slab::Slab;
use smallvec::SmallVec;

pub use self::{effect::Effect, options::ShardOptions};
use crate::{
    base::{
        close::{CloseReason, LINGER_MS},
        id::{ConnectionKey, GroupId, IdLease, MessageId, MessageIds, SessionId, UserId},
    },
    limits::TokenBucket,
    metrics,
    proto::{AckRange, PushMessage},
    protocol::{
        codec::{Codec, End, Partial},
        command::{Dialect, Tag},
        push::Push,
        reply::Reply,
        request::ReplyTo,
        websocket::FrameError,
    },
    session::{
        Peer, Session,
        outbox::{BufferPool, Outbox},
    },
    shard::{
        acknowledgement::Questions, client_log::ClientLog, encoded_push::Buffers, page::Page,
        resync::Resync, sequencer::Sequencer, unsettled::Unsettled, wheel::Wheel,
    },
};

/// The time, as the worker tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Microseconds since the process began; never goes back.
    pub monotonic_us: u64,
    /// Milliseconds since 1970; may jump.
    pub unix_ms: u64,
}

/// Fetches of one core from the store at one time: after the bus was away, everybody's messages are
/// resynced.
pub const FETCHES: usize = 64;

/// One connection: its session, what came and was not handled, what was said and not sent.
#[derive(Debug)]
pub struct Connection {
    generation: u32,
    /// In the dirty list.
    dirty: bool,
    /// In the list of those that may go on.
    resumable: bool,
    /// In the list of those that are over their rate.
    throttled: bool,
    /// Among those that are to be asked what their peer has acknowledged.
    to_be_asked: bool,
    /// When its entry in the wheel comes up; others of it, which it has outrun, are dropped when
    /// they do.
    armed_ms: u64,
    /// The last write found the kernel's buffer full: wait until it says there is room.
    blocked: bool,
    /// The form in which it speaks.
    codec: Codec,
    /// The form of its pushes is settled: at the handshake, or by its first request.
    has_form: bool,
    /// Beside `input`: what is kept of a message in fragments.
    partial: Partial,
    /// What came on it that no peer may send.
    broken: Option<FrameError>,
    /// What was pulled and is to be answered in one object.
    page: Option<Box<Page>>,
    /// The session.
    pub session: Session,
    /// What was read and not handled, from `handled` on.
    input: Vec<u8>,
    handled: usize,
    outbox: Outbox,
    /// What `im_gateway_outbox_bytes` holds of this connection: its unsent bytes after the last
    /// write.
    counted_unsent: u64,
}

/// A user with a session on this core.
#[derive(Debug)]
struct User {
    slots: SmallVec<[u32; 2]>,
    messages: Sequencer<Arc<PushMessage>>,
    /// Which of all changes of memberships on this core was the last one of this user's.
    membership_change: u64,
}

/// A group with a member on this core.
#[derive(Debug)]
struct Group {
    /// The sessions in it by slot.
    members: BTreeMap<u32, Member>,
    messages: Sequencer<Arc<PushMessage>>,
    /// Of whom it has to be asked whether they are still in it: as long as there are some, its
    /// messages wait.
    unknown: BTreeSet<u32>,
    /// Logins that are about to add a member.
    holds: u32,
}

/// What the Group Service says of a membership, as far as it says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The last number of the group.
    pub last_seq: Option<u64>,
    /// The number after which the membership counts.
    pub since: Option<u64>,
}

impl Standing {
    /// For a session that would have been in the group since its login, had its groups been known:
    /// what was sent before came to others, or waits for `pull`.
    fn counted_from_now(self) -> Self {
        Self {
            since: self.last_seq,
            ..self
        }
    }
}

/// A session in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    /// Up to here messages came before: those wait for `pull`.
    baseline: u64,
    /// The last number of the group when the service said that the user is in it: nobody may be
    /// shown more by a mistake here.
    floor: u64,
}

/// All sessions of one core.
pub struct Shard {
    options: ShardOptions,
    metrics: Arc<metrics::Core>,
    connections: Slab<Connection>,
    next_generation: u32,
    users: HashMap<UserId, User>,
    groups: HashMap<GroupId, Group>,
    wheel: Wheel,
    ids: MessageIds,
    session_ids: MessageIds,
    now: Now,
    pool: BufferPool,
    dirty: Vec<ConnectionKey>,
    resumable: Vec<ConnectionKey>,
    throttled: Vec<ConnectionKey>,
    expired: Vec<ConnectionKey>,
    effects: Vec<Effect>,
    /// Effects that come behind the confirmations.
    unbindings: Vec<Effect>,
    questions: Questions,
    acks: Vec<AckRange>,
    /// Where a push is encoded.
    encodings: Buffers,
    /// Where a message is unmasked.
    scratch: Vec<u8>,
    draining: bool,
    client_log: ClientLog,
    resync: Resync,
    unsettled: Unsettled,
    membership_changes: u64,
    /// Entries since the invariants were checked.
    #[cfg(debug_assertions)]
    unchecked_entries: std::cell::Cell<usize>,
}

/// How much a shard holds.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Connections, those that are closing included.
    pub connections: usize,
    /// Users with a session.
    pub users: usize,
    /// Groups with a member.
    pub groups: usize,
}

/// How precise time-outs are.
pub const TICK_MS: u64 = 100;

/// The wheel's size: time-outs up to some seven minutes are placed directly.
const WHEEL_SLOTS: usize = 4096;

impl Shard {
    /// An empty shard. `ids` are those of this core alone; its sessions' numbers begin where they
    /// do.
    pub fn new(options: ShardOptions, ids: MessageIds, metrics: Arc<metrics::Core>) -> Self {
        Self {
            options,
            metrics,
            connections: Slab::new(),
            next_generation: 0,
            users: HashMap::new(),
            groups: HashMap::new(),
            wheel: Wheel::new(TICK_MS, WHEEL_SLOTS),
            session_ids: ids.endless(),
            ids,
            now: Now::default(),
            pool: BufferPool::default(),
            dirty: Vec::new(),
            resumable: Vec::new(),
            throttled: Vec::new(),
            expired: Vec::new(),
            effects: Vec::new(),
            unbindings: Vec::new(),
            questions: Questions::default(),
            acks: Vec::new(),
            encodings: Buffers::default(),
            scratch: Vec::new(),
            draining: false,
            client_log: ClientLog::default(),
            resync: Resync::default(),
            unsettled: Unsettled::default(),
            membership_changes: 0,
            #[cfg(debug_assertions)]
            unchecked_entries: std::cell::Cell::default(),
        }
    }

    /// Tells the time. Everything until the next call happens then.
    pub fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    /// The time as it was told last.
    pub fn now(&self) -> Now {
        self.now
    }

    /// The rules.
    pub fn options(&self) -> &ShardOptions {
        &self.options
    }

    /// How much there is now.
    pub fn counts(&self) -> Counts {
        Counts {
            connections: self.connections.len(),
            users: self.users.len(),
            groups: self.groups.len(),
        }
    }

    /// This core's counters.
    pub fn metrics(&self) -> &metrics::Core {
        &self.metrics
    }

    /// Ids are those of `lease` from now on.
    pub fn lease_ids(&mut self, lease: &IdLease) {
        self.ids.lease(lease);
        // Who has the number next may make a session's number again, for another user's session:
        // that harms nobody. Sessions that no longer followed the clock would take newer ones
        // elsewhere for older.
        self.session_ids.lease(&IdLease {
            until_ms: u64::MAX,
            ..*lease
        });
    }

    /// A new number for a message; `None`: there is none before the lease is extended.
    pub fn next_id(&mut self) -> Option<MessageId> {
        self.ids.next(self.now.unix_ms)
    }

    /// A new number for a session.
    pub fn next_session_id(&mut self) -> SessionId {
        // Endless, so there is one until 2084.
        self.session_ids
            .next(self.now.unix_ms)
            .unwrap_or(MessageId::MAX) as SessionId
    }

    /// Somebody else makes the same ids of messages: others are made from now on.
    pub fn avoid_others_ids(&mut self) {
        self.ids.avoid_others();
    }

    /// Takes in a new connection that begins with `codec`, and greets it where that is lines.
    pub fn accept(&mut self, peer: Peer, codec: Codec) -> ConnectionKey {
        self.next_generation = self.next_generation.wrapping_add(1);
        let generation = self.next_generation;
        let session = Session::new(
            peer,
            TokenBucket::full(&self.options.command_rate),
            self.now_ms(),
            self.options.login_timeout_ms,
        );
        let due_ms = session
            .deadline_ms
            .min(self.now_ms() + self.options.connection_timeout_ms);
        let slot = self.connections.insert(Connection {
            generation,
            dirty: false,
            resumable: false,
            throttled: false,
            to_be_asked: false,
            armed_ms: due_ms,
            blocked: false,
            codec,
            has_form: true,
            partial: Partial::default(),
            broken: None,
            page: None,
            session,
            input: Vec::new(),
            handled: 0,
            outbox: Outbox::default(),
            counted_unsent: 0,
        }) as u32;
        let key = ConnectionKey { slot, generation };
        self.wheel.schedule(key, due_ms);
        self.metrics.connections(codec.carrier()).inc();
        self.metrics.connections_accepted_total.inc();
        if self.options.banner && codec == Codec::Line {
            let to = ReplyTo::Line(Dialect::Colon);
            self.reply(slot, None, &to, &Reply::Welcome);
        }
        key
    }

    /// The connection, if it is still there.
    pub fn connection(&self, key: ConnectionKey) -> Option<&Connection> {
        self.connections
            .get(key.slot as usize)
            .filter(|connection| connection.generation == key.generation)
    }

    fn connection_mut(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        self.connections
            .get_mut(key.slot as usize)
            .filter(|connection| connection.generation == key.generation)
    }

    /// Has the connection looked at when `due_ms` comes, or earlier.
    fn arm(&mut self, key: ConnectionKey, due_ms: u64) {
        if let Some(connection) = self.connection_mut(key)
            && due_ms < connection.armed_ms
        {
            connection.armed_ms = due_ms;
            self.wheel.schedule(key, due_ms);
        }
    }

    fn key_of(&self, slot: u32) -> ConnectionKey {
        ConnectionKey {
            slot,
            generation: self.connections[slot as usize].generation,
        }
    }

    fn now_ms(&self) -> u64 {
        self.now.monotonic_us / 1000
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Ends a session for `reason`: the client gets its KICK line, its user is logged out here, and
    /// once all is sent the connection goes. Only the first reason counts.
    pub fn end(&mut self, key: ConnectionKey, reason: CloseReason) {
        let now_ms = self.now_ms();
        let Some(connection) = self.connection_mut(key) else {
            return;
        };
        if connection.session.ended().is_some() {
            return;
        }
        let past = connection.session.end(reason);
        connection.session.deadline_ms = now_ms + LINGER_MS;
        connection.drop_input();
        if reason == CloseReason::SlowConsumer {
            connection.outbox.drop_unsent(connection.codec);
        }
        let peer = connection.session.peer.address();
        let carrier = connection.codec.carrier();
        let user = past.as_ref().map_or(0, |past| past.login.user);
        if let Some(past) = past {
            self.forget_login(key.slot, &past, false);
        }
        self.write_end(key.slot, reason);
        self.arm(key, now_ms + LINGER_MS);
        self.metrics.connections(carrier).dec();
        self.metrics.connection_closed(reason);
        self.client_log.closed(reason, peer, user, now_ms);
    }

    /// The connection is gone or to be given up at once: ends the session if it has not ended, and
    /// frees the slot.
    pub fn remove(&mut self, key: ConnectionKey, reason: CloseReason) {
        self.end(key, reason);
        if self.connection(key).is_some() {
            let mut connection = self.connections.remove(key.slot as usize);
            connection.outbox.clear(&mut self.pool);
            self.metrics.outbox_bytes.sub(connection.counted_unsent);
        }
        self.check_invariants();
    }

    /// Says goodbye to everyone: each is told to reconnect elsewhere, finishes the command under
    /// way, and is closed.
    pub fn drain(&mut self) {
        self.draining = true;
        for slot in self.slots() {
            let session = &self.connections[slot as usize].session;
            if session.ended().is_some() {
                continue;
            }
            let busy = session.busy;
            let notice = Push::Notice {
                kind: "reconnect",
                text: "the gateway is going down, please reconnect",
            };
            self.say(slot, &notice);
            if !busy {
                self.end(self.key_of(slot), CloseReason::Shutdown);
            }
        }
        self.check_invariants();
    }

    fn slots(&self) -> Vec<u32> {
        self.connections
            .iter()
            .map(|(slot, _)| slot as u32)
            .collect()
    }

    fn reply(&mut self, slot: u32, tag: Option<&Tag>, to: &ReplyTo, reply: &Reply) {
        if let Reply::Error { code, .. } = reply {
            self.metrics.error(*code);
        }
        match (reply, to) {
            (Reply::PullDone { more, .. }, to @ (ReplyTo::Json(_) | ReplyTo::Protobuf(_))) => {
                return self.send_page(self.key_of(slot), to, Some(*more));
            }
            (reply, ReplyTo::Http(http)) => {
                return self.answer_http(self.key_of(slot), http, reply);
            }
            (reply, ReplyTo::Upgrade(upgrade)) => {
                return self.complete_upgrade(self.key_of(slot), upgrade, reply);
            }
            (reply, ReplyTo::HeaderLogin(login)) => {
                return self.complete_header_login(self.key_of(slot), login, reply);
            }
            _ => {}
        }
        let connection = &mut self.connections[slot as usize];
        let out = connection.outbox.bytes(&mut self.pool);
        connection.codec.write_reply(reply, tag, to, out);
        self.mark_dirty(slot);
    }

    fn write_end(&mut self, slot: u32, reason: CloseReason) {
        let connection = &mut self.connections[slot as usize];
        let broken = connection.broken;
        let out = connection.outbox.bytes(&mut self.pool);
        connection.codec.write_end(End { reason, broken }, out);
        self.mark_dirty(slot);
    }

    /// Tells the client something that is no message and waits for nothing.
    fn say(&mut self, slot: u32, push: &Push<'_>) {
        let connection = &mut self.connections[slot as usize];
        let out = connection.outbox.bytes(&mut self.pool);
        connection.codec.write_push(push, out);
        self.mark_dirty(slot);
    }

    fn mark_dirty(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(ConnectionKey {
                slot,
                generation: connection.generation,
            });
        }
    }

    /// Moves the connections with something new to send into the empty list `into`.
    pub fn take_dirty(&mut self, into: &mut Vec<ConnectionKey>) {
        into.append(&mut self.dirty);
        for key in into {
            if let Some(connection) = self.connection_mut(*key) {
                connection.dirty = false;
            }
        }
    }

    /// Moves the connections that may handle or read more again into the empty list `into`.
    pub fn take_resumable(&mut self, into: &mut Vec<ConnectionKey>) {
        into.append(&mut self.resumable);
        for key in into {
            if let Some(connection) = self.connection_mut(*key) {
                connection.resumable = false;
            }
        }
    }

    /// Moves the ended connections whose time to read their last lines is over into `into`.
    pub fn take_expired(&mut self, into: &mut Vec<ConnectionKey>) {
        into.append(&mut self.expired);
    }

    /// Moves what is to be done beside answering commands into `into`. What a session was sent is
    /// confirmed before its route goes, so that the user's next login does not get it again.
    pub fn take_effects(&mut self, into: &mut Vec<Effect>) {
        if !self.unbindings.is_empty() {
            self.flush_acks();
        }
        into.append(&mut self.effects);
        into.append(&mut self.unbindings);
    }

    /// Whether something waits to be taken.
    pub fn has_work(&self) -> bool {
        !(self.dirty.is_empty()
            && self.resumable.is_empty()
            && self.expired.is_empty()
            && self.effects.is_empty()
            && self.unbindings.is_empty())
            || self.questions.are_pressing()
    }
}
