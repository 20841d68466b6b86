//! JSON requests: from the text of a frame to a command.
//!
//! Owns the form of a request and the names of arguments. The rules for single arguments are those
//! of lines ([`rules`](crate::protocol::rules)). Never decides whether a command may be carried
//! out.
//!
//! Decided here: of a member that stands twice, which one counts would be anybody's guess, so the
//! frame is refused. Members that nobody knows are ignored, however deep they are.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{
        MapAccess, Visitor,
        value::{MapAccessDeserializer, MapDeserializer},
    },
};

use super::value::Value;
use crate::{
    base::id::{GroupId, MessageId, UserId},
    protocol::{
        command::{
            AckMode, BadArgument, Command, Judge, MEMBERS_LIMIT_MAX, MessageIdList,
            PULL_LIMIT_DEFAULT, PULL_LIMIT_MAX, Tag, Verb,
        },
        error_code::ErrorCode,
        request::{BadRequest, ReplyTo},
        rules::{self, Numbered},
    },
};

/// The longest `id`, in bytes.
const ID_BYTES_MAX: usize = 64;

/// The frame as it is written.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow, default)]
    id: Value<'a>,
    #[serde(borrow, default, rename = "type")]
    kind: Value<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    data: Option<Data<'a>>,
}

/// An object or nothing: a list would be taken for arguments in the order of this file.
fn object<'de: 'a, 'a, D: Deserializer<'de>>(json: D) -> Result<Option<Data<'a>>, D::Error> {
    struct Object;
    impl<'de> Visitor<'de> for Object {
        type Value = Option<Data<'de>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            Data::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }
    json.deserialize_any(Object)
}

/// All arguments there are, by name.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Data<'a> {
    #[serde(borrow)]
    user: Value<'a>,
    #[serde(borrow)]
    username: Value<'a>,
    #[serde(borrow)]
    password: Value<'a>,
    #[serde(borrow)]
    token: Value<'a>,
    #[serde(borrow)]
    user_id: Value<'a>,
    #[serde(borrow)]
    to: Value<'a>,
    #[serde(borrow)]
    gid: Value<'a>,
    #[serde(borrow)]
    uid: Value<'a>,
    #[serde(borrow)]
    text: Value<'a>,
    #[serde(borrow)]
    limit: Value<'a>,
    #[serde(borrow)]
    after: Value<'a>,
    #[serde(borrow)]
    ids: Value<'a>,
    #[serde(borrow)]
    name: Value<'a>,
    #[serde(borrow)]
    prefix: Value<'a>,
    #[serde(borrow)]
    query: Value<'a>,
    #[serde(borrow)]
    device: Value<'a>,
    #[serde(borrow)]
    ack: Value<'a>,
    #[serde(borrow)]
    command: Value<'a>,
    #[serde(borrow)]
    client_msg_id: Value<'a>,
}

/// A request whose command word is known, and whose arguments nobody has looked at.
#[derive(Debug)]
pub struct JsonRequest<'a> {
    verb: Verb,
    is_all: bool,
    id: Option<Box<str>>,
    data: Data<'a>,
    /// The numbers in `ids`, as they are needed as a list.
    ids: Vec<MessageId>,
}

/// Reads the text of a frame as far as its command word.
///
/// # Errors
/// What is no request: [`ErrorCode::BadRequest`] or [`ErrorCode::UnknownCommand`], with the `id`
/// where it could be read.
pub(in crate::protocol) fn read(text: &str) -> Result<JsonRequest<'_>, BadRequest> {
    let frame: Frame<'_> = serde_json::from_str(text).map_err(|error| {
        let id = serde_json::from_str::<IdAlone<'_>>(text);
        let id = id.ok().and_then(|alone| id_text(&alone.id).ok().flatten());
        let words = if error.is_data() {
            "a request is an object with id, type and data, and each member once"
        } else {
            "the frame is not JSON"
        };
        bad(id, ErrorCode::BadRequest, words.into())
    })?;
    let id = id_text(&frame.id).map_err(|words| bad(None, ErrorCode::BadRequest, words.into()))?;
    let Value::Text(kind) = &frame.kind else {
        return Err(bad(
            id,
            ErrorCode::BadRequest,
            "type is the command's name".into(),
        ));
    };
    let Some((verb, is_all)) = verb_of(kind) else {
        let words = match Verb::nearest(kind) {
            Some(name) => format!("no such command, did you mean {name}?").into(),
            None => "no such command".into(),
        };
        return Err(bad(id, ErrorCode::UnknownCommand, words));
    };
    Ok(JsonRequest::new(
        (verb, is_all),
        id,
        frame.data.unwrap_or_default(),
    ))
}

