//! What somebody may do who can publish on Redis and does not know the secret, and what a gateway
//! does that believed him where there is none: a push is a hint, the store is the truth.

use std::path::Path;

use im_gateway::{
    contract::push_mac::PushKey,
    proto::{PushBatch, PushKind, PushMessage},
};
use prost::Message;

use crate::common::{
    Client, Push,
    cluster::{Cluster, PUSH_SECRET, gateway_id},
    config::Config,
    eventually,
    gateway::Gateway,
};

/// The channel of the one core of the first gateway.
fn push_channel() -> String {
    format!("im:push:{}#0", gateway_id(0))
}

fn one_core(config: &mut Config) {
    config.cores(1);
}

/// A message that nobody sent.
fn forged(from: &Client, to: &Client, seq: u64) -> PushMessage {
    PushMessage {
        msg_id: 1 + seq as i64,
        from: from.uid as i64,
        to: to.uid as i64,
        ts_ms: 1,
        text: "forged".to_string(),
        seq,
        ..Default::default()
    }
}

/// Payloads that nobody with the secret published, and where.
fn forgeries(alice: &Client, bob: &Client, group: u64) -> [(String, Vec<u8>); 8] {
    let (channel, group_channel) = (push_channel(), format!("im:group:{group}"));
    let to_bob = |kind: PushKind| PushMessage {
        kind: kind.into(),
        text: "admin".to_string(),
        group_id: group as i64,
        ..forged(alice, bob, 1)
    };
    let of_group = PushMessage {
        to: 0,
        ..to_bob(PushKind::Message)
    };
    let mut sealed_for_another = forged(alice, bob, 1).encode_to_vec();
    let key = PushKey::new(&PUSH_SECRET);
    key.of_channel("im:push:gateway-0#1")
        .seal(&mut sealed_for_another, 0);
    let batch = PushBatch {
        messages: vec![forged(alice, bob, 1)],
    };
    let to_core = |payload| (channel.clone(), payload);
    [
        to_core(forged(alice, bob, 1).encode_to_vec()),
        to_core(to_bob(PushKind::Kick).encode_to_vec()),
        to_core(to_bob(PushKind::Notice).encode_to_vec()),
        to_core(to_bob(PushKind::GroupLeft).encode_to_vec()),
        (group_channel, of_group.encode_to_vec()),
        (
            "im:broadcast".to_string(),
            to_bob(PushKind::CatchUp).encode_to_vec(),
        ),
        to_core(sealed_for_another),
        to_core(batch.encode_to_vec()),
    ]
}

#[test]
fn with_a_secret_everything_forged_is_dropped_and_counted_and_everything_real_arrives() {
    let mut cluster = Cluster::start_signed(1, 1, one_core);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(0, "bob");
    let group = alice.create_group("team");
    bob.ask(&format!("join_group:{group}"));
    let mut bus = cluster.ground.bus();
    let gateway = &cluster.gateways[0];
    let count = |reason| gateway.metric("push_dropped_total", &[("reason", reason)]);
    let forgeries = forgeries(&alice, &bob, group);
    for round in 0..40 {
        for (channel, payload) in &forgeries {
            assert_eq!(bus.publish(channel, payload), 1, "the core listens");
        }
        let id = alice.chat(bob.uid, &format!("n{round}"));
        let push = bob.push();
        assert_eq!((push.id(), push.number("seq")), (id, round + 1));
        let id = alice.group_chat(group, &format!("g{round}"));
        assert_eq!(bob.push().id(), id);
    }
    let expected = 40.0 * forgeries.len() as f64;
    eventually("every forgery is counted", || count("unsigned") == expected);
    assert_eq!(count("malformed"), 0.0);
    alice.assert_no_push();
    bob.assert_no_push();
    // Whoever knows the secret is believed.
    let mut kick = PushMessage {
        to: bob.uid as i64,
        kind: PushKind::Kick.into(),
        text: "admin".to_string(),
        ..Default::default()
    }
    .encode_to_vec();
    PushKey::new(&PUSH_SECRET)
        .of_channel(&push_channel())
        .seal(&mut kick, 0);
    bus.publish(&push_channel(), &kick);
    assert_eq!(bob.push().get("reason"), Some("admin"));
    let (_, stderr) = gateway.output();
    assert!(
        !stderr.contains("push_secret_file") && !stderr.contains("5a5a"),
        "{stderr}"
    );
    cluster.assert_sound();
}

#[test]
fn a_cluster_without_a_secret_says_so_and_one_whose_secret_is_missing_does_not_start() {
    let cluster = Cluster::start_with(1, 1, one_core);
    let (_, stderr) = cluster.gateways[0].output();
    assert!(
        stderr.contains("redis.push_secret_file is not set"),
        "{stderr}"
    );
    let (_, stderr) = cluster.backends[0].output();
    assert!(
        stderr.contains("redis.push_secret_file is not set"),
        "{stderr}"
    );
    let failed = Gateway::start_and_fail(|config| {
        cluster.ground.configure_gateway(1, config);
        config.set("redis", "push_secret_file", "/nowhere/push.secret");
    });
    assert_eq!(failed.code, Some(4), "{}", failed.stderr);
    assert!(
        failed
            .stderr
            .contains("cannot use the push secret /nowhere/push.secret")
    );
    assert!(
        failed.stderr.contains("openssl rand -hex 32"),
        "{}",
        failed.stderr
    );
}

