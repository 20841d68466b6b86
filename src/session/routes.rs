//! Keeping the routes of a core's users alive: Presence forgets a route that nobody refreshes.
//!
//! Owns the pace: each user is refreshed well within half of a route's life, in batches. A service that has forgotten a route
//! all the same is told it again, unless the user has logged in elsewhere in the meantime; one that cannot refresh is told
//! every route anew.

use std::{rc::Rc, time::Duration};

use crate::{
    backend::{Answer, Backend, CallError, method},
    bus::PushSource,
    id::{SessionId, UserId},
    proto::{BindRouteRequest, Code, QueryRouteRequest, RefreshRoutesRequest},
    shard::core::Core,
};

/// Users of one call.
const BATCH_USERS: usize = 500;
/// Between two batches, and between two users that are bound anew.
const PACE: Duration = Duration::from_millis(5);
/// After a pass in which something failed, the next one comes so soon.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A route was not refreshed; it will be tried again.
struct NotRefreshed;

/// Refreshes the routes of the core's users, for ever. A route lives for `lifetime`.
pub async fn keep<B: Backend, P: PushSource>(core: Rc<Core<B, P>>, lifetime: Duration) {
    // A pass takes time too, and one that fails needs another within the same life.
    let interval = lifetime * 2 / 5;
    let mut wait = interval;
    loop {
        core.pause(wait).await;
        wait = match refresh_all(&core).await {
            Ok(()) => interval,
            Err(NotRefreshed) => interval.min(AFTER_FAILURE),
        };
    }
}

async fn refresh_all<B: Backend, P: PushSource>(core: &Core<B, P>) -> Result<(), NotRefreshed> {
    let users = core.shard().users_here();
    let mut outcome = Ok(());
    for batch in users.chunks(BATCH_USERS) {
        if refresh(core, batch).await.is_err() {
            outcome = Err(NotRefreshed);
        }
        core.pause(PACE).await;
    }
    outcome
}

async fn refresh<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    users: &[UserId],
) -> Result<(), NotRefreshed> {
    let request = {
        let shard = core.shard();
        let sessions = users.iter().flat_map(|user| shard.sessions_of(*user));
        RefreshRoutesRequest {
            gateway_id: core.route.as_str().to_owned(),
            user_ids: users.to_vec(),
            session_ids: sessions.map(|(session_id, _)| session_id).collect(),
        }
    };
    match core.backend.call::<method::RefreshRoutes>(request).await {
        Ok(response) if is_ok(&response) => {
            for user in response.unknown_user_ids {
                bind_again(core, user).await?;
                core.pause(PACE).await;
            }
            Ok(())
        }
        Err(CallError::Unsupported) => {
            for user in users {
                bind_newest(core, *user).await?;
                core.pause(PACE).await;
            }
            Ok(())
        }
        Ok(_) | Err(_) => Err(NotRefreshed),
    }
}

/// Presence has forgotten `user` here. A session that has been replaced meanwhile, unheard, ends; the others are bound.
async fn bind_again<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<(), NotRefreshed> {
    let request = QueryRouteRequest { user_id: user };
    let elsewhere = match core.backend.call::<method::QueryRoute>(request).await {
        Ok(response) => response.routes,
        Err(_) => return Err(NotRefreshed),
    };
    let sessions = core.shard().sessions_of(user);
    for (session_id, device) in sessions {
        // Sessions are numbered by time.
        let is_replaced = elsewhere
            .iter()
            .any(|route| route.device == device && route.session_id > session_id);
        if is_replaced {
            core.shard().replaced(user, session_id);
            core.notify();
        } else {
            bind(core, user, session_id, device).await?;
        }
    }
    Ok(())
}

/// Presence keeps one route for each user: that of the newest session.
async fn bind_newest<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<(), NotRefreshed> {
    let newest = core.shard().sessions_of(user).into_iter().max();
    match newest {
        Some((session_id, device)) => bind(core, user, session_id, device).await,
        None => Ok(()),
    }
}

async fn bind<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
    session_id: SessionId,
    device: String,
) -> Result<(), NotRefreshed> {
    let request = BindRouteRequest {
        user_id: user,
        gateway_id: core.route.as_str().to_owned(),
        device,
        session_id,
        max_devices: core.gateway.max_devices,
    };
    let bound = core.backend.call::<method::BindRoute>(request).await;
    let response = bound.map_err(|_| NotRefreshed)?;
    if !is_ok(&response) {
        return Err(NotRefreshed);
    }
    if !core
        .shard()
        .sessions_of(user)
        .iter()
        .any(|(id, _)| *id == session_id)
    {
        // It ended while it was being bound, and its own unbinding may have come first.
        core.shard().unbind(user, session_id);
    } else {
        // What came while nobody knew of the route was published to nobody.
        core.shard().look_for_missed(user);
    }
    core.notify();
    Ok(())
}

fn is_ok(response: &impl Answer) -> bool {
    response
        .result()
        .is_some_and(|result| result.code == i32::from(Code::Ok))
}
