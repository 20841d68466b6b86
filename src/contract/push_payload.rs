//! What is published on a channel, back into pushes.
//!
//! Owns the judgement of a payload: whoever can publish can publish anything. Pure.

use prost::Message;

use super::channels;
use crate::{
    contract::push_mac::{ChannelKey, PushKey},
    proto::{PushKind, PushMessage},
};

/// What a `PushBatch` begins with, and no [`PushMessage`] does: field 1, as a message.
const BATCH_TAG: u8 = 0x0a;

/// The kinds of notice that a broadcast may name in front of its words; anything else is all words.
const BROADCAST_KINDS: [&str; 2] = ["broadcast", "reconnect"];

/// Why a payload, or a message of it, is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not parse, or does not belong on its channel.
    #[error("not a push")]
    NotAPush,
    /// It has no proof that it comes from one who knows the push secret.
    #[error("not signed")]
    Unsigned,
}

/// What is believed of what is published on a channel.
#[derive(Clone, Copy, Debug)]
pub enum Belief<'a> {
    /// Everything: there is no secret.
    All,
    /// What is signed with this key.
    Signed(&'a PushKey),
    /// Plain direct messages without a number, and nothing else: nobody signs on MPIM's channels.
    Plain,
}

/// A `PushBatch` whose messages are left as they came: a seal is over their bytes.
#[derive(Clone, PartialEq, Message)]
struct EncodedBatch {
    #[prost(bytes = "vec", repeated, tag = "1")]
    messages: Vec<Vec<u8>>,
}

/// The pushes in what was published on `channel`, in order, each judged by itself: one that says
/// what its channel does not carry costs the others nothing.
///
/// # Errors
/// A payload that does not parse.
pub fn read(
    channel: &str,
    payload: &[u8],
    belief: Belief<'_>,
) -> Result<Vec<Result<PushMessage, Refused>>, Refused> {
    let key = match belief {
        Belief::Signed(key) => Some(key.of_channel(channel)),
        Belief::All | Belief::Plain => None,
    };
    let judge_one = |bytes: &[u8]| -> Result<PushMessage, Refused> {
        let message = judge(channel, decode(bytes, key.as_ref())?)?;
        match belief {
            Belief::Plain if !is_plain(&message) => Err(Refused::Unsigned),
            _ => Ok(message),
        }
    };
    match payload.first() {
        None => Err(Refused::NotAPush),
        Some(&BATCH_TAG) => {
            let batch = EncodedBatch::decode(payload).map_err(|_| Refused::NotAPush)?;
            Ok(batch
                .messages
                .iter()
                .map(|bytes| judge_one(bytes))
                .collect())
        }
        Some(_) => Ok(vec![judge_one(payload)]),
    }
}

/// Looks at the seal before anything else is made of the bytes.
fn decode(bytes: &[u8], key: Option<&ChannelKey>) -> Result<PushMessage, Refused> {
    let bytes = match key {
        Some(key) => key.open(bytes).ok_or(Refused::Unsigned)?,
        None => bytes,
    };
    let mut message = PushMessage::decode(bytes).map_err(|_| Refused::NotAPush)?;
    // It was for this way alone.
    message.mac = Vec::new();
    Ok(message)
}

/// Whether a message says no more than MPIM's services have to say.
fn is_plain(message: &PushMessage) -> bool {
    let facts = PushMessage {
        msg_id: message.msg_id,
        from: message.from,
        to: message.to,
        ts_ms: message.ts_ms,
        text: message.text.clone(),
        ..PushMessage::default()
    };
    *message == facts
}

fn judge(channel: &str, message: PushMessage) -> Result<PushMessage, Refused> {
    let kind = PushKind::try_from(message.kind).map_err(|_| Refused::NotAPush)?;
    if channel == channels::BROADCAST {
        return judge_broadcast(kind, message);
    }
    // Notices to everyone and calls to catch up are for the one channel that everyone may be
    // disturbed on.
    let is_addressed = message.to > 0 || !message.to_many.is_empty();
    let belongs = match kind {
        PushKind::Message => is_addressed || message.group_id > 0,
        PushKind::Notice | PushKind::Kick => is_addressed,
        PushKind::GroupJoined | PushKind::GroupLeft => message.to > 0 && message.group_id > 0,
        PushKind::CatchUp => false,
    };
    let in_its_group = channels::group_of(channel).is_none_or(|group| group == message.group_id);
    // Services that number nothing give 0.
    if belongs && in_its_group && message.msg_id >= 0 {
        Ok(message)
    } else {
        Err(Refused::NotAPush)
    }
}

