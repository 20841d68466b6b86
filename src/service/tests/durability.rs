//! Crashes, a full disk, panics, older and newer files.

use super::*;
use crate::{
    base::error::{ExitCode, StartupError},
    contract::methods::method,
    service::store::sqlite::schema,
};

#[test]
fn what_was_answered_is_there_after_a_crash() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let group = world.group(alice, &[bob]);
    let direct = world.send(alice, bob, "direct").msg_id;
    world.send_group(alice, group, "group");
    assert_eq!(world.ack(bob, &[direct]).acked, 1);
    let mut after = world.crashed();
    assert_eq!(after.pulled(bob), [("group".to_owned(), false)]);
    after.send(alice, bob, "next");
    assert_eq!(after.pull(bob).msg_list[0].seq, 2);
}

#[test]
fn after_a_crash_exactly_what_may_have_been_handed_out_is_marked() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let group = world.group(alice, &[bob]);
    world.send(alice, bob, "before");
    world.bind(bob, 0, 1);
    world.send(alice, bob, "while bound");
    world.send_group(alice, group, "while bound");
    let mut after = world.crashed();
    // Before anyone has asked for this inbox or group again, more comes in.
    after.send(alice, bob, "after the crash");
    after.send_group(alice, group, "after the crash");
    let expected = [
        ("before", false),
        ("while bound", true),
        ("after the crash", false),
        ("while bound", true),
        ("after the crash", false),
    ];
    let expected = expected.map(|(text, mark)| (text.to_owned(), mark));
    assert_eq!(after.pulled(bob), expected);
}

#[test]
fn what_a_pull_handed_out_is_marked_after_a_crash() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.send(alice, bob, "1");
    world.send(alice, bob, "2");
    world.pull_page(bob, 1);
    let expected = [("1".to_owned(), true), ("2".to_owned(), false)];
    assert_eq!(world.crashed().pulled(bob), expected);
}

#[test]
fn a_lost_range_confirmation_comes_back_as_a_marked_repeat_and_a_written_one_does_not() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.bind(bob, 0, 1);
    world.send(alice, bob, "1");
    world.ack_range(bob, 0, 1, 1);
    assert_eq!(world.crashed().pulled(bob), [("1".to_owned(), true)]);
    world.write_back();
    assert!(world.crashed().pulled(bob).is_empty());
}

#[test]
fn an_acknowledgement_by_id_is_durable_even_if_a_range_was_faster() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let id = world.send(alice, bob, "1").msg_id;
    world.ack_range(bob, 0, 1, 1);
    assert_eq!(world.ack(bob, &[id]).acked, 0);
    assert!(world.crashed().pulled(bob).is_empty());
}

#[test]
fn a_full_disk_refuses_writes_answers_reads_and_recovers_when_there_is_room() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.send(alice, bob, "stored");
    world.bind(bob, 0, 1);
    world.published();
    world.fill_disk();
    // Fills what is left of the last pages; from some message on, each is refused.
    let large = "x".repeat(3000);
    let mut stored = 0;
    while code(&world.send(alice, bob, &large).result) == Code::Ok {
        stored += 1;
        assert!(stored < 100, "the disk is never full");
    }
    world.published();
    let requests = vec![
        world.draft(alice, bob, &large).into(),
        proto::PullOfflineRequest {
            user_id: bob,
            limit: 1000,
            ..Default::default()
        }
        .into(),
        proto::BindRouteRequest {
            user_id: alice,
            gateway_id: "gw#3".to_owned(),
            session_id: 2,
            ..Default::default()
        }
        .into(),
        proto::GetProfileRequest { user_id: alice }.into(),
    ];
    let replies = world.batch(requests);
    let refused = proto::SendResponse::try_from(replies[0].clone()).expect("a send");
    assert_eq!(code(&refused.result), Code::Unavailable);
    let page = proto::PullOfflineResponse::try_from(replies[1].clone()).expect("a pull");
    assert_eq!(
        (code(&page.result), page.msg_list.len()),
        (Code::Ok, 1 + stored)
    );
    let bound = proto::BindRouteResponse::try_from(replies[2].clone()).expect("a bind");
    assert_eq!((code(&bound.result), bound.last_seq), (Code::Ok, Some(0)));
    let profile = proto::GetProfileResponse::try_from(replies[3].clone()).expect("a profile");
    assert_eq!(profile.name, "alice");
    assert!(world.published().is_empty(), "nothing refused is published");
    world.make_room();
    assert_eq!(code(&world.send(alice, bob, "again").result), Code::Ok);
    let numbers: Vec<u64> = world.pull(bob).msg_list.iter().map(|m| m.seq).collect();
    assert_eq!(numbers, (1..=stored as u64 + 2).collect::<Vec<_>>());
}

