//! Connections that begin with HTTP: handshakes, JSON and lines in frames, and how they end.

use serde_json::{Value, json};

use super::*;
use crate::{
    base::close::{CloseReason, LINGER_MS},
    protocol::{
        codec::Codec,
        error_code::ErrorCode,
        websocket::{Opcode, client_frame, written_length},
    },
};

fn connect_web(shard: &mut Shard) -> ConnectionKey {
    let ip = std::net::Ipv4Addr::LOCALHOST.into();
    let peer = Peer {
        ip,
        port: 1,
        exempt: true,
        is_forwarded: false,
    };
    shard.accept(peer, Codec::Http)
}

fn head(target: &str, further: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{further}\r\n"
    )
}

/// A WebSocket, its handshake answered and read.
pub(super) fn websocket(shard: &mut Shard, further: &str) -> ConnectionKey {
    let key = connect_web(shard);
    assert!(shard.feed(key, head("/ws", further).as_bytes()).is_none());
    let answer = take(shard, key);
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}");
    key
}

/// All that is unsent, sent.
fn take(shard: &mut Shard, key: ConnectionKey) -> Vec<u8> {
    let bytes = shard.unsent(key).to_vec();
    shard.sent(key, bytes.len(), false);
    bytes
}

/// The frames that are unsent, sent: the opcode and the payload of each.
pub(super) fn frames(shard: &mut Shard, key: ConnectionKey) -> Vec<(u8, Vec<u8>)> {
    let bytes = take(shard, key);
    let (mut frames, mut rest) = (Vec::new(), &bytes[..]);
    while !rest.is_empty() {
        let length = written_length(rest).expect("a head");
        let payload = match rest[1] {
            126 => &rest[4..length],
            127 => &rest[10..length],
            _ => &rest[2..length],
        };
        frames.push((rest[0], payload.to_vec()));
        rest = &rest[length..];
    }
    frames
}

/// The frames as JSON.
fn objects(shard: &mut Shard, key: ConnectionKey) -> Vec<Value> {
    let frames = frames(shard, key).into_iter();
    let texts = frames.map(|(opcode, payload)| {
        assert_eq!(opcode, 0x81);
        serde_json::from_slice(&payload).expect("JSON")
    });
    texts.collect()
}

fn say(shard: &mut Shard, key: ConnectionKey, text: &str) -> Option<Job> {
    let frame = client_frame(Opcode::Text, true, [7, 1, 9, 3], text.as_bytes());
    shard.feed(key, &frame)
}

pub(super) fn log_in_by(shard: &mut Shard, key: ConnectionKey, job: &Job, user: UserId) {
    let session_id = shard.next_session_id();
    assert!(shard.attach(key, user, "somebody".into(), session_id));
    shard.set_baseline(key, Some(0));
    finish_log_in(shard, job, user);
}

/// A WebSocket of the user 7 whose pushes are JSON.
pub(super) fn logged_in(shard: &mut Shard) -> ConnectionKey {
    let key = websocket(shard, "");
    let text = r#"{"id":1,"type":"login","data":{"user":"somebody","password":"secret"}}"#;
    let job = say(shard, key, text).expect("a login");
    log_in_by(shard, key, &job, 7);
    let replies = objects(shard, key);
    assert_eq!(
        replies,
        [json!({"id": 1, "type": "ok", "data": {"uid": 7, "session": "9"}})]
    );
    key
}

#[test]
fn the_handshake_may_come_in_pieces_and_frames_may_follow_it_at_once() {
    let mut shard = shard();
    let ping = client_frame(
        Opcode::Text,
        true,
        [1, 2, 3, 4],
        br#"{"id":5,"type":"ping"}"#,
    );
    let stream = [head("/ws", "").as_bytes(), &ping[..]].concat();
    for size in [1, 7, stream.len()] {
        let key = connect_web(&mut shard);
        for piece in stream.chunks(size) {
            assert!(shard.feed(key, piece).is_none());
        }
        let answer = take(&mut shard, key);
        let end = memchr::memmem::find(&answer, b"\r\n\r\n").expect("a head") + 4;
        assert_eq!(
            &answer[end..][2..],
            br#"{"id":5,"type":"ok","data":{"text":""}}"#
        );
    }
}

