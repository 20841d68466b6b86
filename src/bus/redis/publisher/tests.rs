//! What is published, how it is packed, and what a Redis gets to see that comes, goes and refuses.

use std::{collections::VecDeque, fs, path::Path, sync::Arc, time::Duration};

use prost::Message;
use redis::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{RedisPublisher, packing::Packer, publisher, queue::Commit};
use crate::{
    base::id::RouteId,
    config::settings::Redis,
    contract::{
        bus::{Channel, Publisher},
        push_mac::PushKey,
        push_payload::{self, Belief, Refused},
    },
    metrics,
    proto::{PushBatch, PushKind, PushMessage},
};

/// No condition here takes longer, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn route(core: usize) -> Channel {
    Channel::Route(RouteId::new("gateway", core))
}

fn message(text: &str) -> PushMessage {
    PushMessage {
        text: text.to_owned(),
        seq: 1,
        ..PushMessage::default()
    }
}

fn of_kind(kind: PushKind) -> PushMessage {
    PushMessage {
        kind: kind.into(),
        ..PushMessage::default()
    }
}

/// A channel and the texts published there by one command; a push that is no message shows as its
/// kind.
type Published = (String, Vec<String>);

fn published(words: &[Vec<u8>]) -> Published {
    let [command, channel, payload] = words else {
        panic!("{} words", words.len());
    };
    assert_eq!(command, b"PUBLISH");
    let pushes = if payload.first() == Some(&0x0a) {
        let batch = PushBatch::decode(&payload[..]).expect("a batch");
        assert_eq!(
            batch.encode_to_vec(),
            *payload,
            "as the message encodes itself"
        );
        batch.messages
    } else {
        vec![PushMessage::decode(&payload[..]).expect("a push")]
    };
    let shown = pushes.into_iter().map(|push| match push.kind() {
        PushKind::Message => push.text,
        kind => format!("{kind:?}"),
    });
    let channel = String::from_utf8(channel.clone()).expect("a name");
    (channel, shown.collect())
}

/// Takes commands off the front of what a client sent.
fn commands(bytes: &mut Vec<u8>) -> Vec<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    while let Some((command, taken)) = command(bytes) {
        bytes.drain(..taken);
        found.push(command);
    }
    found
}

/// One array of bulk strings, if it has come whole.
fn command(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let line = |at: usize, mark: u8| -> Option<(usize, usize)> {
        let rest = bytes.get(at..)?;
        let end = memchr::memmem::find(rest, b"\r\n")?;
        assert_eq!(rest[0], mark);
        let number = std::str::from_utf8(&rest[1..end]).expect("digits");
        Some((number.parse().expect("a number"), at + end + 2))
    };
    let (count, mut at) = line(0, b'*')?;
    let mut words = Vec::new();
    for _ in 0..count {
        let (length, begin) = line(at, b'$')?;
        words.push(bytes.get(begin..begin + length)?.to_vec());
        at = begin + length + 2;
    }
    (bytes.len() >= at).then_some((words, at))
}

fn pack(commit: &Commit) -> Vec<Published> {
    let mut bytes = Vec::new();
    let count = Packer::default().pack(commit, &mut bytes);
    let found: Vec<Published> = commands(&mut bytes)
        .iter()
        .map(|words| published(words))
        .collect();
    assert!(bytes.is_empty());
    assert_eq!(found.len(), count);
    found
}

