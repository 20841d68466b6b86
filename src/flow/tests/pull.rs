//! A pull comes behind what was pushed: that is confirmed first, if it arrives at all.

use super::*;
use crate::{base::id::MessageId, flow::commands};

/// A user to whom number 1 was pushed; the kernel has it. The user pulls.
fn pushed_and_pulling(said_before: &[u8]) -> (World, ConnectionKey, Job) {
    let world = World::new(1, |request| match request {
        Request::AckBatch(_) => Ok(Response::AckBatch(proto::AckBatchResponse {
            result: result(Code::Ok),
        })),
        _ => Ok(Response::PullOffline(proto::PullOfflineResponse {
            result: result(Code::Ok),
            ..Default::default()
        })),
    });
    let (key, _) = world.log_in(7, &[]);
    assert!(world.core.shard().feed(key, said_before).is_none());
    push_and_send(&world, key, 9, 7);
    let job = world.core.shard().feed(key, b"pull\n").expect("a job");
    (world, key, job)
}

/// Number 1 of `to`'s inbox, which the kernel takes.
fn push_and_send(world: &World, key: ConnectionKey, msg_id: MessageId, to: UserId) {
    world.push(PushMessage {
        msg_id,
        from: 8,
        to,
        text: "number 1".into(),
        seq: 1,
        ..Default::default()
    });
    world.send_all(key);
}

fn flow(world: &World, mut job: Job) -> Flow {
    let core = Rc::clone(&world.core);
    Box::pin(async move {
        commands::run(&core, &mut job).await;
    })
}

fn asked(world: &World) -> Vec<&'static str> {
    let calls = world.calls.borrow();
    let names = calls.iter().map(|call| match call {
        Request::AckBatch(_) => "confirm",
        Request::PullOffline(_) => "pull",
        _ => "other",
    });
    names.collect()
}

#[test]
fn what_the_client_has_is_confirmed_before_it_pulls() {
    let (world, key, job) = pushed_and_pulling(b"\n");
    let mut flow = flow(&world, job);
    assert!(!turn(&mut flow));
    assert!(asked(&world).is_empty(), "it is not known yet");
    let mut keys = Vec::new();
    world.core.shard().take_questions(false, &mut keys);
    assert_eq!(keys, [key]);
    world.core.shard().acknowledged(key, 0);
    assert!(go_on(&mut flow));
    assert_eq!(asked(&world), ["confirm", "pull"]);
    assert!(world.pauses.borrow().is_empty(), "nothing was waited for");
}

#[test]
fn a_pull_confirms_what_its_own_user_has_and_nothing_of_others() {
    let (world, key, job) = pushed_and_pulling(b"\n");
    let (other, _) = world.log_in(6, &[]);
    push_and_send(&world, other, 10, 6);
    let mut shard = world.core.shard();
    shard.acknowledged(other, 0);
    shard.acknowledged(key, 0);
    drop(shard);
    assert!(go_on(&mut flow(&world, job)));
    let calls = world.calls.borrow();
    let confirmed = calls.iter().find_map(|call| match call {
        Request::AckBatch(request) => Some(&request.acks),
        _ => None,
    });
    let users = confirmed.expect("a call").iter().map(|ack| ack.user_id);
    assert_eq!(users.collect::<Vec<_>>(), [7]);
    assert!(
        world.core.shard().has_to_gather(),
        "the other waits as before"
    );
}

#[test]
fn what_does_not_arrive_is_waited_for_a_moment_and_not_confirmed() {
    let (world, _, job) = pushed_and_pulling(b"\n");
    assert!(go_on(&mut flow(&world, job)));
    assert_eq!(asked(&world), ["pull"]);
    let waited: Duration = world.pauses.borrow().iter().sum();
    assert_eq!(waited, Duration::from_millis(315));
}

#[test]
fn who_confirms_for_itself_waits_for_nothing() {
    let (world, _, job) = pushed_and_pulling(b"set:ack:manual\n");
    assert!(go_on(&mut flow(&world, job)));
    assert_eq!(asked(&world), ["pull"]);
    assert!(world.pauses.borrow().is_empty());
}

