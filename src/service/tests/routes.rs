//! Routes that live in the file: what a backend promises of them, alone over its file or not.

use std::time::Duration;

use super::*;
use crate::contract::methods::method;

const LIFETIME_MS: i64 = 120_000;

fn backend(exclusive: bool) -> StorageMode {
    StorageMode::Backend {
        exclusive,
        route_lifetime: Duration::from_millis(LIFETIME_MS as u64),
    }
}

/// A backend alone over its file, and one that would share it.
fn backends() -> [World; 2] {
    [true, false].map(|exclusive| {
        let directory = TempDir::new().expect("a directory");
        World::of_mode(backend(exclusive), directory, 10_000)
    })
}

fn refresh(world: &mut World, core: usize, user_ids: &[UserId]) -> Vec<UserId> {
    refresh_sessions(world, core, user_ids, &[])
}

fn refresh_sessions(
    world: &mut World,
    core: usize,
    user_ids: &[UserId],
    session_ids: &[u64],
) -> Vec<UserId> {
    let response = world.call::<method::RefreshRoutes>(proto::RefreshRoutesRequest {
        gateway_id: format!("gw#{core}"),
        user_ids: user_ids.to_vec(),
        session_ids: session_ids.to_vec(),
    });
    assert_eq!(code(&response.result), Code::Ok);
    response.unknown_user_ids
}

fn open_cursors(world: &World) -> i64 {
    world.count("SELECT count(*) FROM cursors WHERE open_from IS NOT NULL")
}

#[test]
fn routes_and_what_they_mean_outlive_the_process() {
    for mut world in backends() {
        let (alice, bob) = (world.user("alice"), world.user("bob"));
        let group = world.group(alice, &[bob]);
        world.bind_device(bob, 0, 1, "phone");
        world.bind_device(bob, 1, 2, "cli");
        let mut after = world.crashed();
        assert_eq!(after.bound_sessions(bob), [1, 2]);
        after.send(alice, bob, "direct");
        after.send_group(alice, group, "group");
        let expected = [route(0), route(1), Channel::Group(group)];
        assert_eq!(after.pushed_over(), expected);
        // Pushed to a connection that lives on: it may have been seen.
        let expected = [("direct".to_owned(), true), ("group".to_owned(), true)];
        assert_eq!(after.crashed().pulled(bob), expected);
        let bound = after.bind_device(bob, 2, 3, "phone");
        assert_eq!(bound.displaced[0].session_id, 1);
        assert_eq!(after.crashed().bound_sessions(bob), [2, 3]);
    }
}

#[test]
fn a_late_unbind_undoes_neither_a_newer_log_in_nor_that_of_another_core() {
    for mut world in backends() {
        let alice = world.user("alice");
        world.bind_device(alice, 0, 1, "phone");
        world.bind_device(alice, 1, 2, "phone");
        world.unbind_over(alice, 0, 1);
        world.unbind_over(alice, 0, 2);
        assert_eq!(world.crashed().bound_sessions(alice), [2]);
        assert_eq!(open_cursors(&world), 1);
        world.unbind_over(alice, 1, 2);
        let mut after = world.crashed();
        assert!(after.bound_sessions(alice).is_empty());
        assert_eq!(open_cursors(&after), 0, "written with the route");
    }
}

#[test]
fn a_refreshed_route_lives_on_and_the_gateway_is_told_which_are_gone() {
    for mut world in backends() {
        let users: Vec<_> = (0..4).map(|n| world.user(&format!("u{n}"))).collect();
        for (index, &user) in users[..3].iter().enumerate() {
            world.bind(user, index / 2, user as u64);
        }
        world.now_ms += LIFETIME_MS / 2;
        // The third is on another core, the fourth nowhere.
        assert_eq!(refresh(&mut world, 0, &users), users[2..]);
        world.now_ms += LIFETIME_MS / 2;
        assert_eq!(world.bound_sessions(users[0]).len(), 1);
        assert!(world.bound_sessions(users[2]).is_empty());
        assert_eq!(refresh(&mut world, 1, &users[2..3]), users[2..3], "expired");
        world.now_ms += LIFETIME_MS / 2;
        assert_eq!(refresh(&mut world, 0, &users[..2]), users[..2]);
        assert!(refresh(&mut world, 0, &[]).is_empty());
        let too_many = world.call::<method::RefreshRoutes>(proto::RefreshRoutesRequest {
            gateway_id: "gw#0".to_owned(),
            user_ids: vec![1; 10_001],
            ..Default::default()
        });
        assert_eq!(code(&too_many.result), Code::Invalid);
    }
}

