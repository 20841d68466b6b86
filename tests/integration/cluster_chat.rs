//! Two gateways, two backends: users need not know who is connected where.

use std::time::Duration;

use crate::common::cluster::Cluster;
use crate::common::nginx::Nginx;
use crate::common::{Client, Received, assert_error, eventually, field, number};

#[test]
fn users_on_different_gateways_write_to_each_other() {
    let mut cluster = Cluster::start(2, 2);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(1, "bob");
    for n in 1..=50 {
        let id = alice.chat(bob.uid, &format!("to bob {n}"));
        let push = bob.push();
        assert_eq!((push.id(), push.number("seq")), (id, n));
        assert_eq!((push.number("from"), push.is_dup()), (alice.uid, false));
        assert_eq!(push.text(), format!("to bob {n}"));
        let id = bob.chat(alice.uid, &format!("to alice {n}"));
        let push = alice.push();
        assert_eq!((push.id(), push.number("seq")), (id, n));
    }
    alice.assert_no_push();
    bob.assert_no_push();
    assert_eq!(bob.ask("pull"), "+OK pull_done count=0 more=0");
    assert_error(&alice.ask("chat:999999999:x"), "NOT_FOUND");
    for (number, backend) in cluster.backends.iter().enumerate() {
        let commits = backend.metric("store_commits_total");
        assert!(commits > 0.0, "backend {number} was given nothing to do");
    }
    cluster.assert_sound();
}

#[test]
fn ids_are_unique_over_all_gateways_and_cores() {
    let cluster = Cluster::start(2, 2);
    let mut clients: Vec<Client> = (0..8)
        .map(|n| cluster.register(n % 2, &format!("user{n}")))
        .collect();
    let to = clients[0].uid;
    for client in &mut clients {
        let lines: String = (0..50).map(|n| format!("chat:{to}:n{n}\n")).collect();
        client.send_bytes(lines.as_bytes());
    }
    let mut ids: Vec<u64> = clients
        .iter_mut()
        .flat_map(|client| {
            let replies: Vec<String> = (0..50).map(|_| client.reply()).collect();
            replies
        })
        .map(|reply| number(&reply, "msg_id"))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 400);
    let pushes = clients[0].pushes(400);
    for (n, push) in pushes.iter().enumerate() {
        assert_eq!(push.number("seq"), n as u64 + 1);
    }
}

#[test]
fn a_group_reaches_its_members_on_every_gateway() {
    let cluster = Cluster::start(2, 2);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(1, "bob");
    let mut carol = cluster.register(0, "carol");
    let mut stranger = cluster.register(1, "stranger");
    let group = alice.create_group("team");
    for client in [&mut bob, &mut carol] {
        assert_eq!(
            client.ask(&format!("join_group:{group}")),
            format!("+OK joined group_id={group}")
        );
    }
    for n in 1..=20 {
        let id = alice.group_chat(group, &format!("n{n}"));
        for member in [&mut bob, &mut carol] {
            let push = member.push();
            assert_eq!((push.kind.as_str(), push.id()), ("GMSG", id));
            assert_eq!((push.number("group"), push.number("seq")), (group, n));
        }
    }
    bob.group_chat(group, "from the other side");
    assert_eq!(alice.push().number("from"), bob.uid);
    assert_eq!(carol.push().number("from"), bob.uid);
    stranger.assert_no_push();
    assert_error(
        &stranger.ask(&format!("group_chat:{group}:let me in")),
        "FORBIDDEN",
    );
    assert_eq!(
        bob.ask(&format!("leave_group:{group}")),
        format!("+OK left group_id={group}")
    );
    alice.group_chat(group, "without bob");
    assert_eq!(carol.push().text(), "without bob");
    bob.assert_no_push();
}

#[test]
fn a_device_that_logs_in_elsewhere_is_displaced() {
    let cluster = Cluster::start(2, 2);
    let mut alice = cluster.register(0, "alice");
    let mut current = cluster.register(0, "bob");
    let bob = current.uid;
    for n in 1..=6 {
        let next = cluster.gateways[n % 2].login("bob");
        current.assert_kicked("replaced");
        current = next;
        let id = alice.chat(bob, &format!("n{n}"));
        assert_eq!(current.push().id(), id);
        current.assert_no_push();
        assert_eq!(field(&current.ask(&format!("who:{bob}")), "devices"), "cli");
    }
}

#[test]
fn past_max_devices_the_oldest_is_displaced_wherever_it_is() {
    let cluster = Cluster::start_with(2, 2, |config| {
        config.limit("max_devices", 2);
    });
    cluster.register(0, "bob").ask("logout");
    let mut first = cluster.gateways[0].login_on("bob", "d1");
    let mut second = cluster.gateways[1].login_on("bob", "d2");
    let mut third = cluster.gateways[1].login_on("bob", "d3");
    first.assert_kicked("replaced");
    let mut fourth = cluster.gateways[0].login_on("bob", "d4");
    second.assert_kicked("replaced");
    third.assert_no_push();
    fourth.assert_no_push();
}

