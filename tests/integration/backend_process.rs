//! `im-gateway backend`, spoken to as a gateway speaks to it: mprpc in both reply forms, and a real
//! Redis.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use im_gateway::{
    contract::methods::{Answer, Method, method},
    proto::{
        self, BindRouteRequest, C2cMsg, Code, GetProfileRequest, LoginRequest, PingRequest,
        PingResponse, PullOfflineRequest, PushBatch, PushKind, PushMessage, QueryRouteRequest,
        RegisterRequest, ReplyStatus, RpcHeader, SendRequest,
    },
    rpc::wire::mprpc::{
        CallHead, read_classic_reply, read_reply, write_call, write_classic_length,
    },
};
use prost::Message;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    common::{
        DEADLINE,
        backend_process::BackendProcess,
        cluster::Ground,
        config::Config,
        eventually,
        process::{Process, run_to_exit},
    },
    redis_server::RedisServer,
};

const ROUTE: &str = "gateway-a#0";
const REPLY_MAX_BYTES: usize = 16 * 1024 * 1024;

fn start(redis: &RedisServer, configure: impl FnOnce(&mut Config)) -> Process {
    let mut backend = BackendProcess::launch(|config| {
        config.set("redis", "address", redis.address());
        configure(config);
    });
    backend.wait_until_ready();
    backend.into_process()
}

/// One connection to a backend.
struct Caller {
    stream: TcpStream,
    received: Vec<u8>,
    next_id: u64,
}

impl Caller {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it accepts");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        Self {
            stream,
            received: Vec::new(),
            next_id: 1,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("it reads");
    }

    /// Reads until `parse` finds something at the front.
    fn read<T>(&mut self, parse: impl Fn(&[u8]) -> Option<(T, usize)>) -> T {
        loop {
            if let Some((found, taken)) = parse(&self.received) {
                self.received.drain(..taken);
                return found;
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).expect("a reply in time");
            assert!(count > 0, "the connection was closed");
            self.received.extend_from_slice(&buffer[..count]);
        }
    }

    fn classic_reply<R: Message + Default>(&mut self) -> R {
        let message = self.read(|bytes| {
            let reply = read_classic_reply(bytes, REPLY_MAX_BYTES).expect("a reply");
            reply.map(|(message, taken)| (message.to_vec(), taken))
        });
        R::decode(&message[..]).expect("a message")
    }

    fn reply_with_id(&mut self) -> (u64, ReplyStatus, Vec<u8>) {
        self.read(|bytes| {
            let reply = read_reply(bytes, REPLY_MAX_BYTES).expect("a reply");
            reply.map(|(frame, taken)| {
                let header = frame.header;
                (
                    (header.call_id, header.status(), frame.body.to_vec()),
                    taken,
                )
            })
        })
    }

    /// Calls and waits, with the classic reply.
    fn classic<M: Method>(&mut self, request: M::Request) -> M::Response {
        self.write(&call::<M>(&request, 0));
        self.classic_reply()
    }

    /// Calls and waits, with an id.
    fn with_id<M: Method>(&mut self, request: M::Request) -> M::Response {
        self.next_id += 1;
        let id = self.next_id;
        self.write(&call::<M>(&request, id));
        let (call_id, status, body) = self.reply_with_id();
        assert_eq!((call_id, status), (id, ReplyStatus::ReplyOk));
        M::Response::decode(&body[..]).expect("a message")
    }

    fn is_closed_by_peer(&mut self) -> bool {
        let mut buffer = [0; 64];
        // Closed with bytes unread, the connection may be reset.
        matches!(self.stream.read(&mut buffer), Ok(0) | Err(_))
    }
}

fn call<M: Method>(request: &M::Request, call_id: u64) -> Vec<u8> {
    named_call(M::SERVICE.name(), M::NAME, request, call_id)
}

fn named_call(service: &str, method: &str, request: &impl Message, call_id: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = CallHead {
        service,
        method,
        call_id,
        timeout_ms: 0,
    };
    write_call(head, request, &mut bytes);
    bytes
}

#[track_caller]
fn assert_ok(answer: &impl Answer) {
    let result = answer.result().expect("a result");
    assert_eq!(result.code(), Code::Ok, "{}", result.msg);
}

