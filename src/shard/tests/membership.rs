//! Groups joined and left, and in whose name a group is read.

use super::*;
use crate::base::close::CloseReason;

#[test]
fn joining_and_leaving_holds_for_all_sessions_of_the_user() {
    let mut shard = shard();
    let (one, two) = (connect(&mut shard), connect(&mut shard));
    log_in(&mut shard, one, 7, 0, &[]);
    log_in(&mut shard, two, 7, 0, &[]);
    shard.on_push(news(PushKind::GroupJoined, 7, 3, 5));
    assert!(matches!(effects(&mut shard)[..], [Effect::Subscribe(3)]));
    shard.on_push(grouped(3, 6, 70, 0));
    assert_eq!(texts(&read(&mut shard, one)), ["g6"]);
    assert_eq!(texts(&read(&mut shard, two)), ["g6"]);
    shard.on_push(news(PushKind::GroupLeft, 7, 3, 0));
    assert!(matches!(effects(&mut shard)[..], [Effect::Unsubscribe(3)]));
    shard.on_push(grouped(3, 7, 70, 0));
    assert!(read(&mut shard, one).is_empty());
}

#[test]
fn leaving_is_newer_than_what_a_log_in_read_before() {
    let mut shard = shard();
    let key = connect(&mut shard);
    let job = begin_log_in(&mut shard, key, 7, 0, &[]);
    // The service said "member", then "left"; the login goes on only now.
    shard.on_push(news(PushKind::GroupLeft, 7, 3, 0));
    shard.add_member(key, 3, Some(5));
    finish_log_in(&mut shard, &job, 7);
    assert_eq!(shard.table_sizes(), (1, 0));
}

#[test]
fn joining_again_is_newer_than_the_answer_to_leaving() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[(3, 5)]);
    let job = shard.feed(key, b"leave_group:3\n").expect("a job");
    // This leaves; another device joins; only then does the flow of this command go on.
    shard.on_push(news(PushKind::GroupLeft, 7, 3, 0));
    shard.on_push(news(PushKind::GroupJoined, 7, 3, 5));
    shard.leave(key, 7, 3);
    assert!(shard.complete(&job, &[Reply::Left(3)]).is_none());
    assert_eq!(shard.table_sizes(), (1, 1));
}

#[test]
fn a_group_is_read_in_the_name_of_one_who_may_see_what_is_missing() {
    let mut shard = shard();
    let (new, old, other) = (
        connect(&mut shard),
        connect(&mut shard),
        connect(&mut shard),
    );
    log_in(&mut shard, old, 2, 0, &[(3, 4)]);
    log_in(&mut shard, new, 1, 0, &[(3, 9)]);
    log_in(&mut shard, other, 3, 0, &[(3, 9)]);
    for attempt in 0..3 {
        assert_eq!(shard.reader(Stream::Group(3), 6, attempt), Some(2));
    }
    // Where several may, another one is asked each time.
    let readers: Vec<_> = (0..3)
        .map(|attempt| shard.reader(Stream::Group(3), 9, attempt))
        .collect();
    assert_eq!(readers, [Some(1), Some(2), Some(3)]);
    shard.remove(old, CloseReason::ConnectionLost);
    assert_eq!(
        shard.reader(Stream::Group(3), 6, 0),
        Some(1),
        "nobody here is owed what came before"
    );
    assert_eq!(shard.reader(Stream::Group(4), 0, 0), None);
}

#[test]
fn what_a_new_member_missed_between_asking_and_joining_counts_as_before() {
    let mut shard = shard();
    let (one, two) = (connect(&mut shard), connect(&mut shard));
    log_in(&mut shard, one, 1, 0, &[(3, 5)]);
    let job = begin_log_in(&mut shard, two, 2, 0, &[]);
    shard.on_push(grouped(3, 6, 70, 0));
    shard.add_member(two, 3, Some(5));
    let handed_out = PushMessage {
        redelivery: true,
        ..(*grouped(3, 6, 70, 0)).clone()
    };
    shard.redeliver(two, vec![handed_out]);
    finish_log_in(&mut shard, &job, 2);
    shard.on_push(grouped(3, 7, 70, 0));
    assert_eq!(texts(&read(&mut shard, two)), ["g6", "g7"]);
}
