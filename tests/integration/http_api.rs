//! Commands over HTTP: the same as on every other way in, without a connection of one's own.

use serde_json::json;

use crate::common::api::{Api, body_of};
use crate::common::{Gateway, assert_error};

#[test]
fn people_register_and_chat_over_http_and_with_those_who_are_connected() {
    let gateway = Gateway::start_with_web(|config| {
        config.cores(2);
    });
    let mut bob = gateway.register("bob");
    let mut alice = Api::registered(gateway.web_address(), "alice");
    let answer = alice.ask("chat", json!({"to": bob.uid, "text": "from HTTP"}));
    let push = bob.push();
    assert_eq!(answer["msg_id"], push.id().to_string());
    assert_eq!((push.number("from"), push.text()), (alice.uid, "from HTTP"));
    let id = bob.chat(alice.uid, "from a line");
    // Reading confirms nothing, as often as it is done.
    for place in 0..2 {
        let (status, page) = alice.get("pull?limit=10");
        assert_eq!(
            (status, page["count"].clone(), page["more"].clone()),
            (200, json!(1), json!(false))
        );
        let message = &page["messages"][0];
        assert_eq!(message["id"], id.to_string());
        assert_eq!(message.get("dup").is_some(), place > 0, "{message}");
    }
    assert_eq!(
        alice.ask("ack", json!({"ids": [id.to_string()]}))["acked"],
        1
    );
    assert_eq!(alice.ask("pull", json!({}))["count"], 0);
    let who = bob.ask(&format!("who:{}", alice.uid));
    assert!(who.contains(" online=0 "), "no presence: {who}");
}

#[test]
fn every_kind_of_command_is_answered_with_its_data() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut bob = gateway.register("bob");
    let mut alice = Api::registered(gateway.web_address(), "alice");
    let me = alice.get("whoami").1;
    assert_eq!(
        me,
        json!({"uid": alice.uid, "name": "alice", "device": "http", "ack": "manual"})
    );
    assert_eq!(alice.ask("add_friend", json!({"uid": bob.uid})), json!({}));
    assert_eq!(alice.get("friends").1, json!({"friends": [bob.uid]}));
    assert_eq!(
        alice.get(&format!("profile?uid={}", bob.uid)).1["name"],
        "bob"
    );
    let users = json!([{"uid": bob.uid, "name": "bob"}]);
    assert_eq!(alice.get("search?prefix=bo").1, json!({"users": users}));
    let group = alice.ask("create_group", json!({"name": "tea party"}))["group_id"].clone();
    assert_eq!(
        bob.ask(&format!("join_group:{group}")),
        format!("+OK joined group_id={group}")
    );
    let members = alice.get(&format!("group_members?gid={group}&limit=5")).1;
    assert_eq!(
        members,
        json!({"members": [bob.uid, alice.uid], "more": false})
    );
    let sent = alice.ask("group_chat", json!({"gid": group, "text": "hello"}));
    assert_eq!(bob.push().id().to_string(), sent["msg_id"]);
    bob.ask(&format!("group_chat:{group}:and to you"));
    let pulled = alice.ask("pull", json!({}));
    assert_eq!(pulled["messages"][0]["group"], group);
    assert_eq!(pulled["messages"][0]["text"], "and to you");
    assert_eq!(
        alice.ask("leave_group", json!({"gid": group}))["group_id"],
        group
    );
    assert_eq!(alice.get("groups").1, json!({"groups": []}));
    assert_eq!(alice.get("ping?text=a%20b").1, json!({"text": "a b"}));
}

#[test]
fn a_session_without_a_connection_ends_when_it_is_logged_out() {
    let gateway = Gateway::start_with_web(|_| {});
    let web = gateway.web_address();
    let mut alice = Api::registered(web, "alice");
    let mut other = Api::logged_in(web, "alice");
    let fresh = alice.ask("refresh", json!({}));
    let old = std::mem::replace(
        &mut alice.token,
        fresh["token"].as_str().expect("one").into(),
    );
    assert_eq!(alice.ask("logout", json!({})), json!({}));
    for token in [old, alice.token.clone()] {
        alice.token = token;
        let (status, answer) = alice.get("whoami");
        assert_eq!(
            (status, &answer["error"]["code"]),
            (401, &json!("AUTH_FAILED"))
        );
    }
    assert_eq!(other.get("whoami").0, 200, "another session goes on");
    let mut line = gateway.login("alice");
    assert_eq!(line.ask("logout:all"), "+OK logout");
    assert_eq!(other.get("whoami").0, 401);
    let (status, answer) =
        Api::logged_in(web, "alice").post("password", &json!({"password": "new-secret"}));
    assert_eq!(
        (status, &answer["error"]["code"]),
        (403, &json!("FORBIDDEN"))
    );
}

