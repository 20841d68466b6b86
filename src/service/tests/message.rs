//! Storing, numbering and publishing of messages.

use super::*;
use crate::{contract::methods::method, proto::send_batch_item::Message as BatchMessage};

#[test]
fn a_direct_message_is_stored_numbered_and_published_to_each_route_once() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.bind(bob, 0, 1);
    world.bind(bob, 0, 2);
    world.bind(bob, 3, 3);
    let sent = world.send(alice, bob, "hi");
    let mut pushed = world.published();
    pushed.sort_by_key(|(channel, _)| format!("{channel:?}"));
    let channels: Vec<_> = pushed.iter().map(|(channel, _)| channel.clone()).collect();
    assert_eq!(channels, [route(0), route(3)]);
    let push = &pushed[0].1;
    assert_eq!((push.msg_id, push.seq), (sent.msg_id, 1));
    assert_eq!((push.from, push.to, push.text.as_str()), (alice, bob, "hi"));
    assert_eq!((push.ts_ms, push.session_id), (world.now_ms, 0));
    assert!(push.to_many.is_empty());
    assert_eq!(world.pulled(bob), [("hi".to_owned(), true)]);
}

#[test]
fn the_senders_routes_get_a_copy_that_names_the_sending_session() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.bind(alice, 1, 7);
    let mut request = world.draft(alice, bob, "hi");
    request.session_id = 7;
    world.call::<method::Send>(request);
    let pushed = world.published();
    assert_eq!(pushed.len(), 1);
    let (channel, copy) = &pushed[0];
    assert_eq!(*channel, route(1));
    assert_eq!(copy.to_many, [alice]);
    assert_eq!((copy.to, copy.seq, copy.session_id), (bob, 0, 7));
}

#[test]
fn a_message_to_oneself_is_an_ordinary_push_to_every_device() {
    let mut world = World::new();
    let alice = world.user("alice");
    world.bind(alice, 1, 7);
    let mut request = world.draft(alice, alice, "note");
    request.session_id = 7;
    world.call::<method::Send>(request);
    let pushed = world.published();
    assert_eq!(pushed.len(), 1);
    assert_eq!((pushed[0].1.seq, pushed[0].1.session_id), (1, 0));
    assert!(pushed[0].1.to_many.is_empty());
}

#[test]
fn numbers_of_an_inbox_have_no_hole_whoever_sends_and_whatever_is_refused() {
    let mut world = World::new();
    let receiver = world.user("receiver");
    let senders: Vec<_> = (0..4).map(|n| world.user(&format!("s{n}"))).collect();
    for round in 0..20 {
        let mut requests = Vec::new();
        for &sender in &senders {
            let good = world.draft(sender, receiver, &format!("{round}"));
            requests.push(good.clone().into());
            requests.push(good.into()); // a repeat
            requests.push(world.draft(sender, 999_999, "nobody").into());
        }
        world.batch(requests);
    }
    let numbers: Vec<u64> = world
        .pull(receiver)
        .msg_list
        .iter()
        .map(|m| m.seq)
        .collect();
    assert_eq!(numbers, (1..=80).collect::<Vec<u64>>());
}

#[test]
fn an_unknown_receiver_is_not_found_and_nothing_is_stored() {
    let mut world = World::new();
    let alice = world.user("alice");
    assert_eq!(code(&world.send(alice, 4711, "hi").result), Code::NotFound);
    assert_eq!(world.count("SELECT count(*) FROM messages"), 0);
    assert!(world.published().is_empty());
}

#[test]
fn the_same_client_id_within_a_day_answers_the_first_message_and_pushes_nothing() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.bind(bob, 0, 1);
    let mut request = world.draft(alice, bob, "once");
    request.client_msg_id = "tag-1".to_owned();
    let first = world.call::<method::Send>(request.clone());
    assert!(!first.duplicate);
    world.published();
    world.now_ms += 23 * 3_600_000;
    for attempt in 0..3 {
        let mut again = world.draft(alice, bob, "once");
        again.client_msg_id = "tag-1".to_owned();
        // In the middle of a batch and after a restart as well.
        let mut world_after;
        let repeated = if attempt == 2 {
            world_after = world.crashed();
            world_after.call::<method::Send>(again)
        } else {
            world.call::<method::Send>(again)
        };
        assert_eq!(repeated.msg_id, first.msg_id);
        assert!(repeated.duplicate);
    }
    assert!(world.published().is_empty());
    assert_eq!(world.pull(bob).msg_list.len(), 1);
    // Another sender's equal tag is another message.
    let mut other = world.draft(bob, bob, "mine");
    other.client_msg_id = "tag-1".to_owned();
    assert!(!world.call::<method::Send>(other).duplicate);
}

