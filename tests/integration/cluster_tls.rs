//! TLS between gateways and backends: who shows a certificate of the cluster is spoken to, nobody
//! else, on either end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::process::Signal;

use crate::common::backend_process::BackendProcess;
use crate::common::certificates::Authority;
use crate::common::config::Config;
use crate::common::process::Process;
use crate::common::{Gateway, eventually};
use crate::redis_server::RedisServer;

/// What a process is like, and what makes it so.
type Case<'a> = (&'a str, &'a dyn Fn(&mut Config));

fn authority() -> Authority {
    let authority = Authority::new();
    authority.sign("gateway", "gateway.example");
    authority.sign("backend", "backend.example");
    authority
}

fn start_backend(redis: &str, configure: impl Fn(&mut Config)) -> Process {
    let backend = BackendProcess::launch(|config| {
        config.set("redis", "address", redis);
        configure(config);
    });
    backend.into_process()
}

/// A gateway that knows this backend and no other.
fn start_gateway(backend: SocketAddr, redis: &str, configure: impl Fn(&mut Config)) -> Gateway {
    let instances: Vec<toml::Value> = ["user", "presence", "message", "group"]
        .map(|service| format!("{service} mprpc-id {backend}").into())
        .to_vec();
    Gateway::launch(|config| {
        config
            .set("service_discovery", "static_instances", instances)
            .set("service_discovery", "health_check_interval", "500ms")
            .set("gateway_service", "first_worker", 0)
            .set("redis", "address", redis);
        configure(config);
    })
}

fn refused(backend: &Process) -> f64 {
    backend.metric("rpc_connections_closed_total", &[("reason", "handshake")])
}

fn failed(gateway: &Gateway) -> f64 {
    gateway.metric("backend_handshakes_failed_total", &[])
}

/// No Redis listens there.
const NO_REDIS: &str = "127.0.0.1:1";

#[test]
fn members_of_a_cluster_talk_by_tls_and_go_on_with_new_certificates() {
    let redis = RedisServer::start();
    let authority = authority();
    let backend = start_backend(&redis.address(), |config| {
        authority.secure_cluster("backend", config);
    });
    let mut gateway = start_gateway(backend.address(), &redis.address(), |config| {
        authority.secure_cluster("gateway", config);
    });
    gateway.wait_until_ready();
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    let id = alice.chat(bob.uid, "between us");
    assert_eq!(bob.push().id(), id);
    // A call that takes several records, and whose answer does.
    let long = "x".repeat(7000);
    for _ in 0..10 {
        alice.chat(bob.uid, &long);
    }
    assert_eq!(bob.pushes(10).len(), 10);
    assert_eq!((refused(&backend), failed(&gateway)), (0.0, 0.0));
    // Both are signed anew, and by someone else.
    let other = self::authority();
    for name in ["gateway", "backend"] {
        for end in ["pem", "key"] {
            let file = format!("{name}.{end}");
            std::fs::copy(other.path(&file), authority.path(&file)).expect("copied");
        }
    }
    std::fs::copy(other.path("ca.pem"), authority.path("ca.pem")).expect("copied");
    gateway.signal(Signal::HUP);
    backend.signal(Signal::HUP);
    let is_told = |log: String| log.contains("[cluster_tls] uses its new files");
    eventually("both have read them", || {
        is_told(gateway.output().1) && is_told(backend.output().1)
    });
    alice.chat(bob.uid, "over the connection that was there");
    // A client that is not ours, with a certificate of the new authority, is listened to.
    let path = |file: &str| authority.path(file).display().to_string();
    let options = ["-cert", &path("gateway.pem"), "-key", &path("gateway.key")];
    let mut stranger = authority.client(backend.address(), "backend.example", &options);
    stranger.send("this begins with the length of a header that is far too long");
    assert_eq!(stranger.line(), None);
    let framing = || backend.metric("rpc_connections_closed_total", &[("reason", "framing")]);
    eventually("what it says is no call", || framing() == 1.0);
    assert_eq!(refused(&backend), 0.0);
}

#[test]
fn who_has_no_certificate_of_the_cluster_is_refused_and_counted_by_a_backend() {
    let (authority, others) = (authority(), authority());
    authority.sign_expired("old", "gateway.example");
    let backend = start_backend(NO_REDIS, |config| {
        authority.secure_cluster("backend", config);
    });
    let mut plain = TcpStream::connect(backend.address()).expect("connect");
    plain
        .write_all(&[12, 0, 0, 0, 10, 4, 85, 115, 101, 114])
        .expect("write");
    // An alert, and the end.
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(answer.len() < 10, "{answer:?}");
    eventually("it is counted", || refused(&backend) == 1.0);
    let start_gateway =
        |configure: &dyn Fn(&mut Config)| start_gateway(backend.address(), NO_REDIS, configure);
    let cases: [Case<'_>; 3] = [
        ("no TLS", &|_| {}),
        ("another's certificate", &|config| {
            authority.secure_cluster("gateway", config);
            let file = |end: &str| others.path(&format!("gateway.{end}")).display().to_string();
            config
                .set("cluster_tls", "certificate_file", file("pem"))
                .set("cluster_tls", "key_file", file("key"));
        }),
        ("an expired certificate", &|config| {
            authority.secure_cluster("old", config)
        }),
    ];
    for (what, configure) in cases {
        let before = refused(&backend);
        let gateway = start_gateway(configure);
        eventually(what, || refused(&backend) > before);
        let mut client = gateway.client();
        let reply = client.ask("register:alice:password-of-alice");
        assert!(reply.starts_with("-ERR "), "{what}: {reply}");
    }
    let (_, log) = backend.output();
    assert!(log.contains("no TLS of this cluster"), "{log}");
}

#[test]
fn a_backend_without_a_certificate_of_the_cluster_is_called_by_no_gateway() {
    let (authority, others) = (authority(), authority());
    authority.sign_expired("old", "backend.example");
    let cases: [Case<'_>; 3] = [
        ("no TLS", &|_| {}),
        ("another's certificate", &|config| {
            others.secure_cluster("backend", config)
        }),
        ("an expired certificate", &|config| {
            authority.secure_cluster("old", config)
        }),
    ];
    for (what, configure) in cases {
        let backend = start_backend(NO_REDIS, configure);
        let gateway = start_gateway(backend.address(), NO_REDIS, |config| {
            authority.secure_cluster("gateway", config);
        });
        eventually(what, || failed(&gateway) >= 1.0);
        let mut client = gateway.client();
        let reply = client.ask("register:alice:password-of-alice");
        assert!(
            reply.starts_with("-ERR BACKEND_UNAVAILABLE"),
            "{what}: {reply}"
        );
        assert_eq!(gateway.metric("backend_connections", &[]), 0.0);
    }
}

#[test]
fn half_of_the_files_is_a_mistake_and_no_reason_to_speak_in_the_open() {
    let authority = authority();
    let finished = Gateway::start_and_fail(|config| {
        authority.secure_cluster("gateway", config);
        config.set("cluster_tls", "ca_file", "");
    });
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("[cluster_tls] ca_file"),
        "{}",
        finished.stderr
    );
}
