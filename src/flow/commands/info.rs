//! `who`, `profile`, `search`, `whoami`.

use super::{Failure, check_numbers};
use crate::{
    base::id::UserId,
    contract::{
        backend::{Backend, CallError},
        bus::PushSource,
        methods::method,
    },
    flow::core::Core,
    proto::{Code, GetFriendsRequest, GetProfileRequest, QueryRouteRequest, SearchRequest},
    protocol::reply::Reply,
    session::{DEFAULT_DEVICE, job::Job},
};

/// Users that one `search` finds at most.
const SEARCH_LIMIT: u32 = 20;

pub(super) async fn who<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    user: UserId,
) -> Result<Reply, Failure> {
    let response = core
        .ask::<method::QueryRoute>(QueryRouteRequest { user_id: user })
        .await?;
    let mut devices = if response.routes.is_empty() && !response.gateway_id.is_empty() {
        // A service that knows one route for each user, and no device.
        vec![DEFAULT_DEVICE.to_owned()]
    } else {
        let routes = response.routes.into_iter();
        routes.map(|route| route.device).collect()
    };
    let online = !devices.is_empty();
    if online && !may_see_devices(core, job.user(), user).await? {
        devices.clear();
    }
    Ok(Reply::Presence {
        uid: user,
        online,
        devices,
    })
}

/// Whether `asker` may know the devices of `user`: the user, and whom the user has put on the
/// friend list. Where there are no such lists, nobody else may.
async fn may_see_devices<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    asker: UserId,
    user: UserId,
) -> Result<bool, Failure> {
    if asker == user {
        return Ok(true);
    }
    let request = GetFriendsRequest {
        user_id: user,
        only_friend_id: asker,
    };
    match core.ask::<method::GetFriends>(request).await {
        // A broken answer hides nobody's devices from a friend, as if it were the truth.
        Ok(friends) if friends.friend_ids.iter().any(|id| *id <= 0) => {
            Err(Failure::Backend(Code::Internal))
        }
        Ok(friends) => Ok(friends.friend_ids.contains(&asker)),
        Err(Failure::Backend(Code::NotFound) | Failure::Call(CallError::Unsupported)) => Ok(false),
        Err(failure) => Err(failure),
    }
}

pub(super) async fn profile<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<Reply, Failure> {
    let name = name_of(core, user).await?;
    Ok(Reply::Profile { uid: user, name })
}

pub(super) async fn search<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    prefix: &str,
) -> Result<Reply, Failure> {
    let response = core
        .ask::<method::Search>(SearchRequest {
            prefix: prefix.to_owned(),
            limit: SEARCH_LIMIT,
        })
        .await?;
    check_numbers(response.users.iter().map(|user| user.user_id))?;
    let users = response.users.into_iter().take(SEARCH_LIMIT as usize);
    Ok(Reply::Users(
        users.map(|user| (user.user_id, user.name)).collect(),
    ))
}

pub(super) async fn who_am_i<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
) -> Result<Reply, Failure> {
    let known = core
        .shard()
        .connection(job.key)
        .and_then(|connection| connection.session.login())
        .map_or_else(String::new, |login| login.name.clone());
    // A login by token brings no name along.
    let name = if known.is_empty() {
        name_of(core, job.user()).await?
    } else {
        known
    };
    let shard = core.shard();
    let session = shard
        .connection(job.key)
        .map(|connection| &connection.session);
    Ok(Reply::WhoAmI {
        uid: job.user(),
        name,
        device: session.map_or_else(String::new, |session| session.device().to_owned()),
        ack_mode: session.map(|session| session.ack_mode).unwrap_or_default(),
    })
}

async fn name_of<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<String, Failure> {
    let response = core
        .ask::<method::GetProfile>(GetProfileRequest { user_id: user })
        .await?;
    Ok(response.name)
}
