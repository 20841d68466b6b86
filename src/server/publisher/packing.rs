//! From the pushes of a commit to commands for Redis.
//!
//! Owns what shares a payload: all messages of one commit for one channel travel as one `PushBatch`, for a publish costs
//! Redis and its subscribers more than a message does. Only messages are gathered so. Other kinds change who gets what, and
//! stay before what was published after them and behind what was published before, on whatever channel. Pure.

use std::collections::HashMap;

use prost::{
    Message,
    encoding::{encode_varint, encoded_len_varint},
};
use redis::Cmd;

use super::queue::Commit;
use crate::{
    bus::{Channel, channels},
    proto::{PushKind, PushMessage},
};

/// A batch that has grown to this takes no further message, so that no subscriber has to buffer a huge payload.
const PAYLOAD_BYTES: usize = 256 * 1024;
/// The key of `PushBatch.messages`.
const BATCH_ITEM: u8 = 0x0a;

/// Writes commands; keeps its buffers from one commit to the next.
#[derive(Default)]
pub(super) struct Packer {
    command: Cmd,
    payload: Vec<u8>,
    /// The place in `groups` of each channel that takes further messages.
    open: HashMap<Channel, usize>,
    groups: Vec<Group>,
}

/// Pushes that are published together: places in the commit.
struct Group {
    pushes: Vec<usize>,
    bytes: usize,
}

impl Packer {
    /// Appends a `PUBLISH` for everything in `commit`, and says how many those are.
    pub(super) fn pack(&mut self, commit: &Commit, into: &mut Vec<u8>) -> usize {
        if let [(channel, push)] = &commit[..] {
            self.publish(channel, std::iter::once(push), into);
            return 1;
        }
        self.group(commit);
        let groups = std::mem::take(&mut self.groups);
        for group in &groups {
            let pushes = group.pushes.iter().filter_map(|place| commit.get(*place));
            if let Some((channel, _)) = pushes.clone().next() {
                self.publish(channel, pushes.map(|(_, push)| push), into);
            }
        }
        groups.len()
    }

    /// Appends a `PUBLISH` that has every gateway fetch what its users have not been pushed.
    pub(super) fn pack_catch_up(&mut self, into: &mut Vec<u8>) {
        let push = PushMessage {
            kind: PushKind::CatchUp.into(),
            ..PushMessage::default()
        };
        self.publish(&Channel::Broadcast, std::iter::once(&push), into);
    }

    /// Appends any other command.
    pub(super) fn pack_command(&mut self, words: &[&str], into: &mut Vec<u8>) {
        self.command.clear();
        for word in words {
            self.command.arg(*word);
        }
        self.command.write_packed_command(into);
    }

    fn group(&mut self, commit: &Commit) {
        self.open.clear();
        self.groups.clear();
        for (place, (channel, push)) in commit.iter().enumerate() {
            let bytes = push.encoded_len();
            let is_message = push.kind == i32::from(PushKind::Message);
            if !is_message {
                self.open.clear();
            }
            let group = self
                .open
                .get(channel)
                .and_then(|group| self.groups.get_mut(*group))
                .filter(|group| group.bytes + bytes <= PAYLOAD_BYTES);
            match group {
                Some(group) => {
                    group.pushes.push(place);
                    group.bytes += bytes;
                }
                None => {
                    if is_message {
                        self.open.insert(channel.clone(), self.groups.len());
                    }
                    self.groups.push(Group {
                        pushes: vec![place],
                        bytes,
                    });
                }
            }
        }
    }

    fn publish<'a>(
        &mut self,
        channel: &Channel,
        pushes: impl Iterator<Item = &'a PushMessage> + Clone,
        into: &mut Vec<u8>,
    ) {
        self.payload.clear();
        let mut rest = pushes.clone().skip(1);
        match (pushes.clone().next(), rest.next()) {
            (Some(push), None) => push.encode_raw(&mut self.payload),
            _ => pushes.for_each(|push| write_item(push, &mut self.payload)),
        }
        self.command.clear();
        self.command
            .arg("PUBLISH")
            .arg(channels::name(channel))
            .arg(&self.payload[..]);
        self.command.write_packed_command(into);
    }
}

/// One item of a `PushBatch`, without a copy of the push. A test holds it to the message's own encoding.
fn write_item(push: &PushMessage, into: &mut Vec<u8>) {
    let len = push.encoded_len() as u64;
    into.reserve(1 + encoded_len_varint(len) + push.encoded_len());
    into.push(BATCH_ITEM);
    encode_varint(len, into);
    push.encode_raw(into);
}
