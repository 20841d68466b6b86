//! Names and contacts; passwords are tested where they are checked.

use super::*;
use crate::backend::method;

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
        .call::<method::GetFriends>(proto::GetFriendsRequest { user_id })
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
fn names_and_passwords_that_break_the_rules_are_refused_before_any_hashing() {
    let mut world = World::new();
    let long = "x".repeat(65);
    for (name, password) in [
        ("", "secret"),
        ("a b", "secret"),
        ("a:b", "secret"),
        ("a,b", "secret"),
        ("a\u{7}", "secret"),
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
