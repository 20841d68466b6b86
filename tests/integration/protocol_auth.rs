//! Accounts, login, logout, and what may be said before login.

use std::time::{Duration, Instant};

use crate::common::{Gateway, assert_error, field, number};

#[test]
fn the_welcome_names_the_version_and_help() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.connect();
    assert_eq!(
        client.line(),
        format!(
            "+OK welcome to im-gateway/{}, try help",
            env!("CARGO_PKG_VERSION")
        )
    );
}

#[test]
fn the_banner_can_be_turned_off() {
    let gateway = Gateway::start(|config| {
        config.set("gateway_service", "banner", false);
    });
    let mut client = gateway.connect();
    assert_eq!(client.ask("ping"), "+OK pong");
}

#[test]
fn registering_creates_the_account_and_logs_in() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    let reply = client.ask("register:alice:password1");
    let keys: Vec<&str> = reply
        .split(' ')
        .skip(1)
        .filter_map(|word| word.split_once('='))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(keys, ["uid", "session", "token"], "{reply}");
    assert!(number(&reply, "uid") > 0);
    assert_eq!(
        client.ask("whoami"),
        format!(
            "+OK uid={} name=alice device=cli ack=auto",
            number(&reply, "uid")
        )
    );
}

#[test]
fn logging_in_gives_the_same_user_another_session() {
    let gateway = Gateway::start(|_| {});
    let first = gateway.client().ask("register:alice:password1");
    let second = gateway.client().ask("login:alice:password1");
    assert_eq!(field(&first, "uid"), field(&second, "uid"));
    assert_ne!(field(&first, "session"), field(&second, "session"));
    assert!(!field(&second, "token").is_empty());
}

#[test]
fn a_taken_name_is_refused_and_leaves_the_connection_logged_out() {
    let gateway = Gateway::start(|_| {});
    gateway.register("alice");
    let mut client = gateway.client();
    assert_error(
        &client.ask("register:alice:another-password"),
        "USER_EXISTS",
    );
    assert_error(&client.ask("whoami"), "NOT_LOGGED_IN");
    assert!(client.ask("register:bob:password1").starts_with("+OK uid="));
}

#[test]
fn a_wrong_password_and_an_unknown_user_look_the_same() {
    // Failures in one name are counted behind exempt addresses, too.
    let gateway = Gateway::start(|config| {
        config.limit("login_attempts", 1000);
    });
    gateway.register("alice");
    let mut client = gateway.client();
    let mut fastest = [Duration::MAX; 2];
    for _ in 0..8 {
        for (name, fastest) in ["alice", "nobody"].iter().zip(&mut fastest) {
            let start = Instant::now();
            let reply = client.ask(&format!("login:{name}:wrong-password"));
            *fastest = start.elapsed().min(*fastest);
            assert_error(&reply, "AUTH_FAILED");
            assert!(!reply.contains(name), "{reply}");
        }
    }
    let [known, unknown] = fastest;
    assert!(
        unknown * 2 > known && known * 2 > unknown,
        "the time tells whether a user exists: known {known:?}, unknown {unknown:?}"
    );
    let known = client.ask("login:alice:wrong-password");
    assert_eq!(client.ask("login:nobody:wrong-password"), known);
    // Neither do its limits or its form tell.
    assert_eq!(client.ask("login:nobody:short"), known);
}

#[test]
fn names_and_passwords_are_held_to_their_bounds() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    let long_name = "n".repeat(65);
    let long_password = "p".repeat(129);
    for line in [
        "register:al ice:password1".to_string(),
        "register:al,ice:password1".to_string(),
        "register:al\tice:password1".to_string(),
        "register::password1".to_string(),
        format!("register:{long_name}:password1"),
        "register:alice:12345".to_string(),
        format!("register:alice:{long_password}"),
        "register:alice:".to_string(),
        "register:alice".to_string(),
        "register".to_string(),
        "login:alice".to_string(),
        "login".to_string(),
        "auth".to_string(),
    ] {
        assert_error(&client.ask(&line), "BAD_ARGUMENT");
    }
    for (name, password) in [
        ("n".repeat(64), "123456".to_string()),
        ("Ła-日本".to_string(), "p".repeat(128)),
        ("x".to_string(), "a:b: c\\n:d".to_string()),
    ] {
        let mut client = gateway.client();
        let reply = client.ask(&format!("register:{name}:{password}"));
        assert!(reply.starts_with("+OK uid="), "{name}: {reply}");
        assert_eq!(client.ask("logout"), "+OK logout");
        let reply = client.ask(&format!("login:{name}:{password}"));
        assert!(reply.starts_with("+OK uid="), "{name}: {reply}");
        assert_eq!(field(&client.ask("whoami"), "name"), name);
    }
}