#[test]
fn with_a_key_each_push_of_a_payload_is_signed_for_its_channel() {
    let key = Arc::new(PushKey::new(b"the secret of the cluster"));
    let to_bob = |text: &str| PushMessage {
        to: 42,
        ..message(text)
    };
    let commit: Commit = vec![
        (route(0), to_bob("a")),
        (route(0), to_bob("b")),
        (route(1), of_kind(PushKind::Kick)),
    ];
    let mut packer = Packer::new(Some(Arc::clone(&key)));
    let mut bytes = Vec::new();
    packer.pack(&commit, &mut bytes);
    packer.pack_catch_up(&mut bytes);
    let mut read = Vec::new();
    for words in commands(&mut bytes) {
        // As the messages encode themselves, the seal their last field.
        let (channel, _) = published(&words);
        let payload = push_payload::read(&channel, &words[2], Belief::Signed(&key));
        for message in payload.expect("it parses") {
            match message {
                Ok(message) => read.push((channel.clone(), message.kind(), message.text)),
                // A kick to nobody is no push, but it is signed.
                Err(refused) => assert_eq!(refused, Refused::NotAPush),
            }
        }
    }
    let expected = [
        ("im:push:gateway#0", PushKind::Message, "a"),
        ("im:push:gateway#0", PushKind::Message, "b"),
        ("im:broadcast", PushKind::CatchUp, ""),
    ];
    let expected =
        expected.map(|(channel, kind, text)| (channel.to_owned(), kind, text.to_owned()));
    assert_eq!(read, expected);
}

fn expected(channel: &str, texts: &[&str]) -> Published {
    let texts = texts.iter().map(ToString::to_string).collect();
    (channel.to_owned(), texts)
}

#[test]
fn messages_of_a_commit_travel_together_by_channel() {
    let commit = vec![
        (route(0), message("a")),
        (route(1), message("b")),
        (route(0), message("c")),
        (Channel::Group(7), message("d")),
        (route(0), message("e")),
    ];
    assert_eq!(
        pack(&commit),
        [
            expected("im:push:gateway#0", &["a", "c", "e"]),
            expected("im:push:gateway#1", &["b"]),
            expected("im:group:7", &["d"]),
        ]
    );
    assert_eq!(
        pack(&vec![(route(0), message("alone"))]),
        [expected("im:push:gateway#0", &["alone"])]
    );
}

#[test]
fn nothing_passes_a_push_that_changes_who_gets_what() {
    let commit = vec![
        (Channel::Group(7), message("before")),
        (route(0), of_kind(PushKind::GroupLeft)),
        (Channel::Group(7), message("after")),
        (route(0), message("later")),
    ];
    assert_eq!(
        pack(&commit),
        [
            expected("im:group:7", &["before"]),
            expected("im:push:gateway#0", &["GroupLeft"]),
            expected("im:group:7", &["after"]),
            expected("im:push:gateway#0", &["later"]),
        ]
    );
}

#[test]
fn a_payload_does_not_grow_without_end() {
    let commit: Commit = (0..10)
        .map(|_| (route(0), message(&"x".repeat(100 * 1024))))
        .collect();
    let found = pack(&commit);
    assert_eq!(found.len(), 5);
    assert!(found.iter().all(|(_, texts)| texts.len() == 2));
}

/// What a login is answered with.
const LOGGED_IN: &str = "%1\r\n$5\r\nproto\r\n:3";

/// A Redis as a publisher sees it: takes its commands and answers what it is told to.
struct FakeRedis {
    listener: TcpListener,
}

struct Session {
    stream: TcpStream,
    received: Vec<u8>,
    waiting: VecDeque<Vec<Vec<u8>>>,
}

impl FakeRedis {
    async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self { listener }
    }

    fn settings(&self, password_file: Option<&Path>) -> Redis {
        Redis {
            address: self.listener.local_addr().expect("an address").to_string(),
            tls: None,
            user: None,
            password_file: password_file.map(Path::to_owned),
            push_secret_file: None,
        }
    }

    async fn accept(&self) -> Session {
        let accepted = timeout(PATIENCE, self.listener.accept()).await;
        let (stream, _) = accepted.expect("in time").expect("a connection");
        Session {
            stream,
            received: Vec::new(),
            waiting: Default::default(),
        }
    }
}