#[test]
fn a_store_that_fails_is_told_once_and_found_to_work_again_without_a_call() {
    let mut world = World::new();
    let alice = world.user("alice");
    world.execute("PRAGMA query_only = ON");
    for _ in 0..3 {
        let refused = world.send(alice, alice, "refused");
        assert_eq!(code(&refused.result), Code::Unavailable);
    }
    assert_eq!(world.told(), [true]);
    for _ in 0..3 {
        world.now_ms += 1000;
        world.engine.run_housekeeping(world.now_ms, false);
    }
    assert!(world.told().is_empty(), "still failing");
    world.execute("PRAGMA query_only = OFF");
    world.now_ms += 1000;
    world.engine.run_housekeeping(world.now_ms, false);
    assert_eq!(world.told(), [false]);
    assert_eq!(code(&world.send(alice, alice, "stored").result), Code::Ok);
    assert!(world.told().is_empty());
    assert_eq!(
        world.engine.metrics.commits.get(),
        3,
        "account, probe, message"
    );
    assert_eq!(world.engine.metrics.messages.get(), 1);
}

#[test]
fn numbers_and_marks_of_a_batch_taken_back_do_not_stick() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let group = world.group(alice, &[bob]);
    world.send(alice, bob, "1");
    world.fill_disk();
    let large = "x".repeat(1 << 20);
    let confirm = proto::AckBatchRequest {
        acks: vec![
            proto::AckRange {
                user_id: bob,
                from_seq: 1,
                to_seq: 9,
                group_id: 0,
            },
            proto::AckRange {
                user_id: bob,
                from_seq: 1,
                to_seq: 9,
                group_id: group,
            },
        ],
    };
    let requests = vec![
        world.draft(alice, bob, "2").into(),
        world.group_draft(alice, group, "1").into(),
        confirm.into(),
        world.draft(alice, bob, &large).into(),
    ];
    world.batch(requests);
    world.make_room();
    world.write_back();
    world.send(alice, bob, "the real 2");
    world.send_group(bob, group, "the real 1");
    assert_eq!(
        world.crashed().pulled(bob),
        [("the real 2".to_owned(), false)]
    );
    assert_eq!(
        world.crashed().pulled(alice),
        [("the real 1".to_owned(), false)]
    );
}

#[test]
fn a_failing_statement_fails_its_call_alone() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.execute(
        "CREATE TEMP TRIGGER broken BEFORE INSERT ON messages WHEN NEW.text = 'bad'
         BEGIN SELECT RAISE(ABORT, 'broken'); END",
    );
    let requests = vec![
        world.draft(alice, bob, "1").into(),
        world.draft(alice, bob, "bad").into(),
        world.draft(alice, bob, "2").into(),
    ];
    let codes: Vec<Code> = world
        .batch(requests)
        .into_iter()
        .map(|reply| code(&proto::SendResponse::try_from(reply).expect("a send").result))
        .collect();
    assert_eq!(codes, [Code::Ok, Code::Internal, Code::Ok]);
    assert_eq!(texts(&world.pull(bob)), ["1", "2"]);
}

#[test]
fn a_panic_in_one_call_refuses_that_call_and_no_other() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.bind_device(bob, 0, 1, "phone");
    world.engine.panics_on_profile_of = 4711;
    let requests = vec![
        world.draft(alice, bob, "1").into(),
        bind_request(bob, 1, 2, "phone").into(),
        proto::GetProfileRequest { user_id: 4711 }.into(),
        world.draft(alice, bob, "2").into(),
    ];
    let replies = world.batch(requests);
    let bound = proto::BindRouteResponse::try_from(replies[1].clone()).expect("a bind");
    assert_eq!(bound.displaced.len(), 1, "done once, not twice");
    let profile = proto::GetProfileResponse::try_from(replies[2].clone()).expect("a profile");
    assert_eq!(code(&profile.result), Code::Internal);
    let channels: Vec<Channel> = world.published().into_iter().map(|push| push.0).collect();
    assert_eq!(channels, [route(0), route(0), route(1)]);
    assert_eq!(texts(&world.pull(bob)), ["1", "2"]);
    let expected = [("1".to_owned(), true), ("2".to_owned(), true)];
    assert_eq!(world.crashed().pulled(bob), expected);
}

