//! The space dialect: MPIM's names, and replies in exactly MPIM's form.

use crate::common::{Gateway, assert_error, eventually, number};

#[test]
fn replies_have_exactly_the_form_of_mpim() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.client();
    let reply = alice.ask("REGISTER alice password1");
    let alice_uid = number(&reply, "uid");
    assert_eq!(reply, format!("+OK uid={alice_uid}"));
    assert_eq!(alice.ask("LOGOUT"), "+OK logout success");
    assert_eq!(
        alice.ask("LOGIN alice password1"),
        format!("+OK uid={alice_uid}")
    );

    let mut bob = gateway.client();
    let bob_uid = number(&bob.ask("REGISTER bob password1"), "uid");

    let reply = alice.ask(&format!("SEND {bob_uid} see http://x now"));
    let id = number(&reply, "msg_id");
    assert_eq!(reply, format!("+OK msg_id={id}"));
    let push = bob.push();
    assert_eq!((push.id(), push.text()), (id, "see http://x now"));

    assert_eq!(bob.ask("PULL").trim_end(), "+OK pull_done");
    assert_eq!(
        alice.ask(&format!("ADDFRIEND {bob_uid}")),
        "+OK friend added"
    );
    assert_eq!(alice.ask("GETFRIENDS"), format!("+OK friends: {bob_uid}"));

    let reply = alice.ask("CREATEGROUP team");
    let group = number(&reply, "group_id");
    assert_eq!(reply, format!("+OK group_id={group}"));
    assert_eq!(bob.ask(&format!("JOINGROUP {group}")), "+OK joined group");
    let reply = alice.ask(&format!("SENDGROUP {group} hello all"));
    let id = number(&reply, "group_msg_id");
    assert_eq!(reply, format!("+OK group_msg_id={id}"));
    let push = bob.push();
    assert_eq!((push.kind.as_str(), push.id()), ("GMSG", id));
    assert_eq!(push.text(), "hello all");
}

#[test]
fn a_message_that_waited_is_pulled_before_pull_done() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = gateway.client();
    let bob_uid = number(&bob.ask("REGISTER bob password1"), "uid");
    assert_eq!(bob.ask("LOGOUT"), "+OK logout success");
    let id = alice.chat(bob_uid, "while away");
    bob.ask("LOGIN bob password1");
    bob.send("PULL");
    assert_eq!(bob.reply(), "+OK pull_done");
    let messages = bob.taken_pushes();
    assert_eq!(messages.len(), 1);
    assert_eq!((messages[0].id(), messages[0].text()), (id, "while away"));
}

#[test]
fn the_aliases_work_in_the_colon_dialect_too_and_words_have_no_case() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    for line in [
        "SEND:{}:hi",
        "send:{}:hi",
        "Chat:{}:hi",
        "SEND {} hi",
        "chat {} hi",
    ] {
        let reply = alice.ask(&line.replace("{}", &bob.uid.to_string()));
        assert_eq!(reply, format!("+OK msg_id={}", bob.push().id()));
    }
    assert_eq!(alice.ask(&format!("ADDFRIEND:{}", bob.uid)), "+OK");
    assert_eq!(alice.ask("Friends"), format!("+OK friends={}", bob.uid));
}

#[test]
fn a_bare_word_takes_the_dialect_the_connection_speaks() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let send = |separator: &str| ["SEND", &alice.uid.to_string(), "x"].join(separator);
    let (send_with_spaces, send_with_colons) = (send(" "), send(":"));
    assert_eq!(alice.ask("pull"), "+OK pull_done count=0 more=0");
    assert!(alice.ask(&send_with_spaces).starts_with("+OK msg_id="));
    assert_eq!(alice.ask("PULL"), "+OK pull_done");
    assert!(alice.ask(&send_with_colons).starts_with("+OK msg_id="));
    assert_eq!(alice.ask("PULL"), "+OK pull_done count=0 more=0");
    // What MPIM does not have tells nothing, and its own words need no telling.
    assert_eq!(alice.ask("ping x"), "+OK pong x");
    assert_eq!(alice.ask("PULL"), "+OK pull_done count=0 more=0");
    assert_eq!(alice.ask("GETFRIENDS"), "+OK friends: ");
    assert_eq!(alice.ask("friends"), "+OK friends=");
    assert!(alice.ask(&send_with_spaces).starts_with("+OK msg_id="));
    assert_eq!(alice.ask("friends"), "+OK friends=");
    assert_eq!(alice.ask("logout"), "+OK logout success");
}

