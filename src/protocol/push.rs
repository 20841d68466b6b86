//! Pushes: the lines a client did not ask for, as values, and how each is written.
//!
//! Owns the order of fields. `text=` is always last and escaped, so whatever a sender or a backend
//! put into it, a receiver that reads fields up to the first `text=` sees exactly what the gateway
//! says, and one line.

use super::{
    escape::{escape_into, plain_into},
    reply::{integer, word},
};
use crate::base::id::{GroupId, MessageId, UserId};

/// A line a client did not ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push<'a> {
    /// A direct message.
    Message {
        /// The message's number.
        id: MessageId,
        /// Its number in the receiver's inbox; `None`: a backend without numbers, or a copy.
        seq: Option<u64>,
        /// Who sent it.
        from: UserId,
        /// Of a copy for the sender's other devices: whom it was sent to.
        to: Option<UserId>,
        /// When it was sent, in ms since 1970.
        ts_ms: i64,
        /// It may have come before.
        duplicate: bool,
        /// What it says, not yet escaped.
        text: &'a str,
    },
    /// A message to a group.
    GroupMessage {
        /// The message's number.
        id: MessageId,
        /// The group.
        group: GroupId,
        /// Its number in the group; `None`: a backend without numbers.
        seq: Option<u64>,
        /// Who sent it.
        from: UserId,
        /// When it was sent, in ms since 1970.
        ts_ms: i64,
        /// It may have come before.
        duplicate: bool,
        /// What it says, not yet escaped.
        text: &'a str,
    },
    /// Something the gateway or an operator has to say.
    Notice {
        /// One word, for programs.
        kind: &'a str,
        /// The words for people, not yet escaped.
        text: &'a str,
    },
    /// A friend has come online, or has gone.
    Friend {
        /// Which of the two.
        online: bool,
        /// The friend.
        uid: UserId,
        /// The friend's name.
        name: &'a str,
    },
    /// The connection is about to be closed.
    Kick {
        /// One word: why.
        reason: &'a str,
    },
}

impl Push<'_> {
    /// Appends the push's line, LF included, to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Message {
                id,
                seq,
                from,
                to,
                ts_ms,
                duplicate,
                text,
            } => {
                integer("MSG id=", id, out);
                optional(" seq=", seq, out);
                integer(" from=", from, out);
                optional(" to=", to, out);
                end_of_message(ts_ms, duplicate, text, out);
            }
            Self::GroupMessage {
                id,
                group,
                seq,
                from,
                ts_ms,
                duplicate,
                text,
            } => {
                integer("GMSG id=", id, out);
                integer(" group=", group, out);
                optional(" seq=", seq, out);
                integer(" from=", from, out);
                end_of_message(ts_ms, duplicate, text, out);
            }
            Self::Notice { kind, text } => {
                word("NOTICE kind=", kind, out);
                out.extend_from_slice(b" text=");
                escape_into(text, out);
            }
            Self::Friend { online, uid, name } => {
                let kind = if online {
                    "friend_online"
                } else {
                    "friend_offline"
                };
                word("NOTICE kind=", kind, out);
                integer(" uid=", uid, out);
                out.extend_from_slice(b" name=");
                plain_into(name, out);
            }
            Self::Kick { reason } => word("KICK reason=", reason, out),
        }
        out.push(b'\n');
    }
}

fn optional(key: &str, number: Option<impl itoa::Integer>, out: &mut Vec<u8>) {
    if let Some(number) = number {
        integer(key, number, out);
    }
}

fn end_of_message(ts_ms: i64, duplicate: bool, text: &str, out: &mut Vec<u8>) {
    integer(" ts=", ts_ms, out);
    if duplicate {
        out.extend_from_slice(b" dup=1");
    }
    out.extend_from_slice(b" text=");
    escape_into(text, out);
}

#[cfg(test)]
mod tests;