#[test]
fn a_session_that_ended_unheard_is_not_refreshed_with_the_others() {
    for mut world in backends() {
        let (alice, bob, carol) = (world.user("alice"), world.user("bob"), world.user("carol"));
        for (user, session_id) in [(alice, 1), (alice, 2), (bob, 3), (carol, 4)] {
            world.bind(user, 0, session_id);
        }
        world.bind(alice, 1, 5);
        world.now_ms += LIFETIME_MS / 2;
        let users = [alice, bob, carol];
        // Session 5 is another core's to refresh, whoever names it.
        let unknown = refresh_sessions(&mut world, 0, &users, &[9, 5, 4, 2]);
        assert_eq!(unknown, [bob]);
        world.now_ms += LIFETIME_MS / 2;
        assert_eq!(world.bound_sessions(alice), [2]);
        assert!(world.bound_sessions(bob).is_empty());
        assert_eq!(world.crashed().bound_sessions(carol), [4]);
    }
}

#[test]
fn an_expired_route_counts_nowhere_and_ends_what_counts_as_handed_out() {
    for mut world in backends() {
        let (alice, bob) = (world.user("alice"), world.user("bob"));
        for session_id in 1..=5 {
            world.bind(bob, 0, session_id);
        }
        world.send(alice, bob, "while bound");
        world.now_ms += LIFETIME_MS;
        world.published();
        world.send(alice, bob, "after");
        assert!(world.published().is_empty());
        assert_eq!(world.count("SELECT count(*) FROM routes"), 0);
        assert_eq!(open_cursors(&world), 0);
        let bound = world.bind(bob, 1, 6);
        assert!(bound.displaced.is_empty(), "the old ones are gone already");
        assert_eq!(world.bound_sessions(bob), [6]);
        world.unbind_over(bob, 1, 6);
        let expected = [
            ("while bound".to_owned(), true),
            ("after".to_owned(), false),
        ];
        assert_eq!(world.pulled(bob), expected);
    }
}

#[test]
fn a_wall_clock_that_is_set_ends_no_route_in_whichever_process() {
    let (mut one, mut other) = super::shared::pair();
    let (alice, bob) = (one.user("alice"), one.user("bob"));
    one.bind(bob, 0, 1);
    // One process has a wrong clock, then the right one again; the other's goes far back.
    for (ahead_of_one, ahead_of_other) in
        [(3_600_000, 0), (0, -3_600_000), (-86_400_000, 86_400_000)]
    {
        one.wall_ahead_ms = ahead_of_one;
        other.wall_ahead_ms = ahead_of_other;
        for world in [&mut one, &mut other] {
            assert_eq!(world.bound_sessions(bob), [1]);
            let now = world.now();
            assert!(!world.engine.has_expired_routes(now.store_ms));
            world.engine.run_housekeeping(now, true);
            world.send(alice, bob, "still there?");
            assert_eq!(world.pushed_over(), [route(0)]);
            assert!(refresh(world, 0, &[bob]).is_empty());
        }
    }
}

#[test]
fn routes_that_nobody_asks_for_are_swept_and_their_cursors_closed() {
    for mut world in backends() {
        let alice = world.user("alice");
        let users: Vec<_> = (0..300).map(|n| world.user(&format!("u{n}"))).collect();
        let group = world.group(alice, &users);
        for &user in &users {
            world.bind(user, 0, user as u64);
        }
        world.now_ms += LIFETIME_MS - 1;
        assert!(!world.engine.has_expired_routes(world.now_ms));
        world.bind(alice, 0, 7000);
        world.now_ms += 1;
        let mut rounds = 0;
        while world.engine.has_expired_routes(world.now_ms) {
            world.engine.run_housekeeping(world.now_ms, false);
            rounds += 1;
            assert!(rounds < 10);
        }
        assert_eq!(rounds, 2);
        assert_eq!(world.count("SELECT count(*) FROM routes"), 1);
        assert_eq!(open_cursors(&world), 2, "alice's inbox and group");
        world.send_group(alice, group, "x");
        assert_eq!(world.pulled(users[7]), [("x".to_owned(), false)]);
    }
}

