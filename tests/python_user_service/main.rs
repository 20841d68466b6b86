//! The example of a backend in Python, `docs/examples/user_service.py`, held to the contract; and
//! the bytes printed in `docs/backends.md`, held to what is really sent.
//!
//! Needs `python3` (3.10 or newer) with pip or venv. Its package `protobuf` comes from the index
//! that pip is configured with, once: it stays in the target directory.

mod document;
mod gateway;
#[path = "../support/python.rs"]
mod python;
#[path = "../support/redis.rs"]
mod redis_server;
mod service;

use std::{fs, net::Shutdown, thread, time::Instant};

use im_gateway::{
    proto::{self, Code, ReplyHeader, ReplyStatus},
    rpc::wire::mprpc,
};
use prost::Message;

use service::{FORMS, Form, REPLY_MAX, Service, code, decode};

/// What the example names as its limit.
const ARGS_MAX: usize = 64 * 1024;

#[test]
fn accounts_are_made_once_and_opened_with_their_password_alone() {
    for form in FORMS {
        let service = Service::start();
        let mut connection = service.connect(form);
        assert_eq!(connection.register("alice", "wonderland"), (Code::Ok, 1));
        assert_eq!(
            connection.register("alice", "another-one"),
            (Code::AlreadyExists, 0)
        );
        assert_eq!(connection.register("bob", "looking-glass"), (Code::Ok, 2));
        assert_eq!(connection.login("alice", "wonderland"), (Code::Ok, 1));
        assert_eq!(connection.login("bob", "looking-glass"), (Code::Ok, 2));
        for (name, password) in [
            ("alice", "looking-glass"),
            ("alice", ""),
            ("Alice", "wonderland"),
            ("nobody", "wonderland"),
            ("", ""),
            ("alice", &"x".repeat(1000)),
        ] {
            assert_eq!(
                connection.login(name, password),
                (Code::Unauthenticated, 0),
                "{name} {password}"
            );
        }
        for (name, password) in [
            ("", "wonderland"),
            ("a b", "wonderland"),
            ("a:b", "wonderland"),
            ("a\u{7f}", "wonderland"),
            (&"x".repeat(65), "wonderland"),
            ("carol", "short"),
            ("carol", &"x".repeat(129)),
        ] {
            assert_eq!(
                connection.register(name, password),
                (Code::Invalid, 0),
                "{name} {password}"
            );
        }
        let response = connection.ask(proto::LogoutRequest {
            user_id: 1,
            token: String::new(),
        });
        assert_eq!(code(response.result), Code::Ok);
    }
}

#[test]
fn an_unknown_user_takes_as_long_as_a_wrong_password() {
    let service = Service::start();
    let mut connection = service.connect(Form::WithIds);
    connection.register("alice", "wonderland");
    let mut shortest = |name: &str| {
        let attempts = (0..5).map(|_| {
            let started = Instant::now();
            assert_eq!(
                connection.login(name, "wrong-password").0,
                Code::Unauthenticated
            );
            started.elapsed()
        });
        attempts.min().expect("five attempts")
    };
    let (wrong, unknown) = (shortest("alice"), shortest("nobody"));
    assert!(
        unknown > wrong / 2 && wrong > unknown / 2,
        "{wrong:?} and {unknown:?}"
    );
}

