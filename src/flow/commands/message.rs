//! `pull`, `ack`: messages out of the store, and confirmed.

use std::time::Duration;

use futures_lite::future::yield_now;

use super::{Failure, group};
use crate::{
    base::id::{GroupId, MessageId, Stream, UserId},
    contract::{
        backend::{Backend, CallError},
        bus::PushSource,
        methods::method,
    },
    flow::core::Core,
    metrics::PushDrop,
    proto::{
        AckBatchRequest, AckRequest, C2cMsg, GroupMsg, PullOfflineRequest, PullOfflineResponse,
        PushKind, PushMessage,
    },
    protocol::{command::PULL_LIMIT_MAX, reply::Reply},
    session::job::Job,
};

/// A pull lets the core's loop come by so often to send what is unsent, and to ask what is
/// acknowledged: it may let flows run twice before it does.
const TURNS_TO_SEND: usize = 3;
/// Then it waits so long, and twice as long each time, for a TCP that puts off its acknowledgement;
/// in all not longer than a third of a second, since a client that does not read is not waited for.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(160);

/// Messages of a pull that a core encodes at one go.
const SLICE: usize = 64;

pub(super) async fn pull<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    limit: u32,
) -> Result<Reply, Failure> {
    // What has just been pushed must not come again: it arrives first, which confirms it, and the
    // store is told.
    if !job.is_without_connection() {
        let_pushes_arrive(core, job).await;
    }
    let acks = core.shard().take_acks_of(job.user());
    if !acks.is_empty() {
        let request = AckBatchRequest { acks: acks.clone() };
        match core.ask::<method::AckBatch>(request).await {
            // A service that is told nothing of confirmations forgets what it has handed out.
            Ok(_) | Err(Failure::Call(CallError::Unsupported)) => {}
            Err(failure) => {
                // Unconfirmed, they would come again.
                core.shard().confirm_later(acks);
                return Err(failure);
            }
        }
    }
    let pulled = core
        .ask::<method::PullOffline>(PullOfflineRequest {
            user_id: job.user(),
            limit,
            ..Default::default()
        })
        .await?;
    let streams = streams_of(core, job).await?;
    Ok(hand_out(core, job, (limit, &streams), pulled).await)
}

/// The streams whose messages `job` may be given.
async fn streams_of<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
) -> Result<Vec<Stream>, Failure> {
    if !job.is_without_connection() {
        return Ok(core.shard().streams_of(job.key));
    }
    let groups = match group::of_user(core, job.user()).await {
        // Nobody is in a group.
        Err(Failure::Call(CallError::Unsupported)) => Vec::new(),
        groups => groups?,
    };
    let groups = groups.into_iter().map(Stream::Group);
    Ok(std::iter::once(Stream::Direct(job.user()))
        .chain(groups)
        .collect())
}

/// Has the session sent what it has pulled, one slice after the other. Between two of them the core
/// serves others, and one pull at a time is handed out: others wait for a slice of it, not for all
/// that was pulled at once.
async fn hand_out<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    (limit, streams): (u32, &[Stream]),
    pulled: PullOfflineResponse,
) -> Reply {
    let _permit = core.permit_to_hand_out().await;
    let more = pulled.more;
    let mut messages = in_order(pulled);
    drop_what_is_not_theirs(core, streams, &mut messages);
    let too_many = messages.len() > limit as usize;
    // A service without numbers has forgotten what it has handed out, and will not hand it out
    // again.
    let is_numbered = messages.iter().all(|message| message.seq != 0);
    if too_many && is_numbered {
        messages.truncate(limit as usize);
    }
    for (place, slice) in messages.chunks_mut(SLICE).enumerate() {
        if place > 0 {
            yield_now().await;
        }
        // Each slice by itself: some of it may have been pushed while the ones before were sent.
        mark_what_was_pushed(core, job, slice);
        core.shard().deliver_pulled(job, slice);
    }
    Reply::PullDone {
        count: messages.len(),
        more: more || too_many && is_numbered,
    }
}

/// Waits until the client's TCP has acknowledged what was pushed before now and is confirmed by
/// that, for a moment at most: nearly always the line with the command does.
async fn let_pushes_arrive<B: Backend, P: PushSource>(core: &Core<B, P>, job: &Job) {
    let end = core.shard().written(job.key);
    let is_there = || core.shard().is_confirmed(job.key, end);
    let mut wait = FIRST_WAIT;
    for turn in 0.. {
        if is_there() || wait > LONGEST_WAIT {
            return;
        }
        core.shard().ask_now(job.key);
        if turn < TURNS_TO_SEND {
            yield_now().await;
        } else {
            core.pause(wait).await;
            wait *= 2;
        }
    }
}

pub(super) async fn ack<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    ids: &[MessageId],
) -> Result<Reply, Failure> {
    let request = AckRequest {
        user_id: job.user(),
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
    Ok(Reply::Acked(acked))
}

/// Whatever a service hands out, nobody sees messages of other streams than `streams`, which are
/// its own.
pub(crate) fn drop_what_is_not_theirs<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    streams: &[Stream],
    messages: &mut Vec<PushMessage>,
) {
    let before = messages.len();
    messages.retain(|message| {
        let is_theirs = streams.contains(&Stream::of(message.to, message.group_id));
        // Services that number nothing may give 0 for an id.
        is_theirs && message.msg_id >= 0
    });
    let shard = core.shard();
    for _ in messages.len()..before {
        shard.metrics().push_dropped(PushDrop::NoReceiver);
    }
}

/// What this session was pushed comes again by the pull. The service knows so, but where it had
/// forgotten the session's route meanwhile.
fn mark_what_was_pushed<B, P>(core: &Core<B, P>, job: &Job, messages: &mut [PushMessage]) {
    let pushed = core.shard().pushed_to(job.key);
    for message in messages {
        let numbers = pushed.get(&Stream::of(job.user(), message.group_id));
        message.redelivery |= numbers.is_some_and(|numbers| numbers.contains(&message.seq));
    }
}

/// What `user` was handed out before and never confirmed, as much as a client may have unconfirmed.
pub(in crate::flow) async fn handed_out<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<Vec<PushMessage>, Failure> {
    let unconfirmed_limit = core.shard().options().unconfirmed_limit;
    let limit = unconfirmed_limit.min(PULL_LIMIT_MAX as usize) as u32;
    let request = PullOfflineRequest {
        user_id: user,
        limit,
        redelivery_only: true,
        ..Default::default()
    };
    let mut messages = in_order(core.ask::<method::PullOffline>(request).await?);
    messages.retain(|message| message.redelivery);
    Ok(messages)
}

/// The pulled messages, direct and of groups together, oldest first.
fn in_order(pulled: PullOfflineResponse) -> Vec<PushMessage> {
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
pub(crate) fn direct_push(message: C2cMsg) -> PushMessage {
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
