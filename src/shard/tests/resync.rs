//! Looking for what was lost: at what pace, for whom, and what news is newer than an answer.

use super::*;
use crate::shard::{
    Standing,
    resync::{ResyncPermit, ResyncTarget},
};

fn looked_for(shard: &mut Shard) -> Vec<(ResyncTarget, ResyncPermit)> {
    let looked_for = effects(shard)
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Resync { target, permit } => Some((target, permit)),
            _ => None,
        });
    looked_for.collect()
}

/// Of a service that says the last number alone.
fn standing(last_seq: u64) -> Standing {
    Standing {
        last_seq: Some(last_seq),
        since: None,
    }
}

fn is_message(target: &ResyncTarget) -> bool {
    !matches!(target, ResyncTarget::Memberships(_))
}

#[test]
fn after_the_bus_was_away_everything_is_looked_for_once_and_again_if_it_was_away_again() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 4, &[(3, 9)]);
    for _ in 0..3 {
        shard.on_gap();
    }
    let everything = [
        ResyncTarget::Messages(Stream::Direct(7)),
        ResyncTarget::Messages(Stream::Group(3)),
        ResyncTarget::Memberships(7),
    ];
    let target = |shard: &mut Shard| -> Vec<ResyncTarget> {
        let looked_for = looked_for(shard).into_iter();
        looked_for.map(|(target, _)| target).collect()
    };
    assert_eq!(target(&mut shard), everything);
    at(&mut shard, 900);
    assert_eq!(target(&mut shard), []);
    at(&mut shard, 1_000);
    assert_eq!(target(&mut shard), everything, "a second after the first");
    at(&mut shard, 5_000);
    assert_eq!(target(&mut shard), []);
}

#[test]
fn a_bounded_number_is_looked_for_at_one_time() {
    let mut shard = shard();
    let mut keys = Vec::new();
    for user in 1..=200 {
        let key = connect(&mut shard);
        log_in(&mut shard, key, user, 0, &[]);
        keys.push(key);
    }
    effects(&mut shard);
    shard.on_gap();
    let mut under_way = looked_for(&mut shard);
    let mut messages = 48;
    assert_eq!(under_way.len(), messages + 16);
    at(&mut shard, 2_000);
    assert!(looked_for(&mut shard).is_empty(), "no place is free");
    // The Group Service answers nothing, and messages do not wait for it.
    while let Some(index) = under_way.iter().position(|(target, _)| is_message(target)) {
        under_way.swap_remove(index);
        shard.continue_resync();
        let next = looked_for(&mut shard);
        assert!(next.iter().all(|(target, _)| is_message(target)));
        messages += next.len();
        under_way.extend(next);
    }
    assert_eq!(messages, 200);
    shard.on_gap();
    assert_eq!(looked_for(&mut shard).len(), 48, "another pass");
    // Whoever has gone meanwhile is left out.
    for key in keys.drain(..150) {
        shard.remove(key, crate::base::close::CloseReason::ConnectionLost);
    }
    effects(&mut shard);
    under_way.clear();
    shard.continue_resync();
    let next = looked_for(&mut shard);
    assert!(!next.is_empty());
    assert!(next.iter().all(|(target, _)| match target {
        ResyncTarget::Messages(Stream::Direct(user)) | ResyncTarget::Memberships(user) =>
            *user > 150,
        ResyncTarget::Messages(Stream::Group(_)) => false,
    }));
}

#[test]
fn a_stream_that_begins_anywhere_and_did_not_misses_nothing() {
    let mut shard = shard();
    let key = connect(&mut shard);
    let job = shard.feed(key, b"login:somebody:secret\n").expect("a job");
    assert!(shard.attach(key, 7, "somebody".into(), 9));
    assert_eq!(shard.missed(Stream::Direct(7)), None);
    // Pushes lost before the beginning was known are fetched from there.
    shard.set_baseline(key, Some(5));
    assert!(matches!(
        effects(&mut shard)[..],
        [Effect::Fetch {
            stream: Stream::Direct(7),
            ..
        }]
    ));
    finish_log_in(&mut shard, &job, 7);
    let other = connect(&mut shard);
    assert!(shard.attach(other, 8, "other".into(), 10));
    shard.set_baseline(other, None);
    shard.add_member(other, 4, None);
    assert_eq!(
        (
            shard.missed(Stream::Direct(8)),
            shard.missed(Stream::Group(4))
        ),
        (None, None)
    );
    shard.on_push(direct(8, 20));
    assert!(shard.missed(Stream::Direct(8)).is_some());
}

#[test]
fn memberships_follow_the_answer() {
    let mut shard = shard();
    let (one, two) = (connect(&mut shard), connect(&mut shard));
    log_in(&mut shard, one, 7, 0, &[(3, 0), (4, 0)]);
    log_in(&mut shard, two, 7, 0, &[(3, 0), (4, 0)]);
    let as_of = shard.membership_change(7).expect("both are settled");
    assert!(shard.set_memberships(
        7,
        as_of,
        &[(4, standing(2)), (5, standing(6)), (6, Standing::default())]
    ));
    for key in [one, two] {
        assert_eq!(shard.groups_of(key), [4, 5, 6]);
    }
    let effects = effects(&mut shard);
    assert!(
        matches!(
            effects[..],
            [
                Effect::Subscribe(5),
                Effect::Subscribe(6),
                Effect::Unsubscribe(3)
            ]
        ),
        "{effects:?}"
    );
    shard.on_push(grouped(5, 7, 70, 0));
    shard.on_push(grouped(6, 30, 70, 0));
    assert_eq!(texts(&read(&mut shard, two)), ["g7", "g30"]);
}

