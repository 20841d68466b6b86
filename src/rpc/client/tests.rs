//! Remote calls against servers that behave and misbehave, without a socket: the tests are the
//! tasks that hold connections.

mod faults;
mod serial;
mod world;

use self::world::*;
use super::*;
use crate::{
    contract::{endpoints::EndpointsBuilder, methods::method},
    proto,
    rpc::wire::mprpc,
};

#[test]
fn calls_with_ids_share_a_connection_and_are_answered_in_any_order() {
    let world = World::with(&[Wire::WithIds]);
    let lines = world.open();
    let (mut alice, mut bob) = (world.login("alice"), world.login("bob"));
    assert!(poll(&mut alice).is_none() && poll(&mut bob).is_none());
    let asked = lines[0].asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].header.timeout_ms, TIMEOUT_MS as u32);
    for call in asked.iter().rev() {
        world.answer(
            &lines[0],
            &reply(Wire::WithIds, call.header.call_id, &call.username),
        );
    }
    assert_eq!(poll(&mut alice), Some(Ok(response("alice"))));
    assert_eq!(poll(&mut bob), Some(Ok(response("bob"))));
}

#[test]
fn a_call_has_all_of_its_time_wherever_in_a_millisecond_it_begins() {
    for begun_us in [10_000, 10_001, 10_500, 10_999] {
        let world = World::with(&[Wire::WithIds]);
        world.open();
        world.remote.expire_calls(begun_us);
        let mut login = world.login("alice");
        assert!(poll(&mut login).is_none());
        let end_us = begun_us + TIMEOUT_MS * 1000;
        world.remote.expire_calls(end_us - 1);
        assert!(poll(&mut login).is_none(), "begun at {begun_us} µs");
        world.remote.expire_calls(end_us + 999);
        assert_eq!(poll(&mut login), Some(Err(CallError::Timeout)));
    }
}

#[test]
fn a_classic_connection_carries_one_call_and_the_pool_grows_to_its_size() {
    let world = World::with(&[Wire::Classic]);
    let first = world.open().remove(0);
    let mut flows: Vec<Flow<'_>> = ["a", "b", "c"].map(|name| world.login(name)).into();
    flows
        .iter_mut()
        .for_each(|flow| assert!(poll(flow).is_none()));
    assert_eq!(first.asked()[0].username, "a");
    let second = world.open().remove(0);
    assert_eq!(second.asked()[0].username, "b");
    assert!(world.dialled.borrow().is_empty(), "two connections at most");
    assert!(first.asked().is_empty());
    world.answer(&first, &reply(Wire::Classic, 0, "a"));
    assert_eq!(poll(&mut flows[0]), Some(Ok(response("a"))));
    assert_eq!(first.asked()[0].username, "c");
    world.answer(&second, &reply(Wire::Classic, 0, "b"));
    world.answer(&first, &reply(Wire::Classic, 0, "c"));
    assert_eq!(poll(&mut flows[1]), Some(Ok(response("b"))));
    assert_eq!(poll(&mut flows[2]), Some(Ok(response("c"))));
    assert!(!first.is_closed() && !second.is_closed());
}

#[test]
fn a_classic_connection_whose_call_was_given_up_is_closed_and_not_used_again() {
    let world = World::with(&[Wire::Classic]);
    let line = world.open().remove(0);
    let mut late = world.login("late");
    assert!(poll(&mut late).is_none());
    line.asked();
    world.pass(TIMEOUT_MS);
    assert_eq!(poll(&mut late), Some(Err(CallError::Timeout)));
    assert!(line.is_closed());
    let mut next = world.login("next");
    assert!(poll(&mut next).is_none());
    assert!(line.asked().is_empty());

    let world = World::with(&[Wire::Classic]);
    let line = world.open().remove(0);
    let mut cancelled = world.login("cancelled");
    assert!(poll(&mut cancelled).is_none());
    drop(cancelled);
    assert!(line.is_closed());
}

#[test]
fn a_classic_reply_that_nobody_asked_for_ends_the_connection() {
    let world = World::with(&[Wire::Classic]);
    let line = world.open().remove(0);
    let bytes = reply(Wire::Classic, 0, "nobody");
    for length in [1, bytes.len()] {
        let received = world
            .remote
            .received(&line.server, &line.connection, &bytes[..length]);
        assert!(received.is_err());
    }
}

