//! Keeping the routes of a core's users alive: Presence forgets a route that nobody refreshes.
//!
//! Owns the pace: each user is refreshed well within half of a route's life, in batches. A service
//! that has forgotten a route all the same is told it again, unless the user has logged in
//! elsewhere in the meantime; one that cannot refresh is told every route anew, unless it has one
//! of a login elsewhere. A pass fits between two.

use std::{
    collections::HashSet,
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    base::{
        close::CloseReason,
        id::{Stream, UserId},
    },
    contract::{
        backend::{Backend, CallError},
        bus::PushSource,
        methods::{Answer, method},
    },
    flow::core::Core,
    proto::{BindRouteRequest, Code, QueryRouteRequest, QueryRouteResponse, RefreshRoutesRequest},
    session::HeldSession,
};

/// Users of one call.
const BATCH_USERS: usize = 500;
/// Between two batches, and for each user that is bound anew, at most.
const PACE: Duration = Duration::from_millis(5);
/// Users that are bound anew at one time.
const USERS_AT_ONCE: usize = 8;
/// After a pass in which something failed, the next one comes so soon.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A route was not refreshed; it will be tried again.
pub(super) struct NotRefreshed;

/// Why users are bound anew.
#[derive(Clone, Copy)]
enum Anew {
    /// Presence has forgotten these.
    Forgotten,
    /// Presence cannot refresh, and keeps one route for each user.
    Newest,
}

/// Refreshes the routes of the core's users, for ever. A route lives for `lifetime`.
pub async fn keep<B: Backend, P: PushSource>(core: Rc<Core<B, P>>, lifetime: Duration) {
    // A pass takes time too, and one that fails needs another within the same life.
    let interval = lifetime * 2 / 5;
    let mut wait = interval;
    loop {
        core.pause(wait).await;
        let began_us = core.advance_clock().monotonic_us;
        let outcome = refresh_all(&core, interval).await;
        let took = Duration::from_micros(core.advance_clock().monotonic_us - began_us);
        wait = match outcome {
            Ok(()) => interval.saturating_sub(took),
            Err(NotRefreshed) => interval.min(AFTER_FAILURE),
        };
    }
}

async fn refresh_all<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    interval: Duration,
) -> Result<(), NotRefreshed> {
    let users = core.shard().users_here();
    let pace = pace(interval, users.len());
    let mut outcome = Ok(());
    for batch in users.chunks(BATCH_USERS) {
        if refresh(core, batch, pace).await.is_err() {
            outcome = Err(NotRefreshed);
        }
        core.pause(pace).await;
    }
    outcome
}

/// The pause for each of `users`: all together take up half of a pass's time at most.
fn pace(interval: Duration, users: usize) -> Duration {
    let users = u32::try_from(users).unwrap_or(u32::MAX).max(1);
    PACE.min(interval / users / 2)
}

async fn refresh<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    users: &[UserId],
    pace: Duration,
) -> Result<(), NotRefreshed> {
    let request = {
        let shard = core.shard();
        let sessions = users.iter().flat_map(|user| shard.sessions_of(*user));
        RefreshRoutesRequest {
            gateway_id: core.route.as_str().to_owned(),
            user_ids: users.to_vec(),
            session_ids: sessions.map(|held| held.session_id).collect(),
        }
    };
    match core.backend.call::<method::RefreshRoutes>(request).await {
        Ok(response) if response.code() == Code::Ok => {
            // Only those that were asked about, each once, whatever the service names.
            let unknown: HashSet<UserId> = response.unknown_user_ids.into_iter().collect();
            let forgotten = users.iter().filter(|user| unknown.contains(user));
            let forgotten: Vec<UserId> = forgotten.copied().collect();
            bind_all(core, &forgotten, Anew::Forgotten, pace).await
        }
        Err(CallError::Unsupported) => bind_all(core, users, Anew::Newest, pace).await,
        Ok(_) | Err(_) => Err(NotRefreshed),
    }
}

/// Binds these anew, some at a time. One that fails is no reason to leave out those behind it.
async fn bind_all<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    users: &[UserId],
    anew: Anew,
    pace: Duration,
) -> Result<(), NotRefreshed> {
    let mut outcome = Ok(());
    for some in users.chunks(USERS_AT_ONCE) {
        let flows = some.iter().map(|user| async move {
            match anew {
                Anew::Forgotten => bind_again(core, *user).await,
                Anew::Newest => bind_newest(core, *user).await,
            }
        });
        if side_by_side(flows).await.is_err() {
            outcome = Err(NotRefreshed);
        }
        core.pause(pace * some.len() as u32).await;
    }
    outcome
}

