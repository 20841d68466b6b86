//! Pushes as JSON.

use super::{long_number, number, text};
use crate::protocol::push::Push;

/// Appends the whole frame of `push`.
pub(in crate::protocol) fn write(push: &Push<'_>, out: &mut Vec<u8>) {
    let kind = match push {
        Push::Message { .. } | Push::GroupMessage { .. } => "message",
        Push::Notice { .. } | Push::Friend { .. } => "notice",
        Push::Kick { .. } => "kick",
    };
    text(r#"{"type":"#, kind, out);
    out.extend_from_slice(br#","data":"#);
    write_data(push, out);
    out.push(b'}');
}

/// Appends the `data` of `push`, an object.
pub(in crate::protocol) fn write_data(push: &Push<'_>, out: &mut Vec<u8>) {
    match *push {
        Push::Message { .. } | Push::GroupMessage { .. } => return write_message(push, out),
        Push::Notice { kind, text: words } => {
            text(r#"{"kind":"#, kind, out);
            text(r#","text":"#, words, out);
        }
        Push::Friend { online, uid, name } => {
            let kind = match online {
                true => "friend_online",
                false => "friend_offline",
            };
            text(r#"{"kind":"#, kind, out);
            number(r#","uid":"#, uid, out);
            text(r#","name":"#, name, out);
        }
        Push::Kick { reason } => text(r#"{"reason":"#, reason, out),
    }
    out.push(b'}');
}

/// Appends a message as an object of its own; writes nothing for what is none.
pub(in crate::protocol) fn write_message(push: &Push<'_>, out: &mut Vec<u8>) {
    let (id, group, seq, from, to, ts_ms, duplicate, words) = match *push {
        Push::Message {
            id,
            seq,
            from,
            to,
            ts_ms,
            duplicate,
            text,
        } => (id, None, seq, from, to, ts_ms, duplicate, text),
        Push::GroupMessage {
            id,
            group,
            seq,
            from,
            ts_ms,
            duplicate,
            text,
        } => (id, Some(group), seq, from, None, ts_ms, duplicate, text),
        Push::Notice { .. } | Push::Friend { .. } | Push::Kick { .. } => return,
    };
    long_number(r#"{"id":"#, id, out);
    if let Some(group) = group {
        number(r#","group":"#, group, out);
    }
    if let Some(seq) = seq {
        number(r#","seq":"#, seq, out);
    }
    number(r#","from":"#, from, out);
    if let Some(to) = to {
        number(r#","to":"#, to, out);
    }
    number(r#","ts":"#, ts_ms, out);
    if duplicate {
        out.extend_from_slice(br#","dup":true"#);
    }
    text(r#","text":"#, words, out);
    out.push(b'}');
}
