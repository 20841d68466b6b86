//! Frames: whatever the split, and that nothing a peer sends is taken for what it is not.

use proptest::prelude::*;

use super::*;

const MAX: usize = 1000;

/// What came, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Close(u16),
    Error(FrameError),
}

/// All that `stream` is, arriving in pieces of these sizes (cycled).
fn received(stream: &[u8], pieces: &[usize]) -> Vec<Got> {
    let (mut got, mut buffer, mut rest) = (Vec::new(), Vec::new(), stream);
    let (mut assembly, mut scratch) = (None, Vec::new());
    for &piece in pieces.iter().cycle() {
        let (arrived, later) = rest.split_at(piece.min(rest.len()));
        buffer.extend_from_slice(arrived);
        rest = later;
        loop {
            let consumed = match read_frame(&buffer, MAX, &mut assembly, &mut scratch) {
                Ok(None) => break,
                Ok(Some((frame, consumed))) => {
                    match frame {
                        Frame::Text(text) => got.push(Got::Text(text.to_owned())),
                        Frame::Binary(bytes) => got.push(Got::Binary(bytes.to_vec())),
                        Frame::Ping(bytes) => got.push(Got::Ping(bytes.to_vec())),
                        Frame::Close(code) => got.push(Got::Close(code)),
                        Frame::Nothing => {}
                    }
                    consumed
                }
                Err(error) => {
                    got.push(Got::Error(error));
                    return got;
                }
            };
            buffer.drain(..consumed);
        }
        let kept = assembly
            .as_ref()
            .map_or(0, |assembly| assembly.held_bytes());
        assert!(
            kept <= MAX && buffer.len() <= MAX + HEAD_BYTES_MAX,
            "bounded"
        );
        if rest.is_empty() {
            break;
        }
    }
    got
}

fn text(payload: &str) -> Vec<u8> {
    client_frame(Opcode::Text, true, [1, 2, 3, 4], payload.as_bytes())
}

#[test]
fn a_message_may_come_in_fragments_with_control_frames_between_them() {
    let part =
        |opcode, is_final, payload: &[u8]| client_frame(opcode, is_final, [9, 8, 7, 6], payload);
    // The first fragment ends within a character.
    let stream = [
        part(Opcode::Text, false, b"h\xc3"),
        part(Opcode::Ping, true, b"now"),
        part(Opcode::Continuation, false, b""),
        part(Opcode::Pong, true, b""),
        part(Opcode::Continuation, true, b"\xa9llo"),
        text(""),
    ]
    .concat();
    let expected = [
        Got::Ping(b"now".to_vec()),
        Got::Text("h\u{e9}llo".to_owned()),
        Got::Text(String::new()),
    ];
    assert_eq!(received(&stream, &[stream.len()]), expected);
    assert_eq!(received(&stream, &[1]), expected);
}

