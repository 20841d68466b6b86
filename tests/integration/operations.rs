//! The operations listener, what the counters count, and a fault in one session.

use rustix::process::Signal;

use std::time::{Duration, Instant};

use crate::common::{Gateway, assert_error, eventually, http};

#[test]
fn the_health_pages_answer() {
    let gateway = Gateway::start_on_two_cores();
    for path in ["/health", "/livez", "/readyz"] {
        let response = gateway.get(path);
        assert_eq!(response.status, 200, "{path}: {response:?}");
    }
    assert_eq!(gateway.get("/nothing").status, 404);
    let post = http::request(gateway.http_address(), "POST", "/metrics").expect("an answer");
    assert_eq!(post.status, 405);
}

#[test]
fn signals_without_a_meaning_end_nothing() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    for (signal, name) in [
        (Signal::USR2, "SIGUSR2"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::HUP, "SIGHUP"),
    ] {
        gateway.signal(signal);
        eventually("the log says so", || gateway.output().1.contains(name));
        assert_eq!(alice.ask("ping"), "+OK pong", "{name}");
    }
}

#[test]
fn each_core_says_how_it_is_when_sigusr1_asks() {
    let gateway = Gateway::start_on_two_cores();
    let _alice = gateway.register("alice");
    gateway.signal(Signal::USR1);
    eventually("one core has her and the other nobody", || {
        let (_, log) = gateway.output();
        ["1 connections, 1 users", "0 connections, 0 users"]
            .iter()
            .all(|counts| log.contains(&format!(": {counts}, 0 groups, 0 flows under way")))
    });
}

#[test]
fn the_banner_teaches_nobody_where_nobody_sits_at_a_terminal() {
    let gateway = Gateway::start(|_| {});
    let (banner, _) = gateway.output();
    assert!(banner.contains("line protocol"), "{banner}");
    assert!(!banner.contains("Try it"), "{banner}");
}

#[test]
fn the_log_tells_who_was_closed_by_address_and_port_and_of_displacements() {
    let gateway = Gateway::start(|_| {});
    let mut stranger = gateway.client();
    let address = stranger.local_address();
    stranger.send(&"x".repeat(600));
    assert_error(&stranger.reply(), "LINE_TOO_LONG");
    stranger.assert_kicked("protocol");
    let line = format!("reason=protocol peer={address}\n");
    eventually("the close is in the log, with no user", || {
        gateway.output().1.contains(&line)
    });
    let first = gateway.register("alice");
    let (address, uid) = (first.local_address(), first.uid);
    let _second = gateway.login("alice");
    let line = format!("reason=replaced peer={address} user={uid}\n");
    eventually("the displacement is in the log", || {
        gateway.output().1.contains(&line)
    });
}

#[test]
fn the_log_tells_of_start_and_end_and_of_failed_logins_without_what_was_typed() {
    let mut gateway = Gateway::start(|_| {});
    eventually("the start is in the log", || {
        gateway.output().1.contains("is up")
    });
    gateway.register("alice");
    let mut client = gateway.client();
    assert_error(&client.ask("login:alice:not-her-password"), "AUTH_FAILED");
    assert_error(&client.ask("auth:not-a-token"), "AUTH_FAILED");
    let peer = client.local_address();
    for command in ["login", "auth"] {
        let line = format!("login failed command={command} code=AUTH_FAILED peer={peer}\n");
        eventually("the failure is in the log", || {
            gateway.output().1.contains(&line)
        });
    }
    let log = gateway.output().1;
    assert!(!log.contains("not-"), "{log}");
    gateway.terminate();
    assert_eq!(gateway.wait_exit(), Some(0));
    let log = gateway.output().1;
    assert!(log.contains("stopped: everyone was served"), "{log}");
}

#[test]
fn the_exposition_is_well_formed_and_names_the_version() {
    let gateway = Gateway::start_on_two_cores();
    gateway.register("alice").ask("ping");
    let response = gateway.get("/metrics");
    assert_eq!(response.status, 200);
    let head = response.head.to_lowercase();
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(response.body.contains("im_gateway_build_info"));
    assert!(response.body.contains(&version));
    for name in [
        "connections",
        "sessions_authenticated",
        "connections_accepted_total",
        "commands_total",
        "command_duration_seconds_bucket",
        "messages_received_total",
        "messages_sent_total",
        "transport_received_bytes_total",
        "transport_sent_bytes_total",
        "outbox_bytes",
        "core_queue_depth",
        "panics_total",
        "store_commits_total",
    ] {
        assert!(
            response.body.contains(&format!("\nim_gateway_{name}")),
            "{name} is missing"
        );
    }
    assert!(
        response.body.contains("\nprocess_"),
        "the standard process metrics"
    );
    for line in response.body.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit_once(' ').map(|(_, value)| value);
        assert!(
            value.is_some_and(|value| value.parse::<f64>().is_ok()),
            "not a sample: {line}"
        );
    }
    assert!(!response.body.contains("alice"), "no user in a label");
}

