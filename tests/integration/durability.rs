//! What was acknowledged survives the end of the process, and a disk without room.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use crate::common::{Client, Gateway, Push, assert_error, eventually, field, number};

#[test]
fn kill_9_loses_no_acknowledged_message_and_keeps_its_id_number_and_text() {
    let mut gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let bob_uid = gateway.register("bob").uid;
    let away = gateway.register("away").uid;
    let mut bob = gateway.login_manual("bob");
    let mut handed_out = BTreeMap::new();
    for n in 0..20 {
        let text = format!("to bob {n}");
        handed_out.insert(alice.chat(bob_uid, &text), text);
    }
    let pushed = bob.pushes(20);
    let confirmed = pushed[0].id();
    assert_eq!(bob.acknowledge(&[confirmed]), 1);
    handed_out.remove(&confirmed);
    let waiting: Vec<u64> = (0..20)
        .map(|n| alice.chat(away, &format!("to away {n}")))
        .collect();
    gateway.kill_9();
    gateway.restart();

    let mut bob = gateway.login_manual("bob");
    let mut again: Vec<Push> = bob.pull("pull").0;
    again.extend(bob.taken_pushes());
    assert!(again.iter().all(Push::is_dup), "{again:?}");
    let texts: BTreeMap<u64, String> = again
        .iter()
        .map(|push| (push.id(), push.text().to_string()))
        .collect();
    assert_eq!(texts, handed_out);
    for push in &again {
        let first = pushed.iter().find(|first| first.id() == push.id());
        let first = first.expect("pushed before");
        for key in ["seq", "from", "ts"] {
            assert_eq!(push.get(key), first.get(key));
        }
    }
    let mut client = gateway.login_manual("away");
    let ids: Vec<u64> = client.drain_inbox().iter().map(Push::id).collect();
    assert_eq!(ids, waiting);
    // Numbering goes on where it was.
    let mut alice = gateway.login("alice");
    alice.chat(bob_uid, "after");
    let after = std::iter::from_fn(|| Some(bob.push())).find(|push| !push.is_dup());
    assert_eq!(after.map(|push| push.number("seq")), Some(21));
}

#[test]
fn kill_9_under_load_loses_no_acknowledged_message() {
    let mut gateway = Gateway::start_on_two_cores();
    let bob_uid = gateway.register("bob").uid;
    let senders: Vec<Client> = (0..4)
        .map(|n| gateway.register(&format!("sender{n}")))
        .collect();
    let threads: Vec<_> = senders
        .into_iter()
        .enumerate()
        .map(|(sender, mut client)| {
            std::thread::spawn(move || {
                let mut acknowledged = Vec::new();
                for n in 0.. {
                    let text = format!("{sender} {n}");
                    let Some(reply) = client.try_ask(&format!("chat:{bob_uid}:{text}")) else {
                        break;
                    };
                    assert!(reply.starts_with("+OK msg_id="), "{reply}");
                    acknowledged.push((number(&reply, "msg_id"), text));
                }
                acknowledged
            })
        })
        .collect();
    eventually("some hundred messages are stored", || {
        gateway.metric("messages_received_total", &[]) >= 300.0
    });
    gateway.kill_9();
    let acknowledged: Vec<(u64, String)> = threads
        .into_iter()
        .flat_map(|thread| thread.join().expect("a sender"))
        .collect();
    gateway.restart();
    let stored: BTreeMap<u64, String> = gateway
        .login_manual("bob")
        .drain_inbox()
        .iter()
        .map(|push| (push.id(), push.text().to_string()))
        .collect();
    assert!(acknowledged.len() >= 250);
    for (id, text) in acknowledged {
        assert_eq!(stored.get(&id), Some(&text), "acknowledged as {id}");
    }
}

#[test]
fn a_tag_is_remembered_across_kill_9() {
    let mut gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let bob_uid = gateway.register("bob").uid;
    let line = format!("@once chat:{bob_uid}:hello");
    let id = number(&alice.ask(&line), "msg_id");
    gateway.kill_9();
    gateway.restart();
    let mut alice = gateway.login("alice");
    assert_eq!(alice.ask(&line), format!("@once +OK msg_id={id} dup=1"));
    let waiting = gateway.login_manual("bob").drain_inbox();
    assert!(waiting.len() <= 1, "stored once: {waiting:?}");
}

