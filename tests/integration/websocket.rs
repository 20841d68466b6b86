//! WebSocket: conversations across carriers, logins in the handshake, and how connections end.

use std::process::Command;

use serde_json::{Value, json};

use crate::common::websocket::Frame;
use crate::common::{Client, Gateway, WebSocket, assert_error, eventually, http, number};

/// A WebSocket with a new account logged in on it.
fn registered(gateway: &Gateway, name: &str) -> WebSocket {
    let mut socket = WebSocket::connect(gateway.web_address());
    socket.register(name);
    socket
}

/// The number of a message, which travels as a string.
fn id_of(data: &Value) -> u64 {
    let id = data.get("id").or_else(|| data.get("msg_id"));
    let id = id.and_then(Value::as_str).expect("an id is a string");
    id.parse().expect("of digits")
}

#[test]
fn a_line_client_and_a_websocket_chat_with_each_other() {
    let gateway = Gateway::start_with_web(|config| {
        config.cores(2);
    });
    let mut alice = gateway.register("alice");
    let mut bob = registered(&gateway, "bob");
    let id = alice.chat(bob.uid, r"two\nlines, a \\n and {braces}");
    let push = bob.push();
    assert_eq!(push["type"], "message");
    let data = &push["data"];
    assert_eq!((id_of(data), &data["seq"]), (id, &json!(1)));
    assert_eq!(data["from"], alice.uid);
    assert_eq!(data["text"], "two\nlines, a \\n and {braces}");
    let text = "\"quoted\"\r\nMSG id=1 from=1 text=forged";
    let reply = bob.ask("chat", json!({"to": alice.uid, "text": text}));
    let push = alice.push();
    assert_eq!(push.id(), id_of(&reply));
    assert_eq!(push.text(), r#""quoted"\r\nMSG id=1 from=1 text=forged"#);
    alice.assert_no_push();
    bob.assert_no_push();
    // Both were confirmed by their arrival.
    for name in ["alice", "bob"] {
        eventually("nothing is left in the inbox", || {
            gateway.login_on(name, "other").pull("pull").0.is_empty()
        });
    }
}

#[test]
fn a_group_has_members_of_all_forms() {
    let gateway = Gateway::start_with_web(|config| {
        config.cores(2);
    });
    let mut alice = gateway.register("alice");
    let group = alice.create_group("tea");
    let mut bob = registered(&gateway, "bob");
    let protocol = [("Sec-WebSocket-Protocol", "im.line")];
    let mut carol = WebSocket::open(gateway.web_address(), "/ws", &protocol);
    assert!(carol.answer.contains("Sec-WebSocket-Protocol: im.line\r\n"));
    carol.send("register:carol:password-of-carol");
    let carol_uid = number(&carol.text(), "uid");
    bob.ask("join_group", json!({"gid": group}));
    carol.send(&format!("join_group:{group}"));
    assert_eq!(carol.text(), format!("+OK joined group_id={group}"));
    let id = id_of(&bob.ask("group_chat", json!({"gid": group, "text": "hello"})));
    let line = alice.push();
    assert_eq!((line.id(), line.number("group")), (id, group));
    let text = carol.text();
    assert!(
        text.starts_with(&format!("GMSG id={id} group={group} seq=1 ")),
        "{text}"
    );
    carol.send(&format!("@tag-1 group_chat:{group}:and to you"));
    let reply = carol.text();
    assert!(reply.starts_with("@tag-1 +OK msg_id="), "{reply}");
    let push = bob.push();
    assert_eq!(push["data"]["group"], group);
    assert_eq!(
        (&push["data"]["from"], &push["data"]["seq"]),
        (&json!(carol_uid), &json!(2))
    );
    let members = bob.ask("group_members", json!({"gid": group}));
    assert_eq!(members["members"], json!([alice.uid, bob.uid, carol_uid]));
}

#[test]
fn a_message_that_is_sent_again_is_stored_once() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = registered(&gateway, "bob");
    let message = json!({"to": alice.uid, "text": "once", "client_msg_id": "m-1"});
    let first = bob.ask("chat", message.clone());
    let again = bob.ask("chat", message);
    assert_eq!(
        (id_of(&again), &again["dup"]),
        (id_of(&first), &json!(true))
    );
    assert_eq!(alice.push().id(), id_of(&first));
    alice.assert_no_push();
}

