//! Bytes to answers: any split, order of replies, who may say what, line caps.

use proptest::prelude::*;

use super::*;
use crate::{base::close::CloseReason, protocol::command::Verb};

/// What comes out of a script fed in pieces: the replies, and the calls in their order.
fn play(script: &[u8], cuts: &[usize]) -> (String, Vec<String>, Option<CloseReason>) {
    let mut shard = shard();
    let key = connect(&mut shard);
    let (mut output, mut calls) = (String::new(), Vec::new());
    let (mut rest, mut resumed) = (script, None);
    let mut cuts = cuts.iter().cycle();
    loop {
        let mut job = resumed.take();
        if job.is_some() {
            // No further line is looked at before it is done.
        } else if !rest.is_empty() && shard.can_read(key) {
            let cut = cuts.next().map_or(rest.len(), |cut| (*cut).min(rest.len()));
            job = shard.feed(key, &rest[..cut]);
            rest = &rest[cut..];
        } else if rest.is_empty() {
            shard.end_of_input(key);
        }
        while let Some(now) = job {
            if !rest.is_empty() && shard.can_read(key) {
                // It is read on, and not looked at.
                let cut = cuts.next().map_or(rest.len(), |cut| (*cut).min(rest.len()));
                assert!(shard.feed(key, &rest[..cut]).is_none());
                rest = &rest[cut..];
            }
            calls.extend(
                now.commands
                    .iter()
                    .map(|command| format!("{:?}", command.call)),
            );
            let replies = match &now.commands[0].call {
                Call::Login { .. } => {
                    shard.attach(key, 7, "seven".into(), 1);
                    shard.set_baseline(key, Some(0));
                    vec![Reply::LoggedIn {
                        uid: 7,
                        session: 1,
                        token: None,
                        replaced: false,
                    }]
                }
                Call::Logout => {
                    shard.log_out_in_place(key, true);
                    vec![Reply::LoggedOut]
                }
                _ => answer(&now),
            };
            job = shard.complete(&now, &replies);
        }
        let mut keys = Vec::new();
        shard.take_resumable(&mut keys);
        assert!(keys.iter().all(|resumable| *resumable == key) && keys.len() <= 1);
        // What was held back until the client had read is handled, and may bring more.
        resumed = shard.resume(key);
        output += &read(&mut shard, key);
        if shard.is_finished(key).is_some() {
            let ended = shard.is_finished(key);
            return (output, calls, ended);
        }
    }
}

const LINES: &[&str] = &[
    "ping\n",
    "@a ping:x\r\n",
    "\n",
    "nonsense\n",
    "chat:5:hello\n",
    "login:seven:secret\n",
    "@t chat:5:a\\nb\n",
    "SEND 5 hi you\n",
    "logout\n",
    "friends\n",
    "chat:x:y\n",
    "set:ack:manual\n",
    "help:chat\n",
    "\u{7f}\u{1}\n",
    "ping:a text that is longer than a line may be before anybody has logged in to this\n",
    "quit\n",
    "whoami",
];

proptest! {
    #[test]
    fn any_split_of_a_script_means_the_same(
        script in prop::collection::vec(0..LINES.len(), 0..30),
        cuts in prop::collection::vec(1usize..40, 1..20),
    ) {
        let script: String = script.into_iter().map(|index| LINES[index]).collect();
        let whole = play(script.as_bytes(), &[script.len().max(1)]);
        prop_assert_eq!(&play(script.as_bytes(), &cuts), &whole);
        prop_assert_eq!(&play(script.as_bytes(), &[1]), &whole);
    }
}

#[test]
fn every_command_is_answered_as_its_state_allows() {
    for verb in Verb::ALL.into_iter().filter(|verb| verb.name() != "panic") {
        let line = format!("{}\n", verb.name());
        let mut shard = shard();
        let key = connect(&mut shard);
        let _ = shard.feed(key, line.as_bytes());
        let before = read(&mut shard, key);
        assert_eq!(
            before.starts_with("-ERR NOT_LOGGED_IN"),
            !verb.allowed_before_login(),
            "{verb:?}: {before}"
        );

        let key = connect(&mut shard);
        log_in(&mut shard, key, 7, 0, &[]);
        let _ = shard.feed(key, line.as_bytes());
        let after = read(&mut shard, key);
        let begins = matches!(verb, Verb::Register | Verb::Login | Verb::Auth);
        assert_eq!(
            after.starts_with("-ERR ALREADY_LOGGED_IN"),
            begins,
            "{verb:?}: {after}"
        );
    }
}

