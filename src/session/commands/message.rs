//! `chat`, `group_chat`, `pull`, `ack`: messages into the store, out of it, and confirmed.

use futures_lite::future::yield_now;

use super::{Failure, check_numbers};
use crate::{
    backend::{Backend, CallError, method},
    bus::PushSource,
    id::{GroupId, MessageId, UserId},
    metrics::PushDrop,
    proto::{
        AckBatchRequest, AckRequest, C2cMsg, GroupMsg, PullOfflineRequest, PullOfflineResponse,
        PushKind, PushMessage, SendGroupRequest, SendRequest,
    },
    protocol::reply::Reply,
    session::{job::Job, outbox::Delivery},
    shard::{core::Core, push::encode_message},
};

/// A message ready to be sent: its line, its id, and what sending it confirms.
pub type EncodedMessage = (Vec<u8>, MessageId, Option<Delivery>);

/// A pull lets the core's loop come by so often to send what is unsent: it may let flows run twice before it sends, and a
/// client that does not read is not waited for.
const TURNS_TO_SEND: usize = 3;

pub(super) async fn chat<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    to: UserId,
    text: &str,
) -> Result<Reply, Failure> {
    let (message_id, ts_ms) = stamp(core);
    let response = core
        .ask::<method::Send>(SendRequest {
            msg: Some(C2cMsg {
                msg_id: message_id,
                from: job.user,
                to,
                ts_ms,
                text: text.to_owned(),
                ..Default::default()
            }),
            client_msg_id: client_message_id(job),
            session_id: job.session_id,
        })
        .await?;
    core.shard().metrics().messages_received_total.inc();
    check_numbers([response.msg_id])?;
    Ok(Reply::Stored {
        group: false,
        message_id: response.msg_id,
        duplicate: is_repeat(response.duplicate, response.msg_id, message_id),
    })
}

pub(super) async fn group_chat<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    group: GroupId,
    text: &str,
) -> Result<Reply, Failure> {
    let (message_id, ts_ms) = stamp(core);
    let response = core
        .ask::<method::SendGroup>(SendGroupRequest {
            msg: Some(GroupMsg {
                msg_id: message_id,
                from: job.user,
                group_id: group,
                ts_ms,
                text: text.to_owned(),
                ..Default::default()
            }),
            client_msg_id: client_message_id(job),
            session_id: job.session_id,
        })
        .await?;
    core.shard().metrics().messages_received_total.inc();
    check_numbers([response.msg_id])?;
    Ok(Reply::Stored {
        group: true,
        message_id: response.msg_id,
        duplicate: is_repeat(response.duplicate, response.msg_id, message_id),
    })
}

/// Whether the client repeated itself. Where the service has stored this very message before, under the id that was made for
/// this command, it was the gateway that repeated the call.
fn is_repeat(duplicate: bool, stored: MessageId, made: MessageId) -> bool {
    duplicate && stored != made
}

pub(super) async fn pull<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    limit: u32,
) -> Result<Reply, Failure> {
    // What has just been pushed must not come again: it leaves first, which confirms it, and the store is told.
    for _ in 0..TURNS_TO_SEND {
        if core.shard().unsent(job.key).is_empty() {
            break;
        }
        core.notify();
        yield_now().await;
    }
    let acks = core.shard().take_acks();
    if !acks.is_empty() {
        let request = AckBatchRequest { acks: acks.clone() };
        match core.ask::<method::AckBatch>(request).await {
            // A service that is told nothing of confirmations forgets what it has handed out.
            Ok(_) | Err(Failure::Call(CallError::Unsupported)) => {}
            Err(failure) => {
                // They are of every user here: not this one's to lose.
                core.shard().confirm_later(acks);
                core.notify();
                return Err(failure);
            }
        }
    }
    let pulled = core
        .ask::<method::PullOffline>(PullOfflineRequest {
            user_id: job.user,
            limit,
            ..Default::default()
        })
        .await?;
    let more = pulled.more;
    let mut messages = in_order(pulled);
    let groups = core.shard().groups_of(job.key);
    drop_what_is_not_theirs(core, job.user, &groups, &mut messages);
    let too_many = messages.len() > limit as usize;
    // A service without numbers has forgotten what it has handed out, and will not hand it out again.
    let is_numbered = messages.iter().all(|message| message.seq != 0);
    if too_many && is_numbered {
        messages.truncate(limit as usize);
    }
    let more = more || too_many && is_numbered;
    core.shard()
        .deliver_pulled(job.key, encode_all(job.user, &messages));
    Ok(Reply::PullDone {
        count: messages.len(),
        more,
    })
}

