//! Redis by TLS: a real one, its certificate, and ours.

use std::net::{TcpListener, TcpStream};

use crate::common::backend_process::BackendProcess;
use crate::common::certificates::Authority;
use crate::common::config::Config;
use crate::common::process::{Process, run_to_exit};
use crate::common::{Gateway, eventually};
use crate::redis_server::RedisServer;

const HOST: &str = "localhost";

/// What is wrong, what is said of it, and what makes it so.
type Case<'a> = (&'a str, &'a str, &'a dyn Fn(&mut Config));

/// A Redis that speaks TLS on a port of its own, beside the plain one, to who shows a certificate
/// of the same authority.
struct SecuredRedis {
    authority: Authority,
    port: u16,
    _server: RedisServer,
}

impl SecuredRedis {
    fn start() -> Self {
        let authority = Authority::new();
        authority.sign("redis", HOST);
        authority.sign("ours", "gateway.example");
        // Let go for Redis to take it.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("its address").port();
        drop(free);
        let path = |file: &str| authority.path(file).display().to_string();
        let server = RedisServer::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &path("redis.pem"),
            "--tls-key-file",
            &path("redis.key"),
            "--tls-ca-cert-file",
            &path("ca.pem"),
        ]);
        eventually("it listens there", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self {
            authority,
            port,
            _server: server,
        }
    }

    fn configure(&self, config: &mut Config) {
        config.set("redis", "address", format!("rediss://{HOST}:{}", self.port));
        for (key, file) in [
            ("ca_file", "ca.pem"),
            ("certificate_file", "ours.pem"),
            ("key_file", "ours.key"),
        ] {
            let path = self.authority.path(file).display().to_string();
            config.set("redis", key, path);
        }
    }
}

fn start_backend(configure: impl Fn(&mut Config)) -> Process {
    BackendProcess::launch(configure).into_process()
}

fn start_gateway(backend: &Process, configure: impl Fn(&mut Config)) -> Gateway {
    let instances: Vec<toml::Value> = ["user", "presence", "message", "group"]
        .map(|service| format!("{service} mprpc-id {}", backend.address()).into())
        .to_vec();
    Gateway::launch(|config| {
        config
            .set("service_discovery", "static_instances", instances)
            .set("gateway_service", "first_worker", 0);
        configure(config);
    })
}

#[test]
fn pushes_go_through_a_redis_that_speaks_tls_and_wants_certificates() {
    let redis = SecuredRedis::start();
    let mut backend = start_backend(|config| redis.configure(config));
    backend.wait_until_ready();
    let mut gateway = start_gateway(&backend, |config| redis.configure(config));
    gateway.wait_until_ready();
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    for n in 0..100 {
        let id = alice.chat(bob.uid, &format!("message {n} {}", "x".repeat(5000)));
        assert_eq!(bob.push().id(), id);
    }
    let published = backend.metric("publishes_total", &[]);
    assert!(published >= 100.0, "{published}");
}

#[test]
fn a_redis_that_is_not_the_one_that_was_meant_gets_no_word() {
    let redis = SecuredRedis::start();
    let others = Authority::new();
    let cases: [Case<'_>; 4] = [
        ("another authority", "BadSignature", &|config| {
            let ca = others.path("ca.pem").display().to_string();
            config.set("redis", "ca_file", ca);
        }),
        ("whom the system trusts", "UnknownIssuer", &|config| {
            config.set("redis", "ca_file", "");
        }),
        ("another host", "not valid for name", &|config| {
            let address = format!("rediss://127.0.0.1:{}", redis.port);
            config.set("redis", "address", address);
        }),
        ("no certificate of ours", "ertificate", &|config| {
            config
                .set("redis", "certificate_file", "")
                .set("redis", "key_file", "");
        }),
    ];
    for (what, reason, configure) in cases {
        let configure = |config: &mut Config| {
            redis.configure(config);
            configure(config);
        };
        let backend = start_backend(configure);
        let gateway = start_gateway(&backend, configure);
        let says = |log: String| {
            log.lines()
                .any(|line| line.contains("pushes") && line.contains(reason))
        };
        eventually(what, || {
            says(backend.output().1) && says(gateway.output().1)
        });
        assert_eq!(backend.readiness(), Some(503), "{what}");
        assert_eq!(gateway.metric("bus_connected", &[]), 0.0, "{what}");
    }
}

#[test]
fn doctor_asks_redis_by_tls_and_files_of_no_use_are_found_at_the_start() {
    let redis = SecuredRedis::start();
    let address = format!("rediss://{HOST}:{}", redis.port);
    let path = |file: &str| redis.authority.path(file).display().to_string();
    let (ca, certificate, key) = (path("ca.pem"), path("ours.pem"), path("ours.key"));
    let mut variables = vec![
        (
            "IM_GATEWAY__SERVICE_DISCOVERY__ZOOKEEPER_HOSTS",
            "127.0.0.1:1",
        ),
        ("IM_GATEWAY__REDIS__ADDRESS", address.as_str()),
        ("IM_GATEWAY__REDIS__CA_FILE", ca.as_str()),
        ("IM_GATEWAY__REDIS__CERTIFICATE_FILE", certificate.as_str()),
        ("IM_GATEWAY__REDIS__KEY_FILE", key.as_str()),
    ];
    let table = run_to_exit(&["doctor"], &variables).stdout;
    assert!(
        table
            .lines()
            .any(|line| line.contains("Redis") && line.contains("answers at")),
        "{table}"
    );
    variables[2].1 = key.as_str();
    let finished = run_to_exit(&["backend"], &variables);
    assert_eq!(finished.code, Some(4), "{}", finished.stderr);
    assert!(
        finished
            .stderr
            .contains("ours.key: there is no certificate"),
        "{}",
        finished.stderr
    );
    variables[1].1 = "127.0.0.1:6379";
    let finished = run_to_exit(&["backend"], &variables);
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
}