impl Session {
    /// The next command.
    async fn next(&mut self) -> Vec<Vec<u8>> {
        loop {
            if let Some(command) = self.waiting.pop_front() {
                return command;
            }
            timeout(PATIENCE, self.stream.readable())
                .await
                .expect("in time")
                .expect("open");
            let mut buffer = [0; 4096];
            match self.stream.try_read(&mut buffer) {
                Ok(0) => panic!("the publisher has gone"),
                Ok(count) => {
                    self.received.extend_from_slice(&buffer[..count]);
                    self.waiting.extend(commands(&mut self.received));
                }
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    }

    fn answer(&self, line: &str) {
        let bytes = format!("{line}\r\n");
        let written = self.stream.try_write(bytes.as_bytes());
        assert_eq!(written.expect("room for a line"), bytes.len());
    }

    async fn log_in(&mut self) {
        let login = self.next().await;
        assert_eq!(login[0], b"HELLO");
        self.answer(LOGGED_IN);
    }

    async fn expect_catch_up(&mut self) {
        let first = published(&self.next().await);
        assert_eq!(first, expected("im:broadcast", &["CatchUp"]));
    }
}

/// Runs `test` beside the publisher's task, on one thread as in the process.
fn beside_publisher<F: Future<Output = ()>>(
    password: Option<&'static str>,
    test: impl FnOnce(FakeRedis, Arc<RedisPublisher>, Arc<metrics::Server>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let redis = FakeRedis::listen().await;
        let numbers: Arc<metrics::Server> = Arc::default();
        let directory = tempfile::tempdir().expect("a directory");
        let password_file = password.map(|password| {
            let path = directory.path().join("password");
            fs::write(&path, password).expect("a file");
            path
        });
        let settings = redis.settings(password_file.as_deref());
        let (handle, task) = publisher(settings, None, Arc::clone(&numbers));
        let task = tokio::spawn(task);
        test(redis, Arc::clone(&handle), numbers).await;
        handle.finish();
        timeout(PATIENCE, task)
            .await
            .expect("it ends")
            .expect("without a panic");
    });
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

fn dropped(numbers: &metrics::Server) -> u64 {
    numbers.drops().map(|(_, count)| count).sum()
}

#[test]
fn every_connection_begins_with_the_password_and_a_catch_up() {
    beside_publisher(Some("open sesame"), |redis, handle, numbers| async move {
        handle.publish(vec![(route(0), message("too early"))]);
        assert_eq!(dropped(&numbers), 1);
        for round in 0..2 {
            let mut session = redis.accept().await;
            let login = session.next().await;
            let credentials = [&b"default"[..], b"open sesame"];
            assert_eq!(login[..3], [&b"HELLO"[..], b"3", b"AUTH"]);
            assert_eq!(login[3..], credentials);
            handle.publish(vec![(route(0), message("still too early"))]);
            session.answer(LOGGED_IN);
            session.expect_catch_up().await;
            handle.publish(vec![(route(0), message("one")), (route(0), message("two"))]);
            let pushed = published(&session.next().await);
            assert_eq!(pushed, expected("im:push:gateway#0", &["one", "two"]));
            session.answer(":1");
            session.answer(":1");
            until("connected", || numbers.publisher_connected.get() == 1).await;
            until("published", || numbers.publishes.get() == round + 1).await;
            drop(session);
            until("lost", || numbers.publisher_connected.get() == 0).await;
        }
    });
}

#[test]
fn a_wrong_password_or_a_redis_that_takes_no_publish_is_no_connection() {
    beside_publisher(Some("guess"), |redis, _, numbers| async move {
        let mut session = redis.accept().await;
        session.next().await;
        session.answer("-WRONGPASS invalid username-password pair or user is disabled.");
        until("told", || {
            let reason = numbers.publisher_outage.reason();
            reason.is_some_and(|reason| reason.contains("WRONGPASS"))
        })
        .await;
        let mut session = redis.accept().await;
        session.log_in().await;
        session.expect_catch_up().await;
        session.answer("-NOPERM this user has no permissions to access one of the channels");
        let reason = || numbers.publisher_outage.reason().unwrap_or_default();
        until("told", || reason().contains("no permissions")).await;
        let _session = redis.accept().await;
        assert_eq!(numbers.publisher_connected.get(), 0);
        assert!(!reason().contains("guess"));
    });
}

#[test]
fn a_push_that_redis_refused_is_made_up_for() {
    beside_publisher(None, |redis, handle, numbers| async move {
        let mut session = redis.accept().await;
        session.log_in().await;
        session.expect_catch_up().await;
        session.answer(":1");
        handle.publish(vec![(route(0), message("one"))]);
        session.next().await;
        session.answer("-OOM command not allowed when used memory > 'maxmemory'.");
        session.expect_catch_up().await;
        session.answer(":1");
        assert_eq!(numbers.publish_failures.get(), 1);
        until("connected", || numbers.publisher_connected.get() == 1).await;
        let reason = numbers.publisher_outage.reason().expect("told");
        assert!(reason.contains("OOM"), "{reason}");
    });
}

#[test]
fn what_was_handed_over_before_the_end_is_published_and_answered() {
    beside_publisher(None, |redis, handle, numbers| async move {
        let mut session = redis.accept().await;
        session.log_in().await;
        session.expect_catch_up().await;
        session.answer(":1");
        handle.publish(vec![(route(0), message("last"))]);
        handle.finish();
        let pushed = published(&session.next().await);
        assert_eq!(pushed, expected("im:push:gateway#0", &["last"]));
        session.answer(":0");
        until("answered", || numbers.publishes.get() == 1).await;
    });
}

#[test]
fn what_got_lost_is_made_up_for_before_the_end() {
    beside_publisher(None, |redis, handle, numbers| async move {
        let mut session = redis.accept().await;
        session.log_in().await;
        session.expect_catch_up().await;
        session.answer(":1");
        handle.publish(vec![(route(0), message("refused"))]);
        session.next().await;
        handle.finish();
        session.answer("-OOM command not allowed when used memory > 'maxmemory'.");
        session.expect_catch_up().await;
        session.answer(":1");
        until("all answered", || numbers.publisher_connected.get() == 0).await;
        assert_eq!(numbers.publish_failures.get(), 1);
    });
}

#[test]
fn a_burst_arrives_whole_and_in_order_over_a_slow_connection() {
    beside_publisher(None, |redis, handle, numbers| async move {
        let mut session = redis.accept().await;
        session.log_in().await;
        session.expect_catch_up().await;
        session.answer(":1");
        let padding = "x".repeat(100 * 1024);
        for number in 0..200 {
            handle.publish(vec![(route(0), message(&format!("{number} {padding}")))]);
        }
        for number in 0..200 {
            let (_, texts) = published(&session.next().await);
            assert!(texts[0].starts_with(&format!("{number} ")));
            session.answer(":1");
        }
        until("answered", || numbers.publishes.get() == 200).await;
        assert_eq!(dropped(&numbers), 0);
    });
}

#[test]
fn a_redis_that_is_not_there_costs_nobody_anything() {
    beside_publisher(None, |redis, handle, numbers| async move {
        drop(redis);
        until("closed", || numbers.publisher_connected.get() == 0).await;
        for _ in 0..100 {
            handle.publish(vec![(Channel::Broadcast, message("lost"))]);
        }
        assert_eq!(dropped(&numbers), 100);
    });
}

#[test]
fn a_parser_of_redis_reads_what_is_packed() {
    let mut bytes = Vec::new();
    Packer::default().pack_command(&["AUTH", "default", "open sesame"], &mut bytes);
    let parsed = redis::parse_redis_value(&bytes).expect("a command");
    let words = ["AUTH", "default", "open sesame"].map(|word| Value::BulkString(word.into()));
    assert_eq!(parsed, Value::Array(words.to_vec()));
}
