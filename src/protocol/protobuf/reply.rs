//! Replies in envelopes.
//!
//! Owns which message answers a command, what a reply takes over from its request, and the numbers
//! of errors. What a response has no field for stands in its base's `payload`, in the words of
//! lines: `dup=1`, `replaced=1`, `more=1`.

use prost::Message;

use super::{
    VERSION, envelope,
    messages::{
        base::{self, BaseResponse, ImHeader},
        friend::{
            AddFriendRequest, AddFriendResponse, FriendInfo, FriendRequest, FriendRequestStatus,
            GetFriendListResponse,
        },
        group::{
            ApplyJoinGroupResponse, CreateGroupResponse, GetGroupInfoResponse,
            GetGroupListResponse, GetGroupMembersResponse, GetGroupMessagesResponse,
            GroupActionResponse, GroupInfo, GroupMember, InviteMemberResponse, KickMemberResponse,
            QuitGroupResponse, TransferGroupOwnerResponse,
        },
        message::{MessageBody, PullMessageResponse, SendMessageResponse},
        user::{
            GetUserInfoResponse, LoginResponse, RegisterResponse, SearchUsersResponse, UserInfo,
        },
    },
    push::body_of,
};
use crate::{
    base::{
        id::{GroupId, UserId, made_ms},
        secret::Secret,
    },
    protocol::{error_code::ErrorCode, push::Push, reply::Reply},
};

/// The numbers that replies have, whatever their request had.
const HEARTBEAT: u32 = 1;
const SERVER_NOTIFY: u32 = 2;

/// The message that answers a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Response {
    #[default]
    Base,
    Login,
    Register,
    Profile,
    Users,
    Stored,
    Pulled,
    FriendAdded,
    Friends,
    GroupCreated,
    Group,
    Groups,
    Members,
    GroupAction,
    Applied,
    GroupQuit,
    Invited,
    MemberRemoved,
    GroupMessages,
    Transferred,
}

/// What a response says again of its request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Echo {
    #[default]
    Nothing,
    /// The name of an account or of a group.
    Name(String),
    Message(Box<MessageBody>),
    Friend(Box<AddFriendRequest>),
}

/// What a reply takes over from its request; by default it answers none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    is_heartbeat: bool,
    response: Response,
    seq: u32,
    /// Of the reply: the other way round than in its request.
    from_uid: String,
    to_uid: String,
    token: Option<Secret<String>>,
    echo: Echo,
}

impl Answer {
    /// To a request with this header.
    pub(super) fn to(header: &ImHeader, response: Response, echo: Echo) -> Self {
        let token = Some(&header.token).filter(|token| !token.is_empty());
        Self {
            is_heartbeat: header.cmd_id == HEARTBEAT,
            response,
            seq: header.seq,
            from_uid: header.to_uid.clone(),
            to_uid: header.from_uid.clone(),
            token: token.cloned().map(Secret::new),
            echo,
        }
    }

    /// A login answers with the token it made, everything else with the one it was asked with.
    fn header(&self, reply: &Reply) -> ImHeader {
        let token = match reply {
            Reply::LoggedIn {
                token: Some(token), ..
            } => Some(token),
            _ => self.token.as_ref(),
        };
        ImHeader {
            version: VERSION.to_owned(),
            seq: self.seq,
            cmd_id: match self.is_heartbeat {
                true => HEARTBEAT,
                false => SERVER_NOTIFY,
            },
            from_uid: self.from_uid.clone(),
            to_uid: self.to_uid.clone(),
            token: token.map_or_else(String::new, |token| token.expose().clone()),
            ..ImHeader::default()
        }
    }

    /// Who has logged in, by the name that was typed.
    fn user(&self, reply: &Reply) -> Option<UserInfo> {
        match (reply, &self.echo) {
            (Reply::LoggedIn { uid, .. }, Echo::Name(name)) => Some(UserInfo {
                online: true,
                ..user(*uid, name)
            }),
            _ => None,
        }
    }

    /// The message that was stored.
    fn message(&self, reply: &Reply) -> Option<MessageBody> {
        match (reply, &self.echo) {
            (Reply::Stored { message_id, .. }, Echo::Message(message)) => Some(MessageBody {
                message_id: message_id.to_string(),
                sender_uid: self.to_uid.clone(),
                receiver_uid: self.from_uid.clone(),
                create_time: made_ms(*message_id),
                ..(**message).clone()
            }),
            _ => None,
        }
    }