#[test]
fn what_is_not_confirmed_by_hand_comes_again_at_the_next_login() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut alice = gateway.register("alice");
    let (token, uid) = {
        let bob = registered(&gateway, "bob");
        (bob.token.clone(), bob.uid)
    };
    let target = format!("/ws?token={token}&device=tab&ack=manual");
    let ids: Vec<u64> = {
        let mut bob = WebSocket::open(gateway.web_address(), &target, &[]);
        assert_eq!(bob.ask("whoami", json!({}))["ack"], "manual");
        (1..=3)
            .map(|number| {
                let id = alice.chat(uid, &format!("message {number}"));
                assert_eq!(id_of(&bob.push()["data"]), id);
                id
            })
            .collect()
    };
    let mut bob = WebSocket::open(gateway.web_address(), &target, &[]);
    for id in &ids {
        let push = bob.push();
        assert_eq!(
            (id_of(&push["data"]), &push["data"]["dup"]),
            (*id, &json!(true))
        );
    }
    let pulled = bob.ask("pull", json!({}));
    assert_eq!(
        (&pulled["count"], &pulled["more"]),
        (&json!(3), &json!(false))
    );
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    assert_eq!(bob.ask("ack", json!({"ids": ids})), json!({"acked": 3}));
    assert_eq!(bob.ask("pull", json!({}))["messages"], json!([]));
}

#[test]
fn a_token_logs_in_with_the_handshake_from_wherever_it_stands() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut alice = gateway.register("alice");
    let (web, token) = (gateway.web_address(), alice.token.clone());
    let target = format!("/ws?token={token}");
    let bearer = format!("Bearer {token}");
    let protocols = format!("im.json, bearer.{token}");
    for (target, headers) in [
        (target.as_str(), &[][..]),
        ("/ws", &[("Authorization", bearer.as_str())]),
        ("/ws", &[("Sec-WebSocket-Protocol", protocols.as_str())]),
    ] {
        let mut socket = WebSocket::open(web, target, headers);
        let me = socket.ask("whoami", json!({}));
        assert_eq!(me["uid"], alice.uid);
        let device = me["device"].as_str().expect("a device");
        assert!(device.starts_with("web-") && device.len() == 8, "{device}");
        assert!(!socket.answer.contains(&token), "a token is never echoed");
    }
    let refused = WebSocket::try_open(web, "/ws?token=a.b.c", &[]).err();
    let refused = refused.expect("no token");
    assert_eq!(refused.status, 401);
    assert!(refused.body.contains("AUTH_FAILED"), "{}", refused.body);
    alice.ask("logout");
    let refused = WebSocket::try_open(web, &target, &[]).err();
    assert_eq!(refused.expect("an ended session").status, 401);
    let (output, log) = gateway.output();
    assert!(!output.contains(&token) && !log.contains(&token));
}

#[test]
fn two_tabs_live_side_by_side_and_one_device_at_a_time() {
    let gateway = Gateway::start_with_web(|_| {});
    let web = gateway.web_address();
    let mut first = registered(&gateway, "alice");
    let mut second = WebSocket::connect(web);
    second.login("alice");
    first.assert_no_push();
    let target = format!("/ws?token={}&device=phone", second.token);
    let mut older = WebSocket::open(web, &target, &[]);
    older.assert_no_push();
    let mut newer = WebSocket::open(web, &target, &[]);
    older.assert_kicked("replaced", 4001);
    newer.assert_no_push();
    first.assert_no_push();
}

#[test]
fn pages_of_other_origins_may_not_connect_unless_they_are_named() {
    let own = Gateway::start_with_web(|_| {});
    let named = Gateway::start_with_web(|config| {
        config.set("web", "allowed_origins", vec!["https://app.example"]);
    });
    let status = |gateway: &Gateway, origin: &str| {
        let headers = [("Origin", origin)];
        WebSocket::try_open(gateway.web_address(), "/ws", &headers)
            .map_or_else(|refused| refused.status, |_| 101)
    };
    let same_host = format!("http://{}", own.web_address());
    assert_eq!(status(&own, &same_host), 101);
    assert_eq!(status(&named, "https://app.example"), 101);
    for origin in ["https://app.example", "null", "http://127.0.0.1"] {
        assert_eq!(status(&own, origin), 403, "{origin}");
    }
    assert_eq!(status(&named, "https://app.example.evil"), 403);
    assert_eq!(
        status(&named, &format!("http://{}", named.web_address())),
        403
    );
}

#[test]
fn requests_that_are_no_handshake_get_their_status() {
    let gateway = Gateway::start_with_web(|config| {
        config.set("web", "paths", vec!["/chat"]);
    });
    let web = gateway.web_address();
    let status = |method, path| http::request(web, method, path).expect("an answer").status;
    assert_eq!(
        http::get(web, "/health").expect("an answer").body,
        r#"{"status":"ok"}"#
    );
    for (method, path, expected) in [
        ("GET", "/health", 200),
        ("GET", "/nothing", 404),
        ("GET", "/ws", 426),
        ("GET", "/chat", 426),
        ("POST", "/ws", 405),
        ("POST", "/health", 405),
    ] {
        assert_eq!(status(method, path), expected, "{method} {path}");
    }
    let mut socket = WebSocket::open(web, "/chat", &[]);
    socket.assert_no_push();
    for (status, count) in [
        ("101", 1.0),
        ("200", 2.0),
        ("404", 1.0),
        ("405", 2.0),
        ("426", 2.0),
    ] {
        let counted = gateway.metric("http_responses_total", &[("status", status)]);
        assert_eq!(counted, count, "{status}");
    }
    let open = |carrier| gateway.metric("connections", &[("carrier", carrier)]);
    assert_eq!(
        [open("websocket"), open("http"), open("line")],
        [1.0, 0.0, 0.0]
    );
}

