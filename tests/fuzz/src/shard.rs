//! What must hold of a core whatever its clients, its services and the bus do: its numbered
//! invariants, after each step; and when all have gone, nothing of them is kept.

use std::{net::Ipv4Addr, sync::Arc};

use im_gateway::{
    base::{
        close::CloseReason,
        id::{ConnectionKey, GroupId, MessageIds, Stream, UserId},
    },
    limits::Rate,
    metrics,
    proto::{PushKind, PushMessage},
    protocol::{
        codec::Codec,
        command::{Judge, Verb},
        error_code::ErrorCode,
        http::upgrade::WebRules,
        reply::Reply,
    },
    session::{
        Peer,
        job::{Call, Job},
    },
    shard::{
        Effect, Now, Shard, ShardOptions, Standing, push::Page, resync::ResyncTarget,
        sequencer::Fetch, unsettled::Lack,
    },
};

/// What clients say most; anything else they say byte by byte.
const SAYINGS: [&[u8]; 12] = [
    b"login:somebody:secret\n",
    b"set:ack:manual\n",
    b"chat:2:hello\nchat:3:hello\n",
    b"pull\n",
    b"ack:1001,1002\n",
    b"join_group:3\n",
    b"leave_group:3\n",
    b"logout\n",
    b"@tag ping\n",
    b"quit\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
      Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"\x81\x80\0\0\0\0\x89\x80\0\0\0\0",
];

/// Protobuf frames: a message and a ping with a token, a pull, the message in two fragments, and
/// what is no envelope.
const FRAMES: [&[u8]; 5] = [
    b"\x82\xb8\0\0\0\0\x0f\x1dim.message.SendMessageRequest\
      \x10\x07\x18\xd1\x0f*\x012:\x05a.b.c\x12\x04\x1a\x02hiT\x05\xdb9",
    b"\x82\x95\0\0\0\0\x0b\x04im.A\x10\x07\x18\x01:\x05a.b.c\x9eLw\xfe",
    b"\x82\xaa\0\0\0\0\x05\x1dim.message.PullMessageRequest\x10\x07\x18\xd2\x0f \x05R\x1b\xbay",
    b"\x02\x94\0\0\0\0\x0f\x1dim.message.SendMes\x80\xa4\0\0\0\0sageRequest\
      \x10\x07\x18\xd1\x0f*\x012:\x05a.b.c\x12\x04\x1a\x02hiT\x05\xdb9",
    b"\x82\x84\0\0\0\0none",
];

/// Connections at one time, and users and groups that there are.
const CONNECTIONS: usize = 6;
const USERS: u8 = 4;
const GROUPS: u8 = 3;

/// Whatever happens on a core, its invariants hold after each step.
///
/// The first byte says how many are logged in to begin with. Each step is a letter, which says what
/// happens, and the bytes that say to whom and how.
pub fn shard(data: &[u8]) {
    let mut world = World::new(data);
    for _ in 0..world.choose(4) {
        world.somebody_logs_in();
    }
    while let Some(step) = world.next() {
        world.happens(step);
        world.check();
    }
    world.all_leave();
}

/// A core, and what it waits for.
struct World<'a> {
    unread: &'a [u8],
    now_ms: u64,
    shard: Shard,
    clients: Vec<ConnectionKey>,
    jobs: Vec<UnderWay>,
    effects: Vec<Effect>,
}

/// A job that is being carried out.
struct UnderWay {
    job: Job,
    /// Its login is attached, and not answered.
    is_attached: bool,
}

impl<'a> World<'a> {
    fn new(data: &'a [u8]) -> Self {
        let metrics = Arc::new(metrics::Core::new());
        let mut world = Self {
            unread: data,
            now_ms: 0,
            shard: Shard::new(options(), MessageIds::new(1), metrics),
            clients: Vec::new(),
            jobs: Vec::new(),
            effects: Vec::new(),
        };
        world.time_passes(0);
        world
    }

    fn next(&mut self) -> Option<u8> {
        let (next, unread) = self.unread.split_first()?;
        self.unread = unread;
        Some(*next)
    }

    /// A number below `end`: what the next byte says; 0 where there is none.
    fn choose(&mut self, end: usize) -> usize {
        usize::from(self.next().unwrap_or(0)) % end.max(1)
    }

    fn client(&mut self) -> ConnectionKey {
        let index = self.choose(self.clients.len());
        // Some that were never there are asked about, too.
        let unknown = ConnectionKey {
            slot: 77,
            generation: 1,
        };
        self.clients.get(index).copied().unwrap_or(unknown)
    }