#[test]
fn what_was_pushed_is_pulled_as_a_repeat_although_the_service_has_forgotten_it() {
    let message = |msg_id, seq| proto::C2cMsg {
        msg_id,
        from: 8,
        to: 7,
        ts_ms: seq as i64,
        text: format!("number {seq}"),
        seq,
        redelivery: false,
    };
    let world = World::new(1, move |request| match request {
        Request::PullOffline(_) => Ok(Response::PullOffline(proto::PullOfflineResponse {
            result: result(Code::Ok),
            msg_list: vec![message(9, 1), message(10, 2)],
            ..Default::default()
        })),
        _ => Err(CallError::Unavailable),
    });
    let (key, _) = world.log_in(7, &[]);
    let manual = world.core.shard().feed(key, b"set:ack:manual\n");
    assert!(manual.is_none());
    push_and_send(&world, key, 9, 7);
    let job = world.core.shard().feed(key, b"pull\n").expect("a job");
    assert!(go_on(&mut flow(&world, job)));
    let shard = world.core.shard();
    let said = String::from_utf8(shard.unsent(key).to_vec()).expect("text");
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].contains(" seq=1 ") && lines[0].contains(" dup=1 "),
        "{said}"
    );
    assert!(
        lines[1].contains(" seq=2 ") && !lines[1].contains("dup="),
        "{said}"
    );
}

/// Two users, each with `count` messages to pull, and a job of each that pulls them all.
fn two_with_much_to_pull(count: u64) -> (World, [(ConnectionKey, Job); 2]) {
    let world = World::new(1, move |request| match request {
        Request::PullOffline(pull) => Ok(Response::PullOffline(proto::PullOfflineResponse {
            result: result(Code::Ok),
            msg_list: (1..=count).map(|seq| stored(pull.user_id, seq)).collect(),
            ..Default::default()
        })),
        _ => Err(CallError::Unavailable),
    });
    let jobs = [7, 8].map(|user| {
        let (key, _) = world.log_in(user, &[]);
        world.send_all(key);
        let job = world.core.shard().feed(key, b"pull:1000\n");
        let job = job.expect("a job");
        (key, job)
    });
    (world, jobs)
}

fn stored(to: UserId, seq: u64) -> proto::C2cMsg {
    proto::C2cMsg {
        msg_id: to * 10_000 + seq as i64,
        from: 9,
        to,
        ts_ms: seq as i64,
        text: format!("number {seq}"),
        seq,
        redelivery: false,
    }
}

/// What is to be sent, line by line.
fn lines(world: &World, key: ConnectionKey) -> Vec<String> {
    let shard = world.core.shard();
    let said = String::from_utf8(shard.unsent(key).to_vec()).expect("text");
    said.lines().map(str::to_owned).collect()
}

#[test]
fn a_long_pull_is_handed_out_in_slices_and_one_pull_at_a_time() {
    let (world, [(first, job), (second, other_job)]) = two_with_much_to_pull(500);
    let mut flows = [flow(&world, job), flow(&world, other_job)];
    let mut seen = [0; 2];
    let mut are_done = [false; 2];
    for _ in 0..1000 {
        let mut grew = 0;
        for place in 0..2 {
            are_done[place] = are_done[place] || turn(&mut flows[place]);
            let key = [first, second][place];
            let now = lines(&world, key).len();
            assert!(now - seen[place] <= 65, "{} at one go", now - seen[place]);
            grew += usize::from(now > seen[place] && now < 500);
            seen[place] = now;
        }
        assert!(grew <= 1, "two pulls at once");
        if are_done == [true; 2] {
            break;
        }
    }
    assert_eq!(are_done, [true; 2]);
    for key in [first, second] {
        let said = lines(&world, key);
        let numbers = said.iter().filter_map(|line| {
            let (_, rest) = line.split_once(" seq=")?;
            rest.split(' ').next()?.parse().ok()
        });
        assert_eq!(numbers.collect::<Vec<u64>>(), (1..=500).collect::<Vec<_>>());
        assert!(said.iter().all(|line| !line.contains("dup=")));
    }
}

#[test]
fn what_is_pushed_between_two_slices_comes_again_as_a_repeat() {
    let (world, [(key, job), _]) = two_with_much_to_pull(100);
    let mut flow = flow(&world, job);
    while lines(&world, key).len() < 64 {
        assert!(!turn(&mut flow));
    }
    // All that is stored, so that none is waited for.
    for seq in 1..=100 {
        let stored = stored(7, seq);
        world.push(PushMessage {
            msg_id: stored.msg_id,
            from: stored.from,
            to: stored.to,
            ts_ms: stored.ts_ms,
            text: stored.text,
            seq,
            ..Default::default()
        });
    }
    assert!(go_on(&mut flow));
    let said = lines(&world, key);
    let of = |seq: u64| {
        let number = format!(" seq={seq} ");
        let lines = said.iter().filter(|line| line.contains(&number));
        lines
            .map(|line| line.contains(" dup=1 "))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(64), [false], "pulled ahead of its push");
    for seq in 65..=100 {
        assert_eq!(of(seq), [false, true], "number {seq}");
    }
}