#[test]
fn late_repeated_and_wrongly_numbered_replies_reach_nobody() {
    let world = World::with(&[Wire::WithIds, Wire::WithIds]);
    let lines = world.open();
    let mut alice = world.login("alice");
    assert!(poll(&mut alice).is_none());
    let id = lines[0].asked()[0].header.call_id;
    // Over the other server's connection, and under another number.
    world.answer(&lines[1], &reply(Wire::WithIds, id, "mallory"));
    world.answer(&lines[0], &reply(Wire::WithIds, id + (1 << 32), "mallory"));
    assert!(poll(&mut alice).is_none());
    world.answer(&lines[0], &reply(Wire::WithIds, id, "alice"));
    world.answer(&lines[0], &reply(Wire::WithIds, id, "mallory"));
    assert_eq!(poll(&mut alice), Some(Ok(response("alice"))));
    world.answer(&lines[0], &reply(Wire::WithIds, id, "mallory"));
    assert_eq!(world.remote.metrics.backend_stray_replies_total.get(), 4);
}

#[test]
fn what_was_out_on_a_lost_connection_is_repeated_elsewhere_if_that_is_harmless() {
    let world = World::with(&[Wire::WithIds, Wire::WithIds]);
    let lines = world.open();
    let mut login = world.login("alice");
    assert!(poll(&mut login).is_none());
    lines[0].asked();
    world.lose(&lines[0]);
    assert!(poll(&mut login).is_none());
    let again = lines[1].asked();
    assert_eq!(again[0].username, "alice");
    world.answer(
        &lines[1],
        &reply(Wire::WithIds, again[0].header.call_id, "alice"),
    );
    assert_eq!(poll(&mut login), Some(Ok(response("alice"))));

    let request = proto::RegisterRequest::default();
    let mut register: std::pin::Pin<Box<dyn Future<Output = _>>> =
        Box::pin(world.remote.call::<method::Register>(request));
    assert!(poll(&mut register).is_none());
    world.lose(&lines[1]);
    assert_eq!(poll(&mut register), Some(Err(CallError::Lost)));
}

#[test]
fn a_message_is_sent_again_only_to_services_that_keep_its_id() {
    for (wire, expected) in [
        (Wire::Classic, Some(Err(CallError::Lost))),
        (Wire::WithIds, None),
    ] {
        let world = World::with(&[wire, wire]);
        let lines = world.open();
        let request = proto::SendRequest::default();
        let mut send: std::pin::Pin<Box<dyn Future<Output = _>>> =
            Box::pin(world.remote.call::<method::Send>(request));
        assert!(poll(&mut send).is_none());
        let busy = lines.iter().find(|line| !line.asked().is_empty());
        world.lose(busy.expect("it was sent"));
        assert_eq!(poll(&mut send), expected, "{wire:?}");
    }
}

#[test]
fn nobody_waits_where_nobody_can_be_reached() {
    let world = World::new(|_| {});
    let outcome = poll(&mut world.login("alice"));
    assert_eq!(outcome, Some(Err(CallError::Unavailable)), "no instance");

    world.list(&[Wire::WithIds, Wire::Classic]);
    let mut waiting = world.login("alice");
    assert!(poll(&mut waiting).is_none(), "they may be there");
    world.refuse();
    assert_eq!(poll(&mut waiting), Some(Err(CallError::Unavailable)));
    let outcome = poll(&mut world.login("alice"));
    assert_eq!(
        outcome,
        Some(Err(CallError::Unavailable)),
        "known to be down"
    );
}

#[test]
fn a_call_that_waited_for_a_connection_is_sent_when_it_opens() {
    for wire in [Wire::Classic, Wire::WithIds] {
        let world = World::with(&[wire]);
        let mut early = world.login("early");
        assert!(poll(&mut early).is_none());
        let line = world.open().remove(0);
        let asked = line.asked();
        assert_eq!(asked[0].username, "early");
        world.answer(&line, &reply(wire, asked[0].header.call_id, "early"));
        assert_eq!(poll(&mut early), Some(Ok(response("early"))));
    }
}