/// The next message that is not a forgery.
#[track_caller]
fn next_real(client: &mut Client) -> Push {
    loop {
        let push = client.push();
        if push.text() != "forged" {
            return push;
        }
    }
}

#[test]
fn a_forgery_under_the_next_number_keeps_no_real_message_away() {
    let mut cluster = Cluster::start_with(1, 1, one_core);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(0, "bob");
    let mut carol = cluster.gateways[0].client();
    assert_eq!(carol.ask("set:ack:manual"), "+OK ack=manual");
    carol.register("carol");
    let group = alice.create_group("team");
    bob.ask(&format!("join_group:{group}"));
    let mut bus = cluster.ground.bus();
    for seq in 1..=40 {
        for to in [&mut bob, &mut carol] {
            bus.push(&push_channel(), &forged(&alice, to, seq));
            let id = alice.chat(to.uid, &format!("n{seq}"));
            let push = next_real(to);
            assert_eq!(
                (push.id(), push.number("seq"), push.is_dup()),
                (id, seq, false)
            );
        }
        let to_group = PushMessage {
            to: 0,
            group_id: group as i64,
            ..forged(&alice, &bob, seq)
        };
        bus.push(&format!("im:group:{group}"), &to_group);
        let id = alice.group_chat(group, &format!("g{seq}"));
        let push = next_real(&mut bob);
        assert_eq!(
            (push.id(), push.number("seq"), push.is_dup()),
            (id, seq, false)
        );
    }
    bob.assert_no_push();
    // Nothing of it was confirmed but by carol herself.
    let (messages, _) = carol.pull("pull");
    assert_eq!(messages.len(), 40);
    let ids: Vec<u64> = messages.iter().map(Push::id).collect();
    assert_eq!(carol.acknowledge(&ids), 40);
    let gateway = &cluster.gateways[0];
    assert!(gateway.metric("push_step_backs_total", &[]) >= 120.0);
    cluster.assert_sound();
}

#[test]
fn forged_numbers_ahead_are_neither_waited_for_nor_believed() {
    let mut cluster = Cluster::start_with(1, 1, one_core);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(0, "bob");
    let mut bus = cluster.ground.bus();
    let gateway = &cluster.gateways[0];
    let gaps = || gateway.metric("push_gaps_total", &[]);
    let mut sent = 0;
    for seq in [5_000, 20, 1_000_000, u64::MAX, 5_000] {
        let before = gaps();
        bus.push(&push_channel(), &forged(&alice, &bob, seq));
        eventually("the store is asked", || gaps() > before);
        for _ in 0..10 {
            sent += 1;
            let id = alice.chat(bob.uid, &format!("n{sent}"));
            let push = bob.push();
            assert_eq!(
                (push.id(), push.number("seq"), push.is_dup()),
                (id, sent, false)
            );
        }
    }
    // A run of numbers, longer than anybody remembers.
    for seq in sent + 1..=sent + 100 {
        bus.push(&push_channel(), &forged(&alice, &bob, seq));
    }
    for _ in 0..120 {
        sent += 1;
        let id = alice.chat(bob.uid, &format!("n{sent}"));
        let push = next_real(&mut bob);
        assert_eq!((push.id(), push.number("seq")), (id, sent));
    }
    bob.assert_no_push();
    cluster.assert_sound();
}

#[test]
fn an_older_database_under_running_gateways_is_gone_back_to() {
    for is_signed in [false, true] {
        let mut cluster = match is_signed {
            false => Cluster::start_with(1, 1, one_core),
            true => Cluster::start_signed(1, 1, one_core),
        };
        let mut alice = cluster.register(0, "alice");
        let mut bob = cluster.register(0, "bob");
        let group = alice.create_group("team");
        bob.ask(&format!("join_group:{group}"));
        let say = |alice: &mut Client, bob: &mut Client, text: &str| {
            let id = alice.chat(bob.uid, text);
            assert_eq!(bob.push().id(), id, "{text}");
            let id = alice.group_chat(group, text);
            assert_eq!(bob.push().id(), id, "{text}");
        };
        for n in 0..10 {
            say(&mut alice, &mut bob, &format!("before {n}"));
        }
        let data = cluster.ground.data();
        let copy = tempfile::TempDir::new().expect("a directory");
        cluster.backends[0].kill_9();
        copy_files(&data, copy.path());
        cluster.backends[0].restart();
        eventually("messages can be asked for", || {
            alice.ask("pull").starts_with("+OK pull_done ")
        });
        for n in 0..50 {
            say(&mut alice, &mut bob, &format!("taken back {n}"));
        }
        cluster.backends[0].kill_9();
        std::fs::remove_dir_all(&data).expect("removed");
        std::fs::create_dir(&data).expect("a directory");
        copy_files(copy.path(), &data);
        cluster.backends[0].restart();
        eventually("messages can be asked for", || {
            alice.ask("pull").starts_with("+OK pull_done ")
        });
        for n in 0..60 {
            say(&mut alice, &mut bob, &format!("after {n}"));
        }
        bob.assert_no_push();
        cluster.assert_sound();
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
        }
    }
}