pub(super) async fn ack<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    ids: &[MessageId],
) -> Result<Reply, Failure> {
    let request = AckRequest {
        user_id: job.user,
        // The client does not say which of them are of groups; ids are unique over both.
        msg_id_list: ids.to_vec(),
        group_msg_id_list: ids.to_vec(),
    };
    let acked = match core.ask::<method::Ack>(request).await {
        Ok(response) => response.acked,
        // A service that is told nothing of confirmations owes nothing after a pull.
        Err(Failure::Call(CallError::Unsupported)) => 0,
        Err(failure) => return Err(failure),
    };
    core.shard().confirmed(job.key, ids);
    core.notify();
    Ok(Reply::Acked(acked))
}

/// Whatever a service hands out, nobody sees messages to others than `user`, or of other groups than these.
pub fn drop_what_is_not_theirs<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
    groups: &[GroupId],
    messages: &mut Vec<PushMessage>,
) {
    let before = messages.len();
    messages.retain(|message| {
        let is_theirs = match message.group_id {
            0 => message.to == user,
            group => groups.contains(&group),
        };
        // Services that number nothing may give 0 for an id.
        is_theirs && message.msg_id >= 0
    });
    let shard = core.shard();
    for _ in messages.len()..before {
        shard.metrics().push_dropped(PushDrop::NoReceiver);
    }
}

/// The pulled messages, direct and of groups together, oldest first.
pub(super) fn in_order(pulled: PullOfflineResponse) -> Vec<PushMessage> {
    let direct = pulled.msg_list.into_iter().map(direct_push);
    let of_groups = pulled.group_msg_list.into_iter().map(group_push);
    let mut messages: Vec<_> = direct.chain(of_groups).collect();
    // Stable: where two carry the same time and id order, the store's own order holds.
    messages.sort_by_key(|message| (message.ts_ms, message.msg_id));
    keep_streams_in_order(&mut messages);
    messages
}

/// Clocks of several gateways may differ: within one inbox or group the numbers decide.
fn keep_streams_in_order(messages: &mut [PushMessage]) {
    let mut streams: std::collections::HashMap<GroupId, Vec<usize>> = Default::default();
    for (index, message) in messages.iter().enumerate() {
        streams.entry(message.group_id).or_default().push(index);
    }
    for places in streams.into_values() {
        let mut stream: Vec<PushMessage> = places
            .iter()
            .map(|place| std::mem::take(&mut messages[*place]))
            .collect();
        stream.sort_by_key(|message| message.seq);
        for (place, message) in places.into_iter().zip(stream) {
            messages[place] = message;
        }
    }
}

/// A stored direct message as the bus would have brought it.
pub fn direct_push(message: C2cMsg) -> PushMessage {
    PushMessage {
        msg_id: message.msg_id,
        from: message.from,
        to: message.to,
        ts_ms: message.ts_ms,
        text: message.text,
        kind: PushKind::Message as i32,
        seq: message.seq,
        redelivery: message.redelivery,
        ..Default::default()
    }
}

/// A stored group message as the bus would have brought it.
pub fn group_push(message: GroupMsg) -> PushMessage {
    PushMessage {
        msg_id: message.msg_id,
        from: message.from,
        group_id: message.group_id,
        ts_ms: message.ts_ms,
        text: message.text,
        kind: PushKind::Message as i32,
        seq: message.seq,
        redelivery: message.redelivery,
        ..Default::default()
    }
}

/// The lines of `messages` for `user`.
pub fn encode_all(user: UserId, messages: &[PushMessage]) -> Vec<EncodedMessage> {
    messages
        .iter()
        .map(|message| {
            let mut line = Vec::new();
            encode_message(message, &mut line);
            let delivery = (message.seq != 0).then_some(Delivery {
                user,
                group: message.group_id,
                seq: message.seq,
                own: message.group_id != 0 && message.from == user,
            });
            (line, message.msg_id, delivery)
        })
        .collect()
}

fn stamp<B: Backend, P: PushSource>(core: &Core<B, P>) -> (MessageId, i64) {
    let mut shard = core.shard();
    let ts_ms = i64::try_from(shard.now().unix_ms).unwrap_or(i64::MAX);
    (shard.next_id(), ts_ms)
}

fn client_message_id(job: &Job) -> String {
    job.tag
        .as_ref()
        .map_or_else(String::new, |tag| tag.as_str().to_owned())
}
