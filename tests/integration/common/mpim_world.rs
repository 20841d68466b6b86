//! A gateway as `conf/mpim.toml` has it, before the stand-in of MPIM's services, and what they need
//! to run.

use std::path::Path;

use super::fake_mpim::{FakeMpim, Options};
use super::{Client, Gateway, eventually, number};
use crate::redis_server::RedisServer;
use crate::zookeeper_server::Zookeeper;

/// All of it. Dropping it ends all of it.
pub struct World {
    /// The gateway, on two cores.
    pub gateway: Gateway,
    /// MPIM's services.
    pub mpim: FakeMpim,
    /// Their Redis, and the gateway's.
    pub redis: RedisServer,
    /// Where all are found.
    pub zookeeper: Zookeeper,
}

impl World {
    /// MPIM as it is.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// MPIM as `options` have it.
    pub fn start_with(options: Options) -> Self {
        let redis = RedisServer::start();
        let zookeeper = Zookeeper::start();
        let lifetime = options.route_lifetime;
        let mpim = FakeMpim::start(&zookeeper.hosts(""), &redis, options);
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/mpim.toml");
        let gateway = Gateway::start(|config| {
            config
                .fill_from(&shipped)
                .cores(2)
                .set("gateway_service", "gateway_id", "gw-1")
                .set("service_discovery", "zookeeper_hosts", zookeeper.hosts(""))
                .set("redis", "address", redis.address())
                .set(
                    "presence",
                    "route_lifetime",
                    format!("{}s", lifetime.as_secs()),
                );
        });
        Self {
            gateway,
            mpim,
            redis,
            zookeeper,
        }
    }

    /// A client whom MPIM takes for online, which after `REGISTER` alone it does not.
    pub fn log_in_alice(&self) -> Client {
        let mut alice = register(&self.gateway, "alice");
        alice.ask("LOGOUT");
        eventually("MPIM was told that she left", || {
            self.mpim.calls("UserService.Logout") > 0
        });
        alice.ask("LOGIN alice password1");
        eventually("MPIM takes alice for online", || {
            self.mpim.is_online(alice.uid)
        });
        alice
    }

    /// Asserts that MPIM was asked nothing that it cannot answer, and that all is well.
    pub fn assert_sound(&mut self) {
        assert_eq!(self.mpim.unanswered(), Vec::<String>::new());
        assert!(!self.mpim.database_is_broken());
        assert!(!self.mpim.presence_is_wedged());
        assert!(self.gateway.is_running());
        assert_eq!(self.gateway.metric("panics_total", &[]), 0.0);
    }
}

/// One of MPIM's clients: it registers and remembers its number.
pub fn register(gateway: &Gateway, name: &str) -> Client {
    let mut client = gateway.client();
    let reply = client.ask(&format!("REGISTER {name} password1"));
    client.uid = number(&reply, "uid");
    assert_eq!(reply, format!("+OK uid={}", client.uid));
    client
}
