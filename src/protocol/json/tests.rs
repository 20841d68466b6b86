//! Requests, replies and pushes as JSON: each command and each reply in both forms, from one table.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    base::secret::Secret,
    protocol::{
        codec::{Codec, Form, Front, Partial},
        command::{AckMode, Command, Dialect, Judge, Verb, parse_arguments, parse_line},
        error_code::ErrorCode,
        json::{push, reply, request},
        push::Push,
        reply::Reply,
        request::{ReplyTo, Request},
    },
};

/// Commands as a line and as a request.
fn both_forms() -> Vec<(&'static str, Value)> {
    [of_messages(), of_sessions(), of_people()].concat()
}

fn of_messages() -> Vec<(&'static str, Value)> {
    vec![
        (
            "chat:42:hi",
            json!({"type": "chat", "data": {"to": 42, "text": "hi"}}),
        ),
        (
            r"chat:9223372036854775807:a\nb",
            json!({"type": "chat", "data": {"to": "9223372036854775807", "text": "a\nb"}}),
        ),
        (
            "group_chat:7:hi",
            json!({"type": "group_chat", "data": {"gid": "7", "text": "hi"}}),
        ),
        ("ping", json!({"type": "ping"})),
        ("ping", json!({"type": "heartbeat", "data": null})),
        ("ping:a b", json!({"type": "ping", "data": {"text": "a b"}})),
        (
            "ack:9007199254740993:2",
            json!({"type": "ack", "data": {"ids": ["9007199254740993", 2]}}),
        ),
        (
            "ack:9007199254740993",
            json!({"type": "ack", "data": {"ids": [9_007_199_254_740_993_i64]}}),
        ),
        ("pull", json!({"type": "pull", "data": {}})),
        ("pull:5", json!({"type": "pull", "data": {"limit": 5}})),
    ]
}

fn of_sessions() -> Vec<(&'static str, Value)> {
    vec![
        (
            "register:alice:wonderland",
            json!({"type": "register", "data": {"user": "alice", "password": "wonderland"}}),
        ),
        (
            "login:alice:a:b",
            json!({"type": "login", "data": {"user": "alice", "password": "a:b"}}),
        ),
        (
            "login:alice:secret",
            json!({"type": "auth.login", "data": {"username": "alice", "password": "secret"}}),
        ),
        (
            "auth:a.b.c",
            json!({"type": "auth", "data": {"token": "a.b.c"}}),
        ),
        ("refresh", json!({"type": "auth.refresh"})),
        ("logout", json!({"type": "logout"})),
        ("logout", json!({"type": "auth.logout"})),
        ("logout:all", json!({"type": "logout_all"})),
        (
            "password:another",
            json!({"type": "password", "data": {"password": "another"}}),
        ),
        (
            "set:ack:manual",
            json!({"type": "set", "data": {"ack": "manual"}}),
        ),
        (
            "set:device:phone",
            json!({"type": "set", "data": {"device": "phone"}}),
        ),
    ]
}

fn of_people() -> Vec<(&'static str, Value)> {
    vec![
        (
            "add_friend:2",
            json!({"type": "add_friend", "data": {"uid": 2}}),
        ),
        (
            "remove_friend:2",
            json!({"type": "remove_friend", "data": {"uid": "2"}}),
        ),
        ("friends", json!({"type": "user.friends"})),
        (
            "create_group:tea time",
            json!({"type": "create_group", "data": {"name": "tea time"}}),
        ),
        (
            "join_group:7",
            json!({"type": "join_group", "data": {"gid": 7}}),
        ),
        (
            "leave_group:7",
            json!({"type": "leave_group", "data": {"gid": 7}}),
        ),
        ("groups", json!({"type": "groups"})),
        (
            "group_members:7",
            json!({"type": "group_members", "data": {"gid": 7}}),
        ),
        (
            "group_members:7:5:10",
            json!({"type": "group_members", "data": {"gid": 7, "after": 5, "limit": 10}}),
        ),
        ("who:2", json!({"type": "status", "data": {"uid": 2}})),
        (
            "profile:2",
            json!({"type": "user.profile", "data": {"uid": 2}}),
        ),
        (
            "search:ali",
            json!({"type": "search", "data": {"prefix": "ali"}}),
        ),
        (
            "search:ali",
            json!({"type": "user.search", "data": {"query": "ali"}}),
        ),
        ("whoami", json!({"type": "whoami"})),
        ("help", json!({"type": "help"})),
        (
            "help:chat",
            json!({"type": "help", "data": {"command": "chat"}}),
        ),
        ("quit", json!({"type": "quit"})),
    ]
}

