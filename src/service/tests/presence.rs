//! Routes, devices and what is told when they change.

use prost::Message as _;

use super::*;
use crate::{contract::methods::method, proto::PushKind};

fn query(world: &mut World, user_id: UserId) -> proto::QueryRouteResponse {
    world.call::<method::QueryRoute>(proto::QueryRouteRequest { user_id })
}

#[test]
fn a_second_log_in_of_a_device_replaces_the_first_and_kicks_it_alone() {
    let mut world = World::new();
    let alice = world.user("alice");
    world.bind_device(alice, 0, 1, "phone");
    world.bind_device(alice, 1, 2, "cli");
    let bound = world.bind_device(alice, 2, 3, "phone");
    assert_eq!(bound.displaced.len(), 1);
    assert_eq!(bound.displaced[0].session_id, 1);
    let pushed = world.published();
    assert_eq!(pushed.len(), 1);
    let (channel, kick) = &pushed[0];
    assert_eq!(*channel, route(0));
    assert_eq!((kick.kind(), kick.session_id), (PushKind::Kick, 1));
    assert_eq!(
        (kick.text.as_str(), kick.device.as_str()),
        ("replaced", "phone")
    );
    assert_eq!(query(&mut world, alice).routes.len(), 2);
    assert_eq!(query(&mut world, alice).gateway_id, "gw#2");
}

#[test]
fn past_the_limit_of_devices_the_oldest_is_replaced() {
    let mut world = World::new();
    let alice = world.user("alice");
    for session_id in 1..=5 {
        assert!(world.bind(alice, 0, session_id).displaced.is_empty());
    }
    let bound = world.bind(alice, 0, 6);
    assert_eq!(bound.displaced[0].session_id, 1);
    assert_eq!(query(&mut world, alice).routes.len(), 5);
}

#[test]
fn a_bind_that_comes_late_displaces_nobody_but_itself() {
    let backend = StorageMode::Backend {
        exclusive: false,
        route_lifetime: std::time::Duration::from_secs(120),
    };
    for mode in [StorageMode::Embedded, backend] {
        let mut world = World::of_mode(mode, TempDir::new().expect("a directory"), 10_000);
        let alice = world.user("alice");
        world.bind_device(alice, 0, 20, "phone");
        let late = world.bind_device(alice, 1, 10, "phone");
        let gone: Vec<u64> = late.displaced.iter().map(|gone| gone.session_id).collect();
        assert_eq!((gone, late.last_seq), (vec![10], Some(0)));
        let pushed = world.published();
        assert_eq!(pushed.len(), 1);
        assert_eq!((&pushed[0].0, pushed[0].1.session_id), (&route(1), 10));
        assert_eq!(pushed[0].1.kind(), PushKind::Kick);
        assert_eq!(world.bound_sessions(alice), [20]);
        // Another device is as welcome as ever, as long as there is room for one that old.
        assert!(world.bind(alice, 0, 11).displaced.is_empty());
        for session_id in 21..=24 {
            world.bind(alice, 0, session_id);
        }
        assert_eq!(world.bound_sessions(alice), [20, 21, 22, 23, 24]);
        assert_eq!(world.bind(alice, 1, 12).displaced[0].session_id, 12);
        assert_eq!(world.bound_sessions(alice), [20, 21, 22, 23, 24]);
    }
}

#[test]
fn past_the_limit_it_is_the_oldest_session_that_goes_and_not_the_one_bound_first() {
    let mut world = World::new();
    let alice = world.user("alice");
    for session_id in [3, 1, 4, 2, 5] {
        world.bind(alice, 0, session_id);
    }
    assert_eq!(world.bind(alice, 0, 6).displaced[0].session_id, 1);
    assert_eq!(world.bound_sessions(alice), [3, 4, 2, 5, 6]);
}

#[test]
fn binding_a_session_again_changes_nothing_and_displaces_nobody() {
    let mut world = World::new();
    let alice = world.user("alice");
    world.bind(alice, 0, 1);
    assert!(world.bind(alice, 0, 1).displaced.is_empty());
    assert_eq!(query(&mut world, alice).routes.len(), 1);
    assert!(world.published().is_empty());
}

