//! Pushes in envelopes.
//!
//! Owns the numbers of pushes, and how a message says which conversation it is of. A push is the
//! same for all who get it, so it does not name its receiver.

use super::{
    VERSION, envelope,
    messages::{
        base::ImHeader,
        message::MessageBody,
        push::{PushMessageBody, PushRequest, PushType},
    },
};
use crate::{
    base::id::{GroupId, MessageId, UserId},
    protocol::{json, push::Push},
};

/// A message.
const MESSAGE: u32 = 5001;
/// A notice, or that the connection is about to be closed.
const NOTICE: u32 = 5003;
/// A message that may have come before.
const REDELIVERED: u32 = 5005;

/// Appends the envelope of `push`.
pub(in crate::protocol) fn write(push: &Push<'_>, out: &mut Vec<u8>) {
    let (header, body) = match Message::of(push) {
        Some(message) => message.push(),
        None => notice(push),
    };
    let request = PushRequest {
        header: None,
        body: Some(body),
    };
    envelope::write(&header, &request, out);
}

fn notice(push: &Push<'_>) -> (ImHeader, PushMessageBody) {
    let header = ImHeader {
        version: VERSION.to_owned(),
        cmd_id: NOTICE,
        ..ImHeader::default()
    };
    let mut content = Vec::new();
    json::push::write_data(push, &mut content);
    let body = PushMessageBody {
        r#type: PushType::PushNotification.into(),
        content: String::from_utf8(content).expect("JSON is text"),
        ..PushMessageBody::default()
    };
    (header, body)
}

/// What was pulled by `reader` as an object of its own; `None`: it is no message.
pub(super) fn body_of(push: &Push<'_>, reader: UserId) -> Option<MessageBody> {
    let message = Message::of(push)?;
    let receiver_uid = match (message.group, message.to) {
        (Some(group), _) => format!("g{group}"),
        (None, to) => to.unwrap_or(reader).to_string(),
    };
    Some(MessageBody {
        message_id: message.id.to_string(),
        content: message.text.to_owned(),
        ext: message.extension(),
        sender_uid: message.from.to_string(),
        receiver_uid,
        create_time: message.ts_ms,
        ..MessageBody::default()
    })
}

/// A message to a user or a group.
struct Message<'a> {
    id: MessageId,
    group: Option<GroupId>,
    from: UserId,
    /// Of a copy for the sender's other devices.
    to: Option<UserId>,
    ts_ms: i64,
    duplicate: bool,
    text: &'a str,
}

impl<'a> Message<'a> {
    fn of(push: &Push<'a>) -> Option<Self> {
        match *push {
            Push::Message {
                id,
                seq: _,
                from,
                to,
                ts_ms,
                duplicate,
                text,
            } => Some(Self {
                id,
                group: None,
                from,
                to,
                ts_ms,
                duplicate,
                text,
            }),
            Push::GroupMessage {
                id,
                group,
                seq: _,
                from,
                ts_ms,
                duplicate,
                text,
            } => Some(Self {
                id,
                group: Some(group),
                from,
                to: None,
                ts_ms,
                duplicate,
                text,
            }),
            Push::Notice { .. } | Push::Friend { .. } | Push::Kick { .. } => None,
        }
    }

    fn push(&self) -> (ImHeader, PushMessageBody) {
        let header = ImHeader {
            version: VERSION.to_owned(),
            cmd_id: match self.duplicate {
                true => REDELIVERED,
                false => MESSAGE,
            },
            from_uid: self.from.to_string(),
            to_uid: match (self.group, self.to) {
                (Some(group), _) => format!("g{group}"),
                (None, to) => to.map_or_else(String::new, |to| to.to_string()),
            },
            timestamp: self.ts_ms.try_into().unwrap_or(0),
            ..ImHeader::default()
        };
        let body = PushMessageBody {
            push_id: self.id.to_string(),
            r#type: PushType::PushMessage.into(),
            content: self.text.to_owned(),
            related_message_id: self.id.to_string(),
            ext: self.extension(),
        };
        (header, body)
    }

    /// Who sent it in which conversation, as JSON: for its readers a direct one is called by the
    /// other of the two.
    fn extension(&self) -> String {
        let (kind, id) = match (self.group, self.to) {
            (Some(group), _) => ("group", group),
            (None, Some(to)) => ("direct", to),
            (None, None) => ("direct", self.from),
        };
        format!(
            r#"{{"sender_uid":"{}","conversation_type":"{kind}","conversation_id":"{id}"}}"#,
            self.from
        )
    }
}