/// What a line says, in words that compare commands of both forms.
fn of_line(line: &str) -> String {
    let line = parse_line(line.as_bytes()).expect("a line");
    told(&parse_arguments(&line, Dialect::Colon).expect("a command"))
}

/// What a command says. Lists of ids are told by their ids.
fn told(command: &Command<'_>) -> String {
    match command {
        Command::Ack { ids } => format!("ack {:?}", ids.iter().collect::<Vec<_>>()),
        Command::Login { user, password } | Command::Register { user, password } => {
            format!("{user} {}", password.expose())
        }
        Command::Auth { token, user } => format!("auth {} {user:?}", token.expose()),
        Command::Password { new } => format!("password {}", new.expose()),
        other => format!("{other:?}"),
    }
}

#[test]
fn each_command_is_the_same_in_both_forms() {
    let mut seen: Vec<Verb> = Vec::new();
    for (line, frame) in both_forms() {
        let text = frame.to_string();
        let request = request::read(&text).unwrap_or_else(|bad| panic!("{text}: {bad:?}"));
        seen.push(request.verb());
        let command = request.command(Judge::Gateway);
        let command = command.unwrap_or_else(|bad| panic!("{text}: {bad:?}"));
        assert_eq!(told(&command), of_line(line), "{text}");
    }
    for verb in Verb::ALL {
        assert!(
            seen.contains(&verb) || verb.name() == "panic",
            "{}",
            verb.name()
        );
    }
}

#[test]
fn arguments_obey_the_rules_of_lines() {
    for (line, frame) in [
        (
            "chat:0:hi",
            json!({"type": "chat", "data": {"to": 0, "text": "hi"}}),
        ),
        (
            "chat:42: ",
            json!({"type": "chat", "data": {"to": 42, "text": " "}}),
        ),
        (
            "chat:bob:hi",
            json!({"type": "chat", "data": {"to": "bob", "text": "hi"}}),
        ),
        ("pull:0", json!({"type": "pull", "data": {"limit": 0}})),
        (
            "pull:1001",
            json!({"type": "pull", "data": {"limit": 1001}}),
        ),
        ("ack:x", json!({"type": "ack", "data": {"ids": ["x"]}})),
        (
            "register:alice:short",
            json!({"type": "register", "data": {"user": "alice", "password": "short"}}),
        ),
        (
            "register:a,b:wonderland",
            json!({"type": "register", "data": {"user": "a,b", "password": "wonderland"}}),
        ),
        (
            "set:ack:maybe",
            json!({"type": "set", "data": {"ack": "maybe"}}),
        ),
        (
            "set:device:my phone",
            json!({"type": "set", "data": {"device": "my phone"}}),
        ),
        (
            "join_group:tea",
            json!({"type": "join_group", "data": {"gid": "tea"}}),
        ),
        (
            "create_group:a:b",
            json!({"type": "create_group", "data": {"name": "a:b"}}),
        ),
        (
            "search:a b",
            json!({"type": "search", "data": {"prefix": "a b"}}),
        ),
    ] {
        let parsed = parse_line(line.as_bytes()).expect("a line");
        let by_line = parse_arguments(&parsed, Dialect::Colon).expect_err(line);
        let text = frame.to_string();
        let request = request::read(&text).expect("a request");
        let by_json = request.command(Judge::Gateway).expect_err(&text);
        assert_eq!(by_json, by_line, "{text}");
    }
}

