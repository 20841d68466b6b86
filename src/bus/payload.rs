//! What is published on a channel, back into pushes.
//!
//! Owns the judgement of a payload: whoever can publish can publish anything. Pure.

use prost::Message;

use super::channels;
use crate::proto::{PushBatch, PushKind, PushMessage};

/// What a [`PushBatch`] begins with, and no [`PushMessage`] does: field 1, as a message.
const BATCH_TAG: u8 = 0x0a;

/// The kinds of notice that a broadcast may name in front of its words; anything else is all words.
const BROADCAST_KINDS: [&str; 2] = ["broadcast", "reconnect"];

/// A payload that is no push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a push")]
pub struct NotAPush;

/// The pushes in what was published on `channel`, in order, each judged by itself: one that says what its channel does not carry
/// costs the others nothing.
///
/// # Errors
/// A payload that does not parse.
pub fn read(channel: &str, payload: &[u8]) -> Result<Vec<Result<PushMessage, NotAPush>>, NotAPush> {
    let messages = match payload.first() {
        None => return Err(NotAPush),
        Some(&BATCH_TAG) => PushBatch::decode(payload)
            .map_err(|_| NotAPush)?
            .messages
            .into_iter()
            .map(|message| judge(channel, message))
            .collect(),
        Some(_) => {
            let message = PushMessage::decode(payload).map_err(|_| NotAPush)?;
            vec![judge(channel, message)]
        }
    };
    Ok(messages)
}

fn judge(channel: &str, message: PushMessage) -> Result<PushMessage, NotAPush> {
    let kind = PushKind::try_from(message.kind).map_err(|_| NotAPush)?;
    if channel == channels::BROADCAST {
        return judge_broadcast(kind, message);
    }
    // Notices to everyone and calls to catch up are for the one channel that everyone may be disturbed on.
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
        Err(NotAPush)
    }
}

/// A broadcast is a notice, whichever way it is written.
fn judge_broadcast(kind: PushKind, message: PushMessage) -> Result<PushMessage, NotAPush> {
    match kind {
        PushKind::CatchUp => return Ok(message),
        PushKind::Message | PushKind::Notice => {}
        PushKind::Kick | PushKind::GroupJoined | PushKind::GroupLeft => return Err(NotAPush),
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

    use super::*;
    use crate::proto::C2cMsg;

    const PUSH: &str = "im:push:gw-1#0";

    /// What a payload of one message comes to.
    fn single(channel: &str, payload: &[u8]) -> Result<PushMessage, NotAPush> {
        let [message] = read(channel, payload)?.try_into().expect("one message");
        message
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
            assert_eq!(read(PUSH, payload), Err(NotAPush), "{payload:?}");
        }
    }

    proptest! {
        #[test]
        fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            for channel in [PUSH, channels::BROADCAST, "im:group:9", "31329", ""] {
                let _ = read(channel, &payload);
            }
        }
    }
}