    fn user(&mut self) -> UserId {
        1 + self.choose(USERS.into()) as UserId
    }

    fn group(&mut self) -> GroupId {
        1 + self.choose(GROUPS.into()) as GroupId
    }

    fn happens(&mut self, step: u8) {
        match step {
            b'c' if self.clients.len() < CONNECTIONS => self.connect(),
            b'l' => {
                let key = self.client();
                let saying = SAYINGS[self.choose(SAYINGS.len())];
                self.hear(key, saying);
            }
            b'f' => {
                let key = self.client();
                let frame = FRAMES[self.choose(FRAMES.len())];
                self.hear(key, frame);
            }
            b'b' => {
                let key = self.client();
                let length = self.choose(16).min(self.unread.len());
                let (said, unread) = self.unread.split_at(length);
                self.unread = unread;
                self.hear(key, said);
            }
            b'a' => self.answer_some_job(),
            b'p' => {
                let message = self.message();
                self.shard.on_push(Arc::new(message));
            }
            b'e' => self.carry_out_some_effect(),
            b's' => {
                let (key, blocked) = (self.client(), self.choose(2) == 1);
                let count = self.choose(256).min(self.shard.unsent(key).len());
                self.shard.sent(key, count, blocked);
            }
            b'q' => {
                let (key, outstanding) = (self.client(), self.choose(256));
                self.shard.acknowledged(key, outstanding as u64);
            }
            b't' => {
                let longer = self.choose(16);
                self.time_passes(50 << longer);
            }
            b'x' => self.shard.on_gap(),
            b'd' => self.shard.drain(),
            b'h' => {
                let key = self.client();
                self.shard.end_of_input(key);
            }
            b'r' => {
                let key = self.client();
                self.leaves(key);
            }
            b'o' => self.go_round(),
            _ => {}
        }
        self.shard.take_effects(&mut self.effects);
    }

    fn check(&self) {
        #[cfg(debug_assertions)]
        self.shard.assert_invariants();
    }

    fn connect(&mut self) {
        let codec = [Codec::Line, Codec::Http][self.choose(2)];
        let peer = Peer {
            ip: Ipv4Addr::LOCALHOST.into(),
            port: 1,
            exempt: self.choose(2) == 1,
            is_forwarded: false,
        };
        self.clients.push(self.shard.accept(peer, codec));
    }

    /// Connects, logs in, and is answered that it is.
    fn somebody_logs_in(&mut self) {
        self.connect();
        if let Some(key) = self.clients.last() {
            self.hear(*key, SAYINGS[0]);
        }
        if let Some(UnderWay { job, .. }) = self.jobs.pop() {
            self.attach(job);
        }
        if let Some(UnderWay { job, .. }) = self.jobs.pop() {
            self.answer(job);
        }
        self.check();
    }

    fn hear(&mut self, key: ConnectionKey, bytes: &[u8]) {
        let job = self.shard.feed(key, bytes);
        self.take_up(job);
    }

    fn take_up(&mut self, job: Option<Job>) {
        self.jobs.extend(job.map(|job| UnderWay {
            job,
            is_attached: false,
        }));
    }

    fn time_passes(&mut self, ms: u64) {
        self.now_ms += ms;
        self.shard.set_now(Now {
            monotonic_us: self.now_ms * 1000,
            unix_ms: 1_760_000_000_000 + self.now_ms,
        });
        self.shard.tick();
    }

    /// What a loop does between two waits.
    fn go_round(&mut self) {
        let (mut dirty, mut resumable, mut gone) = Default::default();
        self.shard.take_dirty(&mut dirty);
        self.shard.take_resumable(&mut resumable);
        self.shard.take_expired(&mut gone);
        for key in dirty {
            self.shard.unblock(key);
        }
        for key in resumable {
            let job = self.shard.resume(key);
            self.take_up(job);
        }
        for key in gone {
            self.leaves(key);
        }
    }

    fn leaves(&mut self, key: ConnectionKey) {
        self.shard.remove(key, CloseReason::ConnectionLost);
        self.clients.retain(|other| *other != key);
    }

    /// A message or an event as the bus may bring it, of any number.
    fn message(&mut self) -> PushMessage {
        let kinds = [
            PushKind::Message,
            PushKind::Message,
            PushKind::GroupJoined,
            PushKind::GroupLeft,
            PushKind::Notice,
            PushKind::Kick,
            PushKind::CatchUp,
        ];
        let kind = kinds[self.choose(kinds.len())];
        let (to, group_id) = match self.choose(2) {
            0 if kind == PushKind::Message => (self.user(), 0),
            _ if kind == PushKind::Message => (0, self.group()),
            _ => (self.user(), self.group()),
        };
        PushMessage {
            kind: kind.into(),
            to,
            group_id,
            ..self.stored(to, group_id)
        }
    }

