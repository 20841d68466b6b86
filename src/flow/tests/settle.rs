//! Logins that go on without a service that is away, and what is made up for later.

use super::*;
use crate::{
    contract::mpim::Concessions,
    flow::background,
    shard::{fixtures::gateway_conceding, unsettled::Lack},
};

fn bound(code: Code) -> Result<Response, CallError> {
    Ok(Response::BindRoute(proto::BindRouteResponse {
        result: result(code),
        ..Default::default()
    }))
}

fn groups(code: Code, group_ids: &[GroupId]) -> Result<Response, CallError> {
    Ok(Response::GetUserGroups(proto::GetUserGroupsResponse {
        result: result(code),
        group_ids: group_ids.to_vec(),
        ..Default::default()
    }))
}

/// The flow that settles, if one is to be started.
fn settling(world: &World) -> Option<Flow> {
    let mut effects = Vec::new();
    world.core.shard().take_effects(&mut effects);
    let mut settling = effects
        .into_iter()
        .filter(|effect| matches!(effect, Effect::Settle(_)));
    let effect = settling.next()?;
    assert!(settling.next().is_none(), "one at a time");
    Some(Box::pin(background::run(Rc::clone(&world.core), effect)))
}

/// Has what the core wants done carried out, and what comes of that.
fn carry_out_all(world: &World) {
    loop {
        let mut effects = Vec::new();
        world.core.shard().take_effects(&mut effects);
        if effects.is_empty() {
            break;
        }
        for effect in effects {
            let mut flow: Flow = Box::pin(background::run(Rc::clone(&world.core), effect));
            assert!(go_on(&mut flow));
        }
    }
}

fn log_in_by_password(world: &World) -> Reply {
    log_in_on_connection(world).0
}

fn log_in_on_connection(world: &World) -> (Reply, ConnectionKey) {
    // The first pause of these worlds is over at once, and the login's patience must not be.
    world.pauses.borrow_mut().push(Duration::ZERO);
    let (key, mut job) = world.connect(LOCALHOST, b"LOGIN alice secret\n");
    let core = Rc::clone(&world.core);
    let reply = Rc::new(RefCell::new(None));
    let into = Rc::clone(&reply);
    let mut login: Flow = Box::pin(async move {
        let reply = crate::flow::commands::run(&core, &mut job).await;
        core.shard().complete(&job, &reply);
        *into.borrow_mut() = reply.into_iter().next();
    });
    assert!(go_on(&mut login));
    (reply.take().expect("a reply"), key)
}

fn answer_login() -> Result<Response, CallError> {
    Ok(Response::Login(proto::LoginResponse {
        result: result(Code::Ok),
        user_id: 7,
        ..Default::default()
    }))
}

#[test]
fn one_for_whom_a_service_fails_holds_up_nobody() {
    let world = World::new(0, |request| match request {
        Request::BindRoute(bind) if bind.user_id == 2 => bound(Code::Internal),
        Request::BindRoute(_) => bound(Code::Ok),
        _ => groups(Code::Ok, &[]),
    });
    for user in 1..=5 {
        world.log_in(user, &[]);
        world.core.shard().lacks(user, Lack::ROUTE);
        world.core.shard().lacks(user, Lack::GROUPS);
    }
    let mut flow = settling(&world).expect("somebody lacks something");
    assert!(settling(&world).is_none());
    assert!(!go_on(&mut flow), "it goes on trying");
    assert_eq!(world.core.shard().count_unsettled(), 1);
    let left = world.core.shard().next_lacking(None, |lack| lack.route);
    assert_eq!(left, Some(2));
    let metrics = world.core.shard().metrics().users_without_route.get();
    assert_eq!(metrics, 1);
}

#[test]
fn a_service_that_is_away_is_asked_once_a_round_and_more_and_more_rarely() {
    let world = World::new(0, |request| match request {
        Request::GetUserGroups(_) => Err(CallError::Unavailable),
        _ => bound(Code::Ok),
    });
    for user in 1..=100 {
        world.log_in(user, &[]);
        world.core.shard().lacks(user, Lack::GROUPS);
    }
    let mut flow = settling(&world).expect("somebody lacks something");
    assert!(!go_on(&mut flow));
    let rounds = world.pauses.borrow().len();
    assert!(world.calls.borrow().len() <= rounds);
    assert_eq!(
        world.pauses.borrow().last(),
        Some(&Duration::from_millis(1600))
    );
}

#[test]
fn whoever_leaves_is_waited_for_no_more() {
    let world = World::new(0, |_| Err(CallError::Unavailable));
    let (key, _) = world.log_in(1, &[]);
    world.core.shard().lacks(1, Lack::ROUTE);
    world.core.shard().log_out_in_place(key, true);
    assert_eq!(world.core.shard().metrics().users_without_route.get(), 0);
    let mut flow = settling(&world).expect("it was begun");
    assert!(go_on(&mut flow));
    world.core.shard().lacks(1, Lack::ROUTE);
    assert!(settling(&world).is_none(), "nobody is here");
}

