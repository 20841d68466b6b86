//! The four services and the bus, as small as they can be and still keep their promises: what the
//! store's rules say, at times and with failures that the seed chooses.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    task::Poll,
};

use crate::{
    base::id::{GroupId, MessageId, RouteId, SessionId, UserId},
    contract::{
        backend::CallError,
        bus::Channel,
        methods::{Request, Response},
    },
    proto::{self, Code, PushKind, PushMessage},
};

/// Chance, as everywhere in the simulation: from the seed alone.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound.max(1)
    }

    /// True in `percent` of all cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A stored message.
pub struct Stored {
    pub id: MessageId,
    pub from: UserId,
    pub ts_ms: i64,
    pub text: String,
    /// Who could read it when it was stored.
    pub readers: BTreeSet<UserId>,
    pub handed_out: BTreeSet<UserId>,
    pub confirmed: BTreeSet<UserId>,
}

/// Users' inboxes and groups' messages: number `n` of a stream is its element `n - 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    Direct(UserId),
    Group(GroupId),
}

/// What a message says that nobody sent.
pub const FORGED: &str = "forged";

struct Pending {
    call_id: u64,
    at_ms: u64,
    request: Request,
    failure: Option<CallError>,
    carried_out: bool,
}

pub struct Route {
    route: RouteId,
    session_id: SessionId,
    device: String,
}

pub struct Model {
    pub now_ms: u64,
    pub random: Random,
    /// In percent.
    pub failures: u64,
    /// The bus loses, repeats and reorders; else it is a queue per core that sometimes overflows.
    pub lossy: bool,
    pub losses: u64,
    /// Somebody publishes numbers and ids that the store did not give, in percent of what is
    /// published. Then nothing is lost: a number that was taken and whose real push never comes is
    /// found by `pull` alone.
    pub forgeries: u64,
    /// Ids that were forged so far.
    forged: i64,
    /// Whether messages can be stored several at a time.
    pub takes_batches: bool,
    /// Where each message is.
    pub places: HashMap<MessageId, (Stream, u64)>,
    /// The texts of all messages, as they were stored.
    pub log: Vec<String>,
    pub streams: BTreeMap<Stream, Vec<Stored>>,
    /// Groups with their members and from which number on each reads.
    pub groups: BTreeMap<GroupId, BTreeMap<UserId, u64>>,
    /// What each session was told at binding.
    pub baselines: HashMap<SessionId, u64>,
    pub listening: BTreeSet<(GroupId, usize)>,
    /// By core: when it comes, and what.
    pub bus: Vec<Vec<(u64, PushMessage)>>,
    /// By core: something was lost and the core is to be told.
    pub overflowed: Vec<bool>,
    pub routes: BTreeMap<UserId, Vec<Route>>,
    pending: Vec<Pending>,
    last_at_ms: Vec<u64>,
    answers: HashMap<u64, (u64, Result<Response, CallError>)>,
    next_call_id: u64,
}

pub fn route(core: usize) -> RouteId {
    RouteId::new("sim", core)
}

pub fn result(code: Code) -> Option<proto::Result> {
    Some(proto::Result {
        code: code.into(),
        msg: String::new(),
    })
}

impl Model {
    pub fn new(seed: u64, cores: usize) -> Self {
        let mut random = Random::new(seed);
        let is_forged = random.chance(20);
        Self {
            now_ms: 0,
            failures: [0, 2, 10][random.below(3) as usize],
            lossy: random.chance(50) && !is_forged,
            losses: if is_forged { 0 } else { 5 },
            forgeries: if is_forged { 10 } else { 0 },
            forged: 0,
            takes_batches: random.chance(75),
            places: HashMap::new(),
            log: Vec::new(),
            random,
            streams: BTreeMap::new(),
            groups: (1..=3).map(|group| (group, BTreeMap::new())).collect(),
            baselines: HashMap::new(),
            listening: BTreeSet::new(),
            bus: (0..cores).map(|_| Vec::new()).collect(),
            overflowed: vec![false; cores],
            routes: BTreeMap::new(),
            pending: Vec::new(),
            last_at_ms: vec![0; cores],
            answers: HashMap::new(),
            next_call_id: 0,
        }
    }

