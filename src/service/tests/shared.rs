//! Two engines over one file, as two processes have them: what one does, the other knows at once.

use std::time::Duration;

use super::*;
use crate::{contract::methods::method, service::store::sqlite::schema};

const SHARED: StorageMode = StorageMode::Backend {
    exclusive: false,
    route_lifetime: Duration::from_secs(120),
};

/// Two worlds over one file. Their own ids of messages are made alike, with one worker number.
fn pair_with_inbox_limit(inbox_limit: u64) -> (World, World) {
    let directory = Arc::new(TempDir::new().expect("a directory"));
    let one = World::of_mode(SHARED, Arc::clone(&directory), inbox_limit);
    let mut other = World::of_mode(SHARED, directory, inbox_limit);
    other.next_msg_id = 1_000_000;
    (one, other)
}

pub(super) fn pair() -> (World, World) {
    pair_with_inbox_limit(10_000)
}

fn numbers(world: &mut World, user: UserId) -> Vec<u64> {
    world.pull(user).msg_list.iter().map(|m| m.seq).collect()
}

fn member_count(world: &mut World, group_id: i64) -> u32 {
    let info = world.call::<method::GetGroupInfo>(proto::GetGroupInfoRequest { group_id });
    info.member_count
}

#[test]
fn numbers_of_inboxes_and_groups_have_no_hole_whichever_process_gives_them() {
    let (mut one, mut other) = pair();
    let (alice, bob) = (one.user("alice"), other.user("bob"));
    let group = one.group(alice, &[bob]);
    for round in 0..10 {
        one.send(alice, bob, "one");
        other.send(alice, bob, "other");
        if round % 3 == 0 {
            other.send(bob, bob, "other again");
        }
        other.send_group(alice, group, "other");
        one.send_group(alice, group, "one");
    }
    assert_eq!(numbers(&mut one, bob), (1..=24).collect::<Vec<_>>());
    assert_eq!(numbers(&mut other, bob), (1..=24).collect::<Vec<_>>());
    let page = other.pull(bob);
    let in_group: Vec<u64> = page.group_msg_list.iter().map(|m| m.seq).collect();
    assert_eq!(in_group, (1..=20).collect::<Vec<_>>());
}

#[test]
fn a_repeat_sent_to_the_other_process_is_known() {
    let (mut one, mut other) = pair();
    let (alice, bob) = (one.user("alice"), one.user("bob"));
    other.bind(bob, 0, 1);
    let mut request = one.draft(alice, bob, "once");
    request.client_msg_id = "tag".to_owned();
    let first = one.call::<method::Send>(request.clone());
    one.published();
    let again = other.call::<method::Send>(request.clone());
    assert_eq!((again.msg_id, again.duplicate), (first.msg_id, true));
    request.msg.as_mut().expect("a message").msg_id = other.msg_id();
    let again = other.call::<method::Send>(request);
    assert_eq!((again.msg_id, again.duplicate), (first.msg_id, true));
    assert!(other.published().is_empty());
    assert_eq!(numbers(&mut other, bob), [1]);
}

#[test]
fn an_id_that_is_another_messages_is_refused_by_the_other_process_too() {
    let (mut one, mut other) = pair();
    let (alice, bob) = (one.user("alice"), one.user("bob"));
    let first = one.draft(alice, bob, "first");
    one.call::<method::Send>(first.clone());
    let mut second = first.clone();
    second.msg.as_mut().expect("a message").text = "second".to_owned();
    for world in [&mut one, &mut other] {
        let refused = world.call::<method::Send>(second.clone());
        assert_eq!(code(&refused.result), Code::Conflict);
        let again = world.call::<method::Send>(first.clone());
        assert!(again.duplicate, "the retry of a call stays harmless");
    }
    assert_eq!(texts(&other.pull(bob)), ["first"]);
}