#[test]
fn a_late_unbind_of_a_replaced_session_does_not_undo_the_newer_one() {
    let mut world = World::new();
    let alice = world.user("alice");
    world.bind_device(alice, 0, 1, "phone");
    world.bind_device(alice, 0, 2, "phone");
    world.unbind(alice, 1);
    assert_eq!(query(&mut world, alice).routes.len(), 1);
    world.unbind(alice, 2);
    assert!(query(&mut world, alice).routes.is_empty());
}

#[test]
fn an_unknown_user_is_not_found_and_an_absent_one_has_no_routes() {
    let mut world = World::new();
    let alice = world.user("alice");
    assert_eq!(code(&query(&mut world, 4711).result), Code::NotFound);
    assert_eq!(code(&world.bind(4711, 0, 1).result), Code::NotFound);
    let absent = query(&mut world, alice);
    assert_eq!(code(&absent.result), Code::Ok);
    assert!(absent.routes.is_empty() && absent.gateway_id.is_empty());
}

#[test]
fn binding_tells_the_number_after_which_everything_is_published() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.send(alice, bob, "1");
    let requests = vec![
        world.draft(alice, bob, "2").into(),
        proto::BindRouteRequest {
            user_id: bob,
            gateway_id: "gw#0".to_owned(),
            session_id: 1,
            ..Default::default()
        }
        .into(),
        world.draft(alice, bob, "3").into(),
    ];
    let replies = world.batch(requests);
    let bound = proto::BindRouteResponse::try_from(replies[1].clone()).expect("a bind");
    assert_eq!(bound.last_seq, Some(2));
    let numbers: Vec<u64> = world.published().iter().map(|(_, push)| push.seq).collect();
    assert_eq!(numbers, [3]);
}

#[test]
fn only_what_was_published_while_bound_counts_as_handed_out() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let group = world.group(alice, &[bob]);
    for (step, expected_bound) in [("before", false), ("while", true), ("after", false)] {
        if expected_bound {
            world.bind(bob, 0, 1);
            world.bind(bob, 1, 2);
        } else if step == "after" {
            world.unbind(bob, 1);
            world.send(alice, bob, "still bound");
            world.unbind(bob, 2);
        }
        world.send(alice, bob, step);
        world.send_group(alice, group, step);
    }
    let expected = [
        ("before", false),
        ("while", true),
        ("still bound", true),
        ("after", false),
        ("before", false),
        ("while", true),
        ("after", false),
    ];
    let expected = expected.map(|(text, mark)| (text.to_owned(), mark));
    assert_eq!(world.pulled(bob), expected);
}

#[test]
fn a_payload_is_delivered_to_every_route_and_garbage_is_refused() {
    let mut world = World::new();
    let alice = world.user("alice");
    world.bind(alice, 0, 1);
    world.bind(alice, 1, 2);
    let mut deliver = |payload: Vec<u8>| {
        let request = proto::DeliverRequest { to: alice, payload };
        let response = world.call::<method::Deliver>(request);
        (code(&response.result), world.published())
    };
    let message = proto::C2cMsg {
        msg_id: 9,
        from: 3,
        to: alice,
        text: "hi".to_owned(),
        ..Default::default()
    };
    let (delivered, pushed) = deliver(message.encode_to_vec());
    assert_eq!(delivered, Code::Ok);
    assert_eq!(pushed.len(), 2);
    assert_eq!((pushed[0].1.msg_id, pushed[0].1.text.as_str()), (9, "hi"));
    for garbage in [vec![], vec![0xff; 9], vec![0x0a, 0x7f]] {
        let (refused, pushed) = deliver(garbage);
        assert_eq!(refused, Code::Invalid);
        assert!(pushed.is_empty());
    }
}

#[test]
fn a_route_that_names_no_core_is_refused() {
    let mut world = World::new();
    let alice = world.user("alice");
    for gateway_id in ["", "gw", "#1", "gw#x"] {
        let response = world.call::<method::BindRoute>(proto::BindRouteRequest {
            user_id: alice,
            gateway_id: gateway_id.to_owned(),
            session_id: 1,
            ..Default::default()
        });
        assert_eq!(code(&response.result), Code::Invalid, "{gateway_id}");
    }
}
