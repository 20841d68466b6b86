//! A remote backend whose connections, clock and servers are the test's.

use std::task::{Context, Poll, Waker};

use prost::Message;

use super::super::*;
use crate::{
    base::random::Random,
    contract::{
        endpoints::{EndpointsBuilder, Instance},
        methods::method,
        mpim::SerialSet,
    },
    proto::{self, RpcHeader},
    rpc::wire::mprpc,
};

pub const TIMEOUT_MS: u64 = 3000;

/// Connections asked for and not opened yet, and what for.
pub type Dialled = Rc<RefCell<Vec<(Rc<Server>, Purpose)>>>;

/// A backend whose connections, clock and servers are the test's.
pub struct World {
    pub remote: Rc<Remote>,
    pub dialled: Dialled,
    pub clock: Rc<Cell<u64>>,
}

/// An open connection, seen from the server.
pub struct Line {
    pub server: Rc<Server>,
    pub connection: Rc<Connection>,
}

/// A call as a server sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub header: RpcHeader,
    pub username: String,
}

pub type Answer = Result<proto::LoginResponse, CallError>;
pub type Flow<'a> = std::pin::Pin<Box<dyn Future<Output = Answer> + 'a>>;

impl World {
    pub fn new(change: impl FnOnce(&mut RemoteOptions)) -> Self {
        let mut options = RemoteOptions {
            timeout_ms: TIMEOUT_MS,
            max_reply_bytes: 1 << 16,
            pool_size: 2,
            connections_per_instance: 1,
            algorithm: Algorithm::RoundRobin,
            max_retries: 3,
            retry_interval_ms: 100,
            breaker_threshold: 3,
            health_check_ms: 1_000_000,
        };
        change(&mut options);
        let dialled = Dialled::default();
        let clock: Rc<Cell<u64>> = Rc::default();
        let dependencies = Dependencies {
            dial: {
                let dialled = Rc::clone(&dialled);
                Box::new(move |_, server, purpose| {
                    dialled.borrow_mut().push((Rc::clone(server), purpose));
                })
            },
            pause: {
                let clock = Rc::clone(&clock);
                Box::new(move |length| {
                    let clock = Rc::clone(&clock);
                    let until_ms = clock.get() + length.as_millis() as u64;
                    Box::pin(std::future::poll_fn(move |_| {
                        if clock.get() >= until_ms {
                            Poll::Ready(())
                        } else {
                            Poll::Pending
                        }
                    }))
                })
            },
            serial: Arc::new(SerialCalls::new(&[
                SerialSet::parse("Send").expect("a method"),
                SerialSet::parse("Register AddFriend").expect("two methods"),
            ])),
            random: Random::seeded(7),
        };
        Self {
            remote: Remote::new(options, Arc::new(metrics::Core::new()), dependencies),
            dialled,
            clock,
        }
    }

    /// A world with User Services of these wires on ports 1, 2, …
    pub fn with(wires: &[Wire]) -> Self {
        let world = Self::new(|_| {});
        world.list(wires);
        world
    }

    pub fn list(&self, wires: &[Wire]) {
        let usual: Vec<_> = wires.iter().map(|wire| (*wire, 100)).collect();
        self.list_weighted(&usual);
    }

    /// As [`list`](Self::list), each with its weight.
    pub fn list_weighted(&self, wires: &[(Wire, u32)]) {
        let mut builder = EndpointsBuilder::default();
        for (index, (wire, weight)) in wires.iter().enumerate() {
            for service in Service::ALL {
                let instance = Instance {
                    address: SocketAddr::from(([127, 0, 0, 1], index as u16 + 1)),
                    wire: *wire,
                    weight: *weight,
                    methods: MethodSet::assumed(service, *wire),
                };
                builder.instance(service, instance);
            }
        }
        let event = BackendEvent::Endpoints(Arc::new(builder.build()));
        self.remote.on_event(event);
    }

