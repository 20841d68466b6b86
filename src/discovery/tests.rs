//! Discovery against a real ZooKeeper, and its rules over a registry in memory (`memory`): what is
//! told, what is registered, and what outages do to both.
//!
//! Tests that do not disturb the server share one, each below a root path of its own.

mod backends;
mod claims;
mod gateways;
mod instances;
mod leases;
mod memory;
mod outages;
#[path = "../../tests/support/zookeeper.rs"]
mod zookeeper;

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    task::{JoinHandle, LocalSet, spawn_local},
};
use zookeeper_client as zk;

use self::zookeeper::Zookeeper;
use super::{Event, Gateways, RegisterOptions, WatchError, WatchOptions, register, watch};
use crate::{
    base::id::IdLease,
    contract::{
        endpoints::{Endpoints, Instance, MethodSet, Wire},
        methods::Service,
    },
    metrics::Discovery,
};

/// After this long a wait has failed. Generous, because the machine may be busy with other tests.
const DEADLINE: Duration = Duration::from_secs(30);

const SESSION_TIMEOUT: Duration = Duration::from_secs(3);

/// The server that tests share, while one of them runs.
fn shared() -> Arc<Zookeeper> {
    static SHARED: Mutex<Weak<Zookeeper>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Zookeeper::start());
        *shared = Arc::downgrade(&server);
        server
    })
}

/// Runs a test as the control thread runs discovery.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(LocalSet::new().run_until(test));
}

/// Waits until `condition` holds, and says how long that took.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

/// A gateway's discovery at work.
struct Gateway {
    events: Rc<RefCell<Vec<Event>>>,
    status: Arc<Discovery>,
    task: JoinHandle<Result<(), WatchError>>,
    stop: oneshot::Sender<()>,
}

fn watch_options(hosts: &str, gateway_id: &str) -> WatchOptions {
    WatchOptions {
        zookeeper_hosts: hosts.to_owned(),
        session_timeout: SESSION_TIMEOUT,
        interval: Duration::from_secs(30),
        static_instances: Vec::new(),
        gateway_id: gateway_id.to_owned(),
        line_address: address(6000),
        ops_address: None,
        cores: 2,
        first_worker: None,
    }
}

impl Gateway {
    fn start(options: WatchOptions) -> Self {
        let events = Rc::new(RefCell::new(Vec::new()));
        let status = Arc::new(Discovery::default());
        let (stop, stopped) = oneshot::channel();
        let tell = {
            let events = Rc::clone(&events);
            move |event| events.borrow_mut().push(event)
        };
        let stop_order = async {
            let _ = stopped.await;
        };
        let nobody_answers = |_| false;
        let status_there = Arc::clone(&status);
        let task = spawn_local(watch(
            options,
            status_there,
            tell,
            nobody_answers,
            stop_order,
        ));
        Self {
            events,
            status,
            task,
            stop,
        }
    }

    /// One that has told its first table.
    async fn ready(hosts: &str, gateway_id: &str) -> Self {
        let gateway = Self::start(watch_options(hosts, gateway_id));
        eventually("the first table", || gateway.table().is_some()).await;
        gateway
    }

    fn table(&self) -> Option<Arc<Endpoints>> {
        let events = self.events.borrow();
        events.iter().rev().find_map(|event| match event {
            Event::Endpoints(table) => Some(Arc::clone(table)),
            Event::IdLeases(_) => None,
        })
    }

    fn leases(&self) -> Vec<IdLease> {
        let events = self.events.borrow();
        let leases = events.iter().rev().find_map(|event| match event {
            Event::IdLeases(leases) => Some(leases.clone()),
            Event::Endpoints(_) => None,
        });
        leases.unwrap_or_default()
    }

    fn worker_numbers(&self) -> Vec<u16> {
        self.leases().iter().map(|lease| lease.worker).collect()
    }

    /// The ports of the instances of `service`.
    fn ports(&self, service: Service) -> Vec<u16> {
        let table = self.table();
        let instances = table.iter().flat_map(|table| table.of(service));
        instances.map(|instance| instance.address.port()).collect()
    }

    /// Whether a table without instances of `service` was told after one with some.
    fn ever_lost(&self, service: Service) -> bool {
        let events = self.events.borrow();
        let counts = events.iter().filter_map(|event| match event {
            Event::Endpoints(table) => Some(table.of(service).len()),
            Event::IdLeases(_) => None,
        });
        counts
            .skip_while(|count| *count == 0)
            .any(|count| count == 0)
    }