#[test]
fn what_was_heard_since_it_was_asked_is_newer_than_the_answer() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[(3, 0)]);
    let as_of = shard.membership_change(7).expect("it is settled");
    shard.on_push(news(PushKind::GroupLeft, 7, 3, 0));
    assert!(!shard.set_memberships(7, as_of, &[(3, standing(0))]));
    // Left and joined again looks as before, and the answer may be from between.
    let as_of = shard.membership_change(7).expect("it is settled");
    shard.on_push(news(PushKind::GroupJoined, 7, 3, 0));
    shard.on_push(news(PushKind::GroupLeft, 7, 3, 0));
    shard.on_push(news(PushKind::GroupJoined, 7, 3, 0));
    assert!(!shard.set_memberships(7, as_of, &[]));
    assert_eq!(shard.groups_of(key), [3]);
    // A login under way may know less than the answer, and comes to know it later.
    let as_of = shard.membership_change(7).expect("it is settled");
    let second = connect(&mut shard);
    let job = begin_log_in(&mut shard, second, 7, 0, &[]);
    assert_eq!(shard.membership_change(7), None);
    assert!(!shard.set_memberships(7, as_of, &[]));
    finish_log_in(&mut shard, &job, 7);
    let as_of = shard.membership_change(7).expect("it is settled");
    assert!(shard.set_memberships(7, as_of, &[(3, standing(0))]));
    assert_eq!(shard.groups_of(second), [3]);
}

#[test]
fn after_a_gap_a_groups_messages_wait_until_it_is_known_who_is_in_it() {
    let mut shard = shard();
    let (one, two) = (connect(&mut shard), connect(&mut shard));
    log_in(&mut shard, one, 7, 0, &[(3, 5)]);
    log_in(&mut shard, two, 8, 0, &[(3, 5)]);
    effects(&mut shard);
    shard.on_gap();
    // User 8 has left unheard; both the bus and the store bring what was sent since.
    shard.on_push(grouped(3, 6, 70, 0));
    assert!(texts(&read(&mut shard, one)).is_empty());
    assert!(effects(&mut shard).iter().all(|effect| !matches!(
        effect,
        Effect::Fetch {
            stream: Stream::Group(_),
            ..
        }
    )));
    let as_of = shard.membership_change(7).expect("it is settled");
    assert!(shard.set_memberships(7, as_of, &[(3, standing(6))]));
    shard.memberships_known(7);
    assert!(
        texts(&read(&mut shard, one)).is_empty(),
        "user 8 may be in it"
    );
    let as_of = shard.membership_change(8).expect("it is settled");
    assert!(shard.set_memberships(8, as_of, &[]));
    shard.memberships_known(8);
    let found = effects(&mut shard);
    let fetch = found.iter().find_map(|effect| match effect {
        Effect::Fetch {
            stream: Stream::Group(3),
            fetch,
        } => Some(*fetch),
        _ => None,
    });
    shard.fetched(
        Stream::Group(3),
        fetch.expect("a fetch"),
        page([grouped(3, 6, 70, 0)]),
    );
    assert_eq!(texts(&read(&mut shard, one)), ["g6"]);
    assert!(texts(&read(&mut shard, two)).is_empty());
}

#[test]
fn where_nobody_says_who_is_in_a_group_it_waits_for_some_seconds_only() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[(3, 5)]);
    shard.on_gap();
    shard.on_push(grouped(3, 6, 70, 0));
    at(&mut shard, 4_900);
    assert!(texts(&read(&mut shard, key)).is_empty());
    effects(&mut shard);
    at(&mut shard, 5_000);
    let found = effects(&mut shard);
    let fetch = found.iter().find_map(|effect| match effect {
        Effect::Fetch {
            stream: Stream::Group(3),
            fetch,
        } => Some(*fetch),
        _ => None,
    });
    shard.fetched(
        Stream::Group(3),
        fetch.expect("a fetch"),
        page([grouped(3, 6, 70, 0)]),
    );
    assert_eq!(texts(&read(&mut shard, key)), ["g6"]);
}

#[test]
fn who_joined_unheard_gets_what_was_sent_since() {
    let mut shard = shard();
    let (old, new) = (connect(&mut shard), connect(&mut shard));
    log_in(&mut shard, old, 8, 0, &[(3, 0)]);
    log_in(&mut shard, new, 7, 0, &[]);
    for seq in 1..=6 {
        shard.on_push(grouped(3, seq, 70, 0));
    }
    effects(&mut shard);
    let as_of = shard.membership_change(7).expect("it is settled");
    let standing = Standing {
        last_seq: Some(6),
        since: Some(4),
    };
    assert!(shard.set_memberships(7, as_of, &[(3, standing)]));
    let session_id = session_id(&shard, new);
    let next = shard
        .next_catch_up(new, session_id)
        .expect("something is missing");
    let expected = (Stream::Group(3), 4, 6);
    assert_eq!((next.stream, next.after, next.to), expected);
    let missed: Vec<_> = (5..=6)
        .map(|seq| (*grouped(3, seq, 70, 0)).clone())
        .collect();
    shard.caught_up(new, next, missed.clone());
    assert_eq!(texts(&read(&mut shard, new)), ["g5", "g6"]);
    assert_eq!(shard.next_catch_up(new, session_id), None);
    shard.on_push(grouped(3, 7, 70, 0));
    assert_eq!(texts(&read(&mut shard, new)), ["g7"]);
}
