//! Friends, presence, profiles, search, help, ping, settings.

use std::time::Instant;

use crate::common::{DEADLINE, Gateway, POLL_INTERVAL, assert_error, eventually, field};

#[test]
fn friends_are_added_listed_and_removed_one_way() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    let carol = gateway.register("carol");
    assert_eq!(alice.ask("friends").trim_end(), "+OK friends=");
    assert_eq!(alice.ask(&format!("add_friend:{}", bob.uid)), "+OK");
    assert_eq!(alice.ask(&format!("add_friend:{}", carol.uid)), "+OK");
    assert_eq!(
        alice.ask("friends"),
        format!("+OK friends={},{}", bob.uid, carol.uid)
    );
    assert_eq!(bob.ask("friends").trim_end(), "+OK friends=");
    assert_eq!(alice.ask(&format!("remove_friend:{}", bob.uid)), "+OK");
    assert_eq!(alice.ask("friends"), format!("+OK friends={}", carol.uid));
    assert_error(&alice.ask("add_friend:999999"), "NOT_FOUND");
    for line in [
        "add_friend",
        "add_friend:x",
        "add_friend:-1",
        "add_friend:0",
    ] {
        assert_error(&alice.ask(line), "BAD_ARGUMENT");
    }
}

#[test]
fn presence_names_the_devices_that_are_there() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    bob.ask(&format!("add_friend:{}", alice.uid));
    let who = format!("who:{}", bob.uid);
    let online = alice.ask(&who);
    assert_eq!(online, format!("+OK uid={} online=1 devices=cli", bob.uid));
    let phone = gateway.login_on("bob", "phone");
    let reply = alice.ask(&who);
    let mut devices: Vec<&str> = field(&reply, "devices").split(',').collect();
    devices.sort_unstable();
    assert_eq!(devices, ["cli", "phone"]);
    drop(bob);
    eventually("only the phone is left", || {
        field(&alice.ask(&who), "devices") == "phone"
    });
    drop(phone);
    eventually("nobody is there", || {
        field(&alice.ask(&who), "online") == "0"
    });
}

#[test]
fn only_a_user_and_those_on_the_users_own_list_learn_the_devices() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    let who = format!("who:{}", bob.uid);
    let shown = format!("+OK uid={} online=1 devices=cli", bob.uid);
    let hidden = format!("+OK uid={} online=1 devices=", bob.uid);
    assert_eq!(bob.ask(&who), shown);
    // Whom a stranger lists is the stranger's own affair.
    alice.ask(&format!("add_friend:{}", bob.uid));
    assert_eq!(alice.ask(&who), hidden);
    bob.ask(&format!("add_friend:{}", alice.uid));
    assert_eq!(alice.ask(&who), shown);
    bob.ask(&format!("remove_friend:{}", alice.uid));
    assert_eq!(alice.ask(&who), hidden);
}

#[test]
fn friends_are_told_who_comes_and_after_a_while_who_has_gone() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    // Alice lists nobody; that Bob lists her is enough to tell her of Bob.
    bob.ask(&format!("add_friend:{}", alice.uid));
    bob.ask("quit");
    let mut bob = gateway.login("bob");
    let notice = alice.push();
    assert_eq!(notice.keys(), ["kind", "uid", "name"]);
    assert_eq!(notice.get("kind"), Some("friend_online"));
    assert_eq!(
        (notice.number("uid"), notice.get("name")),
        (bob.uid, Some("bob"))
    );
    bob.ask("quit");
    let gone = Instant::now();
    let notice = loop {
        assert_eq!(alice.ask("ping:fence"), "+OK pong fence");
        if let Some(notice) = alice.taken_pushes().pop() {
            break notice;
        }
        assert!(gone.elapsed() < 3 * DEADLINE, "nobody was told");
        std::thread::sleep(POLL_INTERVAL);
    };
    assert_eq!(notice.get("kind"), Some("friend_offline"));
    assert_eq!(
        (notice.number("uid"), notice.get("name")),
        (bob.uid, Some("bob"))
    );
}

#[test]
fn a_profile_is_the_name() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let own = format!("profile:{}", alice.uid);
    assert_eq!(alice.ask(&own), format!("+OK uid={} name=alice", alice.uid));
    assert_error(&alice.ask("profile:999999"), "NOT_FOUND");
    assert_error(&alice.ask("profile:alice"), "BAD_ARGUMENT");
    assert_error(&alice.ask("profile"), "BAD_ARGUMENT");
}

