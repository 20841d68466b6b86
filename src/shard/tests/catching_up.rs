//! Much was missed: what is fetched goes out as it is read, and is held against nobody.

use super::*;
use crate::{base::close::CloseReason, shard::sequencer::Fetch};

/// The texts of the direct messages with these numbers.
pub(super) fn numbers(from: u64, to: u64) -> Vec<String> {
    (from..=to).map(|seq| format!("d{seq}")).collect()
}

/// Fetches and sends what was held back, a page at a time, each read before the next; what came.
pub(super) fn catch_up(shard: &mut Shard, key: ConnectionKey) -> Vec<String> {
    let mut came = Vec::new();
    while let Some(next) = shard.next_catch_up(key, session_id(shard, key)) {
        let last = next.to.min(next.after + 20);
        let messages: Vec<_> = (next.after + 1..=last)
            .map(|seq| (*direct(7, seq)).clone())
            .collect();
        shard.caught_up(key, next, messages);
        let said = read(shard, key);
        assert!(said.len() <= shard.options().outbound_queue_bytes + 100);
        came.extend(texts(&said).into_iter().map(str::to_owned));
    }
    came
}

/// Numbers 2 to 199 of user 7 were lost; what the store answers is there.
fn lose_much(shard: &mut Shard) {
    shard.on_push(direct(7, 1));
    shard.on_push(direct(7, 200));
    let fetch = Fetch { after: 1, to: 200 };
    shard.fetched(
        Stream::Direct(7),
        fetch,
        page((2..=200).map(|seq| direct(7, seq))),
    );
}

fn ended(shard: &Shard, key: ConnectionKey) -> Option<CloseReason> {
    shard.connection(key).and_then(|c| c.session.ended())
}

#[test]
fn what_was_fetched_is_no_reason_to_close_and_comes_as_it_is_read() {
    for mode in ["auto", "manual"] {
        let mut shard = shard();
        let key = connect(&mut shard);
        log_in(&mut shard, key, 7, 0, &[]);
        // A page that is longer than the queue, and a reader that has not read anything of it yet.
        lose_much(&mut shard);
        shard.sent(key, 0, true);
        assert!(shard.unsent(key).len() <= shard.options().outbound_queue_bytes + 100);
        assert_eq!(ended(&shard, key), None);
        // What comes meanwhile waits for its turn.
        shard.on_push(direct(7, 201));
        shard.sent(key, 0, true);
        assert_eq!(ended(&shard, key), None);
        let mut came: Vec<String> = texts(&read(&mut shard, key))
            .into_iter()
            .map(str::to_owned)
            .collect();
        if mode == "manual" {
            // Who confirms for itself from now on is held to its own limit, and loses nothing by
            // it.
            assert!(shard.feed(key, b"set:ack:manual\n").is_none());
            assert!(shard.feed(key, b"set:ack:auto\n").is_none());
            read(&mut shard, key);
        }
        came.extend(catch_up(&mut shard, key));
        assert_eq!(came, numbers(1, 201));
        shard.on_push(direct(7, 202));
        assert_eq!(texts(&read(&mut shard, key)), ["d202"]);
    }
}

#[test]
fn a_device_that_does_not_read_keeps_no_other_waiting() {
    let mut shard = shard();
    let (quick, stuck) = (connect(&mut shard), connect(&mut shard));
    log_in(&mut shard, quick, 7, 0, &[]);
    log_in(&mut shard, stuck, 7, 0, &[]);
    let (mut came, mut after) = (Vec::new(), 0);
    shard.on_push(direct(7, 200));
    while after < 200 {
        assert!(!shard.is_full(Stream::Direct(7)), "after {after}");
        let to = (after + 20).min(200);
        let fetch = Fetch { after, to: 200 };
        let found = Page {
            more: to < 200,
            ..page((after + 1..=to).map(|seq| direct(7, seq)))
        };
        shard.fetched(Stream::Direct(7), fetch, found);
        came.extend(
            texts(&read(&mut shard, quick))
                .into_iter()
                .map(str::to_owned),
        );
        shard.sent(stuck, 0, true);
        after = to;
    }
    assert_eq!(came, numbers(1, 200));
    assert_eq!(ended(&shard, stuck), None);
    let mut late: Vec<String> = texts(&read(&mut shard, stuck))
        .into_iter()
        .map(str::to_owned)
        .collect();
    assert!(late.len() < 100, "the rest is in the store");
    late.extend(catch_up(&mut shard, stuck));
    assert_eq!(late, numbers(1, 200));
}

