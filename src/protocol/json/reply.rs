//! Replies as JSON.

use super::{list, long_number, number, text};
use crate::protocol::{
    command::Verb,
    reply::{Reply, WELCOME},
};

/// Appends the whole frame of `reply` to the request `id`, which is JSON already.
pub(in crate::protocol) fn write(reply: &Reply, id: Option<&str>, out: &mut Vec<u8>) {
    out.push(b'{');
    write_id(id, out);
    if let Reply::Error {
        code,
        retry_ms,
        words,
    } = reply
    {
        text(r#""type":"error","code":"#, code.word(), out);
        text(r#","message":"#, words, out);
        if let Some(retry_ms) = retry_ms {
            number(r#","retry_ms":"#, *retry_ms, out);
        }
    } else {
        out.extend_from_slice(br#""type":"ok","data":"#);
        write_data(reply, out);
    }
    out.push(b'}');
}

/// Appends the frame of a part of what was pulled: `messages` are objects with commas between them.
/// The last part says whether there is `more`; others are followed by another part.
pub(in crate::protocol) fn write_pulled(
    (messages, count): (&[u8], usize),
    more: Option<bool>,
    id: Option<&str>,
    out: &mut Vec<u8>,
) {
    out.push(b'{');
    write_id(id, out);
    out.extend_from_slice(br#""type":"ok","data":"#);
    write_page((messages, count), more, out);
    out.push(b'}');
}

/// Appends the `data` of such a part.
pub(in crate::protocol) fn write_page(
    (messages, count): (&[u8], usize),
    more: Option<bool>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(br#"{"messages":["#);
    out.extend_from_slice(messages);
    number(r#"],"count":"#, count, out);
    flag(r#","more":"#, more.unwrap_or(true), out);
    if more.is_none() {
        out.extend_from_slice(br#","part":true"#);
    }
    out.push(b'}');
}

fn write_id(id: Option<&str>, out: &mut Vec<u8>) {
    if let Some(id) = id {
        out.extend_from_slice(br#""id":"#);
        out.extend_from_slice(id.as_bytes());
        out.push(b',');
    }
}

fn flag(key: &str, is_set: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(if is_set { b"true" } else { b"false" });
}

/// Appends the reply's `data`, an object.
pub(in crate::protocol) fn write_data(reply: &Reply, out: &mut Vec<u8>) {
    match reply {
        // Its words stand beside `data`, not in it.
        Reply::Error { .. }
        | Reply::LoggedOut
        | Reply::PasswordChanged
        | Reply::FriendAdded
        | Reply::FriendRemoved
        | Reply::Bye => out.push(b'{'),
        Reply::Welcome => text(r#"{"text":"#, WELCOME.trim_start(), out),
        Reply::LoggedIn {
            uid,
            session,
            token,
            replaced,
        } => {
            number(r#"{"uid":"#, *uid, out);
            long_number(r#","session":"#, *session, out);
            if let Some(token) = token {
                text(r#","token":"#, token.expose(), out);
            }
            if *replaced {
                out.extend_from_slice(br#","replaced":true"#);
            }
        }
        Reply::Token(token) => text(r#"{"token":"#, token.expose(), out),
        Reply::Stored {
            message_id,
            duplicate,
            ..
        } => {
            long_number(r#"{"msg_id":"#, *message_id, out);
            if *duplicate {
                out.extend_from_slice(br#","dup":true"#);
            }
        }
        // What was pulled is written by `write_pulled`: this is for what has no messages.
        Reply::PullDone { count, more } => {
            number(r#"{"messages":[],"count":"#, *count, out);
            flag(r#","more":"#, *more, out);
        }
        Reply::Acked(count) => number(r#"{"acked":"#, *count, out),
        Reply::Pong(words) => text(r#"{"text":"#, words.as_deref().unwrap_or(""), out),
        Reply::AckMode(mode) => text(r#"{"ack":"#, mode.word(), out),
        Reply::Device(name) => text(r#"{"device":"#, name, out),
        Reply::Friends(ids) => numbers(r#"{"friends":"#, ids, out),
        Reply::GroupCreated(group) | Reply::Joined(group) | Reply::Left(group) => {
            number(r#"{"group_id":"#, *group, out);
        }
        Reply::Groups(ids) => numbers(r#"{"groups":"#, ids, out),
        Reply::Members { ids, more } => {
            numbers(r#"{"members":"#, ids, out);
            flag(r#","more":"#, *more, out);
        }
        Reply::Presence { .. }
        | Reply::Profile { .. }
        | Reply::Users(_)
        | Reply::WhoAmI { .. }
        | Reply::Commands
        | Reply::Form(_) => write_answers(reply, out),
    }
    out.push(b'}');
}

/// Who somebody is and where, and what commands there are; without the last brace.
fn write_answers(reply: &Reply, out: &mut Vec<u8>) {
    match reply {
        Reply::Presence {
            uid,
            online,
            devices,
        } => {
            number(r#"{"uid":"#, *uid, out);
            flag(r#","online":"#, *online, out);
            list(r#","devices":"#, devices, out, |device, out| {
                text("", device, out)
            });
        }
        Reply::Profile { uid, name } => {
            number(r#"{"uid":"#, *uid, out);
            text(r#","name":"#, name, out);
        }
        Reply::Users(users) => list(r#"{"users":"#, users, out, |(uid, name), out| {
            number(r#"{"uid":"#, *uid, out);
            text(r#","name":"#, name, out);
            out.push(b'}');
        }),
        Reply::WhoAmI {
            uid,
            name,
            device,
            ack_mode,
        } => {
            number(r#"{"uid":"#, *uid, out);
            text(r#","name":"#, name, out);
            text(r#","device":"#, device, out);
            text(r#","ack":"#, ack_mode.word(), out);
        }
        Reply::Commands => list(r#"{"commands":"#, &Verb::ALL, out, |verb, out| {
            text("", verb.name(), out);
        }),
        Reply::Form(verb) => {
            text(r#"{"form":"#, verb.form(), out);
            text(r#","example":"#, verb.example(), out);
            text(r#","text":"#, verb.sense(), out);
        }
        _ => out.push(b'{'),
    }
}

fn numbers(key: &str, numbers: &[i64], out: &mut Vec<u8>) {
    list(key, numbers, out, |item, out| number("", *item, out));
}
