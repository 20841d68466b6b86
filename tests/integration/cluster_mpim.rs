//! The gateway before MPIM's own four services, with MPIM's own clients: nothing they know may look
//! different.

use std::time::{Duration, Instant};

use im_gateway::proto::C2cMsg;
use prost::Message;

use crate::common::fake_mpim::{FakeMpim, Options, channel};
use crate::common::mpim_world::{World, register};
use crate::common::znodes::Znodes;
use crate::common::{Client, DEADLINE, POLL_INTERVAL, assert_error, eventually, number};

/// How long a route lasts here, which is two minutes at MPIM.
const ROUTE_LIFETIME: Duration = Duration::from_secs(2);

#[test]
fn replies_and_pushes_are_exactly_mpims() {
    let mut world = World::start();
    let gateway = &world.gateway;
    let mut alice = register(gateway, "alice");
    let mut bob = register(gateway, "bob");
    // MPIM's service cannot end sessions: nothing is done, and she stays logged in.
    assert_error(&alice.ask("LOGOUT all"), "UNSUPPORTED");
    assert_eq!(alice.ask("LOGOUT"), "+OK logout success");
    assert_eq!(
        alice.ask("LOGIN alice password1"),
        format!("+OK uid={}", alice.uid)
    );

    let reply = alice.ask(&format!("SEND {} see http://x now", bob.uid));
    assert_eq!(reply, format!("+OK msg_id={}", number(&reply, "msg_id")));
    let push = bob.push();
    assert_eq!(push.kind, "MSG");
    assert_eq!(push.keys(), ["id", "from", "ts", "text"]);
    assert_eq!(
        (push.number("from"), push.text()),
        (alice.uid, "see http://x now")
    );
    assert!(push.number("ts") > 1_700_000_000_000);

    assert_eq!(bob.ask("PULL"), "+OK pull_done");
    assert_eq!(
        alice.ask(&format!("ADDFRIEND {}", bob.uid)),
        "+OK friend added"
    );
    assert_eq!(alice.ask("GETFRIENDS"), format!("+OK friends: {}", bob.uid));
    assert_eq!(
        alice.ask("CREATEGROUP team our own group"),
        "+OK group_id=0"
    );
    let reply = alice.ask("SENDGROUP 7 hello all");
    assert_eq!(
        reply,
        format!("+OK group_msg_id={}", number(&reply, "group_msg_id"))
    );
    // MPIM stores no group message and pushes it to nobody.
    bob.assert_no_push();
    assert_error(
        &gateway.client().ask("LOGIN alice wrong-password"),
        "AUTH_FAILED",
    );
    world.assert_sound();
}

#[test]
fn what_was_sent_to_somebody_offline_is_pulled_and_none_of_it_is_lost() {
    const MESSAGES: usize = 250;
    let mut world = World::start_with(Options {
        route_lifetime: ROUTE_LIFETIME,
        ..Options::default()
    });
    let mut alice = register(&world.gateway, "alice");
    let mut bob = register(&world.gateway, "bob");
    let uid = bob.uid;
    assert_eq!(bob.ask("LOGOUT"), "+OK logout success");
    // Until the route has run out, MPIM takes him for connected.
    let mut bus = crate::common::bus::Bus::connect(&world.redis);
    eventually("bob's route has run out", || {
        bus.get(&format!("route:{uid}")).is_none()
    });
    for n in 0..MESSAGES {
        let reply = alice.ask(&format!("SEND {uid} n{n}"));
        assert!(reply.starts_with("+OK msg_id="), "{reply}");
    }
    assert_eq!(bob.ask("LOGIN bob password1"), format!("+OK uid={uid}"));
    // MPIM hands out everything at once and deletes it, whatever was asked for.
    let mut texts = Vec::new();
    loop {
        assert_eq!(bob.ask("PULL"), "+OK pull_done");
        let page = bob.taken_pushes();
        if page.is_empty() {
            break;
        }
        for message in page {
            assert_eq!(message.keys(), ["id", "from", "ts", "text"]);
            texts.push(message.text().to_string());
        }
    }
    let expected: Vec<String> = (0..MESSAGES).map(|n| format!("n{n}")).collect();
    assert_eq!(texts, expected);
    world.assert_sound();
}

