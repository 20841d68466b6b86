//! How the process ends: by signals, under load, against clients that do not read.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::{Gateway, Push, Received, eventually, http, number};

#[test]
fn sigterm_says_goodbye_and_ends_with_zero() {
    let mut gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut stranger = gateway.client();
    gateway.terminate();
    for client in [&mut alice, &mut stranger] {
        let lines = client.lines_until_closed();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].starts_with("NOTICE kind=reconnect text="),
            "{lines:?}"
        );
        assert_eq!(lines[1], "KICK reason=shutdown");
    }
    assert_eq!(gateway.wait_exit(), Some(0));
    assert!(TcpStream::connect(gateway.address()).is_err());
}

#[test]
fn sigint_ends_it_too() {
    let mut gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    gateway.signal(Signal::INT);
    client.assert_kicked("shutdown");
    assert_eq!(gateway.wait_exit(), Some(0));
}

#[test]
fn without_clients_it_ends_at_once() {
    let mut gateway = Gateway::start_on_two_cores();
    let start = Instant::now();
    gateway.terminate();
    assert_eq!(gateway.wait_exit(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

/// What one sender saw until its connection ended.
struct Sent {
    acknowledged: Vec<u64>,
    notices: usize,
    last_line: String,
}

fn send_until_closed(mut client: crate::common::Client, to: u64) -> Sent {
    let mut sent = Sent {
        acknowledged: Vec::new(),
        notices: 0,
        last_line: String::new(),
    };
    let mut in_flight = 0;
    let mut n = 0u64;
    loop {
        while in_flight < 20 && client.try_send(&format!("@n{n} chat:{to}:{n}")) {
            n += 1;
            in_flight += 1;
        }
        let Received::Line(line) = client.receive() else {
            return sent;
        };
        if line.contains("+OK msg_id=") {
            sent.acknowledged.push(number(&line, "msg_id"));
            in_flight -= 1;
        } else if line.starts_with("NOTICE kind=reconnect ") {
            sent.notices += 1;
        } else if line.starts_with('@') {
            assert!(line.contains(" -ERR SHUTTING_DOWN "), "{line}");
            in_flight -= 1;
        }
        sent.last_line = line;
    }
}

#[test]
fn sigterm_under_load_loses_no_acknowledged_message() {
    let mut gateway = Gateway::start_on_two_cores();
    let mut bob = gateway.register("bob");
    let senders: Vec<_> = (0..4)
        .map(|n| {
            let client = gateway.register(&format!("sender{n}"));
            let to = bob.uid;
            std::thread::spawn(move || send_until_closed(client, to))
        })
        .collect();
    let receiver = std::thread::spawn(move || bob.lines_until_closed());
    eventually("the load is on", || {
        gateway.metric("messages_received_total", &[]) >= 300.0
    });
    gateway.terminate();
    assert_eq!(gateway.wait_exit(), Some(0));
    let mut acknowledged = BTreeSet::new();
    for sender in senders {
        let sent = sender.join().expect("a sender");
        assert_eq!(sent.notices, 1);
        assert_eq!(sent.last_line, "KICK reason=shutdown");
        acknowledged.extend(sent.acknowledged);
    }
    let lines = receiver.join().expect("the receiver");
    assert_eq!(
        lines.last().map(String::as_str),
        Some("KICK reason=shutdown")
    );
    let mut delivered: BTreeSet<u64> = lines
        .iter()
        .filter_map(|line| Push::parse(line))
        .filter(|push| push.kind == "MSG")
        .map(|push| push.id())
        .collect();
    gateway.restart();
    delivered.extend(
        gateway
            .login_manual("bob")
            .drain_inbox()
            .iter()
            .map(Push::id),
    );
    let lost: Vec<&u64> = acknowledged.difference(&delivered).collect();
    assert!(lost.is_empty(), "of {} lost: {lost:?}", acknowledged.len());
}

/// A client that has much to read and reads nothing.
fn stalled_client(gateway: &Gateway) -> crate::common::Client {
    let client = gateway.register("stalled");
    client.shrink_receive_buffer();
    let mut writer = client.writer();
    writer
        .set_write_timeout(Some(Duration::from_secs(1)))
        .expect("timeout");
    // The gateway may stop reading one who does not read; then the rest stays unsent.
    let _ = writer.write_all(format!("ping:{}\n", "s".repeat(8000)).repeat(60).as_bytes());
    client
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut gateway = Gateway::start(|config| {
        config.set("gateway_service", "drain_timeout", "30s").set(
            "network",
            "send_buffer_size",
            "16KiB",
        );
    });
    let stalled = stalled_client(&gateway);
    let mut witness = gateway.client();
    gateway.terminate();
    witness.assert_kicked("shutdown");
    gateway.terminate();
    let start = Instant::now();
    gateway.wait_exit();
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    drop(stalled);
}

#[test]
fn a_client_that_does_not_read_cannot_hold_it_up_past_drain_timeout() {
    let mut gateway = Gateway::start(|config| {
        config.set("gateway_service", "drain_timeout", "2s").set(
            "network",
            "send_buffer_size",
            "16KiB",
        );
    });
    let stalled = stalled_client(&gateway);
    let start = Instant::now();
    gateway.terminate();
    let code = gateway.wait_exit();
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    assert!(matches!(code, Some(0 | 6)), "{code:?}");
    drop(stalled);
}

#[test]
fn while_it_drains_it_is_alive_but_not_ready() {
    let mut gateway = Gateway::start(|config| {
        config.set("gateway_service", "drain_timeout", "5s").set(
            "network",
            "send_buffer_size",
            "16KiB",
        );
    });
    let stalled = stalled_client(&gateway);
    // The connection that asks is made before, so that it is there whatever the accepting side
    // does.
    gateway.terminate();
    let address = gateway.http_address();
    let mut seen_not_ready = false;
    while gateway.is_running() {
        if let Ok(response) = http::get(address, "/readyz")
            && response.status == 503
        {
            seen_not_ready = true;
            assert!(!response.body.is_empty(), "it says why");
            assert_eq!(
                http::get(address, "/livez").map(|live| live.status).ok(),
                Some(200)
            );
            break;
        }
    }
    assert!(seen_not_ready);
    gateway.terminate();
    gateway.wait_exit();
    drop(stalled);
}

#[test]
fn after_sigterm_nobody_new_is_let_in() {
    let mut gateway = Gateway::start(|config| {
        config.set("gateway_service", "drain_timeout", "5s").set(
            "network",
            "send_buffer_size",
            "16KiB",
        );
    });
    let stalled = stalled_client(&gateway);
    let mut witness = gateway.client();
    gateway.terminate();
    witness.assert_kicked("shutdown");
    eventually("the port is closed or says why not", || {
        if TcpStream::connect(gateway.address()).is_err() {
            return true;
        }
        let mut late = gateway.connect();
        match late.receive_within(Duration::from_secs(1)) {
            Received::Line(line) => !line.starts_with("+OK welcome"),
            Received::Closed => true,
            Received::Nothing => false,
        }
    });
    gateway.terminate();
    gateway.wait_exit();
    drop(stalled);
}