#[test]
fn ids_that_both_processes_give_alike_lose_no_message() {
    let (mut one, mut other) = pair();
    let (alice, bob) = (one.user("alice"), one.user("bob"));
    let mut ids = Vec::new();
    for _ in 0..20 {
        for world in [&mut one, &mut other] {
            let mut request = world.draft(alice, bob, "x");
            request.msg.as_mut().expect("a message").msg_id = 0;
            let sent = world.call::<method::Send>(request);
            assert_eq!((code(&sent.result), sent.duplicate), (Code::Ok, false));
            ids.push(sent.msg_id);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 40);
    assert_eq!(numbers(&mut one, bob), (1..=40).collect::<Vec<_>>());
}

#[test]
fn a_confirmation_in_one_process_is_one_in_the_other_at_once() {
    let (mut one, mut other) = pair_with_inbox_limit(3);
    let (alice, bob) = (one.user("alice"), one.user("bob"));
    let ids: Vec<i64> = (0..3).map(|_| one.send(alice, bob, "x").msg_id).collect();
    assert_eq!(numbers(&mut other, bob), [1, 2, 3]);
    assert_eq!(
        code(&other.send(alice, bob, "full").result),
        Code::Unavailable
    );
    one.ack_range(bob, 0, 1, 1);
    assert_eq!(numbers(&mut other, bob), [2, 3]);
    assert_eq!(other.ack(bob, &ids).acked, 2);
    assert!(one.pulled(bob).is_empty());
    assert_eq!(one.ack(bob, &ids).acked, 0);
    one.send(alice, bob, "x");
    assert_eq!(other.crashed().pull(bob).msg_list[0].seq, 4);
    // What one handed out, the other marks.
    assert_eq!(one.pulled(bob), [("x".to_owned(), false)]);
    assert_eq!(other.pulled(bob), [("x".to_owned(), true)]);
}

#[test]
fn a_change_of_membership_counts_in_the_other_process_at_once() {
    let (mut one, mut other) = pair_with_inbox_limit(3);
    let (alice, bob, carol) = (one.user("alice"), one.user("bob"), one.user("carol"));
    let group_id = one.group(alice, &[]);
    let refused = other.send_group(bob, group_id, "not yet");
    assert_eq!(code(&refused.result), Code::Forbidden);
    assert_eq!(member_count(&mut other, group_id), 1);
    other.bind(bob, 2, 1);
    for user_id in [bob, carol] {
        let request = proto::JoinGroupRequest { user_id, group_id };
        one.call::<method::JoinGroup>(request);
    }
    assert_eq!(one.pushed_over(), [route(2)], "bob is bound, as one knows");
    assert_eq!(member_count(&mut other, group_id), 3);
    assert_eq!(code(&other.send_group(bob, group_id, "1").result), Code::Ok);
    // The slowest member decides in both, whoever looked at the members last.
    assert_eq!(one.pulled(carol), [("1".to_owned(), false)]);
    one.send_group(bob, group_id, "2");
    other.send_group(bob, group_id, "3");
    for world in [&mut one, &mut other] {
        let refused = world.send_group(bob, group_id, "full");
        assert_eq!(code(&refused.result), Code::Unavailable);
    }
    other.ack_range(alice, group_id, 1, 3);
    one.ack_range(carol, group_id, 1, 2);
    for world in [&mut one, &mut other] {
        let sent = world.send_group(bob, group_id, "x");
        assert_eq!(code(&sent.result), Code::Ok);
    }
    let refused = one.send_group(bob, group_id, "full");
    assert_eq!(code(&refused.result), Code::Unavailable);
    let request = proto::LeaveGroupRequest {
        user_id: bob,
        group_id,
    };
    one.call::<method::LeaveGroup>(request);
    let refused = other.send_group(bob, group_id, "no more");
    assert_eq!(code(&refused.result), Code::Forbidden);
    assert_eq!(member_count(&mut other, group_id), 2);
}

#[test]
fn a_route_bound_through_one_process_is_pushed_to_by_the_other() {
    let (mut one, mut other) = pair();
    let (alice, bob) = (one.user("alice"), one.user("bob"));
    other.send(alice, bob, "before");
    assert!(other.published().is_empty());
    one.bind_device(bob, 3, 1, "phone");
    other.send(alice, bob, "while bound");
    assert_eq!(other.pushed_over(), [route(3)]);
    let bound = other.bind_device(bob, 4, 2, "phone");
    assert_eq!(bound.displaced[0].session_id, 1);
    assert_eq!(other.pushed_over(), [route(3)], "the kick");
    one.send(alice, bob, "replaced");
    assert_eq!(one.pushed_over(), [route(4)]);
    one.unbind_over(bob, 4, 2);
    other.send(alice, bob, "after");
    assert!(other.published().is_empty());
    let expected = [
        ("before", false),
        ("while bound", true),
        ("replaced", true),
        ("after", false),
    ];
    let expected = expected.map(|(text, mark)| (text.to_owned(), mark));
    assert_eq!(other.pulled(bob), expected);
}

#[test]
fn a_batch_that_only_looks_up_sees_what_the_other_process_wrote() {
    let (mut one, mut other) = pair();
    let (alice, bob) = (one.user("alice"), one.user("bob"));
    for (user_id, friend_id) in [(alice, bob), (bob, alice)] {
        one.call::<method::AddFriend>(proto::AddFriendRequest {
            user_id,
            friend_id,
            message: String::new(),
        });
    }
    let friends = other.call::<method::GetFriends>(proto::GetFriendsRequest {
        user_id: alice,
        only_friend_id: 0,
    });
    assert_eq!(friends.friend_ids, [bob]);
    one.bind(alice, 0, 1);
    other.bind(bob, 1, 2);
    assert_eq!(other.pushed_over(), [route(0)], "alice is told");
}

#[test]
fn while_another_holds_the_file_writes_are_refused_reads_answered_and_nothing_is_lost() {
    let (mut one, mut other) = pair();
    let (alice, bob) = (one.user("alice"), one.user("bob"));
    one.send(alice, bob, "1");
    other.execute("BEGIN IMMEDIATE");
    let requests = vec![
        one.draft(alice, bob, "2").into(),
        proto::GetProfileRequest { user_id: alice }.into(),
        proto::GetUserGroupsRequest { user_id: alice }.into(),
        // Would have to be marked as handed out.
        proto::PullOfflineRequest {
            user_id: bob,
            ..Default::default()
        }
        .into(),
        proto::PullOfflineRequest {
            user_id: alice,
            ..Default::default()
        }
        .into(),
        proto::AckBatchRequest {
            acks: vec![proto::AckRange {
                user_id: bob,
                from_seq: 1,
                to_seq: 1,
                group_id: 0,
            }],
        }
        .into(),
    ];
    let codes: Vec<Code> = one
        .batch(requests)
        .into_iter()
        .map(|reply| match reply {
            Response::Send(reply) => code(&reply.result),
            Response::GetProfile(reply) => code(&reply.result),
            Response::GetUserGroups(reply) => code(&reply.result),
            Response::PullOffline(reply) => code(&reply.result),
            Response::AckBatch(reply) => code(&reply.result),
            _ => panic!("not asked for"),
        })
        .collect();
    let expected = [
        Code::Unavailable,
        Code::Ok,
        Code::Ok,
        Code::Unavailable,
        Code::Ok,
        Code::Unavailable,
    ];
    assert_eq!(codes, expected);
    assert_eq!(one.told(), [true]);
    other.execute("ROLLBACK");
    one.now_ms += 1000;
    one.engine.run_housekeeping(one.now_ms, false);
    assert_eq!(one.told(), [false]);
    assert_eq!(code(&one.send(alice, bob, "3").result), Code::Ok);
    let expected = [("1".to_owned(), false), ("3".to_owned(), false)];
    assert_eq!(other.pulled(bob), expected);
}

#[test]
fn a_batch_taken_back_leaves_the_other_process_its_numbers() {
    let (mut one, mut other) = pair();
    let (alice, bob) = (one.user("alice"), one.user("bob"));
    one.send(alice, bob, "1");
    one.fill_disk();
    let large = "x".repeat(1 << 20);
    let requests = vec![
        one.draft(alice, bob, "2").into(),
        one.draft(alice, bob, &large).into(),
    ];
    one.batch(requests);
    one.make_room();
    other.send(alice, bob, "the real 2");
    one.send(alice, bob, "3");
    assert_eq!(texts(&other.pull(bob)), ["1", "the real 2", "3"]);
    assert_eq!(numbers(&mut one, bob), [1, 2, 3]);
}

#[test]
fn each_process_may_sweep_and_numbers_go_on() {
    let (mut one, mut other) = pair();
    let (alice, bob) = (one.user("alice"), one.user("bob"));
    let group = one.group(alice, &[bob]);
    for _ in 0..4 {
        one.send(alice, bob, "x");
        other.send_group(alice, group, "x");
    }
    other.ack_range(bob, 0, 1, 4);
    one.ack_range(bob, group, 1, 3);
    for world in [&mut one, &mut other] {
        world.now_ms += 25 * 3_600_000;
        world.engine.run_housekeeping(world.now_ms, true);
        world.engine.run_housekeeping(world.now_ms, true);
    }
    assert_eq!(one.count("SELECT count(*) FROM messages"), 1);
    other.send(alice, bob, "x");
    one.send_group(alice, group, "x");
    assert_eq!(numbers(&mut one, bob), [5]);
    let page = other.pull(bob);
    let in_group: Vec<u64> = page.group_msg_list.iter().map(|m| m.seq).collect();
    assert_eq!(in_group, [4, 5]);
}

#[test]
fn who_wants_the_file_alone_does_not_get_it_beside_one_who_shares_it() {
    let directory = Arc::new(TempDir::new().expect("a directory"));
    let sharing = World::of_mode(SHARED, Arc::clone(&directory), 10);
    assert!(Sqlite::open(directory.path(), false).is_err());
    drop(sharing);
    let alone = Sqlite::open(directory.path(), false).expect("free");
    assert!(Sqlite::open(directory.path(), true).is_err());
    drop(alone);
}

#[test]
fn processes_that_start_at_once_over_a_new_file_make_it_once() {
    let directory = TempDir::new().expect("a directory");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| Sqlite::open(directory.path(), true).expect("a store"));
        }
    });
    let storage = Sqlite::open(directory.path(), true).expect("a store");
    let mode: String = storage
        .connection()
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .expect("a mode");
    assert_eq!(mode, "wal");
    assert!(directory.path().join(schema::FILE_NAME).exists());
}

