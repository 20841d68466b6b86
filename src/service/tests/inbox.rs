//! Pulling and confirming.

use super::*;
use crate::contract::methods::method;

#[test]
fn a_pull_deletes_nothing_and_marks_what_it_handed_out() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.send(alice, bob, "1");
    world.send(alice, bob, "2");
    assert_eq!(
        world.pulled(bob),
        [("1".to_owned(), false), ("2".to_owned(), false)]
    );
    assert_eq!(
        world.pulled(bob),
        [("1".to_owned(), true), ("2".to_owned(), true)]
    );
    world.send(alice, bob, "3");
    assert_eq!(world.pulled(bob)[2], ("3".to_owned(), false));
}

#[test]
fn an_acknowledgement_counts_what_was_unconfirmed_and_ignores_what_is_not_ours() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let group = world.group(alice, &[bob]);
    let direct = world.send(alice, bob, "direct").msg_id;
    let foreign = world.send(bob, alice, "for alice").msg_id;
    let in_group = world.send_group(alice, group, "group").msg_id;
    assert_eq!(
        world.ack(bob, &[direct, in_group, foreign, 424_242]).acked,
        2
    );
    assert_eq!(world.ack(bob, &[direct, in_group]).acked, 0);
    assert!(world.pulled(bob).is_empty());
    assert_eq!(world.pulled(alice).len(), 1);
}

#[test]
fn pages_come_oldest_first_across_inbox_and_groups_and_say_whether_there_is_more() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let first = world.group(alice, &[bob]);
    let second = world.group(alice, &[bob]);
    let mut sent = Vec::new();
    for number in 0..30 {
        world.now_ms += 1;
        let text = format!("{number}");
        sent.push(match number % 3 {
            0 => world.send(alice, bob, &text).msg_id,
            1 => world.send_group(alice, first, &text).msg_id,
            _ => world.send_group(alice, second, &text).msg_id,
        });
    }
    let mut seen: Vec<i64> = Vec::new();
    for page_number in 0..5 {
        let page = world.pull_page(bob, 7);
        let mut ids: Vec<i64> = page.msg_list.iter().map(|m| m.msg_id).collect();
        ids.extend(page.group_msg_list.iter().map(|m| m.msg_id));
        ids.sort_unstable();
        assert_eq!(page.more, page_number < 4);
        seen.extend(&ids);
        assert_eq!(world.ack(bob, &ids).acked as usize, ids.len());
    }
    assert_eq!(seen, sent);
    assert!(world.pulled(bob).is_empty());
}

#[test]
fn a_page_is_bounded_in_bytes_but_never_empty() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let large = "x".repeat(600 * 1024);
    world.send(alice, bob, &large);
    world.send(alice, bob, &large);
    let page = world.pull(bob);
    assert_eq!((page.msg_list.len(), page.more), (1, true));
    world.ack_range(bob, 0, 1, 1);
    let page = world.pull(bob);
    assert_eq!((page.msg_list.len(), page.more), (1, false));
}

#[test]
fn a_fetch_by_number_answers_exactly_that_range_confirmed_or_not() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    for number in 1..=10 {
        world.send(alice, bob, &number.to_string());
    }
    world.ack_range(bob, 0, 1, 5);
    let mut fetch = |after_seq, to_seq, limit| {
        let page = world.call::<method::PullOffline>(proto::PullOfflineRequest {
            user_id: bob,
            limit,
            after_seq: Some(after_seq),
            to_seq,
            redelivery_only: false,
        });
        let numbers: Vec<u64> = page.msg_list.iter().map(|m| m.seq).collect();
        (numbers, page.more)
    };
    assert_eq!(fetch(3, 7, 0), (vec![4, 5, 6, 7], false));
    assert_eq!(fetch(3, 7, 2), (vec![4, 5], true));
    assert_eq!(fetch(8, 0, 0), (vec![9, 10], false));
    assert_eq!(fetch(10, 0, 0), (vec![], false));
}

#[test]
fn ranges_confirm_in_any_order_and_leave_the_holes() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    for number in 1..=9 {
        world.send(alice, bob, &number.to_string());
    }
    world.ack_range(bob, 0, 8, 9);
    world.ack_range(bob, 0, 2, 3);
    world.ack_range(bob, 0, 5, 5);
    assert_eq!(texts(&world.pull(bob)), ["1", "4", "6", "7"]);
    world.write_back();
    let mut after = world.crashed();
    assert_eq!(texts(&after.pull(bob)), ["1", "4", "6", "7"]);
}

