//! MPIM's four services as a gateway sees them, faults included.
//!
//! Classic replies, in order on each connection. What MPIM does not understand is never answered,
//! and the connection stays open. Each method has its node in ZooKeeper, all of them in one
//! session.

mod channel;
mod state;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use im_gateway::proto::RpcHeader;
use prost::Message;

use super::tcp_server::{Fate, TcpServer, read_call};
use super::znodes::Znodes;
use crate::redis_server::RedisServer;
use state::State;

pub use channel::channel;
pub use state::Binding;

/// How long what bears one use at a time is used, so that two at once are seen to be two.
const USE_TAKES: Duration = Duration::from_millis(2);

/// How this MPIM behaves where its kind was seen to behave in two ways, or where a test cannot
/// wait.
pub struct Options {
    /// Whether a Group Service that somebody joined or left a group of keeps its connections, and
    /// answers nothing any more, instead of ending.
    pub crash_is_silence: bool,
    /// How long a route lasts; MPIM's own is two minutes.
    pub route_lifetime: Duration,
}

/// Running services. Dropping them closes every connection and ends the session.
pub struct FakeMpim {
    shared: Arc<Shared>,
    services: Vec<Service>,
    redis_url: String,
    /// Held for its ephemeral nodes.
    _nodes: Znodes,
}

/// One of the four processes.
struct Service {
    name: &'static str,
    address: SocketAddr,
    /// `None`: it was killed.
    server: Option<TcpServer>,
}

struct Shared {
    state: Mutex<State>,
    calls: Mutex<BTreeMap<String, usize>>,
    unanswered: Mutex<Vec<String>>,
    /// The one database connection of the User Service.
    database: Unlocked,
    /// The one Redis connection over which Presence publishes.
    publishing: Unlocked,
    /// The Group Service has crashed, and is silent.
    groups_silent: AtomicBool,
}

/// What MPIM uses from several threads without a lock. It does not survive two uses at one time.
#[derive(Default)]
struct Unlocked {
    uses: AtomicUsize,
    broken: AtomicBool,
}