#[test]
fn a_tag_is_remembered_whatever_the_clocks_of_gateways_and_services_show() {
    const DAY_MS: i64 = 24 * 3_600_000;
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    for (tag, gateway_ahead_ms) in [("behind", -3 * DAY_MS), ("ahead", 3 * DAY_MS)] {
        let draft = |world: &mut World| {
            let mut draft = world.draft(alice, bob, tag);
            draft.client_msg_id = tag.to_owned();
            draft.msg.as_mut().expect("a message").ts_ms += gateway_ahead_ms;
            draft
        };
        let first = draft(&mut world);
        let first = world.call::<method::Send>(first);
        // The service's own wall clock is set, by as much as a tag lives and back again.
        for wall_ahead_ms in [0, DAY_MS, 10 * DAY_MS, -10 * DAY_MS] {
            world.wall_ahead_ms = wall_ahead_ms;
            let again = draft(&mut world);
            let again = world.call::<method::Send>(again);
            assert_eq!((again.msg_id, again.duplicate), (first.msg_id, true));
        }
    }
    // A day by no clock that can be set is a day.
    world.now_ms += DAY_MS + 1;
    let mut second = world.draft(alice, bob, "another");
    second.client_msg_id = "ahead".to_owned();
    assert!(!world.call::<method::Send>(second).duplicate);
}

#[test]
fn time_stamps_are_those_of_the_wall_clock() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.wall_ahead_ms = 3_600_000;
    let mut request = world.draft(alice, bob, "now");
    request.msg.as_mut().expect("a message").ts_ms = 0;
    world.call::<method::Send>(request);
    let stamped = world.pull(bob).msg_list[0].ts_ms;
    assert_eq!(stamped, world.now_ms + 3_600_000);
}

#[test]
fn a_client_id_is_free_again_after_a_day() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let mut request = world.draft(alice, bob, "first");
    request.client_msg_id = "tag".to_owned();
    world.call::<method::Send>(request);
    world.now_ms += 24 * 3_600_000 + 1;
    let mut request = world.draft(alice, bob, "second");
    request.client_msg_id = "tag".to_owned();
    let second = world.call::<method::Send>(request.clone());
    assert!(!second.duplicate);
    request.msg.as_mut().expect("a message").msg_id = world.msg_id();
    let third = world.call::<method::Send>(request);
    assert!(third.duplicate);
    assert_eq!(third.msg_id, second.msg_id);
    assert_eq!(texts(&world.pull(bob)), ["first", "second"]);
}

#[test]
fn the_same_message_id_is_stored_once_even_within_one_batch() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let request = world.draft(alice, bob, "once");
    let replies = world.batch(vec![request.clone().into(), request.into()]);
    let duplicates: Vec<bool> = replies
        .into_iter()
        .map(|reply| {
            proto::SendResponse::try_from(reply)
                .expect("a send")
                .duplicate
        })
        .collect();
    assert_eq!(duplicates, [false, true]);
    assert_eq!(world.pull(bob).msg_list.len(), 1);
}

/// `request` with another value in one of the fields that make it the message it is.
fn changed_in_one_field(request: &proto::SendRequest, other: UserId) -> Vec<proto::SendRequest> {
    type Change = fn(&mut proto::C2cMsg, UserId);
    let changes: [Change; 4] = [
        |msg, other| msg.from = other,
        |msg, other| msg.to = other,
        |msg, _| msg.ts_ms += 1,
        |msg, _| msg.text.push('!'),
    ];
    let changed = changes.iter().map(|change| {
        let mut changed = request.clone();
        change(changed.msg.as_mut().expect("a message"), other);
        changed
    });
    let with_tag = proto::SendRequest {
        client_msg_id: "another tag".to_owned(),
        ..request.clone()
    };
    changed.chain([with_tag]).collect()
}