#[test]
fn pushes_come_on_mpims_channel_with_the_callers_id() {
    let mut world = World::start();
    let mut alice = register(&world.gateway, "alice");
    let mut bob = register(&world.gateway, "bob");
    alice.ask(&format!("SEND {} hello", bob.uid));
    let push = bob.push();
    let published = world.mpim.published();
    let (on, payload) = published.last().expect("a publication");
    let message = C2cMsg::decode(payload.as_slice()).expect("a message");
    assert_eq!(message.msg_id as u64, push.id());
    assert!(
        [channel("gw-1#0"), channel("gw-1#1")].contains(on),
        "published on {on}"
    );
    // As MPIM's own gateway had it: without an id.
    let mut bus = crate::common::bus::Bus::connect(&world.redis);
    let payload = C2cMsg {
        from: alice.uid as i64,
        to: bob.uid as i64,
        ts_ms: 5,
        text: "hi".to_string(),
        ..Default::default()
    };
    bus.publish(on, &payload.encode_to_vec());
    let push = bob.push();
    assert_eq!((push.id(), push.text()), (0, "hi"));
    world.assert_sound();
}

#[test]
fn routes_are_refreshed_for_as_long_as_users_are_connected() {
    let mut world = World::start_with(Options {
        route_lifetime: ROUTE_LIFETIME,
        ..Options::default()
    });
    let mut alice = register(&world.gateway, "alice");
    let mut bob = register(&world.gateway, "bob");
    let key = format!("route:{}", bob.uid);
    let mut bus = crate::common::bus::Bus::connect(&world.redis);
    let start = Instant::now();
    while start.elapsed() < ROUTE_LIFETIME * 3 {
        assert!(
            bus.get(&key).is_some(),
            "bob's route ran out after {:?}",
            start.elapsed()
        );
        std::thread::sleep(POLL_INTERVAL);
    }
    alice.ask(&format!("SEND {} still here", bob.uid));
    assert_eq!(bob.push().text(), "still here");
    let uid = bob.uid as i64;
    let mine: Vec<_> = world.mpim.bindings();
    let mine: Vec<_> = mine.iter().filter(|one| one.user_id == uid).collect();
    assert!(mine.len() >= 3, "{mine:?}");
    assert!(
        mine.iter().all(|one| one.gateway_id == mine[0].gateway_id),
        "a user stays on his core"
    );
    for pair in mine.windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap < ROUTE_LIFETIME, "{gap:?} without a refresh");
    }
    // Nobody refreshes who has left.
    drop(bob);
    eventually("the route of somebody who left runs out", || {
        bus.get(&key).is_none()
    });
    world.assert_sound();
}

#[test]
fn a_user_who_leaves_in_whatever_way_can_log_in_again() {
    let mut world = World::start();
    let uid = register(&world.gateway, "alice").uid;
    for round in 0..6 {
        let mut client = world.gateway.client();
        let start = Instant::now();
        loop {
            let reply = client.ask("LOGIN alice password1");
            if reply == format!("+OK uid={uid}") {
                break;
            }
            assert!(start.elapsed() < DEADLINE, "round {round}: {reply}");
            std::thread::sleep(POLL_INTERVAL);
        }
        match round % 3 {
            0 => assert_eq!(client.ask("LOGOUT"), "+OK logout success"),
            1 => assert_eq!(client.ask("quit"), "+OK bye"),
            _ => drop(client),
        }
    }
    world.assert_sound();
}

#[test]
fn what_mpim_does_not_have_is_unsupported_or_left_out() {
    let mut world = World::start();
    let mut alice = register(&world.gateway, "alice");
    let mut bob = register(&world.gateway, "bob");
    assert_error(&alice.ask(&format!("profile:{}", bob.uid)), "UNSUPPORTED");
    assert_error(&alice.ask("search:bo"), "UNSUPPORTED");
    assert_eq!(alice.ask("refresh").get(..10), Some("+OK token="));
    for n in 0..100 {
        alice.ask(&format!("SEND {} n{n}", bob.uid));
        bob.push();
        bob.ask("PULL");
    }
    assert_eq!(alice.ask("ack:5"), "+OK acked=0");
    for _ in 0..20 {
        bob.ask("LOGOUT");
        assert!(bob.ask("LOGIN bob password1").starts_with("+OK uid="));
    }
    let (_, stderr) = world.gateway.output();
    let lines = stderr.lines().count();
    assert!(lines < 50, "{lines} lines of log:\n{stderr}");
    world.assert_sound();
}