#[test]
fn both_dialects_may_be_mixed_and_a_colon_in_a_text_decides_nothing() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    for (line, text) in [
        (format!("SEND {} a:b c", bob.uid), "a:b c"),
        (format!("chat:{}:a b:c", bob.uid), "a b:c"),
        (format!("@t1 SEND {} x", bob.uid), "x"),
        (format!("@t2 chat:{}: y z", bob.uid), " y z"),
    ] {
        assert!(alice.ask(&line).contains("+OK msg_id="), "{line}");
        assert_eq!(bob.push().text(), text);
    }
}

#[test]
fn a_password_takes_the_rest_of_the_line_in_both_dialects() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    assert!(
        client
            .ask("REGISTER alice my pass word")
            .starts_with("+OK uid=")
    );
    client.ask("LOGOUT");
    assert_error(&client.ask("LOGIN alice my pass"), "AUTH_FAILED");
    assert!(
        client
            .ask("login:alice:my pass word")
            .starts_with("+OK uid=")
    );
}

#[test]
fn errors_are_one_line_with_a_code_there_too() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    assert_error(&client.ask("SEND 1 hi"), "NOT_LOGGED_IN");
    assert_error(&client.ask("LOGIN nobody password1"), "AUTH_FAILED");
    assert_error(&client.ask("DANCE now"), "UNKNOWN_COMMAND");
    client.ask("REGISTER alice password1");
    assert_error(&client.ask("SEND 999999 hi"), "NOT_FOUND");
    assert_error(&client.ask("SEND bob hi"), "BAD_ARGUMENT");
    assert_error(&client.ask("SEND 1"), "BAD_ARGUMENT");
    assert_error(&client.ask("SENDGROUP 999999 hi"), "NOT_FOUND");
    assert_error(&client.ask("JOINGROUP x"), "BAD_ARGUMENT");
}

#[test]
fn a_repeated_tag_is_suppressed_in_the_space_dialect() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    let line = format!("@m1 SEND {} hello", bob.uid);
    let id = number(&alice.ask(&line), "msg_id");
    assert_eq!(number(&alice.ask(&line), "msg_id"), id);
    assert_eq!(bob.push().id(), id);
    bob.assert_no_push();
}

#[test]
fn a_further_registration_moves_the_connection_to_the_new_account() {
    let gateway = Gateway::start(|_| {});
    let mut sender = gateway.register("sender");
    let mut tool = gateway.client();
    let uids: Vec<u64> = (0..40)
        .map(|n| {
            let reply = tool.ask(&format!("REGISTER user{n} password1"));
            let uid = number(&reply, "uid");
            assert_eq!(reply, format!("+OK uid={uid}"));
            uid
        })
        .collect();
    let last = *uids.last().expect("forty");
    assert!(
        tool.ask("whoami")
            .starts_with(&format!("+OK uid={last} name=user39 "))
    );
    // Nobody else is there any more, and nothing to them comes here.
    eventually("the first one has left", || {
        sender.ask(&format!("who:{}", uids[0])) == format!("+OK uid={} online=0 devices=", uids[0])
    });
    sender.chat(uids[0], "to the first");
    let id = sender.chat(last, "to the last");
    let push = tool.push();
    assert_eq!((push.id(), push.text()), (id, "to the last"));
    assert_eq!(gateway.metric("sessions_authenticated", &[]), 2.0);

    // A name that is taken changes nothing.
    assert_error(&tool.ask("REGISTER user0 password1"), "USER_EXISTS");
    assert!(tool.ask("whoami").starts_with(&format!("+OK uid={last} ")));
    // In the gateway's own dialect, and by other commands, one logs out first.
    assert_error(&tool.ask("register:user40:password1"), "ALREADY_LOGGED_IN");
    assert_error(&tool.ask("LOGIN user0 password1"), "ALREADY_LOGGED_IN");
    // Its message waits for whom it was to.
    let mut first = gateway.client();
    first.ask("LOGIN user0 password1");
    first.send("PULL");
    assert_eq!(first.reply(), "+OK pull_done");
    assert_eq!(first.taken_pushes()[0].text(), "to the first");
}
