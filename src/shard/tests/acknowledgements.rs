//! Who is asked what it has of what it was sent, when, and what becomes of what it has not.

use super::*;
use crate::base::close::CloseReason;

/// The connections that are to be asked with a gathering.
fn gathered(shard: &mut Shard) -> Vec<ConnectionKey> {
    let mut keys = Vec::new();
    shard.take_questions(true, &mut keys);
    keys
}

/// Those that cannot wait for one.
fn pressing(shard: &mut Shard) -> Vec<ConnectionKey> {
    let mut keys = Vec::new();
    shard.take_questions(false, &mut keys);
    keys
}

#[test]
fn who_was_sent_pushes_is_asked_once_in_a_gathering_and_who_was_not_never() {
    let mut shard = shard();
    let (bob, idle) = (connect(&mut shard), connect(&mut shard));
    log_in(&mut shard, bob, 7, 0, &[]);
    log_in(&mut shard, idle, 8, 0, &[]);
    assert!(shard.feed(idle, b"ping\n").is_none());
    read(&mut shard, idle);
    for seq in 1..=3 {
        shard.on_push(direct(7, seq));
        take(&mut shard, bob);
    }
    assert!(shard.has_to_gather());
    assert_eq!(gathered(&mut shard), [bob]);
    shard.acknowledged(bob, 0);
    shard.flush_acks();
    assert!(!shard.has_to_gather());
    for now_ms in (100..20_000).step_by(100) {
        at(&mut shard, now_ms);
        assert_eq!(gathered(&mut shard), [], "at {now_ms}");
    }
}

#[test]
fn a_slow_peer_is_asked_again_less_and_less_often_until_it_acknowledges_something() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    shard.on_push(direct(7, 1));
    shard.on_push(direct(7, 2));
    let sent = take(&mut shard, key).len() as u64;
    let mut asked_at = Vec::new();
    for now_ms in (0..25_000).step_by(100) {
        at(&mut shard, now_ms);
        for key in gathered(&mut shard) {
            shard.acknowledged(key, sent);
            asked_at.push(now_ms);
        }
    }
    let pauses: Vec<u64> = asked_at.windows(2).map(|two| two[1] - two[0]).collect();
    // The first answer tells of what came before the push.
    assert_eq!(pauses[..7], [100, 100, 200, 400, 800, 1_600, 3_200]);
    assert!(
        pauses[7..].iter().all(|pause| *pause == 3_200),
        "{pauses:?}"
    );
    shard.acknowledged(key, sent / 2);
    assert!(shard.has_acks(), "the first one arrived");
    assert_eq!(shard.connection(key).and_then(|c| c.session.ended()), None);
}

#[test]
fn pushes_that_are_sent_meanwhile_do_not_have_a_slow_peer_asked_more_often() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    let (mut sent, mut asked) = (0, 0);
    for step in 1..=1_000 {
        at(&mut shard, step * 10);
        shard.on_push(direct(7, step));
        sent += take(&mut shard, key).len() as u64;
        for key in gathered(&mut shard) {
            shard.acknowledged(key, sent);
            asked += 1;
        }
        assert!(shard.to_be_asked() <= 1);
    }
    assert!(asked < 12, "{asked}");
}

#[test]
fn a_peer_that_acknowledges_nothing_for_too_long_is_given_up_and_keeps_its_messages() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    shard.on_push(direct(7, 1));
    let sent = take(&mut shard, key).len() as u64;
    let mut expired = Vec::new();
    let mut now_ms = 0;
    while expired.is_empty() && now_ms < 60_000 {
        now_ms += 100;
        at(&mut shard, now_ms);
        for key in gathered(&mut shard) {
            shard.acknowledged(key, sent);
        }
        shard.take_expired(&mut expired);
    }
    assert_eq!(expired, [key]);
    assert!((30_000..=33_300).contains(&now_ms), "{now_ms}");
    shard.remove(key, CloseReason::ConnectionLost);
    assert!(matches!(effects(&mut shard)[..], [Effect::Unbind { .. }]));
}

#[test]
fn a_session_that_ends_is_asked_at_once_and_confirmed_before_its_route_goes() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    shard.on_push(direct(7, 1));
    take(&mut shard, key);
    assert!(shard.feed(key, b"quit\n").is_none());
    assert!(shard.has_work());
    assert_eq!(pressing(&mut shard), [key]);
    shard.acknowledged(key, 0);
    assert!(matches!(
        effects(&mut shard)[..],
        [Effect::Confirm(_), Effect::Unbind { .. }]
    ));
}

#[test]
fn what_was_not_acknowledged_when_the_connection_broke_is_not_confirmed() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    shard.on_push(direct(7, 1));
    let first = take(&mut shard, key).len() as u64;
    shard.on_push(direct(7, 2));
    let second = take(&mut shard, key).len() as u64;
    assert!(first > 0);
    shard.acknowledged(key, second);
    shard.remove(key, CloseReason::ConnectionLost);
    let [Effect::Confirm(acks), Effect::Unbind { .. }] = &effects(&mut shard)[..] else {
        panic!("the first is confirmed");
    };
    assert_eq!((acks.len(), acks[0].from_seq, acks[0].to_seq), (1, 1, 1));
}

#[test]
fn what_a_slow_consumer_was_sent_is_confirmed_as_far_as_it_acknowledges() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    shard.on_push(direct(7, 1));
    take(&mut shard, key);
    for seq in 2..=100 {
        shard.on_push(direct(7, seq));
    }
    shard.sent(key, 3, true);
    let session = &shard.connection(key).expect("it lingers").session;
    assert_eq!(session.ended(), Some(CloseReason::SlowConsumer));
    shard.acknowledged(key, 3);
    let acks = shard.take_acks();
    assert_eq!((acks.len(), acks[0].from_seq, acks[0].to_seq), (1, 1, 1));
}

#[test]
fn who_confirms_for_itself_is_alive_by_its_acknowledgements_and_confirms_nothing_by_them() {
    let mut shard = shard();
    let key = connect(&mut shard);
    assert!(shard.feed(key, b"set:ack:manual\n").is_none());
    log_in(&mut shard, key, 7, 0, &[]);
    at(&mut shard, 5_000);
    shard.on_push(direct(7, 1));
    take(&mut shard, key);
    assert_eq!(gathered(&mut shard), [key]);
    shard.acknowledged(key, 0);
    assert!(!shard.has_acks());
    let session = &shard.connection(key).expect("it lives").session;
    assert_eq!(session.alive_ms, 5_000);
}