#[test]
fn arguments_that_are_missing_or_of_another_type_are_bad_arguments() {
    for frame in [
        json!({"type": "chat", "data": {"text": "hi"}}),
        json!({"type": "chat", "data": {"to": 42}}),
        json!({"type": "chat", "data": {"to": -42, "text": "hi"}}),
        json!({"type": "chat", "data": {"to": 42.5, "text": "hi"}}),
        json!({"type": "chat", "data": {"to": 1e30, "text": "hi"}}),
        json!({"type": "chat", "data": {"to": [42], "text": "hi"}}),
        json!({"type": "chat", "data": {"to": 42, "text": 7}}),
        json!({"type": "chat", "data": {"to": 42, "text": "a\u{0}b"}}),
        json!({"type": "chat", "data": {"to": 42, "text": "a\u{85}b"}}),
        json!({"type": "chat", "data": {"to": 42, "text": "hi", "client_msg_id": "a b"}}),
        json!({"type": "chat", "data": {"to": 42, "text": "hi", "client_msg_id": 7}}),
        json!({"type": "ping", "data": {"text": "a\nb"}}),
        json!({"type": "ack", "data": {}}),
        json!({"type": "ack", "data": {"ids": []}}),
        json!({"type": "ack", "data": {"ids": "7"}}),
        json!({"type": "ack", "data": {"ids": [7, {}]}}),
        json!({"type": "set", "data": {}}),
        json!({"type": "set", "data": {"ack": "auto", "device": "phone"}}),
        json!({"type": "auth", "data": {"token": "x", "user_id": "bob"}}),
        json!({"type": "help", "data": {"command": "dance"}}),
    ] {
        let text = frame.to_string();
        let request = request::read(&text).expect("a request");
        assert!(request.command(Judge::Gateway).is_err(), "{text}");
    }
}