fn credentials(name: &str) -> (Vec<u8>, Vec<u8>) {
    (name.into(), b"wonderland".to_vec())
}

fn register(caller: &mut Caller, name: &str) -> i64 {
    let (username, password) = credentials(name);
    let answer = caller.classic::<method::Register>(RegisterRequest {
        username,
        password,
        ..Default::default()
    });
    assert_ok(&answer);
    answer.user_id
}

fn bind(user_id: i64) -> BindRouteRequest {
    BindRouteRequest {
        user_id,
        gateway_id: ROUTE.to_owned(),
        device: "cli".to_owned(),
        session_id: 7,
        max_devices: 5,
        ..Default::default()
    }
}

fn message(from: i64, to: i64, text: &str) -> SendRequest {
    SendRequest {
        msg: Some(C2cMsg {
            from,
            to,
            text: text.to_owned(),
            ts_ms: 1,
            ..C2cMsg::default()
        }),
        ..SendRequest::default()
    }
}

fn inbox(caller: &mut Caller, user_id: i64) -> Vec<String> {
    let request = PullOfflineRequest {
        user_id,
        ..PullOfflineRequest::default()
    };
    let answer = caller.with_id::<method::PullOffline>(request);
    assert_ok(&answer);
    answer.msg_list.into_iter().map(|msg| msg.text).collect()
}

/// A subscriber of some channels.
struct Subscriber {
    pushes: std::sync::mpsc::Receiver<(String, PushMessage)>,
}

impl Subscriber {
    fn of(redis: &RedisServer, channels: &[&str]) -> Self {
        let client = redis::Client::open(redis.url()).expect("an address");
        let mut connection = client.get_connection().expect("Redis answers");
        let channels: Vec<String> = channels.iter().map(ToString::to_string).collect();
        let (sender, pushes) = std::sync::mpsc::channel();
        let (subscribed, is_subscribed) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let mut pubsub = connection.as_pubsub();
            for channel in &channels {
                pubsub.subscribe(channel).expect("SUBSCRIBE");
            }
            let _ = subscribed.send(());
            // It ends with the server, or when nobody listens any more.
            while let Ok(published) = pubsub.get_message() {
                let channel = published.get_channel_name().to_owned();
                for push in pushes_in(published.get_payload_bytes()) {
                    if sender.send((channel.clone(), push)).is_err() {
                        return;
                    }
                }
            }
        });
        is_subscribed.recv_timeout(DEADLINE).expect("a subscriber");
        Self { pushes }
    }

    fn next(&self) -> (String, PushMessage) {
        self.pushes.recv_timeout(DEADLINE).expect("a push")
    }

    fn is_quiet(&self) -> bool {
        self.pushes.try_recv().is_err()
    }
}

fn pushes_in(payload: &[u8]) -> Vec<PushMessage> {
    if payload.first() == Some(&0x0a) {
        return PushBatch::decode(payload).expect("a batch").messages;
    }
    vec![PushMessage::decode(payload).expect("a push")]
}

#[test]
fn calls_are_served_in_both_reply_forms_and_outlive_a_kill_9() {
    let redis = RedisServer::start();
    let mut process = start(&redis, |_| {});
    let mut caller = Caller::connect(process.address());

    let alice = register(&mut caller, "alice");
    let bob = register(&mut caller, "bob");
    let (username, password) = credentials("alice");
    let login = caller.with_id::<method::Login>(LoginRequest {
        username,
        password,
        ..Default::default()
    });
    assert_ok(&login);
    assert_eq!(login.user_id, alice);
    let (username, password) = (b"alice".to_vec(), b"guess".to_vec());
    let login = caller.classic::<method::Login>(LoginRequest {
        username,
        password,
        ..Default::default()
    });
    assert_ne!(login.result.expect("a result").code(), Code::Ok);

    assert_ok(&caller.with_id::<method::BindRoute>(bind(bob)));
    let subscriber = Subscriber::of(&redis, &["im:push:gateway-a#0", "im:broadcast"]);
    let sent = caller.with_id::<method::Send>(message(alice, bob, "one"));
    assert_ok(&sent);
    let (channel, push) = subscriber.next();
    assert_eq!(channel, "im:push:gateway-a#0");
    assert_eq!((push.text.as_str(), push.to, push.seq), ("one", bob, 1));
    assert_eq!(push.msg_id, sent.msg_id);
    let sent = caller.classic::<method::Send>(message(alice, bob, "two"));
    assert_ok(&sent);
    assert_eq!(subscriber.next().1.text, "two");

    process.kill_9();
    process.restart();
    // What the predecessor may have committed and not published is fetched, before anything else is
    // pushed.
    let (channel, push) = subscriber.next();
    assert_eq!(channel, "im:broadcast");
    assert_eq!(push.kind(), PushKind::CatchUp);
    process.wait_until_ready();

    let mut caller = Caller::connect(process.address());
    assert_eq!(inbox(&mut caller, bob), ["one", "two"]);
    let query = QueryRouteRequest { user_id: bob };
    let routes = caller.with_id::<method::QueryRoute>(query);
    assert_ok(&routes);
    assert_eq!(routes.gateway_id, ROUTE);
    assert_ok(&caller.with_id::<method::Send>(message(alice, bob, "three")));
    assert_eq!(subscriber.next().1.text, "three");
}