    pub fn last_seq(&self, stream: Stream) -> u64 {
        self.streams.get(&stream).map_or(0, |all| all.len() as u64)
    }

    pub fn stored(&self, stream: Stream, seq: u64) -> &Stored {
        &self.streams[&stream][seq as usize - 1]
    }

    /// Whether a message is one that `user` can still read: leaving a group gives up what was not
    /// read.
    pub fn is_owed(&self, stream: Stream, seq: u64, user: UserId) -> bool {
        self.stored(stream, seq).readers.contains(&user)
            && match stream {
                Stream::Direct(_) => true,
                Stream::Group(group) => self.groups[&group]
                    .get(&user)
                    .is_some_and(|since| seq > *since),
            }
    }

    pub fn route_count(&self) -> usize {
        self.routes.values().map(Vec::len).sum()
    }

    pub fn submit(&mut self, core: usize, request: Request) -> u64 {
        self.next_call_id += 1;
        // The calls of one core are carried out in order.
        let at_ms = (self.now_ms + self.random.below(12)).max(self.last_at_ms[core]);
        self.last_at_ms[core] = at_ms;
        let unsupported = matches!(request, Request::SendBatch(_)) && !self.takes_batches;
        let failed = unsupported || self.random.chance(self.failures);
        let failure = failed.then(|| match self.random.below(4) {
            _ if unsupported => CallError::Unsupported,
            0 => CallError::Unavailable,
            1 => CallError::Overloaded,
            2 => CallError::Internal,
            _ => CallError::Timeout,
        });
        let unknown_fate = matches!(failure, Some(CallError::Timeout | CallError::Internal));
        let carried_out = !failed || unknown_fate && self.random.chance(50);
        self.pending.push(Pending {
            call_id: self.next_call_id,
            at_ms,
            request,
            failure,
            carried_out,
        });
        self.next_call_id
    }

    pub fn answer(&mut self, call_id: u64) -> Poll<Result<Response, CallError>> {
        match self.answers.get(&call_id) {
            Some((at_ms, _)) if *at_ms <= self.now_ms => {
                Poll::Ready(self.answers.remove(&call_id).expect("it is there").1)
            }
            _ => Poll::Pending,
        }
    }

    /// Carries out what is due.
    pub fn advance(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        let (mut due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|call| call.at_ms <= now_ms);
        self.pending = later;
        due.sort_by_key(|call| (call.at_ms, call.call_id));
        for call in due {
            let repeated = matches!(
                call.request,
                Request::Send(_) | Request::SendGroup(_) | Request::SendBatch(_)
            ) && self.random.chance(self.failures);
            if call.carried_out && repeated {
                // Its answer was lost on the way, and it is asked of another instance.
                self.serve(&call.request);
            }
            let response = call.carried_out.then(|| self.serve(&call.request));
            let outcome = match (call.failure, response) {
                (None, Some(response)) => Ok(response),
                (failure, _) => Err(failure.unwrap_or(CallError::Internal)),
            };
            let reply_at_ms = now_ms + self.random.below(6);
            self.answers.insert(call.call_id, (reply_at_ms, outcome));
        }
    }

