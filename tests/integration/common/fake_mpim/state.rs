//! What MPIM's services remember, and what each of their methods answers.
//!
//! Only what was observed: fields and methods that MPIM does not have are neither read nor
//! answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use im_gateway::proto::{
    self, AckRequest, AckResponse, AddFriendRequest, AddFriendResponse, BindRouteRequest,
    BindRouteResponse, C2cMsg, Code, CreateGroupRequest, CreateGroupResponse, DeliverRequest,
    DeliverResponse, GetFriendsRequest, GetFriendsResponse, GetGroupInfoRequest,
    GetGroupInfoResponse, GetGroupMembersRequest, GetGroupMembersResponse, GetUserGroupsRequest,
    GetUserGroupsResponse, JoinGroupRequest, LeaveGroupRequest, LoginRequest, LoginResponse,
    LogoutRequest, LogoutResponse, PullOfflineRequest, PullOfflineResponse, QueryRouteRequest,
    QueryRouteResponse, RegisterRequest, RegisterResponse, RemoveFriendRequest,
    RemoveFriendResponse, SendGroupRequest, SendGroupResponse, SendRequest, SendResponse,
};
use prost::{DecodeError, Message};

use super::Options;
use super::channel::channel;

/// `SendRequest` with the message as it came, fields that MPIM does not know included.
#[derive(Clone, PartialEq, Message)]
struct RawSend {
    #[prost(bytes = "vec", tag = "1")]
    message: Vec<u8>,
}

struct Account {
    name: Vec<u8>,
    password: Vec<u8>,
    online: bool,
}

/// One `BindRoute` as it came.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The user.
    pub user_id: i64,
    /// The route.
    pub gateway_id: String,
    /// When.
    pub at: Instant,
}

/// All four services' memory. Users and groups count from 1.
pub struct State {
    options: Options,
    redis: redis::Connection,
    accounts: Vec<Account>,
    friends: BTreeMap<i64, BTreeSet<i64>>,
    /// Who has created a group.
    creators: BTreeSet<i64>,
    offline: BTreeMap<i64, Vec<C2cMsg>>,
    last_message_id: i64,
    /// Every `BindRoute`, in order.
    pub bindings: Vec<Binding>,
    /// What was published: channel and payload.
    pub published: Vec<(String, Vec<u8>)>,
}

fn result(code: Code, words: &str) -> Option<proto::Result> {
    Some(proto::Result {
        code: code.into(),
        msg: words.to_string(),
    })
}

fn ok() -> Option<proto::Result> {
    result(Code::Ok, "ok")
}

/// The methods MPIM registers, one node each.
pub const METHODS: [(&str, &[&str]); 4] = [
    (
        "UserService",
        &[
            "Login",
            "Register",
            "Logout",
            "AddFriend",
            "GetFriends",
            "RemoveFriend",
        ],
    ),
    ("PresenceService", &["BindRoute", "QueryRoute", "Deliver"]),
    (
        "MessageService",
        &["Send", "SendGroup", "PullOffline", "Ack"],
    ),
    (
        "GroupService",
        &[
            "CreateGroup",
            "JoinGroup",
            "LeaveGroup",
            "GetGroupMembers",
            "GetUserGroups",
            "GetGroupInfo",
        ],
    ),
];

impl State {
    pub fn new(options: Options, redis: redis::Connection) -> Self {
        Self {
            options,
            redis,
            accounts: Vec::new(),
            friends: BTreeMap::new(),
            creators: BTreeSet::new(),
            offline: BTreeMap::new(),
            last_message_id: 0,
            bindings: Vec::new(),
            published: Vec::new(),
        }
    }

    /// The answer to a call; `None` where MPIM says nothing.
    pub fn answer(&mut self, service: &str, method: &str, args: &[u8]) -> Option<Vec<u8>> {
        self.try_answer(service, method, args).ok().flatten()
    }

    fn try_answer(
        &mut self,
        service: &str,
        method: &str,
        args: &[u8],
    ) -> Result<Option<Vec<u8>>, DecodeError> {
        match service {
            "UserService" => self.answer_about_users(method, args),
            "PresenceService" => self.answer_about_presence(method, args),
            "MessageService" => self.answer_about_messages(method, args),
            "GroupService" => self.answer_about_groups(method, args),
            _ => Ok(None),
        }
    }

    fn answer_about_users(
        &mut self,
        method: &str,
        args: &[u8],
    ) -> Result<Option<Vec<u8>>, DecodeError> {
        let reply = match method {
            "Login" => self.login(LoginRequest::decode(args)?).encode_to_vec(),
            "Register" => self
                .register(RegisterRequest::decode(args)?)
                .encode_to_vec(),
            "Logout" => self.logout(LogoutRequest::decode(args)?).encode_to_vec(),
            "AddFriend" => {
                let request = AddFriendRequest::decode(args)?;
                let friends = self.friends.entry(request.user_id).or_default();
                friends.insert(request.friend_id);
                AddFriendResponse { result: ok() }.encode_to_vec()
            }
            "RemoveFriend" => {
                let request = RemoveFriendRequest::decode(args)?;
                let friends = self.friends.entry(request.user_id).or_default();
                friends.remove(&request.friend_id);
                RemoveFriendResponse { result: ok() }.encode_to_vec()
            }
            "GetFriends" => {
                let request = GetFriendsRequest::decode(args)?;
                let friends = self.friends.get(&request.user_id);
                GetFriendsResponse {
                    result: ok(),
                    friend_ids: friends.into_iter().flatten().copied().collect(),
                }
                .encode_to_vec()
            }
            _ => return Ok(None),
        };
        Ok(Some(reply))
    }

