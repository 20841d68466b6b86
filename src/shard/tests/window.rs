//! `ack=manual`: the limit, what is held back, and how it is sent later.

use super::*;

fn manual(shard: &mut Shard, groups: &[(GroupId, u64)]) -> ConnectionKey {
    let key = connect(shard);
    assert!(shard.feed(key, b"set:ack:manual\n").is_none());
    log_in(shard, key, 7, 0, groups);
    key
}

fn fetched(from: u64, to: u64) -> Vec<PushMessage> {
    (from..=to).map(|seq| (*direct(7, seq)).clone()).collect()
}

fn catch_up_is_due(shard: &mut Shard) -> bool {
    effects(shard)
        .iter()
        .any(|effect| matches!(effect, Effect::CatchUp { .. }))
}

#[test]
fn at_the_limit_nothing_more_is_sent_until_the_client_confirms() {
    let mut shard = shard();
    let key = manual(&mut shard, &[]);
    for seq in 1..=6 {
        shard.on_push(direct(7, seq));
    }
    assert_eq!(texts(&read(&mut shard, key)), ["d1", "d2", "d3"]);
    assert!(!shard.has_acks(), "the client confirms, not the gateway");
    let session_id = session_id(&shard, key);
    shard.confirmed(key, &[1001, 1002]);
    shard.confirmed(key, &[4711]);
    assert!(catch_up_is_due(&mut shard));
    assert!(!catch_up_is_due(&mut shard), "one flow at a time");
    let next = shard
        .next_catch_up(key, session_id)
        .expect("something is held back");
    assert_eq!((next.after, next.to, next.room), (3, 6, 2));
    shard.caught_up(key, next, fetched(4, 5));
    assert_eq!(texts(&read(&mut shard, key)), ["d4", "d5"]);
    assert_eq!(shard.next_catch_up(key, session_id), None, "full again");
    shard.confirmed(key, &[1003, 1004, 1005]);
    assert!(catch_up_is_due(&mut shard));
    let next = shard.next_catch_up(key, session_id).expect("one more");
    shard.caught_up(key, next, fetched(6, 6));
    assert_eq!(shard.next_catch_up(key, session_id), None);
    shard.on_push(direct(7, 7));
    assert_eq!(texts(&read(&mut shard, key)), ["d6", "d7"]);
}

#[test]
fn what_is_held_back_during_the_log_in_comes_later_too() {
    let mut shard = shard();
    let key = connect(&mut shard);
    assert!(shard.feed(key, b"set:ack:manual\n").is_none());
    let job = begin_log_in(&mut shard, key, 7, 0, &[]);
    for seq in 1..=5 {
        shard.on_push(direct(7, seq));
    }
    finish_log_in(&mut shard, &job, 7);
    assert_eq!(texts(&read(&mut shard, key)), ["d1", "d2", "d3"]);
    shard.confirmed(key, &[1001]);
    let next = shard
        .next_catch_up(key, session_id(&shard, key))
        .expect("something is held back");
    assert_eq!((next.after, next.to), (3, 5));
}

#[test]
fn what_was_pulled_meanwhile_is_not_sent_again() {
    let mut shard = shard();
    let key = manual(&mut shard, &[]);
    for seq in 1..=5 {
        shard.on_push(direct(7, seq));
    }
    shard.deliver_pulled(&pull(key, 7), &fetched(4, 4));
    assert_eq!(texts(&read(&mut shard, key)), ["d1", "d2", "d3", "d4"]);
    shard.confirmed(key, &[1001, 1002, 1003, 1004]);
    let session_id = session_id(&shard, key);
    let next = shard
        .next_catch_up(key, session_id)
        .expect("something is held back");
    shard.caught_up(key, next, fetched(4, 5));
    assert_eq!(texts(&read(&mut shard, key)), ["d5"]);
    assert_eq!(shard.next_catch_up(key, session_id), None);
}

#[test]
fn a_page_fetched_for_one_user_never_reaches_the_next_on_the_same_connection() {
    let mut shard = shard();
    let key = manual(&mut shard, &[]);
    for seq in 1..=5 {
        shard.on_push(direct(7, seq));
    }
    shard.confirmed(key, &[1001]);
    let old = session_id(&shard, key);
    let next = shard
        .next_catch_up(key, old)
        .expect("something is held back");
    read(&mut shard, key);
    shard.log_out_in_place(key, true);
    log_in(&mut shard, key, 8, 0, &[]);
    shard.caught_up(key, next, fetched(4, 5));
    assert!(read(&mut shard, key).is_empty());
    assert_eq!(shard.next_catch_up(key, old), None);
}

#[test]
fn ones_own_group_messages_need_no_confirmation_and_do_not_come_back() {
    let mut shard = shard();
    let key = manual(&mut shard, &[(3, 0)]);
    let session = session_id(&shard, key);
    for seq in 1..=5 {
        shard.on_push(grouped(3, seq, 7, session));
    }
    for seq in 6..=8 {
        shard.on_push(grouped(3, seq, 7, session + 1));
    }
    assert_eq!(texts(&read(&mut shard, key)), ["g6", "g7", "g8"]);
    for seq in 1..=4 {
        shard.on_push(direct(7, seq));
    }
    assert_eq!(texts(&read(&mut shard, key)), ["d1", "d2", "d3"]);
    shard.confirmed(key, &[1001]);
    let next = shard
        .next_catch_up(key, session)
        .expect("something is held back");
    let expected = (Stream::Direct(7), 3, 4);
    assert_eq!((next.stream, next.after, next.to), expected);
    shard.caught_up(key, next, fetched(4, 4));
    assert_eq!(
        shard.next_catch_up(key, session),
        None,
        "of the group nothing is"
    );
}

#[test]
fn changing_to_auto_sends_all_that_was_held_back() {
    let mut shard = shard();
    let key = manual(&mut shard, &[]);
    for seq in 1..=6 {
        shard.on_push(direct(7, seq));
    }
    assert!(shard.feed(key, b"set:ack:auto\n").is_none());
    assert!(catch_up_is_due(&mut shard));
    let session_id = session_id(&shard, key);
    let next = shard
        .next_catch_up(key, session_id)
        .expect("something is held back");
    shard.caught_up(key, next, fetched(4, 6));
    assert_eq!(shard.next_catch_up(key, session_id), None);
    shard.on_push(direct(7, 7));
    assert_eq!(
        texts(&read(&mut shard, key)),
        ["d1", "d2", "d3", "d4", "d5", "d6", "d7"]
    );
}

#[test]
fn a_client_that_pulls_and_never_confirms_is_accounted_for_within_bounds() {
    let mut shard = shard();
    let key = manual(&mut shard, &[]);
    for seq in 1..=5_000 {
        shard.deliver_pulled(&pull(key, 7), &fetched(seq, seq));
        read(&mut shard, key);
    }
    let login = shard
        .connection(key)
        .and_then(|c| c.session.login())
        .expect("a login");
    let window = login.window.as_ref().expect("a window");
    assert!(window.unconfirmed.len() <= 1_003 && window.pulled.len() <= 1_003);
}
