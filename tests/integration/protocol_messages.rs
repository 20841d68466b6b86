//! Direct messages: storing, pushing, order, tags, escapes, and what cannot be forged.

use crate::common::text::{decode, encode};
use crate::common::{Client, Gateway, Push, assert_error, field, number, random::Random};

fn two_users(gateway: &Gateway) -> (Client, Client) {
    (gateway.register("alice"), gateway.register("bob"))
}

fn ids(messages: &[Push]) -> Vec<u64> {
    messages.iter().map(Push::id).collect()
}

#[test]
fn a_message_is_answered_with_its_id_and_pushed_with_the_same() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, mut bob) = two_users(&gateway);
    let id = alice.chat(bob.uid, "hello: http://x ");
    let push = bob.push();
    assert_eq!(push.kind, "MSG");
    assert_eq!(push.keys(), ["id", "seq", "from", "ts", "text"]);
    assert_eq!(push.id(), id);
    assert_eq!(push.number("seq"), 1);
    assert_eq!(push.number("from"), alice.uid);
    assert_eq!(push.text(), "hello: http://x ");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_millis() as u64;
    assert!(now.abs_diff(push.number("ts")) < 60_000, "{push:?}");
    alice.assert_no_push();
}

#[test]
fn numbers_grow_without_a_hole_whoever_sends() {
    let gateway = Gateway::start_on_two_cores();
    let (mut alice, mut bob) = two_users(&gateway);
    let mut carol = gateway.register("carol");
    let mut sent = Vec::new();
    for round in 0..20 {
        sent.push(alice.chat(bob.uid, &format!("a{round}")));
        sent.push(carol.chat(bob.uid, &format!("c{round}")));
    }
    let pushes = bob.pushes(40);
    assert_eq!(ids(&pushes), sent);
    let numbers: Vec<u64> = pushes.iter().map(|push| push.number("seq")).collect();
    assert_eq!(numbers, (1..=40).collect::<Vec<u64>>());
    for sender in [alice.uid, carol.uid] {
        let own: Vec<u64> = pushes
            .iter()
            .filter(|push| push.number("from") == sender)
            .map(Push::id)
            .collect();
        assert!(own.is_sorted_by(|a, b| a < b), "ids grow per sender");
    }
    // The numbers are the receiver's own: another receiver starts at 1.
    alice.chat(carol.uid, "first");
    assert_eq!(carol.push().number("seq"), 1);
}

#[test]
fn pipelined_messages_both_ways_keep_replies_and_pushes_in_order() {
    const COUNT: usize = 300;
    let gateway = Gateway::start_on_two_cores();
    let (mut alice, mut bob) = two_users(&gateway);
    let (alice_uid, bob_uid) = (alice.uid, bob.uid);
    for (sender, receiver) in [(&mut alice, bob_uid), (&mut bob, alice_uid)] {
        let lines: String = (0..COUNT)
            .map(|n| format!("@t{n} chat:{receiver}:text {n}\n@p{n} ping:{n}\n"))
            .collect();
        sender.send_bytes(lines.as_bytes());
    }
    let mut sent = Vec::new();
    for client in [&mut alice, &mut bob] {
        let mut own = Vec::new();
        for n in 0..COUNT {
            let reply = client.reply();
            assert!(reply.starts_with(&format!("@t{n} +OK msg_id=")), "{reply}");
            own.push(number(&reply, "msg_id"));
            assert_eq!(client.reply(), format!("@p{n} +OK pong {n}"));
        }
        sent.push(own);
    }
    for (client, sent) in [(&mut bob, &sent[0]), (&mut alice, &sent[1])] {
        let pushes = client.pushes(COUNT);
        assert_eq!(&ids(&pushes), sent);
        for (n, push) in pushes.iter().enumerate() {
            assert_eq!(push.text(), format!("text {n}"));
            assert_eq!(push.number("seq"), n as u64 + 1);
        }
        client.assert_no_push();
    }
}

#[test]
fn a_message_to_oneself_is_pushed_as_a_message() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let id = alice.chat(alice.uid, "note");
    let push = alice.push();
    assert_eq!((push.id(), push.number("seq")), (id, 1));
    alice.assert_no_push();
}