#[test]
fn accounts_friends_and_groups_survive_kill_9() {
    let mut gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    let group = alice.create_group("team");
    bob.ask(&format!("join_group:{group}"));
    assert_eq!(alice.ask(&format!("add_friend:{}", bob.uid)), "+OK");
    let before = alice.group_chat(group, "before");
    assert_eq!(bob.push().number("seq"), 1);
    gateway.kill_9();
    gateway.restart();
    let mut again = gateway.login("alice");
    assert_eq!(again.uid, alice.uid);
    assert_eq!(again.ask("friends"), format!("+OK friends={}", bob.uid));
    assert_eq!(again.ask("groups"), format!("+OK groups={group}"));
    let mut bob = gateway.login("bob");
    let after = again.group_chat(group, "after");
    assert!(after > before);
    let push = std::iter::from_fn(|| Some(bob.push())).find(|push| push.id() == after);
    assert_eq!(push.map(|push| push.number("seq")), Some(2));
    assert_error(
        &gateway.client().ask("register:alice:password1"),
        "USER_EXISTS",
    );
}

#[test]
fn a_tag_is_remembered_across_reconnects() {
    let gateway = Gateway::start(|_| {});
    let mut bob = gateway.register("bob");
    let mut alice = gateway.register("alice");
    let line = format!("@once chat:{}:hello", bob.uid);
    // The reply is lost: the connection ends before it is read.
    alice.send(&line);
    let id = bob.push().id();
    drop(alice);
    let mut alice = gateway.login("alice");
    assert_eq!(alice.ask(&line), format!("@once +OK msg_id={id} dup=1"));
    bob.assert_no_push();
}

/// A gateway whose data directory is a file system of its own, 16 MiB large and seen by this
/// process alone.
fn gateway_on_a_small_disk() -> Option<(Gateway, PathBuf)> {
    const SCRIPT: &str = r#"for last; do :; done
        data="$(dirname "$last")/data" && mkdir -p "$data" && mount -t tmpfs -o size=16m none "$data" && exec "$@""#;
    let probe = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", "mount -t tmpfs none /mnt"])
        .output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        return None;
    }
    let launcher = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh"];
    let gateway = Gateway::start_under(&launcher, |_| {});
    let data = gateway.data_file("");
    let inside = PathBuf::from(format!("/proc/{}/root{}", gateway.pid(), data.display()));
    Some((gateway, inside))
}

#[test]
fn a_full_disk_is_an_error_not_a_loss_and_it_recovers() {
    let Some((gateway, data)) = gateway_on_a_small_disk() else {
        println!("skipped: this process may not mount");
        return;
    };
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    let away = gateway.register("away").uid;
    let filler_path = data.join("filler");
    let mut filler = std::fs::File::create(&filler_path).expect("the filler");
    let block = vec![0u8; 4096];
    while filler.write_all(&block).is_ok() {}
    let text = "f".repeat(7000);
    let mut acknowledged = Vec::new();
    let refusal = loop {
        let reply = alice.ask(&format!("chat:{away}:{text}"));
        if reply.starts_with("-ERR ") {
            break reply;
        }
        acknowledged.push(number(&reply, "msg_id"));
        assert!(acknowledged.len() < 5000, "the disk never fills");
    };
    assert!(
        !refusal.to_lowercase().contains("sql"),
        "nothing internal: {refusal}"
    );
    // Reading goes on.
    assert_eq!(bob.ask("ping"), "+OK pong");
    assert_eq!(field(&bob.ask(&format!("profile:{away}")), "name"), "away");
    assert!(bob.ask("pull").starts_with("+OK pull_done count=0"));
    std::fs::remove_file(&filler_path).expect("remove the filler");
    drop(filler);
    eventually("messages are stored again", || {
        alice
            .ask(&format!("chat:{}:back", bob.uid))
            .starts_with("+OK msg_id=")
    });
    assert_eq!(bob.push().text(), "back");
    let stored: Vec<u64> = gateway
        .login_manual("away")
        .drain_inbox()
        .iter()
        .map(Push::id)
        .collect();
    assert_eq!(
        stored, acknowledged,
        "acknowledged is what is stored, no more and no less"
    );
}
