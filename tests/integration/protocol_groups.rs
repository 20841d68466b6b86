//! Groups: membership, messages to them, and who may see what.

use crate::common::{Gateway, Push, assert_error, eventually, field, number};

fn ids(messages: &[Push]) -> Vec<u64> {
    messages.iter().map(Push::id).collect()
}

#[test]
fn a_group_is_created_joined_listed_and_left() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    let created = alice.ask("create_group:the team");
    let group = number(&created, "group_id");
    assert_eq!(created, format!("+OK group_id={group}"));
    let joined = format!("+OK joined group_id={group}");
    assert_eq!(bob.ask(&format!("join_group:{group}")), joined);
    assert_eq!(
        bob.ask(&format!("join_group:{group}")),
        joined,
        "twice is fine"
    );
    let members = format!("+OK members={},{}", alice.uid, bob.uid);
    assert_eq!(alice.ask(&format!("group_members:{group}")), members);
    assert_eq!(bob.ask(&format!("group_members:{group}")), members);
    let second = bob.create_group("another");
    assert_eq!(bob.ask("groups"), format!("+OK groups={group},{second}"));
    assert_eq!(alice.ask("groups"), format!("+OK groups={group}"));
    assert_eq!(
        bob.ask(&format!("leave_group:{group}")),
        format!("+OK left group_id={group}")
    );
    assert_eq!(bob.ask("groups"), format!("+OK groups={second}"));
    assert_eq!(
        alice.ask(&format!("group_members:{group}")),
        format!("+OK members={}", alice.uid)
    );
}

#[test]
fn members_come_in_pages_that_go_on_behind_the_last_one() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    let mut carol = gateway.register("carol");
    let group = alice.create_group("team");
    for member in [&mut bob, &mut carol] {
        member.ask(&format!("join_group:{group}"));
    }
    assert_eq!(
        carol.ask(&format!("group_members:{group}::2")),
        format!("+OK members={},{} more=1", alice.uid, bob.uid)
    );
    assert_eq!(
        carol.ask(&format!("group_members:{group}:{}:2", bob.uid)),
        format!("+OK members={}", carol.uid)
    );
    assert_eq!(
        alice.ask(&format!("group_members:{group}:{}", carol.uid)),
        "+OK members="
    );
    assert_error(
        &alice.ask(&format!("group_members:{group}:0:1001")),
        "BAD_ARGUMENT",
    );
}

#[test]
fn outsiders_are_forbidden_and_unknown_groups_not_found() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let mut eve = gateway.register("eve");
    let group = alice.create_group("team");
    for line in [
        format!("group_chat:{group}:hi"),
        format!("group_members:{group}"),
        format!("leave_group:{group}"),
    ] {
        assert_error(&eve.ask(&line), "FORBIDDEN");
    }
    for line in [
        "group_chat:999999:hi",
        "group_members:999999",
        "leave_group:999999",
        "join_group:999999",
    ] {
        assert_error(&eve.ask(line), "NOT_FOUND");
    }
    for line in [
        "group_chat".to_string(),
        format!("group_chat:{group}"),
        format!("group_chat:{group}:  "),
        "group_chat:0:hi".to_string(),
        "group_chat:x:hi".to_string(),
        "join_group".to_string(),
        "join_group:x".to_string(),
        "leave_group:-1".to_string(),
        "group_members:".to_string(),
        "create_group".to_string(),
        "create_group:".to_string(),
        "create_group:  ".to_string(),
        "create_group:a:b".to_string(),
    ] {
        assert_error(&alice.ask(&line), "BAD_ARGUMENT");
    }
    alice.assert_no_push();
}

#[test]
fn a_group_message_reaches_every_member_on_every_core_once() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let group = alice.create_group("team");
    let mut members: Vec<_> = (0..12)
        .map(|n| {
            let mut member = gateway.register(&format!("member{n}"));
            let joined = member.ask(&format!("join_group:{group}"));
            assert!(joined.starts_with("+OK joined"), "{joined}");
            member
        })
        .collect();
    let mut stranger = gateway.register("stranger");
    let sent: Vec<u64> = (0..5)
        .map(|n| alice.group_chat(group, &format!("n{n}")))
        .collect();
    for member in &mut members {
        let pushes = member.pushes(5);
        assert_eq!(ids(&pushes), sent);
        for (n, push) in pushes.iter().enumerate() {
            assert_eq!(push.kind, "GMSG");
            assert_eq!(push.keys(), ["id", "group", "seq", "from", "ts", "text"]);
            assert_eq!(push.number("group"), group);
            assert_eq!(push.number("seq"), n as u64 + 1);
            assert_eq!(push.number("from"), alice.uid);
            assert_eq!(push.text(), format!("n{n}"));
        }
        member.assert_no_push();
    }
    alice.assert_no_push();
    stranger.assert_no_push();
}