/// Carries out all of `flows`; says whether all did what they should.
async fn side_by_side<F: Future<Output = Result<(), NotRefreshed>>>(
    flows: impl Iterator<Item = F>,
) -> Result<(), NotRefreshed> {
    let mut flows: Vec<_> = flows.map(Box::pin).collect();
    let mut outcome = Ok(());
    poll_fn(|context: &mut Context<'_>| {
        flows.retain_mut(|flow| match flow.as_mut().poll(context) {
            Poll::Ready(ended) => {
                if ended.is_err() {
                    outcome = Err(NotRefreshed);
                }
                false
            }
            Poll::Pending => true,
        });
        if flows.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outcome
}

/// Presence has forgotten `user` here. A session that has been replaced meanwhile, unheard, ends;
/// the others are bound.
async fn bind_again<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<(), NotRefreshed> {
    let elsewhere = query(core, user).await.map_err(|_| NotRefreshed)?.routes;
    let sessions = core.shard().sessions_of(user);
    let mut outcome = Ok(());
    for held in sessions {
        // Sessions are numbered by time.
        let is_replaced = elsewhere
            .iter()
            .any(|route| route.device == held.device && route.session_id > held.session_id);
        if is_replaced {
            core.shard()
                .end_session(user, held.session_id, CloseReason::Replaced);
        } else if bind(core, user, held).await.is_err() {
            outcome = Err(NotRefreshed);
        }
    }
    outcome
}

/// Presence keeps one route for each user: that of the newest session here, unless it has one of a
/// login elsewhere.
async fn bind_newest<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<(), NotRefreshed> {
    let _lock = core.gateway.route_locks.take(user).await;
    match whereabouts(core, user).await.map_err(|_| NotRefreshed)? {
        Whereabouts::Elsewhere => Ok(()),
        Whereabouts::Here | Whereabouts::Nowhere => bind_session(core, user).await,
    }
}

/// Binds the newest session of `user` here, whatever Presence has.
pub(super) async fn bind_user<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<(), NotRefreshed> {
    let _lock = core.gateway.route_locks.take(user).await;
    bind_session(core, user).await
}

/// Binds the newest session of `user` here. The caller holds its lock.
async fn bind_session<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<(), NotRefreshed> {
    let sessions = core.shard().sessions_of(user).into_iter();
    match sessions.max_by_key(|held| held.session_id) {
        Some(newest) => bind(core, user, newest).await,
        None => Ok(()),
    }
}

/// Where Presence has a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// It has no route of the user, or cannot tell.
    Nowhere,
    /// One of the routes is this core's.
    Here,
    /// There are routes, none of which is this core's.
    Elsewhere,
}

/// Where Presence has `user`.
pub(super) async fn whereabouts<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<Whereabouts, CallError> {
    let known = match query(core, user).await {
        Err(CallError::Unsupported) => return Ok(Whereabouts::Nowhere),
        known => known?,
    };
    let routes = known.routes.iter().map(|route| &route.gateway_id);
    let mut places = routes
        .chain([&known.gateway_id])
        .filter(|place| !place.is_empty())
        .peekable();
    Ok(if places.peek().is_none() {
        Whereabouts::Nowhere
    } else if places.any(|place| place == core.route.as_str()) {
        Whereabouts::Here
    } else {
        Whereabouts::Elsewhere
    })
}

/// What Presence knows of `user`.
async fn query<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<QueryRouteResponse, CallError> {
    let request = QueryRouteRequest { user_id: user };
    let response = core.backend.call::<method::QueryRoute>(request).await?;
    match response.code() {
        Code::Ok => Ok(response),
        Code::NotFound => Ok(QueryRouteResponse::default()),
        _ => Err(CallError::Internal),
    }
}

/// What binds a session to this core.
pub(super) fn bind_request<B, P>(
    core: &Core<B, P>,
    user: UserId,
    held: HeldSession,
) -> BindRouteRequest {
    BindRouteRequest {
        user_id: user,
        gateway_id: core.route.as_str().to_owned(),
        device: held.device,
        session_id: held.session_id,
        max_devices: core.gateway.max_devices,
        login_session_id: held.login_session.id,
        token_issued_ms: held.login_session.issued_ms,
        session_epoch: held.login_session.epoch,
        handed_out: Vec::new(),
    }
}

async fn bind<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
    held: HeldSession,
) -> Result<(), NotRefreshed> {
    let session_id = held.session_id;
    let mut request = bind_request(core, user, held);
    request.handed_out = core.shard().handed_out(user, session_id);
    let bound = core.backend.call::<method::BindRoute>(request).await;
    let response = bound.map_err(|_| NotRefreshed)?;
    let mut shard = core.shard();
    match response.code() {
        Code::Ok => {}
        // Its session was ended, unheard.
        Code::Unauthenticated => {
            shard.end_session(user, session_id, CloseReason::Revoked);
            return Ok(());
        }
        _ => return Err(NotRefreshed),
    }
    if shard.key_of_session(user, session_id).is_none() {
        // It ended while it was being bound, and its own unbinding may have come first.
        shard.unbind(user, session_id);
    } else {
        // What came while nobody knew of the route was published to nobody.
        shard.fetch_missed(Stream::Direct(user));
    }
    Ok(())
}
