//! What services without `UnbindRoute` are told when a user has left a core: MPIM's.
//!
//! Owns the order: first it is asked whose route Presence has, so that a login on another core or
//! another gateway stays as it is. Then the route is taken away by binding an empty one, where that
//! is conceded; until then messages to the user are published to nobody. Then the user is logged
//! out, as such services refuse who counts as online.

use super::routes::{self, Whereabouts};
use crate::{
    base::{
        id::UserId,
        repeat::{PART_ATTEMPTS, Repeat},
    },
    contract::{
        backend::{Backend, CallError},
        bus::PushSource,
        methods::{Answer, method},
    },
    flow::core::Core,
    proto::{BindRouteRequest, Code, LogoutRequest},
};

/// `user` has left; `is_told`: the User Service hears of it from a command. Tried several times.
pub(super) async fn part<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
    is_told: bool,
) {
    if is_told && !core.gateway.concessions.empty_route_unbinds {
        return;
    }
    let mut waits = Repeat::PART.waits();
    for attempt in 0..PART_ATTEMPTS {
        if attempt > 0 {
            core.wait(&mut waits).await;
        }
        match take_route_away(core, user).await {
            Ok(Left::Gone) if is_told => return,
            Ok(Left::Gone) => return log_out(core, user).await,
            Ok(Left::Elsewhere) => return,
            Err(_) => {}
        }
    }
}

/// Where a user has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Presence knows of no route of the user any more.
    Gone,
    /// Somebody else has the user, or this core has again.
    Elsewhere,
}

/// Takes the route of `user` away, if it is this core's.
pub(super) async fn take_route_away<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<Left, CallError> {
    let _lock = core.gateway.route_locks.take(user).await;
    if core.shard().is_here(user) {
        return Ok(Left::Elsewhere);
    }
    let known = routes::whereabouts(core, user).await?;
    if known == Whereabouts::Elsewhere || core.shard().is_here(user) {
        return Ok(Left::Elsewhere);
    }
    if known == Whereabouts::Here && core.gateway.concessions.empty_route_unbinds {
        let request = BindRouteRequest {
            user_id: user,
            ..Default::default()
        };
        let bound = core.backend.call::<method::BindRoute>(request).await?;
        if bound.code() != Code::Ok {
            return Err(CallError::Internal);
        }
    }
    Ok(Left::Gone)
}

async fn log_out<B: Backend, P: PushSource>(core: &Core<B, P>, user: UserId) {
    if core.shard().is_here(user) {
        return;
    }
    let request = LogoutRequest {
        user_id: user,
        token: String::new(),
    };
    // Where it fails, the next login is refused once, and does it then.
    let _ = core.backend.call::<method::Logout>(request).await;
}