#[test]
fn group_numbers_have_no_hole_whoever_writes() {
    let gateway = Gateway::start_on_two_cores();
    let mut writers: Vec<_> = (0..4)
        .map(|n| gateway.register(&format!("writer{n}")))
        .collect();
    let mut reader = gateway.register("reader");
    let group = reader.create_group("team");
    for writer in &mut writers {
        writer.ask(&format!("join_group:{group}"));
    }
    for round in 0..10 {
        for writer in &mut writers {
            writer.send(&format!("group_chat:{group}:n{round}"));
        }
        for writer in &mut writers {
            assert!(writer.reply().starts_with("+OK msg_id="));
        }
    }
    let pushes = reader.pushes(40);
    let numbers: Vec<u64> = pushes.iter().map(|push| push.number("seq")).collect();
    assert_eq!(numbers, (1..=40).collect::<Vec<u64>>());
    for writer in &writers {
        let texts: Vec<&str> = pushes
            .iter()
            .filter(|push| push.number("from") == writer.uid)
            .map(Push::text)
            .collect();
        let expected: Vec<String> = (0..10).map(|round| format!("n{round}")).collect();
        assert_eq!(texts, expected);
    }
}

#[test]
fn a_member_who_was_away_pulls_the_group_messages_of_the_membership_alone() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let group = alice.create_group("team");
    alice.group_chat(group, "before bob");
    let mut bob = gateway.register("bob");
    bob.ask(&format!("join_group:{group}"));
    let bob_uid = bob.uid;
    drop(bob);
    eventually("bob is gone", || {
        field(&alice.ask(&format!("who:{bob_uid}")), "online") == "0"
    });
    let first = alice.group_chat(group, "one");
    let direct = alice.chat(bob_uid, "direct");
    let second = alice.group_chat(group, "two");
    let mut bob = gateway.login_manual("bob");
    bob.assert_no_push();
    let (messages, more) = bob.pull("pull");
    assert!(!more);
    let group_ids: Vec<u64> = messages
        .iter()
        .filter(|push| push.kind == "GMSG")
        .map(Push::id)
        .collect();
    assert_eq!(group_ids, [first, second]);
    assert_eq!(messages.len(), 3);
    assert_eq!(bob.acknowledge(&[first, direct]), 2);
    let (messages, _) = bob.pull("pull");
    assert_eq!(ids(&messages), [second]);
    assert!(messages[0].is_dup());
    assert_eq!(bob.acknowledge(&[second]), 1);
    assert_eq!(bob.ask("pull"), "+OK pull_done count=0 more=0");
}

#[test]
fn what_one_member_confirms_still_waits_for_another() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let group = alice.create_group("team");
    for name in ["bob", "carol"] {
        gateway.register(name).ask(&format!("join_group:{group}"));
    }
    let mut bob = gateway.login_manual("bob");
    let mut carol = gateway.login_manual("carol");
    let id = alice.group_chat(group, "hello");
    assert_eq!((bob.push().id(), carol.push().id()), (id, id));
    assert_eq!(bob.acknowledge(&[id]), 1);
    assert_eq!(bob.ask("pull"), "+OK pull_done count=0 more=0");
    assert_eq!(ids(&carol.pull("pull").0), [id]);
}

#[test]
fn after_leaving_nothing_more_comes() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    let group = alice.create_group("team");
    bob.ask(&format!("join_group:{group}"));
    let id = alice.group_chat(group, "one");
    assert_eq!(bob.push().id(), id);
    bob.ask(&format!("leave_group:{group}"));
    alice.group_chat(group, "two");
    alice.chat(bob.uid, "direct");
    assert_eq!(bob.push().text(), "direct");
    bob.assert_no_push();
    assert_error(&bob.ask(&format!("group_chat:{group}:hi")), "FORBIDDEN");
    // Back again: what was said meanwhile stays unsaid.
    bob.ask(&format!("join_group:{group}"));
    assert_eq!(bob.ask("pull"), "+OK pull_done count=0 more=0");
    let id = alice.group_chat(group, "three");
    assert_eq!(bob.push().id(), id);
}

#[test]
fn a_member_who_joins_on_one_device_gets_pushes_on_all() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let group = alice.create_group("team");
    let mut bob = gateway.register("bob");
    let mut devices: Vec<_> = (0..4)
        .map(|n| gateway.login_on("bob", &format!("d{n}")))
        .collect();
    bob.ask(&format!("join_group:{group}"));
    let id = alice.group_chat(group, "hello");
    assert_eq!(bob.push().id(), id);
    for device in &mut devices {
        assert_eq!(device.push().id(), id);
        device.assert_no_push();
    }
}

#[test]
fn a_repeated_group_tag_answers_the_first_id() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    let group = alice.create_group("team");
    bob.ask(&format!("join_group:{group}"));
    let line = format!("@g1 group_chat:{group}:hello");
    let id = number(&alice.ask(&line), "msg_id");
    assert_eq!(alice.ask(&line), format!("@g1 +OK msg_id={id} dup=1"));
    assert_eq!(bob.push().id(), id);
    bob.assert_no_push();
}

#[test]
fn a_group_message_also_reaches_the_senders_other_devices() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut phone = gateway.login_on("alice", "phone");
    let group = alice.create_group("team");
    let id = alice.group_chat(group, "hello");
    let copy = phone.push();
    assert_eq!((copy.kind.as_str(), copy.id()), ("GMSG", id));
    assert_eq!(copy.number("from"), alice.uid);
    alice.assert_no_push();
}
