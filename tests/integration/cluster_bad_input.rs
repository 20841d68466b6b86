//! What anybody who can write to ZooKeeper or publish on Redis may do: it is counted, it harms
//! nobody, and what is real still arrives.

use im_gateway::proto::{LoginResponse, PushBatch, PushKind, PushMessage};
use prost::Message;

use crate::common::cluster::{Cluster, gateway_id};
use crate::common::znodes::Znodes;
use crate::common::{Client, assert_error, eventually, text};

/// Nobody's number.
const STRANGER: i64 = 4_000_000_000;

/// The channel of the one core of the first gateway.
fn push_channel() -> String {
    format!("im:push:{}#0", gateway_id(0))
}

/// A gateway of one core, so that everybody is behind the same channel.
fn cluster_of_one_core() -> Cluster {
    Cluster::start_with(1, 1, |config| {
        config.cores(1);
    })
}

fn assert_reach_each_other(alice: &mut Client, bob: &mut Client, count: usize) {
    for n in 0..count {
        let id = alice.chat(bob.uid, &format!("n{n}"));
        assert_eq!(bob.push().id(), id);
        let id = bob.chat(alice.uid, &format!("n{n}"));
        assert_eq!(alice.push().id(), id);
    }
    alice.assert_no_push();
    bob.assert_no_push();
}

/// Data of nodes that name no instance.
const BROKEN: [&[u8]; 18] = [
    b"",
    b"\0",
    b"{",
    b"{}",
    b"[]",
    b"null",
    b"127.0.0.1:5001",
    b"\xff\xfe\xfd",
    b"{\"addr\":\"\xff\"}",
    br#"{"addr":5}"#,
    br#"{"addr":""}"#,
    br#"{"addr":"localhost:5001"}"#,
    br#"{"addr":"127.0.0.1"}"#,
    br#"{"addr":"127.0.0.1:99999"}"#,
    br#"{"addr":"127.0.0.1:5001","rpc":"smoke"}"#,
    br#"{"addr":"127.0.0.1:5001","weight":-1}"#,
    br#"{"addr":"127.0.0.1:5001","weight":1e99}"#,
    br#"{"addr":"127.0.0.1:5001","methods":"Login"}"#,
];

/// Puts nodes that name no instance under every service; how many are under each at least.
fn put_broken_nodes(nodes: &Znodes) -> usize {
    let deep = "[".repeat(20_000);
    let long = vec![b'x'; 500_000];
    let large = [deep.as_bytes(), &long];
    let broken = BROKEN.iter().chain(&large);
    for service in [
        "UserService",
        "PresenceService",
        "MessageService",
        "GroupService",
    ] {
        nodes.make_path(&format!("/{service}/instances"));
        for (number, data) in broken.clone().enumerate() {
            nodes.make_ephemeral(&format!("/{service}/instances/broken-{number}"), data);
        }
        for name in ["a b", "ünïcödé", "%00%2e", &"n".repeat(200)] {
            nodes.make_ephemeral(&format!("/{service}/instances/{name}"), b"?");
        }
        nodes.make_ephemeral(&format!("/{service}/NoSuchMethod"), b"127.0.0.1:1");
        nodes.make_ephemeral(&format!("/{service}/no such method"), b"\xff");
    }
    BROKEN.len() + large.len()
}

