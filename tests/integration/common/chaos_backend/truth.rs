//! What the misbehaving backend answers when it behaves: every answer can be computed from its
//! question, so that a client can tell its own answer from anybody else's.

use im_gateway::{
    contract::methods::{Request, Response},
    proto::{self, send_batch_item::Message, *},
};

/// The number of the user with this name.
pub fn user_id(name: &str) -> u64 {
    1 + hash(&["user", name]) % 1_000_000_000
}

/// The id of the message with this text from one user to another.
pub fn message_id(from: u64, to: u64, text: &str) -> u64 {
    1 + hash(&["message", &from.to_string(), &to.to_string(), text]) % (1 << 62)
}

/// The number of the group with this name.
pub fn group_id(name: &str) -> u64 {
    1 + hash(&["group", name]) % 1_000_000_000
}

/// The friends of a user.
pub fn friends(user: u64) -> [u64; 2] {
    [user * 2 + 1, user * 2 + 2]
}

/// The groups of a user.
pub fn groups(user: u64) -> [u64; 1] {
    [user * 3 + 1]
}

/// The name of a user.
pub fn name(user: u64) -> String {
    format!("name-of-{user}")
}

/// The user a search finds.
pub fn found(prefix: &str) -> (u64, String) {
    let name = format!("{prefix}-found");
    (user_id(&name), name)
}

/// The device a user is connected with.
pub fn device(user: u64) -> String {
    format!("d{user}")
}

/// How many messages a confirmation of these ids confirms.
pub fn acked(ids: &[u64]) -> u64 {
    ids.iter().fold(7, |sum, id| (sum * 31 + id) % 100_000)
}

/// The texts that wait in a user's inbox, whenever it is looked into.
pub fn waiting(user: u64) -> [String; 2] {
    [1, 2].map(|number| format!("for {user} number {number}"))
}

/// Who wrote what waits in a user's inbox.
pub fn waiting_from(user: u64) -> u64 {
    user + 5
}

fn hash(parts: &[&str]) -> u64 {
    parts
        .iter()
        .flat_map(|part| part.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// A result that says OK.
pub fn ok() -> Option<proto::Result> {
    Some(proto::Result {
        code: Code::Ok.into(),
        msg: "ok".to_string(),
    })
}

fn signed(ids: impl IntoIterator<Item = u64>) -> Vec<i64> {
    ids.into_iter().map(|id| id as i64).collect()
}

/// The answer.
pub fn answer(request: &Request) -> Response {
    about_users(request)
        .or_else(|| about_messages(request))
        .or_else(|| about_presence_and_groups(request))
        // The rest say no more than that all is well.
        .unwrap_or_else(|| request.failed(ok().unwrap_or_default()))
}

fn about_users(request: &Request) -> Option<Response> {
    let text_of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(match request {
        Request::Login(login) => LoginResponse {
            result: ok(),
            user_id: user_id(&text_of(&login.username)) as i64,
            token: "token".to_string(),
            ..Default::default()
        }
        .into(),
        Request::Register(register) => RegisterResponse {
            result: ok(),
            user_id: user_id(&text_of(&register.username)) as i64,
        }
        .into(),
        // Everybody has put whoever asks about devices on the list.
        Request::GetFriends(request) if request.only_friend_id != 0 => GetFriendsResponse {
            result: ok(),
            friend_ids: vec![request.only_friend_id],
        }
        .into(),
        Request::GetFriends(request) => GetFriendsResponse {
            result: ok(),
            friend_ids: signed(friends(request.user_id as u64)),
        }
        .into(),
        Request::GetProfile(request) => GetProfileResponse {
            result: ok(),
            name: name(request.user_id as u64),
        }
        .into(),
        Request::Search(request) => {
            let (user_id, name) = found(&request.prefix);
            SearchResponse {
                result: ok(),
                users: vec![UserSummary {
                    user_id: user_id as i64,
                    name,
                }],
            }
            .into()
        }
        _ => return None,
    })
}

fn about_messages(request: &Request) -> Option<Response> {
    Some(match request {
        Request::Send(request) => SendResponse {
            result: ok(),
            msg_id: id_of_direct(request),
            duplicate: false,
        }
        .into(),
        Request::SendGroup(request) => SendGroupResponse {
            result: ok(),
            msg_id: id_of_group(request),
            duplicate: false,
        }
        .into(),
        Request::SendBatch(request) => SendBatchResponse {
            result: ok(),
            results: request.items.iter().map(stored).collect(),
        }
        .into(),
        Request::PullOffline(request) => PullOfflineResponse {
            result: ok(),
            // Nothing has been handed out before, and nothing has a number.
            msg_list: match request.redelivery_only || request.after_seq.is_some() {
                true => Vec::new(),
                false => inbox(request.user_id),
            },
            ..Default::default()
        }
        .into(),
        Request::Ack(request) => {
            let ids: Vec<u64> = request.msg_id_list.iter().map(|id| *id as u64).collect();
            AckResponse {
                result: ok(),
                acked: acked(&ids) as u32,
            }
            .into()
        }
        _ => return None,
    })
}

fn about_presence_and_groups(request: &Request) -> Option<Response> {
    Some(match request {
        Request::QueryRoute(request) => QueryRouteResponse {
            result: ok(),
            gateway_id: "elsewhere#0".to_string(),
            routes: vec![Route {
                gateway_id: "elsewhere#0".to_string(),
                session_id: 1,
                device: device(request.user_id as u64),
            }],
        }
        .into(),
        Request::CreateGroup(request) => CreateGroupResponse {
            result: ok(),
            group_id: group_id(&request.group_name) as i64,
        }
        .into(),
        Request::GetUserGroups(request) => GetUserGroupsResponse {
            result: ok(),
            group_ids: signed(groups(request.user_id as u64)),
            last_seqs: Vec::new(),
            since_seqs: Vec::new(),
        }
        .into(),
        _ => return None,
    })
}

fn inbox(user: i64) -> Vec<C2cMsg> {
    let from = waiting_from(user as u64);
    waiting(user as u64)
        .into_iter()
        .map(|text| C2cMsg {
            msg_id: message_id(from, user as u64, &text) as i64,
            from: from as i64,
            to: user,
            ts_ms: 1_700_000_000_000,
            text,
            ..Default::default()
        })
        .collect()
}

fn id_of_direct(request: &SendRequest) -> i64 {
    let message = request.msg.clone().unwrap_or_default();
    message_id(message.from as u64, message.to as u64, &message.text) as i64
}

fn id_of_group(request: &SendGroupRequest) -> i64 {
    let message = request.msg.clone().unwrap_or_default();
    message_id(message.from as u64, message.group_id as u64, &message.text) as i64
}

fn stored(item: &SendBatchItem) -> SendBatchResult {
    let msg_id = match item.message.as_ref().expect("a message") {
        Message::Direct(request) => id_of_direct(request),
        Message::Group(request) => id_of_group(request),
    };
    SendBatchResult {
        result: ok(),
        msg_id,
        duplicate: false,
    }
}