#[test]
fn a_log_that_an_open_reader_keeps_long_is_told_of_and_shortened_when_the_reader_ends() {
    const LONG: u64 = 64 * 1024;
    let (mut one, _other) = pair();
    let alice = one.user("alice");
    let path = crate::service::database_file(one.directory.path());
    let reader = rusqlite::Connection::open(path).expect("it opens");
    reader.execute_batch("BEGIN").expect("begun");
    let users = |reader: &rusqlite::Connection| {
        reader.query_row("SELECT count(*) FROM users", [], |row| row.get::<_, i64>(0))
    };
    assert_eq!(users(&reader), Ok(1));
    let fill = |world: &mut World| {
        for n in 0..100 {
            world.send(alice, alice, &format!("{n:1000}"));
        }
    };
    fill(&mut one);
    assert!(one.engine.store.log_bytes() > LONG);
    assert!(!one.engine.store.shorten_log(LONG), "the first look");
    fill(&mut one);
    assert!(one.engine.store.shorten_log(LONG), "still the same reader");
    reader.execute_batch("COMMIT").expect("ended");
    assert!(!one.engine.store.shorten_log(LONG));
    assert!(one.engine.store.log_bytes() <= LONG);
}

#[test]
fn a_batch_ends_when_it_has_as_many_cursors_to_write_as_one_commit_should() {
    let (mut one, _other) = pair();
    let (alice, bob) = (one.user("alice"), one.user("bob"));
    for user in [alice, bob] {
        for _ in 0..300 {
            one.group(user, &[]);
        }
    }
    let bind = |user_id, session_id| proto::BindRouteRequest {
        user_id,
        gateway_id: "gw#0".to_owned(),
        session_id,
        ..Default::default()
    };
    let profile = proto::GetProfileRequest { user_id: bob };
    let binds = [bind(alice, 1), bind(bob, 2)].map(Request::from);
    let requests = [binds.to_vec(), vec![profile.into()]].concat();
    let replies = one.batch(requests);
    assert_eq!(replies.len(), 2, "the profile is for the next batch");
    let replies = one.batch(vec![profile.into(), profile.into()]);
    assert_eq!(replies.len(), 2);
}
