//! Rates and queues.

use super::*;
use crate::base::close::CloseReason;

#[test]
fn over_its_rate_a_client_waits_and_is_answered_as_the_rate_allows() {
    let mut shard = shard();
    let key = connect_limited(&mut shard);
    assert!(shard.feed(key, "ping\n".repeat(25).as_bytes()).is_none());
    assert_eq!(read(&mut shard, key).matches("pong").count(), 20);
    assert!(!shard.can_read(key));
    let mut answered = 20;
    for now_ms in (100..=500).step_by(100) {
        at(&mut shard, now_ms);
        let mut keys = Vec::new();
        shard.take_resumable(&mut keys);
        assert_eq!(keys, [key]);
        assert!(shard.resume(key).is_none());
        answered += read(&mut shard, key).matches("pong").count();
    }
    assert_eq!(answered, 25);
    assert!(shard.can_read(key));
}

#[test]
fn over_its_rate_for_too_long_it_is_told_when_to_come_back_and_closed() {
    let mut shard = shard();
    let key = connect_limited(&mut shard);
    assert!(shard.feed(key, "ping\n".repeat(100).as_bytes()).is_none());
    let mut said = String::new();
    for now_ms in (100..=1_200).step_by(100) {
        at(&mut shard, now_ms);
        let mut keys = Vec::new();
        shard.take_resumable(&mut keys);
        assert!(keys.len() <= 1, "once, however often it was put off");
        for key in keys {
            assert!(shard.resume(key).is_none());
        }
        said = read(&mut shard, key);
    }
    assert!(said.is_empty());
    assert_eq!(shard.is_finished(key), Some(CloseReason::RateLimited));
}

#[test]
fn pushes_that_are_not_read_end_the_session_and_stay_unconfirmed() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    for seq in 1..=100 {
        shard.on_push(direct(7, seq));
    }
    shard.sent(key, 3, true);
    let said = String::from_utf8(shard.unsent(key).to_vec()).expect("text");
    assert_eq!(
        said.lines().count(),
        2,
        "the line that was begun, and why: {said}"
    );
    assert!(said.ends_with("KICK reason=slow_consumer\n"));
    assert!(!shard.has_acks());
}

#[test]
fn what_was_pulled_long_ago_does_not_widen_the_queue() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    // One byte always stays behind, so that the queue is never empty.
    for round in 0..50 {
        let message = PushMessage {
            msg_id: round,
            text: "x".repeat(900),
            ..Default::default()
        };
        shard.deliver_pulled(&pull(key, 7), &[message]);
        let count = shard.unsent(key).len() - 1;
        shard.sent(key, count, true);
    }
    for seq in 1..=200 {
        shard.on_push(direct(7, seq));
    }
    shard.sent(key, 0, true);
    assert!(
        shard
            .connection(key)
            .is_some_and(|c| c.session.ended() == Some(CloseReason::SlowConsumer))
    );
}

#[test]
fn before_login_a_client_may_leave_no_more_than_a_few_lines_in_either_direction() {
    let mut shard = shard();
    let key = connect(&mut shard);
    let few_lines = 4 * shard.options().login_line_bytes;
    assert_eq!(shard.read_room(key), few_lines);
    let line = format!("ping:{}\n", "x".repeat(50));
    let mut taken = 0;
    while shard.can_read(key) {
        assert!(shard.feed(key, line.as_bytes()).is_none());
        shard.sent(key, 0, true);
        taken += 1;
    }
    assert!(taken < 10, "{taken} lines were answered");
    assert!(shard.unsent(key).len() < few_lines + 100);
    // One who reads is served as before.
    let answers = read(&mut shard, key);
    assert_eq!(answers.matches("pong").count(), taken);
    assert!(shard.can_read(key));
    log_in(&mut shard, key, 7, 0, &[]);
    assert!(shard.read_room(key) > few_lines);
    while shard.can_read(key) {
        assert!(shard.feed(key, line.as_bytes()).is_none());
        shard.sent(key, 0, true);
    }
    assert!(shard.unsent(key).len() > shard.options().outbound_queue_bytes / 2);
}

/// Logs in, spends nearly all tokens, asks for `line`, and says after how many milliseconds the
/// `ping` behind it is answered.
fn answered_after_ms(line: &str, reply: &Reply) -> u64 {
    let mut shard = shard();
    let key = connect_limited(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    assert!(shard.feed(key, "ping\n".repeat(14).as_bytes()).is_none());
    read(&mut shard, key);
    let job = shard
        .feed(key, format!("{line}\nping\n").as_bytes())
        .expect("a job");
    assert!(shard.complete(&job, std::slice::from_ref(reply)).is_none());
    for now_ms in (0..60_000).step_by(100) {
        at(&mut shard, now_ms);
        let mut keys = Vec::new();
        shard.take_resumable(&mut keys);
        for key in keys {
            assert!(shard.resume(key).is_none());
        }
        if read(&mut shard, key).contains("pong") {
            return now_ms;
        }
    }
    panic!("closed, or never answered");
}

#[test]
fn what_moves_much_is_paid_for_before_the_next_command_and_closes_nobody() {
    let pulled = |count| Reply::PullDone { count, more: false };
    // A token comes back every 100 ms; the login took five of twenty.
    assert_eq!(answered_after_ms("pull:100", &pulled(0)), 100);
    assert_eq!(answered_after_ms("pull:100", &pulled(100)), 600);
    // A whole burst, which takes longer to come back than a client may go on sending too many
    // commands.
    assert_eq!(answered_after_ms("pull:1000", &pulled(1000)), 2_100);
    assert_eq!(answered_after_ms("ack:1:2:3", &Reply::Acked(0)), 100);
}
