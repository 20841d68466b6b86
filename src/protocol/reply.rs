//! Replies to commands, as values, and how each is written: exactly one line, in the contract's
//! form or, in the space dialect, in MPIM's.
//!
//! Owns the words and the order of fields. Never allocates but to grow the buffer it is given. What
//! comes from clients or backends goes through `escape`, so nothing can forge a field or begin a
//! line.

use std::borrow::Cow;

use super::{
    command::{AckMode, Dialect, Tag, Verb},
    error_code::ErrorCode,
    escape::{item_into, plain_into, word_into},
    verb::Family,
};
use crate::base::{
    id::{GroupId, MessageId, SessionId, UserId},
    secret::Secret,
};

/// What a command is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To connecting, unless `banner = false`.
    Welcome,
    /// To `register`, `login` and `auth`.
    LoggedIn {
        /// Who logged in.
        uid: UserId,
        /// The number of the session: `auth` continues that of the login which made the token.
        session: SessionId,
        /// A token for `auth`; `None`: it was by `auth`.
        token: Option<Secret<String>>,
        /// Another connection lost its place to this one.
        replaced: bool,
    },
    /// To `refresh`: the fresh token.
    Token(Secret<String>),
    /// To `logout`.
    LoggedOut,
    /// To `password`.
    PasswordChanged,
    /// To `chat` and `group_chat`: the message is stored.
    Stored {
        /// To a group, which MPIM answers in other words.
        group: bool,
        /// The message's number.
        message_id: MessageId,
        /// The tag was used before: this is what the first message with it got.
        duplicate: bool,
    },
    /// To `pull`, after its messages.
    PullDone {
        /// How many messages came.
        count: usize,
        /// There are more.
        more: bool,
    },
    /// To `ack`: how many messages this confirmed.
    Acked(u32),
    /// To `ping`, with its text.
    Pong(Option<String>),
    /// To `set:ack`.
    AckMode(AckMode),
    /// To `set:device`.
    Device(String),
    /// To `add_friend`.
    FriendAdded,
    /// To `remove_friend`.
    FriendRemoved,
    /// To `friends`.
    Friends(Vec<UserId>),
    /// To `create_group`.
    GroupCreated(GroupId),
    /// To `join_group`.
    Joined(GroupId),
    /// To `leave_group`.
    Left(GroupId),
    /// To `groups`.
    Groups(Vec<GroupId>),
    /// To `group_members`.
    Members {
        /// The members of this page.
        ids: Vec<UserId>,
        /// There are more behind them.
        more: bool,
    },
    /// To `who`.
    Presence {
        /// Who was asked about.
        uid: UserId,
        /// There is a device with a connection.
        online: bool,
        /// The devices with a connection, as far as who asks may know them.
        devices: Vec<String>,
    },
    /// To `profile`.
    Profile {
        /// Who was asked about.
        uid: UserId,
        /// The user's name.
        name: String,
    },
    /// To `search`.
    Users(Vec<(UserId, String)>),
    /// To `whoami`.
    WhoAmI {
        /// The user.
        uid: UserId,
        /// The user's name.
        name: String,
        /// This connection's device.
        device: String,
        /// Who confirms deliveries here.
        ack_mode: AckMode,
    },
    /// To `help`: all commands, by family.
    Commands,
    /// To `help:command`: how it is written, an example, and what it does.
    Form(Verb),
    /// To `quit`.
    Bye,
    /// To anything that was not done.
    Error {
        /// Why, as one of a closed set.
        code: ErrorCode,
        /// With [`ErrorCode::RateLimited`]: when to try again.
        retry_ms: Option<u64>,
        /// Why, for a person. Nothing internal, nothing secret.
        words: Cow<'static, str>,
    },
}

/// What a new connection is told, with the space before it.
pub(super) const WELCOME: &str = concat!(
    " welcome to im-gateway/",
    env!("CARGO_PKG_VERSION"),
    ", try help"
);

impl Reply {
    /// An error without `retry_ms`.
    pub fn error(code: ErrorCode, words: impl Into<Cow<'static, str>>) -> Self {
        Self::Error {
            code,
            retry_ms: None,
            words: words.into(),
        }
    }

    /// Appends the reply's line, LF included, to `out`.
    pub fn write(&self, tag: Option<&Tag>, dialect: Dialect, out: &mut Vec<u8>) {
        if let Some(tag) = tag {
            out.push(b'@');
            out.extend_from_slice(tag.as_str().as_bytes());
            out.push(b' ');
        }
        match self {
            Self::Error {
                code,
                retry_ms,
                words,
            } => write_error(*code, *retry_ms, words, out),
            _ => {
                out.extend_from_slice(b"+OK");
                self.write_fields(dialect, out);
            }
        }
        out.push(b'\n');
    }