#[test]
fn each_end_has_its_code() {
    let gateway = Gateway::start_with_web(|config| {
        config.limit("login_timeout", "1s");
    });
    let web = gateway.web_address();
    WebSocket::connect(web).assert_kicked("auth_timeout", 4005);
    let mut quits = registered(&gateway, "alice");
    assert_eq!(quits.request("quit", json!({}))["type"], "ok");
    assert_eq!(quits.texts_until_closed(), (Vec::new(), 1000));
    let mut revoked = registered(&gateway, "bob");
    let target = format!("/ws?token={}&device=other", revoked.token);
    WebSocket::open(web, &target, &[]).ask("logout", json!({}));
    revoked.assert_kicked("revoked", 4007);
    let mut closes = registered(&gateway, "carol");
    closes.send_frame(0x88, &3000u16.to_be_bytes());
    assert_eq!(closes.texts_until_closed().0, Vec::<String>::new());
    let mut stays = registered(&gateway, "dave");
    gateway.terminate();
    let notice = stays.push();
    assert_eq!(
        (&notice["type"], &notice["data"]["kind"]),
        (&json!("notice"), &json!("reconnect"))
    );
    stays.assert_kicked("shutdown", 1001);
}

#[test]
fn a_silent_websocket_is_pinged_and_closed_when_it_does_not_answer() {
    let gateway = Gateway::start_with_web(|config| {
        config
            .set("web", "ping_interval", "1s")
            .set("web", "ping_timeout", "3s");
    });
    let mut alive = registered(&gateway, "alice");
    let mut silent = registered(&gateway, "bob");
    let mut carol = gateway.register("carol");
    let uid = alive.uid;
    std::thread::scope(|scope| {
        // It answers pings while it waits.
        let waiting = scope.spawn(|| alive.push());
        let bytes = silent.bytes_until_closed();
        assert!(bytes.starts_with(&[0x89, 0]), "no ping: {bytes:?}");
        let close = [&4002u16.to_be_bytes()[..], b"idle"].concat();
        assert!(bytes.ends_with(&close), "{bytes:?}");
        carol.chat(uid, "still there?");
        let push = waiting.join().expect("it lives");
        assert_eq!(push["data"]["text"], "still there?");
    });
}

#[test]
fn who_does_not_read_is_closed_and_loses_nothing() {
    let gateway = Gateway::start_with_web(|config| {
        config.limit("outbound_queue_bytes", 65_536);
    });
    let mut alice = gateway.register("alice");
    let stuck = registered(&gateway, "bob");
    stuck.shrink_receive_buffer();
    let text = "x".repeat(4000);
    let mut sent = Vec::new();
    while gateway.metric("connections_closed_total", &[("reason", "slow_consumer")]) == 0.0 {
        assert!(sent.len() < 20_000, "it is never closed");
        sent.push(alice.chat(stuck.uid, &text));
    }
    let mut stuck = stuck;
    let mut read = Vec::new();
    while let Some(Frame::Text(text)) = stuck.frame() {
        let push: Value = serde_json::from_str(&text).expect("whole frames alone");
        if push["type"] == "message" {
            read.push(id_of(&push["data"]));
        }
    }
    let mut bob = gateway.login_manual("bob");
    let repeated = bob.drain_inbox();
    read.extend(repeated.iter().map(|push| push.id()));
    read.sort_unstable();
    read.dedup();
    assert_eq!(read, sent);
}

#[test]
fn a_full_gateway_says_so_in_the_words_of_http() {
    let gateway = Gateway::start_with_web(|config| {
        config.set("gateway_service", "max_connections", 1);
    });
    let held = registered(&gateway, "alice");
    let refused = http::get(gateway.web_address(), "/ws").expect("an answer");
    assert_eq!(refused.status, 503, "{}", refused.head);
    assert!(
        refused.body.contains("TOO_MANY_CONNECTIONS"),
        "{}",
        refused.body
    );
    assert_error(
        &Client::connect(gateway.address()).line(),
        "TOO_MANY_CONNECTIONS",
    );
    drop(held);
}

#[test]
fn a_client_that_others_wrote_chats_and_learns_why_it_is_closed() {
    let gateway = Gateway::start_with_web(|config| {
        config.cores(2);
    });
    let packages = crate::python::packages("websockets", "websockets>=13,<18", "websockets");
    let output = Command::new("python3")
        .args(["-c", include_str!("../support/websocket_client.py")])
        .arg(format!("ws://{}/ws", gateway.web_address()))
        .env("PYTHONPATH", packages)
        .output()
        .expect("python3 starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout, b"done\n", "{errors}");
}