#[test]
fn a_group_that_cannot_be_created_whole_is_not_created_at_all() {
    let mut world = World::new();
    let alice = world.user("alice");
    world.execute(
        "CREATE TEMP TRIGGER broken BEFORE INSERT ON cursors
         BEGIN SELECT RAISE(ABORT, 'broken'); END",
    );
    let request = proto::CreateGroupRequest {
        creator_id: alice,
        group_name: "g".to_owned(),
        description: String::new(),
    };
    let failed = world.call::<method::CreateGroup>(request.clone());
    assert_eq!(code(&failed.result), Code::Internal);
    assert_eq!(world.count("SELECT count(*) FROM groups"), 0);
    world.execute("DROP TRIGGER broken");
    let created = world.call::<method::CreateGroup>(request);
    assert_eq!(code(&created.result), Code::Ok);
    let info = world.call::<method::GetGroupInfo>(proto::GetGroupInfoRequest {
        group_id: created.group_id,
    });
    assert_eq!(info.member_count, 1);
}

#[test]
fn a_damaged_page_fails_what_lies_on_it_and_nothing_else() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.send(alice, bob, "lost");
    world.count("PRAGMA wal_checkpoint(TRUNCATE)");
    let page = world.count("SELECT rootpage FROM sqlite_schema WHERE name = 'messages'");
    let bytes = world.count("PRAGMA page_size");
    let copy = TempDir::new().expect("a directory");
    copy_files(world.directory.path(), copy.path());
    let path = copy.path().join(schema::FILE_NAME);
    let mut file = std::fs::read(&path).expect("read");
    let start = usize::try_from((page - 1) * bytes).expect("a place");
    file[start..start + usize::try_from(bytes).expect("a length")].fill(0xff);
    std::fs::write(&path, file).expect("written");

    let mut world = World::over(copy, 10_000);
    let sent = world.send(alice, bob, "more");
    assert_eq!(code(&sent.result), Code::Internal);
    let pulled = world.pull(bob);
    assert_eq!(code(&pulled.result), Code::Internal);
    // Accounts lie elsewhere, and nobody calls the store full or away.
    let carol = world.user("carol");
    let profile = world.call::<method::GetProfile>(proto::GetProfileRequest { user_id: carol });
    assert_eq!(profile.name, "carol");
    assert!(world.told().is_empty());
}

#[test]
fn a_file_of_an_older_version_is_brought_up_step_by_step() {
    let mut connection = rusqlite::Connection::open_in_memory().expect("a connection");
    let first = "CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1)";
    let second = "ALTER TABLE t ADD COLUMN b INTEGER NOT NULL DEFAULT 7";
    schema::migrate(&mut connection, &[first]).expect("the first step");
    for _ in 0..2 {
        schema::migrate(&mut connection, &[first, second]).expect("only what is missing");
    }
    let row: (i64, i64) = connection
        .query_row("SELECT a, b FROM t", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .expect("one row, kept");
    assert_eq!(row, (1, 7));
    // A step that fails leaves nothing of itself.
    let broken = "CREATE TABLE u (a); nonsense";
    assert!(schema::migrate(&mut connection, &[first, second, broken]).is_err());
    schema::migrate(&mut connection, &[first, second, "CREATE TABLE u (a)"]).expect("a good step");
}

fn refusal(directory: &Path, why: &str) -> StartupError {
    match Sqlite::open(directory, false) {
        Ok(_) => panic!("opened, but {why}"),
        Err(error) => error,
    }
}

#[test]
fn a_file_of_a_newer_version_is_refused_untouched() {
    let directory = TempDir::new().expect("a directory");
    drop(Sqlite::open(directory.path(), false).expect("a store"));
    let path = directory.path().join(schema::FILE_NAME);
    let connection = rusqlite::Connection::open(&path).expect("a connection");
    connection
        .pragma_update(None, "user_version", 9999)
        .expect("a version");
    drop(connection);
    let refused = refusal(directory.path(), "too new");
    assert_eq!(refused.code, ExitCode::Preflight);
    assert!(refused.to_string().contains("9999"), "{refused}");
}

#[test]
fn a_file_that_is_in_use_damaged_or_out_of_reach_is_named_with_a_remedy() {
    let directory = TempDir::new().expect("a directory");
    let held = Sqlite::open(directory.path(), false).expect("a store");
    let refused = refusal(directory.path(), "in use");
    assert_eq!(refused.code, ExitCode::Preflight);
    assert!(refused.remedy.contains("another process"), "{refused}");
    drop(held);

    let directory = TempDir::new().expect("a directory");
    std::fs::write(directory.path().join(schema::FILE_NAME), [b'x'; 9000]).expect("a file");
    let refused = refusal(directory.path(), "damaged");
    assert!(refused.remedy.contains("damaged"), "{refused}");

    let file = directory.path().join("a file");
    std::fs::write(&file, "x").expect("a file");
    let refused = refusal(&file.join("below"), "no directory");
    assert!(refused.remedy.contains("data_dir"), "{refused}");
}

#[test]
fn the_file_is_readable_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let mut world = World::new();
    world.user("alice");
    for entry in std::fs::read_dir(world.directory.path()).expect("a directory") {
        let metadata = entry
            .expect("an entry")
            .metadata()
            .expect("what the file system knows");
        assert_eq!(metadata.permissions().mode() & 0o077, 0);
    }
}

