//! A Redis that is not to be had: every address of a name is tried, and what is wrong is said where
//! an operator looks.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::common::backend_process::BackendProcess;
use crate::common::config::Config;
use crate::common::process::Process;
use crate::common::{Gateway, eventually, http};
use crate::redis_server::RedisServer;

/// One backend and one gateway that knows it without ZooKeeper.
struct Pair {
    backend: Process,
    gateway: Gateway,
}

impl Pair {
    fn launch(launcher: &[&str], redis: &str, configure: impl Fn(&mut Config)) -> Self {
        let backend = BackendProcess::launch_under(launcher, |config| {
            config.set("redis", "address", redis);
            configure(config);
        })
        .into_process();
        let address = backend.address();
        let gateway = Gateway::launch_under(launcher, |config| {
            config
                .set("redis", "address", redis)
                .set("gateway_service", "first_worker", 0)
                .set("service_discovery", "static_instances", instances(address));
            configure(config);
        });
        Self { backend, gateway }
    }

    /// What `/readyz` says of both.
    fn reasons(&self) -> [String; 2] {
        let backend = self.backend.http_address().expect("an operations listener");
        [backend, self.gateway.http_address()].map(|address| {
            let response = http::get(address, "/readyz").expect("an answer");
            response.body
        })
    }

    fn wait_for_reason(&self, reason: &str) {
        eventually(&format!("both say {reason}"), || {
            let reasons = self.reasons();
            reasons.iter().all(|body| body.contains(reason))
        });
    }

    fn wait_until_ready(&mut self) {
        self.backend.wait_until_ready();
        self.gateway.wait_until_ready();
    }

    /// The lines of both logs with this word.
    fn logged(&self, word: &str) -> usize {
        let (_, backend) = self.backend.output();
        let (_, gateway) = self.gateway.output();
        let lines = backend.lines().chain(gateway.lines());
        lines.filter(|line| line.contains(word)).count()
    }
}

fn instances(address: SocketAddr) -> Vec<toml::Value> {
    let services = ["user", "presence", "message", "group"];
    let instance = |service| format!("{service} mprpc-id {address}").into();
    services.into_iter().map(instance).collect()
}

#[test]
fn a_refusal_is_told_and_a_password_that_was_put_right_is_used_without_a_restart() {
    let mut redis = RedisServer::start_with(&["--requirepass", "open-sesame"]);
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("password");
    fs::write(&file, "wrong-one").expect("a file");
    let mut pair = Pair::launch(&[], &redis.address(), |config| {
        config.set("redis", "password_file", file.display().to_string());
    });
    pair.wait_for_reason("WRONGPASS");
    fs::write(&file, "").expect("a file");
    pair.wait_for_reason("is empty");
    fs::write(&file, "open-sesame").expect("a file");
    pair.wait_until_ready();
    // Once for each reason and process, however many attempts there were.
    assert_eq!(pair.logged("WRONGPASS"), 2);
    assert_eq!(pair.logged("wrong-one") + pair.logged("open-sesame"), 0);

    redis.kill_9();
    pair.wait_for_reason("refused");
    redis.restart();
    pair.wait_until_ready();
}

#[test]
fn a_user_who_may_not_publish_is_no_outage_that_ends_with_each_attempt() {
    let redis = RedisServer::start_with(&[
        "--user", "reader", "on", ">pass", "~*", "&*", "+@all", "-publish",
    ]);
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("password");
    fs::write(&file, "pass").expect("a file");
    let pair = Pair::launch(&[], &redis.address(), |config| {
        config.set("redis", "user", "reader").set(
            "redis",
            "password_file",
            file.display().to_string(),
        );
    });
    pair.wait_for_reason("NOPERM");
    eventually("the gateway has tried again", || {
        pair.gateway.metric("bus_connections_total", &[]) >= 3.0
    });
    assert_eq!(pair.logged("NOPERM"), 2);
    assert_eq!(pair.gateway.metric("bus_connected", &[]), 0.0);
}

/// Needs a name with two addresses, so a view of `/etc/hosts` of its own.
#[test]
fn every_address_of_a_name_is_tried() {
    let directory = TempDir::new().expect("a temporary directory");
    let hosts = directory.path().join("hosts");
    let names = "127.0.0.1 localhost redis.test\n127.0.0.9 redis.test\n";
    fs::write(&hosts, names).expect("a file");
    let hosts = hosts.display().to_string();
    let launcher = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount --bind \"$0\" /etc/hosts && exec \"$@\"",
        &hosts,
    ];
    if !may_run(&launcher) {
        eprintln!("not checked: no mount namespace to be had here");
        return;
    }
    // The resolver puts 127.0.0.1 first, where nobody listens on that port.
    let redis = RedisServer::start_at(Ipv4Addr::new(127, 0, 0, 9), &[]);
    let name = format!("redis.test:{}", redis.port());
    let mut pair = Pair::launch(&launcher, &name, |_| {});
    pair.wait_until_ready();
    let mut alice = pair.gateway.register("alice");
    let mut bob = pair.gateway.register("bob");
    let id = alice.chat(bob.uid, "hello");
    assert_eq!(bob.push().id(), id);
}

fn may_run(launcher: &[&str]) -> bool {
    let (program, arguments) = launcher.split_first().expect("a program");
    let mut probe = Command::new(program);
    probe.args(arguments).arg("true");
    Path::new("/etc/hosts").exists() && probe.status().is_ok_and(|status| status.success())
}
