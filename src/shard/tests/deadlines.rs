//! What time does to connections.

use super::*;
use crate::close::CloseReason;

#[test]
fn who_does_not_log_in_in_time_is_told_to_go() {
    let mut shard = shard();
    let key = connect(&mut shard);
    at(&mut shard, 29_900);
    assert_eq!(shard.is_finished(key), None);
    at(&mut shard, 30_100);
    assert_eq!(read(&mut shard, key), "KICK reason=auth_timeout\n");
    assert_eq!(shard.is_finished(key), Some(CloseReason::AuthTimeout));
}

#[test]
fn anything_read_keeps_a_session_alive_and_silence_ends_it() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    for minute in 1..=20 {
        at(&mut shard, minute * 60_000);
        if minute <= 10 {
            assert!(shard.feed(key, b"\n").is_none());
        }
        assert_eq!(shard.is_finished(key).is_some(), minute > 15, "{minute}");
        read(&mut shard, key);
    }
}

#[test]
fn an_ended_connection_that_reads_nothing_is_given_up_soon_and_once() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    shard.sent(key, 0, true);
    shard.end(key, CloseReason::Admin);
    // A command that was under way must not put it off.
    shard.log_out_in_place(key, true);
    let mut expired = Vec::new();
    for now_ms in (100..1_900).step_by(100) {
        at(&mut shard, now_ms);
        shard.take_expired(&mut expired);
    }
    assert_eq!(expired, []);
    for now_ms in (1_900..400_000).step_by(100) {
        at(&mut shard, now_ms);
        shard.take_expired(&mut expired);
    }
    assert_eq!(expired, [key]);
}

#[test]
fn logging_in_and_out_for_ever_does_not_fill_the_wheel() {
    let mut shard = shard();
    let key = connect(&mut shard);
    for round in 1..=5_000_u64 {
        log_in(&mut shard, key, 7, 0, &[]);
        shard.log_out_in_place(key, true);
        at(&mut shard, round * 500);
    }
    assert!(shard.armed() <= 12, "{} entries", shard.armed());
    let now_ms = shard.now_ms();
    at(&mut shard, now_ms + 31_000);
    assert_eq!(
        shard.is_finished(key).or(Some(CloseReason::AuthTimeout)),
        Some(CloseReason::AuthTimeout)
    );
    assert!(read(&mut shard, key).contains("auth_timeout"));
}
