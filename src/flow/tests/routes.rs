//! Who is bound again and who is not, at what pace, and who is logged out for want of a way to
//! unbind.

use super::*;
use crate::{
    base::close::CloseReason,
    contract::mpim::Concessions,
    flow::{background, commands, routes},
    shard::fixtures::gateway_conceding,
};

const LIFETIME: Duration = Duration::from_secs(100);
const INTERVAL: Duration = Duration::from_secs(40);
const AFTER_FAILURE: Duration = Duration::from_secs(1);

fn refreshed(unknown_user_ids: Vec<UserId>) -> Result<Response, CallError> {
    Ok(Response::RefreshRoutes(proto::RefreshRoutesResponse {
        result: result(Code::Ok),
        unknown_user_ids,
    }))
}

fn known(code: Code, gateway_id: &str) -> Result<Response, CallError> {
    Ok(Response::QueryRoute(proto::QueryRouteResponse {
        result: result(code),
        gateway_id: gateway_id.into(),
        routes: Vec::new(),
    }))
}

fn bound(code: Code) -> Result<Response, CallError> {
    Ok(Response::BindRoute(proto::BindRouteResponse {
        result: result(code),
        ..Default::default()
    }))
}

/// One pass, and up to the wait for the next one.
fn pass(world: &World) {
    let mut flow: Flow = Box::pin(routes::keep(Rc::clone(&world.core), LIFETIME));
    assert!(!go_on(&mut flow));
}

fn sorted(mut users: Vec<UserId>) -> Vec<UserId> {
    users.sort_unstable();
    users
}

#[test]
fn one_who_cannot_be_bound_keeps_nobody_from_it() {
    let world = World::new(0, |request| match request {
        Request::RefreshRoutes(refresh) => refreshed(refresh.user_ids.clone()),
        Request::QueryRoute(_) => known(Code::Ok, ""),
        Request::BindRoute(bind) if bind.user_id == 7 => bound(Code::Internal),
        _ => bound(Code::Ok),
    });
    for user in 1..=20 {
        world.log_in(user, &[]);
    }
    pass(&world);
    assert_eq!(sorted(world.bound()), (1..=20).collect::<Vec<_>>());
    assert_eq!(
        world.pauses.borrow().last(),
        Some(&AFTER_FAILURE),
        "again soon"
    );
}

#[test]
fn who_was_not_told_that_a_session_ended_learns_it_when_its_route_is_bound_again() {
    let world = World::new(0, |request| match request {
        Request::RefreshRoutes(refresh) => refreshed(refresh.user_ids.clone()),
        Request::QueryRoute(_) => known(Code::Ok, ""),
        Request::BindRoute(bind) if bind.user_id == 7 => bound(Code::Unauthenticated),
        _ => bound(Code::Ok),
    });
    let (ended, _) = world.log_in(7, &[]);
    let (other, session) = world.log_in(8, &[]);
    pass(&world);
    let shard = world.core.shard();
    let reason = |key| shard.connection(key).and_then(|c| c.session.ended());
    assert_eq!(reason(ended), Some(CloseReason::Revoked));
    assert_eq!(reason(other), None);
    let calls = world.calls.borrow();
    let bind = calls.iter().find_map(|call| match call {
        Request::BindRoute(bind) if bind.user_id == 8 => Some(bind),
        _ => None,
    });
    assert_eq!(bind.map(|bind| bind.login_session_id), Some(session));
}

#[test]
fn nobody_is_bound_on_the_word_of_a_failed_query() {
    let world = World::new(0, |request| match request {
        Request::RefreshRoutes(refresh) => refreshed(refresh.user_ids.clone()),
        Request::QueryRoute(query) if query.user_id == 1 => known(Code::Internal, ""),
        Request::QueryRoute(query) if query.user_id == 2 => known(Code::NotFound, ""),
        Request::QueryRoute(query) if query.user_id == 3 => {
            Ok(Response::QueryRoute(proto::QueryRouteResponse {
                result: strange_result(),
                ..Default::default()
            }))
        }
        Request::QueryRoute(_) => known(Code::Ok, ""),
        _ => bound(Code::Ok),
    });
    for user in 1..=4 {
        world.log_in(user, &[]);
    }
    pass(&world);
    assert_eq!(sorted(world.bound()), [2, 4]);
}

