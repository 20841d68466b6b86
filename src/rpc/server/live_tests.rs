//! The server with its sockets: who gets a place, and how long it may be kept.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use prost::Message;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::runtime::Builder;

use super::*;
use crate::{
    contract::bus::{Channel, Publisher},
    proto::{PingRequest, PushMessage},
    rpc::wire::mprpc::{CallHead, write_call},
    service::{self, ServiceOptions, Services, StorageMode},
};

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

struct Nobody;

impl Publisher for Nobody {
    fn publish(&self, _: Vec<(Channel, PushMessage)>) {}
}

/// A server on a port of its own, running until it is dropped.
struct World {
    address: SocketAddr,
    metrics: Arc<metrics::Server>,
    _stop: oneshot::Sender<()>,
    _services: Services,
    _directory: TempDir,
}

impl World {
    fn start(max_connections: usize, idle_timeout: Duration, gateways: &[IpAddr]) -> Self {
        let directory = TempDir::new().expect("a directory");
        let options = ServiceOptions {
            data_dir: directory.path().to_owned(),
            inbox_limit: 100,
            password_threads: 1,
            password_queue: 1,
            own_worker_id: 1023,
            foreign_users: false,
            names: Default::default(),
            storage: StorageMode::Embedded,
        };
        let services = service::start(
            options,
            Arc::new(Nobody),
            Arc::default(),
            Arc::new(|_: bool| ()),
        )
        .expect("services");
        let metrics: Arc<metrics::Server> = Arc::default();
        let known = (!gateways.is_empty()).then(|| Arc::new(gateways.iter().copied().collect()));
        let mut server = Server::new(
            &Service::ALL,
            max_connections,
            services.client(),
            Box::new(move || known.clone()),
            Arc::clone(&metrics),
        );
        server.idle_timeout = idle_timeout;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime
                .expect("a runtime")
                .block_on(server.run(listener, stopped))
        });
        Self {
            address,
            metrics,
            _stop: stop,
            _services: services,
            _directory: directory,
        }
    }

    fn connect(&self, from: u8) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, from), 0));
        socket.bind(&source.into()).expect("a source");
        socket.connect(&self.address.into()).expect("a connection");
        socket.set_read_timeout(Some(PATIENCE)).expect("patience");
        socket.into()
    }

    fn closed(&self, reason: &str) -> u64 {
        let mut closes = self.metrics.closes();
        closes.find(|(word, _)| *word == reason).expect(reason).1
    }
}

fn ping(payload_bytes: usize) -> Vec<u8> {
    let args = PingRequest {
        payload: "x".repeat(payload_bytes),
    };
    assert!(args.encoded_len() >= payload_bytes);
    let head = CallHead {
        service: "HealthService",
        method: "Ping",
        call_id: 1,
        timeout_ms: 0,
    };
    let mut bytes = Vec::new();
    write_call(head, &args, &mut bytes);
    bytes
}

/// Whether the server answers on this connection, rather than ending it.
fn is_served(stream: &mut TcpStream) -> bool {
    // Written into a connection that was closed, it is lost.
    let _ = stream.write_all(&ping(1));
    matches!(stream.read(&mut [0]), Ok(1))
}

/// Waits until the server ends the connection, by a reset where it left something unread.
fn ends(stream: &mut TcpStream) {
    if let Err(error) = stream.read_to_end(&mut Vec::new()) {
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_connection_over_which_nothing_goes_ends() {
    let world = World::start(8, Duration::from_millis(200), &[]);
    let mut silent = world.connect(1);
    let mut heard = world.connect(1);
    assert!(is_served(&mut heard));
    ends(&mut silent);
    ends(&mut heard);
    assert_eq!(world.closed("idle"), 2);
    // Their places are free again.
    for _ in 0..2 {
        assert!(is_served(&mut world.connect(1)));
    }
}

#[test]
fn one_address_gets_a_quarter_of_the_places_and_others_theirs() {
    let world = World::start(8, PATIENCE, &[]);
    let mut held = [world.connect(2), world.connect(2)];
    for stream in &mut held {
        assert!(is_served(stream));
    }
    assert!(!is_served(&mut world.connect(2)));
    assert_eq!(world.closed("per_address"), 1);
    assert!(is_served(&mut world.connect(3)));
}

#[test]
fn half_of_the_places_are_for_registered_gateways() {
    let gateway = IpAddr::from([127, 0, 0, 9]);
    let world = World::start(8, PATIENCE, &[gateway]);
    let mut strangers = Vec::new();
    for from in [2, 2, 3, 3] {
        let mut stranger = world.connect(from);
        assert!(is_served(&mut stranger));
        strangers.push(stranger);
    }
    assert!(!is_served(&mut world.connect(4)));
    assert_eq!(world.closed("strangers"), 1);
    assert!(is_served(&mut world.connect(9)));
}

#[test]
fn half_sent_calls_of_one_address_hold_a_quarter_of_what_all_may() {
    let world = World::start(40, PATIENCE, &[]);
    let long = ping(4 * 1024 * 1024 - 100);
    let half_sent = &long[..long.len() - 1];
    let mut held = Vec::new();
    let mut has_ended = false;
    for _ in 0..5 {
        let mut stream = world.connect(2);
        // The last one is closed while it is written to.
        has_ended = stream.write_all(half_sent).is_err();
        held.push(stream);
    }
    if !has_ended {
        ends(&mut held[4]);
    }
    assert_eq!(world.closed("half_sent"), 1);
    // Others have room, and so has this address once its calls are whole.
    assert!(is_served(&mut world.connect(3)));
    held[0]
        .write_all(&long[long.len() - 1..])
        .expect("a whole call");
    let mut byte = [0];
    assert_eq!(held[0].read(&mut byte).expect("an answer"), 1);
}