#[test]
fn a_hundred_classic_calls_in_one_write_are_answered_in_their_order() {
    let redis = RedisServer::start();
    let process = start(&redis, |_| {});
    let mut caller = Caller::connect(process.address());
    let users: Vec<i64> = ["ann", "ben", "cid"]
        .iter()
        .map(|name| register(&mut caller, name))
        .collect();
    let mut bytes = Vec::new();
    for number in 0..100 {
        match number % 4 {
            // A login goes by the password threads, and would be overtaken.
            0 if number < 8 => {
                let (username, password) = credentials("ann");
                bytes.extend(call::<method::Login>(
                    &LoginRequest {
                        username,
                        password,
                        ..Default::default()
                    },
                    0,
                ));
            }
            1 => bytes.extend(named_call(
                "HealthService",
                "Ping",
                &PingRequest {
                    payload: number.to_string(),
                },
                0,
            )),
            _ => {
                let user_id = users[number % 3];
                bytes.extend(call::<method::GetProfile>(
                    &GetProfileRequest { user_id },
                    0,
                ));
            }
        }
    }
    caller.write(&bytes);
    for number in 0..100 {
        match number % 4 {
            0 if number < 8 => {
                let login: proto::LoginResponse = caller.classic_reply();
                assert_eq!(login.user_id, users[0], "reply {number}");
            }
            1 => {
                let pong: PingResponse = caller.classic_reply();
                assert_eq!(pong.echo, number.to_string());
                assert!(pong.ts_server_ms > 1_700_000_000_000);
            }
            _ => {
                let profile: proto::GetProfileResponse = caller.classic_reply();
                assert_eq!(
                    profile.name,
                    ["ann", "ben", "cid"][number % 3],
                    "reply {number}"
                );
            }
        }
    }
}

#[test]
fn a_call_may_come_byte_by_byte() {
    let redis = RedisServer::start();
    let process = start(&redis, |_| {});
    let mut caller = Caller::connect(process.address());
    for id in [0, 5] {
        let ping = PingRequest {
            payload: "slow".to_owned(),
        };
        for byte in named_call("HealthService", "Ping", &ping, id) {
            caller.write(&[byte]);
        }
    }
    let pong: PingResponse = caller.classic_reply();
    assert_eq!(pong.echo, "slow");
    let (call_id, status, body) = caller.reply_with_id();
    assert_eq!((call_id, status), (5, ReplyStatus::ReplyOk));
    assert_eq!(
        PingResponse::decode(&body[..]).expect("a pong").echo,
        "slow"
    );
}