impl Unlocked {
    fn used<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.uses.fetch_add(1, Ordering::AcqRel) > 0 {
            self.broken.store(true, Ordering::Release);
        }
        std::thread::sleep(USE_TAKES);
        let value = work();
        self.uses.fetch_sub(1, Ordering::AcqRel);
        value
    }

    fn mend(&self) {
        self.broken.store(false, Ordering::Release);
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

impl FakeMpim {
    /// Starts the services and registers them in ZooKeeper.
    pub fn start(zookeeper_hosts: &str, redis: &RedisServer, options: Options) -> Self {
        let connection = redis::Client::open(redis.url())
            .and_then(|client| client.get_connection())
            .expect("Redis answers");
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(options, connection)),
            calls: Mutex::new(BTreeMap::new()),
            unanswered: Mutex::new(Vec::new()),
            database: Unlocked::default(),
            publishing: Unlocked::default(),
            groups_silent: AtomicBool::new(false),
        });
        let nodes = Znodes::connect(zookeeper_hosts);
        let services = state::METHODS
            .iter()
            .map(|(service, methods)| {
                let server = shared.listen(service, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
                let address = server.address();
                nodes.make_persistent(&format!("/{service}"), b"");
                for method in *methods {
                    let path = format!("/{service}/{method}");
                    nodes.make_ephemeral(&path, address.to_string().as_bytes());
                }
                Service {
                    name: service,
                    address,
                    server: Some(server),
                }
            })
            .collect();
        Self {
            shared,
            services,
            redis_url: redis.url(),
            _nodes: nodes,
        }
    }

    /// Where a service listens.
    pub fn address(&self, service: &str) -> SocketAddr {
        let found = self.services.iter().find(|one| one.name == service);
        found.expect("one of the four").address
    }

    fn service(&mut self, name: &str) -> &mut Service {
        let found = self.services.iter_mut().find(|one| one.name == name);
        found.expect("one of the four")
    }

    /// Kills the process of a service. Its nodes stay for as long as its session, so they do here.
    pub fn stop(&mut self, service: &str) {
        self.service(service).server = None;
    }

    /// Starts the process of a service where the one before it was, which ends if it has not.
    pub fn restart(&mut self, service: &str) {
        self.stop(service);
        match service {
            "UserService" => {
                self.shared.database.mend();
                self.shared.state().log_out_everybody();
            }
            "PresenceService" => {
                self.shared.publishing.mend();
                self.shared.state().connect_to_redis(&self.redis_url);
            }
            "GroupService" => self.shared.groups_silent.store(false, Ordering::Release),
            _ => {}
        }
        let shared = Arc::clone(&self.shared);
        let service = self.service(service);
        service.server = Some(shared.listen(service.name, service.address));
    }

    /// How often a method was called, as in `UserService.Login`.
    pub fn calls(&self, method: &str) -> usize {
        let calls = self.shared.calls.lock().expect("the calls");
        calls.get(method).copied().unwrap_or(0)
    }

    /// The calls that were left without an answer.
    pub fn unanswered(&self) -> Vec<String> {
        self.shared.unanswered.lock().expect("the list").clone()
    }

    /// Whether two calls met on the database connection of the User Service: nobody can register
    /// any more.
    pub fn database_is_broken(&self) -> bool {
        self.shared.database.is_broken()
    }

    /// Whether two messages met on the connection over which Presence publishes: it never answers
    /// again.
    pub fn presence_is_wedged(&self) -> bool {
        self.shared.publishing.is_broken()
    }

    /// Every `BindRoute` so far.
    pub fn bindings(&self) -> Vec<Binding> {
        self.shared.state().bindings.clone()
    }

    /// What was published so far: channel and payload.
    pub fn published(&self) -> Vec<(String, Vec<u8>)> {
        self.shared.state().published.clone()
    }

    /// Whether the user's row says online.
    pub fn is_online(&self, user_id: u64) -> bool {
        self.shared.state().is_online(user_id as i64)
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("the state")
    }

    /// The process of a service.
    fn listen(self: &Arc<Self>, service: &'static str, address: SocketAddr) -> TcpServer {
        let shared = Arc::clone(self);
        TcpServer::start_mortal(address, move |stream| shared.serve(service, stream))
    }

    /// One connection, until it ends.
    fn serve(&self, own_service: &str, mut stream: TcpStream) -> Fate {
        let _ = stream.set_nodelay(true);
        while let Some((header, args)) = read_call(&mut stream) {
            let (Ok(service), Ok(method)) = (
                String::from_utf8(header.service_name),
                String::from_utf8(header.method_name),
            ) else {
                continue;
            };
            let name = format!("{service}.{method}");
            *self
                .calls
                .lock()
                .expect("the calls")
                .entry(name.clone())
                .or_default() += 1;
            let answer = match service == own_service {
                true => self.answer(&service, &method, &args),
                false => None,
            };
            match answer {
                Some(reply) => {
                    let mut frame = (reply.len() as u32).to_le_bytes().to_vec();
                    frame.extend_from_slice(&reply);
                    if stream.write_all(&frame).is_err() {
                        return Fate::Lives;
                    }
                }
                None if self.crashes(&name) => return Fate::Crashes,
                None => self.unanswered.lock().expect("the list").push(name),
            }
        }
        Fate::Lives
    }

    /// Whether this call is the end of the Group Service, for which both are.
    fn crashes(&self, name: &str) -> bool {
        let is_end = matches!(name, "GroupService.JoinGroup" | "GroupService.LeaveGroup");
        if is_end && self.state().crash_is_silence() {
            self.groups_silent.store(true, Ordering::Release);
            return false;
        }
        is_end
    }

    fn answer(&self, service: &str, method: &str, args: &[u8]) -> Option<Vec<u8>> {
        let answer = || self.state().answer(service, method, args);
        let is_online = |to| self.state().route(to).is_some();
        if service == "GroupService" && self.groups_silent.load(Ordering::Acquire) {
            return None;
        }
        match method {
            "Register" if self.database.is_broken() => self.state().fail_to_register(),
            "Register" | "AddFriend" | "GetFriends" | "RemoveFriend" => self.database.used(answer),
            // The Message Service asks Presence about every receiver.
            "Send" | "Deliver" | "BindRoute" | "QueryRoute" if self.presence_is_wedged() => None,
            "Send" | "Deliver" if state::receiver(method, args).is_some_and(is_online) => self
                .publishing
                .used(answer)
                .filter(|_| !self.presence_is_wedged()),
            _ => answer(),
        }
    }

    fn presence_is_wedged(&self) -> bool {
        self.publishing.is_broken()
    }
}

#[cfg(test)]
mod tests;