#[test]
fn fetches_and_pulls_use_the_index() {
    let world = World::new();
    for sql in [
        "SELECT msg_id, seq, sender, ts_ms, text FROM messages WHERE stream = 1 AND seq BETWEEN 2 AND 3 ORDER BY seq LIMIT 4",
        "SELECT max(seq) FROM messages WHERE stream = 1",
        "SELECT stream FROM cursors WHERE user_id = 1 AND stream % 2 = 1 ORDER BY stream",
        "SELECT msg_id FROM messages WHERE sender = 1 AND client_msg_id = 'x' AND ts_ms > 3",
        "SELECT user_id FROM friends WHERE friend_id = 1 LIMIT 2",
        "SELECT user_id, name FROM users WHERE name >= 'a' AND name < 'b' ORDER BY name LIMIT 3",
    ] {
        let plan: String = world
            .connection()
            .query_row(&format!("EXPLAIN QUERY PLAN {sql}"), [], |row| row.get(3))
            .expect(sql);
        assert!(plan.starts_with("SEARCH"), "{sql}: {plan}");
    }
}

#[test]
fn confirmed_messages_are_swept_after_a_day_and_numbers_go_on() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let group = world.group(alice, &[bob]);
    for number in 1..=4 {
        world.send(alice, bob, &number.to_string());
        world.send_group(alice, group, &number.to_string());
    }
    world.ack_range(bob, 0, 1, 2);
    world.ack_range(bob, 0, 4, 4);
    world.ack_range(bob, group, 1, 4);
    assert!(!world.engine.run_housekeeping(world.now_ms, true));
    assert_eq!(world.count("SELECT count(*) FROM messages"), 8);
    world.now_ms += 25 * 3_600_000;
    assert!(!world.engine.run_housekeeping(world.now_ms, true));
    assert_eq!(world.count("SELECT count(*) FROM messages"), 1);
    // The last numbers of both streams are gone from the table, and are still known after a crash.
    let mut after = world.crashed();
    assert_eq!(after.pulled(bob), [("3".to_owned(), false)]);
    after.send(alice, bob, "5");
    after.send_group(alice, group, "5");
    let page = after.pull(bob);
    assert_eq!(page.msg_list.last().expect("a message").seq, 5);
    assert_eq!(page.group_msg_list.last().expect("a message").seq, 5);
}

#[test]
fn a_group_message_stays_until_its_slowest_member_has_confirmed_it() {
    let mut world = World::new();
    let (alice, bob, carol) = (world.user("alice"), world.user("bob"), world.user("carol"));
    let group = world.group(alice, &[bob, carol]);
    world.send_group(alice, group, "x");
    world.ack_range(bob, group, 1, 1);
    world.now_ms += 25 * 3_600_000;
    world.engine.run_housekeeping(world.now_ms, true);
    assert_eq!(world.pulled(carol), [("x".to_owned(), false)]);
    world.ack_range(carol, group, 1, 1);
    world.engine.run_housekeeping(world.now_ms, true);
    assert_eq!(world.count("SELECT count(*) FROM messages"), 0);
}

#[test]
fn a_sweep_goes_through_a_large_table_slice_by_slice() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    for _ in 0..3 {
        let requests = (0..300)
            .map(|_| world.draft(alice, bob, "x").into())
            .collect();
        world.batch(requests);
    }
    world.ack_range(bob, 0, 1, 900);
    world.now_ms += 25 * 3_600_000;
    let mut slices = 1;
    while world.engine.run_housekeeping(world.now_ms, true) {
        slices += 1;
        assert!(slices < 20);
    }
    assert_eq!(slices, 4);
    assert_eq!(world.count("SELECT count(*) FROM messages"), 0);
}

#[test]
fn the_sweep_passes_over_ids_of_a_gateway_whose_clock_is_behind() {
    const DAY_MS: i64 = 24 * 3_600_000;
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let with_id = |world: &mut World, made_ms: i64| {
        let mut draft = world.draft(alice, bob, "x");
        let id = (made_ms - 1_420_070_400_000) << 22;
        draft.msg.as_mut().expect("a message").msg_id = id;
        let sent = world.call::<crate::contract::methods::method::Send>(draft);
        assert_eq!(code(&sent.result), Code::Ok);
    };
    let now = world.now_ms;
    with_id(&mut world, now);
    world.ack_range(bob, 0, 1, 2);
    world.now_ms += DAY_MS + 1;
    // Stored just now, under an id that is years old.
    let long_ago = now - 2000 * DAY_MS;
    with_id(&mut world, long_ago);
    world.ack_range(bob, 0, 2, 2);
    world.engine.run_housekeeping(world.now_ms, true);
    assert_eq!(world.count("SELECT count(*) FROM messages"), 1);
}