    fn stored(&mut self, to: UserId, group_id: GroupId) -> PushMessage {
        let seq = self.choose(32) as u64;
        PushMessage {
            // Now and then another than it was.
            msg_id: 1000 + seq as i64 + i64::from(self.choose(16) == 1),
            from: 70,
            to,
            group_id,
            text: "hello".to_owned(),
            ts_ms: 5,
            seq,
            ..Default::default()
        }
    }

    fn answer_some_job(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let index = self.choose(self.jobs.len());
        let UnderWay { job, is_attached } = self.jobs.swap_remove(index);
        let is_well = self.choose(4) > 0;
        let is_login = matches!(
            job.commands[0].call,
            Call::Login { .. } | Call::Register { .. } | Call::Auth { .. }
        );
        if is_well && is_login && !is_attached {
            return self.attach(job);
        }
        if is_well && (self.shard.is_known(job.key) || !is_login) {
            return self.answer(job);
        }
        if is_attached {
            self.shard.log_out_in_place(job.key, false);
        }
        self.refuse(&job);
    }

    /// All is well with the job.
    fn answer(&mut self, job: Job) {
        self.carry_out(&job);
        let commands = job.commands.iter();
        let replies = commands.map(|command| reply(command.verb, &command.call));
        let replies: Vec<Reply> = replies.collect();
        let next = self.shard.complete(&job, &replies);
        self.take_up(next);
    }

    fn refuse(&mut self, job: &Job) {
        let replies: Vec<Reply> = job.commands.iter().map(|_| failed()).collect();
        let next = self.shard.complete(job, &replies);
        self.take_up(next);
    }

    /// The first half of a login: its route is bound, and its groups are known.
    fn attach(&mut self, job: Job) {
        let (key, user) = (job.key, self.user());
        let session_id = self.shard.next_session_id();
        let is_attached = self.shard.attach(key, user, "somebody".into(), session_id);
        if is_attached {
            let last_seq = self.last_seq();
            self.shard.set_baseline(key, last_seq);
            let (group, last_seq) = (self.group(), self.last_seq());
            self.shard.hold_group(group);
            self.shard.add_member(key, group, last_seq);
            self.shard.release_group(group);
            if self.choose(4) == 1 {
                self.shard.lacks(user, Lack::GROUPS);
            }
            let handed_out = self.stored(user, 0);
            self.shard.redeliver(key, vec![handed_out]);
        }
        self.jobs.push(UnderWay { job, is_attached });
    }

    fn last_seq(&mut self) -> Option<u64> {
        match self.choose(33) {
            32 => None,
            seq => Some(seq as u64),
        }
    }

    fn standing(&mut self) -> Standing {
        Standing {
            last_seq: self.last_seq(),
            since: self.last_seq(),
        }
    }

    /// What a command changes on the core before it is answered.
    fn carry_out(&mut self, job: &Job) {
        match job.commands[0].call {
            Call::Logout => self.shard.log_out_in_place(job.key, true),
            Call::JoinGroup(group) => {
                self.shard.forget_membership_news(job.key, group);
                self.shard.hold_group(group);
                let standing = self.standing();
                self.shard.let_in(job.key, group, standing);
                self.shard.release_group(group);
            }
            Call::LeaveGroup(group) => self.shard.leave(job.key, job.user(), group),
            Call::Pull { .. } => {
                let messages = [self.stored(job.user(), 0)];
                self.shard.deliver_pulled(job, &messages);
            }
            Call::Ack { ref ids } => self.shard.confirmed(job.key, ids),
            _ => {}
        }
    }