#[test]
fn contacts_names_and_searches() {
    for form in FORMS {
        let service = Service::start();
        let mut connection = service.connect(form);
        for name in ["alice", "alina", "bob"] {
            connection.register(name, "wonderland");
        }
        let mut add = |user_id, friend_id| {
            let response = connection.ask(proto::AddFriendRequest {
                user_id,
                friend_id,
                message: String::new(),
            });
            code(response.result)
        };
        assert_eq!(add(1, 3), Code::Ok);
        assert_eq!(add(1, 2), Code::Ok);
        assert_eq!(add(1, 3), Code::Ok, "twice is no error");
        assert_eq!(add(1, 1), Code::Invalid);
        assert_eq!(add(1, 99), Code::NotFound);

        let friends = connection.ask(proto::GetFriendsRequest {
            user_id: 1,
            only_friend_id: 0,
        });
        assert_eq!(friends.friend_ids, [2, 3]);
        for _ in 0..2 {
            let removed = connection.ask(proto::RemoveFriendRequest {
                user_id: 1,
                friend_id: 3,
            });
            assert_eq!(code(removed.result), Code::Ok, "twice is no error");
        }
        let friends = connection.ask(proto::GetFriendsRequest {
            user_id: 1,
            only_friend_id: 0,
        });
        assert_eq!(friends.friend_ids, [2]);

        let profile = connection.ask(proto::GetProfileRequest { user_id: 3 });
        assert_eq!(
            (code(profile.result), profile.name),
            (Code::Ok, "bob".into())
        );
        let profile = connection.ask(proto::GetProfileRequest { user_id: 99 });
        assert_eq!(code(profile.result), Code::NotFound);

        let mut search = |prefix: &str, limit| {
            let found = connection.ask(proto::SearchRequest {
                prefix: prefix.into(),
                limit,
            });
            let names: Vec<_> = found.users.into_iter().map(|user| user.name).collect();
            (code(found.result), names)
        };
        let names = |list: &[&str]| {
            list.iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(search("ali", 20), (Code::Ok, names(&["alice", "alina"])));
        assert_eq!(search("ali", 1), (Code::Ok, names(&["alice"])));
        assert_eq!(search("b", 0), (Code::Ok, names(&["bob"])));
        assert_eq!(search("%", 20), (Code::Ok, names(&[])));
        assert_eq!(search("", 20), (Code::Invalid, names(&[])));
    }
}

#[test]
fn health_is_answered_on_the_same_port() {
    let service = Service::start();
    for form in FORMS {
        let pong = service.connect(form).ask(proto::PingRequest {
            payload: "täst".into(),
        });
        assert_eq!(pong.echo, "täst");
        assert!(pong.ts_server_ms > 1_700_000_000_000, "{pong:?}");
    }
}

#[test]
fn calls_in_one_write_are_answered_in_order_without_ids_and_each_once_with_them() {
    const CALLS: u64 = 200;
    let service = Service::start();
    service
        .connect(Form::Classic)
        .register("alice", "wonderland");
    let payload = |number: u64| proto::PingRequest {
        payload: format!("number {number}"),
    };

    let mut classic = service.connect(Form::Classic);
    let calls: Vec<u8> = (1..=CALLS)
        .flat_map(|number| classic.frame_of(&payload(number)))
        .collect();
    classic.send(&calls);
    for number in 1..=CALLS {
        let pong: proto::PingResponse = classic.classic_reply();
        assert_eq!(pong.echo, format!("number {number}"));
    }

    let mut with_ids = service.connect(Form::WithIds);
    // A slow call first: those behind it need not wait.
    let mut calls = with_ids.frame_of(&proto::LoginRequest {
        username: b"alice".to_vec(),
        password: b"wonderland".to_vec(),
        ..Default::default()
    });
    for number in 2..=CALLS {
        calls.extend(with_ids.frame_of(&payload(number)));
    }
    with_ids.send(&calls);
    // What comes after the last call, nothing, must not cost its reply.
    with_ids.stream.shutdown(Shutdown::Write).expect("open");
    let mut answered = Vec::new();
    for _ in 1..=CALLS {
        let (header, body) = with_ids.next(|bytes| {
            let parsed = mprpc::read_reply(bytes, REPLY_MAX)?;
            Ok(parsed.map(|(reply, taken)| ((reply.header, reply.body.to_vec()), taken)))
        });
        assert_eq!(header.status(), ReplyStatus::ReplyOk);
        if header.call_id == 1 {
            assert_eq!(decode::<proto::LoginResponse>(&body).user_id, 1);
        } else {
            let pong: proto::PingResponse = decode(&body);
            assert_eq!(pong.echo, format!("number {}", header.call_id));
        }
        answered.push(header.call_id);
    }
    assert_eq!(answered.last(), Some(&1), "the slow one came last");
    answered.sort_unstable();
    assert_eq!(answered, (1..=CALLS).collect::<Vec<_>>());
}

#[test]
fn a_call_may_come_byte_by_byte() {
    let service = Service::start();
    for form in FORMS {
        let mut connection = service.connect(form);
        let frame = connection.frame_of(&proto::PingRequest {
            payload: "slowly".into(),
        });
        for byte in frame {
            connection.send(&[byte]);
            thread::yield_now();
        }
        let pong: proto::PingResponse = match form {
            Form::Classic => connection.classic_reply(),
            Form::WithIds => connection.reply_with_id().1,
        };
        assert_eq!(pong.echo, "slowly");
    }
}

#[test]
fn what_cannot_be_called_has_a_status_with_an_id_and_ends_the_connection_without() {
    let service = Service::start();
    let not_utf8 = proto::LoginRequest {
        username: b"\xff\xfe".to_vec(),
        password: Vec::new(),
        ..Default::default()
    };
    let nothing = proto::PingRequest::default();
    for (service_name, method, status) in [
        ("UserService", "Fly", ReplyStatus::ReplyUnknownMethod),
        (
            "GroupService",
            "CreateGroup",
            ReplyStatus::ReplyUnknownMethod,
        ),
        ("mpim.UserService", "Login", ReplyStatus::ReplyUnknownMethod),
        // The bytes of this request are no text, which the fields of that method are.
        ("UserService", "Search", ReplyStatus::ReplyBadRequest),
    ] {
        let mut connection = service.connect(Form::WithIds);
        let frame = match status {
            ReplyStatus::ReplyBadRequest => connection.frame(service_name, method, &not_utf8),
            _ => connection.frame(service_name, method, &nothing),
        };
        connection.send(&frame);
        let (header, body): (ReplyHeader, proto::PingResponse) = connection.reply_with_id();
        assert_eq!((header.call_id, header.status()), (1, status), "{method}");
        assert_eq!((header.body_size, body), (0, Default::default()));
        // The connection goes on.
        assert_eq!(
            connection.login("nobody", "wonderland").0,
            Code::Unauthenticated
        );

        let mut connection = service.connect(Form::Classic);
        let frame = match status {
            ReplyStatus::ReplyBadRequest => connection.frame(service_name, method, &not_utf8),
            _ => connection.frame(service_name, method, &nothing),
        };
        connection.send(&frame);
        connection.expect_close();
    }
}

#[test]
fn frames_that_lie_cost_their_own_connection_and_nobody_elses() {
    let service = Service::start();
    let mut other = service.connect(Form::WithIds);
    other.register("alice", "wonderland");
    let header = |args_size: usize| {
        let header = proto::RpcHeader {
            service_name: b"UserService".to_vec(),
            method_name: b"Login".to_vec(),
            args_size: args_size as u32,
            call_id: 1,
            timeout_ms: 0,
        };
        let mut bytes = (header.encoded_len() as u32).to_le_bytes().to_vec();
        header.encode(&mut bytes).expect("room");
        bytes
    };
    for bytes in [
        u32::MAX.to_le_bytes().to_vec(),
        (mprpc::HEADER_MAX_BYTES as u32 + 1).to_le_bytes().to_vec(),
        b"\x02\0\0\0\xff\xff".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        header(ARGS_MAX + 1),
        header(u32::MAX as usize),
    ] {
        let mut connection = service.connect(Form::WithIds);
        connection.send(&bytes);
        connection.expect_close();
    }
    // Half a call and then nothing more: closed from our side, and forgotten.
    let mut connection = service.connect(Form::WithIds);
    connection.send(&header(10));
    drop(connection);
    assert_eq!(other.login("alice", "wonderland"), (Code::Ok, 1));
}

#[test]
fn sigterm_ends_it_with_0_and_what_was_answered_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users.db");
    let arguments = ["--data", file.to_str().expect("UTF-8")];
    let mut service = Service::with_arguments(&arguments);
    assert_eq!(
        service
            .connect(Form::WithIds)
            .register("alice", "wonderland"),
        (Code::Ok, 1)
    );
    // A call under way is still answered.
    let mut connection = service.connect(Form::WithIds);
    let frame = connection.frame_of(&proto::LoginRequest {
        username: b"alice".to_vec(),
        password: b"wonderland".to_vec(),
        ..Default::default()
    });
    connection.send(&frame);
    let ping = connection.frame_of(&proto::PingRequest::default());
    connection.send(&ping);
    let (header, _): (_, proto::PingResponse) = connection.reply_with_id();
    assert_eq!(header.call_id, 2, "the login takes longer");
    assert_eq!(service.terminate(), Some(0));
    let (header, login): (_, proto::LoginResponse) = connection.reply_with_id();
    assert_eq!((header.call_id, login.user_id), (1, 1));
    connection.expect_close();

    let text = fs::read(&file).expect("the database");
    assert!(
        !text.windows(10).any(|window| window == b"wonderland"),
        "a password in the file"
    );
    let mut service = Service::with_arguments(&arguments);
    let mut connection = service.connect(Form::Classic);
    assert_eq!(connection.login("alice", "wonderland"), (Code::Ok, 1));
    assert_eq!(connection.register("bob", "looking-glass"), (Code::Ok, 2));
    assert_eq!(service.terminate(), Some(0));
    assert_eq!(service.complaints(), "");
}