#[test]
fn accounts_are_registered_one_at_a_time() {
    let mut world = World::start();
    let address = world.gateway.address();
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            std::thread::spawn(move || {
                for n in 0..10 {
                    let mut client = Client::connect(address);
                    client.line();
                    let reply = client.ask(&format!("REGISTER user{thread}-{n} password1"));
                    assert!(reply.starts_with("+OK uid="), "{reply}");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a client");
    }
    assert_eq!(world.mpim.calls("UserService.Register"), 80);
    world.assert_sound();
}

#[test]
fn messages_are_sent_one_at_a_time_over_all_cores_and_none_is_lost() {
    const CLIENTS: usize = 16;
    const MESSAGES: usize = 40;
    let mut world = World::start();
    let clients = (0..CLIENTS).map(|n| register(&world.gateway, &format!("user{n}")));
    let clients: Vec<Client> = clients.collect();
    let uids: Vec<u64> = clients.iter().map(|client| client.uid).collect();
    // Each writes to the next one, and all at once.
    let threads = clients.into_iter().enumerate().map(|(n, mut client)| {
        let to = uids[(n + 1) % CLIENTS];
        std::thread::spawn(move || {
            for message in 0..MESSAGES {
                let reply = client.ask(&format!("SEND {to} n{message}"));
                assert!(reply.starts_with("+OK msg_id="), "{reply}");
            }
            for message in 0..MESSAGES {
                assert_eq!(client.push().text(), format!("n{message}"));
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("a client");
    }
    world.assert_sound();
}

#[test]
fn what_shares_the_user_services_database_connection_comes_one_at_a_time() {
    let mut world = World::start();
    let friend = register(&world.gateway, "friend").uid;
    let address = world.gateway.address();
    let threads = (0..8).map(|thread| {
        std::thread::spawn(move || {
            let mut client = Client::connect(address);
            client.line();
            let reply = client.ask(&format!("REGISTER user{thread} password1"));
            assert!(reply.starts_with("+OK uid="), "{reply}");
            for _ in 0..10 {
                let reply = client.ask(&format!("ADDFRIEND {friend}"));
                assert_eq!(reply, "+OK friend added");
                let friends = client.ask("GETFRIENDS");
                assert_eq!(friends, format!("+OK friends: {friend}"));
                assert_eq!(client.ask(&format!("remove_friend {friend}")), "+OK");
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("a client");
    }
    register(&world.gateway, "last");
    world.assert_sound();
}

#[test]
fn mpim_restarted_is_found_again() {
    let World {
        gateway,
        mpim,
        redis,
        zookeeper,
    } = World::start();
    let mut alice = register(&gateway, "alice");
    drop(mpim);
    let reply = alice.ask("GETFRIENDS");
    assert!(reply.starts_with("-ERR "), "{reply}");
    // The next start would find the method nodes of the one before still there, so it comes after
    // their end.
    let hosts = zookeeper.hosts("");
    let nodes = Znodes::connect(&hosts);
    eventually("the nodes of the old one are gone", || {
        nodes.get("/UserService/Login").is_none()
    });
    let mpim = FakeMpim::start(&hosts, &redis, Options::default());
    let start = Instant::now();
    let mut bob = gateway.client();
    for attempt in 0.. {
        // One that fails half-way leaves its name taken.
        let reply = bob.ask(&format!("REGISTER bob{attempt} password1"));
        if reply.starts_with("+OK uid=") {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "{reply}");
        std::thread::sleep(POLL_INTERVAL);
    }
    assert_eq!(alice.ask("ping"), "+OK pong");
    eventually("all services are found again", || gateway.is_ready());
    World {
        gateway,
        mpim,
        redis,
        zookeeper,
    }
    .assert_sound();
}

#[test]
fn names_and_passwords_are_the_user_services_to_judge() {
    let mut world = World::start();
    let mut tool = world.gateway.client();
    let long = "x".repeat(200);
    for (name, password) in [("bench:1", "1"), ("b,c", "pw"), ("dora", long.as_str())] {
        let reply = tool.ask(&format!("REGISTER {name} {password}"));
        let uid = number(&reply, "uid");
        assert_eq!(reply, format!("+OK uid={uid}"));
        let mut client = world.gateway.client();
        let login = format!("LOGIN {name} {password}");
        assert_eq!(client.ask(&login), format!("+OK uid={uid}"));
    }
    assert_error(
        &world.gateway.client().ask("LOGIN bench:1 2"),
        "AUTH_FAILED",
    );
    world.assert_sound();
}