    async fn stop(self) {
        self.stop.send(()).expect("it runs");
        self.task.await.expect("no panic").expect("no error");
    }
}

fn register_options(hosts: &str, port: u16) -> RegisterOptions {
    RegisterOptions {
        zookeeper_hosts: hosts.to_owned(),
        session_timeout: SESSION_TIMEOUT,
        address: address(port),
        services: vec![Service::User, Service::Message],
        weight: 100,
        registers_instances: true,
        registers_methods: true,
    }
}

/// A backend's registration at work.
struct Backend {
    status: Arc<Discovery>,
    gateways: Arc<Gateways>,
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Backend {
    fn start(hosts: &str, port: u16) -> Self {
        let options = register_options(hosts, port);
        let status = Arc::new(Discovery::default());
        let gateways = Arc::new(Gateways::default());
        let (stop, stopped) = oneshot::channel();
        let task = spawn_local(register(
            options,
            Arc::clone(&status),
            Arc::clone(&gateways),
            async {
                let _ = stopped.await;
            },
        ));
        Self {
            status,
            gateways,
            task,
            stop,
        }
    }

    async fn registered(hosts: &str, port: u16) -> Self {
        let backend = Self::start(hosts, port);
        eventually("the backend is registered", || {
            backend.status.is_registered()
        })
        .await;
        backend
    }

    async fn stop(self) {
        self.stop.send(()).expect("it runs");
        self.task.await.expect("no panic");
    }
}

/// A process of which nothing is known but what it stores.
struct Stranger(zk::Client);

impl Stranger {
    async fn connect(hosts: &str) -> Self {
        Self::with_session_timeout(hosts, Duration::from_secs(60)).await
    }

    async fn with_session_timeout(hosts: &str, timeout: Duration) -> Self {
        let (hosts, root) = hosts.split_at(hosts.find('/').unwrap_or(hosts.len()));
        let client = zk::Client::connector()
            .with_session_timeout(timeout)
            .connect(hosts)
            .await
            .expect("a session");
        if root.is_empty() {
            return Self(client);
        }
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        client.mkdir(root, &options).await.expect("the root path");
        Self(client.chroot(root).expect("a root path"))
    }

    /// Creates an ephemeral node, and the folders above it.
    async fn put(&self, path: &str, data: &[u8]) {
        let (folder, _) = path.rsplit_once('/').expect("a path");
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        self.0.mkdir(folder, &options).await.expect("the folder");
        let options = zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());
        let created = self.0.create(path, data, &options).await;
        created.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    async fn delete(&self, path: &str) {
        self.0.delete(path, None).await.expect("the node is there");
    }

    async fn text(&self, path: &str) -> Option<String> {
        let (data, _) = self.0.get_data(path).await.ok()?;
        Some(String::from_utf8_lossy(&data).into_owned())
    }

    async fn owner(&self, path: &str) -> Option<i64> {
        let stat = self.0.check_stat(path).await.expect("ZooKeeper answers");
        stat.map(|stat| stat.ephemeral_owner)
    }

    async fn children(&self, path: &str) -> Vec<String> {
        self.0.list_children(path).await.unwrap_or_default()
    }
}

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn record(port: u16) -> Vec<u8> {
    format!(r#"{{"addr":"127.0.0.1:{port}","rpc":"mprpc-id","zone":"a","since":[1,2]}}"#)
        .into_bytes()
}

#[test]
fn without_zookeeper_what_is_configured_is_told_once() {
    run(async {
        let instance = Instance {
            address: address(5001),
            wire: Wire::WithIds,
            weight: 1,
            methods: MethodSet::all_of(Service::User),
        };
        let gateway = Gateway::start(WatchOptions {
            static_instances: vec![(Service::User, instance)],
            first_worker: Some(959),
            ..watch_options("", "alone")
        });
        eventually("the table", || gateway.table().is_some()).await;
        assert_eq!(gateway.worker_numbers(), [959, 0]);
        assert_eq!(gateway.ports(Service::User), [5001]);
        assert_eq!(gateway.status.instances(Service::User), 1);
        assert!(gateway.status.sessions() == 0);
        gateway.stop().await;
    });
}