#[test]
fn a_route_that_cannot_be_read_is_dropped_and_holds_nothing_up() {
    for mut world in backends() {
        let users: Vec<_> = (0..3).map(|n| world.user(&format!("u{n}"))).collect();
        for &user in &users {
            world.bind(user, 0, user as u64);
        }
        world.bind(users[0], 0, 100);
        // One names no core, one is no text at all.
        world.execute("UPDATE routes SET route_id = 'nonsense' WHERE session_id = 100");
        world.execute(&format!(
            "UPDATE routes SET device = x'ff' WHERE user_id = {}",
            users[1]
        ));
        world.engine.presence.forget();
        assert_eq!(world.bound_sessions(users[0]), [users[0] as u64]);
        world.now_ms += LIFETIME_MS;
        world.engine.run_housekeeping(world.now_ms, true);
        assert_eq!(world.count("SELECT count(*) FROM routes"), 0);
        assert!(!world.engine.has_expired_routes(world.now_ms));
        world.send(users[0], users[1], "x");
        assert_eq!(texts(&world.pull(users[1])), ["x"]);
    }
}

#[test]
fn a_bind_that_fails_halfway_leaves_nothing_of_itself() {
    for mut world in backends() {
        let (alice, bob) = (world.user("alice"), world.user("bob"));
        world.bind_device(bob, 0, 1, "phone");
        world.execute(
            "CREATE TEMP TRIGGER broken BEFORE DELETE ON routes
             BEGIN SELECT RAISE(ABORT, 'broken'); END",
        );
        let requests = vec![
            world.draft(alice, bob, "1").into(),
            bind_request(bob, 1, 2, "phone").into(),
            world.draft(alice, bob, "2").into(),
        ];
        let replies = world.batch(requests);
        let bound = proto::BindRouteResponse::try_from(replies[1].clone()).expect("a bind");
        assert_eq!(code(&bound.result), Code::Internal);
        assert_eq!(world.pushed_over(), [route(0), route(0)]);
        assert_eq!(world.bound_sessions(bob), [1]);
        let mut after = world.crashed();
        assert_eq!(after.bound_sessions(bob), [1]);
        assert_eq!(texts(&after.pull(bob)), ["1", "2"]);
    }
}

#[test]
fn what_an_embedded_gateway_left_open_is_closed_by_a_backend() {
    for exclusive in [true, false] {
        let mut world = World::new();
        let (alice, bob) = (world.user("alice"), world.user("bob"));
        let group = world.group(alice, &[bob]);
        world.bind(bob, 0, 1);
        let copy = TempDir::new().expect("a directory");
        copy_files(world.directory.path(), copy.path());
        let mut after = World::of_mode(backend(exclusive), copy, 10_000);
        after.next_msg_id = 1000;
        after.send(alice, bob, "after");
        after.send_group(alice, group, "after");
        let expected = [("after".to_owned(), false), ("after".to_owned(), false)];
        assert_eq!(after.pulled(bob), expected);
        assert_eq!(open_cursors(&after), 0);
    }
}

#[test]
fn a_bind_that_cannot_be_written_is_refused_and_leaves_nothing() {
    for mut world in backends() {
        let (alice, bob) = (world.user("alice"), world.user("bob"));
        world.execute("PRAGMA query_only = ON");
        let refused = world.bind(bob, 0, 1);
        assert_eq!(code(&refused.result), Code::Unavailable);
        world.execute("PRAGMA query_only = OFF");
        world.send(alice, bob, "x");
        assert!(world.published().is_empty());
        world.write_back();
        assert_eq!(open_cursors(&world), 0);
        assert_eq!(world.pulled(bob), [("x".to_owned(), false)]);
    }
}