#[test]
fn nothing_is_fetched_for_those_who_have_no_room_unless_they_fetch_for_themselves() {
    let mut shard = shard();
    assert!(!shard.is_full(Stream::Direct(7)), "nobody is here");
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[(3, 0)]);
    assert!(!shard.is_full(Stream::Direct(7)));
    shard.on_push(direct(7, 30));
    let found = page((1..=30).map(|seq| direct(7, seq)));
    shard.fetched(Stream::Direct(7), Fetch { after: 0, to: 30 }, found);
    assert!(shard.is_full(Stream::Direct(7)) && shard.is_full(Stream::Group(3)));
    read(&mut shard, key);
    assert!(!shard.is_full(Stream::Direct(7)) && !shard.is_full(Stream::Group(3)));
    shard.on_push(direct(7, 200));
    let found = page((31..=200).map(|seq| direct(7, seq)));
    shard.fetched(Stream::Direct(7), Fetch { after: 30, to: 200 }, found);
    assert!(shard.is_congested(key));
    assert!(!shard.is_full(Stream::Direct(7)), "it is throttled");
}

#[test]
fn pushes_that_nobody_fetched_still_count() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    shard.on_push(direct(7, 30));
    let found = page((1..=30).map(|seq| direct(7, seq)));
    shard.fetched(Stream::Direct(7), Fetch { after: 0, to: 30 }, found);
    shard.sent(key, 0, true);
    assert_eq!(ended(&shard, key), None);
    for seq in 31..=100 {
        shard.on_push(direct(7, seq));
    }
    shard.sent(key, 0, true);
    assert_eq!(ended(&shard, key), Some(CloseReason::SlowConsumer));
}

#[test]
fn what_was_pulled_before_its_reader_was_throttled_does_not_come_again() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    shard.deliver_pulled(&pull(key, 7), &[(*direct(7, 150)).clone()]);
    assert_eq!(texts(&read(&mut shard, key)), ["d150"]);
    lose_much(&mut shard);
    let mut came: Vec<String> = texts(&read(&mut shard, key))
        .into_iter()
        .map(str::to_owned)
        .collect();
    came.extend(catch_up(&mut shard, key));
    assert_eq!(came, [numbers(1, 149), numbers(151, 200)].concat());
}

#[test]
fn a_session_that_catches_up_is_not_sent_what_came_before_its_login() {
    let mut shard = shard();
    let other = connect(&mut shard);
    log_in(&mut shard, other, 7, 0, &[]);
    shard.on_push(direct(7, 1));
    // The service said that the inbox ends at 3; here it has come to 1.
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 3, &[(9, 0)]);
    shard.catch_up_from(key, Stream::Group(9), 0);
    let fetch = Fetch { after: 1, to: 0 };
    let lost = (2..=4).map(|seq| direct(7, seq));
    shard.fetched(Stream::Direct(7), fetch, page(lost));
    assert_eq!(catch_up(&mut shard, key), ["d4"]);
}

#[test]
fn what_may_have_come_before_is_marked_when_it_is_caught_up_with() {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    for seq in 1..=40 {
        shard.on_push(direct(7, seq));
    }
    read(&mut shard, key);
    // Number 10 was another message's, and what came before it is not remembered any more: the
    // stream goes back, and there is no room for all of it.
    let stored = |seq: u64| {
        let message = (*direct(7, seq)).clone();
        let msg_id = message.msg_id + i64::from(seq == 10);
        let text = "x".repeat(700);
        Arc::new(PushMessage {
            msg_id,
            text,
            ..message
        })
    };
    shard.on_push(Arc::new(PushMessage {
        msg_id: 1,
        ..(*direct(7, 5)).clone()
    }));
    let fetch = Fetch { after: 8, to: 40 };
    shard.fetched(Stream::Direct(7), fetch, page((9..=40).map(stored)));
    let fetch = Fetch { after: 4, to: 0 };
    shard.fetched(Stream::Direct(7), fetch, page((5..=41).map(stored)));
    let next = shard.next_catch_up(key, session_id(&shard, key));
    assert_eq!(next.expect("it is throttled").after, 7);
    let mut said = read(&mut shard, key);
    while let Some(next) = shard.next_catch_up(key, session_id(&shard, key)) {
        let page = (next.after + 1..=next.to).map(|seq| (*stored(seq)).clone());
        shard.caught_up(key, next, page.collect());
        said += &read(&mut shard, key);
    }
    let number = |line: &str| line.split_once(" seq=")?.1.split(' ').next()?.parse().ok();
    let came: Vec<u64> = said.lines().filter_map(number).collect();
    assert_eq!(came.last(), Some(&41));
    for line in said.lines() {
        let Some(seq) = number(line) else { continue };
        assert_eq!(line.contains(" dup=1 "), seq < 41, "{line}");
    }
}
