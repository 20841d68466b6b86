//! A whole cluster of real processes: Redis, ZooKeeper, backends over one database, gateways.
//!
//! Each part can be killed and brought back. What is fast in it is set fast: sessions, health
//! checks and retries are measured in tenths of a second, so that tests wait for little.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;

use super::backend_process::BackendProcess;
use super::bus::Bus;
use super::client::Client;
use super::config::Config;
use super::gateway::Gateway;
use super::znodes::Znodes;
use crate::redis_server::RedisServer;
use crate::zookeeper_server::Zookeeper;

/// The secret that signs pushes, where they are.
pub const PUSH_SECRET: [u8; 32] = [0x5a; 32];

/// The node below which everything of a cluster stands.
const ROOT: &str = "/im";

/// Redis and ZooKeeper, and what every process of the cluster is told.
pub struct Ground {
    /// The bus.
    pub redis: RedisServer,
    /// Discovery.
    pub zookeeper: Zookeeper,
    directory: TempDir,
}

impl Ground {
    /// Starts both.
    pub fn start() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        std::fs::create_dir(directory.path().join("data")).expect("a directory");
        Self {
            redis: RedisServer::start(),
            zookeeper: Zookeeper::start(),
            directory,
        }
    }

    /// `zookeeper_hosts` of every process.
    pub fn zookeeper_hosts(&self) -> String {
        self.zookeeper.hosts(ROOT)
    }

    /// A session to look at the nodes and to write some.
    pub fn znodes(&self) -> Znodes {
        Znodes::connect(&self.zookeeper_hosts())
    }

    /// A connection to Redis to publish on.
    pub fn bus(&self) -> Bus {
        Bus::connect(&self.redis)
    }

    /// Makes the file with the secret that signs pushes, for the configuration of every process.
    pub fn make_push_secret(&self) -> PathBuf {
        let path = self.directory.path().join("push.secret");
        std::fs::write(
            &path,
            PUSH_SECRET.map(|byte| format!("{byte:02x}")).concat(),
        )
        .expect("a file");
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
        path
    }

    /// The database of the backends.
    pub fn database(&self) -> PathBuf {
        self.data().join("im-gateway.db")
    }

    /// Where all backends keep everything.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The directory of the database that the backends share.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What gateways and backends have in common.
    fn configure(&self, config: &mut Config) {
        config
            .set(
                "service_discovery",
                "zookeeper_hosts",
                self.zookeeper_hosts(),
            )
            .set("service_discovery", "zookeeper_session_timeout", "2s")
            .set("service_discovery", "service_discovery_interval", "5s")
            .set("service_discovery", "health_check_interval", "500ms")
            .set("redis", "address", self.redis.address())
            .set("presence", "route_lifetime", "30s");
    }

    /// What is special about a backend: all of them keep everything in one directory.
    pub fn configure_backend(&self, config: &mut Config) {
        let data = self.directory.path().join("data");
        config.set("gateway_service", "data_dir", data.display().to_string());
        self.configure(config);
    }

    /// What is special about the gateway with this number: its name, and the secret it shares with
    /// the others.
    pub fn configure_gateway(&self, number: usize, config: &mut Config) {
        let secret = self.directory.path().join("token.secret");
        config
            .cores(2)
            .set("gateway_service", "gateway_id", gateway_id(number))
            .set("auth", "token_secret_file", secret.display().to_string())
            .set("load_balancer", "retry_interval", "20ms")
            .set("rpc", "rpc_timeout", "2s");
        self.configure(config);
    }
}

/// The name of the gateway with this number.
pub fn gateway_id(number: usize) -> String {
    format!("gateway-{number}")
}

/// Everything. Dropping it kills all of it, the gateways first.
pub struct Cluster {
    /// The gateways, `gateway-0` first.
    pub gateways: Vec<Gateway>,
    /// The backends.
    pub backends: Vec<BackendProcess>,
    /// What they stand on.
    pub ground: Ground,
}

impl Cluster {
    /// Starts so many of each and waits until all are ready.
    pub fn start(backends: usize, gateways: usize) -> Self {
        Self::start_with(backends, gateways, |_| {})
    }

    /// The same with further settings, for backends and gateways alike.
    pub fn start_with(backends: usize, gateways: usize, configure: impl Fn(&mut Config)) -> Self {
        Self::start_on(Ground::start(), backends, gateways, configure)
    }

    /// Starts one more backend and waits until it listens.
    pub fn launch_backend(&mut self, configure: impl Fn(&mut Config)) {
        let ground = &self.ground;
        self.backends.push(BackendProcess::launch(|config| {
            ground.configure_backend(config);
            configure(config);
        }));
    }

    /// Starts one more gateway and waits until it listens.
    pub fn launch_gateway(&mut self, configure: impl Fn(&mut Config)) {
        let (ground, number) = (&self.ground, self.gateways.len());
        self.gateways.push(Gateway::launch(|config| {
            ground.configure_gateway(number, config);
            configure(config);
        }));
    }

    /// The same, with pushes signed.
    pub fn start_signed(backends: usize, gateways: usize, configure: impl Fn(&mut Config)) -> Self {
        let ground = Ground::start();
        let secret = ground.make_push_secret().display().to_string();
        Self::start_on(ground, backends, gateways, |config| {
            config.set("redis", "push_secret_file", secret.clone());
            configure(config);
        })
    }

    fn start_on(
        ground: Ground,
        backends: usize,
        gateways: usize,
        configure: impl Fn(&mut Config),
    ) -> Self {
        let mut cluster = Self {
            gateways: Vec::new(),
            backends: Vec::new(),
            ground,
        };
        for _ in 0..backends {
            cluster.launch_backend(&configure);
        }
        for _ in 0..gateways {
            cluster.launch_gateway(&configure);
        }
        cluster.wait_until_ready();
        cluster
    }

    /// Starts one more gateway, on two cores, that knows the first backend from its configuration
    /// alone, with these as its worker numbers and the next, and waits until it listens.
    pub fn launch_static_gateway(&mut self, first_worker: u16) {
        let address = self.backends[0].address();
        let instances: Vec<toml::Value> = ["user", "presence", "message", "group"]
            .iter()
            .map(|service| format!("{service} mprpc-id {address}").into())
            .collect();
        self.launch_gateway(|config| {
            // One core, so that all its ids have the first number.
            config
                .cores(1)
                .set("service_discovery", "zookeeper_hosts", "")
                .set("service_discovery", "static_instances", instances.clone())
                .set("gateway_service", "first_worker", i64::from(first_worker));
        });
    }

    /// Waits until every process says it is ready.
    pub fn wait_until_ready(&mut self) {
        for backend in &mut self.backends {
            backend.wait_until_ready();
        }
        for gateway in &mut self.gateways {
            gateway.wait_until_ready();
        }
    }

    /// Where the gateways listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(Gateway::address).collect()
    }

    /// A new connection to the gateway with this number, with a new account logged in on it.
    pub fn register(&self, gateway: usize, name: &str) -> Client {
        self.gateways[gateway].register(name)
    }

    /// Asserts that every process still runs and that none of them met a panic.
    pub fn assert_sound(&mut self) {
        for (number, gateway) in self.gateways.iter_mut().enumerate() {
            assert!(gateway.is_running(), "gateway {number} has ended");
            assert_eq!(gateway.metric("panics_total", &[]), 0.0);
        }
        for (number, backend) in self.backends.iter_mut().enumerate() {
            assert!(backend.is_running(), "backend {number} has ended");
        }
    }
}
