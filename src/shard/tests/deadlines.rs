//! What time does to connections.

use super::*;
use crate::base::close::CloseReason;

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
        // Told after four and a half minutes, it has half a minute from then.
        assert_eq!(shard.is_finished(key).is_some(), minute > 16, "{minute}");
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

#[test]
fn a_silent_client_is_told_in_time_to_say_something() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    at(&mut shard, 269_900);
    assert!(read(&mut shard, key).is_empty());
    at(&mut shard, 270_100);
    let notice = read(&mut shard, key);
    assert!(
        notice.starts_with("NOTICE kind=idle text=say something within 30 s"),
        "{notice}"
    );
    assert!(shard.feed(key, b"\n").is_none());
    at(&mut shard, 301_000);
    assert!(read(&mut shard, key).is_empty(), "it said something");
    at(&mut shard, 540_200);
    assert!(read(&mut shard, key).starts_with("NOTICE kind=idle"));
    at(&mut shard, 570_100);
    assert!(read(&mut shard, key).is_empty());
    at(&mut shard, 570_300);
    assert_eq!(read(&mut shard, key), "KICK reason=idle\n");
}

#[test]
fn the_notice_comes_before_the_end_however_short_the_time_is() {
    for connection_timeout_ms in [1, 100, 150, 1_000] {
        let mut options = options();
        options.connection_timeout_ms = connection_timeout_ms;
        let mut shard = Shard::new(options, MessageIds::new(1), Arc::new(metrics::Core::new()));
        let key = connect(&mut shard);
        log_in(&mut shard, key, 7, 0, &[]);
        let (mut said, mut now_ms) = (Vec::new(), 0);
        while shard.is_finished(key).is_none() && now_ms < 3_000 {
            // A core that is held up looks late.
            now_ms += 700;
            at(&mut shard, now_ms);
            said.push(read(&mut shard, key));
        }
        said.retain(|said| !said.is_empty());
        assert!(said[0].starts_with("NOTICE kind=idle"), "{said:?}");
        assert_eq!(said[1..], ["KICK reason=idle\n"]);
    }
}

#[test]
fn a_client_that_only_reads_is_not_idle_until_its_tcp_acknowledges_no_more() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    let start_ms = 100_000;
    for seq in 1..=10 {
        shard.on_push(direct(7, seq));
        read(&mut shard, key);
        at(&mut shard, seq * start_ms);
        assert!(read(&mut shard, key).is_empty(), "at {seq}");
    }
    shard.on_push(direct(7, 11));
    take(&mut shard, key);
    at(&mut shard, 1_170_100);
    assert!(take(&mut shard, key).starts_with("NOTICE kind=idle"));
    at(&mut shard, 1_200_200);
    assert_eq!(take(&mut shard, key), "KICK reason=idle\n");
}

#[test]
fn the_acknowledgement_of_the_notice_itself_is_no_sign_of_life() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    at(&mut shard, 270_100);
    assert!(read(&mut shard, key).starts_with("NOTICE kind=idle"));
    at(&mut shard, 300_200);
    assert_eq!(read(&mut shard, key), "KICK reason=idle\n");
}
