//! Protobuf requests: from the bytes of a frame to a command.
//!
//! Owns the table of the command numbers and which fields are the arguments. Never decides whether
//! a command may be carried out.
//!
//! Decided here: the header of the envelope counts, the one in a body is not looked at. A body of
//! another type than its command's is a bad argument; one that is not what it says it is makes the
//! whole frame unreadable.

use std::{borrow::Cow, fmt};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Name;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    envelope::{self, Envelope},
    messages::{
        base::{BaseRequest, ImHeader},
        friend::{AddFriendRequest, GetFriendListRequest},
        group::{
            ApplyJoinGroupRequest, CreateGroupRequest, GetGroupListRequest, GetGroupMembersRequest,
            JoinGroupRequest, LeaveGroupRequest, QuitGroupRequest,
        },
        message::{MessageBody, MessageType, PullMessageRequest, SendMessageRequest},
        user::{GetUserInfoRequest, LoginRequest, RegisterRequest, SearchUsersRequest},
    },
    reply::{Answer, Echo, Response},
};
use crate::{
    base::{id::GroupId, secret::Secret},
    protocol::{
        command::{
            BadArgument, Command, Judge, MEMBERS_LIMIT_MAX, MessageIdList, PULL_LIMIT_DEFAULT,
            PULL_LIMIT_MAX, Tag, Verb,
        },
        error_code::ErrorCode,
        request::{BadRequest, ReplyTo},
        rules::{self, Numbered},
    },
};

/// How much of a hash makes a tag: as much as its 32 characters hold.
const TAG_HASH_BYTES: usize = 24;
/// How much of a hash names a device whose id is no name.
const DEVICE_HASH_BYTES: usize = 9;

/// A request whose command is known, and whose arguments nobody has looked at.
pub struct ProtobufRequest {
    header: ImHeader,
    verb: Verb,
    response: Response,
    body: Body,
}

/// The arguments that do not stand in the header.
enum Body {
    /// There are none.
    Bare,
    /// It is not the message of its command, which is this one.
    OfAnotherType(String),
    Register(RegisterRequest),
    Login(LoginRequest),
    Profile(GetUserInfoRequest),
    Search(SearchUsersRequest),
    Message(MessageBody),
    Pull(PullMessageRequest),
    /// The ids that are read; empty: what stands there is none.
    Ack(Vec<i64>),
    AddFriend(AddFriendRequest),
    CreateGroup(CreateGroupRequest),
    /// A group, as it is written.
    Group(String),
}

/// Why a frame is no request.
enum Refusal {
    /// Its body is no message.
    Unreadable,
    /// The gateway has no such command; its response would be this one.
    Unsupported(Response),
}

/// A command, the message that answers it, and its arguments.
type Entry = (Verb, Response, Body);

/// Reads a frame as far as its command.
///
/// # Errors
/// What is no request: [`ErrorCode::BadRequest`], or [`ErrorCode::Unsupported`] with its `seq`.
pub fn read(frame: &[u8]) -> Result<ProtobufRequest, BadRequest> {
    let bad = |answer, code, words| BadRequest {
        tag: None,
        to: Some(ReplyTo::Protobuf(Box::new(answer))),
        code,
        words: Cow::Borrowed(words),
    };
    let unreadable = |words| bad(Answer::default(), ErrorCode::BadRequest, words);
    let Some(envelope) = envelope::read(frame) else {
        return Err(unreadable(
            "the frame is no envelope, or its checksum is wrong",
        ));
    };
    match entry(&envelope) {
        Ok((verb, response, body)) => Ok(ProtobufRequest {
            verb,
            response,
            body,
            header: envelope.header,
        }),
        Err(Refusal::Unreadable) => Err(unreadable("the body is not of the type it is said to be")),
        Err(Refusal::Unsupported(response)) => Err(bad(
            Answer::to(&envelope.header, response, Echo::Nothing),
            ErrorCode::Unsupported,
            "there is no such command here",
        )),
    }
}