#[test]
fn what_no_client_may_send_ends_with_the_code_of_the_standard() {
    let unmasked = vec![0x81, 1, b'a'];
    let masked = |first: u8, second: u8, rest: &[u8]| [&[first, second], rest].concat();
    let part = |opcode, is_final, payload: &[u8]| client_frame(opcode, is_final, [0; 4], payload);
    for (stream, code) in [
        (unmasked, 1002),
        (masked(0xc1, 0x80, &[0; 4]), 1002),
        (masked(0xa1, 0x80, &[0; 4]), 1002),
        (masked(0x91, 0x80, &[0; 4]), 1002),
        (masked(0x83, 0x80, &[0; 4]), 1002),
        (masked(0x8b, 0x80, &[0; 4]), 1002),
        (masked(0x8f, 0x80, &[0; 4]), 1002),
        // Control frames: in fragments, long.
        (masked(0x09, 0x80, &[0; 4]), 1002),
        (masked(0x89, 0xfe, &[0, 126, 0, 0, 0, 0]), 1002),
        // Lengths that are not in their shortest form, or no lengths.
        (masked(0x81, 0xfe, &[0, 125, 0, 0, 0, 0]), 1002),
        (
            masked(0x81, 0xff, &[0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]),
            1002,
        ),
        (
            masked(0x81, 0xff, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            1002,
        ),
        // Fragments.
        (part(Opcode::Continuation, true, b""), 1002),
        ([part(Opcode::Text, false, b"a"), text("b")].concat(), 1002),
    ] {
        assert_ends_with(&stream, code);
    }
}

/// `stream` ends with this code, whatever its split.
fn assert_ends_with(stream: &[u8], code: u16) {
    for pieces in [&[stream.len()][..], &[1]] {
        let got = received(stream, pieces);
        let Some(Got::Error(error)) = got.last() else {
            panic!("{stream:?}: {got:?}");
        };
        assert_eq!(error.code(), code, "{stream:?}");
        assert!(!error.words().is_empty());
    }
}

#[test]
fn close_frames_texts_and_lengths_have_their_codes() {
    let masked = |first: u8, second: u8, rest: &[u8]| [&[first, second], rest].concat();
    let close = |payload: &[u8]| client_frame(Opcode::Close, true, [0; 4], payload);
    let part = |opcode, is_final, payload: &[u8]| client_frame(opcode, is_final, [0; 4], payload);
    for (stream, code) in [
        // Close frames.
        (close(b"x"), 1002),
        (close(&1004u16.to_be_bytes()), 1002),
        (close(&1005u16.to_be_bytes()), 1002),
        (close(&1006u16.to_be_bytes()), 1002),
        (close(&1015u16.to_be_bytes()), 1002),
        (close(&999u16.to_be_bytes()), 1002),
        (close(&2999u16.to_be_bytes()), 1002),
        (close(&5000u16.to_be_bytes()), 1002),
        (close(b"\x03\xe8\xff"), 1007),
        // Texts.
        (client_frame(Opcode::Text, true, [0; 4], b"\xff"), 1007),
        (client_frame(Opcode::Text, true, [0; 4], b"\xc3"), 1007),
        (
            client_frame(Opcode::Text, true, [0; 4], b"\xed\xa0\x80"),
            1007,
        ),
        (
            [
                part(Opcode::Text, false, b"\xc3"),
                part(Opcode::Continuation, true, b"\xc3"),
            ]
            .concat(),
            1007,
        ),
        // Too long: by one frame, by fragments, and before the payload has come.
        (text(&"a".repeat(MAX + 1)), 1009),
        (
            [
                part(Opcode::Text, false, &[b'a'; MAX]),
                part(Opcode::Continuation, true, b"a"),
            ]
            .concat(),
            1009,
        ),
        (
            masked(
                0x81,
                0xff,
                &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            ),
            1009,
        ),
    ] {
        assert_ends_with(&stream, code);
    }
}

#[test]
fn a_peer_may_close_with_a_code_or_without() {
    let close = |payload: &[u8]| client_frame(Opcode::Close, true, [5; 4], payload);
    for (payload, code) in [
        (&b""[..], 1005),
        (b"\x03\xe8", 1000),
        (b"\x03\xe9bye", 1001),
        (b"\x0b\xb8", 3000),
        (b"\x13\x87", 4999),
    ] {
        let stream = close(payload);
        assert_eq!(received(&stream, &[1]), [Got::Close(code)]);
    }
}

#[test]
fn what_is_written_has_the_shortest_head_and_can_be_walked() {
    for (length, head) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
        let mut out = b"before".to_vec();
        out.resize(6 + length, b'x');
        frame(Opcode::Text, 6, &mut out);
        assert_eq!(out.len(), 6 + head + length);
        assert_eq!(out[6], 0x81);
        assert_eq!(written_length(&out[6..]), Some(head + length));
        assert_eq!(written_length(&out[6..6 + head - 1]), None);
    }
    let mut out = Vec::new();
    write_close(4001, &"\u{e9}".repeat(100), &mut out);
    assert!(out.len() <= 2 + CONTROL_BYTES_MAX);
    assert_eq!(
        &out[..4],
        [0x88, 124, 0x0f, 0xa1],
        "words end with a whole character"
    );
}

proptest! {
    #[test]
    fn any_split_of_any_messages_gives_the_same(
        messages in prop::collection::vec(
            (any::<bool>(), "\\PC{0,300}", any::<[u8; 4]>(), prop::collection::vec(0usize..300, 0..4)),
            0..6,
        ),
        pieces in prop::collection::vec(1usize..40, 1..10),
    ) {
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for (is_text, payload, mask, cuts) in &messages {
            let opcode = if *is_text { Opcode::Text } else { Opcode::Binary };
            let payload: Vec<u8> = payload.bytes().take(MAX).collect();
            let payload = match std::str::from_utf8(&payload) {
                Ok(_) => payload,
                Err(error) => payload[..error.valid_up_to()].to_vec(),
            };
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (payload.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(payload.len());
            let mut begin = 0;
            for (index, end) in cuts.iter().enumerate() {
                let opcode = if index == 0 { opcode } else { Opcode::Continuation };
                let is_final = index + 1 == cuts.len();
                stream.extend(client_frame(opcode, is_final, *mask, &payload[begin..*end]));
                begin = *end;
            }
            expected.push(match is_text {
                true => Got::Text(String::from_utf8(payload).unwrap()),
                false => Got::Binary(payload),
            });
        }
        prop_assert_eq!(received(&stream, &[stream.len().max(1)]), expected.clone());
        prop_assert_eq!(received(&stream, &pieces), expected);
    }

    #[test]
    fn garbage_ends_the_same_whatever_its_split(
        stream in prop::collection::vec(any::<u8>(), 0..300),
        pieces in prop::collection::vec(1usize..20, 1..10),
    ) {
        let whole = received(&stream, &[stream.len().max(1)]);
        prop_assert_eq!(received(&stream, &pieces), whole.clone());
        prop_assert_eq!(received(&stream, &[1]), whole);
    }
}
