//! What was lost is resynced: memberships are brought in line, and nothing goes out that was not
//! asked for.

use super::*;
use crate::{
    base::id::Stream,
    flow::background,
    proto::{PushKind, PushMessage},
};

fn groups(group_ids: &[GroupId], last_seqs: &[u64]) -> Result<Response, CallError> {
    Ok(Response::GetUserGroups(proto::GetUserGroupsResponse {
        result: result(Code::Ok),
        group_ids: group_ids.to_vec(),
        last_seqs: last_seqs.to_vec(),
        ..Default::default()
    }))
}

fn nothing_stored() -> Result<Response, CallError> {
    Ok(Response::PullOffline(proto::PullOfflineResponse {
        result: result(Code::Ok),
        ..Default::default()
    }))
}

fn direct_message(to: i64, seq: u64) -> proto::C2cMsg {
    proto::C2cMsg {
        msg_id: seq as i64,
        from: 70,
        to,
        text: format!("d{seq}"),
        seq,
        ..Default::default()
    }
}

/// The texts pushed to a connection and not yet sent.
fn texts(world: &World, key: ConnectionKey) -> Vec<String> {
    let said = String::from_utf8(world.core.shard().unsent(key).to_vec()).expect("lines");
    said.lines()
        .filter_map(|line| line.split_once(" text=").map(|(_, text)| text.to_owned()))
        .collect()
}

/// The flows that look for what was lost.
fn begin_to_look(world: &World) -> Vec<Flow> {
    let mut effects = Vec::new();
    let mut shard = world.core.shard();
    shard.on_gap();
    shard.take_effects(&mut effects);
    let flows = effects
        .into_iter()
        .map(|effect| Box::pin(background::run(Rc::clone(&world.core), effect)) as Flow);
    flows.collect()
}

fn look(world: &World) {
    let mut flows = begin_to_look(world).into_iter();
    assert!(flows.all(|mut flow| go_on(&mut flow)));
}

/// What looking has found out leads to further flows.
fn look_on(world: &World) {
    let mut effects = Vec::new();
    world.core.shard().take_effects(&mut effects);
    for effect in effects {
        let mut flow: Flow = Box::pin(background::run(Rc::clone(&world.core), effect));
        assert!(go_on(&mut flow));
    }
}

fn times_asked(world: &World) -> usize {
    let calls = world.calls.borrow();
    let asked = calls
        .iter()
        .filter(|call| matches!(call, Request::GetUserGroups(_)));
    asked.count()
}

#[test]
fn memberships_whose_news_was_lost_are_repaired() {
    for last_seqs in [&[2, 6][..], &[]] {
        let mut failures = 2;
        let world = World::new(0, move |request| match request {
            Request::GetUserGroups(_) if failures > 0 => {
                failures -= 1;
                Err(CallError::Timeout)
            }
            Request::GetUserGroups(_) => groups(&[4, 5], last_seqs),
            Request::PullOffline(_) => nothing_stored(),
            _ => Err(CallError::Unavailable),
        });
        let (key, _) = world.log_in(7, &[(3, None), (4, None)]);
        look(&world);
        assert_eq!(world.core.shard().groups_of(key), [4, 5]);
        assert_eq!(times_asked(&world), 3);
    }
}

#[test]
fn where_nobody_knows_of_groups_nothing_changes() {
    let world = World::new(0, |request| match request {
        Request::GetUserGroups(_) => Err(CallError::Unsupported),
        _ => nothing_stored(),
    });
    let (key, _) = world.log_in(7, &[(3, None)]);
    look(&world);
    assert_eq!(world.core.shard().groups_of(key), [3]);
    assert_eq!(times_asked(&world), 1);
}