    /// What follows `+OK`, with the space before it.
    fn write_fields(&self, dialect: Dialect, out: &mut Vec<u8>) {
        if dialect == Dialect::Space && self.write_as_mpim(out) {
            return;
        }
        match self {
            // Written by `write`, which gives it another first word.
            Self::Error { .. } => {}
            Self::Welcome => out.extend_from_slice(WELCOME.as_bytes()),
            Self::LoggedIn { .. } => self.write_login(out),
            Self::Token(token) => word(" token=", token.expose(), out),
            Self::LoggedOut => out.extend_from_slice(b" logout"),
            Self::PasswordChanged => out.extend_from_slice(b" password changed"),
            Self::Stored {
                message_id,
                duplicate,
                ..
            } => {
                integer(" msg_id=", *message_id, out);
                flag(" dup=1", *duplicate, out);
            }
            Self::PullDone { count, more } => {
                integer(" pull_done count=", *count, out);
                integer(" more=", u8::from(*more), out);
            }
            Self::Acked(count) => integer(" acked=", *count, out),
            Self::Pong(None) => out.extend_from_slice(b" pong"),
            Self::Pong(Some(text)) => {
                out.extend_from_slice(b" pong ");
                plain_into(text, out);
            }
            Self::AckMode(mode) => word(" ack=", mode.word(), out),
            Self::Device(name) => word(" device=", name, out),
            Self::FriendAdded | Self::FriendRemoved => {}
            Self::Friends(ids) => integers(" friends=", ids, out),
            Self::GroupCreated(group) => integer(" group_id=", *group, out),
            Self::Joined(group) => integer(" joined group_id=", *group, out),
            Self::Left(group) => integer(" left group_id=", *group, out),
            Self::Groups(ids) => integers(" groups=", ids, out),
            Self::Members { ids, more } => {
                integers(" members=", ids, out);
                flag(" more=1", *more, out);
            }
            Self::Presence { .. } | Self::Profile { .. } | Self::Users(_) | Self::WhoAmI { .. } => {
                self.write_users(out)
            }
            Self::Commands => write_commands(out),
            Self::Form(verb) => {
                word(" form=", verb.form(), out);
                word(" example=", verb.example(), out);
                out.extend_from_slice(b" text=");
                out.extend_from_slice(verb.sense().as_bytes());
            }
            Self::Bye => out.extend_from_slice(b" bye"),
        }
    }

    /// The replies that MPIM's client expects in another form; `false`: this is none of them.
    fn write_as_mpim(&self, out: &mut Vec<u8>) -> bool {
        match self {
            Self::LoggedIn {
                uid,
                token: Some(_),
                ..
            } => integer(" uid=", *uid, out),
            Self::LoggedOut => out.extend_from_slice(b" logout success"),
            Self::Stored {
                group: true,
                message_id,
                duplicate,
            } => {
                integer(" group_msg_id=", *message_id, out);
                flag(" dup=1", *duplicate, out);
            }
            Self::PullDone { .. } => out.extend_from_slice(b" pull_done"),
            Self::FriendAdded => out.extend_from_slice(b" friend added"),
            Self::Friends(ids) => integers(" friends: ", ids, out),
            Self::Joined(_) => out.extend_from_slice(b" joined group"),
            _ => return false,
        }
        true
    }

    fn write_login(&self, out: &mut Vec<u8>) {
        let Self::LoggedIn {
            uid,
            session,
            token,
            replaced,
        } = self
        else {
            return;
        };
        integer(" uid=", *uid, out);
        integer(" session=", *session, out);
        if let Some(token) = token {
            word(" token=", token.expose(), out);
        }
        flag(" replaced=1", *replaced, out);
    }

    /// Who somebody is, and where.
    fn write_users(&self, out: &mut Vec<u8>) {
        match self {
            Self::Presence {
                uid,
                online,
                devices,
            } => {
                integer(" uid=", *uid, out);
                integer(" online=", u8::from(*online), out);
                list(" devices=", devices, out, |device, out| {
                    item_into(device, out)
                });
            }
            Self::Profile { uid, name } => {
                integer(" uid=", *uid, out);
                out.extend_from_slice(b" name=");
                plain_into(name, out);
            }
            Self::Users(users) => list(" users=", users, out, |(uid, name), out| {
                integer("", *uid, out);
                out.push(b':');
                item_into(name, out);
            }),
            Self::WhoAmI {
                uid,
                name,
                device,
                ack_mode,
            } => {
                integer(" uid=", *uid, out);
                // Not the last field here, so a name a backend gave spaces to must lose them.
                word(" name=", name, out);
                word(" device=", device, out);
                word(" ack=", ack_mode.word(), out);
            }
            _ => {}
        }
    }
}

/// A field that is there or not.
fn flag(field: &str, is_set: bool, out: &mut Vec<u8>) {
    if is_set {
        out.extend_from_slice(field.as_bytes());
    }
}

/// All commands, those of one family side by side, and how to learn more of one.
fn write_commands(out: &mut Vec<u8>) {
    for (index, family) in Family::ALL.into_iter().enumerate() {
        let names: Vec<Verb> = Verb::ALL
            .into_iter()
            .filter(|verb| verb.family() == family)
            .collect();
        let before = if index == 0 { " commands=" } else { ";" };
        list(before, &names, out, |verb, out| {
            out.extend_from_slice(verb.name().as_bytes());
        });
    }
    word(" example=", Verb::Help.example(), out);
}

fn write_error(code: ErrorCode, retry_ms: Option<u64>, words: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"-ERR ");
    out.extend_from_slice(code.word().as_bytes());
    if let Some(retry_ms) = retry_ms {
        integer(" retry_ms=", retry_ms, out);
    }
    if !words.is_empty() {
        out.push(b' ');
        plain_into(words, out);
    }
}

/// Appends `key`, then a number in decimal.
pub(super) fn integer(key: &str, number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends `key`, then a value that can hold no space.
pub(super) fn word(key: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    word_into(value, out);
}

fn integers(key: &str, numbers: &[i64], out: &mut Vec<u8>) {
    list(key, numbers, out, |number, out| integer("", *number, out));
}

fn list<T>(key: &str, items: &[T], out: &mut Vec<u8>, write_item: impl Fn(&T, &mut Vec<u8>)) {
    out.extend_from_slice(key.as_bytes());
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_item(item, out);
    }
}

#[cfg(test)]
mod tests;
