//! What a core has to do with backends and the bus beside answering commands: confirm, unbind,
//! fetch, listen, catch up, look for what was lost.

use std::rc::Rc;

use crate::{
    base::{
        id::{ConnectionKey, GroupId, SessionId, Stream, UserId},
        mutation::{Mutation, is_seeded},
        repeat::{OWED_ATTEMPTS, Repeat},
    },
    contract::{
        backend::{Backend, CallError},
        bus::PushSource,
        methods::{Answer, Method, method},
    },
    flow::{
        commands::{
            group::with_standings,
            message::{direct_push, drop_what_is_not_theirs, group_push, handed_out},
        },
        core::Core,
        parting, settle,
    },
    proto::{
        AckBatchRequest, Code, GetUserGroupsRequest, PullGroupRequest, PullOfflineRequest,
        PushMessage, UnbindRouteRequest,
    },
    shard::{
        Effect, Standing,
        push::Page,
        resync::{ResyncPermit, ResyncTarget},
        sequencer::Fetch,
        window::CatchUp,
    },
};

/// Messages fetched at a time.
const PAGE: u32 = 500;
/// Messages sent at a time to a client that catches up: small enough to fit its queue.
const CATCH_UP_PAGE: usize = 50;

/// Why what was asked for did not come.
pub(super) enum Missing {
    /// This user may not have it, or nobody serves it.
    Refused,
    /// It may come another time.
    Failed,
}

impl From<CallError> for Missing {
    fn from(_: CallError) -> Self {
        Self::Failed
    }
}

/// Carries out one effect.
pub async fn run<B: Backend, P: PushSource>(core: Rc<Core<B, P>>, effect: Effect) {
    match effect {
        Effect::Confirm(acks) => {
            let request = AckBatchRequest { acks };
            // Unconfirmed, they will come again, marked as repeats: no harm beyond that.
            let _ = persist::<method::AckBatch, _, _>(&core, request).await;
        }
        Effect::Unbind { .. } if is_seeded(Mutation::RouteStaysBound) => {}
        Effect::Unbind {
            user,
            session_id,
            is_told,
        } => {
            let request = UnbindRouteRequest {
                user_id: user,
                gateway_id: core.route.as_str().to_owned(),
                session_id,
            };
            let unbound = persist::<method::UnbindRoute, _, _>(&core, request).await;
            if unbound == Err(CallError::Unsupported) {
                parting::part(&core, user, is_told).await;
            }
        }
        Effect::Fetch { stream, fetch } => fetch_missing(&core, stream, fetch, None).await,
        Effect::Resync { target, permit } => {
            resync(&core, target, permit).await;
            core.shard().continue_resync();
        }
        Effect::Settle(_place) => settle::settle_all(&core).await,
        Effect::Subscribe(group) => {
            core.bus.subscribe(group).await;
            core.shard().group_subscribed(group);
        }
        Effect::Unsubscribe(group) => {
            // Somebody may have come in the meantime.
            if !core.shard().knows_group(group) {
                core.bus.unsubscribe(group);
            }
        }
        Effect::CatchUp { key, session_id } => catch_up(&core, key, session_id).await,
    }
}

/// Calls `M` until it is taken, a bounded number of times.
async fn persist<M, B, P>(core: &Core<B, P>, request: M::Request) -> Result<(), CallError>
where
    M: Method<Request: Clone>,
    B: Backend,
    P: PushSource,
{
    const { assert!(M::IDEMPOTENT, "a call whose fate is unknown is repeated") };
    let mut waits = Repeat::OWED.waits();
    for _ in 0..OWED_ATTEMPTS {
        match core.backend.call::<M>(request.clone()).await {
            Ok(response) if answered(&response).is_ok() => return Ok(()),
            Err(CallError::Unsupported) => return Err(CallError::Unsupported),
            Ok(_) | Err(_) => core.wait(&mut waits).await,
        }
    }
    log::warn!("{}.{} was given up", M::SERVICE.name(), M::NAME);
    Err(CallError::Timeout)
}

/// Resyncs one target. A flow that has been refused goes on, and releases its permit:
/// others need not wait for it.
async fn resync<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    target: ResyncTarget,
    permit: ResyncPermit,
) {
    match target {
        ResyncTarget::Messages(stream) => {
            let fetch = core.shard().missed(stream);
            if let Some(fetch) = fetch {
                fetch_missing(core, stream, fetch, Some(permit)).await;
            }
        }
        ResyncTarget::Memberships(user) => {
            check_memberships(core, user).await;
            core.shard().memberships_known(user);
        }
    }
}