#[test]
fn broken_nodes_are_left_out_and_counted() {
    let mut cluster = Cluster::start(1, 1);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(0, "bob");
    let nodes = cluster.ground.znodes();
    let broken = put_broken_nodes(&nodes);
    let gateway = &cluster.gateways[0];
    eventually("what is broken is counted", || {
        gateway.metric("discovery_bad_records", &[]) >= 4.0 * broken as f64
    });
    assert_reach_each_other(&mut alice, &mut bob, 20);

    // Well written, but nobody is there, or somebody who speaks something else.
    let dead = br#"{"addr":"127.0.0.1:1","rpc":"mprpc-id"}"#;
    let redis = format!(
        r#"{{"addr":"{}","rpc":"mprpc-id"}}"#,
        cluster.ground.redis.address()
    );
    nodes.make_ephemeral("/MessageService/instances/dead", dead);
    nodes.make_ephemeral("/MessageService/instances/redis", redis.as_bytes());
    eventually("a whole round goes well", || {
        let replies: Vec<String> = (0..20)
            .map(|n| alice.ask(&format!("chat:{}:r{n}", bob.uid)))
            .collect();
        replies.iter().all(|reply| reply.starts_with("+OK "))
    });
    // Everything changes at once, and again.
    for round in 0..20 {
        let data = if round % 2 == 0 { &b"{"[..] } else { dead };
        nodes.set("/MessageService/instances/dead", data);
    }
    drop(nodes);
    eventually("the nodes are gone, and so is their count", || {
        cluster.gateways[0].metric("discovery_bad_records", &[]) == 0.0
    });
    alice.chat(bob.uid, "after");
    cluster.assert_sound();
}

#[test]
fn payloads_that_are_no_pushes_are_dropped_and_counted() {
    let mut cluster = cluster_of_one_core();
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(0, "bob");
    let group = alice.create_group("team");
    bob.ask(&format!("join_group:{group}"));
    alice.group_chat(group, "so that the channel is listened to");
    bob.push();
    let mut bus = cluster.ground.bus();
    let login = LoginResponse {
        user_id: bob.uid as i64,
        token: "token".to_string(),
        ..Default::default()
    };
    let of_unknown_kind = PushMessage {
        msg_id: 1,
        from: alice.uid as i64,
        to: bob.uid as i64,
        kind: 42,
        text: "of no kind".to_string(),
        ..Default::default()
    };
    let huge = vec![0xff; 2 * 1024 * 1024];
    let payloads: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"hello".to_vec(),
        vec![0xff; 64],
        huge,
        b"\x08".to_vec(),
        // A text that is not UTF-8.
        [
            &b"\x08\x01\x10\x01\x18"[..],
            &[bob.uid as u8],
            b"\x2a\x02\xff\xfe",
        ]
        .concat(),
        // A text that is said to be longer than everything.
        b"\x08\x01\x2a\xff\xff\xff\xff\x0f".to_vec(),
        login.encode_to_vec(),
        of_unknown_kind.encode_to_vec(),
        PushBatch {
            messages: vec![of_unknown_kind.clone()],
        }
        .encode_to_vec(),
    ];
    let gateway = &cluster.gateways[0];
    let malformed = || gateway.metric("push_dropped_total", &[("reason", "malformed")]);
    let channels = [push_channel(), format!("im:group:{group}")];
    for channel in &channels {
        for payload in &payloads {
            let before = malformed();
            assert_eq!(bus.publish(channel, payload), 1, "the core listens");
            let shown: Vec<u8> = payload.iter().copied().take(16).collect();
            eventually(&format!("{shown:02x?} on {channel} is counted"), || {
                malformed() > before
            });
        }
    }
    let before = malformed();
    assert_eq!(bus.publish("im:broadcast", b"\xff\xff"), 1);
    eventually("on the broadcast channel, too", || malformed() > before);
    alice.assert_no_push();
    bob.assert_no_push();
    assert_reach_each_other(&mut alice, &mut bob, 5);
    alice.group_chat(group, "after");
    assert_eq!(bob.push().text(), "after");
    cluster.assert_sound();
}

#[test]
fn pushes_for_users_who_are_not_here_are_dropped_and_counted() {
    let mut cluster = cluster_of_one_core();
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(0, "bob");
    let mut bus = cluster.ground.bus();
    let gateway = &cluster.gateways[0];
    let dropped = || gateway.metric("push_dropped_total", &[("reason", "no_receiver")]);
    let huge = "x".repeat(2 * 1024 * 1024);
    for (kind, text) in [
        (PushKind::Message, "for a stranger"),
        (PushKind::Message, huge.as_str()),
        (PushKind::Notice, "friend_online uid=1 name=x"),
        (PushKind::Kick, "admin"),
    ] {
        let before = dropped();
        let push = PushMessage {
            msg_id: 1,
            from: alice.uid as i64,
            to: STRANGER,
            ts_ms: 1,
            text: text.to_string(),
            kind: kind.into(),
            seq: 1,
            ..Default::default()
        };
        assert_eq!(bus.push(&push_channel(), &push), 1);
        // A kick or a notice may well come after whom it was for has left.
        if kind == PushKind::Message {
            eventually("a message for nobody is counted", || dropped() > before);
        }
    }
    assert_reach_each_other(&mut alice, &mut bob, 5);
    cluster.assert_sound();
}

