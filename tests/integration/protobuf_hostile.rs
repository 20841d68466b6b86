//! Protobuf frames that no client should send: sizes and checksums that lie, numbers that are no
//! commands, and what comes of a connection that brings them.

use crate::common::protobuf::{Envelope, Fields, checksum};
use crate::common::websocket::{BINARY, Frame, frame};
use crate::common::{Gateway, ProtobufClient, eventually};

fn ping(client: &mut ProtobufClient) -> Vec<u8> {
    let envelope = client.envelope((1, ""), "base.BaseRequest", Fields::default());
    envelope.bytes()
}

/// The same with another checksum for other bytes.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(checksum(&bytes).to_le_bytes());
    bytes
}

/// Asserts that a frame is refused with seq 0, and that the connection lives on.
#[track_caller]
fn assert_refused(gateway: &Gateway, payload: &[u8]) {
    let mut client = ProtobufClient::connect(gateway);
    client.socket.send_frame(BINARY, payload);
    let reply = client.reply();
    assert_eq!(reply.type_name, "im.base.BaseResponse");
    assert_eq!((reply.cmd_id(), reply.header.get_number(2)), (2, 0));
    let base = reply.base();
    assert_eq!(base.get_number(1), 1);
    assert!(base.get_text(2).starts_with("BAD_REQUEST "), "{base:?}");
    client.assert_no_push();
}

#[test]
fn what_is_no_envelope_is_refused_and_its_connection_lives() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut client = ProtobufClient::connect(&gateway);
    let ping = ping(&mut client);
    let inside = &ping[..ping.len() - 4];
    let mut turned = ping.clone();
    turned[9] ^= 1;
    let mut lies = vec![turned, Vec::new(), vec![0], vec![0; 4], vec![0xff; 64]];
    lies.push(ping[..ping.len() - 1].to_vec());
    for sizes in [
        &[0, 19][..],
        &[9, 0],
        &[0xff, 0xff, 0xff, 0xff, 0x0f, 19],
        &[
            9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ],
        &[0xff; 10],
    ] {
        lies.push(sealed([sizes, &inside[2..]].concat()));
    }
    let body = Envelope {
        body: Fields::default().text(4, "no number"),
        ..client.envelope((2002, ""), "message.PullMessageRequest", Fields::default())
    };
    lies.push(body.bytes());
    for lie in &lies {
        assert_refused(&gateway, lie);
    }
    let counted = gateway.metric("protocol_errors_total", &[]);
    assert_eq!(counted, lies.len() as f64);
    client.assert_no_push();
}

#[test]
fn too_many_of_them_end_the_connection() {
    let gateway = Gateway::start_with_web(|config| {
        config.limit("protocol_error_limit", 3);
    });
    let mut client = ProtobufClient::connect(&gateway);
    for _ in 0..3 {
        client.socket.send_frame(BINARY, b"nonsense");
        assert_eq!(client.reply().base().get_number(1), 1);
    }
    client.assert_kicked("protocol", 1008);
}

#[test]
fn numbers_that_are_no_commands_are_unsupported_however_many() {
    let gateway = Gateway::start_with_web(|config| {
        config.limit("protocol_error_limit", 3);
    });
    let mut client = ProtobufClient::connect(&gateway);
    client.register("alice");
    for cmd_id in [
        0, 2, 3, 1005, 2003, 2004, 2007, 3004, 4002, 4005, 4010, 4012, 9999,
    ] {
        let (code, words) = client.refused(cmd_id, "base.BaseRequest", Fields::default());
        assert_eq!(
            (code, words.split(' ').next()),
            (1, Some("UNSUPPORTED")),
            "{cmd_id}"
        );
    }
    client.assert_no_push();
    assert_eq!(gateway.metric("protocol_errors_total", &[]), 0.0);
}

#[test]
fn arguments_that_are_none_and_bodies_of_another_command_are_said_to_be_so() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut client = ProtobufClient::connect(&gateway);
    client.register("alice");
    let send = "message.SendMessageRequest";
    let text = |text: &str| Fields::default().message(2, &Fields::default().text(3, text));
    for (cmd_id, kind, body) in [
        (2001, send, text("to nobody")),
        (2001, "user.LoginRequest", Fields::default()),
        (
            2002,
            "message.PullMessageRequest",
            Fields::default().number(4, 1001),
        ),
        (2005, "base.BaseRequest", Fields::default().text(1, "x")),
        (
            3001,
            "friend_.AddFriendRequest",
            Fields::default().text(2, "bob"),
        ),
        (4001, "group.CreateGroupRequest", Fields::default()),
        (4007, "group.JoinGroupRequest", Fields::default()),
    ] {
        let (code, words) = client.refused(cmd_id, kind, body);
        assert_eq!(
            (code, words.split(' ').next()),
            (6, Some("BAD_ARGUMENT")),
            "{cmd_id}"
        );
    }
    for (to, words, code) in [
        ("4242", "NOT_FOUND", 3),
        ("g4242", "NOT_FOUND", 3),
        ("bob", "BAD_ARGUMENT", 6),
        ("gtea", "BAD_ARGUMENT", 6),
    ] {
        let base = client.request((2001, to), send, text("hi")).base();
        assert_eq!(
            (base.get_number(1), base.get_text(2).split(' ').next()),
            (code, Some(words))
        );
    }
    client.assert_no_push();
}

#[test]
fn a_frame_that_is_too_long_ends_with_the_code_of_the_standard() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut client = ProtobufClient::connect(&gateway);
    client.register("alice");
    client.socket.send_bytes(&frame(BINARY, &[0; 9000]));
    let base = client.reply().base();
    assert_eq!(base.get_number(1), 6);
    assert!(base.get_text(2).starts_with("LINE_TOO_LONG "), "{base:?}");
    client.push();
    assert_eq!(client.socket.frame(), Some(Frame::Close(1009)));
    eventually("it is gone", || gateway.metric("connections", &[]) == 0.0);
}

#[test]
fn frames_in_fragments_are_whole_frames() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut client = ProtobufClient::connect(&gateway);
    let ping = ping(&mut client);
    for cut in 0..=ping.len() {
        let mut stream = frame(0x02, &ping[..cut]);
        stream.extend(frame(0x89, b"between"));
        stream.extend(frame(0x80, &ping[cut..]));
        for byte in stream.chunks(7) {
            client.socket.send_bytes(byte);
        }
        assert_eq!(client.socket.frame(), Some(Frame::Pong(b"between".into())));
        assert_eq!(client.reply().cmd_id(), 1, "cut at {cut}");
    }
}
