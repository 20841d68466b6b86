//! Calls of which a service bears one at a time: in the world of these tests `Send` by itself,
//! `Register` and `AddFriend` together.

use std::pin::Pin;

use super::*;

/// A call that the test waits for; whether it went well.
type Call<'a> = Pin<Box<dyn Future<Output = Result<(), CallError>> + 'a>>;

fn call<'a, M: Method<Request: Default>>(world: &'a World) -> Call<'a> {
    let request = M::Request::default();
    Box::pin(async move { world.remote.call::<M>(request).await.map(|_| ()) })
}

/// Two classic servers, so that nothing but the permits keeps calls apart.
fn world() -> (World, Vec<Line>) {
    let world = World::with(&[Wire::Classic, Wire::Classic]);
    let lines = world.open();
    (world, lines)
}

/// The methods that were asked for since the last time, over all lines.
fn asked(lines: &[Line]) -> Vec<String> {
    let calls = lines.iter().flat_map(Line::asked);
    calls
        .map(|call| String::from_utf8_lossy(&call.header.method_name).into_owned())
        .collect()
}

fn answer(world: &World, lines: &[Line]) {
    let is_busy = |line: &&Line| line.connection.is_busy();
    let line = lines.iter().find(is_busy).expect("a call is out");
    world.answer(line, &reply(Wire::Classic, 0, ""));
}

#[test]
fn calls_of_one_set_come_one_after_the_other() {
    for (first, second) in [
        (
            call::<method::Send> as fn(&World) -> Call<'_>,
            call::<method::Send> as fn(&World) -> Call<'_>,
        ),
        (call::<method::Register>, call::<method::Register>),
        (call::<method::Register>, call::<method::AddFriend>),
        (call::<method::AddFriend>, call::<method::Register>),
    ] {
        let (world, lines) = world();
        let (mut one, mut other) = (first(&world), second(&world));
        assert!(poll(&mut one).is_none() && poll(&mut other).is_none());
        assert_eq!(asked(&lines).len(), 1);
        answer(&world, &lines);
        assert_eq!(poll(&mut one), Some(Ok(())));
        drop(one);
        assert!(poll(&mut other).is_none());
        assert_eq!(asked(&lines).len(), 1);
        answer(&world, &lines);
        assert_eq!(poll(&mut other), Some(Ok(())));
    }
}

#[test]
fn calls_of_two_sets_and_calls_of_none_go_side_by_side() {
    let (world, lines) = world();
    let mut calls = [
        call::<method::Send>(&world),
        call::<method::Register>(&world),
        call::<method::SendGroup>(&world),
        call::<method::SendGroup>(&world),
    ];
    for call in &mut calls {
        assert!(poll(call).is_none());
    }
    while !world.dialled.borrow().is_empty() {
        world.open();
    }
    assert_eq!(
        world.remote.calls.len(),
        4,
        "none of them waits for a permit"
    );
    drop(lines);
}

#[test]
fn services_with_ids_take_all_at_once() {
    let world = World::with(&[Wire::WithIds]);
    let lines = world.open();
    let mut calls = [
        call::<method::Send>(&world),
        call::<method::Send>(&world),
        call::<method::Register>(&world),
        call::<method::AddFriend>(&world),
    ];
    for call in &mut calls {
        assert!(poll(call).is_none());
    }
    assert_eq!(asked(&lines).len(), 4);
}

#[test]
fn a_call_that_nobody_saw_end_is_given_time() {
    let (world, lines) = world();
    let mut first = call::<method::Register>(&world);
    assert!(poll(&mut first).is_none());
    world.pass(TIMEOUT_MS);
    assert_eq!(poll(&mut first), Some(Err(CallError::Timeout)));
    assert_eq!(asked(&lines).len(), 1);
    let mut second = call::<method::Register>(&world);
    assert!(poll(&mut second).is_none());
    world.pass(TIMEOUT_MS / 2 - 1);
    assert!(poll(&mut second).is_none());
    assert_eq!(asked(&lines), [""; 0]);
    world.pass(1);
    assert_eq!(
        poll(&mut second),
        Some(Err(CallError::Overloaded)),
        "whoever begins has half of the time for the call itself"
    );
    let mut third = call::<method::Register>(&world);
    assert!(poll(&mut third).is_none());
    world.pass(TIMEOUT_MS / 2 - 1);
    assert!(poll(&mut third).is_none());
    assert_eq!(asked(&lines), [""; 0]);
}

#[test]
fn whoever_waits_out_a_silent_service_has_time_left() {
    let (world, lines) = world();
    let mut first = call::<method::Send>(&world);
    assert!(poll(&mut first).is_none());
    world.pass(TIMEOUT_MS);
    assert_eq!(poll(&mut first), Some(Err(CallError::Timeout)));
    drop(first);
    asked(&lines);
    world.open();
    world.pass(TIMEOUT_MS - 100);
    let mut late = call::<method::Send>(&world);
    assert!(poll(&mut late).is_none());
    world.pass(100);
    assert!(poll(&mut late).is_none());
    world.open();
    world.pass(TIMEOUT_MS / 2);
    assert!(poll(&mut late).is_none(), "it is out, and not given up");
    assert_eq!(world.remote.calls.len(), 1);
}

#[test]
fn a_holder_that_is_dropped_leaves_the_permit_and_the_call_its_time() {
    let (world, lines) = world();
    let mut dropped = call::<method::Send>(&world);
    assert!(poll(&mut dropped).is_none());
    assert_eq!(asked(&lines).len(), 1);
    drop(dropped);
    world.open();
    world.pass(TIMEOUT_MS - 1);
    let mut next = call::<method::Send>(&world);
    assert!(poll(&mut next).is_none());
    assert_eq!(world.remote.calls.len(), 0);
    world.pass(1);
    assert!(poll(&mut next).is_none());
    assert_eq!(world.remote.calls.len(), 1);
}

#[test]
fn after_a_loss_the_next_one_follows_soon() {
    let (world, lines) = world();
    let mut lost = call::<method::Send>(&world);
    assert!(poll(&mut lost).is_none());
    let busy = lines.iter().find(|line| line.connection.is_busy());
    world.lose(busy.expect("a call is out"));
    assert_eq!(poll(&mut lost), Some(Err(CallError::Lost)));
    drop(lost);
    let mut next = call::<method::Send>(&world);
    assert!(poll(&mut next).is_none());
    assert_eq!(world.remote.calls.len(), 0);
    world.pass(100);
    assert!(poll(&mut next).is_none());
    assert_eq!(world.remote.calls.len(), 1);
}