#[test]
fn search_finds_by_prefix_and_at_most_twenty() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let alina = gateway.register("alina");
    gateway.register("bob");
    let reply = alice.ask("search:al");
    let mut found: Vec<&str> = field(&reply, "users").split(',').collect();
    found.sort_unstable();
    let mut expected = [
        format!("{}:alice", alice.uid),
        format!("{}:alina", alina.uid),
    ];
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(alice.ask("search:zz").trim_end(), "+OK users=");
    // The wildcards of the store are no wildcards of the protocol.
    for nothing in ["search:%", "search:_l", "search:*", "search:a*", "search:'"] {
        assert_eq!(alice.ask(nothing).trim_end(), "+OK users=", "{nothing}");
    }
    for number in 0..21 {
        gateway.register(&format!("many{number}"));
    }
    assert_eq!(
        field(&alice.ask("search:many"), "users").split(',').count(),
        20
    );
}

#[test]
fn ping_echoes_its_text() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    assert_eq!(client.ask("ping"), "+OK pong");
    assert_eq!(client.ask("PiNg"), "+OK pong");
    assert_eq!(client.ask("ping:hello: world"), "+OK pong hello: world");
    assert_eq!(client.ask("ping hello: world"), "+OK pong hello: world");
}

#[test]
fn help_lists_every_command_and_explains_each() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    let list = client.ask("help");
    let listed = list.to_lowercase();
    for command in [
        "register",
        "login",
        "auth",
        "refresh",
        "logout",
        "chat",
        "group_chat",
        "pull",
        "ack",
        "ping",
        "set",
        "add_friend",
        "remove_friend",
        "friends",
        "create_group",
        "join_group",
        "leave_group",
        "groups",
        "group_members",
        "who",
        "profile",
        "search",
        "whoami",
        "help",
        "quit",
    ] {
        assert!(
            listed
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .any(|word| word == command),
            "{command} is missing in: {list}"
        );
        let form = client.ask(&format!("help:{command}"));
        assert!(form.starts_with("+OK ") && form.contains(command), "{form}");
        assert!(
            form.contains(" example=") && form.contains(" text="),
            "{form}"
        );
    }
    assert!(list.contains("help:chat"), "{list}");
    assert!(client.ask("help:chat").contains("uid"));
    assert!(client.ask("help:nonsense").starts_with("-ERR "));
}

#[test]
fn settings_are_checked() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    for line in [
        "set",
        "set:ack",
        "set:ack:maybe",
        "set:colour:blue",
        "set:device:",
        "set:device:two words",
        "set:device:a,b",
        "set:device:seventeen-letters",
    ] {
        assert_error(&client.ask(line), "BAD_ARGUMENT");
    }
    assert_eq!(
        client.ask("set:device:sixteen-letters_"),
        "+OK device=sixteen-letters_"
    );
    client.register("alice");
    assert!(client.ask("set:device:other").starts_with("-ERR "));
    assert_eq!(client.ask("set:ack:manual"), "+OK ack=manual");
    assert_eq!(
        client.ask("whoami"),
        format!(
            "+OK uid={} name=alice device=sixteen-letters_ ack=manual",
            client.uid
        )
    );
    assert_eq!(client.ask("set:ack:auto"), "+OK ack=auto");
}

#[test]
fn an_unknown_command_is_named_as_such_and_harms_nothing() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    assert_error(&client.ask("dance"), "UNKNOWN_COMMAND");
    assert_error(&client.ask("dance:now"), "UNKNOWN_COMMAND");
    assert_error(&client.ask("dance now"), "UNKNOWN_COMMAND");
    assert_error(&client.ask(":x"), "BAD_REQUEST");
    assert_error(&client.ask(" x"), "UNKNOWN_COMMAND");
    assert_eq!(client.ask("ping"), "+OK pong");
}

#[test]
fn whoever_mistypes_hears_what_would_have_been_right() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    for (line, code, words) in [
        ("caht:1:hi", "UNKNOWN_COMMAND", "did you mean chat?"),
        ("chat:bob:hi", "BAD_ARGUMENT", "search:bob"),
        ("who:bob", "BAD_ARGUMENT", "search:bob"),
        ("chat:9223372036854775807:x", "NOT_FOUND", "no such user"),
        (
            "chat:9223372036854775808:x",
            "BAD_ARGUMENT",
            "decimal number",
        ),
    ] {
        let reply = alice.ask(line);
        assert_error(&reply, code);
        assert!(reply.contains(words), "{reply}");
    }
    let reply = alice.ask(&format!("add_friend:{}", alice.uid));
    assert_error(&reply, "BAD_ARGUMENT");
    assert!(reply.contains("your own friend list"), "{reply}");
}

#[test]
fn blanks_around_a_command_are_forgiven() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    assert_eq!(alice.ask("  ping"), "+OK pong");
    assert_eq!(alice.ask("\t@t  ping "), "@t +OK pong");
    assert_eq!(alice.ask("friends ").trim_end(), "+OK friends=");
    assert!(alice.ask("whoami  ").contains("name=alice"));
    // Nothing but blanks is an empty line.
    alice.send("   \t");
    assert_eq!(alice.ask("ping:next"), "+OK pong next");
    let uid = alice.uid;
    alice.chat(uid, " kept as it is ");
    assert_eq!(alice.push().text(), " kept as it is ");
}
