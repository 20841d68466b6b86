//! Pushes: order, gaps, copies, kicks, what comes during a login, and what an acknowledged line
//! confirms.

use super::*;
use crate::{base::close::CloseReason, proto::AckRange, shard::sequencer::Fetch};

#[test]
fn a_gap_is_fetched_first_and_repeats_are_dropped() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 4, &[]);
    for seq in [5, 5, 8, 7] {
        shard.on_push(direct(7, seq));
    }
    assert_eq!(texts(&read(&mut shard, key)), ["d5"]);
    let wanted = Fetch { after: 5, to: 8 };
    let [
        Effect::Fetch {
            stream: Stream::Direct(7),
            fetch,
        },
    ] = effects(&mut shard)[..]
    else {
        panic!("a fetch is due");
    };
    assert_eq!(fetch, wanted);
    shard.fetched(
        Stream::Direct(7),
        fetch,
        page([direct(7, 6), direct(7, 7), direct(7, 8)]),
    );
    assert_eq!(texts(&read(&mut shard, key)), ["d6", "d7", "d8"]);
    assert!(effects(&mut shard).is_empty());
}

#[test]
fn what_is_acknowledged_in_full_is_confirmed_in_ranges() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[(3, 0)]);
    for seq in 1..=3 {
        shard.on_push(direct(7, seq));
    }
    shard.on_push(grouped(3, 1, 70, 0));
    let count = shard.unsent(key).len();
    shard.sent(key, count, false);
    assert!(!shard.has_acks(), "the kernel alone confirms nothing");
    shard.acknowledged(key, 1);
    let direct = AckRange {
        user_id: 7,
        from_seq: 1,
        to_seq: 3,
        group_id: 0,
    };
    assert_eq!(shard.take_acks(), [direct]);
    shard.acknowledged(key, 0);
    let of_group = AckRange {
        user_id: 7,
        from_seq: 1,
        to_seq: 1,
        group_id: 3,
    };
    assert_eq!(shard.take_acks(), [of_group]);
}

#[test]
fn confirmations_go_out_in_portions_that_a_service_takes() {
    let mut shard = shard();
    let acks = (0..20_000).map(|n| AckRange {
        user_id: n,
        from_seq: 1,
        to_seq: 1,
        group_id: 3,
    });
    shard.confirm_later(acks.collect());
    let sizes = effects(&mut shard).into_iter().map(|effect| match effect {
        Effect::Confirm(acks) => acks.len(),
        other => panic!("{other:?}"),
    });
    let sizes: Vec<usize> = sizes.collect();
    assert_eq!(sizes.iter().sum::<usize>(), 20_000);
    assert!(sizes.into_iter().all(|size| size <= 10_000));
}

#[test]
fn what_comes_during_the_log_in_follows_its_answer() {
    let mut shard = shard();
    let key = connect(&mut shard);
    let job = begin_log_in(&mut shard, key, 7, 2, &[(3, 0)]);
    shard.on_push(direct(7, 3));
    shard.on_push(grouped(3, 1, 70, 0));
    assert!(shard.unsent(key).is_empty());
    finish_log_in(&mut shard, &job, 7);
    let said = read(&mut shard, key);
    assert!(said.starts_with("+OK uid=7"), "{said}");
    assert_eq!(texts(&said), ["d3", "g1"]);
}

#[test]
fn what_does_not_fit_before_the_answer_is_fetched_after_it() {
    let mut shard = shard();
    let key = connect(&mut shard);
    let job = begin_log_in(&mut shard, key, 7, 0, &[]);
    for seq in 1..=1_100 {
        shard.on_push(direct(7, seq));
    }
    finish_log_in(&mut shard, &job, 7);
    let said = read(&mut shard, key);
    let kept = texts(&said).len() as u64;
    assert!(kept > 10 && said.len() <= shard.options().outbound_queue_bytes + 100);
    shard.on_push(direct(7, 1_101));
    assert!(
        read(&mut shard, key).is_empty(),
        "not before what lies between"
    );
    assert!(
        effects(&mut shard)
            .iter()
            .any(|effect| matches!(effect, Effect::CatchUp { .. }))
    );
    let next = shard
        .next_catch_up(key, session_id(&shard, key))
        .expect("something is missing");
    assert_eq!((next.after, next.to), (kept, 1_101));
    let came = catching_up::catch_up(&mut shard, key);
    assert_eq!(came, catching_up::numbers(kept + 1, 1_101));
    shard.on_push(direct(7, 1_102));
    assert_eq!(texts(&read(&mut shard, key)), ["d1102"]);
}

#[test]
fn a_second_session_is_pushed_what_came_after_it_and_nothing_before() {
    let mut shard = shard();
    let (one, two) = (connect(&mut shard), connect(&mut shard));
    log_in(&mut shard, one, 7, 0, &[(3, 0)]);
    shard.on_push(direct(7, 1));
    log_in(&mut shard, two, 7, 1, &[(3, 0)]);
    shard.on_push(direct(7, 2));
    shard.on_push(grouped(3, 1, 70, 0));
    assert_eq!(texts(&read(&mut shard, one)), ["d1", "d2", "g1"]);
    assert_eq!(texts(&read(&mut shard, two)), ["d2", "g1"]);
}