#[test]
fn what_is_no_request_is_said_with_the_id_where_there_is_one() {
    let deep = format!(
        r#"{{"id":1,"x":{}{}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let deep_data = format!(r#"{{"id":1,"type":"ping","data":{}1}}"#, "[".repeat(5_000));
    let long_id = format!(r#"{{"id":"{}","type":"ping"}}"#, "x".repeat(65));
    for (text, id, code) in [
        ("{", None, ErrorCode::BadRequest),
        ("{}", None, ErrorCode::BadRequest),
        (r#"{"id":7}"#, Some("7"), ErrorCode::BadRequest),
        (
            r#"{"id":"a\"b","type":7}"#,
            Some(r#""a\"b""#),
            ErrorCode::BadRequest,
        ),
        (
            r#"{"id":7,"type":"dance"}"#,
            Some("7"),
            ErrorCode::UnknownCommand,
        ),
        (
            r#"{"id":7,"type":"PING"}"#,
            Some("7"),
            ErrorCode::UnknownCommand,
        ),
        (
            r#"{"id":7,"type":"ping","type":"quit"}"#,
            Some("7"),
            ErrorCode::BadRequest,
        ),
        (
            r#"{"id":7,"type":"ping","data":[]}"#,
            Some("7"),
            ErrorCode::BadRequest,
        ),
        (r#"{"id":7.5,"type":"ping"}"#, None, ErrorCode::BadRequest),
        (r#"{"id":[],"type":"ping"}"#, None, ErrorCode::BadRequest),
        (&long_id, None, ErrorCode::BadRequest),
        (r#"{"id":7,"type":"ping"} x"#, None, ErrorCode::BadRequest),
        (&deep, Some("1"), ErrorCode::BadRequest),
        (&deep_data, None, ErrorCode::BadRequest),
    ] {
        let bad = request::read(text).expect_err(text);
        assert_eq!(bad.code, code, "{}", &text[..text.len().min(80)]);
        assert_eq!(
            bad.to,
            Some(ReplyTo::Json(id.map(Into::into))),
            "{}",
            &text[..40.min(text.len())]
        );
    }
    let unknown = r#"{"id":7,"type":"ping","x":{"y":[1,{"z":null}]},"data":{"w":[[]],"text":"t"}}"#;
    let request = request::read(unknown).expect("members that nobody knows are ignored");
    assert_eq!(
        request.command(Judge::Gateway),
        Ok(Command::Ping { text: Some("t") })
    );
}

#[test]
fn the_tag_is_the_clients_own_and_not_the_id() {
    let text = r#"{"id":"m-1","type":"chat","data":{"to":2,"text":"hi","client_msg_id":"m-19"}}"#;
    let request = request::read(text).expect("a request");
    assert_eq!(request.tag().expect("a tag").as_str(), "m-19");
    assert_eq!(request.reply_to(), ReplyTo::Json(Some(r#""m-1""#.into())));
    let text = r#"{"id":"m-1","type":"chat","data":{"to":2,"text":"hi"}}"#;
    assert_eq!(request::read(text).expect("a request").tag(), None);
}

fn data(reply: &Reply) -> Value {
    let mut out = Vec::new();
    reply::write(reply, Some("7"), &mut out);
    let mut frame: Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(frame["id"], 7);
    assert_eq!(frame["type"], "ok");
    frame["data"].take()
}

#[test]
fn each_reply_has_the_keys_of_its_line() {
    let long = 7_310_000_000_000_000_001;
    for (reply, expected) in [
        (
            Reply::LoggedIn {
                uid: 42,
                session: 9,
                token: Some(Secret::new("a.b.c".into())),
                replaced: true,
            },
            json!({"uid": 42, "session": "9", "token": "a.b.c", "replaced": true}),
        ),
        (
            Reply::LoggedIn {
                uid: 42,
                session: 9,
                token: None,
                replaced: false,
            },
            json!({"uid": 42, "session": "9"}),
        ),
        (Reply::Token(Secret::new("t".into())), json!({"token": "t"})),
        (Reply::LoggedOut, json!({})),
        (Reply::PasswordChanged, json!({})),
        (
            Reply::Stored {
                group: false,
                message_id: long,
                duplicate: false,
            },
            json!({"msg_id": "7310000000000000001"}),
        ),
        (
            Reply::Stored {
                group: true,
                message_id: long,
                duplicate: true,
            },
            json!({"msg_id": "7310000000000000001", "dup": true}),
        ),
    ] {
        assert_eq!(data(&reply), expected);
    }
}

#[test]
fn each_list_and_each_answer_has_the_keys_of_its_line() {
    for (reply, expected) in [
        (Reply::Acked(3), json!({"acked": 3})),
        (Reply::Pong(None), json!({"text": ""})),
        (Reply::Pong(Some("a\"b".into())), json!({"text": "a\"b"})),
        (Reply::AckMode(AckMode::Manual), json!({"ack": "manual"})),
        (Reply::Device("phone".into()), json!({"device": "phone"})),
        (Reply::FriendAdded, json!({})),
        (Reply::FriendRemoved, json!({})),
        (Reply::Friends(vec![1, 2]), json!({"friends": [1, 2]})),
        (Reply::Friends(vec![]), json!({"friends": []})),
        (Reply::GroupCreated(7), json!({"group_id": 7})),
        (Reply::Joined(7), json!({"group_id": 7})),
        (Reply::Left(7), json!({"group_id": 7})),
        (Reply::Groups(vec![7]), json!({"groups": [7]})),
        (
            Reply::Members {
                ids: vec![1],
                more: false,
            },
            json!({"members": [1], "more": false}),
        ),
        (
            Reply::Presence {
                uid: 2,
                online: true,
                devices: vec!["cli".into()],
            },
            json!({"uid": 2, "online": true, "devices": ["cli"]}),
        ),
        (
            Reply::Profile {
                uid: 2,
                name: "b\\ob".into(),
            },
            json!({"uid": 2, "name": "b\\ob"}),
        ),
        (
            Reply::Users(vec![(1, "alice".into()), (2, "alina".into())]),
            json!({"users": [{"uid": 1, "name": "alice"}, {"uid": 2, "name": "alina"}]}),
        ),
        (
            Reply::WhoAmI {
                uid: 1,
                name: "alice".into(),
                device: "web-abcd".into(),
                ack_mode: AckMode::Auto,
            },
            json!({"uid": 1, "name": "alice", "device": "web-abcd", "ack": "auto"}),
        ),
        (
            Reply::PullDone {
                count: 0,
                more: false,
            },
            json!({"messages": [], "count": 0, "more": false}),
        ),
        (Reply::Bye, json!({})),
    ] {
        assert_eq!(data(&reply), expected);
    }
    assert_eq!(data(&Reply::Commands)["commands"][0], "chat");
    assert_eq!(data(&Reply::Form(Verb::Chat))["form"], "chat:uid:text");
}

#[test]
fn an_error_has_its_code_its_words_and_no_data() {
    let error = Reply::Error {
        code: ErrorCode::RateLimited,
        retry_ms: Some(250),
        words: "too \"many\"".into(),
    };
    let mut out = Vec::new();
    reply::write(&error, None, &mut out);
    let frame: Value = serde_json::from_slice(&out).expect("JSON");
    let expected = json!({"type": "error", "code": "RATE_LIMITED", "message": "too \"many\"",
                          "retry_ms": 250});
    assert_eq!(frame, expected);
}

#[test]
fn pushes_are_objects_with_the_keys_of_their_lines() {
    let written = |push: &Push<'_>| {
        let mut out = Vec::new();
        push::write(push, &mut out);
        serde_json::from_slice::<Value>(&out).expect("JSON")
    };
    let message = Push::Message {
        id: 7_310_000_000_000_000_001,
        seq: Some(9),
        from: 42,
        to: None,
        ts_ms: 1_760_000_000_000,
        duplicate: false,
        text: "hi\n\u{1f600}",
    };
    let expected = json!({"type": "message", "data": {"id": "7310000000000000001", "seq": 9,
        "from": 42, "ts": 1_760_000_000_000_i64, "text": "hi\n\u{1f600}"}});
    assert_eq!(written(&message), expected);
    let copy = Push::Message {
        id: 1,
        seq: None,
        from: 42,
        to: Some(7),
        ts_ms: 5,
        duplicate: true,
        text: "t",
    };
    let expected = json!({"type": "message", "data": {"id": "1", "from": 42, "to": 7, "ts": 5,
        "dup": true, "text": "t"}});
    assert_eq!(written(&copy), expected);
    let group = Push::GroupMessage {
        id: 1,
        group: 3,
        seq: Some(2),
        from: 42,
        ts_ms: 5,
        duplicate: false,
        text: "t",
    };
    let expected = json!({"type": "message", "data": {"id": "1", "group": 3, "seq": 2,
        "from": 42, "ts": 5, "text": "t"}});
    assert_eq!(written(&group), expected);
    let friend = Push::Friend {
        online: true,
        uid: 2,
        name: "bob",
    };
    let expected =
        json!({"type": "notice", "data": {"kind": "friend_online", "uid": 2, "name": "bob"}});
    assert_eq!(written(&friend), expected);
    let kick = Push::Kick { reason: "replaced" };
    let expected = json!({"type": "kick", "data": {"reason": "replaced"}});
    assert_eq!(written(&kick), expected);
}

proptest! {
    #[test]
    fn no_frame_panics(text in "\\PC{0,200}") {
        let _ = request::read(&text);
        let wrapped = format!(r#"{{"type":"chat","data":{text}}}"#);
        if let Ok(request) = request::read(&wrapped) {
            let _ = request.command(Judge::Gateway);
        }
    }

    #[test]
    fn a_text_arrives_as_it_was_sent(text in "\\PC{1,200}", to in 1i64..) {
        prop_assume!(!text.trim().is_empty());
        let frame = json!({"type": "chat", "data": {"to": to, "text": text}}).to_string();
        let request = request::read(&frame).expect("a request");
        let command = request.command(Judge::Gateway);
        let is_control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
        if text.contains(is_control) {
            prop_assert!(command.is_err());
        } else {
            prop_assert_eq!(command, Ok(Command::Chat { to, text: text.as_str().into() }));
        }
    }

    #[test]
    fn what_is_written_is_cut_where_messages_end(
        texts in prop::collection::vec("\\PC{0,400}", 1..6),
        sent in any::<prop::sample::Index>(),
        form in prop::sample::select(vec![Form::Line, Form::Json]),
    ) {
        for codec in [Codec::Line, Codec::WebSocket(form)] {
            let (mut out, mut ends) = (Vec::new(), vec![0]);
            for text in &texts {
                codec.write_push(&Push::Notice { kind: "k", text }, &mut out);
                ends.push(out.len());
            }
            let sent = sent.index(out.len() + 1);
            let before = ends.iter().rev().find(|end| **end <= sent);
            let after = ends.iter().find(|end| **end >= sent);
            prop_assert_eq!(Some(&codec.last_end(&out, sent)), before);
            prop_assert_eq!(Some(&codec.first_end(&out, sent)), after);
        }
    }
}

#[test]
fn a_text_frame_says_its_form_by_itself() {
    use crate::protocol::websocket::{Opcode, client_frame};
    let codec = Codec::WebSocket(Form::Json);
    let read = |payload: &str| {
        let frame = client_frame(Opcode::Text, true, [1, 2, 3, 4], payload.as_bytes());
        let (mut partial, mut scratch) = (Partial::default(), Vec::new());
        match codec.front(&frame, 1000, &mut partial, &mut scratch) {
            Front::Request(Ok(Request::Line(line)), _) => format!("line {}", line.verb.name()),
            Front::Request(Ok(Request::Json(json)), _) => format!("json {}", json.verb().name()),
            Front::Nothing(_) => "nothing".to_owned(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read("ping"), "line ping");
    assert_eq!(read(r#"{"type":"ping"}"#), "json ping");
    assert_eq!(read(" "), "nothing");
}
