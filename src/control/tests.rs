//! The control thread as its peers see it: over real sockets, with the cores and the signals played
//! by the test.

mod harness;

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

use super::*;
use crate::metrics::Carrier;
use harness::{Answer, Control, FRESH_MS, Manager, PATIENCE, STALE_MS, Setup, registry};

const ROUTES: [&str; 4] = ["/livez", "/readyz", "/health", "/metrics"];

#[test]
fn every_route_answers_get_and_nothing_but_reading() {
    let control = Control::started();
    for route in ROUTES {
        assert_eq!(control.get(route).status, 200, "{route}");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let request = format!(
                "{method} {route} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi"
            );
            let answer = control.request(&request);
            assert_eq!(answer.status, 405, "{method} {route}");
            assert_eq!(answer.body, "", "{method} {route}");
        }
    }
}

#[test]
fn other_paths_are_not_found() {
    let control = Control::started();
    for path in [
        "/",
        "/livez/",
        "/metrics/x",
        "/debug",
        "/..",
        "/%2e%2e/etc/passwd",
        "/LIVEZ",
    ] {
        assert_eq!(control.get(path).status, 404, "{path}");
    }
    assert_eq!(control.get("/livez?verbose").status, 200);
}

#[test]
fn health_tells_version_and_figures() {
    let control = Control::started();
    control.registry.cores[0].connections(Carrier::Line).set(3);
    control.registry.cores[1]
        .connections(Carrier::WebSocket)
        .set(4);
    control.registry.cores[1].sessions_authenticated.set(2);
    let answer = control.get("/health");
    let json = answer.json();
    assert_eq!(json["status"], "ok");
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["connections"], 7);
    assert_eq!(json["sessions"], 2);
    assert_eq!(json["cores"], 2);
    assert!(
        json["uptime_seconds"]
            .as_u64()
            .is_some_and(|seconds| seconds >= 60)
    );
}

#[test]
fn metrics_are_text_and_open_metrics_where_that_is_asked_for() {
    let control = Control::started();
    control.registry.cores[1].messages_sent_total.add(5);
    let answer = control.get("/metrics");
    assert_eq!(
        answer.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    assert!(!answer.body.contains("# EOF"));
    let answer = control.request(
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\
         Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\r\n",
    );
    assert_eq!(
        answer.headers["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(
        answer
            .body
            .contains("im_gateway_messages_sent_total{core=\"1\"} 5\n")
    );
    assert!(answer.body.contains("im_gateway_ready 1\n"));
    assert!(answer.body.ends_with("# EOF\n"));
}

#[test]
fn a_stalled_core_is_named_by_livez_and_readyz_until_it_is_back() {
    let control = Control::started();
    control.registry.cores[1].heartbeat.beat(STALE_MS);
    let answer = control.get("/livez");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["stalled_cores"], serde_json::json!([1]));
    for route in ["/readyz", "/health"] {
        let answer = control.get(route);
        assert_eq!(answer.status, 503, "{route}");
        let reasons = answer.json()["reasons"].to_string();
        assert!(reasons.contains("core 1: stalled"), "{route} {reasons}");
    }
    assert!(
        control
            .get("/metrics")
            .body
            .contains("im_gateway_ready 0\n")
    );
    control.registry.cores[1].heartbeat.beat(FRESH_MS);
    assert_eq!(control.get("/livez").status, 200);
    assert_eq!(control.get("/readyz").status, 200);
}

#[test]
fn not_ready_before_the_cores_are_up_and_while_the_store_fails() {
    let mut control = Control::start(Setup::default());
    let answer = control.get("/readyz");
    assert_eq!(answer.status, 503);
    assert!(
        answer.json()["reasons"][0]
            .as_str()
            .unwrap()
            .starts_with("starting")
    );
    assert_eq!(control.get("/livez").status, 200, "starting is not dead");

    control.cores_up();
    let answer = control.get("/readyz");
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        serde_json::json!({"ready": true, "reasons": []})
    );

    control.readiness.set_store_failing(true);
    let answer = control.get("/readyz");
    assert_eq!(answer.status, 503);
    assert!(
        answer.json()["reasons"][0]
            .as_str()
            .unwrap()
            .starts_with("store")
    );
    assert_eq!(
        control.get("/livez").status,
        200,
        "a restart would not help"
    );
    control.readiness.set_store_failing(false);
    assert_eq!(control.get("/readyz").status, 200);
}

#[test]
fn slow_headers_hold_nobody_up() {
    let control = Control::started();
    let slow: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = control.connect();
            stream.write_all(b"GET /livez HTTP/1.1\r\nHos").unwrap();
            stream
        })
        .collect();
    assert_eq!(control.get("/livez").status, 200);
    drop(slow);
}

