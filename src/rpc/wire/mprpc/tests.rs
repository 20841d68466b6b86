//! Every frame at every split, the bytes MPIM was seen to send, and frames that lie about their
//! length.

use proptest::prelude::*;

use super::*;
use crate::base::receive_buffer::ReceiveBuffer;
use crate::proto::{LoginRequest, LoginResponse};

const MAX: usize = 1 << 16;

fn login() -> LoginRequest {
    LoginRequest {
        username: b"sunyusen1".to_vec(),
        password: b"123456".to_vec(),
        ..Default::default()
    }
}

fn head(call_id: u64, timeout_ms: u32) -> CallHead<'static> {
    CallHead {
        service: "UserService",
        method: "Login",
        call_id,
        timeout_ms,
    }
}

#[test]
fn a_classic_call_has_the_bytes_that_mpim_sends() {
    let mut bytes = Vec::new();
    write_call(head(0, 0), &login(), &mut bytes);
    let mut expected = vec![0x16, 0, 0, 0, 0x0a, 0x0b];
    expected.extend_from_slice(b"UserService\x12\x05Login\x18\x13");
    expected.extend_from_slice(b"\x0a\x09sunyusen1\x12\x06123456");
    assert_eq!(bytes, expected);
}

#[test]
fn the_reply_that_mpim_sends_is_read() {
    let bytes = b"\x0f\0\0\0\x0a\x04\x12\x02ok\x10\x01\x1a\x05tok_1";
    let (message, taken) = read_classic_reply(bytes, MAX)
        .expect("a reply")
        .expect("a whole one");
    assert_eq!(taken, bytes.len());
    let response = LoginResponse::decode(message).expect("a response");
    assert_eq!((response.user_id, response.token.as_str()), (1, "tok_1"));
}

#[test]
fn lengths_beyond_the_limits_are_refused_as_soon_as_they_are_read() {
    let length = u32::MAX.to_le_bytes();
    assert_eq!(
        read_classic_reply(&length, MAX),
        Err(FramingError::BodyTooLong(u32::MAX as usize))
    );
    assert_eq!(
        read_reply(&length, MAX),
        Err(FramingError::HeaderTooLong(u32::MAX as usize))
    );
    assert!(matches!(
        read_call(&length, MAX),
        Err(FramingError::HeaderTooLong(_))
    ));
    let mut bytes = Vec::new();
    write_reply_header(1, ReplyStatus::ReplyOk, MAX + 1, &mut bytes);
    assert_eq!(
        read_reply(&bytes, MAX),
        Err(FramingError::BodyTooLong(MAX + 1))
    );
}

#[test]
fn a_header_that_does_not_parse_ends_the_stream() {
    assert_eq!(
        read_call(b"\x02\0\0\0\xff\xff", MAX),
        Err(FramingError::BadHeader)
    );
    assert_eq!(
        read_reply(b"\x02\0\0\0\xff\xff", MAX),
        Err(FramingError::BadHeader)
    );
}

/// Cuts `stream` at the given places and collects what `read` makes of the pieces.
fn in_pieces<T>(
    stream: &[u8],
    cuts: &[usize],
    read: impl Fn(&[u8]) -> Result<Option<(T, usize)>, FramingError>,
) -> Vec<T> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(stream.len());
    let mut unfinished = ReceiveBuffer::default();
    let mut frames = Vec::new();
    let mut from = 0;
    for to in cuts {
        let fed = unfinished.feed(&stream[from..to], |bytes| {
            Ok::<_, FramingError>(read(bytes)?.map(|(frame, taken)| {
                frames.push(frame);
                taken
            }))
        });
        fed.expect("whole frames");
        from = to;
    }
    assert!(unfinished.is_empty());
    frames
}

proptest! {
    #[test]
    fn a_call_reads_as_it_was_written(
        call_id in prop_oneof![Just(0), any::<u64>()],
        timeout_ms: u32,
        username in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let args = LoginRequest { username, password: Vec::new(), ..Default::default() };
        let mut bytes = Vec::new();
        write_call(head(call_id, timeout_ms), &args, &mut bytes);
        let (frame, taken) = read_call(&bytes, MAX).unwrap().unwrap();
        prop_assert_eq!(taken, bytes.len());
        prop_assert_eq!(&frame.header, &RpcHeader {
            service_name: b"UserService".to_vec(),
            method_name: b"Login".to_vec(),
            args_size: args.encoded_len() as u32,
            call_id,
            timeout_ms,
        });
        // Field by field is what the message's own encoding would have been.
        let header = &bytes[4..bytes.len() - frame.args.len()];
        prop_assert_eq!(header, &frame.header.encode_to_vec()[..]);
        prop_assert_eq!(LoginRequest::decode(frame.args).unwrap(), args);
    }

    #[test]
    fn calls_are_the_same_however_the_stream_is_cut(
        sizes in prop::collection::vec(0..200usize, 1..6),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut stream = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            let args = LoginRequest { username: vec![b'u'; *size], ..Default::default() };
            write_call(head(index as u64, 0), &args, &mut stream);
        }
        let frames = in_pieces(&stream, &cuts, |bytes| {
            let frame = read_call(bytes, MAX)?;
            Ok(frame.map(|(frame, taken)| ((frame.header.call_id, frame.args.len()), taken)))
        });
        let ids: Vec<u64> = frames.iter().map(|(id, _)| *id).collect();
        prop_assert_eq!(ids, (0..sizes.len() as u64).collect::<Vec<_>>());
    }

    #[test]
    fn replies_of_both_forms_are_the_same_however_the_stream_is_cut(
        sizes in prop::collection::vec(0..200usize, 1..6),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let (mut classic, mut with_ids) = (Vec::new(), Vec::new());
        for (index, size) in sizes.iter().enumerate() {
            write_classic_length(*size, &mut classic);
            classic.resize(classic.len() + size, b'm');
            write_reply_header(index as u64 + 1, ReplyStatus::ReplyOk, *size, &mut with_ids);
            with_ids.resize(with_ids.len() + size, b'm');
        }
        let lengths = in_pieces(&classic, &cuts, |bytes| {
            Ok(read_classic_reply(bytes, MAX)?.map(|(message, taken)| (message.len(), taken)))
        });
        prop_assert_eq!(&lengths, &sizes);
        let replies = in_pieces(&with_ids, &cuts, |bytes| {
            let frame = read_reply(bytes, MAX)?;
            Ok(frame.map(|(frame, taken)| ((frame.header.call_id, frame.body.len()), taken)))
        });
        let expected: Vec<_> = (1..).zip(sizes).collect();
        prop_assert_eq!(replies, expected);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_call(&bytes, 64);
        let _ = read_reply(&bytes, 64);
        let _ = read_classic_reply(&bytes, 64);
    }
}