    fn answer_about_presence(
        &mut self,
        method: &str,
        args: &[u8],
    ) -> Result<Option<Vec<u8>>, DecodeError> {
        let reply = match method {
            "BindRoute" => self.bind(BindRouteRequest::decode(args)?).encode_to_vec(),
            "QueryRoute" => {
                let request = QueryRouteRequest::decode(args)?;
                let route = self.route(request.user_id);
                QueryRouteResponse {
                    result: match route {
                        Some(_) => ok(),
                        None => result(Code::NotFound, "offline"),
                    },
                    gateway_id: route.unwrap_or_default(),
                    routes: Vec::new(),
                }
                .encode_to_vec()
            }
            "Deliver" => {
                let request = DeliverRequest::decode(args)?;
                let delivered = self.deliver(request.to, &request.payload);
                DeliverResponse {
                    result: if delivered {
                        ok()
                    } else {
                        result(Code::NotFound, "offline")
                    },
                }
                .encode_to_vec()
            }
            _ => return Ok(None),
        };
        Ok(Some(reply))
    }

    fn answer_about_messages(
        &mut self,
        method: &str,
        args: &[u8],
    ) -> Result<Option<Vec<u8>>, DecodeError> {
        let reply = match method {
            "Send" => {
                let request = SendRequest::decode(args)?;
                let raw = RawSend::decode(args)?.message;
                self.send(request.msg.unwrap_or_default(), &raw)
                    .encode_to_vec()
            }
            "SendGroup" => {
                SendGroupRequest::decode(args)?;
                SendGroupResponse {
                    result: ok(),
                    msg_id: self.next_message_id(),
                    duplicate: false,
                }
                .encode_to_vec()
            }
            "PullOffline" => {
                let request = PullOfflineRequest::decode(args)?;
                PullOfflineResponse {
                    result: ok(),
                    msg_list: self.offline.remove(&request.user_id).unwrap_or_default(),
                    group_msg_list: Vec::new(),
                    ..Default::default()
                }
                .encode_to_vec()
            }
            "Ack" => {
                AckRequest::decode(args)?;
                AckResponse {
                    result: ok(),
                    acked: 0,
                }
                .encode_to_vec()
            }
            _ => return Ok(None),
        };
        Ok(Some(reply))
    }

    fn answer_about_groups(
        &mut self,
        method: &str,
        args: &[u8],
    ) -> Result<Option<Vec<u8>>, DecodeError> {
        let unknown = || result(Code::NotFound, "no such group");
        let reply = match method {
            "CreateGroup" => {
                let request = CreateGroupRequest::decode(args)?;
                let is_new = self.creators.insert(request.creator_id);
                CreateGroupResponse {
                    result: if is_new {
                        ok()
                    } else {
                        result(Code::Invalid, "db fail")
                    },
                    // What it means for the number is one of something else.
                    group_id: 0,
                }
                .encode_to_vec()
            }
            // The end of the process, whatever is asked for.
            "JoinGroup" => {
                JoinGroupRequest::decode(args)?;
                return Ok(None);
            }
            "LeaveGroup" => {
                LeaveGroupRequest::decode(args)?;
                return Ok(None);
            }
            "GetGroupMembers" => {
                GetGroupMembersRequest::decode(args)?;
                GetGroupMembersResponse {
                    result: unknown(),
                    ..Default::default()
                }
                .encode_to_vec()
            }
            "GetUserGroups" => {
                let request = GetUserGroupsRequest::decode(args)?;
                let is_creator = self.creators.contains(&request.user_id);
                GetUserGroupsResponse {
                    result: ok(),
                    group_ids: is_creator.then_some(0).into_iter().collect(),
                    ..Default::default()
                }
                .encode_to_vec()
            }
            "GetGroupInfo" => {
                GetGroupInfoRequest::decode(args)?;
                GetGroupInfoResponse {
                    result: unknown(),
                    ..Default::default()
                }
                .encode_to_vec()
            }
            _ => return Ok(None),
        };
        Ok(Some(reply))
    }

