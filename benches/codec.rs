//! Nanoseconds for each line and each push, without a socket: what the pure layers cost.

use divan::{Bencher, black_box, counter::ItemsCount};
use im_gateway::proto::{PushBatch, PushMessage};
use prost::Message as _;

fn main() {
    divan::main();
}

/// A direct message as the bus carries it.
fn push_message() -> PushMessage {
    PushMessage {
        msg_id: 1_310_000_000_000_000_000,
        from: 42,
        to: 57,
        ts_ms: 1_760_000_000_000,
        text: "see you at eight at the usual place, and bring the others along".to_owned(),
        seq: 1234,
        ..PushMessage::default()
    }
}

#[divan::bench]
fn decode_push_message(bencher: Bencher) {
    let bytes = push_message().encode_to_vec();
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench(|| PushMessage::decode(black_box(&bytes[..])));
}

#[divan::bench(args = [1, 16, 256])]
fn decode_push_batch(bencher: Bencher, messages: usize) {
    let batch = PushBatch {
        messages: vec![push_message(); messages],
    };
    let bytes = batch.encode_to_vec();
    bencher
        .counter(ItemsCount::new(messages))
        .bench(|| PushBatch::decode(black_box(&bytes[..])));
}

#[divan::bench]
fn encode_push_message(bencher: Bencher) {
    let message = push_message();
    let mut bytes = Vec::with_capacity(256);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        bytes.clear();
        black_box(&message).encode(&mut bytes)
    });
}
