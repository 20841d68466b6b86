//! What goes wrong at MPIM's services, and what it costs their users: no more than it must.

use crate::common::fake_mpim::Options;
use crate::common::mpim_world::{World, register};
use crate::common::{Client, assert_error, eventually, number};

/// Logs in until that is answered, however long the services take to be found.
fn log_in(world: &World, name: &str) -> Client {
    let mut client = world.gateway.client();
    let reply = client.ask(&format!("LOGIN {name} password1"));
    client.uid = number(&reply, "uid");
    assert_eq!(reply, format!("+OK uid={}", client.uid));
    client
}

#[test]
fn whoever_created_a_group_can_log_in_again() {
    let mut world = World::start();
    let mut alice = register(&world.gateway, "alice");
    let uid = alice.uid;
    assert_eq!(alice.ask("CREATEGROUP team"), "+OK group_id=0");
    assert!(world.gateway.metric("backend_bad_numbers_total", &[]) >= 1.0);
    assert_error(&alice.ask("CREATEGROUP second"), "BAD_ARGUMENT");
    assert_eq!(alice.ask("groups"), "+OK groups=");
    assert_eq!(alice.ask("LOGOUT"), "+OK logout success");
    assert_eq!(alice.ask("LOGIN alice password1"), format!("+OK uid={uid}"));
    world.assert_sound();
}

#[test]
fn a_group_service_that_crashed_costs_its_own_commands_alone() {
    for crash_is_silence in [false, true] {
        let mut world = World::start_with(Options {
            crash_is_silence,
            ..Options::default()
        });
        let mut bob = register(&world.gateway, "bob");
        register(&world.gateway, "alice").ask("LOGOUT");
        let reply = bob.ask("JOINGROUP 1");
        assert!(reply.starts_with("-ERR "), "{reply}");

        let mut alice = log_in(&world, "alice");
        assert_eq!(
            bob.ask(&format!("SEND {} hello", alice.uid)).get(..11),
            Some("+OK msg_id=")
        );
        assert_eq!(alice.push().text(), "hello");
        let reply = alice.ask("CREATEGROUP team");
        assert!(reply.starts_with("-ERR "), "{reply}");

        let asked = world.mpim.calls("GroupService.GetUserGroups");
        world.mpim.restart("GroupService");
        eventually("alice's groups are asked for again", || {
            world.mpim.calls("GroupService.GetUserGroups") > asked
        });
        eventually("the Group Service is found again", || {
            alice.ask("CREATEGROUP team") == "+OK group_id=0"
        });
        assert!(world.gateway.is_running());
        assert_eq!(world.gateway.metric("panics_total", &[]), 0.0);
    }
}

#[test]
fn while_presence_is_away_users_log_in_and_are_bound_once_it_is_back() {
    let mut world = World::start();
    let mut bob = register(&world.gateway, "bob");
    register(&world.gateway, "alice").ask("LOGOUT");
    world.mpim.stop("PresenceService");
    let mut alice = log_in(&world, "alice");
    let ready = world.gateway.get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(
        ready
            .body
            .contains("1 users are logged in and get no pushes"),
        "{}",
        ready.body
    );
    world.mpim.restart("PresenceService");
    eventually("alice is bound", || {
        world.gateway.metric("users_without_route", &[]) == 0.0
    });
    eventually("all is well", || world.gateway.is_ready());
    eventually("bob's message is pushed", || {
        bob.ask(&format!("SEND {} hello", alice.uid));
        !alice.taken_pushes().is_empty() || alice.ask("ping") != "+OK pong"
    });
    world.assert_sound();
}

#[test]
fn while_redis_is_away_users_log_in_and_are_bound_once_it_is_back() {
    let mut world = World::start();
    let mut bob = register(&world.gateway, "bob");
    register(&world.gateway, "alice").ask("LOGOUT");
    world.redis.kill_9();
    let mut alice = log_in(&world, "alice");
    assert_eq!(world.gateway.metric("users_without_route", &[]), 1.0);
    assert_eq!(world.gateway.get("/readyz").status, 503);
    world.redis.restart();
    // It does not connect again by itself.
    world.mpim.restart("PresenceService");
    eventually("alice is bound", || {
        world.gateway.metric("users_without_route", &[]) == 0.0
    });
    eventually("all is well", || world.gateway.is_ready());
    let reply = bob.ask(&format!("SEND {} hello", alice.uid));
    assert_eq!(reply.get(..11), Some("+OK msg_id="));
    assert_eq!(alice.push().text(), "hello");
    world.assert_sound();
}

