//! After logins that were answered although a service was away: binds their routes and asks for
//! their groups, once it can be done.
//!
//! Owns the pace. Users are gone through in turn, for routes and for groups apart; a service that
//! fails one of them is not asked for others in that round, and the next round begins behind that
//! one. So a service that is away for a day costs a call every two seconds, however many wait for
//! it, and nobody for whom one fails holds up the others.

use std::rc::Rc;

use super::routes;
use crate::{
    base::{id::UserId, repeat::Repeat},
    contract::{backend::Backend, bus::PushSource},
    flow::{
        background::{self, Missing},
        core::Core,
    },
    shard::unsettled::Lack,
};

/// Until nobody lacks anything.
pub(super) async fn settle_all<B: Backend, P: PushSource>(core: &Rc<Core<B, P>>) {
    let mut waits = Repeat::SETTLE.waits();
    let (mut last_bound, mut last_asked) = (None, None);
    while core.shard().count_unsettled() > 0 {
        core.wait(&mut waits).await;
        let bound = bind_routes(core, &mut last_bound).await;
        let learnt = ask_for_groups(core, &mut last_asked).await;
        if bound || learnt {
            waits.reset();
        }
    }
}

/// Binds those who have no route, as long as that can be done; says whether anybody was bound.
async fn bind_routes<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    last: &mut Option<UserId>,
) -> bool {
    let mut came_on = false;
    let users = core.shard().count_unsettled();
    for _ in 0..users {
        let next = core.shard().next_lacking(*last, |lack| lack.route);
        let Some(user) = next else { break };
        *last = next;
        // As the login would have: what Presence has is older, and may be of a connection that is
        // no more.
        if routes::bind_user(core, user).await.is_err() {
            break;
        }
        core.shard().settled(user, Lack::ROUTE);
        came_on = true;
    }
    came_on
}

/// Asks for the groups of those whose are not known, as long as that is answered; says whether it
/// was.
async fn ask_for_groups<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    last: &mut Option<UserId>,
) -> bool {
    let mut came_on = false;
    let users = core.shard().count_unsettled();
    for _ in 0..users {
        let next = core.shard().next_lacking(*last, |lack| lack.groups);
        let Some(user) = next else { break };
        *last = next;
        match background::learn_groups(core, user).await {
            Ok(is_learnt) => came_on |= is_learnt,
            // Nobody can tell.
            Err(Missing::Refused) => {
                core.shard().settled(user, Lack::GROUPS);
                came_on = true;
            }
            Err(Missing::Failed) => break,
        }
    }
    came_on
}