    fn login(&mut self, request: LoginRequest) -> LoginResponse {
        // Of whom, a refusal never says.
        let refused = |words: &str| LoginResponse {
            result: result(Code::Invalid, words),
            ..Default::default()
        };
        let found = (1..)
            .zip(&mut self.accounts)
            .find(|(_, account)| account.name == request.username);
        match found {
            Some((user_id, account)) if account.password == request.password => {
                if account.online {
                    return refused("user already online");
                }
                account.online = true;
                LoginResponse {
                    result: ok(),
                    user_id,
                    token: format!("tok_{user_id}"),
                    ..Default::default()
                }
            }
            _ => refused("bad cred"),
        }
    }

    fn register(&mut self, request: RegisterRequest) -> RegisterResponse {
        let taken = self
            .accounts
            .iter()
            .any(|account| account.name == request.username);
        if taken {
            return RegisterResponse {
                result: result(Code::Invalid, "username exists"),
                user_id: 0,
            };
        }
        self.accounts.push(Account {
            name: request.username,
            password: request.password,
            online: false,
        });
        RegisterResponse {
            result: ok(),
            user_id: self.accounts.len() as i64,
        }
    }

    /// The answer to a `Register` over a database connection that two calls have spoilt.
    pub fn fail_to_register(&self) -> Option<Vec<u8>> {
        let response = RegisterResponse {
            result: result(Code::Internal, "db fail"),
            user_id: 0,
        };
        Some(response.encode_to_vec())
    }

    /// Checks nothing, and leaves the route where it is.
    fn logout(&mut self, request: LogoutRequest) -> LogoutResponse {
        let index = usize::try_from(request.user_id - 1).ok();
        if let Some(account) = index.and_then(|index| self.accounts.get_mut(index)) {
            account.online = false;
        }
        LogoutResponse { result: ok() }
    }

    /// What the User Service does when it starts.
    pub fn log_out_everybody(&mut self) {
        for account in &mut self.accounts {
            account.online = false;
        }
    }

    /// What Presence does when it starts, and never again.
    pub fn connect_to_redis(&mut self, url: &str) {
        self.redis = redis::Client::open(url)
            .and_then(|client| client.get_connection())
            .expect("Redis answers");
    }

    /// See [`Options::crash_is_silence`].
    pub fn crash_is_silence(&self) -> bool {
        self.options.crash_is_silence
    }

    /// Whether the user's row says online.
    pub fn is_online(&self, user_id: i64) -> bool {
        let index = usize::try_from(user_id - 1).ok();
        index
            .and_then(|index| self.accounts.get(index))
            .is_some_and(|account| account.online)
    }

    fn bind(&mut self, request: BindRouteRequest) -> BindRouteResponse {
        let set: redis::RedisResult<()> = redis::cmd("SETEX")
            .arg(route_key(request.user_id))
            .arg(self.options.route_lifetime.as_secs().max(1))
            .arg(&request.gateway_id)
            .query(&mut self.redis);
        self.bindings.push(Binding {
            user_id: request.user_id,
            gateway_id: request.gateway_id,
            at: Instant::now(),
        });
        BindRouteResponse {
            result: match set {
                Ok(()) => ok(),
                Err(_) => result(Code::Internal, "redis fail"),
            },
            ..Default::default()
        }
    }

    /// The route of a user who has one; an empty one is none.
    pub fn route(&mut self, user_id: i64) -> Option<String> {
        let route: Option<String> = redis::cmd("GET")
            .arg(route_key(user_id))
            .query(&mut self.redis)
            .ok()
            .flatten();
        route.filter(|route| !route.is_empty())
    }

    /// Publishing to nobody counts as delivered.
    fn deliver(&mut self, to: i64, payload: &[u8]) -> bool {
        let Some(gateway_id) = self.route(to) else {
            return false;
        };
        // The payload travels as a C string.
        let end = memchr::memchr(0, payload).unwrap_or(payload.len());
        let (channel, payload) = (channel(&gateway_id), &payload[..end]);
        let published: redis::RedisResult<()> = redis::cmd("PUBLISH")
            .arg(&channel)
            .arg(payload)
            .query(&mut self.redis);
        self.published.push((channel, payload.to_vec()));
        published.is_ok()
    }

    fn send(&mut self, message: C2cMsg, raw: &[u8]) -> SendResponse {
        let msg_id = self.next_message_id();
        if !self.deliver(message.to, raw) {
            let rows = self.offline.entry(message.to).or_default();
            rows.push(C2cMsg { msg_id, ..message });
        }
        SendResponse {
            result: ok(),
            msg_id,
            duplicate: false,
        }
    }

    fn next_message_id(&mut self) -> i64 {
        self.last_message_id += 1;
        self.last_message_id
    }
}

/// To whom a `Send` or a `Deliver` is.
pub fn receiver(method: &str, args: &[u8]) -> Option<i64> {
    match method {
        "Send" => Some(SendRequest::decode(args).ok()?.msg?.to),
        "Deliver" => Some(DeliverRequest::decode(args).ok()?.to),
        _ => None,
    }
}

fn route_key(user_id: i64) -> String {
    format!("route:{user_id}")
}

impl Default for Options {
    fn default() -> Self {
        Self {
            crash_is_silence: false,
            route_lifetime: Duration::from_secs(120),
        }
    }
}