#[test]
fn a_request_is_answered_in_its_own_form_and_pushes_in_that_of_the_first() {
    let mut shard = shard();
    let key = websocket(&mut shard, "");
    assert!(say(&mut shard, key, "@t ping hello").is_none());
    assert!(
        say(
            &mut shard,
            key,
            r#"{"id":"x","type":"ping","data":{"text":"y"}}"#
        )
        .is_none()
    );
    let answers = frames(&mut shard, key);
    assert_eq!(answers[0], (0x81, b"@t +OK pong hello".to_vec()));
    assert_eq!(
        answers[1].1,
        br#"{"id":"x","type":"ok","data":{"text":"y"}}"#
    );
    shard.end(key, CloseReason::Replaced);
    let end = frames(&mut shard, key);
    assert_eq!(end[0], (0x81, b"KICK reason=replaced".to_vec()));
    assert_eq!(&end[1].1[..2], 4001u16.to_be_bytes());
}

#[test]
fn the_subprotocol_says_the_form_of_pushes_whatever_the_first_request_is() {
    let mut shard = shard();
    let key = websocket(&mut shard, "Sec-WebSocket-Protocol: im.json\r\n");
    assert!(say(&mut shard, key, "ping").is_none());
    frames(&mut shard, key);
    shard.end(key, CloseReason::Shutdown);
    let end = frames(&mut shard, key);
    assert_eq!(end[0].1, br#"{"type":"kick","data":{"reason":"shutdown"}}"#);
    assert_eq!(
        (end[1].0, &end[1].1[..2]),
        (0x88, &1001u16.to_be_bytes()[..])
    );
}

#[test]
fn pushes_are_frames_and_confirmed_by_their_arrival() {
    let mut shard = shard();
    let key = logged_in(&mut shard);
    shard.on_push(direct(7, 1));
    let pushes = objects(&mut shard, key);
    let expected = json!({"type": "message",
        "data": {"id": "1001", "seq": 1, "from": 70, "ts": 5, "text": "d1"}});
    assert_eq!(pushes, [expected]);
    shard.acknowledged(key, 0);
    shard.flush_acks();
    let confirmed = effects(&mut shard)
        .into_iter()
        .find_map(|effect| match effect {
            Effect::Confirm(acks) => Some((acks[0].from_seq, acks[0].to_seq)),
            _ => None,
        });
    assert_eq!(confirmed, Some((1, 1)));
}

#[test]
fn what_is_pulled_comes_in_one_object_and_much_of_it_in_parts() {
    let mut shard = shard();
    let key = logged_in(&mut shard);
    let job = say(&mut shard, key, r#"{"id":"p","type":"pull"}"#).expect("a pull");
    let messages: Vec<PushMessage> = (1..=2).map(|seq| (*direct(7, seq)).clone()).collect();
    shard.deliver_pulled(&job, &messages);
    assert!(
        frames(&mut shard, key).is_empty(),
        "nothing before the reply"
    );
    let done = Reply::PullDone {
        count: 2,
        more: true,
    };
    assert!(shard.complete(&job, &[done]).is_none());
    let [reply] = &objects(&mut shard, key)[..] else {
        panic!("one frame");
    };
    assert_eq!(
        (&reply["id"], &reply["data"]["count"]),
        (&json!("p"), &json!(2))
    );
    assert_eq!(reply["data"]["more"], true);
    assert_eq!(reply["data"]["messages"][1]["text"], "d2");
    assert!(reply["data"].get("part").is_none());

    let job = say(&mut shard, key, r#"{"type":"pull"}"#).expect("a pull");
    let text = "x".repeat(8_000);
    let long = |seq| PushMessage {
        text: text.clone(),
        ..(*direct(7, seq)).clone()
    };
    shard.deliver_pulled(&job, &(3..=22).map(long).collect::<Vec<_>>());
    let done = Reply::PullDone {
        count: 20,
        more: false,
    };
    assert!(shard.complete(&job, &[done]).is_none());
    let sent = frames(&mut shard, key);
    let mut ids = Vec::new();
    for (place, (_, payload)) in sent.iter().enumerate() {
        assert!(payload.len() <= 64 * 1024, "{} bytes", payload.len());
        let part: Value = serde_json::from_slice(payload).expect("JSON");
        let messages = part["data"]["messages"].as_array().expect("a list");
        assert_eq!(part["data"]["count"], messages.len());
        assert_eq!(part["data"].get("part").is_some(), place + 1 < sent.len());
        ids.extend(messages.iter().map(|message| message["seq"].as_u64()));
    }
    assert!(sent.len() > 1);
    assert_eq!(ids, (3..=22).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_token_in_the_handshake_logs_in_before_it_is_answered() {
    let mut shard = shard();
    let target = "/ws?token=a.b.c&device=tab&ack=manual";
    let key = connect_web(&mut shard);
    let job = shard
        .feed(key, head(target, "").as_bytes())
        .expect("a login");
    assert!(matches!(&job.commands[0].call, Call::Auth { token, .. } if token.expose() == "a.b.c"));
    assert!(take(&mut shard, key).is_empty());
    let session = &shard.connection(key).expect("a connection").session;
    assert_eq!(session.device(), "tab");
    log_in_by(&mut shard, key, &job, 7);
    let answer = take(&mut shard, key);
    assert!(answer.starts_with(b"HTTP/1.1 101 ") && answer.ends_with(b"\r\n\r\n"));
    shard.on_push(direct(7, 1));
    assert_eq!(objects(&mut shard, key)[0]["data"]["text"], "d1");

    let key = connect_web(&mut shard);
    let job = shard
        .feed(key, head("/ws?token=bad", "").as_bytes())
        .expect("a login");
    let refused = Reply::error(ErrorCode::AuthFailed, "the token is not valid");
    assert!(shard.complete(&job, &[refused]).is_none());
    let answer = String::from_utf8(take(&mut shard, key)).expect("text");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(answer.contains(r#""code":"AUTH_FAILED""#), "{answer}");
    assert_eq!(shard.is_finished(key), Some(CloseReason::Quit));
}

#[test]
fn devices_without_a_name_get_one_of_their_own() {
    let mut shard = shard();
    let mut names: Vec<String> = Vec::new();
    for _ in 0..3 {
        let key = websocket(&mut shard, "");
        let device = shard
            .connection(key)
            .expect("one")
            .session
            .device()
            .to_owned();
        assert!(device.starts_with("web-") && device.len() == 8, "{device}");
        assert!(!names.contains(&device));
        names.push(device);
    }
}

#[test]
fn what_is_broken_ends_with_the_code_of_the_standard_after_an_error() {
    let text = |payload: &[u8]| client_frame(Opcode::Text, true, [0; 4], payload);
    for (stream, code) in [
        (vec![0x81, 1, b'a'], 1002),
        (text(b"\xff"), 1007),
        (text(&[b'a'; 300]), 1009),
    ] {
        let mut shard = shard();
        let key = logged_in(&mut shard);
        assert!(shard.feed(key, &stream).is_none());
        let end = frames(&mut shard, key);
        let error: Value = serde_json::from_slice(&end[0].1).expect("JSON");
        assert_eq!(error["type"], "error", "{error}");
        let (opcode, payload) = end.last().expect("a close frame");
        assert_eq!(
            (*opcode, &payload[..2]),
            (0x88, &u16::to_be_bytes(code)[..])
        );
        assert!(shard.is_finished(key).is_some());
    }
}

#[test]
fn pings_are_answered_and_silence_is_asked_and_ended() {
    let mut shard = shard();
    at(&mut shard, 0);
    let key = logged_in(&mut shard);
    let ping = client_frame(Opcode::Ping, true, [1, 2, 3, 4], b"abc");
    assert!(shard.feed(key, &ping).is_none());
    assert_eq!(frames(&mut shard, key), [(0x8a, b"abc".to_vec())]);
    at(&mut shard, 29_000);
    assert!(frames(&mut shard, key).is_empty());
    at(&mut shard, 30_200);
    assert_eq!(frames(&mut shard, key), [(0x89, Vec::new())]);
    let pong = client_frame(Opcode::Pong, true, [0; 4], b"");
    assert!(shard.feed(key, &pong).is_none());
    at(&mut shard, 61_000);
    assert_eq!(frames(&mut shard, key), [(0x89, Vec::new())]);
    at(&mut shard, 90_400);
    let end = frames(&mut shard, key);
    assert_eq!(
        &end.last().expect("a close frame").1[..2],
        4002u16.to_be_bytes()
    );
}

#[test]
fn other_requests_are_answered_and_the_connection_closed() {
    for (request, status) in [
        ("GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "200"),
        ("HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
        ("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        ("GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", "426"),
        ("POST /ws HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
        ("login:alice:secret\n", "400"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
    ] {
        let mut shard = shard();
        let key = connect_web(&mut shard);
        assert!(shard.feed(key, request.as_bytes()).is_none());
        let answer = String::from_utf8(take(&mut shard, key)).expect("text");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
        assert!(shard.is_finished(key).is_some());
    }
    let mut shard = shard();
    let key = connect_web(&mut shard);
    shard.drain();
    assert!(
        take(&mut shard, key).is_empty(),
        "nothing is said before the request"
    );
}

#[test]
fn the_peers_close_is_answered_with_one() {
    let mut shard = shard();
    let key = logged_in(&mut shard);
    let close = client_frame(Opcode::Close, true, [0; 4], &1000u16.to_be_bytes());
    assert!(shard.feed(key, &close).is_none());
    let end = frames(&mut shard, key);
    assert_eq!(
        (end.len(), end[0].0, &end[0].1[..2]),
        (1, 0x88, &1000u16.to_be_bytes()[..])
    );
    assert_eq!(shard.is_finished(key), Some(CloseReason::ClientClosed));
}

#[test]
fn a_request_in_fragments_that_has_to_wait_is_taken_up_whole() {
    let mut shard = shard();
    let key = logged_in(&mut shard);
    let part = |opcode, is_final, text: &str| {
        client_frame(opcode, is_final, [3, 1, 4, 1], text.as_bytes())
    };
    // The ping comes behind a message that is being stored, and its last fragment with it.
    let stream = [
        part(
            Opcode::Text,
            true,
            r#"{"id":1,"type":"chat","data":{"to":5,"text":"a"}}"#,
        ),
        part(
            Opcode::Text,
            false,
            r#"{"id":2,"type":"ping","data":{"text":"#,
        ),
        part(Opcode::Continuation, true, "\"h\u{e9}\"}}"),
    ]
    .concat();
    let job = shard.feed(key, &stream).expect("a send");
    assert!(shard.complete(&job, &answer(&job)).is_none());
    let replies = objects(&mut shard, key);
    assert_eq!(replies[0]["data"]["msg_id"], "1");
    assert_eq!(
        replies[1],
        json!({"id": 2, "type": "ok", "data": {"text": "h\u{e9}"}})
    );
}

/// A page that is read slowly is in memory a piece at a time, and has time for each.
#[test]
fn a_page_that_is_read_slowly_is_read_in_full() {
    let mut shard = shard();
    shard.options.web.has_page = true;
    let key = connect_web(&mut shard);
    let request = b"GET /im-gateway.js HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(shard.feed(key, request).is_none());
    let (mut answer, mut now_ms) = (Vec::new(), 0);
    while shard.is_finished(key).is_none() {
        now_ms += LINGER_MS - 1;
        at(&mut shard, now_ms);
        assert!(shard.expired.is_empty());
        let piece = take(&mut shard, key);
        assert!((1..=4096).contains(&piece.len()), "{}", piece.len());
        answer.extend(piece);
    }
    let length = include_str!("../../../clients/javascript/im-gateway.js").len();
    let text = String::from_utf8(answer).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(&format!("Content-Length: {length}")));
    assert_eq!(body.len(), length);
}