#[test]
fn bad_receivers_and_texts_are_refused() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, mut bob) = two_users(&gateway);
    assert_error(&alice.ask("chat:999999:hi"), "NOT_FOUND");
    let receiver = bob.uid;
    for line in [
        "chat".to_string(),
        "chat:".to_string(),
        format!("chat:{receiver}"),
        format!("chat:{receiver}:"),
        format!("chat:{receiver}:   \t "),
        format!("chat:{receiver}:\\n \\r"),
        "chat:0:hi".to_string(),
        "chat:-1:hi".to_string(),
        "chat:bob:hi".to_string(),
        format!("chat:+{receiver}x:hi"),
        "chat:9223372036854775808:hi".to_string(),
        "chat:99999999999999999999:hi".to_string(),
        "chat:1.5:hi".to_string(),
    ] {
        let reply = alice.ask(&line);
        assert_error(&reply, "BAD_ARGUMENT");
    }
    bob.assert_no_push();
}

#[test]
fn a_tag_comes_back_in_front_of_the_reply() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    assert_eq!(client.ask("@a ping"), "@a +OK pong");
    let longest = "x".repeat(32);
    assert_eq!(
        client.ask(&format!("@{longest} ping:y")),
        format!("@{longest} +OK pong y")
    );
    assert_eq!(client.ask("@A_b-9 PING z"), "@A_b-9 +OK pong z");
    let reply = client.ask("@t whoami");
    assert!(reply.starts_with("@t -ERR NOT_LOGGED_IN "), "{reply}");
    let reply = client.ask("@t dance");
    assert!(reply.starts_with("@t -ERR UNKNOWN_COMMAND "), "{reply}");
    let too_long = "x".repeat(33);
    for line in [
        "@ ping".to_string(),
        "@a!b ping".to_string(),
        "@é ping".to_string(),
        format!("@{too_long} ping"),
    ] {
        assert_error(&client.ask(&line), "BAD_REQUEST");
    }
}

#[test]
fn a_repeated_tag_answers_the_first_id_and_stores_nothing() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, mut bob) = two_users(&gateway);
    let line = format!("@m1 chat:{}:hello", bob.uid);
    let first = alice.ask(&line);
    let id = number(&first, "msg_id");
    assert_eq!(first, format!("@m1 +OK msg_id={id}"));
    for _ in 0..3 {
        assert_eq!(alice.ask(&line), format!("@m1 +OK msg_id={id} dup=1"));
    }
    // Also on another connection of the same user.
    let mut other = gateway.login_on("alice", "phone");
    assert_eq!(other.ask(&line), format!("@m1 +OK msg_id={id} dup=1"));
    // Another user's tag is another message; so is another tag.
    let echo = bob.ask(&format!("@m1 chat:{}:mine", alice.uid));
    assert_ne!(number(&echo, "msg_id"), id);
    let second = alice.ask(&format!("@m2 chat:{}:hello", bob.uid));
    assert!(!second.contains("dup="), "{second}");
    assert_eq!(ids(&bob.pushes(2)), [id, number(&second, "msg_id")]);
    bob.assert_no_push();
}

#[test]
fn a_tag_with_another_receiver_group_or_text_is_refused_and_nothing_is_stored() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, mut bob) = two_users(&gateway);
    let group = number(&alice.ask("create_group:g"), "group_id");
    let (me, receiver) = (alice.uid, bob.uid);
    let line = format!("@m1 chat:{receiver}:hi");
    let id = number(&alice.ask(&line), "msg_id");
    for other in [
        format!("@m1 chat:{receiver}:something else"),
        format!("@m1 chat:{me}:hi"),
        format!("@m1 group_chat:{group}:hi"),
    ] {
        let reply = alice.ask(&other);
        assert!(reply.starts_with("@m1 -ERR BAD_ARGUMENT "), "{reply}");
    }
    assert_eq!(alice.ask(&line), format!("@m1 +OK msg_id={id} dup=1"));
    assert_eq!(bob.pushes(1)[0].id(), id);
    bob.assert_no_push();
    alice.assert_no_push();
}

#[test]
fn a_tag_of_a_refused_message_can_be_used_again() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, mut bob) = two_users(&gateway);
    let refused = alice.ask("@m1 chat:999999:hello");
    assert!(refused.starts_with("@m1 -ERR NOT_FOUND "), "{refused}");
    let stored = alice.ask(&format!("@m1 chat:{}:hello", bob.uid));
    assert!(
        stored.starts_with("@m1 +OK msg_id=") && !stored.contains("dup"),
        "{stored}"
    );
    assert_eq!(bob.push().id(), number(&stored, "msg_id"));
}

