//! Names and contacts; passwords are tested where they are checked.

use super::*;
use crate::{
    base::names::Alphabet,
    contract::methods::method,
    proto::NetworkMemory::{self, NetworkKnown, NetworkNew},
    service::password::Task,
};

/// What is answered to an attempt to log in from `network` whose password, if it is looked at, is
/// right.
fn log_in(world: &mut World, name: &str, network: &[u8], only_known: bool) -> proto::LoginResponse {
    let request = proto::LoginRequest {
        username: name.as_bytes().to_vec(),
        password: b"secret".to_vec(),
        network: network.to_vec(),
        only_from_known_network: only_known,
    };
    let call = Item::Call(Call {
        request: request.into(),
        call_id: 0,
        sink: Arc::clone(&world.sink),
        deadline: None,
    });
    let outcome = match world.outcome(call) {
        Outcome::Password(Task::Verify {
            account, origin, ..
        }) => {
            let user = account.map(|account| (account.user, account.registered));
            let verdict = world.judged(Verdict::Login { user, origin });
            world.outcome(verdict)
        }
        outcome => outcome,
    };
    match outcome {
        Outcome::Reply(Response::Login(response)) => response,
        _ => panic!("not the answer to a login"),
    }
}

fn known_networks(world: &World) -> i64 {
    world.count("SELECT count(*) FROM known_networks")
}

#[test]
fn a_network_is_known_once_its_user_logged_in_from_there() {
    let mut world = World::new();
    let alice = world.user("alice");
    world.user("bob");
    let (home, away): (&[u8], &[u8]) = (&[1], &[2]);
    let seen = |response: proto::LoginResponse| (code(&response.result), response.network());
    assert_eq!(
        seen(log_in(&mut world, "alice", home, false)),
        (Code::Ok, NetworkNew)
    );
    assert_eq!(
        seen(log_in(&mut world, "alice", home, true)),
        (Code::Ok, NetworkKnown)
    );
    // From elsewhere the password is not looked at, and nothing tells whether there is such a user.
    let refused = log_in(&mut world, "alice", away, true);
    assert_eq!(
        (code(&refused.result), refused.network(), refused.user_id),
        (Code::Unauthenticated, NetworkNew, 0)
    );
    for (name, network) in [
        ("nobody", home),
        ("bob", home),
        ("alice", &[]),
        ("no name", home),
    ] {
        assert_eq!(log_in(&mut world, name, network, true), refused, "{name}");
    }
    // It outlives the process.
    let mut world = world.crashed();
    assert_eq!(
        seen(log_in(&mut world, "alice", home, true)),
        (Code::Ok, NetworkKnown)
    );
    assert_eq!(log_in(&mut world, "alice", home, true).user_id, alice);
}

#[test]
fn of_a_users_networks_the_sixteen_seen_last_are_kept() {
    let mut world = World::new();
    world.user("alice");
    for number in 0..40u8 {
        world.now_ms += 1;
        log_in(&mut world, "alice", &[number], false);
        assert!(known_networks(&world) <= 16);
    }
    let is_known = |world: &mut World, number: u8| {
        let response = log_in(world, "alice", &[number], true);
        response.network() == NetworkKnown
    };
    assert!((24..40).all(|number| is_known(&mut world, number)));
    assert!(!(0..24).any(|number| is_known(&mut world, number)));
    // A day later one of the old ones is used again, and is not the next to go.
    world.now_ms += 24 * 3_600_000;
    log_in(&mut world, "alice", &[24], false);
    world.now_ms += 1;
    log_in(&mut world, "alice", &[99], false);
    assert!(is_known(&mut world, 24) && !is_known(&mut world, 25));
    // Nobody's network, and one that no gateway sends.
    log_in(&mut world, "alice", &[], false);
    log_in(&mut world, "alice", &[7; 1000], false);
    assert_eq!(known_networks(&world), 16);
}

#[test]
fn who_logs_in_again_from_the_same_network_writes_nothing_and_a_full_disk_keeps_nobody_out() {
    let mut world = World::new();
    world.user("alice");
    log_in(&mut world, "alice", &[1], false);
    let commits = world.engine.metrics.commits.get();
    log_in(&mut world, "alice", &[1], false);
    assert_eq!(world.engine.metrics.commits.get(), commits);
    world.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON known_networks
         BEGIN SELECT raise(ROLLBACK, 'database or disk is full'); END",
    );
    let response = log_in(&mut world, "alice", &[2], false);
    assert_eq!(code(&response.result), Code::Ok);
}