#[test]
fn what_may_be_written_late_is_written_in_portions_that_hold_up_nobody() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    for _ in 0..300 {
        world.group(alice, &[bob]);
    }
    world.bind(alice, 0, 1);
    world.bind(bob, 0, 2);
    world.write_back();
    world.write_back();
    let open = "SELECT count(*) FROM cursors WHERE open_from IS NOT NULL";
    let all = world.crashed().count(open);
    assert!(all >= 600, "{all}");
    world.unbind(alice, 1);
    world.unbind(bob, 2);
    world.write_back();
    let left = world.crashed().count(open);
    assert!(left > 0 && left < all / 2, "{left} of {all}");
    world.now_ms += 10;
    world.keep_house();
    assert_eq!(world.crashed().count(open), 0);
}

#[test]
fn a_bind_writes_no_row_of_a_group_before_the_group_gets_a_message() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let groups: Vec<i64> = (0..40).map(|_| world.group(alice, &[bob])).collect();
    world.bind(bob, 0, 1);
    let open = "SELECT count(*) FROM cursors WHERE open_from IS NOT NULL";
    assert_eq!(world.count(open), 0);
    world.send_group(alice, groups[7], "to a group");
    assert_eq!(world.count(open), 1);
    world.send(alice, bob, "to the user");
    assert_eq!(world.count(open), 2);
    let expected = [("to the user", true), ("to a group", true)];
    let expected = expected.map(|(text, mark)| (text.to_owned(), mark));
    assert_eq!(world.crashed().pulled(bob), expected);
    world.write_back();
    assert_eq!(world.count(open), 41);
}

#[test]
fn what_was_pushed_in_the_batch_of_the_bind_comes_again_as_a_repeat_after_a_crash() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let group = world.group(alice, &[bob]);
    let bind = proto::BindRouteRequest {
        user_id: bob,
        gateway_id: "gw#0".to_owned(),
        session_id: 1,
        ..Default::default()
    };
    let requests = vec![
        world.group_draft(alice, group, "before").into(),
        bind.into(),
        world.group_draft(alice, group, "while").into(),
    ];
    world.batch(requests);
    let expected = [("before", false), ("while", true)];
    let expected = expected.map(|(text, mark)| (text.to_owned(), mark));
    assert_eq!(world.crashed().pulled(bob), expected);
}

#[test]
fn an_opened_cursor_is_still_to_be_written_when_the_batch_of_its_first_message_failed() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let group = world.group(alice, &[bob]);
    world.bind(bob, 0, 1);
    world.fill_disk();
    let large = "x".repeat(1 << 20);
    let refused = world.send_group(alice, group, &large);
    assert_eq!(code(&refused.result), Code::Unavailable);
    world.make_room();
    world.now_ms += 1000;
    world.keep_house();
    world.send_group(alice, group, "stored");
    let pulled = world.crashed().pulled(bob);
    assert_eq!(pulled, [("stored".to_owned(), true)]);
}

#[test]
fn a_page_writes_its_cursor_once_however_many_messages_it_has() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    for number in 0..50 {
        world.send(alice, bob, &number.to_string());
    }
    world.write_back();
    let changes = |world: &World| world.count("SELECT total_changes()");
    let before = changes(&world);
    assert_eq!(world.pull(bob).msg_list.len(), 50);
    assert_eq!(changes(&world) - before, 1);
}