    fn carry_out_some_effect(&mut self) {
        if self.effects.is_empty() {
            return;
        }
        let index = self.choose(self.effects.len());
        match self.effects.swap_remove(index) {
            Effect::Fetch { stream, fetch } => self.fetch(stream, fetch),
            Effect::Resync { target, permit } => {
                match target {
                    ResyncTarget::Messages(stream) => {
                        let fetch = self.shard.missed(stream);
                        fetch
                            .into_iter()
                            .for_each(|fetch| self.fetch(stream, fetch));
                    }
                    ResyncTarget::Memberships(user) => {
                        self.learn_groups(user);
                        self.shard.memberships_known(user);
                    }
                }
                drop(permit);
                self.shard.continue_resync();
            }
            Effect::Settle(place) => {
                if let Some(user) = self.shard.next_lacking(None, |lack| lack.groups) {
                    self.learn_groups(user);
                    self.shard.settled(user, Lack::GROUPS);
                }
                drop(place);
            }
            Effect::Subscribe(group) => self.shard.group_subscribed(group),
            Effect::CatchUp { key, session_id } => {
                if let Some(next) = self.shard.next_catch_up(key, session_id) {
                    let messages = self.page(next.stream, next.after).messages;
                    self.shard.caught_up(key, next, messages);
                    // The flow goes on until there is no more.
                    self.effects.push(Effect::CatchUp { key, session_id });
                }
            }
            Effect::Confirm(_) | Effect::Unbind { .. } | Effect::Unsubscribe(_) => {}
        }
    }

    fn fetch(&mut self, stream: Stream, fetch: Fetch) {
        if self.choose(4) == 1 {
            let fetch = self.shard.fetch_failed(stream, fetch);
            self.effects
                .extend(fetch.map(|fetch| Effect::Fetch { stream, fetch }));
        } else {
            let page = self.page(stream, fetch.after);
            self.shard.fetched(stream, fetch, page);
        }
    }

    /// What a store may answer: the numbers behind `after`, a few of them, or any.
    fn page(&mut self, stream: Stream, after: u64) -> Page {
        let (to, group_id) = match stream {
            Stream::Direct(user) => (user, 0),
            Stream::Group(group) => (0, group),
        };
        let is_honest = self.choose(8) > 0;
        let messages: Vec<PushMessage> = (1..=self.choose(4) as u64)
            .map(|place| {
                let message = self.stored(to, group_id);
                let seq = after + place;
                match is_honest {
                    true => PushMessage {
                        msg_id: 1000 + seq as i64,
                        seq,
                        ..message
                    },
                    false => message,
                }
            })
            .collect();
        Page {
            messages,
            more: self.choose(4) == 1,
            end: self.last_seq(),
        }
    }

    fn learn_groups(&mut self, user: UserId) {
        if let Some(as_of) = self.shard.membership_change(user) {
            let groups = [(self.group(), self.standing())];
            self.shard.set_memberships(user, as_of, &groups);
        }
    }

    /// All go, and what is under way is answered.
    fn all_leave(&mut self) {
        for key in std::mem::take(&mut self.clients) {
            self.leaves(key);
            self.check();
        }
        for UnderWay { job, .. } in std::mem::take(&mut self.jobs) {
            self.refuse(&job);
        }
        assert!(self.jobs.is_empty(), "who is gone asks for something");
        self.check();
        let counts = self.shard.counts();
        assert_eq!(
            [counts.connections, counts.users, counts.groups],
            [0; 3],
            "nobody is here, and something is kept"
        );
        assert_eq!(self.shard.count_unsettled(), 0);
    }
}

fn reply(verb: Verb, call: &Call) -> Reply {
    match call {
        Call::Login { .. } | Call::Register { .. } | Call::Auth { .. } => Reply::LoggedIn {
            uid: 1,
            session: 9,
            token: None,
            replaced: false,
        },
        Call::Logout => Reply::LoggedOut,
        Call::Pull { .. } => Reply::PullDone {
            count: 1,
            more: false,
        },
        call if call.is_send() => Reply::Stored {
            group: verb == Verb::GroupChat,
            message_id: 1,
            duplicate: false,
        },
        _ => Reply::FriendAdded,
    }
}

fn failed() -> Reply {
    Reply::Error {
        code: ErrorCode::Timeout,
        retry_ms: None,
        words: "it takes too long".into(),
    }
}

/// Limits that are soon reached.
fn options() -> ShardOptions {
    ShardOptions {
        max_line_bytes: 200,
        login_line_bytes: 64,
        pipeline_limit: 4,
        protocol_error_limit: 3,
        login_timeout_ms: 30_000,
        connection_timeout_ms: 300_000,
        acknowledgement_timeout_ms: Some(30_000),
        outbound_queue_bytes: 500,
        unconfirmed_limit: 3,
        command_rate: Rate {
            per_second: 10,
            burst: 20,
        },
        throttle_timeout_ms: 1_000,
        banner: true,
        web: WebRules::default(),
        ping_interval_ms: 30_000,
        ping_timeout_ms: 60_000,
        judge: Judge::default(),
    }
}