    pub fn pass(&self, length_ms: u64) {
        self.clock.set(self.clock.get() + length_ms);
        self.remote.expire_calls(self.clock.get() * 1000);
        self.remote.advance(self.clock.get());
    }

    /// Opens all connections that were asked for, in the order of their ports.
    pub fn open(&self) -> Vec<Line> {
        let mut dialled: Vec<_> = self.dialled.borrow_mut().drain(..).collect();
        dialled.sort_by_key(|(server, _)| server.address);
        dialled
            .into_iter()
            .map(|(server, purpose)| self.open_to(server, purpose))
            .collect()
    }

    pub fn open_to(&self, server: Rc<Server>, purpose: Purpose) -> Line {
        let connection = self.remote.opening(&server, true, purpose);
        assert!(self.remote.opened(&server, &connection));
        Line { server, connection }
    }

    /// All connections that were asked for are refused.
    pub fn refuse(&self) {
        let dialled: Vec<_> = self.dialled.borrow_mut().drain(..).collect();
        for (server, purpose) in dialled {
            let connection = self.remote.opening(&server, true, purpose);
            self.remote.lost(&server, &connection, false);
        }
    }

    pub fn lose(&self, line: &Line) {
        self.remote.lost(&line.server, &line.connection, true);
    }

    pub fn login(&self, username: &str) -> Flow<'_> {
        let request = proto::LoginRequest {
            username: username.into(),
            password: Vec::new(),
            ..Default::default()
        };
        Box::pin(async move { self.remote.call::<method::Login>(request).await })
    }

    pub fn register(&self, username: &str) -> std::pin::Pin<Box<dyn Future<Output = bool> + '_>> {
        let request = proto::RegisterRequest {
            username: username.into(),
            password: Vec::new(),
            ..Default::default()
        };
        Box::pin(async move { self.remote.call::<method::Register>(request).await.is_ok() })
    }

    pub fn answer(&self, line: &Line, bytes: &[u8]) {
        self.remote
            .received(&line.server, &line.connection, bytes)
            .expect("frames");
    }
}

pub fn poll<T>(flow: &mut std::pin::Pin<Box<dyn Future<Output = T> + '_>>) -> Option<T> {
    match flow.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

impl Line {
    /// What was said over it since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        let mut bytes = Vec::new();
        let sent = self.connection.send_buffer.send(|unsent| {
            bytes.extend_from_slice(unsent);
            Ok::<_, ()>(unsent.len())
        });
        sent.expect("sent");
        let mut rest = &bytes[..];
        let mut calls = Vec::new();
        while let Some((frame, taken)) = mprpc::read_call(rest, 1 << 20).expect("calls") {
            let login = proto::LoginRequest::decode(frame.args).unwrap_or_default();
            calls.push(Asked {
                header: frame.header,
                username: String::from_utf8_lossy(&login.username).into_owned(),
            });
            rest = &rest[taken..];
        }
        assert!(rest.is_empty());
        calls
    }

    pub fn is_closed(&self) -> bool {
        self.connection
            .send_buffer
            .is_closed(&Context::from_waker(Waker::noop()))
    }
}

pub fn response(username: &str) -> proto::LoginResponse {
    proto::LoginResponse {
        result: Some(proto::Result::default()),
        user_id: 1,
        token: username.to_owned(),
        ..Default::default()
    }
}

pub fn reply(wire: Wire, call_id: u64, username: &str) -> Vec<u8> {
    let body = response(username).encode_to_vec();
    let mut bytes = Vec::new();
    match wire {
        Wire::Classic => mprpc::write_classic_length(body.len(), &mut bytes),
        Wire::WithIds => {
            mprpc::write_reply_header(call_id, ReplyStatus::ReplyOk, body.len(), &mut bytes);
        }
    }
    bytes.extend_from_slice(&body);
    bytes
}

pub fn status(call_id: u64, status: ReplyStatus) -> Vec<u8> {
    let mut bytes = Vec::new();
    mprpc::write_reply_header(call_id, status, 0, &mut bytes);
    bytes
}
