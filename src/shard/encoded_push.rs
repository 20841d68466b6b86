//! A push of the bus as clients get it: encoded when the first session needs it, once for each
//! codec.
//!
//! Whatever waits to be pushed waits as the message itself; bytes are made only on their way into
//! an outbox.

use std::sync::Arc;

use crate::{
    base::{
        id::MessageId,
        mutation::{Mutation, is_seeded},
    },
    proto::{PushKind, PushMessage},
    protocol::{codec::Codec, push::Push},
};

/// Buffers that the encodings of one push after the other use.
#[derive(Debug, Default)]
pub(super) struct Buffers([Vec<u8>; Codec::COUNT]);

/// A push on its way to sessions of any codec.
#[derive(Debug)]
pub(super) struct EncodedPush<'a> {
    message: &'a Arc<PushMessage>,
    /// Empty: not encoded yet.
    encodings: Buffers,
}

impl<'a> EncodedPush<'a> {
    /// The push, with buffers that nothing else needs until [`EncodedPush::into_buffers`].
    pub(super) fn new(message: &'a Arc<PushMessage>, mut buffers: Buffers) -> Self {
        buffers.0.iter_mut().for_each(Vec::clear);
        Self {
            message,
            encodings: buffers,
        }
    }

    /// The buffers, for the next push.
    pub(super) fn into_buffers(self) -> Buffers {
        self.encodings
    }

    /// The push as it came.
    pub(super) fn message(&self) -> &'a Arc<PushMessage> {
        self.message
    }

    /// The message's id; 0: it is none.
    pub(super) fn message_id(&self) -> MessageId {
        match self.message.kind() {
            PushKind::Message => self.message.msg_id,
            _ => 0,
        }
    }

    /// What it is in `codec`.
    pub(super) fn bytes(&mut self, codec: Codec) -> &[u8] {
        let bytes = &mut self.encodings.0[codec.index()];
        if bytes.is_empty() {
            codec.write_push(&push_of(self.message), bytes);
            assert!(!bytes.is_empty(), "a push is at least one byte long");
        }
        bytes
    }
}

/// What clients are told of a message or a notice.
pub(super) fn push_of(message: &PushMessage) -> Push<'_> {
    let (id, from, ts_ms) = (message.msg_id, message.from, message.ts_ms);
    let duplicate = message.redelivery && !is_seeded(Mutation::RepeatIsUnmarked);
    let text = message.text.as_str();
    let is_copy = !message.to_many.is_empty();
    let seq = (message.seq != 0 && !is_copy).then_some(message.seq);
    match (message.kind(), message.group_id) {
        (PushKind::Message, 0) => Push::Message {
            id,
            seq,
            from,
            to: is_copy.then_some(message.to),
            ts_ms,
            duplicate,
            text,
        },
        (PushKind::Message, group) => Push::GroupMessage {
            id,
            group,
            seq: (message.seq != 0).then_some(message.seq),
            from,
            ts_ms,
            duplicate,
            text,
        },
        (_, _) => {
            let (kind, text) = text.split_once(' ').unwrap_or((text, ""));
            friend_notice(kind, text).unwrap_or(Push::Notice { kind, text })
        }
    }
}

/// The notice that a friend has come or gone, if `kind` and `text` are those of one.
fn friend_notice<'a>(kind: &str, text: &'a str) -> Option<Push<'a>> {
    let online = match kind {
        "friend_online" => true,
        "friend_offline" => false,
        _ => return None,
    };
    let (uid, name) = text.strip_prefix("uid=")?.split_once(" name=")?;
    let uid = uid.parse().ok().filter(|uid| *uid > 0)?;
    Some(Push::Friend { online, uid, name })
}