#[test]
fn presence_and_its_notices_cross_gateways() {
    let cluster = Cluster::start(2, 2);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(1, "bob");
    bob.ask(&format!("add_friend:{}", alice.uid));
    let who = format!("who:{}", bob.uid);
    assert_eq!(
        alice.ask(&who),
        format!("+OK uid={} online=1 devices=cli", bob.uid)
    );
    let mut phone = cluster.gateways[0].login_on("bob", "phone");
    let devices = field(&alice.ask(&who), "devices").to_string();
    assert!(["cli,phone", "phone,cli"].contains(&devices.as_str()));
    phone.ask("logout");
    bob.ask("logout");
    eventually("bob is offline", || {
        field(&alice.ask(&who), "online") == "0"
    });

    assert_eq!(alice.ask(&format!("add_friend:{}", bob.uid)), "+OK");
    bob.login("bob");
    let notice = alice.push();
    assert_eq!(notice.kind, "NOTICE");
    assert_eq!(notice.get("kind"), Some("friend_online"));
    assert_eq!(
        (notice.number("uid"), notice.get("name")),
        (bob.uid, Some("bob"))
    );
}

#[test]
fn a_token_is_good_on_every_gateway() {
    let cluster = Cluster::start(1, 2);
    let alice = cluster.register(0, "alice");
    let mut client = cluster.gateways[1].client();
    let reply = client.ask(&format!("auth:{}", alice.token));
    assert_eq!(number(&reply, "uid"), alice.uid);
    let refreshed = field(&client.ask("refresh"), "token").to_string();
    let reply = cluster.gateways[0]
        .client()
        .ask(&format!("auth:{refreshed}"));
    assert_eq!(number(&reply, "uid"), alice.uid);
    assert_error(
        &cluster.gateways[1].client().ask("auth:x.y.z"),
        "AUTH_FAILED",
    );
}

#[test]
fn the_senders_device_on_another_gateway_gets_its_copy() {
    let cluster = Cluster::start(2, 2);
    let mut alice = cluster.register(0, "alice");
    let mut phone = cluster.gateways[1].login_on("alice", "phone");
    let mut bob = cluster.register(1, "bob");
    let id = alice.chat(bob.uid, "hello");
    let copy = phone.push();
    assert_eq!(copy.keys(), ["id", "from", "to", "ts", "text"]);
    assert_eq!((copy.id(), copy.number("to")), (id, bob.uid));
    assert_eq!(bob.push().id(), id);
    alice.assert_no_push();
    phone.assert_no_push();
    let id = bob.chat(alice.uid, "hi");
    for device in [&mut alice, &mut phone] {
        let push = device.push();
        assert_eq!((push.id(), push.number("seq")), (id, 1));
    }
}

#[test]
fn a_repeated_tag_is_one_message_on_whichever_gateway_it_is_repeated() {
    let cluster = Cluster::start(2, 2);
    let mut alice = cluster.register(0, "alice");
    let mut phone = cluster.gateways[1].login_on("alice", "phone");
    let mut bob = cluster.register(1, "bob");
    let line = format!("@m1 chat:{}:once", bob.uid);
    let id = number(&alice.ask(&line), "msg_id");
    assert_eq!(phone.push().id(), id);
    let again = phone.ask(&line);
    assert_eq!(
        (number(&again, "msg_id"), field(&again, "dup")),
        (id, "1"),
        "{again}"
    );
    assert_eq!(bob.push().id(), id);
    bob.assert_no_push();
    alice.assert_no_push();
}

#[test]
fn what_was_sent_while_away_waits_on_every_gateway() {
    let cluster = Cluster::start(2, 2);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(0, "bob");
    assert_eq!(bob.ask("logout"), "+OK logout");
    let sent: Vec<u64> = (0..10)
        .map(|n| alice.chat(bob.uid, &format!("n{n}")))
        .collect();
    let mut bob = cluster.gateways[1].login_manual("bob");
    let pulled: Vec<u64> = bob.drain_inbox().iter().map(|push| push.id()).collect();
    assert_eq!(pulled, sent);
}

#[test]
fn nginx_in_front_spreads_users_who_still_reach_each_other() {
    let cluster = Cluster::start(1, 2);
    let nginx = Nginx::start(&cluster.addresses());
    let mut clients: Vec<Client> = (0..4)
        .map(|n| {
            let mut client = Client::connect(nginx.address());
            assert!(client.line().starts_with("+OK welcome"));
            client.register(&format!("user{n}"));
            client
        })
        .collect();
    for gateway in &cluster.gateways {
        assert!(gateway.metric("sessions_authenticated", &[]) >= 1.0);
    }
    let uids: Vec<u64> = clients.iter().map(|client| client.uid).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.chat(uids[(n + 1) % 4], "to my neighbour");
    }
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.push().number("from"), uids[(n + 3) % 4]);
    }
    let quiet = clients[0].receive_within(Duration::from_millis(1));
    assert_eq!(quiet, Received::Nothing);
}