#[test]
fn a_request_that_is_sent_again_stores_nothing_twice() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut bob = gateway.register("bob");
    let mut alice = Api::registered(gateway.web_address(), "alice");
    let body = json!({"to": bob.uid, "text": "once"}).to_string();
    let mut ids = Vec::new();
    for key in ["key-1", "\"key-1\"", "key-2"] {
        let header = format!("Idempotency-Key: {key}\r\n");
        alice.request("POST", "/api/v1/chat", &header, &body);
        ids.push(body_of(&alice.response()));
    }
    assert_eq!(ids[0]["msg_id"], ids[1]["msg_id"]);
    assert_eq!(ids[1]["dup"], true);
    assert_ne!(ids[0]["msg_id"], ids[2]["msg_id"]);
    assert_eq!(bob.push().id().to_string(), ids[0]["msg_id"]);
    assert_eq!(bob.push().id().to_string(), ids[2]["msg_id"]);
    bob.assert_no_push();
    alice.request("POST", "/api/v1/chat", "Idempotency-Key: a b\r\n", &body);
    assert_eq!(alice.response().status, 400);
}

/// Method, target and body of requests that are refused, with status and code.
const REFUSED: [(&str, &str, &str, u16, &str); 17] = [
    ("POST", "/api/v1/chat", "{\"to\":1", 400, "BAD_REQUEST"),
    ("POST", "/api/v1/chat", "[1,2]", 400, "BAD_REQUEST"),
    (
        "POST",
        "/api/v1/chat",
        "{\"to\":1,\"to\":2,\"text\":\"a\"}",
        400,
        "BAD_REQUEST",
    ),
    ("POST", "/api/v1/chat", "{\"to\":1}", 400, "BAD_ARGUMENT"),
    (
        "POST",
        "/api/v1/chat",
        "{\"to\":999999,\"text\":\"a\"}",
        404,
        "NOT_FOUND",
    ),
    ("GET", "/api/v1/chat?to=1&text=a", "", 405, "BAD_REQUEST"),
    ("PUT", "/api/v1/whoami", "", 405, "BAD_REQUEST"),
    ("GET", "/api/v1/whoami", "{}", 400, "BAD_REQUEST"),
    ("GET", "/api/v1/search?prefix=%GG", "", 400, "BAD_REQUEST"),
    (
        "GET",
        "/api/v1/search?prefix=a&prefix=b",
        "",
        400,
        "BAD_REQUEST",
    ),
    ("POST", "/api/v1/nothing", "", 404, "UNKNOWN_COMMAND"),
    ("POST", "/api/v1/auth.login", "{}", 404, "UNKNOWN_COMMAND"),
    ("POST", "/api/v1/", "", 404, "UNKNOWN_COMMAND"),
    (
        "POST",
        "/api/v1/set",
        "{\"ack\":\"auto\"}",
        404,
        "UNKNOWN_COMMAND",
    ),
    ("POST", "/api/v1/quit", "", 404, "UNKNOWN_COMMAND"),
    (
        "POST",
        "/api/v1/register",
        "{\"user\":\"alice\",\"password\":\"secret\"}",
        409,
        "USER_EXISTS",
    ),
    (
        "POST",
        "/api/v1/login",
        "{\"user\":\"alice\",\"password\":\"wrong-one\"}",
        401,
        "AUTH_FAILED",
    ),
];

#[test]
fn errors_have_their_status_and_the_connection_goes_on() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut alice = Api::registered(gateway.web_address(), "alice");
    let token = alice.token.clone();
    for (method, target, body, status, code) in REFUSED {
        alice.request(method, target, "", body);
        let response = alice.response();
        let answer = body_of(&response);
        assert_eq!(
            (response.status, answer["error"]["code"].as_str()),
            (status, Some(code)),
            "{method} {target} {body}: {answer}"
        );
        assert!(response.head.contains("Connection: keep-alive"));
        assert_eq!(status == 405, response.head.contains("Allow: GET, POST"));
    }
    for (token, code) in [("", "NOT_LOGGED_IN"), ("no.token.this", "AUTH_FAILED")] {
        alice.token = token.to_owned();
        let (status, answer) = alice.post("friends", &json!({}));
        assert_eq!(
            (status, answer["error"]["code"].as_str()),
            (401, Some(code))
        );
        let (status, _) = alice.post("nothing", &json!({}));
        assert_eq!(status, 404, "which comes first");
    }
    alice.token = token;
    assert_eq!(alice.get("whoami").0, 200);
}

