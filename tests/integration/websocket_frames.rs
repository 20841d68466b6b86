//! Frames as a peer may and may not send them: fragments, splits, lengths, and what ends a
//! connection with which code.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::common::websocket::{Frame, PING, TEXT, frame};
use crate::common::{Gateway, WebSocket, eventually};

fn registered(gateway: &Gateway, name: &str) -> WebSocket {
    let mut socket = WebSocket::connect(gateway.web_address());
    socket.register(name);
    socket
}

#[test]
fn what_no_peer_may_send_ends_with_the_code_of_the_standard() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut long_control = frame(PING, &[b'a'; 125]);
    long_control[1] = 0x80 | 126;
    for (what, bytes, code) in [
        ("no mask", vec![TEXT, 1, b'a'], 1002),
        ("a reserved bit", frame(0xc1, b"ping"), 1002),
        ("a reserved opcode", frame(0x83, b"ping"), 1002),
        ("a reserved control opcode", frame(0x8b, b""), 1002),
        ("a ping in fragments", frame(0x09, b""), 1002),
        ("a long ping", long_control, 1002),
        ("nothing to continue", frame(0x80, b"ping"), 1002),
        (
            "two messages at once",
            [frame(0x01, b"a"), frame(TEXT, b"b")].concat(),
            1002,
        ),
        (
            "a length of 2^63",
            [&[TEXT, 0xff, 0x80][..], &[0; 7]].concat(),
            1002,
        ),
        (
            "a length in two bytes that fits in one",
            vec![TEXT, 0xfe, 0, 5],
            1002,
        ),
        ("a close frame of one byte", frame(0x88, b"a"), 1002),
        (
            "a close code that never travels",
            frame(0x88, &1006u16.to_be_bytes()),
            1002,
        ),
        ("a text that is not UTF-8", frame(TEXT, b"\xff"), 1007),
        (
            "half a character",
            [frame(0x01, b"\xe2\x82"), frame(0x80, b"a")].concat(),
            1007,
        ),
        (
            "a text that is not UTF-8, before its end",
            frame(0x01, b"\xff"),
            1007,
        ),
        (
            "a length of 2^62",
            [&[TEXT, 0xff, 0x40][..], &[0; 7]].concat(),
            1009,
        ),
    ] {
        let mut socket = WebSocket::connect(gateway.web_address());
        socket.send_bytes(&bytes);
        let (texts, closed_with) = socket.texts_until_closed();
        assert_eq!(closed_with, code, "{what}");
        let error: Value = serde_json::from_str(&texts[0]).expect("JSON");
        assert_eq!(error["type"], "error", "{what}: {error}");
    }
    assert_eq!(gateway.metric("protocol_errors_total", &[]), 16.0);
    eventually("all are gone", || gateway.metric("connections", &[]) == 0.0);
}

#[test]
fn a_message_may_come_in_fragments_with_pings_between_them() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = registered(&gateway, "bob");
    let request = json!({"id": "f", "type": "chat", "data": {"to": alice.uid, "text": "€ in two"}});
    let request = request.to_string().into_bytes();
    // The euro sign is cut in its middle.
    let cut = memchr::memchr(0xe2, &request).expect("the sign") + 1;
    let mut stream = frame(0x01, &request[..cut]);
    stream.extend(frame(PING, b"between"));
    stream.extend(frame(0x00, b""));
    stream.extend(frame(0x80, &request[cut..]));
    for byte in stream {
        bob.send_bytes(&[byte]);
    }
    assert_eq!(bob.frame(), Some(Frame::Pong(b"between".to_vec())));
    let reply: Value = serde_json::from_str(&bob.text()).expect("JSON");
    assert_eq!((&reply["id"], &reply["type"]), (&json!("f"), &json!("ok")));
    assert_eq!(alice.push().text(), "€ in two");
}

#[test]
fn many_frames_at_once_are_answered_in_their_order() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = registered(&gateway, "bob");
    let mut stream = Vec::new();
    for number in 0..200 {
        let data = json!({"to": alice.uid, "text": format!("{number}")});
        let request = json!({"id": number, "type": "chat", "data": data});
        stream.extend(frame(TEXT, request.to_string().as_bytes()));
    }
    bob.send_bytes(&stream);
    for number in 0..200 {
        let reply: Value = serde_json::from_str(&bob.text()).expect("JSON");
        assert_eq!(
            (&reply["id"], &reply["type"]),
            (&json!(number), &json!("ok"))
        );
        assert_eq!(alice.push().text(), number.to_string());
    }
}