/// A broadcast is a notice, whichever way it is written.
fn judge_broadcast(kind: PushKind, message: PushMessage) -> Result<PushMessage, Refused> {
    match kind {
        PushKind::CatchUp => return Ok(message),
        PushKind::Message | PushKind::Notice => {}
        PushKind::Kick | PushKind::GroupJoined | PushKind::GroupLeft => {
            return Err(Refused::NotAPush);
        }
    }
    let named = message
        .text
        .split_once(' ')
        .is_some_and(|(word, _)| BROADCAST_KINDS.contains(&word));
    let text = if named {
        message.text
    } else {
        format!("{} {}", BROADCAST_KINDS[0], message.text)
    };
    Ok(PushMessage {
        kind: PushKind::Notice.into(),
        text,
        to: 0,
        to_many: Vec::new(),
        ..message
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Refused::NotAPush, *};
    use crate::proto::{C2cMsg, PushBatch};

    const PUSH: &str = "im:push:gw-1#0";

    /// What a payload of one message comes to.
    fn single(channel: &str, payload: &[u8]) -> Result<PushMessage, Refused> {
        let [message] = read(channel, payload)?.try_into().expect("one message");
        message
    }

    fn read(channel: &str, payload: &[u8]) -> Result<Vec<Result<PushMessage, Refused>>, Refused> {
        super::read(channel, payload, Belief::All)
    }

    fn message(kind: PushKind) -> PushMessage {
        PushMessage {
            msg_id: 7,
            to: 42,
            text: "hi".to_owned(),
            kind: kind.into(),
            ..Default::default()
        }
    }

    #[test]
    fn one_message_and_a_batch_are_told_apart() {
        let one = message(PushKind::Message);
        let batch = PushBatch {
            messages: vec![one.clone(), message(PushKind::Kick)],
        };
        assert_eq!(read(PUSH, &one.encode_to_vec()), Ok(vec![Ok(one.clone())]));
        let [first, second] = batch.messages.clone().try_into().expect("two");
        assert_eq!(
            read(PUSH, &batch.encode_to_vec()),
            Ok(vec![Ok(first), Ok(second)])
        );
        let with_another = PushBatch {
            messages: vec![message(PushKind::CatchUp), one.clone()],
        };
        assert_eq!(
            read(PUSH, &with_another.encode_to_vec()),
            Ok(vec![Err(NotAPush), Ok(one)])
        );
    }

    #[test]
    fn what_mpim_publishes_is_a_message() {
        let published = C2cMsg {
            msg_id: 0,
            from: 7,
            to: 42,
            ts_ms: 1,
            text: "hi".to_owned(),
            ..Default::default()
        };
        let read = single("31329", &published.encode_to_vec()).expect("a push");
        assert_eq!((read.from, read.to, read.seq), (7, 42, 0));
    }

    #[test]
    fn a_broadcast_is_a_notice_to_everyone() {
        for (text, expected) in [
            ("maintenance at noon", "broadcast maintenance at noon"),
            ("reconnect elsewhere, please", "reconnect elsewhere, please"),
            ("hello", "broadcast hello"),
        ] {
            for kind in [PushKind::Message, PushKind::Notice] {
                let payload = PushMessage {
                    text: text.to_owned(),
                    ..message(kind)
                }
                .encode_to_vec();
                let read = single(channels::BROADCAST, &payload).expect("a push");
                assert_eq!(read.kind, i32::from(PushKind::Notice));
                assert_eq!((read.to, read.text.as_str()), (0, expected));
            }
        }
    }

    #[test]
    fn what_does_not_belong_on_its_channel_is_no_push() {
        let in_group = |group_id| PushMessage {
            group_id,
            ..message(PushKind::Message)
        };
        assert!(single("im:group:9", &in_group(9).encode_to_vec()).is_ok());
        for (channel, message) in [
            ("im:group:9", in_group(8)),
            (
                PUSH,
                PushMessage {
                    to: 0,
                    ..message(PushKind::Message)
                },
            ),
            (
                PUSH,
                PushMessage {
                    to: 0,
                    ..message(PushKind::Notice)
                },
            ),
            (PUSH, message(PushKind::CatchUp)),
            (PUSH, message(PushKind::GroupJoined)),
            (
                PUSH,
                PushMessage {
                    kind: 99,
                    ..message(PushKind::Message)
                },
            ),
            (channels::BROADCAST, message(PushKind::Kick)),
        ] {
            assert_eq!(single(channel, &message.encode_to_vec()), Err(NotAPush));
        }
        for payload in [&b""[..], b"\xff", b"hello", b"\x2a\x02\xff\xfe"] {
            let refused = read(PUSH, payload).map(|messages| messages.first().cloned());
            let refused = refused.and_then(|message| message.unwrap_or(Err(NotAPush)));
            assert_eq!(refused, Err(NotAPush), "{payload:?}");
        }
    }

    #[test]
    fn with_a_key_what_is_not_signed_for_its_channel_is_left_out() {
        let key = PushKey::new(b"the secret of the cluster");
        let signed = |channel: &str, message: &PushMessage| {
            let mut bytes = message.encode_to_vec();
            key.of_channel(channel).seal(&mut bytes, 0);
            bytes
        };
        let read = |channel: &str, payload: &[u8]| {
            super::read(channel, payload, Belief::Signed(&key)).expect("it parses")
        };
        let (hi, kick) = (message(PushKind::Message), message(PushKind::Kick));
        let good = signed(PUSH, &hi);
        assert_eq!(read(PUSH, &good), [Ok(hi.clone())]);
        assert_eq!(read("im:push:gw-1#1", &good), [Err(Refused::Unsigned)]);
        assert_eq!(read(PUSH, &hi.encode_to_vec()), [Err(Refused::Unsigned)]);
        assert_eq!(read(PUSH, &kick.encode_to_vec()), [Err(Refused::Unsigned)]);
        assert_eq!(read(PUSH, b"hello"), [Err(Refused::Unsigned)]);
        let catch_up = message(PushKind::CatchUp);
        let broadcast = signed(channels::BROADCAST, &catch_up);
        assert_eq!(read(channels::BROADCAST, &broadcast), [Ok(catch_up)]);

        // Each message of a batch has a seal of its own, and one without costs the others nothing.
        let batch = EncodedBatch {
            messages: vec![good.clone(), hi.encode_to_vec(), signed(PUSH, &kick)],
        };
        let [first, second, third] = read(PUSH, &batch.encode_to_vec())
            .try_into()
            .expect("three");
        assert_eq!(
            (first, second, third),
            (Ok(hi), Err(Refused::Unsigned), Ok(kick))
        );
        // Without a key, the seal is a field that says nothing.
        assert_eq!(single(PUSH, &good), Ok(message(PushKind::Message)));
    }

    #[test]
    fn on_mpims_channel_nobody_signs_and_only_plain_messages_are_believed() {
        let read = |message: &PushMessage| {
            let read = super::read("31329", &message.encode_to_vec(), Belief::Plain);
            read.expect("it parses").pop().expect("one")
        };
        let plain = message(PushKind::Message);
        assert_eq!(read(&plain), Ok(plain.clone()));
        let numbered = PushMessage {
            seq: 1,
            ..plain.clone()
        };
        let in_group = PushMessage {
            group_id: 9,
            ..plain.clone()
        };
        let copied = PushMessage {
            to_many: vec![1],
            ..plain.clone()
        };
        for more in [numbered, in_group, copied, message(PushKind::Kick)] {
            assert_eq!(read(&more), Err(Refused::Unsigned));
        }
    }

    proptest! {
        #[test]
        fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let key = PushKey::new(b"secret");
            for channel in [PUSH, channels::BROADCAST, "im:group:9", "31329", ""] {
                for belief in [Belief::All, Belief::Signed(&key), Belief::Plain] {
                    let _ = super::read(channel, &payload, belief);
                }
            }
        }
    }
}