#[test]
fn where_routes_cannot_be_refreshed_one_of_a_log_in_elsewhere_stays() {
    let world = World::new(0, |request| match request {
        Request::QueryRoute(query) => match query.user_id {
            1 => known(Code::Ok, "there#0"),
            2 => known(Code::Ok, "here#0"),
            3 => known(Code::NotFound, ""),
            _ => Err(CallError::Unsupported),
        },
        Request::BindRoute(_) => bound(Code::Ok),
        _ => Err(CallError::Unsupported),
    });
    for user in 1..=4 {
        world.log_in(user, &[]);
    }
    pass(&world);
    assert_eq!(sorted(world.bound()), [2, 3, 4]);
}

#[test]
fn a_pass_fits_between_two() {
    let world = World::new(1, |request| match request {
        Request::BindRoute(_) => bound(Code::Ok),
        _ => Err(CallError::Unsupported),
    });
    for user in 1..=5_000 {
        world.log_in(user, &[]);
    }
    pass(&world);
    let pauses = world.pauses.borrow();
    let (first, within, last) = (
        pauses[0],
        &pauses[1..pauses.len() - 1],
        pauses[pauses.len() - 1],
    );
    assert_eq!(first, INTERVAL);
    assert!(within.iter().sum::<Duration>() <= INTERVAL / 2 + Duration::from_secs(1));
    // The next pass begins an interval after this one did, however long this one took.
    assert_eq!(world.now_us.get(), (2 * INTERVAL).as_micros() as u64);
    assert!(last < INTERVAL);
}

#[test]
fn only_who_is_nowhere_else_is_logged_out_for_want_of_unbinding() {
    let world = World::new(0, |request| match request {
        Request::QueryRoute(query) => match query.user_id {
            1 => known(Code::Ok, "there#0"),
            2 => known(Code::Ok, "here#0"),
            3 => known(Code::NotFound, ""),
            4 => known(Code::Internal, ""),
            _ => Err(CallError::Unsupported),
        },
        Request::Logout(_) => Ok(Response::Logout(proto::LogoutResponse {
            result: result(Code::Ok),
        })),
        _ => Err(CallError::Unsupported),
    });
    for user in 1..=5 {
        let session_id = 9;
        let unbind = Effect::Unbind {
            user,
            session_id,
            is_told: false,
        };
        let mut flow: Flow = Box::pin(background::run(Rc::clone(&world.core), unbind));
        assert!(go_on(&mut flow));
    }
    let calls = world.calls.borrow();
    let logged_out = calls.iter().filter_map(|call| match call {
        Request::Logout(logout) => Some(logout.user_id),
        _ => None,
    });
    assert_eq!(logged_out.collect::<Vec<_>>(), [2, 3, 5]);
}

#[test]
fn an_empty_route_takes_away_this_cores_route_and_no_other() {
    let concessions = Concessions {
        empty_route_unbinds: true,
        ..Default::default()
    };
    let mut failed = false;
    let world = World::with_gateway(
        0,
        gateway_conceding(concessions),
        move |request| match request {
            Request::QueryRoute(query) => match query.user_id {
                1 => known(Code::Ok, "there#0"),
                2 | 5 | 6 => known(Code::Ok, "here#0"),
                3 => known(Code::NotFound, ""),
                _ => Err(CallError::Unsupported),
            },
            // Once, as while Redis is away.
            Request::BindRoute(bind)
                if bind.user_id == 5 && !std::mem::replace(&mut failed, true) =>
            {
                bound(Code::Internal)
            }
            Request::BindRoute(_) => bound(Code::Ok),
            Request::Logout(_) => Ok(Response::Logout(proto::LogoutResponse {
                result: result(Code::Ok),
            })),
            _ => Err(CallError::Unsupported),
        },
    );
    world.log_in(6, &[]);
    for (user, is_told) in [
        (1, false),
        (2, false),
        (3, false),
        (4, false),
        (5, true),
        (6, false),
    ] {
        let unbind = Effect::Unbind {
            user,
            session_id: 9,
            is_told,
        };
        let mut flow: Flow = Box::pin(background::run(Rc::clone(&world.core), unbind));
        assert!(go_on(&mut flow));
    }
    let calls = world.calls.borrow();
    let told = calls.iter().filter_map(|call| match call {
        Request::BindRoute(bind) => {
            assert_eq!(bind.gateway_id, "");
            Some(("unbound", bind.user_id))
        }
        Request::Logout(logout) => Some(("logged out", logout.user_id)),
        _ => None,
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("unbound", 2),
            ("logged out", 2),
            ("logged out", 3),
            ("logged out", 4),
            ("unbound", 5),
            ("unbound", 5),
        ]
    );
}