/// Brings the groups of `user` in line with what the service says, unless there is news while it is
/// asked: then it is asked again.
async fn check_memberships<B: Backend, P: PushSource>(core: &Core<B, P>, user: UserId) {
    let mut waits = Repeat::OWED.waits();
    while core.shard().is_here(user) {
        match learn_groups(core, user).await {
            Ok(true) | Err(Missing::Refused) => return,
            Ok(false) | Err(Missing::Failed) => {}
        }
        core.wait(&mut waits).await;
    }
}

/// Asks once for the groups of `user`; `false`: there was news meanwhile, or a login is under way,
/// and it is to be asked again.
pub(super) async fn learn_groups<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<bool, Missing> {
    let (as_of, is_late) = {
        let shard = core.shard();
        (shard.membership_change(user), shard.lacks_groups(user))
    };
    let Some(as_of) = as_of else {
        return Ok(false);
    };
    let groups = groups_of(core, user).await?;
    let is_numbered = groups
        .iter()
        .any(|(_, standing)| standing.last_seq.is_some());
    let handed_out = match is_late && is_numbered {
        true => handed_out_of(core, user, &groups).await?,
        false => Vec::new(),
    };
    let mut shard = core.shard();
    Ok(shard.take_up_groups(user, as_of, &groups, &handed_out))
}

/// What was handed out of these groups and never confirmed.
async fn handed_out_of<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
    groups: &[(GroupId, Standing)],
) -> Result<Vec<PushMessage>, Missing> {
    let mut messages = handed_out(core, user).await.map_err(|_| Missing::Failed)?;
    let streams: Vec<Stream> = groups
        .iter()
        .map(|(group, _)| Stream::Group(*group))
        .collect();
    messages.retain(|message| message.group_id != 0);
    drop_what_is_not_theirs(core, &streams, &mut messages);
    Ok(messages)
}

/// The groups of `user`, each with its last number where the service tells it.
async fn groups_of<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<Vec<(GroupId, Standing)>, Missing> {
    let _permit = core.fetch_permit().await;
    let request = GetUserGroupsRequest { user_id: user };
    let response = match core.backend.call::<method::GetUserGroups>(request).await {
        // Nobody knows who is where.
        Err(CallError::Unsupported) => return Err(Missing::Refused),
        response => response?,
    };
    answered(&response)?;
    Ok(with_standings(core, &response))
}

/// Fetches messages of `stream` until that has worked, or nobody is here for them any more.
async fn fetch_missing<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    stream: Stream,
    mut fetch: Fetch,
    mut permit: Option<ResyncPermit>,
) {
    let mut waits = Repeat::OWED.waits();
    assert!(
        fetch.to == 0 || fetch.after < fetch.to,
        "what is fetched is something: {fetch:?}"
    );
    for attempt in 0.. {
        wait_for_readers(core, stream, &mut permit).await;
        let reader = core.shard().reader(stream, fetch.after, attempt);
        let page = match reader {
            Some(reader) => fetch_page(core, stream, reader, fetch, PAGE).await,
            None => Err(Missing::Refused),
        };
        match page {
            Ok(page) => {
                core.shard().fetched(stream, fetch, page);
                return;
            }
            Err(Missing::Refused) => release_permit(core, &mut permit),
            Err(Missing::Failed) => {}
        }
        core.wait(&mut waits).await;
        match core.shard().fetch_failed(stream, fetch) {
            Some(again) => fetch = again,
            None => return,
        }
    }
}

/// Waits while nobody has room for what is to be fetched: it is fetched at the pace at which it is
/// read.
async fn wait_for_readers<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    stream: Stream,
    permit: &mut Option<ResyncPermit>,
) {
    let mut looks = Repeat::READER.waits();
    while core.shard().is_full(stream) {
        release_permit(core, permit);
        core.wait(&mut looks).await;
    }
}

/// Lets the pass go on without this flow.
fn release_permit<B: Backend, P: PushSource>(core: &Core<B, P>, permit: &mut Option<ResyncPermit>) {
    if permit.take().is_some() {
        core.shard().continue_resync();
    }
}