#[test]
fn an_id_that_another_message_has_is_refused_and_never_replaced() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let carol = world.user("carol");
    let group = world.group(alice, &[]);
    for tag in ["", "tag"] {
        let mut request = world.draft(alice, bob, "from alice");
        request.client_msg_id = tag.to_owned();
        let first = world.call::<method::Send>(request.clone());
        let stored = world.count("SELECT count(*) FROM messages");
        world.published();
        for changed in changed_in_one_field(&request, carol) {
            let is_tag_in_the_way = !tag.is_empty()
                && changed.client_msg_id == tag
                && changed.msg.as_ref().is_some_and(|msg| msg.from == alice);
            if is_tag_in_the_way {
                continue;
            }
            let refused = world.call::<method::Send>(changed.clone());
            assert_eq!(code(&refused.result), Code::Conflict, "{changed:?}");
            assert!(!refused.duplicate && refused.msg_id == 0);
        }
        // In a group, too: ids are unique over both.
        let mut to_group = world.group_draft(alice, group, "from alice");
        to_group.msg.as_mut().expect("a message").msg_id = first.msg_id;
        let refused = world.call::<method::SendGroup>(to_group);
        assert_eq!(code(&refused.result), Code::Conflict);
        assert_eq!(world.count("SELECT count(*) FROM messages"), stored);
        assert!(world.published().is_empty());
        // What was stored is still what it was, and its repeat one.
        let again = world.call::<method::Send>(request);
        assert_eq!((again.msg_id, again.duplicate), (first.msg_id, true));
    }
}

#[test]
fn a_tag_with_another_receiver_group_or_text_is_refused_and_nothing_is_stored() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let group = world.group(alice, &[bob]);
    let mut request = world.draft(alice, bob, "once");
    request.client_msg_id = "tag".to_owned();
    let first = world.call::<method::Send>(request);
    world.published();
    for (to, text) in [(alice, "once"), (bob, "twice")] {
        let mut other = world.draft(alice, to, text);
        other.client_msg_id = "tag".to_owned();
        let refused = world.call::<method::Send>(other);
        assert_eq!(code(&refused.result), Code::Invalid, "{to} {text}");
        assert!(!refused.duplicate);
    }
    let mut to_group = world.group_draft(alice, group, "once");
    to_group.client_msg_id = "tag".to_owned();
    let refused = world.call::<method::SendGroup>(to_group);
    assert_eq!(code(&refused.result), Code::Invalid);
    assert_eq!(world.count("SELECT count(*) FROM messages"), 1);
    assert!(world.published().is_empty());
    // Its time may differ: the gateway stamps a line anew each time the client says it.
    world.now_ms += 5000;
    let mut again = world.draft(alice, bob, "once");
    again.client_msg_id = "tag".to_owned();
    let again = world.call::<method::Send>(again);
    assert_eq!((again.msg_id, again.duplicate), (first.msg_id, true));
}

#[test]
fn a_repeat_without_a_time_of_its_own_is_one() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let mut request = world.draft(alice, bob, "once");
    request.msg.as_mut().expect("a message").ts_ms = 0;
    let first = world.call::<method::Send>(request.clone());
    world.now_ms += 1000;
    let again = world.call::<method::Send>(request);
    assert_eq!((again.msg_id, again.duplicate), (first.msg_id, true));
}

#[test]
fn a_message_without_an_id_gets_one() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mut request = world.draft(alice, bob, "x");
        request.msg.as_mut().expect("a message").msg_id = 0;
        ids.push(world.call::<method::Send>(request).msg_id);
    }
    assert!(ids[0] > 0 && ids.is_sorted_by(|a, b| a < b), "{ids:?}");
}

#[test]
fn a_full_inbox_refuses_until_something_is_confirmed_but_still_knows_a_repeat() {
    let mut world = World::with_inbox_limit(3);
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let first = world.draft(alice, bob, "1");
    let first_id = world.call::<method::Send>(first.clone()).msg_id;
    world.send(alice, bob, "2");
    world.send(alice, bob, "3");
    let refused = world.send(alice, bob, "4");
    assert_eq!(code(&refused.result), Code::Unavailable);
    assert_eq!(refused.result.expect("a result").msg, "inbox full");
    let repeated = world.call::<method::Send>(first);
    assert_eq!((repeated.msg_id, repeated.duplicate), (first_id, true));
    world.ack_range(bob, 0, 2, 2);
    assert_eq!(code(&world.send(alice, bob, "5").result), Code::Ok);
    assert_eq!(code(&world.send(alice, bob, "6").result), Code::Unavailable);
    assert_eq!(texts(&world.pull(bob)), ["1", "3", "5"]);
}