#[test]
fn a_long_text_arrives_where_the_limit_allows_it() {
    let gateway = Gateway::start_with_web(|config| {
        config.limit("max_line_bytes", 16_384);
    });
    let mut alice = gateway.register("alice");
    let mut bob = registered(&gateway, "bob");
    let text = "long ".repeat(2000);
    bob.ask("chat", json!({"to": alice.uid, "text": text}));
    assert_eq!(alice.push().text(), text);
    alice.chat(bob.uid, &text);
    assert_eq!(bob.push()["data"]["text"], text);
}

#[test]
fn what_is_too_long_is_refused_by_its_head_in_whatever_pieces_it_comes() {
    let gateway = Gateway::start_with_web(|_| {});
    let whole = [TEXT, 0x80 | 126, 0x20, 0x01];
    let pieces = [frame(0x01, &[b'a'; 5000]), frame(0x00, &[b'a'; 5000])].concat();
    for (place, bytes) in [&whole[..], &pieces].into_iter().enumerate() {
        let mut socket = registered(&gateway, &format!("user-{place}"));
        socket.send_bytes(bytes);
        let (texts, code) = socket.texts_until_closed();
        assert_eq!(code, 1009);
        let error: Value = serde_json::from_str(&texts[0]).expect("JSON");
        assert_eq!(error["code"], "LINE_TOO_LONG");
    }
    // Before login a frame may have less, but room for a token.
    let mut stranger = WebSocket::connect(gateway.web_address());
    let length = 4097u16.to_be_bytes();
    stranger.send_bytes(&[TEXT, 0x80 | 126, length[0], length[1]]);
    assert_eq!(stranger.texts_until_closed().1, 1009);
}

#[test]
fn a_message_without_an_end_takes_no_memory_beyond_its_limit() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut socket = registered(&gateway, "alice");
    // Fragments without a byte may be sent for ever, but they add nothing.
    socket.send_bytes(&frame(0x01, b""));
    let before = gateway.resident_bytes();
    let empty = frame(0x00, b"").repeat(20_000);
    socket.send_bytes(&empty);
    socket.send_frame(PING, b"read so far");
    assert_eq!(socket.frame(), Some(Frame::Pong(b"read so far".to_vec())));
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more");
    socket.send_bytes(&frame(0x80, br#"{"id":1,"type":"ping"}"#));
    assert!(socket.text().contains(r#""id":1,"type":"ok""#));
}

/// What each of many connections takes that `open` opens and that then send `bytes` and no more.
fn bytes_held_by_each(open: impl Fn(SocketAddr) -> TcpStream, bytes: &[u8]) -> u64 {
    const UNFINISHED: usize = 2000;
    let gateway = Gateway::start_with_web(|_| {});
    let before = gateway.resident_bytes();
    let held: Vec<TcpStream> = (0..UNFINISHED)
        .map(|_| {
            let mut stream = open(gateway.web_address());
            stream.write_all(bytes).expect("write");
            stream
        })
        .collect();
    let sent = (UNFINISHED * bytes.len()) as f64;
    eventually("all is read", || {
        gateway.metric("transport_received_bytes_total", &[]) >= sent
    });
    let grown = gateway.resident_bytes().saturating_sub(before);
    drop(held);
    grown / UNFINISHED as u64
}

#[test]
fn heads_and_messages_that_never_end_take_little() {
    let connect = |address| TcpStream::connect(address).expect("connect");
    let head = format!("GET /ws HTTP/1.1\r\nX: {}", "a".repeat(8000));
    // The most that may be kept: a message that is nearly full, and most of a frame behind it.
    let mut message = frame(0x01, &[b'a'; 2000]);
    message.extend(&frame(0x00, &[b'a'; 2096])[..2090]);
    let websocket = |address| WebSocket::connect(address).into_stream();
    let each = [
        bytes_held_by_each(connect, head.as_bytes()),
        bytes_held_by_each(websocket, &message),
    ];
    // 10,000 of them may take 100 MiB.
    assert!(
        each.iter().all(|bytes| *bytes < 10_485),
        "{each:?} bytes each"
    );
}