#[test]
fn the_line_cap_grows_with_the_log_in() {
    let long = format!("ping:{}\n", "x".repeat(100));
    let mut shard = shard();
    let key = connect(&mut shard);
    assert!(shard.feed(key, long.as_bytes()).is_none());
    let said = read(&mut shard, key);
    assert!(
        said.starts_with("-ERR LINE_TOO_LONG") && said.ends_with("KICK reason=protocol\n"),
        "{said}"
    );
    assert_eq!(shard.is_finished(key), Some(CloseReason::Protocol));

    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    assert!(shard.feed(key, long.as_bytes()).is_none());
    assert!(read(&mut shard, key).starts_with("+OK pong"));
}

#[test]
fn too_many_bad_lines_end_the_session_and_bad_arguments_do_not_count() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    for _ in 0..10 {
        assert!(shard.feed(key, b"chat:x:y\n").is_none());
    }
    assert!(shard.feed(key, b"nonsense\n:x\n").is_none());
    assert_eq!(shard.is_finished(key), None);
    assert!(shard.feed(key, b"\xff\nping\n").is_none());
    let said = read(&mut shard, key);
    assert!(
        said.ends_with("KICK reason=protocol\n") && !said.contains("pong"),
        "{said}"
    );
}

#[test]
fn a_half_closed_client_gets_all_its_answers_even_where_they_had_to_wait_for_room() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    let ping = format!("ping:{}\n", "x".repeat(190));
    let pings = ping.repeat(12);
    assert!(shard.feed(key, pings.as_bytes()).is_none());
    assert!(!shard.can_read(key), "more than half of the queue is full");
    let mut said = read(&mut shard, key);
    // The socket says "room" and "end" in one breath, before the waiting lines are looked at.
    shard.end_of_input(key);
    let mut keys = Vec::new();
    loop {
        shard.take_resumable(&mut keys);
        let Some(key) = keys.pop() else { break };
        assert!(shard.resume(key).is_none());
        said += &read(&mut shard, key);
    }
    assert_eq!(said.matches("pong").count(), 12);
    assert_eq!(shard.is_finished(key), Some(CloseReason::ClientClosed));
}

#[test]
fn a_late_reply_for_an_earlier_tenant_of_the_slot_does_nothing() {
    let mut shard = shard();
    let old = connect(&mut shard);
    let job = shard.feed(old, b"login:seven:secret\n").expect("a job");
    shard.remove(old, CloseReason::ConnectionLost);
    let new = connect(&mut shard);
    assert_eq!(new.slot, old.slot);
    assert!(!shard.attach(old, 7, "seven".into(), 1));
    finish_log_in(&mut shard, &job, 7);
    assert!(shard.unsent(new).is_empty());
    assert!(
        shard
            .connection(new)
            .is_some_and(|c| c.session.login().is_none())
    );
}

#[test]
fn many_waiting_lines_are_answered_in_order() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    let script: String = (1..=50).map(|n| format!("@t{n} friends\n")).collect();
    let mut job = shard.feed(key, script.as_bytes());
    let mut said = String::new();
    while let Some(now) = job {
        job = shard.complete(&now, &[Reply::Friends(vec![1])]);
        said += &read(&mut shard, key);
    }
    let expected: String = (1..=50).map(|n| format!("@t{n} +OK friends=1\n")).collect();
    assert_eq!(said, expected);
}

#[test]
fn a_draining_shard_says_so_and_lets_the_command_under_way_finish() {
    let mut shard = shard();
    let (busy, idle) = (connect(&mut shard), connect(&mut shard));
    log_in(&mut shard, busy, 7, 0, &[]);
    let job = shard.feed(busy, b"chat:5:x\n").expect("a job");
    assert!(shard.feed(busy, b"chat:5:y\n").is_none());
    shard.drain();
    let said = read(&mut shard, idle);
    assert!(
        said.starts_with("NOTICE kind=reconnect") && said.ends_with("KICK reason=shutdown\n"),
        "{said}"
    );
    assert_eq!(shard.is_finished(busy), None);
    assert!(shard.complete(&job, &answer(&job)).is_none());
    let said = read(&mut shard, busy);
    assert!(
        said.contains("+OK msg_id=1\n-ERR SHUTTING_DOWN")
            && said.ends_with("KICK reason=shutdown\n"),
        "{said}"
    );
}