#[test]
fn only_a_few_commands_are_answered_before_log_in() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    for line in [
        "refresh",
        "logout",
        "chat:1:hi",
        "group_chat:1:hi",
        "pull",
        "pull:5",
        "ack:1",
        "add_friend:1",
        "remove_friend:1",
        "friends",
        "create_group:team",
        "join_group:1",
        "leave_group:1",
        "groups",
        "group_members:1",
        "who:1",
        "profile:1",
        "search:a",
        "whoami",
        // The state is looked at before the arguments.
        "chat",
        "SEND 1 hi",
    ] {
        assert_error(&client.ask(line), "NOT_LOGGED_IN");
    }
    assert_eq!(client.ask("ping"), "+OK pong");
    assert_eq!(client.ask("set:ack:manual"), "+OK ack=manual");
    assert_eq!(client.ask("set:device:phone"), "+OK device=phone");
    assert!(client.ask("help").starts_with("+OK commands="));
    assert_eq!(client.ask("quit"), "+OK bye");
    assert_eq!(client.lines_until_closed(), Vec::<String>::new());
}

#[test]
fn a_logged_in_connection_cannot_log_in_again() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.register("alice");
    let token = client.token.clone();
    for line in [
        "login:alice:password-of-alice".to_string(),
        "register:bob:password1".to_string(),
        format!("auth:{token}"),
        "login".to_string(),
    ] {
        assert_error(&client.ask(&line), "ALREADY_LOGGED_IN");
    }
    assert_eq!(field(&client.ask("whoami"), "name"), "alice");
}

#[test]
fn after_logout_the_connection_can_log_in_again() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.register("alice");
    assert_eq!(client.ask("logout"), "+OK logout");
    assert_error(&client.ask("whoami"), "NOT_LOGGED_IN");
    client.login("alice");
    assert_eq!(field(&client.ask("whoami"), "name"), "alice");
}

#[test]
fn pipelined_log_in_and_commands_are_carried_out_in_order() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    client.send_bytes(
        b"whoami\nregister:alice:password1\nwhoami\nlogout\nwhoami\nlogin:alice:password1\nwhoami\nquit\nping\n",
    );
    assert_error(&client.reply(), "NOT_LOGGED_IN");
    assert!(client.reply().starts_with("+OK uid="));
    assert_eq!(field(&client.reply(), "name"), "alice");
    assert_eq!(client.reply(), "+OK logout");
    assert_error(&client.reply(), "NOT_LOGGED_IN");
    assert!(client.reply().starts_with("+OK uid="));
    assert_eq!(field(&client.reply(), "name"), "alice");
    assert_eq!(client.reply(), "+OK bye");
    assert_eq!(client.lines_until_closed(), Vec::<String>::new());
}

#[test]
fn a_password_or_token_never_appears_in_a_reply_or_a_log() {
    let gateway = Gateway::start(|config| {
        config.set("log", "level", "trace");
    });
    let secret = "canary-3f9c1";
    let mut client = gateway.client();
    let reply = client.ask(&format!("register:alice:{secret}"));
    let token = field(&reply, "token").to_string();
    let mut replies = vec![
        client.ask(&format!("register:alice:{secret}")),
        client.ask("logout"),
        client.ask(&format!("login:alice:{secret}-wrong")),
        client.ask(&format!("LOGIN alice {secret}-wrong")),
        client.ask(&format!("auth:{token}x")),
        client.ask(&format!("login:{secret}")),
        client.ask(&format!("logim:alice:{secret}")),
        client.ask(&format!("auth:{token}")),
    ];
    replies.push(gateway.get("/metrics").body);
    let (stdout, stderr) = gateway.output();
    replies.extend([stdout, stderr]);
    for text in replies {
        assert!(!text.contains(secret), "the password shows in: {text}");
        assert!(!text.contains(&token), "the token shows in: {text}");
    }
}