#[test]
fn a_registration_makes_its_network_known() {
    let mut world = World::new();
    world.register("alice", &[1]);
    let response = log_in(&mut world, "alice", &[1], true);
    assert_eq!(
        (code(&response.result), response.network()),
        (Code::Ok, NetworkMemory::NetworkKnown)
    );
}

fn befriend(world: &mut World, user_id: UserId, friend_id: UserId) -> Code {
    let request = proto::AddFriendRequest {
        user_id,
        friend_id,
        message: String::new(),
    };
    code(&world.call::<method::AddFriend>(request).result)
}

fn friends(world: &mut World, user_id: UserId) -> Vec<UserId> {
    world
        .call::<method::GetFriends>(proto::GetFriendsRequest {
            user_id,
            only_friend_id: 0,
        })
        .friend_ids
}

#[test]
fn a_friend_list_is_directed_and_holds_each_friend_once() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    assert_eq!(befriend(&mut world, alice, bob), Code::Ok);
    assert_eq!(befriend(&mut world, alice, bob), Code::Ok);
    assert_eq!(friends(&mut world, alice), [bob]);
    assert!(friends(&mut world, bob).is_empty());
    for (user_id, only_friend_id, expected) in [
        (alice, bob, vec![bob]),
        (alice, 4711, vec![]),
        (bob, alice, vec![]),
    ] {
        let response = world.call::<method::GetFriends>(proto::GetFriendsRequest {
            user_id,
            only_friend_id,
        });
        assert_eq!(response.friend_ids, expected);
    }
    let request = proto::RemoveFriendRequest {
        user_id: alice,
        friend_id: bob,
    };
    world.call::<method::RemoveFriend>(request);
    assert!(friends(&mut world, alice).is_empty());
}

#[test]
fn strangers_and_oneself_cannot_be_friends_and_the_list_is_bounded() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    assert_eq!(befriend(&mut world, alice, 4711), Code::NotFound);
    assert_eq!(befriend(&mut world, alice, alice), Code::Invalid);
    world.execute(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         INSERT INTO friends SELECT {alice}, 1000 + i FROM n"
    ));
    assert_eq!(befriend(&mut world, alice, bob), Code::Invalid);
    assert_eq!(befriend(&mut world, alice, bob), Code::Invalid);
}

#[test]
fn a_search_answers_names_that_start_so_in_order_and_at_most_twenty() {
    let mut world = World::new();
    for number in 10..40 {
        world.user(&format!("ann{number}"));
    }
    let anna = world.user("änn");
    world.user("bob");
    let mut search = |prefix: &str, limit| {
        let request = proto::SearchRequest {
            prefix: prefix.to_owned(),
            limit,
        };
        let response = world.call::<method::Search>(request);
        let names: Vec<String> = response.users.into_iter().map(|user| user.name).collect();
        (code(&response.result), names)
    };
    assert_eq!(search("ann", 0).1.len(), 20);
    assert_eq!(search("ann", 1000).1.len(), 20);
    assert_eq!(search("ann2", 2).1, ["ann20", "ann21"]);
    assert_eq!(search("ä", 0).1, ["änn"]);
    assert!(search("%", 0).1.is_empty());
    assert_eq!(search("", 0).0, Code::Invalid);
    let profile = world.call::<method::GetProfile>(proto::GetProfileRequest { user_id: anna });
    assert_eq!(profile.name, "änn");
    let unknown = world.call::<method::GetProfile>(proto::GetProfileRequest { user_id: 999 });
    assert_eq!(code(&unknown.result), Code::NotFound);
}

#[test]
fn a_name_that_looks_like_another_is_taken() {
    let mut world = World::new();
    world.user("paypal");
    world.user("jos\u{e9}");
    for name in ["paypal", "PayPal", "paypa1", "jose\u{301}", "JOS\u{c9}"] {
        let request = proto::RegisterRequest {
            username: name.as_bytes().to_vec(),
            password: b"secret".to_vec(),
            ..Default::default()
        };
        let response = world.call::<method::Register>(request);
        assert_eq!(code(&response.result), Code::AlreadyExists, "{name:?}");
        // Nor does it get in where both were hashed at the same time.
        let response = world.register(name, &[]);
        assert_eq!(code(&response.result), Code::AlreadyExists, "{name:?}");
    }
    world.user("paypals");
}

