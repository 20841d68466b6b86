//! Having messages stored: one, or all that followed each other on a connection, in one call.
//!
//! Invariants: messages of one connection are stored in the order in which they were sent, whatever
//! fails; each is answered once. A message whose id is another message's gets a new one, and those
//! that wait behind it do, too.

use super::{Failure, check_numbers};
use crate::{
    base::id::MessageId,
    contract::{
        backend::{Backend, CallError},
        bus::PushSource,
        methods::{Answer, method},
    },
    flow::core::Core,
    proto::{
        C2cMsg, Code, GroupMsg, SendBatchItem, SendBatchRequest, SendBatchResponse,
        SendGroupRequest, SendRequest, send_batch_item::Message,
    },
    protocol::{error_code::ErrorCode, reply::Reply},
    session::{
        job::{Asked, Call, Job, Replies},
        pipeline::leaves_open,
    },
};

/// Ids tried for one message. They are far from each other, so that more than one to be taken is
/// rare.
const ID_ATTEMPTS: u32 = 8;

/// Has one message stored, under one id after the other until one is no other message's.
pub(super) async fn one<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    command: &Asked,
) -> Result<Reply, Failure> {
    for _ in 0..ID_ATTEMPTS {
        let (made, ts_ms) = stamp(core)?;
        let answer = match message(job, command, made, ts_ms)? {
            Message::Direct(request) => core
                .ask::<method::Send>(request)
                .await
                .map(|stored| (stored.msg_id, stored.duplicate)),
            Message::Group(request) => core
                .ask::<method::SendGroup>(request)
                .await
                .map(|stored| (stored.msg_id, stored.duplicate)),
        };
        if let Some(outcome) = judge(core, command, made, answer) {
            return outcome;
        }
        id_is_taken(core, made);
    }
    Err(Failure::Backend(Code::Conflict))
}

/// Has the messages of `job` stored, all in one call where a service offers that.
pub(super) async fn all<B: Backend, P: PushSource>(core: &Core<B, P>, job: &Job) -> Replies {
    let mut replies: Vec<Option<Reply>> = job.commands.iter().map(|_| None).collect();
    let failure = match in_calls(core, job, &mut replies).await {
        Ok(()) => Failure::Backend(Code::Conflict),
        Err(Failure::Call(CallError::Unsupported)) => {
            one_by_one(core, job, &mut replies).await;
            Failure::Call(CallError::Unsupported)
        }
        Err(failure) => failure,
    };
    let replies = replies.into_iter();
    replies
        .map(|reply| reply.unwrap_or_else(|| failure.reply()))
        .collect()
}

/// Has those stored that have no reply yet, in one call after the other until no id is another
/// message's. Afterwards those have no reply for which no id was found.
async fn in_calls<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    replies: &mut [Option<Reply>],
) -> Result<(), Failure> {
    let count = |replies: &[Option<Reply>]| replies.iter().filter(|reply| reply.is_none()).count();
    let (mut left, mut attempts) = (count(replies), 0);
    while left > 0 && attempts < ID_ATTEMPTS {
        together(core, job, replies).await?;
        let before = std::mem::replace(&mut left, count(replies));
        attempts = if left < before { 1 } else { attempts + 1 };
    }
    Ok(())
}

/// Has those stored that have no reply yet, in one call. Afterwards those have none whose id was
/// taken.
async fn together<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    replies: &mut [Option<Reply>],
) -> Result<(), Failure> {
    let mut asked = Vec::new();
    let mut items = Vec::new();
    for (index, command) in job.commands.iter().enumerate() {
        if replies[index].is_none() {
            let (made, ts_ms) = stamp(core)?;
            asked.push((index, made));
            items.push(SendBatchItem {
                message: Some(message(job, command, made, ts_ms)?),
            });
        }
    }
    let SendBatchResponse { results, .. } = core
        .ask::<method::SendBatch>(SendBatchRequest { items })
        .await?;
    assert!(!asked.is_empty(), "a call stores something");
    if results.len() != asked.len() {
        return Err(Failure::Backend(Code::Internal));
    }
    let mut conflicts = 0;
    for ((index, made), result) in asked.into_iter().zip(results) {
        let answer = match result.code() {
            Code::Ok => Ok((result.msg_id, result.duplicate)),
            code => Err(Failure::Backend(code)),
        };
        match judge(core, &job.commands[index], made, answer) {
            Some(outcome) => {
                replies[index] = Some(outcome.unwrap_or_else(|failure| failure.reply()));
            }
            None => {
                // Those behind the first one were not looked at.
                conflicts += 1;
                if conflicts == 1 {
                    id_is_taken(core, made);
                }
            }
        }
    }
    Ok(())
}