    /// The request to be friends, which is accepted as soon as it is made.
    fn friend_request(&self, reply: &Reply) -> Option<FriendRequest> {
        match (reply, &self.echo) {
            (Reply::FriendAdded, Echo::Friend(request)) => Some(FriendRequest {
                from_uid: self.to_uid.clone(),
                to_uid: request.to_uid.clone(),
                message: request.message.clone(),
                status: FriendRequestStatus::Accepted.into(),
                ..FriendRequest::default()
            }),
            _ => None,
        }
    }

    /// The group that was made.
    fn group(&self, reply: &Reply) -> Option<GroupInfo> {
        match (reply, &self.echo) {
            (Reply::GroupCreated(id), Echo::Name(name)) => Some(GroupInfo {
                name: name.clone(),
                owner_uid: self.to_uid.clone(),
                member_count: 1,
                ..group(*id)
            }),
            _ => None,
        }
    }
}

/// Appends the envelope of `reply`.
pub(in crate::protocol) fn write(reply: &Reply, answer: &Answer, out: &mut Vec<u8>) {
    let header = &answer.header(reply);
    let base = Some(base_of(reply));
    match answer.response {
        Response::Base => envelope::write(header, &base_of(reply), out),
        Response::Login => {
            let user = answer.user(reply);
            envelope::write(header, &LoginResponse { base, user }, out);
        }
        Response::Register => {
            let user = answer.user(reply);
            envelope::write(header, &RegisterResponse { base, user }, out);
        }
        Response::Profile => {
            let user = match reply {
                Reply::Profile { uid, name } => Some(user(*uid, name)),
                _ => None,
            };
            envelope::write(header, &GetUserInfoResponse { base, user }, out);
        }
        Response::Users => {
            let users = match reply {
                Reply::Users(users) => users.iter().map(|(uid, name)| user(*uid, name)).collect(),
                _ => Vec::new(),
            };
            envelope::write(header, &SearchUsersResponse { base, users }, out);
        }
        Response::Stored => {
            let message = answer.message(reply);
            envelope::write(header, &SendMessageResponse { base, message }, out);
        }
        // What was pulled is written by `write_pulled`: this is for what has no messages.
        Response::Pulled => envelope::write(header, &pulled(base), out),
        Response::FriendAdded => {
            let request = answer.friend_request(reply);
            envelope::write(header, &AddFriendResponse { base, request }, out);
        }
        Response::Friends => {
            let friends = match reply {
                Reply::Friends(ids) => ids.iter().map(|uid| friend(*uid)).collect(),
                _ => Vec::new(),
            };
            envelope::write(header, &GetFriendListResponse { base, friends }, out);
        }
        _ => write_of_groups(header, (reply, answer), base, out),
    }
}

/// The same for what is about groups.
fn write_of_groups(
    header: &ImHeader,
    (reply, answer): (&Reply, &Answer),
    base: Option<BaseResponse>,
    out: &mut Vec<u8>,
) {
    match answer.response {
        Response::GroupCreated => {
            let group = answer.group(reply);
            let group_id = group.as_ref().map_or(0, |group| group.group_record_id);
            let response = CreateGroupResponse {
                base,
                group,
                group_id,
            };
            envelope::write(header, &response, out);
        }
        Response::Groups => {
            let groups = match reply {
                Reply::Groups(ids) => ids.iter().map(|id| group(*id)).collect(),
                _ => Vec::new(),
            };
            envelope::write(header, &GetGroupListResponse { base, groups }, out);
        }
        Response::Members => {
            let members = match reply {
                Reply::Members { ids, .. } => ids.iter().map(|uid| member(*uid)).collect(),
                _ => Vec::new(),
            };
            envelope::write(header, &GetGroupMembersResponse { base, members }, out);
        }
        Response::Group => {
            let response = GetGroupInfoResponse {
                base,
                ..GetGroupInfoResponse::default()
            };
            envelope::write(header, &response, out);
        }
        Response::GroupMessages => {
            let messages = Vec::new();
            envelope::write(header, &GetGroupMessagesResponse { base, messages }, out);
        }
        Response::GroupAction => envelope::write(header, &GroupActionResponse { base }, out),
        Response::Applied => envelope::write(header, &ApplyJoinGroupResponse { base }, out),
        Response::GroupQuit => envelope::write(header, &QuitGroupResponse { base }, out),
        Response::Invited => envelope::write(header, &InviteMemberResponse { base }, out),
        Response::MemberRemoved => envelope::write(header, &KickMemberResponse { base }, out),
        response => {
            debug_assert_eq!(response, Response::Transferred, "`write` has the others");
            envelope::write(header, &TransferGroupOwnerResponse { base }, out);
        }
    }
}