#[test]
fn a_method_that_no_instance_offers_is_unsupported() {
    let world = World::new(|_| {});
    let mut builder = EndpointsBuilder::default();
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    builder.method(Service::User, "Register", address);
    world
        .remote
        .on_event(BackendEvent::Endpoints(Arc::new(builder.build())));
    let outcome = poll(&mut world.login("alice"));
    assert_eq!(outcome, Some(Err(CallError::Unsupported)));
}

#[test]
fn an_answer_that_makes_no_sense_fails_its_call_and_ends_the_connection() {
    for wire in [Wire::Classic, Wire::WithIds] {
        let world = World::with(&[wire]);
        let line = world.open().remove(0);
        let mut login = world.login("alice");
        assert!(poll(&mut login).is_none());
        let id = line.asked()[0].header.call_id;
        let mut bytes = Vec::new();
        // A token that is not UTF-8.
        let body = b"\x1a\x02\xff\xfe";
        match wire {
            Wire::Classic => mprpc::write_classic_length(body.len(), &mut bytes),
            Wire::WithIds => {
                mprpc::write_reply_header(id, ReplyStatus::ReplyOk, body.len(), &mut bytes);
            }
        }
        bytes.extend_from_slice(body);
        world.answer(&line, &bytes);
        assert_eq!(poll(&mut login), Some(Err(CallError::Internal)));
        assert!(line.is_closed());
    }
}

#[test]
fn what_a_server_says_instead_of_an_answer_decides_what_comes_next() {
    for (said, expected) in [
        (ReplyStatus::ReplyUnknownMethod, CallError::Unsupported),
        (ReplyStatus::ReplyBadRequest, CallError::Internal),
        (ReplyStatus::ReplyInternal, CallError::Internal),
        (ReplyStatus::ReplyOverloaded, CallError::Overloaded),
    ] {
        let world = World::with(&[Wire::WithIds]);
        let line = world.open().remove(0);
        let mut login = world.login("alice");
        assert!(poll(&mut login).is_none());
        let id = line.asked()[0].header.call_id;
        world.answer(&line, &status(id, said));
        assert_eq!(poll(&mut login), Some(Err(expected)));
    }
    // Somebody else may have room.
    let world = World::with(&[Wire::WithIds, Wire::WithIds]);
    let lines = world.open();
    let mut login = world.login("alice");
    assert!(poll(&mut login).is_none());
    let id = lines[0].asked()[0].header.call_id;
    world.answer(&lines[0], &status(id, ReplyStatus::ReplyOverloaded));
    assert!(poll(&mut login).is_none());
    assert_eq!(lines[1].asked().len(), 1);
}

#[test]
fn a_server_of_weight_0_gets_no_calls_and_is_nobody_to_turn_to() {
    for algorithm in Algorithm::ALL {
        let world = World::new(|options| options.algorithm = algorithm);
        world.list_weighted(&[(Wire::WithIds, 0), (Wire::WithIds, 0)]);
        world.open();
        let mut nowhere = world.login("alice");
        assert_eq!(poll(&mut nowhere), Some(Err(CallError::Unavailable)));

        let world = World::new(|options| options.algorithm = algorithm);
        world.list_weighted(&[(Wire::WithIds, 0), (Wire::WithIds, 5)]);
        let lines = world.open();
        let mut login = world.login("alice");
        assert!(poll(&mut login).is_none());
        assert!(lines[0].asked().is_empty());
        let id = lines[1].asked()[0].header.call_id;
        world.answer(&lines[1], &status(id, ReplyStatus::ReplyOverloaded));
        assert_eq!(poll(&mut login), Some(Err(CallError::Overloaded)));
        assert!(lines.iter().all(|line| line.asked().is_empty()));
    }
}

#[test]
fn a_connection_that_was_given_up_while_it_was_opened_takes_nothing() {
    let world = World::with(&[Wire::WithIds]);
    let (server, purpose) = world.dialled.borrow_mut().remove(0);
    let connection = world.remote.opening(&server, true, purpose);
    let mut register = world.register("alice");
    assert!(poll(&mut register).is_none(), "it waits for the connection");
    server.eject(world.clock.get());
    assert!(!world.remote.opened(&server, &connection));
    let line = Line {
        server: Rc::clone(&server),
        connection,
    };
    assert!(line.asked().is_empty());
    world.remote.lost(&server, &line.connection, false);
    assert_eq!(server.connectivity(), Connectivity::Down);
    assert_eq!(poll(&mut register), Some(false));
}