#[test]
fn what_is_not_understood_is_told_by_id_and_left_unanswered_without() {
    let redis = RedisServer::start();
    let process = start(&redis, |config| {
        let services = vec![toml::Value::from("user"), toml::Value::from("presence")];
        config.set("backend", "services", services);
    });
    let mut caller = Caller::connect(process.address());
    let nothing = PingRequest::default();
    for (service, method, status) in [
        ("UserService", "Fly", ReplyStatus::ReplyUnknownMethod),
        ("MailService", "Send", ReplyStatus::ReplyUnknownMethod),
        ("HealthService", "Watch", ReplyStatus::ReplyUnknownMethod),
        // Not offered by this process.
        ("MessageService", "Send", ReplyStatus::ReplyUnknownMethod),
    ] {
        caller.write(&named_call(service, method, &nothing, 0));
        caller.write(&named_call(service, method, &nothing, 9));
        assert_eq!(caller.reply_with_id(), (9, status, Vec::new()), "{method}");
    }
    // A string with bytes that are no text does not parse.
    let header = |call_id| {
        RpcHeader {
            service_name: b"HealthService".to_vec(),
            method_name: b"Ping".to_vec(),
            args_size: 3,
            call_id,
            timeout_ms: 0,
        }
        .encode_to_vec()
    };
    for call_id in [0, 11] {
        let mut bytes = Vec::new();
        write_classic_length(header(call_id).len(), &mut bytes);
        bytes.extend(header(call_id));
        bytes.extend(b"\x0a\x01\xff");
        caller.write(&bytes);
    }
    let refused = (11, ReplyStatus::ReplyBadRequest, Vec::new());
    assert_eq!(caller.reply_with_id(), refused);
    // The connection goes on.
    caller.write(&named_call("HealthService", "Ping", &nothing, 0));
    let _: PingResponse = caller.classic_reply();

    let of = |service: &str, outcome: &str| {
        let labels = [("service", service), ("outcome", outcome)];
        process.metric("rpc_calls_total", &labels)
    };
    assert_eq!(of("UserService", "unknown_method"), 2.0);
    assert_eq!(of("unknown", "unknown_method"), 2.0);
    assert_eq!(of("HealthService", "bad_request"), 2.0);
    assert_eq!(of("HealthService", "answered"), 1.0);
}

#[test]
fn garbage_closes_its_connection_and_no_other() {
    let redis = RedisServer::start();
    let process = start(&redis, |_| {});
    let mut other = Caller::connect(process.address());
    register(&mut other, "alice");
    let mut huge = Vec::new();
    let header = RpcHeader {
        args_size: u32::MAX,
        ..RpcHeader::default()
    }
    .encode_to_vec();
    write_classic_length(header.len(), &mut huge);
    huge.extend(header);
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[4, 0, 0, 0, 255, 255, 255, 255],
        &huge,
    ] {
        let mut caller = Caller::connect(process.address());
        caller.write(garbage);
        assert!(caller.is_closed_by_peer());
    }
    register(&mut other, "bob");
    eventually("the closed ones are counted", || {
        let framing = [("reason", "framing")];
        process.metric("rpc_connections_closed_total", &framing) == 3.0
            && process.metric("rpc_connections", &[]) == 1.0
    });
}

#[test]
fn pushes_are_dropped_while_redis_is_away_and_go_on_when_it_is_back() {
    let mut redis = RedisServer::start_with(&["--requirepass", "open sesame"]);
    let secrets = TempDir::new().expect("a temporary directory");
    let password_file = secrets.path().join("password");
    std::fs::write(&password_file, "open sesame\n").expect("a file");
    let mut process = start(&redis, |config| {
        config.set(
            "redis",
            "password_file",
            password_file.display().to_string(),
        );
    });
    let mut caller = Caller::connect(process.address());
    let (alice, bob) = (register(&mut caller, "alice"), register(&mut caller, "bob"));
    assert_ok(&caller.with_id::<method::BindRoute>(bind(bob)));

    redis.kill_9();
    eventually("it is not ready", || process.readiness() == Some(503));
    // Nothing waits for Redis.
    assert_ok(&caller.with_id::<method::Send>(message(alice, bob, "meanwhile")));
    assert!(process.metric("pushes_unpublished_total", &[("reason", "disconnected")]) >= 1.0);

    redis.restart();
    process.wait_until_ready();
    assert_eq!(inbox(&mut caller, bob), ["meanwhile"]);
    assert_eq!(process.metric("publisher_connected", &[]), 1.0);
    let (stdout, stderr) = process.output();
    assert!(!stdout.contains("sesame") && !stderr.contains("sesame"));
    assert!(process.is_running());
}