    fn serve(&mut self, request: &Request) -> Response {
        match request {
            Request::Login(login) => {
                let name = String::from_utf8_lossy(&login.username);
                let user_id = name.trim_start_matches('u').parse().unwrap_or(0);
                Response::Login(proto::LoginResponse {
                    result: result(if user_id > 0 {
                        Code::Ok
                    } else {
                        Code::Unauthenticated
                    }),
                    user_id,
                    ..Default::default()
                })
            }
            Request::VerifyToken(_) => Response::VerifyToken(proto::VerifyTokenResponse {
                result: result(Code::Unauthenticated),
                ..Default::default()
            }),
            Request::CheckSession(_) => Response::CheckSession(proto::CheckSessionResponse {
                result: result(Code::Ok),
                session_epoch: None,
            }),
            Request::EndSession(_) => Response::EndSession(proto::EndSessionResponse {
                result: result(Code::Ok),
            }),
            Request::Logout(_) => Response::Logout(proto::LogoutResponse {
                result: result(Code::Ok),
            }),
            Request::GetProfile(profile) => Response::GetProfile(proto::GetProfileResponse {
                result: result(Code::Ok),
                name: format!("u{}", profile.user_id),
            }),
            Request::BindRoute(bind) => self.bind(bind),
            Request::UnbindRoute(unbind) => {
                if let Some(routes) = self.routes.get_mut(&unbind.user_id) {
                    routes.retain(|route| route.session_id != unbind.session_id);
                }
                Response::UnbindRoute(proto::UnbindRouteResponse {
                    result: result(Code::Ok),
                })
            }
            Request::GetUserGroups(of) => {
                let groups = self.groups_of(of.user_id);
                Response::GetUserGroups(proto::GetUserGroupsResponse {
                    result: result(Code::Ok),
                    last_seqs: groups
                        .iter()
                        .map(|group| self.last_seq(Stream::Group(*group)))
                        .collect(),
                    since_seqs: groups
                        .iter()
                        .map(|group| self.groups[group][&of.user_id])
                        .collect(),
                    group_ids: groups,
                })
            }
            Request::JoinGroup(join) => self.join_group(join),
            Request::LeaveGroup(leave) => self.leave_group(leave),
            Request::Send(send) => self.send(send).into(),
            Request::SendGroup(send) => self.send_group(send).into(),
            Request::SendBatch(batch) => self.send_batch(batch).into(),
            Request::PullOffline(pull) => self.pull(pull),
            Request::PullGroup(pull) => self.pull_group(pull),
            Request::Ack(ack) => self.ack(ack),
            Request::AckBatch(batch) => self.ack_batch(batch),
            other => other.failed(result(Code::NotFound).expect("a result")),
        }
    }

    fn ack(&mut self, ack: &proto::AckRequest) -> Response {
        let mut acked = 0;
        for (stream, stored) in &mut self.streams {
            for message in stored.iter_mut().filter(|message| {
                ack.msg_id_list.contains(&message.id)
                    && message.readers.contains(&ack.user_id)
                    && !(matches!(stream, Stream::Group(_)) && message.from == ack.user_id)
            }) {
                acked += u32::from(message.confirmed.insert(ack.user_id));
            }
        }
        Response::Ack(proto::AckResponse {
            result: result(Code::Ok),
            acked,
        })
    }

    fn ack_batch(&mut self, batch: &proto::AckBatchRequest) -> Response {
        for range in &batch.acks {
            let stream = match range.group_id {
                0 => Stream::Direct(range.user_id),
                group => Stream::Group(group),
            };
            // What was never stored cannot be confirmed.
            let stored = self.streams.entry(stream).or_default();
            let last_seq = range.to_seq.min(stored.len() as u64);
            for seq in range.from_seq..=last_seq {
                stored[seq as usize - 1].confirmed.insert(range.user_id);
            }
        }
        Response::AckBatch(proto::AckBatchResponse {
            result: result(Code::Ok),
        })
    }

    fn join_group(&mut self, join: &proto::JoinGroupRequest) -> Response {
        let last_seq = self.last_seq(Stream::Group(join.group_id));
        let members = self.groups.get_mut(&join.group_id).expect("a known group");
        members.entry(join.user_id).or_insert(last_seq);
        self.membership(PushKind::GroupJoined, join.user_id, join.group_id, last_seq);
        Response::JoinGroup(proto::JoinGroupResponse {
            result: result(Code::Ok),
        })
    }

    fn leave_group(&mut self, leave: &proto::LeaveGroupRequest) -> Response {
        let members = self.groups.get_mut(&leave.group_id).expect("a known group");
        let code = match members.remove(&leave.user_id) {
            Some(_) => Code::Ok,
            None => Code::Forbidden,
        };
        if code == Code::Ok {
            self.membership(PushKind::GroupLeft, leave.user_id, leave.group_id, 0);
        }
        Response::LeaveGroup(proto::LeaveGroupResponse {
            result: result(code),
        })
    }

