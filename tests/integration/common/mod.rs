//! What the tests share: processes and whole clusters of them, a line client, a WebSocket client,
//! one of protobuf frames, a reader of pushes, HTTP, waiting, randomness.
//!
//! Waiting is always for a condition, and [`DEADLINE`] only turns a hang into a failure.

pub mod api;
pub mod backend_process;
pub mod bus;
pub mod certificates;
pub mod chaos_backend;
pub mod client;
pub mod cluster;
pub mod config;
pub mod cutting_proxy;
pub mod fake_mpim;
pub mod gateway;
pub mod http;
pub mod mpim_world;
pub mod nginx;
pub mod process;
pub mod protobuf;
pub mod push;
pub mod random;
pub mod tcp_server;
pub mod text;
pub mod websocket;
pub mod znodes;

use std::time::{Duration, Instant};

pub use client::{Client, Received};
pub use gateway::Gateway;
pub use process::run_to_exit;
pub use protobuf::ProtobufClient;
pub use push::Push;
pub use websocket::WebSocket;

/// After this long a wait has failed. Generous, because the machine may be busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// How often a condition that cannot be waited for is asked again.
pub const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until `condition` holds; panics with `what` if that takes longer than [`DEADLINE`].
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "never happened: {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Asserts that a reply is `-ERR CODE words`, tagged or not.
#[track_caller]
pub fn assert_error(reply: &str, code: &str) {
    let body = without_tag(reply);
    let mut words = body.split(' ');
    assert_eq!(words.next(), Some("-ERR"), "expected {code}, got: {reply}");
    assert_eq!(words.next(), Some(code), "expected {code}, got: {reply}");
    assert!(
        words.next().is_some_and(|word| !word.is_empty()),
        "an error carries words for a person: {reply}"
    );
}

/// The reply without a `@tag ` in front.
pub fn without_tag(reply: &str) -> &str {
    match reply.strip_prefix('@') {
        Some(rest) => rest.split_once(' ').map_or("", |(_, body)| body),
        None => reply,
    }
}

/// The value of `key` in a reply such as `+OK uid=42 session=7`.
#[track_caller]
pub fn field<'a>(reply: &'a str, key: &str) -> &'a str {
    let found = without_tag(reply)
        .split(' ')
        .filter_map(|word| word.split_once('='))
        .find(|(name, _)| *name == key);
    match found {
        Some((_, value)) => value,
        None => panic!("no {key}= in: {reply}"),
    }
}

/// The value of `key` in a reply, as a number.
#[track_caller]
pub fn number(reply: &str, key: &str) -> u64 {
    let value = field(reply, key);
    match value.parse() {
        Ok(number) => number,
        Err(_) => panic!("{key}={value} is no number in: {reply}"),
    }
}