#[test]
fn a_redis_that_hangs_is_noticed() {
    let redis = RedisServer::start();
    let process = start(&redis, |_| {});
    let mut caller = Caller::connect(process.address());
    let (alice, bob) = (register(&mut caller, "alice"), register(&mut caller, "bob"));
    assert_ok(&caller.with_id::<method::BindRoute>(bind(bob)));
    redis.pause();
    assert_ok(&caller.with_id::<method::Send>(message(alice, bob, "into the void")));
    eventually("the time-out", || process.readiness() == Some(503));
    assert_eq!(process.metric("publish_failures_total", &[]), 1.0);
    redis.resume();
    eventually("it is ready again", || process.readiness() == Some(200));
}

#[test]
fn a_stop_answers_what_is_under_way_and_exits_with_0() {
    let redis = RedisServer::start();
    let mut process = start(&redis, |_| {});
    let subscriber = Subscriber::of(&redis, &["im:push:gateway-a#0"]);
    let mut caller = Caller::connect(process.address());
    let (alice, bob) = (register(&mut caller, "alice"), register(&mut caller, "bob"));
    assert_ok(&caller.with_id::<method::BindRoute>(bind(bob)));
    // Passwords take their time, and the message in front of them says that all was taken.
    let (username, password) = credentials("alice");
    let login = LoginRequest {
        username,
        password,
        ..Default::default()
    };
    let mut bytes = call::<method::Send>(&message(alice, bob, "last"), 1);
    for id in 2..6 {
        bytes.extend(call::<method::Login>(&login, id));
    }
    caller.write(&bytes);
    assert_eq!(caller.reply_with_id().0, 1);
    process.signal(Signal::TERM);
    let mut answered: BTreeMap<u64, ReplyStatus> = BTreeMap::new();
    for _ in 2..6 {
        let (id, status, _) = caller.reply_with_id();
        answered.insert(id, status);
    }
    assert_eq!(answered.len(), 4);
    assert!(caller.is_closed_by_peer());
    drop(caller);
    assert_eq!(process.wait_exit(), Some(0));
    assert_eq!(subscriber.next().1.text, "last");
    assert!(subscriber.is_quiet());
}

#[test]
fn a_stop_leaves_zookeeper_before_it_closes_a_connection() {
    let ground = Ground::start();
    let mut process = start(&ground.redis, |config| ground.configure_backend(config));
    let znodes = ground.znodes();
    let instances = "/UserService/instances";
    assert_eq!(znodes.children(instances).len(), 1);
    let mut caller = Caller::connect(process.address());
    register(&mut caller, "alice");
    process.signal(Signal::TERM);
    eventually("the nodes are gone", || {
        znodes.children(instances).is_empty()
    });
    // Calls that gateways made before they heard of it are answered still.
    register(&mut caller, "bob");
    assert!(caller.is_closed_by_peer());
    drop(caller);
    assert_eq!(process.wait_exit(), Some(0));
}

#[test]
fn a_peer_that_does_not_read_is_not_read_from_either() {
    let redis = RedisServer::start();
    let process = start(&redis, |_| {});
    let mut deaf = Caller::connect(process.address());
    deaf.stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .expect("a time-out");
    let ping = PingRequest {
        payload: "x".repeat(64 * 1024),
    };
    let bytes = named_call("HealthService", "Ping", &ping, 1);
    let begun = Instant::now();
    let mut written = 0;
    while deaf.stream.write_all(&bytes).is_ok() {
        written += bytes.len();
        assert!(
            begun.elapsed() < DEADLINE,
            "it takes {written} bytes and more"
        );
    }
    // Others are served as ever.
    register(&mut Caller::connect(process.address()), "alice");
}

#[test]
fn wrong_settings_are_one_message_each() {
    let missing = [("IM_GATEWAY__REDIS__PASSWORD_FILE", "/nowhere/password")];
    let finished = run_to_exit(&["backend"], &missing);
    assert_eq!(finished.code, Some(4), "{finished:?}");
    assert!(
        finished.stderr.contains("/nowhere/password"),
        "{finished:?}"
    );

    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = holder.local_addr().expect("an address").to_string();
    let finished = run_to_exit(&["backend"], &[("IM_GATEWAY__BACKEND__LISTEN", &address)]);
    assert_eq!(finished.code, Some(4), "{finished:?}");
    assert!(finished.stderr.contains(&address), "{finished:?}");
    assert_eq!(
        run_to_exit(&["backend", "--service", "mail"], &[]).code,
        Some(2)
    );
}