#[test]
fn a_login_goes_on_without_groups_and_they_are_taken_up_later() {
    let away = Rc::new(Cell::new(true));
    let is_away = Rc::clone(&away);
    let world = World::new(0, move |request| match request {
        Request::Login(_) => answer_login(),
        Request::BindRoute(_) => bound(Code::Ok),
        Request::GetUserGroups(_) if is_away.get() => Err(CallError::Unavailable),
        Request::GetUserGroups(_) => groups(Code::Ok, &[3]),
        _ => Err(CallError::Unsupported),
    });
    let reply = log_in_by_password(&world);
    assert!(matches!(reply, Reply::LoggedIn { .. }), "{reply:?}");
    away.set(false);
    let mut flow = settling(&world).expect("its groups are lacking");
    assert!(go_on(&mut flow));
    assert!(world.core.shard().knows_group(3));
    assert_eq!(world.core.shard().metrics().users_without_route.get(), 0);
}

#[test]
fn groups_learnt_late_bring_what_was_handed_out_and_not_what_was_confirmed_long_ago() {
    let away = Rc::new(Cell::new(true));
    let is_away = Rc::clone(&away);
    let world = World::new(0, move |request| match request {
        Request::Login(_) => answer_login(),
        Request::BindRoute(_) => Ok(Response::BindRoute(proto::BindRouteResponse {
            result: result(Code::Ok),
            last_seq: Some(0),
            ..Default::default()
        })),
        Request::GetUserGroups(_) if is_away.get() => Err(CallError::Timeout),
        Request::GetUserGroups(_) => Ok(Response::GetUserGroups(proto::GetUserGroupsResponse {
            result: result(Code::Ok),
            group_ids: vec![3],
            last_seqs: vec![9],
            since_seqs: vec![1],
        })),
        Request::PullOffline(pull) => {
            assert!(pull.redelivery_only);
            Ok(Response::PullOffline(proto::PullOfflineResponse {
                result: result(Code::Ok),
                group_msg_list: [(3, 7), (3, 10), (4, 2)]
                    .map(|(group, seq)| proto::GroupMsg {
                        group_id: group,
                        msg_id: 100 + seq as i64,
                        from: 8,
                        seq,
                        text: format!("text {seq}"),
                        redelivery: true,
                        ..Default::default()
                    })
                    .to_vec(),
                ..Default::default()
            }))
        }
        Request::PullGroup(pull) => {
            assert_eq!(pull.after_seq, 9, "what came before is not fetched");
            Ok(Response::PullGroup(proto::PullGroupResponse {
                result: result(Code::Ok),
                last_seq: Some(9),
                ..Default::default()
            }))
        }
        _ => Err(CallError::Unsupported),
    });
    let (_, key) = log_in_on_connection(&world);
    world.send_all(key);
    let mut flow = settling(&world).expect("its groups are lacking");
    assert!(!turn(&mut flow));
    away.set(false);
    assert!(go_on(&mut flow));
    carry_out_all(&world);
    let fetched = |call: &Request| matches!(call, Request::PullGroup(_));
    assert!(world.calls.borrow().iter().any(fetched));
    let shard = world.core.shard();
    let sent = String::from_utf8_lossy(shard.unsent(key)).into_owned();
    let lines: Vec<&str> = sent.lines().collect();
    assert_eq!(lines.len(), 1, "{sent}");
    let expected = "GMSG id=107 group=3 seq=7 from=8 ts=0 dup=1 text=text 7";
    assert_eq!(lines[0], expected);
}

#[test]
fn a_login_goes_on_without_presence_only_where_that_is_conceded() {
    for (conceded, answer, goes_on) in [
        (false, bound(Code::Internal), false),
        (true, bound(Code::Internal), true),
        (true, Err(CallError::Unavailable), true),
        (true, Err(CallError::Timeout), true),
        (true, bound(Code::Unauthenticated), false),
        (true, bound(Code::NotFound), false),
        (true, Err(CallError::Unsupported), false),
    ] {
        let text = format!("{conceded} {answer:?}");
        let concessions = Concessions {
            login_without_presence: conceded,
            ..Default::default()
        };
        let mut answer = Some(answer);
        let world =
            World::with_gateway(
                0,
                gateway_conceding(concessions),
                move |request| match request {
                    Request::Login(_) => answer_login(),
                    Request::BindRoute(_) => answer.take().unwrap_or_else(|| bound(Code::Ok)),
                    Request::GetUserGroups(_) => groups(Code::Ok, &[]),
                    _ => Err(CallError::Unsupported),
                },
            );
        let reply = log_in_by_password(&world);
        assert_eq!(matches!(reply, Reply::LoggedIn { .. }), goes_on, "{text}");
        let without_route = world.core.shard().metrics().users_without_route.get();
        assert_eq!(without_route, u64::from(goes_on), "{text}");
        if let Some(mut flow) = settling(&world) {
            assert!(go_on(&mut flow));
            assert_eq!(world.bound(), [7, 7], "{text}");
        }
    }
}