#[test]
fn what_is_no_request_with_a_clear_end_is_the_last_one() {
    let gateway = Gateway::start_with_web(|_| {});
    let long = "a".repeat(8193);
    let padding = "b".repeat(8100);
    for (request, status) in [
        ("POST /api/v1/ping HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 400),
        ("POST /api/v1/ping HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(), 400),
        (format!("POST /api/v1/ping HTTP/1.1\r\nContent-Length: {}\r\n\r\n{long}", long.len()), 413),
        (format!("GET /api/v1/ping HTTP/1.1\r\nX: {padding}\r\nX: {padding}"), 431),
        ("POST /api/v1/ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}".to_owned(), 200),
    ] {
        let mut api = Api::connect(gateway.web_address());
        api.send(request.as_bytes());
        let response = api.response();
        assert_eq!(response.status, status, "{response:?}");
        assert!(response.head.contains("Connection: close"), "{response:?}");
        api.assert_closed();
    }
    // A body of the greatest length is taken, whole or in pieces.
    let mut api = Api::registered(gateway.web_address(), "alice");
    let uid = api.uid;
    let text = "x".repeat(8192 - json!({"to": uid, "text": ""}).to_string().len());
    let body = json!({"to": uid, "text": text}).to_string();
    assert_eq!(body.len(), 8192);
    api.request("POST", "/api/v1/chat", "", &body);
    assert_eq!(api.response().status, 200);
}

#[test]
fn several_requests_sent_at_once_are_answered_in_their_order() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut api = Api::registered(gateway.web_address(), "alice");
    for number in 0..20 {
        let body = json!({"to": api.uid, "text": format!("number {number}")}).to_string();
        api.request("POST", "/api/v1/chat", "", &body);
        api.request("GET", &format!("/api/v1/ping?text={number}"), "", "");
    }
    for number in 0..20 {
        assert!(body_of(&api.response())["msg_id"].is_string());
        assert_eq!(body_of(&api.response())["text"], number.to_string());
    }
    let texts = api.ask("pull", json!({}));
    assert_eq!(texts["count"], 20);
    assert_eq!(texts["messages"][19]["text"], "number 19");
}

#[test]
fn a_kept_connection_without_a_request_ends() {
    let gateway = Gateway::start_with_web(|config| {
        config.limit("login_timeout", "1s");
    });
    let mut api = Api::registered(gateway.web_address(), "alice");
    assert_eq!(api.get("ping").0, 200);
    api.assert_closed();
}

#[test]
fn pages_of_other_origins_may_read_what_the_configuration_says() {
    let gateway = Gateway::start_with_web(|config| {
        config.set("web", "allowed_origins", vec!["https://app.example"]);
    });
    let mut api = Api::connect(gateway.web_address());
    for (origin, is_allowed) in [
        ("https://app.example", true),
        ("https://evil.example", false),
    ] {
        let header = format!("Origin: {origin}\r\n");
        api.request("OPTIONS", "/api/v1/chat", &header, "");
        let preflight = api.response();
        assert_eq!(preflight.status, 204);
        api.request("GET", "/api/v1/ping", &header, "");
        let ping = api.response();
        let allowed = format!("Access-Control-Allow-Origin: {origin}");
        for head in [&preflight.head, &ping.head] {
            assert_eq!(head.contains(&allowed), is_allowed, "{head}");
        }
        assert!(
            preflight
                .head
                .contains("Access-Control-Allow-Headers: Authorization, ")
        );
    }
}

#[test]
fn who_asks_too_often_waits_and_is_told_to() {
    let gateway = Gateway::start_with_web(|config| {
        config.nobody_exempt();
        config.limit("commands_per_second", 1);
        config.limit("commands_burst", 2);
        config.limit("throttle_timeout", "1s");
    });
    let mut api = Api::connect(gateway.web_address());
    for _ in 0..10 {
        api.request("GET", "/api/v1/ping", "", "");
    }
    let mut last = api.response();
    while last.status == 200 {
        last = api.response();
    }
    assert_eq!(last.status, 429);
    assert!(last.head.contains("Retry-After: "), "{}", last.head);
    assert_eq!(body_of(&last)["error"]["code"], "RATE_LIMITED");
    api.assert_closed();
    let mut line = gateway.client();
    assert_error(&line.ask("friends"), "NOT_LOGGED_IN");
}