/// Has those stored that have no reply yet, one after the other. Where it is open what became of
/// one, those behind it are not tried: they might overtake it.
async fn one_by_one<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    replies: &mut [Option<Reply>],
) {
    let mut open: Option<Reply> = None;
    for (command, reply) in job.commands.iter().zip(replies) {
        if reply.is_some() {
            continue;
        }
        let said = match &open {
            Some(open) => open.clone(),
            None => {
                let outcome = one(core, job, command).await;
                outcome.unwrap_or_else(|failure| failure.reply())
            }
        };
        if leaves_open(&said) {
            open = Some(said.clone());
        }
        *reply = Some(said);
    }
}

/// What a service said of a message; `None`: its id is another message's, it needs a new one.
fn judge<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    command: &Asked,
    made: MessageId,
    answer: Result<(MessageId, bool), Failure>,
) -> Option<Result<Reply, Failure>> {
    Some(match answer {
        Ok((message_id, duplicate)) => {
            core.shard().metrics().messages_received_total.inc();
            check_numbers([message_id]).map(|()| Reply::Stored {
                group: matches!(command.call, Call::GroupChat { .. }),
                message_id,
                duplicate: is_repeat(duplicate, message_id, made),
            })
        }
        Err(Failure::Backend(Code::Conflict)) => return None,
        Err(Failure::Backend(Code::Invalid)) if command.tag.is_some() => Err(Failure::Refused(
            ErrorCode::BadArgument,
            "the service refused this; a tag belongs to one receiver and one text",
        )),
        Err(failure) => Err(failure),
    })
}

/// The message that `command` asks to be stored, under the id `made`.
fn message(job: &Job, command: &Asked, made: MessageId, ts_ms: i64) -> Result<Message, Failure> {
    let client_msg_id = command
        .tag
        .as_ref()
        .map_or_else(String::new, |tag| tag.as_str().to_owned());
    match &command.call {
        Call::Chat { to, text } => Ok(Message::Direct(SendRequest {
            msg: Some(C2cMsg {
                msg_id: made,
                from: job.user(),
                to: *to,
                ts_ms,
                text: text.clone(),
                ..Default::default()
            }),
            client_msg_id,
            session_id: job.session_id(),
        })),
        Call::GroupChat { group, text } => Ok(Message::Group(SendGroupRequest {
            msg: Some(GroupMsg {
                msg_id: made,
                from: job.user(),
                group_id: *group,
                ts_ms,
                text: text.clone(),
                ..Default::default()
            }),
            client_msg_id,
            session_id: job.session_id(),
        })),
        _ => {
            debug_assert!(false, "only sends come here");
            Err(Failure::Backend(Code::Internal))
        }
    }
}

/// The store has another message under this id: whoever made it, it makes the same ids as this
/// core.
fn id_is_taken<B: Backend, P: PushSource>(core: &Core<B, P>, made: MessageId) {
    let mut shard = core.shard();
    let conflicts = &shard.metrics().message_id_conflicts_total;
    conflicts.inc();
    // The first, and then less and less often: there may be one for each message.
    if conflicts.get().is_power_of_two() {
        log::warn!(
            "the message id {made} was taken by another message ({} so far); trying others. \
             Another gateway may have the same worker number, see gateway_service.first_worker",
            conflicts.get()
        );
    }
    shard.avoid_others_ids();
}

/// Whether the client repeated itself. Where the service has stored this very message before, under
/// the id that was made for this command, it was the gateway that repeated the call.
fn is_repeat(duplicate: bool, stored: MessageId, made: MessageId) -> bool {
    duplicate && stored != made
}

/// A new id and the time. Without an id nothing can be stored: whoever leases them out is away, and
/// those that were kept for this are used up.
fn stamp<B: Backend, P: PushSource>(core: &Core<B, P>) -> Result<(MessageId, i64), Failure> {
    let mut shard = core.shard();
    let ts_ms = i64::try_from(shard.now().unix_ms).unwrap_or(i64::MAX);
    let id = shard.next_id();
    Ok((id.ok_or(CallError::Unavailable)?, ts_ms))
}