#[test]
fn who_logs_in_on_another_core_meanwhile_keeps_the_route() {
    let concessions = Concessions {
        empty_route_unbinds: true,
        ..Default::default()
    };
    let gateway = gateway_conceding(concessions);
    let route = Rc::new(RefCell::new("here#0".to_owned()));
    let worlds = [0; 2].map(|_| {
        let route = Rc::clone(&route);
        World::with_gateway(0, Arc::clone(&gateway), move |request| match request {
            Request::QueryRoute(_) => known(Code::Ok, &route.borrow()),
            Request::BindRoute(bind) => {
                *route.borrow_mut() = bind.gateway_id.clone();
                bound(Code::Ok)
            }
            _ => Err(CallError::Unsupported),
        })
    });
    let [left, entered] = &worlds;
    let unbind = Effect::Unbind {
        user: 7,
        session_id: 9,
        is_told: true,
    };
    let mut leaving: Flow = Box::pin(background::run(Rc::clone(&left.core), unbind));
    while !(left.calls.borrow().iter()).any(|call| matches!(call, Request::QueryRoute(_))) {
        assert!(!turn(&mut leaving));
    }
    // The question is out: whoever binds now waits for what follows it.
    entered.log_in(7, &[]);
    let core = Rc::clone(&entered.core);
    let mut binding: Flow = Box::pin(async move {
        assert!(routes::bind_user(&core, 7).await.is_ok());
    });
    for _ in 0..10 {
        assert!(!turn(&mut binding));
    }
    assert!(go_on(&mut leaving));
    assert_eq!(*route.borrow(), "");
    assert!(go_on(&mut binding));
    assert_eq!(*route.borrow(), "here#0");
}

#[test]
fn a_log_in_that_fails_after_the_password_is_told_to_the_service_that_took_it() {
    let world = World::new(0, |request| match request {
        Request::Login(_) => Ok(Response::Login(proto::LoginResponse {
            result: result(Code::Ok),
            user_id: 7,
            ..Default::default()
        })),
        Request::BindRoute(_) => Err(CallError::Unavailable),
        Request::Logout(_) => Ok(Response::Logout(proto::LogoutResponse {
            result: result(Code::Ok),
        })),
        _ => Err(CallError::Unsupported),
    });
    let (_, mut job) = world.connect(LOCALHOST, b"login:alice:secret\n");
    let core = Rc::clone(&world.core);
    let mut login: Flow = Box::pin(async move {
        let replies = commands::run(&core, &mut job).await;
        assert!(matches!(*replies, [Reply::Error { .. }]), "{replies:?}");
    });
    assert!(go_on(&mut login));
    let mut due = Vec::new();
    world.core.shard().take_effects(&mut due);
    for effect in due {
        let mut flow: Flow = Box::pin(background::run(Rc::clone(&world.core), effect));
        assert!(go_on(&mut flow));
    }
    let calls = world.calls.borrow();
    let told = calls
        .iter()
        .any(|call| matches!(call, Request::Logout(logout) if logout.user_id == 7));
    assert!(told, "{calls:?}");
}

#[test]
fn a_session_that_is_bound_again_says_what_it_was_pushed() {
    let world = World::new(0, |request| match request {
        Request::RefreshRoutes(refresh) => refreshed(refresh.user_ids.clone()),
        Request::QueryRoute(_) => known(Code::Ok, ""),
        _ => bound(Code::Ok),
    });
    world.log_in(7, &[(5, Some(3)), (6, Some(9))]);
    for seq in [4, 5] {
        world
            .core
            .shard()
            .on_push(std::sync::Arc::new(proto::PushMessage {
                msg_id: 100 + seq as i64,
                from: 8,
                group_id: 5,
                seq,
                text: "hello".into(),
                ..Default::default()
            }));
    }
    pass(&world);
    let calls = world.calls.borrow();
    let handed_out = calls.iter().find_map(|call| match call {
        Request::BindRoute(bind) => Some(bind.handed_out.clone()),
        _ => None,
    });
    let expected = proto::HandedOut {
        group_id: 5,
        from_seq: 4,
        to_seq: 5,
    };
    assert_eq!(handed_out, Some(vec![expected]));
}
