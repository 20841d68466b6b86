//! A cluster to be measured: a real Redis, a real ZooKeeper, one backend with all four services,
//! two gateways.
//!
//! Gateways and backend are the real binary with its defaults, apart from what is said here: every
//! gateway has one worker and a core of its own where there are enough. Redis, ZooKeeper and the
//! backend share all cores with the load generator.
//!
//! Redis and ZooKeeper are the tests' own: they end when they are dropped, and by themselves at
//! Ctrl-C, but not when the benchmark is killed.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    redis_server::RedisServer,
    server::{ProgramOptions, Server},
    zookeeper_server::{CLASS_PATH, Zookeeper},
};

/// Gateways of every cluster.
const GATEWAYS: usize = 2;
/// Where the backend stands in [`Stack::process_ids`].
pub const BACKEND: usize = 0;
/// Where Redis does.
pub const REDIS: usize = 1;
/// Where ZooKeeper does.
pub const ZOOKEEPER: usize = 2;
/// Where the first gateway does; the second follows.
pub const FIRST_GATEWAY: usize = 3;

/// What has to be there before a cluster can be started and is not, if anything.
pub fn missing() -> Option<&'static str> {
    let is_installed = |program: &str| {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    if !is_installed("redis-server") {
        Some("redis-server")
    } else if !is_installed("java") {
        Some("java")
    } else if !CLASS_PATH.split(':').all(|file| Path::new(file).is_file()) {
        Some("ZooKeeper")
    } else {
        None
    }
}

/// What clusters stand on: it outlives each of them.
pub struct Ground {
    redis: RedisServer,
    zookeeper: Zookeeper,
    cores: Vec<usize>,
    directory: PathBuf,
}

impl Ground {
    /// Starts Redis and ZooKeeper. `directory` holds, in `data`, a database and a token secret
    /// already.
    pub fn start(cores: &[usize], directory: &Path) -> Self {
        Self {
            redis: RedisServer::start(),
            zookeeper: Zookeeper::start(),
            cores: cores.to_vec(),
            directory: directory.to_owned(),
        }
    }

    /// Where the backend keeps everything.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What gateways and backends have in common.
    fn configuration(&self) -> String {
        format!(
            "[ops]\nlisten = \"127.0.0.1:0\"\n\n[auth]\ntoken_secret_file = {:?}\n\n\
             [service_discovery]\nzookeeper_hosts = {:?}\n\n[redis]\naddress = {:?}\n",
            self.data_directory().join("token.secret"),
            self.zookeeper.hosts("/im"),
            self.redis.address(),
        )
    }

    fn start_backend(&self, exclusive: bool) -> Result<Server> {
        let configuration = format!(
            "[gateway_service]\ndata_dir = {:?}\n\n[backend]\nlisten = \"127.0.0.1:0\"\nexclusive = {exclusive}\n\n{}",
            self.data_directory(),
            self.configuration()
        );
        Server::program(&ProgramOptions {
            cores: &self.cores,
            command: "backend",
            name: "backend",
            directory: &self.directory,
            configuration: &configuration,
            listens: "calls",
        })
    }

    fn start_gateway(&self, number: usize) -> Result<Server> {
        let name = format!("gateway-{number}");
        let configuration = format!(
            "[gateway_service]\nport = 0\nthread_count = 1\ngateway_id = {name:?}\ndata_dir = {:?}\n\n{}",
            self.directory.join(&name),
            self.configuration()
        );
        Server::program(&ProgramOptions {
            // A worker is bound to the first core its process may use, so two of them would share
            // that one.
            cores: &[self.cores[number % self.cores.len()]],
            command: "run",
            name: &name,
            directory: &self.directory,
            configuration: &configuration,
            listens: "line protocol",
        })
    }
}

/// A cluster. Dropping it kills its gateways and its backend.
pub struct Stack {
    /// The gateways.
    pub gateways: Vec<Server>,
    backend: Server,
}

impl Stack {
    /// Starts one and waits until every process is ready. `exclusive`: the backend need not share
    /// its database with others.
    pub fn start(ground: &Ground, exclusive: bool) -> Result<Self> {
        let backend = ground.start_backend(exclusive)?;
        let gateways = (0..GATEWAYS).map(|number| ground.start_gateway(number));
        let stack = Self {
            gateways: gateways.collect::<Result<_>>()?,
            backend,
        };
        for server in stack.servers() {
            stack.explain(server.wait_until_ready())?;
        }
        Ok(stack)
    }

    fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.backend).chain(&self.gateways)
    }

    /// All processes, in the order of [`BACKEND`], [`REDIS`], [`ZOOKEEPER`], [`FIRST_GATEWAY`].
    pub fn process_ids(&self, ground: &Ground) -> Vec<u32> {
        let mut ids = vec![
            self.backend.process_id(),
            ground.redis.process_id(),
            ground.zookeeper.process_id(),
        ];
        ids.extend(self.gateways.iter().map(Server::process_id));
        ids
    }

    /// An error of the measurement, with what backend and gateways said last.
    pub fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.with_context(|| {
            let logs = self.servers().map(Server::log_tail);
            format!(
                "the logs of backend and gateways end:\n{}",
                logs.collect::<Vec<_>>().join("\n--\n")
            )
        })
    }

    /// Ends gateways and backend, each as an operator would, so that the data can be used again.
    pub fn stop(self) -> Result<()> {
        for gateway in self.gateways {
            gateway.stop()?;
        }
        self.backend.stop()
    }
}