/// A request for the command `name` whose arguments are the object `body`, or nothing; `None`: it
/// is none.
pub(in crate::protocol) fn of_body<'a>(name: &str, body: &'a str) -> Option<JsonRequest<'a>> {
    let data = match body.trim() {
        "" => Data::default(),
        body => {
            let mut json = serde_json::Deserializer::from_str(body);
            let data = object(&mut json).ok()?;
            json.end().ok()?;
            data?
        }
    };
    Some(JsonRequest::new(verb_of(name)?, None, data))
}

/// A request for the command `name` whose arguments are texts with names; `None`: one stands twice.
pub(in crate::protocol) fn of_parameters<'a>(
    name: &str,
    parameters: Vec<(String, String)>,
) -> Option<JsonRequest<'a>> {
    let parameters = parameters.into_iter();
    let data = MapDeserializer::<_, serde::de::value::Error>::new(parameters);
    Some(JsonRequest::new(
        verb_of(name)?,
        None,
        Data::deserialize(data).ok()?,
    ))
}

/// A frame that is broken in another place may still say what its reply is to answer.
#[derive(Deserialize)]
struct IdAlone<'a> {
    #[serde(borrow, default)]
    id: Value<'a>,
}

fn bad(id: Option<Box<str>>, code: ErrorCode, words: Cow<'static, str>) -> BadRequest {
    BadRequest {
        tag: None,
        to: Some(ReplyTo::Json(id)),
        code,
        words,
    }
}

/// The `id` as it stands in the reply, in JSON.
fn id_text(id: &Value<'_>) -> Result<Option<Box<str>>, &'static str> {
    match id {
        Value::Nothing => Ok(None),
        Value::Number(number) => Ok(Some(number.to_string().into())),
        Value::Text(text) if text.len() <= ID_BYTES_MAX => {
            let mut quoted = Vec::with_capacity(text.len() + 2);
            super::write_text(text, &mut quoted);
            let quoted = String::from_utf8(quoted).expect("JSON of a text is text");
            Ok(Some(quoted.into()))
        }
        _ => Err("id is a text of at most 64 bytes, or a whole number"),
    }
}

/// The command of a name, and whether it is `logout_all`.
pub(in crate::protocol) fn verb_of(name: &str) -> Option<(Verb, bool)> {
    Some(match name {
        "logout_all" => (Verb::Logout, true),
        "auth.login" => (Verb::Login, false),
        "auth.logout" => (Verb::Logout, false),
        "auth.refresh" => (Verb::Refresh, false),
        "user.profile" => (Verb::Profile, false),
        "user.friends" => (Verb::Friends, false),
        "user.search" => (Verb::Search, false),
        "heartbeat" => (Verb::Ping, false),
        "status" => (Verb::Who, false),
        name => (
            Verb::ALL.into_iter().find(|verb| verb.name() == name)?,
            false,
        ),
    })
}

/// A number of ours, written as a number or as a text.
fn number_of(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Number(number) => i64::try_from(*number).ok().filter(|number| *number > 0),
        Value::Text(text) => rules::positive(text),
        _ => None,
    }
}

impl<'a> JsonRequest<'a> {
    fn new((verb, is_all): (Verb, bool), id: Option<Box<str>>, data: Data<'a>) -> Self {
        let ids = match &data.ids {
            Value::List(ids) => ids.iter().filter_map(number_of).collect(),
            _ => Vec::new(),
        };
        Self {
            verb,
            is_all,
            id,
            data,
            ids,
        }
    }

    /// The request's mark is `tag`, whatever its arguments say.
    pub(in crate::protocol) fn set_tag(&mut self, tag: Tag) {
        self.data.client_msg_id = Value::Text(tag.as_str().to_owned().into());
    }