/// Appends the envelope of what was pulled: `messages` are as [`write_message`] writes them.
pub(in crate::protocol) fn write_pulled(
    messages: &[u8],
    reply: &Reply,
    answer: &Answer,
    out: &mut Vec<u8>,
) {
    let base = Some(base_of(reply));
    envelope::write_encoded::<PullMessageResponse>(&answer.header(reply), out, |out| {
        pulled(base).encode(out).expect("memory takes all of it");
        out.extend_from_slice(messages);
    });
}

/// Appends a message that `reader` has pulled, as a field of a [`PullMessageResponse`].
pub(in crate::protocol) fn write_message(push: &Push<'_>, reader: UserId, out: &mut Vec<u8>) {
    // Fields of one message may follow each other in pieces.
    let messages = PullMessageResponse {
        base: None,
        messages: body_of(push, reader).into_iter().collect(),
    };
    messages.encode(out).expect("memory takes all of it");
}

fn pulled(base: Option<BaseResponse>) -> PullMessageResponse {
    PullMessageResponse {
        base,
        messages: Vec::new(),
    }
}

/// How the request went, and what its response has no field for.
fn base_of(reply: &Reply) -> BaseResponse {
    let payload = match reply {
        Reply::Error {
            code,
            retry_ms,
            words,
        } => {
            let retry = retry_ms.map_or_else(String::new, |ms| format!(" retry_ms={ms}"));
            return BaseResponse {
                error_code: number_of(*code).into(),
                error_message: format!("{}{retry} {words}", code.word()),
                payload: Vec::new(),
            };
        }
        Reply::Token(token) => token.expose().as_str(),
        Reply::Stored {
            duplicate: true, ..
        } => "dup=1",
        Reply::LoggedIn { replaced: true, .. } => "replaced=1",
        Reply::PullDone { more: true, .. } | Reply::Members { more: true, .. } => "more=1",
        _ => "",
    };
    BaseResponse {
        error_code: base::ErrorCode::Success.into(),
        error_message: String::new(),
        payload: payload.into(),
    }
}

fn number_of(code: ErrorCode) -> base::ErrorCode {
    match code {
        ErrorCode::BadRequest
        | ErrorCode::UnknownCommand
        | ErrorCode::Unsupported
        | ErrorCode::AlreadyLoggedIn => base::ErrorCode::InvalidRequest,
        ErrorCode::NotLoggedIn | ErrorCode::AuthFailed | ErrorCode::TokenExpired => {
            base::ErrorCode::AuthFailed
        }
        ErrorCode::NotFound => base::ErrorCode::NotFound,
        ErrorCode::Forbidden => base::ErrorCode::PermissionDenied,
        ErrorCode::UserExists => base::ErrorCode::AlreadyExists,
        ErrorCode::BadArgument | ErrorCode::LineTooLong => base::ErrorCode::ParamError,
        ErrorCode::Timeout => base::ErrorCode::Timeout,
        ErrorCode::RateLimited
        | ErrorCode::TooManyConnections
        | ErrorCode::BackendUnavailable
        | ErrorCode::Overloaded
        | ErrorCode::ShuttingDown
        | ErrorCode::Internal => base::ErrorCode::ServerError,
    }
}

fn user(uid: UserId, name: &str) -> UserInfo {
    UserInfo {
        uid: uid.to_string(),
        account: name.to_owned(),
        nickname: name.to_owned(),
        ..UserInfo::default()
    }
}

fn friend(uid: UserId) -> FriendInfo {
    FriendInfo {
        uid: uid.to_string(),
        status: FriendRequestStatus::Accepted.into(),
        ..FriendInfo::default()
    }
}

fn group(id: GroupId) -> GroupInfo {
    GroupInfo {
        group_id: id.to_string(),
        group_record_id: id.unsigned_abs(),
        ..GroupInfo::default()
    }
}

fn member(uid: UserId) -> GroupMember {
    GroupMember {
        uid: uid.to_string(),
        ..GroupMember::default()
    }
}
