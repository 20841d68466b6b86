//! Nanoseconds for each line through a whole session, without a socket: from bytes read to bytes
//! ready to be sent.

use std::{net::Ipv4Addr, sync::Arc};

use divan::{Bencher, black_box};
use im_gateway::{
    base::id::{ConnectionKey, MessageIds},
    limits::Rate,
    metrics,
    proto::{PushKind, PushMessage},
    protocol::{command::Judge, reply::Reply},
    session::Peer,
    shard::{Now, Shard, ShardOptions},
};

fn main() {
    divan::main();
}

/// A shard whose connections are users 1, 2, 3 … and members of group 1.
fn shard(connections: u32) -> (Shard, Vec<ConnectionKey>) {
    let options = ShardOptions {
        max_line_bytes: 8192,
        login_line_bytes: 512,
        pipeline_limit: 64,
        protocol_error_limit: 10,
        login_timeout_ms: 30_000,
        connection_timeout_ms: 300_000,
        acknowledgement_timeout_ms: Some(30_000),
        outbound_queue_bytes: 1 << 20,
        unconfirmed_limit: 1000,
        command_rate: Rate {
            per_second: 50,
            burst: 100,
        },
        throttle_timeout_ms: 10_000,
        banner: false,
        web: im_gateway::protocol::http::upgrade::WebRules::default(),
        ping_interval_ms: 30_000,
        ping_timeout_ms: 60_000,
        judge: Judge::default(),
    };
    let mut shard = Shard::new(options, MessageIds::new(0), Arc::new(metrics::Core::new()));
    shard.set_now(Now {
        monotonic_us: 1,
        unix_ms: 1_760_000_000_000,
    });
    let keys = (1..=connections).map(|number| {
        let key = shard.accept(
            Peer {
                ip: Ipv4Addr::LOCALHOST.into(),
                port: 1,
                exempt: true,
                is_forwarded: false,
            },
            im_gateway::protocol::codec::Codec::Line,
        );
        let job = shard.feed(key, b"auth:token\n").expect("a job");
        shard.attach(key, number.into(), String::new(), number.into());
        shard.set_baseline(key, Some(0));
        shard.add_member(key, 1, Some(0));
        let logged_in = Reply::LoggedIn {
            uid: number.into(),
            session: number.into(),
            token: None,
            replaced: false,
        };
        shard.complete(&job, std::slice::from_ref(&logged_in));
        key
    });
    let keys: Vec<_> = keys.collect();
    for key in &keys {
        send_all(&mut shard, *key);
    }
    (shard, keys)
}

/// What the worker does with a connection that has something to say, the system call aside.
fn send_all(shard: &mut Shard, key: ConnectionKey) {
    let count = black_box(shard.unsent(key)).len();
    shard.sent(key, count, false);
    shard.acknowledged(key, 0);
}

#[divan::bench]
fn ping(bencher: Bencher) {
    let (mut shard, keys) = shard(1);
    let mut dirty = Vec::new();
    bencher.bench_local(move || {
        shard.feed(keys[0], black_box(b"ping\n"));
        shard.take_dirty(&mut dirty);
        for key in dirty.drain(..) {
            send_all(&mut shard, key);
        }
    });
}

#[divan::bench]
fn chat_until_the_backend_and_back(bencher: Bencher) {
    let (mut shard, keys) = shard(1);
    let stored = Reply::Stored {
        group: false,
        message_id: 1_310_000_000_000_000_000,
        duplicate: false,
    };
    let (mut dirty, mut resumable) = (Vec::new(), Vec::new());
    bencher.bench_local(move || {
        let line =
            black_box(b"chat:57:see you at eight at the usual place, and bring the others along\n");
        if let Some(job) = shard.feed(keys[0], line) {
            shard.complete(&job, std::slice::from_ref(&stored));
        }
        shard.take_resumable(&mut resumable);
        resumable.clear();
        shard.take_dirty(&mut dirty);
        for key in dirty.drain(..) {
            send_all(&mut shard, key);
        }
    });
}

/// One group message to all members on this core, per message: divide by the members for the cost
/// of a delivery.
#[divan::bench(args = [1, 100, 1000])]
fn group_push(bencher: Bencher, members: u32) {
    let (mut shard, _) = shard(members);
    let (mut dirty, mut effects) = (Vec::new(), Vec::new());
    let mut seq = 0;
    bencher.bench_local(move || {
        seq += 1;
        shard.on_push(Arc::new(PushMessage {
            msg_id: 1_310_000_000_000_000_000 + seq as i64,
            from: 1_000_000,
            group_id: 1,
            ts_ms: 1_760_000_000_000,
            text: "see you at eight at the usual place, and bring the others along".to_owned(),
            kind: PushKind::Message.into(),
            seq,
            ..Default::default()
        }));
        shard.take_dirty(&mut dirty);
        for key in dirty.drain(..) {
            send_all(&mut shard, key);
        }
        shard.flush_acks();
        shard.take_effects(&mut effects);
        effects.clear();
    });
}