/// The table of commands.
fn entry(envelope: &Envelope<'_>) -> Result<Entry, Refusal> {
    let bare = |verb| Ok((verb, Response::Base, Body::Bare));
    match envelope.header.cmd_id {
        1 => bare(Verb::Ping),
        4 => bare(Verb::Refresh),
        1002 => bare(Verb::Logout),
        3002 => bare(Verb::RemoveFriend),
        1001 => Ok((Verb::Login, Response::Login, body(envelope, Body::Login)?)),
        1003 => {
            let body = body(envelope, Body::Register)?;
            Ok((Verb::Register, Response::Register, body))
        }
        1004 => {
            let body = body(envelope, Body::Profile)?;
            Ok((Verb::Profile, Response::Profile, body))
        }
        3006 => Ok((Verb::Search, Response::Users, body(envelope, Body::Search)?)),
        2001 => {
            let body = body(envelope, |request: SendMessageRequest| {
                Body::Message(request.body.unwrap_or_default())
            })?;
            let verb = match is_for_group(&envelope.header, &body) {
                true => Verb::GroupChat,
                false => Verb::Chat,
            };
            Ok((verb, Response::Stored, body))
        }
        2002 => Ok((Verb::Pull, Response::Pulled, body(envelope, Body::Pull)?)),
        2005 | 2006 => Ok((Verb::Ack, Response::Base, body(envelope, acknowledged)?)),
        3001 => {
            let body = body(envelope, Body::AddFriend)?;
            Ok((Verb::AddFriend, Response::FriendAdded, body))
        }
        3003 => {
            let body = body(envelope, |_: GetFriendListRequest| Body::Bare)?;
            Ok((Verb::Friends, Response::Friends, body))
        }
        2007 => Err(Refusal::Unsupported(Response::Pulled)),
        4001..=4011 => entry_of_groups(envelope),
        _ => Err(Refusal::Unsupported(Response::Base)),
    }
}

/// The part of the table that is about groups.
fn entry_of_groups(envelope: &Envelope<'_>) -> Result<Entry, Refusal> {
    Ok(match envelope.header.cmd_id {
        4001 => {
            let body = body(envelope, Body::CreateGroup)?;
            (Verb::CreateGroup, Response::GroupCreated, body)
        }
        4003 => {
            let body = body(envelope, |_: GetGroupListRequest| Body::Bare)?;
            (Verb::Groups, Response::Groups, body)
        }
        4007 if envelope.is_of::<ApplyJoinGroupRequest>() => {
            let group = |request: ApplyJoinGroupRequest| Body::Group(request.group_id);
            (Verb::JoinGroup, Response::Applied, body(envelope, group)?)
        }
        4007 => {
            let group = |request: JoinGroupRequest| Body::Group(request.group_id.to_string());
            let body = body(envelope, group)?;
            (Verb::JoinGroup, Response::GroupAction, body)
        }
        4008 if envelope.is_of::<QuitGroupRequest>() => {
            let group = |request: QuitGroupRequest| Body::Group(request.group_id);
            (
                Verb::LeaveGroup,
                Response::GroupQuit,
                body(envelope, group)?,
            )
        }
        4008 => {
            let group = |request: LeaveGroupRequest| Body::Group(request.group_id.to_string());
            let body = body(envelope, group)?;
            (Verb::LeaveGroup, Response::GroupAction, body)
        }
        4009 => {
            let body = body(envelope, |request: GetGroupMembersRequest| {
                Body::Group(match request.group_id.is_empty() {
                    true => request.group_record_id.to_string(),
                    false => request.group_id,
                })
            })?;
            (Verb::GroupMembers, Response::Members, body)
        }
        4002 => return Err(Refusal::Unsupported(Response::Group)),
        4005 => return Err(Refusal::Unsupported(Response::Invited)),
        4006 => return Err(Refusal::Unsupported(Response::MemberRemoved)),
        4010 => return Err(Refusal::Unsupported(Response::GroupMessages)),
        4011 => return Err(Refusal::Unsupported(Response::Transferred)),
        _ => return Err(Refusal::Unsupported(Response::Base)),
    })
}