/// The first messages of `stream` that are `wanted`, in the name of `reader`. They go out for the
/// first time here, whatever the store thinks.
async fn fetch_page<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    stream: Stream,
    reader: UserId,
    wanted: Fetch,
    limit: u32,
) -> Result<Page, Missing> {
    let _permit = core.fetch_permit().await;
    let (mut messages, end) = match stream {
        Stream::Direct(user) => pull_inbox(core, user, wanted, limit).await?,
        Stream::Group(group) => pull_group(core, group, reader, wanted, limit).await?,
    };
    for message in &mut messages {
        message.redelivery = false;
    }
    drop_what_is_not_theirs(core, &[stream], &mut messages);
    Ok(page(stream, wanted, messages, end))
}

type Pulled = (Vec<PushMessage>, Option<u64>);

async fn pull_inbox<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
    wanted: Fetch,
    limit: u32,
) -> Result<Pulled, Missing> {
    let request = PullOfflineRequest {
        user_id: user,
        limit,
        after_seq: Some(wanted.after),
        to_seq: wanted.to,
        ..Default::default()
    };
    let response = core.backend.call::<method::PullOffline>(request).await?;
    answered(&response)?;
    let messages = response.msg_list.into_iter().map(direct_push);
    Ok((messages.collect(), response.last_seq))
}

async fn pull_group<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    group: GroupId,
    reader: UserId,
    wanted: Fetch,
    limit: u32,
) -> Result<Pulled, Missing> {
    let request = PullGroupRequest {
        group_id: group,
        user_id: reader,
        after_seq: wanted.after,
        to_seq: wanted.to,
        limit,
    };
    let response = core.backend.call::<method::PullGroup>(request).await?;
    answered(&response)?;
    let messages = response.group_msg_list.into_iter().map(group_push);
    Ok((messages.collect(), response.last_seq))
}

/// The page that a service answered. The numbers behind it are worth asking for where it may have
/// ended for its size; an empty one says that there is nothing.
fn page(stream: Stream, wanted: Fetch, messages: Vec<PushMessage>, end: Option<u64>) -> Page {
    let to = match (wanted.to, end) {
        (0, end) => end.unwrap_or(u64::MAX),
        (to, end) => end.map_or(to, |end| end.min(to)),
    };
    let last = messages.last().map(|last| last.seq);
    let more = last.is_some_and(|last| last < to);
    // An inbox is its user's to see as a whole: what is not there is not in the store.
    let is_whole = matches!(stream, Stream::Direct(_)) && !more;
    Page {
        end: end.or(is_whole.then_some(last.unwrap_or(wanted.after))),
        messages,
        more,
    }
}

fn answered(response: &impl Answer) -> Result<(), Missing> {
    match response.code() {
        Code::Ok => Ok(()),
        Code::Forbidden | Code::NotFound => Err(Missing::Refused),
        _ => Err(Missing::Failed),
    }
}

/// Sends a client what was held back, as far as it has read what it was sent and its window has
/// room.
async fn catch_up<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    key: ConnectionKey,
    session_id: SessionId,
) {
    let (mut waits, mut looks) = (Repeat::OWED.waits(), Repeat::READER.waits());
    loop {
        let Some(next) = core.shard().next_catch_up(key, session_id) else {
            return;
        };
        if core.shard().is_congested(key) {
            core.wait(&mut looks).await;
            continue;
        }
        looks.reset();
        match catch_up_page(core, next).await {
            Ok(messages) => {
                waits.reset();
                core.shard().caught_up(key, next, messages);
            }
            // It is no member any more: none of these are for it.
            Err(Missing::Refused) => core.shard().caught_up(key, next, Vec::new()),
            // The client may have confirmed all it has, so nothing but this flow would try again.
            Err(Missing::Failed) => core.wait(&mut waits).await,
        }
    }
}

async fn catch_up_page<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    next: CatchUp,
) -> Result<Vec<PushMessage>, Missing> {
    assert!(
        next.room > 0 && next.after < next.to,
        "there is something to send, and room for it: {next:?}"
    );
    let limit = next.room.min(CATCH_UP_PAGE) as u32;
    let wanted = Fetch {
        after: next.after,
        to: next.to,
    };
    let page = fetch_page(core, next.stream, next.user, wanted, limit).await?;
    Ok(page.messages)
}