#[test]
fn the_counters_count_what_happened() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    let group = alice.create_group("team");
    bob.ask(&format!("join_group:{group}"));
    for _ in 0..3 {
        alice.chat(bob.uid, "hello");
    }
    alice.group_chat(group, "hello all");
    bob.pushes(4);
    assert_error(&alice.ask("chat:999999:x"), "NOT_FOUND");
    assert_error(&alice.ask("nonsense"), "UNKNOWN_COMMAND");
    for _ in 0..5 {
        alice.ask("ping");
    }
    let count = |name: &str, labels: &[(&str, &str)], expected: f64| {
        eventually(&format!("{name}{labels:?} = {expected}"), || {
            let value = gateway.metric(name, labels);
            assert!(value <= expected, "{name}{labels:?} = {value} > {expected}");
            value == expected
        });
    };
    count("connections", &[], 2.0);
    count("sessions_authenticated", &[], 2.0);
    count("connections_accepted_total", &[], 2.0);
    count(
        "commands_total",
        &[("command", "chat"), ("result", "ok")],
        3.0,
    );
    count(
        "commands_total",
        &[("command", "chat"), ("result", "error")],
        1.0,
    );
    count(
        "commands_total",
        &[("command", "ping"), ("result", "ok")],
        5.0,
    );
    count(
        "commands_total",
        &[("command", "register"), ("result", "ok")],
        2.0,
    );
    count("errors_total", &[("code", "NOT_FOUND")], 1.0);
    count("errors_total", &[("code", "UNKNOWN_COMMAND")], 1.0);
    count("protocol_errors_total", &[], 1.0);
    count("messages_received_total", &[], 4.0);
    count("messages_sent_total", &[], 4.0);
    count(
        "command_duration_seconds_count",
        &[("command", "chat")],
        4.0,
    );
    assert_eq!(alice.ask("quit"), "+OK bye");
    drop(bob);
    count("connections_closed_total", &[("reason", "quit")], 1.0);
    eventually("both are gone", || {
        gateway.metric("connections", &[]) == 0.0
            && gateway.metric("sessions_authenticated", &[]) == 0.0
    });
    assert_eq!(gateway.metric("panics_total", &[]), 0.0);
    assert!(gateway.metric("transport_received_bytes_total", &[]) > 100.0);
    assert!(gateway.metric("transport_sent_bytes_total", &[]) > 100.0);
    assert!(gateway.metric("store_commits_total", &[]) >= 1.0);
}

#[test]
fn connections_are_spread_over_the_cores() {
    let gateway = Gateway::start_on_two_cores();
    let clients: Vec<_> = (0..40).map(|_| gateway.client()).collect();
    for core in ["0", "1"] {
        let held = gateway.metric("connections", &[("core", core)]);
        assert!(held >= 1.0, "core {core} holds {held} of {}", clients.len());
    }
    assert_eq!(gateway.metric("connections", &[]), 40.0);
}

#[test]
fn a_watchdog_that_cannot_be_fed_is_said_once() {
    let nowhere = "NOTIFY_SOCKET=/nowhere/socket";
    let gateway = Gateway::start_under(&["env", nowhere, "WATCHDOG_USEC=100000"], |_| {});
    let start = Instant::now();
    eventually("it was to be fed again and again", || {
        start.elapsed() > Duration::from_secs(1)
    });
    let (_, log) = gateway.output();
    assert_eq!(log.matches("cannot notify systemd").count(), 1, "{log}");
}

#[test]
fn the_operations_listener_can_be_turned_off() {
    let gateway = Gateway::start(|config| {
        config.set("ops", "listen", "");
    });
    assert_eq!(gateway.client().ask("ping"), "+OK pong");
}

/// A panic that a test provokes in one session.
#[cfg(feature = "test-hooks")]
#[test]
fn a_panic_in_one_session_closes_that_connection_alone() {
    let mut gateway = Gateway::start_on_two_cores();
    let mut others: Vec<_> = (0..20)
        .map(|n| gateway.register(&format!("user{n}")))
        .collect();
    for round in 0..5 {
        let mut victim = if round % 2 == 0 {
            gateway.client()
        } else {
            gateway.login_on("user0", "victim")
        };
        victim.send("panic");
        let lines = victim.lines_until_closed();
        assert!(
            lines.iter().all(|line| line.starts_with("-ERR INTERNAL ")),
            "{lines:?}"
        );
        for other in &mut others {
            assert_eq!(other.ask("ping"), "+OK pong");
        }
        for n in 0..20 {
            assert_eq!(
                gateway.client().ask("ping"),
                "+OK pong",
                "new connection {n}"
            );
        }
    }
    // The user of a session that fell can log in again and be reached.
    let mut again = gateway.login_on("user0", "victim");
    let to = again.uid;
    let id = others[1].chat(to, "hello");
    assert_eq!(again.push().id(), id);
    assert_eq!(gateway.metric("panics_total", &[]), 5.0);
    assert!(gateway.is_running());
}

/// Without the hook the command does not exist.
#[cfg(not(feature = "test-hooks"))]
#[test]
fn the_command_that_panics_is_not_in_an_ordinary_build() {
    let gateway = Gateway::start(|_| {});
    assert_error(&gateway.client().ask("panic"), "UNKNOWN_COMMAND");
}