/// The body, which should be an `M`.
fn body<M: Name + Default>(
    envelope: &Envelope<'_>,
    body: impl FnOnce(M) -> Body,
) -> Result<Body, Refusal> {
    if !envelope.is_of::<M>() {
        return Ok(Body::OfAnotherType(M::full_name()));
    }
    let message = M::decode(envelope.body).map_err(|_| Refusal::Unreadable)?;
    Ok(body(message))
}

fn acknowledged(request: BaseRequest) -> Body {
    let id = std::str::from_utf8(&request.payload).ok();
    Body::Ack(id.and_then(rules::positive).into_iter().collect())
}

/// Where a client says of which kind its conversation is.
#[derive(Deserialize)]
struct Extension<'a> {
    #[serde(borrow, default)]
    conversation_type: Cow<'a, str>,
}

fn is_for_group(header: &ImHeader, body: &Body) -> bool {
    let Body::Message(message) = body else {
        return false;
    };
    let extension = || serde_json::from_str::<Extension<'_>>(&message.ext);
    header.to_uid.starts_with('g')
        || !message.ext.is_empty()
            && extension().is_ok_and(|extension| extension.conversation_type == "group")
}

impl fmt::Debug for ProtobufRequest {
    /// Without the arguments, which may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtobufRequest")
            .field("seq", &self.header.seq)
            .field("verb", &self.verb)
            .finish_non_exhaustive()
    }
}

impl ProtobufRequest {
    /// The command's name.
    pub(in crate::protocol) fn verb(&self) -> Verb {
        self.verb
    }

    /// What the reply says that it answers.
    pub(in crate::protocol) fn reply_to(&self) -> ReplyTo {
        ReplyTo::Protobuf(Box::new(self.answer()))
    }

    /// The same, for who answers in the request's place.
    pub fn answer(&self) -> Answer {
        let echo = match &self.body {
            Body::Register(request) => Echo::Name(name_of_registration(request).to_owned()),
            Body::Login(request) => Echo::Name(name_of_login(request).to_owned()),
            Body::CreateGroup(request) => Echo::Name(request.name.clone()),
            Body::Message(message) => Echo::Message(Box::new(message.clone())),
            Body::AddFriend(request) => Echo::Friend(Box::new(request.clone())),
            _ => Echo::Nothing,
        };
        Answer::to(&self.header, self.response, echo)
    }

    /// The token that logs an anonymous connection in.
    pub fn token(&self) -> Option<Secret<&str>> {
        let says_who = matches!(self.verb, Verb::Login | Verb::Register);
        let token = Some(self.header.token.as_str());
        token
            .filter(|token| !token.is_empty() && !says_who)
            .map(Secret::new)
    }