#[test]
fn a_server_that_times_out_again_and_again_is_left_alone_until_it_answers_a_ping() {
    let world = World::with(&[Wire::WithIds, Wire::WithIds]);
    let lines = world.open();
    for _ in 0..6 {
        let mut login = world.login("alice");
        assert!(poll(&mut login).is_none());
        if let Some(call) = lines[1].asked().first() {
            world.answer(
                &lines[1],
                &reply(Wire::WithIds, call.header.call_id, "alice"),
            );
        }
        world.pass(TIMEOUT_MS);
        assert!(poll(&mut login).is_some());
    }
    lines[0].asked();
    for _ in 0..4 {
        let mut login = world.login("alice");
        assert!(poll(&mut login).is_none());
        assert!(lines[0].asked().is_empty(), "it is left alone");
        let id = lines[1].asked()[0].header.call_id;
        world.answer(&lines[1], &reply(Wire::WithIds, id, "alice"));
        assert!(poll(&mut login).is_some_and(|answer| answer.is_ok()));
    }
    world.pass(breaker::OPEN_MS);
    let ping = lines[0].asked().remove(0);
    assert_eq!(ping.header.method_name, b"Ping");
    world.answer(
        &lines[0],
        &status(ping.header.call_id, ReplyStatus::ReplyUnknownMethod),
    );
    let mut flows = [world.login("a"), world.login("b")];
    flows
        .iter_mut()
        .for_each(|flow| assert!(poll(flow).is_none()));
    assert_eq!(lines[0].asked().len(), 1, "it is used again");
}

#[test]
fn a_server_that_does_not_answer_a_ping_is_connected_to_anew() {
    let world = World::new(|options| options.health_check_ms = 1000);
    world.list(&[Wire::WithIds]);
    let line = world.open().remove(0);
    world.pass(1000);
    assert_eq!(line.asked()[0].header.method_name, b"Ping");
    world.pass(TIMEOUT_MS);
    assert!(line.is_closed());
    let outcome = poll(&mut world.login("alice"));
    assert_eq!(outcome, Some(Err(CallError::Unavailable)));
}

#[test]
fn a_silent_server_is_given_up_within_a_second_where_another_can_do_its_work() {
    let world = World::with(&[Wire::WithIds, Wire::WithIds]);
    let lines = world.open();
    world.pass(100);
    // One call to each; only the second server answers.
    let (mut hung, mut served) = (world.login("a"), world.login("b"));
    assert!(poll(&mut hung).is_none() && poll(&mut served).is_none());
    let asked: Vec<_> = lines.iter().map(Line::asked).collect();
    let (silent, other) = match asked[0][0].username.as_str() {
        "a" => (&lines[0], &lines[1]),
        _ => (&lines[1], &lines[0]),
    };
    let id = asked.iter().flatten().find(|call| call.username == "b");
    let id = id.expect("a call").header.call_id;
    world.answer(other, &reply(Wire::WithIds, id, "b"));
    assert!(poll(&mut served).is_some());
    while !silent.is_closed() {
        world.pass(100);
        assert!(world.clock.get() < 1100, "it is still waited for");
    }
    assert_eq!(silent.asked()[0].header.method_name, b"Ping");
    assert!(world.remote.pushes_in_doubt(), "it may not have published");
    world.lose(silent);
    assert!(poll(&mut hung).is_none());
    let again = other.asked();
    assert_eq!(again[0].username, "a");
    world.answer(other, &reply(Wire::WithIds, again[0].header.call_id, "a"));
    assert!(poll(&mut hung).expect("answered").is_ok());
    assert!(!other.is_closed());
}

#[test]
fn the_only_server_is_waited_for_as_long_as_a_call_is() {
    let world = World::with(&[Wire::WithIds]);
    let line = world.open().remove(0);
    let mut flow = world.login("a");
    assert!(poll(&mut flow).is_none());
    for _ in 0..TIMEOUT_MS / 100 {
        assert!(!line.is_closed());
        world.pass(100);
    }
    let pings = line.asked().split_off(1);
    assert_eq!(pings.len(), 1, "asked once, and not answered yet");
}

