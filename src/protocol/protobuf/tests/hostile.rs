//! What is no envelope: sizes and checksums that lie, and whatever else may come in a frame.

use proptest::prelude::*;

use super::{
    super::{
        messages::{
            base::{BaseRequest, ImHeader},
            message::{MessageBody, SendMessageRequest},
        },
        request,
    },
    frame, header, read,
};
use crate::protocol::{
    codec::{Codec, Form, Front, Partial},
    command::Verb,
    error_code::ErrorCode,
    request::{ReplyTo, Request},
    websocket::{Opcode, client_frame},
};

const TYPE: &[u8] = b"im.base.BaseRequest";
/// A ping's header: version 1.0, seq 7, number 1.
const HEADER: &[u8] = b"\x0a\x031.0\x10\x07\x18\x01";

/// An envelope with these sizes, whatever they should be, and a good checksum.
fn envelope(sizes: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = sizes.to_vec();
    bytes.extend(parts.concat());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

#[track_caller]
fn assert_refused(frame: &[u8]) {
    let bad = request::read(frame).expect_err("no envelope");
    assert_eq!(bad.code, ErrorCode::BadRequest);
    assert_eq!(
        bad.to,
        Some(ReplyTo::Protobuf(Box::default())),
        "its seq is 0"
    );
}

fn message() -> Vec<u8> {
    let header = ImHeader {
        to_uid: "42".into(),
        timestamp: 5,
        ..header(2001)
    };
    let body = MessageBody {
        content: "hello".into(),
        ..MessageBody::default()
    };
    let request = SendMessageRequest {
        header: Some(header.clone()),
        body: Some(body),
    };
    frame(&header, &request)
}

#[test]
fn an_envelope_is_read_that_others_wrote() {
    let ping = b"\x09\x13im.base.BaseRequest\x0a\x031.0\x10\x07\x18\x01\xb31o\xb1";
    assert_eq!(read(ping).verb(), Verb::Ping);
    let written = frame(
        &ImHeader {
            version: "1.0".into(),
            seq: 7,
            cmd_id: 1,
            ..ImHeader::default()
        },
        &BaseRequest::default(),
    );
    assert_eq!(written, ping);
    assert_eq!(envelope(&[9, 19], &[TYPE, HEADER]), ping);
}

#[test]
fn every_cut_and_every_bit_that_was_turned_is_found() {
    let whole = message();
    assert_eq!(read(&whole).verb(), Verb::Chat);
    for cut in 0..whole.len() {
        assert_refused(&whole[..cut]);
        assert_refused(&whole[cut + 1..]);
    }
    for bit in 0..whole.len() * 8 {
        let mut turned = whole.clone();
        turned[bit / 8] ^= 1 << (bit % 8);
        assert_refused(&turned);
    }
}

#[test]
fn sizes_that_lie_are_refused_though_the_checksum_is_right() {
    let endless = [0xff; 11];
    let longest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    for sizes in [
        &[][..],
        &[9],
        &[0, 19],
        &[9, 0],
        &[0, 0],
        &[200, 1, 19],
        &[9, 200, 1],
        &[0xff, 0xff, 0xff, 0xff, 0x0f, 19],
        &[9, 0xff, 0xff, 0xff, 0xff, 0x0f],
        &endless,
        &longest,
        &[&longest[..], &longest].concat(),
    ] {
        assert_refused(&envelope(sizes, &[TYPE, HEADER]));
    }
    // The header ends a byte early or late, so that it is none.
    assert_refused(&envelope(&[8, 19], &[TYPE, HEADER]));
    assert_refused(&envelope(&[10, 18], &[TYPE, HEADER]));
}

#[test]
fn a_name_that_is_no_text_and_bodies_that_are_no_messages_are_refused() {
    assert_refused(&envelope(&[9, 2], &[&[0xff, 0xfe], HEADER]));
    let pull = b"im.message.PullMessageRequest";
    let header = b"\x0a\x031.0\x10\x07\x18\xd2\x0f";
    let with_body = |body: &[u8]| envelope(&[10, pull.len() as u8], &[pull, header, body]);
    assert_eq!(read(&with_body(&[])).verb(), Verb::Pull);
    // A field of another kind, a field without its end, a text that is none, a group without end.
    for body in [
        &[0x22, 1, 0][..],
        &[0x12, 5, b'a'],
        &[0x12, 1, 0xff],
        &[0x0b, 0x0b],
        &[0x07],
    ] {
        assert_refused(&with_body(body));
    }
    let deep = [0x0b; 10_000];
    assert_refused(&with_body(&deep));
}

/// The request in a stream that comes in pieces of `piece` bytes.
fn verb_of(stream: &[u8], piece: usize) -> Option<Verb> {
    let (mut partial, mut unread) = (Partial::default(), Vec::new());
    for arrived in stream.chunks(piece) {
        unread.extend_from_slice(arrived);
        let mut scratch = Vec::new();
        let codec = Codec::WebSocket(Form::Json);
        let consumed = match codec.front(&unread, 1000, &mut partial, &mut scratch) {
            Front::Incomplete => 0,
            Front::Nothing(consumed) => consumed,
            Front::Request(Ok(Request::Protobuf(request)), _) => return Some(request.verb()),
            front => panic!("{front:?}"),
        };
        unread.drain(..consumed);
    }
    None
}

#[test]
fn a_frame_is_the_same_wherever_it_is_split() {
    let message = message();
    let whole = client_frame(Opcode::Binary, true, [1, 2, 3, 4], &message);
    for piece in 1..=whole.len() {
        assert_eq!(
            verb_of(&whole, piece),
            Some(Verb::Chat),
            "pieces of {piece}"
        );
    }
    for cut in 0..=message.len() {
        let (begin, end) = message.split_at(cut);
        let mut fragments = client_frame(Opcode::Binary, false, [1, 2, 3, 4], begin);
        fragments.extend(client_frame(Opcode::Continuation, true, [9, 8, 7, 6], end));
        assert_eq!(verb_of(&fragments, 1), Some(Verb::Chat), "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn whatever_stands_in_an_envelope_is_a_command_or_an_error(
        sizes in prop::collection::vec(any::<u8>(), 0..4),
        rest in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let frame = envelope(&sizes, &[&rest]);
        if let Ok(request) = request::read(&frame) {
            let _ = request.command(Default::default());
        }
    }
}