#[test]
fn a_forged_number_far_ahead_does_not_keep_real_messages_away() {
    let mut cluster = cluster_of_one_core();
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(0, "bob");
    let id = alice.chat(bob.uid, "first");
    assert_eq!(bob.push().id(), id);
    let mut bus = cluster.ground.bus();
    for seq in [1_000_000, u64::MAX, u64::MAX / 2] {
        let forged = PushMessage {
            msg_id: 99,
            from: alice.uid as i64,
            to: bob.uid as i64,
            ts_ms: 1,
            text: "forged".to_string(),
            seq,
            ..Default::default()
        };
        assert_eq!(bus.push(&push_channel(), &forged), 1);
    }
    for n in 2..=30 {
        let id = alice.chat(bob.uid, &format!("n{n}"));
        // The forged ones may be shown or not; the real ones must be, each once and in order.
        let push = loop {
            let push = bob.push();
            if push.text() != "forged" {
                break push;
            }
        };
        assert_eq!((push.id(), push.number("seq")), (id, n));
    }
    cluster.assert_sound();
}

#[test]
fn what_is_published_again_is_not_pushed_again() {
    let mut cluster = cluster_of_one_core();
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(0, "bob");
    let ids: Vec<u64> = (0..3)
        .map(|n| alice.chat(bob.uid, &format!("n{n}")))
        .collect();
    bob.pushes(3);
    let mut bus = cluster.ground.bus();
    let gateway = &cluster.gateways[0];
    let dropped = || gateway.metric("push_dropped_total", &[("reason", "duplicate")]);
    for (n, id) in ids.iter().enumerate() {
        let before = dropped();
        let again = PushMessage {
            msg_id: *id as i64,
            from: alice.uid as i64,
            to: bob.uid as i64,
            ts_ms: 1,
            text: format!("n{n}"),
            seq: n as u64 + 1,
            ..Default::default()
        };
        bus.push(&push_channel(), &again);
        eventually("a repeat is counted", || dropped() > before);
    }
    bob.assert_no_push();
    cluster.assert_sound();
}

#[test]
fn a_published_text_starts_no_line_of_its_own() {
    let mut cluster = cluster_of_one_core();
    let alice = cluster.register(0, "alice");
    let mut bob = cluster.register(0, "bob");
    let mut bus = cluster.ground.bus();
    for written in [
        "a\nMSG id=1 from=1 ts=1 text=forged",
        "a\r\n+OK msg_id=1",
        "\\n",
        "seq=7 from=9 text=x",
    ] {
        let push = PushMessage {
            msg_id: 5,
            from: alice.uid as i64,
            to: bob.uid as i64,
            ts_ms: 1,
            text: written.to_string(),
            ..Default::default()
        };
        bus.push(&push_channel(), &push);
        let came = bob.push();
        assert_eq!(came.number("from"), alice.uid);
        assert_eq!(text::decode(came.text()), written);
    }
    bob.assert_no_push();
    cluster.assert_sound();
}

#[test]
fn a_flood_of_garbage_does_not_stop_the_real_messages() {
    let mut cluster = cluster_of_one_core();
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(0, "bob");
    let mut bus = cluster.ground.bus();
    for n in 0..2_000_u32 {
        bus.publish(&push_channel(), &n.to_le_bytes().repeat(16));
        if n % 100 == 0 {
            let id = alice.chat(bob.uid, &format!("n{n}"));
            assert_eq!(bob.push().id(), id);
        }
    }
    let (_, stderr) = cluster.gateways[0].output();
    let lines = stderr.lines().count();
    assert!(lines < 100, "{lines} lines of log");
    assert_error(&alice.ask("chat:999999999:x"), "NOT_FOUND");
    cluster.assert_sound();
}