#[test]
fn routes_of_a_batch_taken_back_are_not_remembered() {
    for mut world in backends() {
        let (alice, bob) = (world.user("alice"), world.user("bob"));
        world.bind_device(bob, 0, 1, "phone");
        world.engine.panics_on_profile_of = 4711;
        let requests = vec![
            bind_request(bob, 1, 2, "phone").into(),
            proto::GetProfileRequest { user_id: 4711 }.into(),
            world.draft(alice, bob, "x").into(),
        ];
        let replies = world.batch(requests);
        let bound = proto::BindRouteResponse::try_from(replies[0].clone()).expect("a bind");
        assert_eq!(bound.displaced.len(), 1, "done once, not twice");
        assert_eq!(world.pushed_over(), [route(0), route(1)]);
        assert_eq!(world.bound_sessions(bob), [2]);
    }
}

#[test]
fn an_embedded_gateway_drops_the_routes_that_backends_left() {
    let directory = Arc::new(TempDir::new().expect("a directory"));
    let mut world = World::of_mode(backend(true), Arc::clone(&directory), 10_000);
    let alice = world.user("alice");
    world.bind(alice, 0, 1);
    drop(world);
    threads::Running::start_as(StorageMode::Embedded, directory.path(), 8)
        .services
        .stop();
    let world = World::of_mode(backend(true), directory, 10_000);
    assert_eq!(world.count("SELECT count(*) FROM routes"), 0);
}

#[test]
fn where_accounts_are_kept_elsewhere_every_number_is_a_users() {
    let mut world = World::of_mode(backend(false), TempDir::new().expect("a directory"), 10_000);
    assert_eq!(code(&world.send(7, 42, "to nobody").result), Code::NotFound);
    world.engine.store = world.engine.store.with_foreign_users(true);
    world.bind_device(42, 0, 1, "cli");
    assert_eq!(code(&world.send(7, 42, "hi").result), Code::Ok);
    assert_eq!(world.pushed_over(), [route(0)]);
    assert_eq!(world.pulled(42), [("hi".to_owned(), true)]);
    assert_eq!(
        code(&world.send(7, -42, "to no number").result),
        Code::NotFound
    );
}

#[test]
fn what_a_session_was_pushed_while_its_route_was_forgotten_comes_again_as_a_repeat() {
    for mut world in backends() {
        let (alice, bob) = (world.user("alice"), world.user("bob"));
        let group = world.group(alice, &[bob]);
        world.send_group(alice, group, "before the login");
        world.bind(bob, 1, 2);
        world.now_ms += 2 * LIFETIME_MS;
        assert!(world.bound_sessions(bob).is_empty(), "forgotten");
        // The bus brought this to the session, and the next one was sent after that.
        world.send_group(alice, group, "pushed");
        world.send_group(alice, group, "not yet pushed");
        let range = |group_id, from_seq, to_seq| proto::HandedOut {
            group_id,
            from_seq,
            to_seq,
        };
        let bound = world.call::<method::BindRoute>(proto::BindRouteRequest {
            // Numbers that were never given, and groups that are not the user's, mean nothing.
            handed_out: vec![
                range(group, 2, 2),
                range(0, 1, u64::MAX),
                range(999, 1, 9),
                range(-1, 0, 0),
            ],
            ..bind_request(bob, 1, 2, "phone")
        });
        assert_eq!(code(&bound.result), Code::Ok);
        let expected = [
            ("before the login".to_owned(), false),
            ("pushed".to_owned(), true),
            ("not yet pushed".to_owned(), false),
        ];
        assert_eq!(world.crashed().pulled(bob), expected);
        assert_eq!(world.pulled(bob), expected);
        world.unbind_over(bob, 1, 2);
        let text = "its number was named before it was given";
        world.send(alice, bob, text);
        let pulled = world.crashed().pulled(bob);
        assert!(pulled.contains(&(text.to_owned(), false)), "{pulled:?}");
    }
}
