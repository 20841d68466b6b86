//! Nanoseconds for each line and each push, without a socket: what the pure layers cost.
//!
//! A line in is cut, taken apart and made a command; a line out is a reply or a push written into a
//! buffer that has room.

use divan::{Bencher, black_box, counter::BytesCount};
use im_gateway::{
    contract::{
        push_mac::PushKey,
        push_payload::{self, Belief},
    },
    proto::{PushBatch, PushMessage},
    protocol::{
        command::{Dialect, parse_arguments, parse_line},
        line::{Split, split_line},
        push::Push,
        reply::Reply,
    },
};
use prost::Message as _;

fn main() {
    divan::main();
}

const MAX_LINE_BYTES: usize = 8192;
const TEXT: &str = "see you at eight at the usual place, and bring the others along";
const ESCAPED_TEXT: &str = "see you at eight\nat the usual place,\nand bring\\new others along";
/// A number as long as real ones are.
const MESSAGE_ID: i64 = 1_310_000_000_000_000_000;

/// What clients say, by name.
const LINES: [(&str, &str); 6] = [
    ("ping", "ping\n"),
    (
        "chat",
        "chat:57:see you at eight at the usual place, and bring the others along\n",
    ),
    (
        "chat_tagged",
        "@0123456789abcdef chat:57:see you at eight at the usual place, and bring the others along\n",
    ),
    (
        "chat_escaped",
        "chat:57:see you at eight\\nat the usual place,\\nand bring\\\\new others along\n",
    ),
    (
        "send_in_space_dialect",
        "SEND 57 see you at eight at the usual place, and bring the others along\n",
    ),
    (
        "ack",
        "ack:1310000000000000000:1310000000000000001:1310000000000000002\n",
    ),
];

/// From bytes to a command, as a session does it for each line.
#[divan::bench(args = LINES.map(|(name, _)| name))]
fn parse(bencher: Bencher, name: &str) {
    let line = LINES
        .iter()
        .find(|(known, _)| *known == name)
        .map_or("", |(_, line)| line)
        .as_bytes();
    assert!(is_command(line), "{name} is no command");
    bencher
        .counter(BytesCount::of_slice(line))
        .bench(|| is_command(black_box(line)));
}

fn is_command(bytes: &[u8]) -> bool {
    let Split::Line { text, .. } = split_line(bytes, MAX_LINE_BYTES) else {
        return false;
    };
    let Ok(line) = parse_line(text) else {
        return false;
    };
    // A command borrows from its line, so it has to be looked at here.
    black_box(parse_arguments(
        &line,
        line.dialect.unwrap_or(Dialect::Colon),
    ))
    .is_ok()
}

/// Lines cut from a full read buffer: what remains when everything else is free.
#[divan::bench]
fn split_64_kib_of_chats(bencher: Bencher) {
    let line = LINES[1].1;
    let buffer = line.repeat(64 * 1024 / line.len()).into_bytes();
    bencher.counter(BytesCount::of_slice(&buffer)).bench(|| {
        let mut rest = black_box(&buffer[..]);
        let mut lines = 0;
        while let Split::Line { consumed, .. } = split_line(rest, MAX_LINE_BYTES) {
            rest = &rest[consumed..];
            lines += 1;
        }
        lines
    });
}

#[divan::bench]
fn write_reply_stored(bencher: Bencher) {
    write_reply(
        bencher,
        &Reply::Stored {
            group: false,
            message_id: MESSAGE_ID,
            duplicate: false,
        },
    );
}

#[divan::bench]
fn write_reply_pong(bencher: Bencher) {
    write_reply(bencher, &Reply::Pong(None));
}

fn write_reply(bencher: Bencher, reply: &Reply) {
    let mut out = Vec::with_capacity(MAX_LINE_BYTES);
    bencher.bench_local(|| {
        out.clear();
        black_box(reply).write(None, Dialect::Colon, black_box(&mut out));
    });
}

#[divan::bench(args = ["plain", "escaped"])]
fn write_push(bencher: Bencher, kind: &str) {
    let text = if kind == "plain" { TEXT } else { ESCAPED_TEXT };
    let push = Push::Message {
        id: MESSAGE_ID,
        seq: Some(1234),
        from: 42,
        to: None,
        ts_ms: 1_760_000_000_000,
        duplicate: false,
        text,
    };
    let mut out = Vec::with_capacity(MAX_LINE_BYTES);
    bencher.bench_local(|| {
        out.clear();
        black_box(&push).write(black_box(&mut out));
    });
}

/// A direct message as the bus carries it.
fn push_message() -> PushMessage {
    PushMessage {
        msg_id: MESSAGE_ID,
        from: 42,
        to: 57,
        ts_ms: 1_760_000_000_000,
        text: TEXT.to_owned(),
        seq: 1234,
        ..PushMessage::default()
    }
}

#[divan::bench(args = [1, 256])]
fn decode_push_batch(bencher: Bencher, messages: usize) {
    let bytes = PushBatch {
        messages: vec![push_message(); messages],
    }
    .encode_to_vec();
    bencher
        .counter(BytesCount::of_slice(&bytes))
        .bench(|| PushBatch::decode(black_box(&bytes[..])));
}

#[divan::bench]
fn encode_push_message(bencher: Bencher) {
    let message = push_message();
    let mut bytes = Vec::with_capacity(MAX_LINE_BYTES);
    bencher.bench_local(|| {
        bytes.clear();
        black_box(&message).encode(black_box(&mut bytes))
    });
}

const CHANNEL: &str = "im:push:gateway-1#0";

/// What a push costs a publisher beyond its encoding.
#[divan::bench]
fn seal_push(bencher: Bencher) {
    let key = PushKey::new(&[7; 32]);
    let message = push_message();
    let mut bytes = Vec::with_capacity(MAX_LINE_BYTES);
    bencher.bench_local(|| {
        bytes.clear();
        black_box(&message).encode_raw(&mut bytes);
        black_box(&key).of_channel(CHANNEL).seal(&mut bytes, 0);
    });
}

/// What a core makes of a payload, with and without a push secret.
#[divan::bench(args = ["unsigned", "signed"])]
fn read_push(bencher: Bencher, kind: &str) {
    let key = PushKey::new(&[7; 32]);
    let mut bytes = push_message().encode_to_vec();
    key.of_channel(CHANNEL).seal(&mut bytes, 0);
    let belief = if kind == "signed" {
        Belief::Signed(&key)
    } else {
        Belief::All
    };
    bencher.bench(|| push_payload::read(CHANNEL, black_box(&bytes), belief));
}