    fn groups_of(&self, user: UserId) -> Vec<GroupId> {
        let groups = self.groups.iter();
        groups
            .filter(|(_, members)| members.contains_key(&user))
            .map(|(group, _)| *group)
            .collect()
    }

    fn bind(&mut self, bind: &proto::BindRouteRequest) -> Response {
        let routes = self.routes.entry(bind.user_id).or_default();
        let replaced = routes.iter().position(|route| route.device == bind.device);
        let displaced = replaced.map(|index| routes.remove(index));
        let core = bind
            .gateway_id
            .rsplit_once('#')
            .and_then(|(_, core)| core.parse().ok());
        routes.push(Route {
            route: route(core.expect("a core")),
            session_id: bind.session_id,
            device: bind.device.clone(),
        });
        if let Some(gone) = displaced {
            let kick = PushMessage {
                to: bind.user_id,
                kind: PushKind::Kick.into(),
                text: "replaced".into(),
                session_id: gone.session_id,
                ..Default::default()
            };
            self.publish(&Channel::Route(gone.route), &kick);
        }
        let last_seq = self.last_seq(Stream::Direct(bind.user_id));
        self.baselines.insert(bind.session_id, last_seq);
        Response::BindRoute(proto::BindRouteResponse {
            result: result(Code::Ok),
            displaced: Vec::new(),
            last_seq: Some(last_seq),
            session_epoch: None,
        })
    }

    fn membership(&mut self, kind: PushKind, user: UserId, group: GroupId, seq: u64) {
        let push = PushMessage {
            to: user,
            group_id: group,
            kind: kind.into(),
            seq,
            ..Default::default()
        };
        self.publish_to(user, &push);
    }

    pub fn publish_to(&mut self, user: UserId, push: &PushMessage) {
        let routes = self.routes.get(&user).into_iter().flatten();
        let cores: BTreeSet<String> = routes
            .map(|route| route.route.as_str().to_owned())
            .collect();
        for core in cores {
            let core = core
                .rsplit_once('#')
                .and_then(|(_, core)| core.parse().ok());
            self.publish(&Channel::Route(route(core.expect("a core"))), push);
        }
    }

    pub fn publish(&mut self, channel: &Channel, push: &PushMessage) {
        if push.seq != 0
            && push.kind == PushKind::Message as i32
            && self.random.chance(self.forgeries)
        {
            // In front of the real one: its number, one that came long ago, or one that nobody
            // reaches.
            let seq = [push.seq, 1 + self.random.below(push.seq), push.seq + 5_000];
            self.forged += 1;
            let forgery = PushMessage {
                msg_id: self.forged,
                seq: seq[self.random.below(3) as usize],
                text: FORGED.to_owned(),
                session_id: 0,
                ..push.clone()
            };
            self.deliver(channel, &forgery);
        }
        self.deliver(channel, push);
    }

    fn deliver(&mut self, channel: &Channel, push: &PushMessage) {
        for core in 0..self.bus.len() {
            let listens = match channel {
                Channel::Route(to) => *to == route(core),
                Channel::Group(group) => self.listening.contains(&(*group, core)),
                Channel::Broadcast => true,
            };
            // Only what can be found again may be lost.
            let numbered = push.seq != 0 && push.kind == PushKind::Message as i32;
            if !listens {
                continue;
            }
            if !self.lossy || !numbered {
                if numbered && self.random.chance(self.losses) {
                    self.overflowed[core] = true;
                } else {
                    self.bus[core].push((self.now_ms, push.clone()));
                }
                continue;
            }
            let copies = match self.random.below(100) {
                roll if roll < self.losses => 0,
                roll if roll < 2 * self.losses => 2,
                _ => 1,
            };
            for _ in 0..copies {
                let at_ms = self.now_ms + self.random.below(40);
                self.bus[core].push((at_ms, push.clone()));
            }
        }
    }
}