#[test]
fn who_takes_every_place_and_sends_nothing_is_closed() {
    let limits = Limits {
        connections: 2,
        connection_time: Duration::from_millis(100),
    };
    let control = Control::start(Setup {
        limits,
        ..Setup::default()
    });
    let mut silent: Vec<TcpStream> = (0..6).map(|_| control.connect()).collect();
    for stream in &mut silent {
        assert_eq!(
            stream.read(&mut [0; 16]).unwrap_or(0),
            0,
            "closed without a word"
        );
    }
    assert_eq!(control.get("/livez").status, 200);
}

#[test]
fn a_crowd_of_slow_requests_keeps_nobody_from_livez() {
    let control = Control::started();
    let mut crowd: Vec<TcpStream> = (0..300).map(|_| control.connect()).collect();
    for stream in &mut crowd {
        // Some are closed already, to make room for the others.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: loc");
    }
    for _ in 0..10 {
        assert_eq!(control.get("/livez").status, 200);
    }
}

#[test]
fn what_is_asked_of_another_host_is_not_answered_on_loopback() {
    let control = Control::started();
    let get = |head: &str| control.request(&format!("GET {head}\r\n\r\n")).status;
    for head in [
        "/metrics HTTP/1.1\r\nHost: evil.example:8100",
        "/livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
        "http://evil.example/livez HTTP/1.1\r\nHost: localhost",
        "/nothing HTTP/1.1\r\nHost: evil.example",
    ] {
        assert_eq!(get(head), 421, "{head}");
    }
    for head in [
        "/livez HTTP/1.1\r\nHost: localhost:8100",
        "/livez HTTP/1.1\r\nHost: [::1]:8100",
        "/livez HTTP/1.0",
    ] {
        assert_eq!(get(head), 200, "{head}");
    }
}

#[test]
fn oversized_and_broken_requests_are_refused() {
    let control = Control::started();
    let long = "x".repeat(6 * 1024);
    let answer = control.request(&format!(
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nA: {long}\r\nB: {long}"
    ));
    assert_eq!(answer.status, 431);
    assert_eq!(control.request("@1 login:alice:secret\r\n\r\n").status, 400);
    let both = "GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(control.request(both).status, 400);
    assert_eq!(control.get("/livez").status, 200);
}

#[test]
fn a_connection_gets_one_answer_and_its_body_is_ignored() {
    let control = Control::started();
    let body = "GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\npart";
    let answer = control.request(body);
    assert_eq!(
        (answer.status, answer.headers["connection"].as_str()),
        (200, "close")
    );
    let twice = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2);
    assert_eq!(control.request(&twice).body.matches("HTTP/1.1").count(), 0);
}