#[test]
fn a_login_takes_the_exact_name_first_and_then_the_one_that_folds_alike() {
    let mut world = World::new();
    let alice = world.user("Alice");
    for name in ["Alice", "alice", "ALICE", "\u{ff21}lice"] {
        let response = log_in(&mut world, name, &[], false);
        assert_eq!(
            (response.user_id, response.name.as_str()),
            (alice, "Alice"),
            "{name:?}"
        );
    }
    // To look alike is not enough.
    let response = log_in(&mut world, "A1ice", &[], false);
    assert_eq!(code(&response.result), Code::Unauthenticated);
}

/// A store as an older program left it, with these users.
fn before_skeletons(names: &[&str]) -> World {
    let mut world = World::new();
    for (number, name) in names.iter().enumerate() {
        let id = world.user(&format!("user-{number}"));
        world
            .connection()
            .execute(
                "UPDATE users SET name = ?1, skeleton = '' WHERE user_id = ?2",
                rusqlite::params![name, id],
            )
            .expect("an older name");
    }
    world.execute("DELETE FROM skeleton_rules");
    world.crashed()
}

#[test]
fn accounts_older_than_the_rules_keep_their_names_and_nobody_gets_one_like_them() {
    let mut world = before_skeletons(&["alice", "ALICE", "al\u{200b}ice", "Bob", "\u{202e}eve"]);
    for (name, user_id) in [
        ("alice", 1),
        ("ALICE", 2),
        ("al\u{200b}ice", 3),
        ("Bob", 4),
        ("bob", 4),
        ("\u{202e}eve", 5),
        ("eve", 5),
    ] {
        let response = log_in(&mut world, name, &[], false);
        assert_eq!(response.user_id, user_id, "{name:?}");
    }
    // Whose name this is cannot be said.
    let response = log_in(&mut world, "Alice", &[], false);
    assert_eq!(code(&response.result), Code::Unauthenticated);
    for name in ["Alice", "bob", "eve", "B\u{43e}b"] {
        let response = world.register(name, &[]);
        assert_eq!(code(&response.result), Code::AlreadyExists, "{name:?}");
    }
    assert_eq!(
        world.count("SELECT count(*) FROM users WHERE skeleton = ''"),
        0
    );
}

#[test]
fn other_rules_make_all_skeletons_anew() {
    let mut world = World::new();
    for number in 0..2500 {
        world.user(&format!("user-{number}"));
    }
    world.execute("UPDATE users SET skeleton = 'x'; UPDATE skeleton_rules SET version = 'old'");
    let mut world = world.crashed();
    assert_eq!(
        world.count("SELECT count(DISTINCT skeleton) FROM users"),
        2500
    );
    let response = world.register("USER-2499", &[]);
    assert_eq!(code(&response.result), Code::AlreadyExists);
}

#[test]
fn where_names_are_ascii_others_are_refused() {
    let mut world = World::new();
    world.engine.names = Alphabet::Ascii;
    let mut register = |name: &str| {
        let request = proto::RegisterRequest {
            username: name.as_bytes().to_vec(),
            password: b"short".to_vec(),
            ..Default::default()
        };
        world.call::<method::Register>(request).result
    };
    let words = |result: Option<proto::Result>| result.expect("a result").msg;
    assert!(words(register("\u{e4}lice")).contains("ASCII"));
    assert!(words(register("alice")).contains("password"));
}

#[test]
fn names_and_passwords_that_break_the_rules_are_refused_before_any_hashing() {
    let mut world = World::new();
    let long = "x".repeat(65);
    for (name, password) in [
        ("", "secret"),
        ("a b", "secret"),
        ("a:b", "secret"),
        ("a,b", "secret"),
        ("a\u{7}", "secret"),
        ("al\u{200b}ice", "secret"),
        ("\u{202e}alice", "secret"),
        ("\u{3164}", "secret"),
        ("p\u{430}ypal", "secret"),
        (long.as_str(), "secret"),
        ("fine", "short"),
    ] {
        let response = world.call::<method::Register>(proto::RegisterRequest {
            username: name.as_bytes().to_vec(),
            password: password.as_bytes().to_vec(),
            ..Default::default()
        });
        assert_eq!(code(&response.result), Code::Invalid, "{name:?}");
    }
    let response = world.call::<method::Register>(proto::RegisterRequest {
        username: vec![0xff, 0xfe],
        password: b"secret".to_vec(),
        ..Default::default()
    });
    assert_eq!(code(&response.result), Code::Invalid);
}