#[test]
fn a_number_that_is_none_is_left_out_of_an_answer_and_counted() {
    let world = World::new(0, |request| match request {
        Request::GetUserGroups(_) => groups(&[0, 3, -1, 4], &[9, 5, 9, 6]),
        Request::PullGroup(_) => Ok(Response::PullGroup(proto::PullGroupResponse {
            result: result(Code::Ok),
            ..Default::default()
        })),
        _ => nothing_stored(),
    });
    let (key, _) = world.log_in(7, &[(3, Some(5))]);
    look(&world);
    let mut shard = world.core.shard();
    assert_eq!(shard.groups_of(key), [3, 4]);
    assert_eq!(shard.metrics().backend_bad_numbers_total.get(), 2);
    let fetch = shard
        .missed(Stream::Group(4))
        .expect("its numbers are known");
    assert_eq!(fetch.after, 6);
}

#[test]
fn an_answer_with_a_code_that_does_not_exist_says_nothing() {
    let mut is_first = [true; 2];
    let world = World::new(0, move |request| match request {
        Request::GetUserGroups(_) if std::mem::take(&mut is_first[0]) => {
            Ok(Response::GetUserGroups(proto::GetUserGroupsResponse {
                result: strange_result(),
                ..Default::default()
            }))
        }
        Request::GetUserGroups(_) => groups(&[3], &[]),
        Request::PullOffline(_) if std::mem::take(&mut is_first[1]) => {
            Ok(Response::PullOffline(proto::PullOfflineResponse {
                result: strange_result(),
                ..Default::default()
            }))
        }
        Request::PullOffline(_) => Ok(Response::PullOffline(proto::PullOfflineResponse {
            result: result(Code::Ok),
            msg_list: vec![direct_message(7, 1)],
            ..Default::default()
        })),
        _ => Err(CallError::Unavailable),
    });
    let (key, _) = world.log_in(7, &[(3, None)]);
    look(&world);
    assert_eq!(world.core.shard().groups_of(key), [3]);
    assert_eq!(texts(&world, key), ["d1"]);
    assert_eq!(times_asked(&world), 2);
}

#[test]
fn news_that_comes_while_the_service_is_asked_is_newer_than_its_answer() {
    let mut is_first = true;
    let world = World::new(0, move |request| match request {
        Request::GetUserGroups(_) if std::mem::take(&mut is_first) => groups(&[3, 5], &[]),
        Request::GetUserGroups(_) => groups(&[], &[]),
        _ => nothing_stored(),
    });
    let (key, _) = world.log_in(7, &[(3, None)]);
    let mut flows = begin_to_look(&world);
    flows.retain_mut(|flow| !turn(flow));
    // The service has answered, and the answer is on its way.
    world.core.shard().on_push(Arc::new(PushMessage {
        to: 7,
        group_id: 3,
        kind: PushKind::GroupLeft.into(),
        ..Default::default()
    }));
    flows.retain_mut(|flow| !go_on(flow));
    assert!(flows.is_empty());
    assert!(world.core.shard().groups_of(key).is_empty());
    assert_eq!(times_asked(&world), 2);
}

#[test]
fn messages_to_others_do_not_go_out_whoever_hands_them_out() {
    let of_group = |group_id, seq: u64| proto::GroupMsg {
        msg_id: 10 + seq as i64,
        from: 70,
        group_id,
        text: format!("g{seq}"),
        seq,
        ..Default::default()
    };
    let world = World::new(0, move |request| match request {
        Request::PullOffline(_) => Ok(Response::PullOffline(proto::PullOfflineResponse {
            result: result(Code::Ok),
            msg_list: [(7, 1), (8, 2), (7, 3)]
                .map(|(to, seq)| direct_message(to, seq))
                .to_vec(),
            ..Default::default()
        })),
        Request::PullGroup(_) => Ok(Response::PullGroup(proto::PullGroupResponse {
            result: result(Code::Ok),
            group_msg_list: vec![of_group(3, 1), of_group(4, 2), of_group(0, 3)],
            ..Default::default()
        })),
        _ => groups(&[3], &[0]),
    });
    let (key, _) = world.log_in(7, &[(3, Some(0))]);
    look(&world);
    look_on(&world);
    assert_eq!(texts(&world, key), ["d1", "d3", "g1"]);
}
