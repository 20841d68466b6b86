//! The proof that a push comes from somebody who knows the cluster's push secret.
//!
//! Owns the bytes of field 13 of `PushMessage`: the first 16 bytes of HMAC-SHA256 over the name of
//! the channel, a zero byte, and the message's encoded bytes before that field, which is the last
//! on the wire. Pure.
//!
//! It proves who published, and where to. It does not prove when: what was recorded can be
//! published again. Messages are told apart by their number and id, so a repeat of one does
//! nothing; a repeated kick closes that session once more, if it is there.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// How many bytes of the HMAC travel.
const MAC_BYTES: usize = 16;
/// What stands before them: field 13, as bytes, so many.
const HEAD: [u8; 2] = [13 << 3 | 2, MAC_BYTES as u8];
/// What a seal adds to a message.
pub const SEAL_BYTES: usize = HEAD.len() + MAC_BYTES;

/// The secret that publishers and gateways share. Never shown.
#[derive(Clone)]
pub struct PushKey(Hmac<Sha256>);

impl std::fmt::Debug for PushKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("PushKey(..)")
    }
}

impl PushKey {
    /// The key that is made of `secret`, of any length.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("any length will do"))
    }

    /// The key for what is published on `channel`.
    pub fn of_channel(&self, channel: &str) -> ChannelKey {
        let mut state = self.0.clone();
        state.update(channel.as_bytes());
        state.update(&[0]);
        ChannelKey(state)
    }
}

/// A [`PushKey`] that has taken in the name of a channel: one for all messages of a payload.
pub struct ChannelKey(Hmac<Sha256>);

impl ChannelKey {
    /// Appends the seal to the message whose encoding `bytes` holds from `begin` on.
    pub fn seal(&self, bytes: &mut Vec<u8>, begin: usize) {
        let mut state = self.0.clone();
        state.update(&bytes[begin..]);
        let mac = state.finalize().into_bytes();
        bytes.extend_from_slice(&HEAD);
        bytes.extend_from_slice(&mac[..MAC_BYTES]);
    }

    /// The encoded message without its seal; `None`: it has none that is good. Takes the same time
    /// wherever a bad one differs.
    pub fn open<'a>(&self, sealed: &'a [u8]) -> Option<&'a [u8]> {
        let (message, seal) = sealed.split_last_chunk::<SEAL_BYTES>()?;
        let mac = seal.strip_prefix(&HEAD)?;
        let mut state = self.0.clone();
        state.update(message);
        state.verify_truncated_left(mac).ok().map(|()| message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::proto::PushMessage;

    fn key() -> PushKey {
        PushKey::new(&[0x0b; 20])
    }

    fn sealed(channel: &str, message: &[u8]) -> Vec<u8> {
        let mut bytes = message.to_vec();
        key().of_channel(channel).seal(&mut bytes, 0);
        bytes
    }

    #[test]
    fn the_bytes_are_those_of_the_contract() {
        // RFC 4231, test case 1: the crate does what it says.
        let mut state = Hmac::<Sha256>::new_from_slice(&[0x0b; 20]).expect("a key");
        state.update(b"Hi There");
        let expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        let shown: String = state
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(shown, expected);

        // As printed in `docs/backends.md`.
        let push = PushMessage {
            msg_id: 1001,
            from: 1,
            to: 2,
            ts_ms: 1_795_249_088_327,
            text: "hello".to_owned(),
            seq: 5,
            ..Default::default()
        };
        let mut bytes = push.encode_to_vec();
        let secret: Vec<u8> = (0..32).collect();
        PushKey::new(&secret)
            .of_channel("im:push:gw-1#0")
            .seal(&mut bytes, 0);
        let shown: String = bytes.iter().map(|byte| format!("{byte:02x} ")).collect();
        let printed = include_str!("../../docs/backends.md")
            .split_once("with the secret `00 01 02 … 1f`:")
            .map(|(_, after)| after);
        let printed = printed.expect("the example").trim_start();
        let printed: String = printed
            .lines()
            .take(4)
            .filter_map(|line| line.split_once('|'))
            .flat_map(|(bytes, _)| bytes.split_whitespace())
            .map(|byte| format!("{byte} "))
            .collect();
        assert_eq!(shown, printed);
        // It is field 13 to whoever decodes it.
        let decoded = PushMessage::decode(&bytes[..]).expect("a push");
        assert_eq!(decoded.mac, bytes[bytes.len() - 16..]);
    }

    #[test]
    fn a_seal_is_good_for_its_channel_and_its_message_alone() {
        let bytes = sealed("im:group:7", b"\x08\x07");
        let open = |channel: &str, bytes: &[u8]| {
            let opened = key().of_channel(channel).open(bytes).map(<[u8]>::to_vec);
            opened.is_some()
        };
        assert!(open("im:group:7", &bytes));
        assert!(!open("im:group:8", &bytes));
        assert!(!open("im:group:7", b"\x08\x07"));
        assert!(!open("im:group:7", b""));
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert!(!open("im:group:7", &changed), "byte {index}");
        }
        let longer = [&bytes[..], b"\x58\x01"].concat();
        assert!(!open("im:group:7", &longer), "the seal is the last field");
        let other = PushKey::new(b"another secret").of_channel("im:group:7");
        assert_eq!(other.open(&bytes), None);
        assert!(!format!("{:?}", key()).contains("11"));
    }

    proptest! {
        #[test]
        fn what_is_sealed_can_be_opened_and_nothing_panics(
            message in prop::collection::vec(any::<u8>(), 0..100),
            noise in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let bytes = sealed("im:broadcast", &message);
            let channel = key().of_channel("im:broadcast");
            prop_assert_eq!(channel.open(&bytes), Some(&message[..]));
            prop_assert_eq!(channel.open(&noise), None);
        }
    }
}