    /// The name of the device. An id that can be no name is known by its hash.
    pub fn device(&self) -> Option<Cow<'_, str>> {
        let id = self.header.device_id.as_str();
        if id.is_empty() {
            return None;
        }
        Some(match rules::device_name(id) {
            Ok(name) => name.into(),
            Err(_) => {
                let hash = Sha256::digest(id);
                let hash = URL_SAFE_NO_PAD.encode(&hash[..DEVICE_HASH_BYTES]);
                format!("id-{hash}").into()
            }
        })
    }

    /// The client's mark, by which a repeat is known: a frame that is sent again repeats all of
    /// `seq`, `timestamp` and `device_id`.
    pub(in crate::protocol) fn tag(&self) -> Option<Tag> {
        let header = &self.header;
        if header.timestamp == 0 || !matches!(self.verb, Verb::Chat | Verb::GroupChat) {
            return None;
        }
        let mut hash = Sha256::new();
        hash.update(header.seq.to_le_bytes());
        hash.update(header.timestamp.to_le_bytes());
        hash.update(&header.device_id);
        let mark = URL_SAFE_NO_PAD.encode(&hash.finalize()[..TAG_HASH_BYTES]);
        Tag::new(mark.as_bytes())
    }

    /// The typed command, by the rules of the contract, where `judge` says which names and
    /// passwords are good.
    pub(in crate::protocol) fn command(&self, judge: Judge) -> Result<Command<'_>, BadArgument> {
        Ok(match &self.body {
            Body::OfAnotherType(expected) => {
                let words = format!("{} takes {expected}", self.verb.name());
                return Err(BadArgument(words.into()));
            }
            Body::Bare => self.bare_command()?,
            Body::Register(request) => Command::Register {
                user: rules::user_name(name_of_registration(request))?,
                password: rules::new_password(self.password(&request.password)?, judge)?,
            },
            Body::Login(request) => Command::Login {
                user: rules::user_name(name_of_login(request))?,
                password: rules::password(self.password(&request.password)?, judge)?,
            },
            Body::Profile(request) => {
                let user = first_of([&request.uid, &request.account]);
                Command::Profile(Numbered::User.parse(user)?)
            }
            Body::Search(request) => Command::Search {
                prefix: rules::user_name(&request.keyword)?,
            },
            Body::Message(message) => self.send(message)?,
            Body::Pull(request) => Command::Pull {
                limit: match request.limit {
                    0 => PULL_LIMIT_DEFAULT,
                    limit => rules::limit(Some(limit.into()), PULL_LIMIT_MAX)?,
                },
            },
            Body::Ack(ids) if ids.is_empty() => return Err(rules::NOT_A_NUMBER),
            Body::Ack(ids) => Command::Ack {
                ids: MessageIdList::of_numbers(ids),
            },
            Body::AddFriend(request) => Command::AddFriend(Numbered::User.parse(&request.to_uid)?),
            Body::CreateGroup(request) => Command::CreateGroup {
                name: rules::group_name(&request.name)?,
                description: "",
            },
            Body::Group(text) => self.group_command(Numbered::Group.parse(text)?),
        })
    }

    /// A password that is there: an empty one is nobody's.
    fn password<'a>(&self, text: &'a str) -> Result<&'a str, BadArgument> {
        match text {
            "" => Err(BadArgument(
                format!("{} needs password", self.verb.name()).into(),
            )),
            text => Ok(text),
        }
    }

    /// Commands whose arguments, if any, stand in the header.
    fn bare_command(&self) -> Result<Command<'_>, BadArgument> {
        Ok(match self.verb {
            Verb::Ping => Command::Ping { text: None },
            Verb::Refresh => Command::Refresh,
            Verb::Logout => Command::Logout,
            Verb::Friends => Command::Friends,
            Verb::Groups => Command::Groups,
            verb => {
                assert_eq!(verb, Verb::RemoveFriend, "others have a body");
                Command::RemoveFriend(Numbered::User.parse(&self.header.to_uid)?)
            }
        })
    }

    fn group_command(&self, group: GroupId) -> Command<'_> {
        match self.verb {
            Verb::JoinGroup => Command::JoinGroup(group),
            Verb::LeaveGroup => Command::LeaveGroup(group),
            verb => {
                assert_eq!(verb, Verb::GroupMembers, "others have another body");
                Command::GroupMembers {
                    group,
                    after: 0,
                    limit: MEMBERS_LIMIT_MAX,
                }
            }
        }
    }

    /// Whatever its type, a message is its content; but what only a server says is not passed on.
    fn send<'a>(&'a self, message: &'a MessageBody) -> Result<Command<'a>, BadArgument> {
        if matches!(message.r#type(), MessageType::System | MessageType::Recall) {
            return Err(BadArgument::new("a client sends no message of this type"));
        }
        let text = Cow::Borrowed(rules::message_text(&message.content)?);
        let to = self.header.to_uid.as_str();
        Ok(match self.verb {
            Verb::GroupChat => Command::GroupChat {
                group: Numbered::Group.parse(to.strip_prefix('g').unwrap_or(to))?,
                text,
            },
            _ => Command::Chat {
                to: Numbered::User.parse(to)?,
                text,
            },
        })
    }
}

/// The account, or else the phone number or the address, which is the name of an account too.
fn name_of_login(request: &LoginRequest) -> &str {
    first_of([&request.account, &request.phone_number, &request.email])
}

fn name_of_registration(request: &RegisterRequest) -> &str {
    first_of([&request.account, &request.phone_number, &request.email])
}

/// The first text that says something.
fn first_of<const N: usize>(texts: [&str; N]) -> &str {
    let mut texts = texts.into_iter().filter(|text| !text.is_empty());
    texts.next().unwrap_or("")
}