#[test]
fn a_call_that_makes_no_sense_is_invalid_and_harms_nothing() {
    let mut world = World::new();
    let alice = world.user("alice");
    let nonsense: Vec<Request> = vec![
        proto::SendRequest::default().into(),
        proto::SendGroupRequest::default().into(),
        world.draft(-5, alice, "x").into(),
        world.draft(alice, i64::MAX, "x").into(),
        world.draft(alice, i64::MIN, "x").into(),
        proto::AckBatchRequest {
            acks: vec![proto::AckRange {
                user_id: alice,
                from_seq: u64::MAX,
                to_seq: u64::MAX,
                group_id: i64::MAX,
            }],
        }
        .into(),
        proto::PullOfflineRequest {
            user_id: alice,
            after_seq: Some(u64::MAX),
            to_seq: u64::MAX,
            limit: u32::MAX,
            redelivery_only: true,
        }
        .into(),
    ];
    assert_eq!(world.batch(nonsense).len(), 7);
    assert_eq!(code(&world.send(alice, alice, "fine").result), Code::Ok);
    world.ack_range(alice, 0, 0, u64::MAX);
    assert!(world.pulled(alice).is_empty());
}

fn direct(request: proto::SendRequest) -> proto::SendBatchItem {
    proto::SendBatchItem {
        message: Some(BatchMessage::Direct(request)),
    }
}

fn to_group(request: proto::SendGroupRequest) -> proto::SendBatchItem {
    proto::SendBatchItem {
        message: Some(BatchMessage::Group(request)),
    }
}

fn codes(response: &proto::SendBatchResponse) -> Vec<Code> {
    let results = response.results.iter();
    results.map(|result| code(&result.result)).collect()
}

#[test]
fn a_batch_is_stored_in_order_without_what_is_refused() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let (ours, theirs) = (world.group(alice, &[bob]), world.group(bob, &[]));
    world.bind(bob, 0, 1);
    world.published();
    let items = vec![
        direct(world.draft(alice, bob, "one")),
        direct(world.draft(alice, 999_999, "nobody")),
        to_group(world.group_draft(alice, theirs, "not a member")),
        direct(world.draft(alice, bob, "two")),
        to_group(world.group_draft(alice, ours, "three")),
        proto::SendBatchItem::default(),
    ];
    let request = proto::SendBatchRequest { items };
    let response = world.call::<method::SendBatch>(request.clone());
    assert_eq!(code(&response.result), Code::Ok);
    let expected = [
        Code::Ok,
        Code::NotFound,
        Code::Forbidden,
        Code::Ok,
        Code::Ok,
        Code::Invalid,
    ];
    assert_eq!(codes(&response), expected);
    let pushed: Vec<_> = world
        .published()
        .into_iter()
        .map(|(_, push)| (push.text, push.seq))
        .collect();
    let expected = [("one", 1), ("two", 2), ("three", 1)];
    assert_eq!(pushed, expected.map(|(text, seq)| (text.to_owned(), seq)));
    // The same call again stores and publishes nothing.
    let again = world.call::<method::SendBatch>(request);
    for (first, second) in response.results.iter().zip(&again.results) {
        assert_eq!(second.msg_id, first.msg_id);
        assert_eq!(second.duplicate, code(&first.result) == Code::Ok);
    }
    assert!(world.published().is_empty());
}

#[test]
fn behind_an_id_that_is_taken_nothing_of_a_batch_is_stored() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let taken = world.send(bob, alice, "first").msg_id;
    let mut other = world.draft(alice, bob, "two");
    other.msg.as_mut().expect("a message").msg_id = taken;
    let items = vec![
        direct(world.draft(alice, bob, "one")),
        direct(other),
        direct(world.draft(alice, bob, "three")),
    ];
    let response = world.call::<method::SendBatch>(proto::SendBatchRequest { items });
    assert_eq!(codes(&response), [Code::Ok, Code::Conflict, Code::Conflict]);
    assert_eq!(world.pulled(bob), [("one".to_owned(), false)]);
}

#[test]
fn where_the_store_takes_no_writes_nothing_of_a_batch_is_stored() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.send(alice, bob, "before");
    world.fill_disk();
    let text = "x".repeat(50_000);
    let items = (0..20)
        .map(|_| direct(world.draft(alice, bob, &text)))
        .collect();
    let response = world.call::<method::SendBatch>(proto::SendBatchRequest { items });
    assert_eq!(code(&response.result), Code::Unavailable);
    assert!(response.results.is_empty());
    world.make_room();
    assert_eq!(world.count("SELECT count(*) FROM messages"), 1);
}

#[test]
fn a_batch_of_too_many_messages_is_refused() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let items = vec![direct(world.draft(alice, bob, "x")); 1025];
    let response = world.call::<method::SendBatch>(proto::SendBatchRequest { items });
    assert_eq!(code(&response.result), Code::Invalid);
}