#[test]
fn a_half_closed_request_is_answered() {
    let control = Control::started();
    let mut stream = control.connect();
    stream.write_all(b"GET /livez HTTP/1.0\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(Answer::read(stream).status, 200);
}

#[test]
fn a_stop_signal_drains_once_and_says_so() {
    let mut control = Control::started();
    control.signal(StopSignal::Terminate);
    let stopping = control.manager.wait_for("STOPPING=1");
    let stop_us = (PATIENCE + Duration::from_secs(5)).as_micros();
    assert!(
        stopping.contains(&format!("EXTEND_TIMEOUT_USEC={stop_us}")),
        "{stopping}"
    );
    let answer = control.get("/readyz");
    assert_eq!(answer.status, 503);
    assert!(
        answer.json()["reasons"][0]
            .as_str()
            .unwrap()
            .starts_with("draining")
    );
    assert_eq!(control.get("/livez").status, 200, "draining is not dead");
    control.cores_drained.take().unwrap().send(()).unwrap();
    let drains = Arc::clone(&control.drains);
    assert_eq!(control.end(), End::Outcome(Outcome::Drained));
    assert_eq!(drains.load(SeqCst), 1);
}

#[test]
fn a_second_signal_ends_at_once_with_its_own_code() {
    for (second, exit_code) in [(StopSignal::Interrupt, 130), (StopSignal::Terminate, 143)] {
        let control = Control::started();
        control.signal(StopSignal::Terminate);
        control.signal(second);
        let drains = Arc::clone(&control.drains);
        assert_eq!(control.end(), End::SecondSignal(second));
        assert_eq!(second.exit_code(), exit_code);
        assert_eq!(drains.load(SeqCst), 1, "the drain has begun once");
    }
}

#[test]
fn a_signal_before_the_cores_are_up_drains_and_never_says_ready() {
    let mut control = Control::start(Setup::default());
    control.signal(StopSignal::Interrupt);
    assert!(control.manager.receive().contains("STOPPING=1"));
    control.cores_ready.take().unwrap().send(()).unwrap();
    assert_eq!(control.get("/readyz").status, 503);
    control.cores_drained.take().unwrap().send(()).unwrap();
    let Control {
        thread, manager, ..
    } = control;
    assert_eq!(
        thread.join().unwrap().unwrap(),
        End::Outcome(Outcome::Drained)
    );
    manager.socket.set_nonblocking(true).unwrap();
    assert!(
        manager.socket.recv(&mut [0; 64]).is_err(),
        "nothing follows STOPPING=1"
    );
}

#[test]
fn the_deadline_ends_a_drain_and_counts_who_is_left() {
    let setup = Setup {
        drain_timeout: Duration::from_millis(20),
        ..Setup::default()
    };
    let mut control = Control::start(setup);
    control.cores_up();
    control.registry.cores[0].connections(Carrier::Line).set(2);
    control.registry.cores[1].connections(Carrier::Line).set(3);
    control.signal(StopSignal::Terminate);
    let expected = Outcome::DeadlineHit {
        connections_left: 5,
    };
    // The cores live on: their end of the channel is held until the control thread has ended.
    let cores_drained = control.cores_drained.take();
    assert_eq!(control.end(), End::Outcome(expected));
    drop(cores_drained);
}

#[test]
fn what_a_drain_without_connections_waits_for_is_said() {
    let registry = registry(2);
    assert_eq!(unfinished(&registry), "the cores are not done");
    for _ in 0..3 {
        registry.cores[1].backend_inflight.inc();
    }
    assert_eq!(
        unfinished(&registry),
        "3 calls to services are not answered"
    );
    let backend = Registry::of_backend(Arc::default(), registry.started, 0);
    assert!(unfinished(&backend).contains("ZooKeeper"));
}

#[test]
fn cores_that_end_unasked_are_an_outcome_of_their_own() {
    let mut control = Control::started();
    drop(control.cores_drained.take());
    assert_eq!(control.end(), End::Outcome(Outcome::CoresLost));

    let mut control = Control::started();
    control.signal(StopSignal::Terminate);
    control.manager.wait_for("STOPPING=1");
    drop(control.cores_drained.take());
    assert_eq!(control.end(), End::Outcome(Outcome::CoresLost));
}

#[test]
fn the_watchdog_is_fed_only_while_every_core_is_alive() {
    let watchdog = Duration::from_millis(20);
    let mut control = Control::start(Setup {
        watchdog: Some(watchdog),
        ..Setup::default()
    });
    control.cores_up();
    control.manager.wait_for("WATCHDOG=1");

    control.registry.cores[0].heartbeat.beat(STALE_MS);
    control.manager.wait_for("STATUS=core 0: stalled");
    control
        .manager
        .socket
        .set_read_timeout(Some(10 * watchdog))
        .unwrap();
    let silence = control.manager.socket.recv(&mut [0; 64]).unwrap_err();
    assert_eq!(silence.kind(), io::ErrorKind::WouldBlock);

    control
        .manager
        .socket
        .set_read_timeout(Some(PATIENCE))
        .unwrap();
    control.registry.cores[0].heartbeat.beat(FRESH_MS);
    assert_eq!(control.manager.receive(), "WATCHDOG=1");
    assert_eq!(
        control.manager.receive(),
        "STATUS=every core is alive again"
    );

    control.signal(StopSignal::Terminate);
    control.manager.wait_for("STOPPING=1");
    control.registry.cores[1].heartbeat.end();
    control.manager.wait_for("WATCHDOG=1");
}

const CHILD: &str = "control::tests::process_under_a_service_manager";

/// Not a test of its own: the process that [`the_environment_and_real_signals_are_heeded`] starts.
#[test]
#[ignore = "started by another test, in a process of its own"]
fn process_under_a_service_manager() {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    std::thread::spawn(|| {
        // The parent holds the other end for as long as it lives.
        let ended = io::stdin().read(&mut [0; 1]);
        eprintln!("the parent is gone: {ended:?}");
        std::process::exit(1);
    });
    let (cores_ready, cores_ready_receiver) = oneshot::channel();
    let (_cores_drained, cores_drained) = oneshot::channel();
    cores_ready.send(()).unwrap();
    let options = Options {
        ops_listener: None,
        ops_tls: None,
        registry: registry(1),
        readiness: Arc::new(Readiness::new()),
        cores: Vec::new(),
        drain_timeout: 10 * PATIENCE,
        cores_ready: cores_ready_receiver,
        cores_drained,
        on_drain: Box::new(|| {}),
    };
    let outcome = run(options, std::future::pending());
    panic!("ended by itself: {outcome:?}");
}

#[test]
fn the_environment_and_real_signals_are_heeded() {
    heeds_environment_and_signals(&Manager::listen());
}

#[test]
fn a_service_manager_may_have_an_abstract_socket() {
    heeds_environment_and_signals(&Manager::listen_abstract());
}

fn heeds_environment_and_signals(manager: &Manager) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--ignored", "--nocapture"])
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "20000")
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _lifeline = child.stdin.take();
    let process = Pid::from_child(&child);
    assert!(
        manager
            .wait_for("READY=1")
            .contains("STATUS=serving on 1 cores")
    );
    manager.wait_for("WATCHDOG=1");
    kill_process(process, Signal::HUP).unwrap();
    kill_process(process, Signal::TERM).unwrap();
    manager.wait_for("STOPPING=1");
    kill_process(process, Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