    /// The command's name.
    pub(in crate::protocol) fn verb(&self) -> Verb {
        self.verb
    }

    /// What the reply says that it answers.
    pub(in crate::protocol) fn reply_to(&self) -> ReplyTo {
        ReplyTo::Json(self.id.clone())
    }

    /// The client's mark, by which a repeat is known; one that is no tag is told by
    /// [`JsonRequest::command`].
    pub(in crate::protocol) fn tag(&self) -> Option<Tag> {
        match &self.data.client_msg_id {
            Value::Text(text) => Tag::new(text.as_bytes()),
            _ => None,
        }
    }

    /// The typed command, by the rules of the contract, where `judge` says which names and
    /// passwords are good.
    pub(in crate::protocol) fn command(&self, judge: Judge) -> Result<Command<'_>, BadArgument> {
        if self.data.client_msg_id != Value::Nothing && self.tag().is_none() {
            return Err(BadArgument::new(
                "client_msg_id is a text of 1 to 32 letters, digits, _ or -",
            ));
        }
        let data = &self.data;
        Ok(match self.verb {
            Verb::Chat => Command::Chat {
                to: self.number("to", &data.to, Numbered::User)?,
                text: self.message_text()?,
            },
            Verb::GroupChat => Command::GroupChat {
                group: self.group()?,
                text: self.message_text()?,
            },
            Verb::Ping => Command::Ping {
                text: self
                    .optional("text", &data.text)?
                    .map(rules::plain)
                    .transpose()?,
            },
            Verb::Ack => Command::Ack {
                ids: self.message_ids()?,
            },
            Verb::Pull => Command::Pull {
                limit: self.limit(PULL_LIMIT_DEFAULT, PULL_LIMIT_MAX)?,
            },
            Verb::Help => Command::Help(match self.optional("command", &data.command)? {
                None => None,
                Some(name) => Some(Verb::lookup(name).ok_or(BadArgument::new("no such command"))?),
            }),
            Verb::Quit => Command::Quit,
            Verb::WhoAmI => Command::WhoAmI,
            #[cfg(feature = "test-hooks")]
            Verb::Panic => Command::Panic,
            Verb::Register
            | Verb::Login
            | Verb::Auth
            | Verb::Password
            | Verb::Refresh
            | Verb::Logout
            | Verb::Set => self.of_sessions(judge)?,
            _ => self.of_people()?,
        })
    }

    /// Commands about accounts and sessions.
    fn of_sessions(&self, judge: Judge) -> Result<Command<'_>, BadArgument> {
        Ok(match self.verb {
            Verb::Register => {
                let (user, password) = self.credentials()?;
                Command::Register {
                    user: rules::user_name(user)?,
                    password: rules::new_password(password, judge)?,
                }
            }
            Verb::Login => {
                let (user, password) = self.credentials()?;
                Command::Login {
                    user: rules::user_name(user)?,
                    password: rules::password(password, judge)?,
                }
            }
            Verb::Auth => self.auth()?,
            Verb::Password => Command::Password {
                new: rules::new_password(
                    self.text("password", &self.data.password)?,
                    Judge::Gateway,
                )?,
            },
            Verb::Refresh => Command::Refresh,
            Verb::Logout if self.is_all => Command::LogoutAll,
            Verb::Logout => Command::Logout,
            _ => self.setting()?,
        })
    }

    /// Commands about users and groups.
    fn of_people(&self) -> Result<Command<'_>, BadArgument> {
        let data = &self.data;
        Ok(match self.verb {
            Verb::AddFriend => Command::AddFriend(self.user()?),
            Verb::RemoveFriend => Command::RemoveFriend(self.user()?),
            Verb::Friends => Command::Friends,
            Verb::CreateGroup => Command::CreateGroup {
                name: rules::group_name(self.text("name", &data.name)?)?,
                description: "",
            },
            Verb::JoinGroup => Command::JoinGroup(self.group()?),
            Verb::LeaveGroup => Command::LeaveGroup(self.group()?),
            Verb::Groups => Command::Groups,
            Verb::GroupMembers => Command::GroupMembers {
                group: self.group()?,
                after: match &data.after {
                    Value::Nothing | Value::Number(0) => 0,
                    after => self.number("after", after, Numbered::User)?,
                },
                limit: self.limit(MEMBERS_LIMIT_MAX, MEMBERS_LIMIT_MAX)?,
            },
            Verb::Who => Command::Who(self.user()?),
            Verb::Profile => Command::Profile(self.user()?),
            _ => {
                let mut prefix = [&data.prefix, &data.query].into_iter();
                let prefix = prefix.find(|value| **value != Value::Nothing);
                let prefix = self.text("prefix", prefix.unwrap_or(&Value::Nothing))?;
                Command::Search {
                    prefix: rules::user_name(prefix)?,
                }
            }
        })
    }

    fn user(&self) -> Result<UserId, BadArgument> {
        self.number("uid", &self.data.uid, Numbered::User)
    }

    fn group(&self) -> Result<GroupId, BadArgument> {
        self.number("gid", &self.data.gid, Numbered::Group)
    }

    /// A text that is there and not empty.
    fn text<'s>(&self, name: &str, value: &'s Value<'_>) -> Result<&'s str, BadArgument> {
        match self.optional(name, value)? {
            None | Some("") => Err(missing(self.verb, name)),
            Some(text) => Ok(text),
        }
    }

    fn optional<'s>(
        &self,
        name: &str,
        value: &'s Value<'_>,
    ) -> Result<Option<&'s str>, BadArgument> {
        match value {
            Value::Nothing => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            _ => Err(BadArgument(format!("{name} is a text").into())),
        }
    }

    fn number(&self, name: &str, value: &Value<'_>, of: Numbered) -> Result<i64, BadArgument> {
        match value {
            Value::Nothing => Err(missing(self.verb, name)),
            Value::Text(text) => of.parse(text),
            value => number_of(value).ok_or(rules::NOT_A_NUMBER),
        }
    }

    fn limit(&self, default: u32, most: u32) -> Result<u32, BadArgument> {
        match &self.data.limit {
            Value::Nothing => Ok(default),
            value => rules::limit(number_of(value), most),
        }
    }

    /// The text of a message: line breaks are themselves here.
    fn message_text(&self) -> Result<Cow<'_, str>, BadArgument> {
        let text = self.text("text", &self.data.text)?;
        rules::message_text(text).map(Cow::Borrowed)
    }

    fn message_ids(&self) -> Result<MessageIdList<'_>, BadArgument> {
        match &self.data.ids {
            Value::Nothing => Err(missing(self.verb, "ids")),
            Value::List(ids) if ids.is_empty() => Err(missing(self.verb, "ids")),
            Value::List(ids) if ids.len() == self.ids.len() => {
                Ok(MessageIdList::of_numbers(&self.ids))
            }
            Value::List(_) => Err(rules::NOT_A_NUMBER),
            _ => Err(BadArgument::new("ids is a list of message ids")),
        }
    }

    fn credentials(&self) -> Result<(&str, &str), BadArgument> {
        let data = &self.data;
        let mut user = [&data.user, &data.username].into_iter();
        let user = user.find(|value| **value != Value::Nothing);
        Ok((
            self.text("user", user.unwrap_or(&Value::Nothing))?,
            self.text("password", &data.password)?,
        ))
    }

    /// A `user_id` beside the token must be the token's: who asks compares it.
    fn auth(&self) -> Result<Command<'_>, BadArgument> {
        let user = match &self.data.user_id {
            Value::Nothing => None,
            value => Some(self.number("user_id", value, Numbered::User)?),
        };
        let token = self.text("token", &self.data.token)?;
        Ok(Command::Auth {
            token: crate::base::secret::Secret::new(token),
            user,
        })
    }

    fn setting(&self) -> Result<Command<'_>, BadArgument> {
        let data = &self.data;
        match (
            self.optional("ack", &data.ack)?,
            self.optional("device", &data.device)?,
        ) {
            (Some(word), None) => AckMode::of(word).map(Command::SetAck),
            (None, Some(name)) => rules::device_name(name).map(Command::SetDevice),
            _ => Err(BadArgument::new("set one of ack and device")),
        }
    }
}

fn missing(verb: Verb, name: &str) -> BadArgument {
    BadArgument(format!("{} needs {name}", verb.name()).into())
}