#[test]
fn what_is_wrong_with_a_service_that_nobody_serves_is_told() {
    let world = World::with(&[Wire::WithIds, Wire::WithIds]);
    let trouble = || world.remote.metrics.service_troubles[Service::User as usize].get();
    let dialled: Vec<_> = world.dialled.borrow_mut().drain(..).collect();
    for (server, _) in &dialled {
        let connection = world.remote.opening(server, true, Purpose::Permanent);
        world.remote.refused(server, &"nobody listens");
        world.remote.lost(server, &connection, false);
    }
    world.pass(100);
    let told = trouble().expect("told");
    assert!(told.contains("127.0.0.1:1 cannot be connected to: nobody listens; 127.0.0.1:2 "));
    let line = world.open_to(Rc::clone(&dialled[0].0), Purpose::Permanent);
    world.pass(100);
    assert_eq!(trouble(), None);
    world.list(&[]);
    world.pass(100);
    assert_eq!(trouble().as_deref(), Some("no instance is known"));
    drop(line);
}

#[test]
fn a_server_that_is_no_longer_listed_finishes_what_it_has_and_gets_nothing_more() {
    let world = World::with(&[Wire::WithIds]);
    let line = world.open().remove(0);
    let mut login = world.login("alice");
    assert!(poll(&mut login).is_none());
    let id = line.asked()[0].header.call_id;
    world.list(&[]);
    assert!(world.remote.pushes_in_doubt(), "it may not have published");
    assert!(!line.is_closed());
    assert_eq!(
        poll(&mut world.login("bob")),
        Some(Err(CallError::Unavailable))
    );
    world.answer(&line, &reply(Wire::WithIds, id, "alice"));
    assert_eq!(poll(&mut login), Some(Ok(response("alice"))));
    assert!(line.is_closed());
}

#[test]
fn the_same_server_is_asked_again_at_once_and_then_with_pauses() {
    let world = World::with(&[Wire::WithIds]);
    let mut line = world.open().remove(0);
    let mut login = world.login("alice");
    for attempt in 0..3 {
        if attempt == 2 {
            assert!(poll(&mut login).is_none());
            assert!(line.asked().is_empty(), "a pause");
            world.pass(200);
        }
        assert!(poll(&mut login).is_none());
        assert_eq!(line.asked().len(), 1, "attempt {attempt}");
        world.lose(&line);
        line = world.open_to(Rc::clone(&line.server), Purpose::Permanent);
    }
}

#[test]
fn a_lost_connection_is_one_failure_however_many_calls_were_out_over_it() {
    let world = World::with(&[Wire::WithIds]);
    let line = world.open().remove(0);
    let mut flows: Vec<Flow<'_>> = (0..10).map(|_| world.login("alice")).collect();
    flows
        .iter_mut()
        .for_each(|flow| assert!(poll(flow).is_none()));
    world.lose(&line);
    let line = world.open_to(Rc::clone(&line.server), Purpose::Permanent);
    flows
        .iter_mut()
        .for_each(|flow| assert!(poll(flow).is_none()));
    assert_eq!(line.asked().len(), 10, "all go on at once");
}

#[test]
fn one_that_cannot_be_pinged_is_connected_to_for_a_sign_of_life() {
    let world = World::new(|options| options.health_check_ms = 1000);
    world.list(&[Wire::Classic]);
    let line = world.open().remove(0);
    world.pass(1000);
    let dialled: Vec<Purpose> = world
        .dialled
        .borrow_mut()
        .drain(..)
        .map(|(_, purpose)| purpose)
        .collect();
    assert_eq!(dialled, [Purpose::Check]);
    world.remote.unreachable(&line.server);
    assert!(line.is_closed());
    let outcome = poll(&mut world.login("alice"));
    assert_eq!(outcome, Some(Err(CallError::Unavailable)));
}

#[test]
fn each_connection_is_pinged_and_one_that_is_lost_hides_no_other() {
    let world = World::new(|options| {
        options.health_check_ms = 1000;
        options.connections_per_instance = 2;
    });
    world.list(&[Wire::WithIds]);
    let lines = world.open();
    world.pass(1000);
    for line in &lines {
        assert_eq!(line.asked()[0].header.method_name, b"Ping");
    }
    world.lose(&lines[0]);
    world.pass(TIMEOUT_MS);
    assert!(lines[1].is_closed());
}