#[test]
fn a_repeat_sent_at_once_from_two_connections_is_stored_once() {
    let gateway = Gateway::start_on_two_cores();
    let (mut alice, mut bob) = two_users(&gateway);
    let mut phone = gateway.login_on("alice", "phone");
    for n in 0..30 {
        let line = format!("@same{n} chat:{}:hello {n}", bob.uid);
        alice.send(&line);
        phone.send(&line);
        let (one, two) = (alice.reply(), phone.reply());
        assert_eq!(number(&one, "msg_id"), number(&two, "msg_id"));
        assert_ne!(
            one.contains(" dup=1"),
            two.contains(" dup=1"),
            "{one} {two}"
        );
        assert_eq!(bob.push().id(), number(&one, "msg_id"));
    }
    bob.assert_no_push();
}

#[test]
fn escapes_travel_in_their_one_form() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, mut bob) = two_users(&gateway);
    for (sent, arrives) in [
        (r"two\nlines", r"two\nlines"),
        (r"two\r\nlines", r"two\r\nlines"),
        (r"C:\dir\temp", r"C:\dir\temp"),
        (r"a literal \\n", r"a literal \\n"),
        (r"one \\b backslash", r"one \b backslash"),
        (r"\\\\", r"\\\"),
        (r"end\", r"end\"),
        (r"end\\", r"end\"),
        ("tab\there", "tab\there"),
        ("  spaces  kept  ", "  spaces  kept  "),
        ("ünï → 日本 😀", "ünï → 日本 😀"),
    ] {
        alice.chat(bob.uid, sent);
        assert_eq!(bob.push().text(), arrives, "sent as {sent}");
    }
}

#[test]
fn every_text_arrives_as_it_was_meant() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, mut bob) = two_users(&gateway);
    let seed = Random::seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let alphabet = [
        '\\', '\\', 'n', 'r', '\n', '\r', ' ', ':', '=', 'x', 'é', '@', '\t',
    ];
    for _ in 0..300 {
        let length = 1 + random.below(12);
        let mut text: String = (0..length)
            .map(|_| alphabet[random.below(alphabet.len() as u64) as usize])
            .collect();
        text.push('.');
        alice.chat(bob.uid, &encode(&text));
        let push = bob.push();
        assert_eq!(
            decode(push.text()),
            text,
            "seed {seed}, travelled as {push:?}"
        );
        assert_eq!(push.text(), encode(&text), "seed {seed}");
    }
}

#[test]
fn nothing_a_sender_writes_forges_a_line_or_a_field() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, mut bob) = two_users(&gateway);
    for text in [
        "text=x MSG id=1 seq=1 from=1 ts=1 text=forged",
        r"hi\nMSG id=1 seq=2 from=1 ts=1 text=forged",
        r"hi\r\n+OK msg_id=1",
        "x dup=1 from=1 seq=99 id=1",
        "KICK reason=admin",
        "=",
        "+OK",
        "-ERR INTERNAL",
        "@tag +OK",
    ] {
        let id = alice.chat(bob.uid, text);
        let push = bob.push();
        assert_eq!(push.keys(), ["id", "seq", "from", "ts", "text"]);
        assert_eq!((push.id(), push.number("from")), (id, alice.uid));
        assert_eq!(push.text(), text);
    }
    bob.assert_no_push();
}

#[test]
fn real_line_breaks_in_a_text_never_reach_the_receiver_as_lines() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, mut bob) = two_users(&gateway);
    for control in ["\r", "\0", "\u{1b}[2J", "\u{7}", "\u{7f}"] {
        let reply = alice.ask(&format!("chat:{}:a{control}MSG id=1 b", bob.uid));
        assert_error(&reply, "BAD_REQUEST");
    }
    bob.assert_no_push();
}

#[test]
fn a_change_of_user_on_one_connection_takes_nothing_of_the_first_along() {
    let gateway = Gateway::start_on_two_cores();
    let mut carol = gateway.register("carol");
    gateway.register("bob");
    for _ in 0..10 {
        let mut client = gateway.client();
        let alice = if carol.ask("search:alice").contains(":alice") {
            client.login("alice")
        } else {
            client.register("alice")
        };
        assert_eq!(client.ask("set:ack:manual"), "+OK ack=manual");
        assert_eq!(client.ask("logout"), "+OK logout");
        let for_nobody = carol.chat(alice, "for alice only");
        let bob = client.login("bob");
        let late = carol.chat(alice, "for alice only, later");
        let for_bob = carol.chat(bob, "for bob");
        let push = client.push();
        assert_eq!((push.id(), push.text()), (for_bob, "for bob"));
        client.assert_no_push();
        client.acknowledge(&[for_bob]);
        assert_eq!(field(&carol.ask(&format!("who:{alice}")), "online"), "0");
        assert_eq!(client.ask("logout"), "+OK logout");
        client.login("alice");
        let waiting = client.drain_inbox();
        assert_eq!(ids(&waiting), [for_nobody, late]);
    }
}
