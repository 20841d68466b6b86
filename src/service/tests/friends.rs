//! Who is told that somebody has come or gone, and when.

use std::time::Duration;

use super::*;
use crate::{contract::methods::method, proto::PushKind};

/// The longest that a departure may take to be told, in milliseconds.
const OFFLINE_AFTER_MS: i64 = 30_000;

fn modes() -> [StorageMode; 2] {
    let backend = StorageMode::Backend {
        exclusive: false,
        route_lifetime: Duration::from_secs(120),
    };
    [StorageMode::Embedded, backend]
}

impl World {
    fn befriend(&mut self, user_id: UserId, friend_id: UserId) {
        let response = self.call::<method::AddFriend>(proto::AddFriendRequest {
            user_id,
            friend_id,
            message: String::new(),
        });
        assert_eq!(code(&response.result), Code::Ok);
    }

    /// Who was told what since the last look.
    fn told_of_friends(&mut self) -> Vec<(UserId, String)> {
        let pushes = self.published().into_iter().map(|(_, push)| push);
        let notices = pushes.filter(|push| push.kind() == PushKind::Notice);
        notices.map(|notice| (notice.to, notice.text)).collect()
    }

    fn after(&mut self, length_ms: i64) -> Vec<(UserId, String)> {
        self.now_ms += length_ms;
        self.keep_house();
        self.told_of_friends()
    }
}

#[test]
fn those_who_have_a_user_as_friend_are_told_once_when_it_comes_online() {
    let mut world = World::new();
    let (alice, bob, carol) = (world.user("alice"), world.user("bob"), world.user("carol"));
    for user_id in [bob, carol] {
        world.call::<method::AddFriend>(proto::AddFriendRequest {
            user_id,
            friend_id: alice,
            message: String::new(),
        });
    }
    world.bind(bob, 4, 1);
    world.bind(alice, 0, 2);
    world.bind(alice, 0, 3);
    let pushed = world.published();
    assert_eq!(pushed.len(), 1, "{pushed:?}");
    let (channel, notice) = &pushed[0];
    assert_eq!((channel, notice.to), (&route(4), bob));
    assert_eq!(notice.kind(), PushKind::Notice);
    assert_eq!(notice.text, format!("friend_online uid={alice} name=alice"));
}

#[test]
fn strangers_who_list_a_user_cannot_hide_it_from_whom_it_lists() {
    let mut world = World::new();
    let alice = world.user("alice");
    for number in 0..1001 {
        let stranger = world.user(&format!("stranger{number}"));
        world.befriend(stranger, alice);
    }
    let (bob, carol) = (world.user("bob"), world.user("carol"));
    world.befriend(alice, carol);
    world.befriend(alice, bob);
    world.befriend(bob, alice);
    for (core, user) in [bob, carol].into_iter().enumerate() {
        world.bind(user, core, 1 + core as u64);
    }
    world.told_of_friends();
    world.bind(alice, 0, 9);
    let told = world.told_of_friends().into_iter().map(|(to, _)| to);
    assert_eq!(told.collect::<Vec<_>>(), [bob, carol], "mutual first");
}

#[test]
fn a_departure_is_told_once_and_only_if_nobody_has_come_back() {
    for mode in modes() {
        let mut world = World::of_mode(mode, TempDir::new().expect("a directory"), 10_000);
        let (alice, bob) = (world.user("alice"), world.user("bob"));
        world.befriend(bob, alice);
        let offline = vec![(bob, format!("friend_offline uid={alice} name=alice"))];
        world.bind(bob, 1, 1);
        world.bind(alice, 0, 2);
        world.bind(alice, 0, 3);
        world.unbind(alice, 2);
        world.told_of_friends();
        assert_eq!(world.after(OFFLINE_AFTER_MS), [], "one session is left");
        world.unbind(alice, 3);
        assert_eq!(world.after(OFFLINE_AFTER_MS - 1), []);
        // Back in time, and gone again: that counts from then.
        world.bind(alice, 0, 4);
        world.unbind(alice, 4);
        world.told_of_friends();
        assert_eq!(world.after(OFFLINE_AFTER_MS - 1), [], "{mode:?}");
        assert_eq!(world.after(1), offline, "{mode:?}");
        assert_eq!(world.after(OFFLINE_AFTER_MS), []);
    }
}

#[test]
fn of_several_processes_one_tells_of_a_departure_also_after_a_crash() {
    let directory = Arc::new(TempDir::new().expect("a directory"));
    let [_, backend] = modes();
    let mut one = World::of_mode(backend, Arc::clone(&directory), 10_000);
    let mut other = World::of_mode(backend, directory, 10_000);
    let (alice, bob) = (one.user("alice"), one.user("bob"));
    one.befriend(bob, alice);
    one.bind(bob, 1, 1);
    one.bind(alice, 0, 2);
    one.unbind(alice, 2);
    one.told_of_friends();
    let mut crashed = one.crashed();
    assert_eq!(other.after(OFFLINE_AFTER_MS).len(), 1);
    assert_eq!(one.after(OFFLINE_AFTER_MS), []);
    assert_eq!(crashed.after(OFFLINE_AFTER_MS).len(), 1);
}

#[test]
fn a_user_whose_gateway_died_is_gone_when_the_route_has_expired() {
    let [_, backend] = modes();
    let mut world = World::of_mode(backend, TempDir::new().expect("a directory"), 10_000);
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    world.befriend(bob, alice);
    world.bind(alice, 0, 2);
    assert_eq!(world.after(100_000), []);
    world.bind(bob, 1, 1);
    world.told_of_friends();
    assert_eq!(world.after(20_000), [], "the route expires now");
    assert_eq!(world.after(OFFLINE_AFTER_MS).len(), 1);
}