#[test]
fn who_leaves_while_nobody_can_be_bound_is_not_waited_for() {
    let mut world = World::start();
    register(&world.gateway, "alice").ask("LOGOUT");
    world.mpim.stop("PresenceService");
    let mut alice = log_in(&world, "alice");
    assert_eq!(world.gateway.metric("users_without_route", &[]), 1.0);
    assert_eq!(alice.ask("LOGOUT"), "+OK logout success");
    assert_eq!(world.gateway.metric("users_without_route", &[]), 0.0);
    world.mpim.restart("PresenceService");
    eventually("all is well", || world.gateway.is_ready());
    world.assert_sound();
}

#[test]
fn users_locked_out_by_a_killed_gateway_get_in_again() {
    let mut world = World::start();
    let alice = world.log_in_alice();
    let file = world.gateway.data_file("known-users.gw-1");
    let line = format!("{} alice\n", alice.uid);
    eventually("her number is kept", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text == line)
    });
    world.gateway.kill_9();
    world.gateway.restart();
    assert!(world.mpim.is_online(alice.uid), "nobody has told MPIM");
    let (logins, logouts) = (
        world.mpim.calls("UserService.Login"),
        world.mpim.calls("UserService.Logout"),
    );
    let mut client = world.gateway.client();
    assert_error(&client.ask("LOGIN alice wrong-password"), "AUTH_FAILED");
    assert_eq!(world.mpim.calls("UserService.Logout"), logouts);
    assert_eq!(
        client.ask("LOGIN alice password1"),
        format!("+OK uid={}", alice.uid)
    );
    assert_eq!(world.mpim.calls("UserService.Login"), logins + 3);
    assert_eq!(world.mpim.calls("UserService.Logout"), logouts + 1);
    assert!(world.mpim.is_online(alice.uid));
    world.assert_sound();
}

#[test]
fn a_user_whose_number_nobody_knows_hears_the_true_reason() {
    let mut world = World::start();
    let alice = world.log_in_alice();
    world.gateway.kill_9();
    std::fs::remove_file(world.gateway.data_file("known-users.gw-1")).expect("it was there");
    world.gateway.restart();
    let logouts = world.mpim.calls("UserService.Logout");
    let mut client = world.gateway.client();
    assert_eq!(
        client.ask("LOGIN alice password1"),
        "-ERR ALREADY_LOGGED_IN the user service counts this user as online"
    );
    assert_error(&client.ask("LOGIN alice wrong-password"), "AUTH_FAILED");
    assert_eq!(world.mpim.calls("UserService.Logout"), logouts);
    assert_eq!(client.ask("ping"), "+OK pong");
    // What its start does.
    world.mpim.restart("UserService");
    eventually("she gets in", || {
        client.ask("LOGIN alice password1") == format!("+OK uid={}", alice.uid)
    });
    world.assert_sound();
}

#[test]
fn what_is_sent_to_somebody_who_has_left_waits_for_pull() {
    let mut world = World::start();
    let mut bob = register(&world.gateway, "bob");
    let mut alice = register(&world.gateway, "alice");
    let uid = alice.uid;
    // From the answer to LOGOUT on nothing is published to nobody.
    assert_eq!(alice.ask("LOGOUT"), "+OK logout success");
    let reply = bob.ask(&format!("SEND {uid} after logout"));
    assert!(reply.starts_with("+OK msg_id="), "{reply}");
    assert_eq!(alice.ask("LOGIN alice password1"), format!("+OK uid={uid}"));
    assert_eq!(alice.ask("PULL"), "+OK pull_done");
    assert_eq!(alice.taken_pushes()[0].text(), "after logout");

    // However the connection ends, on whatever core.
    let mut bus = crate::common::bus::Bus::connect(&world.redis);
    let route = format!("route:{uid}");
    for round in 0..6 {
        match round % 2 {
            0 => drop(alice),
            _ => assert_eq!(alice.ask("quit"), "+OK bye"),
        }
        eventually("she is nowhere", || {
            bus.get(&route).is_none_or(|route| route.is_empty()) && !world.mpim.is_online(uid)
        });
        let text = format!("n{round}");
        bob.ask(&format!("SEND {uid} {text}"));
        alice = log_in(&world, "alice");
        assert_eq!(alice.ask("PULL"), "+OK pull_done");
        assert_eq!(alice.taken_pushes()[0].text(), text);
        bob.ask(&format!("SEND {uid} pushed"));
        assert_eq!(alice.push().text(), "pushed");
    }
    world.assert_sound();
}

#[test]
fn a_gateway_that_is_told_to_stop_leaves_nobody_online() {
    let mut world = World::start();
    let alice = world.log_in_alice();
    let mut bus = crate::common::bus::Bus::connect(&world.redis);
    let route = format!("route:{}", alice.uid);
    assert!(bus.get(&route).is_some_and(|route| !route.is_empty()));
    world.gateway.terminate();
    assert_eq!(world.gateway.wait_exit(), Some(0));
    assert!(!world.mpim.is_online(alice.uid));
    assert!(bus.get(&route).is_none_or(|route| route.is_empty()));
}
