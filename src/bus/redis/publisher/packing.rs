//! From the pushes of a commit to commands for Redis.
//!
//! Owns what shares a payload: all messages of one commit for one channel travel as one
//! `PushBatch`, for a publish costs Redis and its subscribers more than a message does. Only
//! messages are gathered so. Other kinds change who gets what, and stay before what was published
//! after them and behind what was published before, on whatever channel. Pure.

use std::{collections::HashMap, sync::Arc};

use prost::{
    Message,
    encoding::{self, WireType},
};
use redis::Cmd;

use super::queue::Commit;
use crate::{
    contract::{
        bus::Channel,
        channels,
        push_mac::{ChannelKey, PushKey, SEAL_BYTES},
    },
    proto::{PushKind, PushMessage},
};

/// A batch that has grown to this takes no further message, so that no subscriber has to buffer a
/// huge payload.
const PAYLOAD_BYTES: usize = 256 * 1024;
/// The number of `PushBatch.messages`.
const BATCH_ITEM: u32 = 1;

/// Writes commands; keeps its buffers from one to the next.
#[derive(Default)]
pub(super) struct Packer {
    command: Cmd,
    payload: Vec<u8>,
    /// What each push is signed with; `None`: they are not.
    key: Option<Arc<PushKey>>,
}

/// Pushes of one commit that are published together.
struct Group<'a> {
    channel: &'a Channel,
    pushes: Vec<&'a PushMessage>,
    bytes: usize,
}

impl Packer {
    /// One that signs with `key`, if there is one.
    pub(super) fn new(key: Option<Arc<PushKey>>) -> Self {
        Self {
            key,
            ..Self::default()
        }
    }

    /// Appends a `PUBLISH` for everything in `commit`, and says how many those are.
    pub(super) fn pack(&mut self, commit: &Commit, into: &mut Vec<u8>) -> usize {
        if let [(channel, push)] = &commit[..] {
            self.publish(channel, &[push], into);
            return 1;
        }
        let groups = groups(commit);
        debug_assert_eq!(
            groups.iter().map(|group| group.pushes.len()).sum::<usize>(),
            commit.len(),
            "each push is in one group"
        );
        for group in &groups {
            assert!(
                group.bytes <= PAYLOAD_BYTES || group.pushes.len() == 1,
                "a payload does not grow without end"
            );
            self.publish(group.channel, &group.pushes, into);
        }
        groups.len()
    }

    /// Appends a `PUBLISH` that has every gateway fetch what its users have not been pushed.
    pub(super) fn pack_catch_up(&mut self, into: &mut Vec<u8>) {
        let push = PushMessage {
            kind: PushKind::CatchUp.into(),
            ..PushMessage::default()
        };
        self.publish(&Channel::Broadcast, &[&push], into);
    }

    /// Appends any other command.
    pub(super) fn pack_command(&mut self, words: &[&str], into: &mut Vec<u8>) {
        self.command.clear();
        for word in words {
            self.command.arg(*word);
        }
        self.command.write_packed_command(into);
    }

    fn publish(&mut self, channel: &Channel, pushes: &[&PushMessage], into: &mut Vec<u8>) {
        assert!(!pushes.is_empty(), "nothing is no payload");
        let channel = channels::name(channel);
        let key = self.key.as_ref().map(|key| key.of_channel(&channel));
        self.payload.clear();
        match pushes {
            [push] => encode(push, key.as_ref(), &mut self.payload),
            // A `PushBatch`, without a copy of the pushes. A test holds it to the message's own
            // encoding.
            pushes => {
                let seal_bytes = if key.is_some() { SEAL_BYTES } else { 0 };
                for push in pushes {
                    let bytes = push.encoded_len() + seal_bytes;
                    encoding::encode_key(BATCH_ITEM, WireType::LengthDelimited, &mut self.payload);
                    encoding::encode_varint(bytes as u64, &mut self.payload);
                    encode(push, key.as_ref(), &mut self.payload);
                }
            }
        }
        self.command.clear();
        self.command
            .arg("PUBLISH")
            .arg(channel)
            .arg(&self.payload[..]);
        self.command.write_packed_command(into);
    }
}

/// Appends one push and, with a key, its seal.
fn encode(push: &PushMessage, key: Option<&ChannelKey>, into: &mut Vec<u8>) {
    debug_assert!(push.mac.is_empty(), "only this signs");
    let begin = into.len();
    push.encode_raw(into);
    if let Some(key) = key {
        key.seal(into, begin);
    }
}

fn groups(commit: &Commit) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    // The place of the group of each channel that takes further messages.
    let mut open: HashMap<&Channel, usize> = HashMap::new();
    for (channel, push) in commit {
        let bytes = push.encoded_len() + SEAL_BYTES;
        let is_message = push.kind == i32::from(PushKind::Message);
        if !is_message {
            open.clear();
        }
        let group = open
            .get(channel)
            .and_then(|group| groups.get_mut(*group))
            .filter(|group| group.bytes + bytes <= PAYLOAD_BYTES);
        match group {
            Some(group) => {
                group.pushes.push(push);
                group.bytes += bytes;
            }
            None => {
                if is_message {
                    open.insert(channel, groups.len());
                }
                groups.push(Group {
                    channel,
                    pushes: vec![push],
                    bytes,
                });
            }
        }
    }
    groups
}