#[test]
fn a_log_in_that_knows_of_more_has_the_lost_ones_fetched() {
    let mut shard = shard();
    let (one, two) = (connect(&mut shard), connect(&mut shard));
    log_in(&mut shard, one, 7, 0, &[]);
    log_in(&mut shard, two, 7, 2, &[]);
    let [
        Effect::Fetch {
            stream: Stream::Direct(7),
            fetch,
        },
    ] = effects(&mut shard)[..]
    else {
        panic!("a fetch is due");
    };
    shard.fetched(
        Stream::Direct(7),
        fetch,
        page((1..=2).map(|seq| direct(7, seq))),
    );
    assert_eq!(texts(&read(&mut shard, one)), ["d1", "d2"]);
    assert!(read(&mut shard, two).is_empty());
}

#[test]
fn the_senders_other_devices_get_a_copy_and_the_sending_one_does_not() {
    let mut shard = shard();
    let (one, two) = (connect(&mut shard), connect(&mut shard));
    log_in(&mut shard, one, 7, 0, &[(3, 0)]);
    log_in(&mut shard, two, 7, 0, &[(3, 0)]);
    let sender = session_id(&shard, one);
    shard.on_push(Arc::new(PushMessage {
        msg_id: 1,
        from: 7,
        to: 5,
        text: "copy".into(),
        to_many: vec![7],
        session_id: sender,
        ..Default::default()
    }));
    shard.on_push(grouped(3, 1, 7, sender));
    assert!(read(&mut shard, one).is_empty());
    let said = read(&mut shard, two);
    assert_eq!(texts(&said), ["copy", "g1"]);
    assert!(said.starts_with("MSG id=1 from=7 to=5 "), "{said}");
    assert!(!shard.has_acks(), "nobody waits for what one wrote oneself");
}

#[test]
fn what_was_pulled_before_its_turn_is_pushed_to_the_users_other_session_only() {
    let mut shard = shard();
    let (one, two) = (connect(&mut shard), connect(&mut shard));
    log_in(&mut shard, one, 7, 0, &[(3, 0)]);
    log_in(&mut shard, two, 7, 0, &[(3, 0)]);
    let pulled = [(*direct(7, 1)).clone(), (*grouped(3, 1, 70, 0)).clone()];
    shard.deliver_pulled(&pull(one, 7), &pulled);
    assert_eq!(texts(&read(&mut shard, one)), ["d1", "g1"]);
    for seq in 1..=2 {
        shard.on_push(direct(7, seq));
        shard.on_push(grouped(3, seq, 70, 0));
    }
    assert_eq!(texts(&read(&mut shard, one)), ["d2", "g2"]);
    assert_eq!(texts(&read(&mut shard, two)), ["d1", "g1", "d2", "g2"]);
}

#[test]
fn what_was_pulled_and_never_has_its_turn_is_forgotten() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[(3, 0)]);
    let pulled = [(*direct(7, 2)).clone(), (*grouped(3, 2, 70, 0)).clone()];
    shard.deliver_pulled(&pull(key, 7), &pulled);
    let is_remembered = |shard: &Shard| {
        let login = shard.connection(key).and_then(|c| c.session.login());
        login.expect("a login").pulled_ahead.is_some()
    };
    // Confirmed by the pull, they are not in the store any more, and are skipped.
    shard.on_push(direct(7, 3));
    shard.on_push(grouped(3, 3, 70, 0));
    let fetch = Fetch { after: 0, to: 3 };
    assert!(is_remembered(&shard));
    shard.fetched(Stream::Direct(7), fetch, page([direct(7, 1), direct(7, 3)]));
    shard.fetched(Stream::Group(3), fetch, page([grouped(3, 3, 70, 0)]));
    let said = read(&mut shard, key);
    assert_eq!(texts(&said), ["d2", "g2", "d1", "d3", "g3"]);
    assert!(!is_remembered(&shard));
}

#[test]
fn a_kick_ends_the_session_it_names_and_no_other() {
    let mut shard = shard();
    let (one, two) = (connect(&mut shard), connect(&mut shard));
    log_in(&mut shard, one, 7, 0, &[]);
    log_in(&mut shard, two, 7, 0, &[]);
    shard.on_push(Arc::new(PushMessage {
        to: 7,
        kind: PushKind::Kick.into(),
        text: "replaced".into(),
        session_id: session_id(&shard, one),
        ..Default::default()
    }));
    assert_eq!(read(&mut shard, one), "KICK reason=replaced\n");
    assert_eq!(shard.is_finished(one), Some(CloseReason::Replaced));
    assert_eq!(shard.is_finished(two), None);
}

#[test]
fn an_ended_session_leaves_nothing_behind() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 4, &[(3, 9)]);
    shard.on_push(direct(7, 5));
    read(&mut shard, key);
    shard.remove(key, CloseReason::ConnectionLost);
    let left = effects(&mut shard);
    assert!(
        matches!(
            left[..],
            [
                Effect::Unsubscribe(3),
                Effect::Confirm(_),
                Effect::Unbind { user: 7, .. }
            ]
        ),
        "{left:?}"
    );
    assert_eq!(shard.table_sizes(), (0, 0));
    assert!(shard.is_empty());
}
