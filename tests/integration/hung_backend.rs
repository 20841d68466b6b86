//! A backend that hangs but lives: what it costs its clients, and what is said of the lock it may
//! hold.

use rusqlite::Connection;
use rustix::process::Signal;

use crate::common::cluster::Cluster;
use crate::common::process::Process;
use crate::common::{eventually, http};

/// Between batches a backend holds no lock, so the other one can do everything.
#[test]
fn a_backend_that_hangs_costs_no_error_where_another_can_do_its_work() {
    let mut cluster = Cluster::start(2, 1);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(0, "bob");
    alice.chat(bob.uid, "before");
    let hung = cluster.backends.remove(0).into_process();
    eventually("the backend has nothing to do", || {
        // Confirmations are written a moment later.
        let before = hung.metric("store_commits_total", &[]);
        std::thread::sleep(std::time::Duration::from_millis(600));
        hung.metric("store_commits_total", &[]) == before
    });
    hung.signal(Signal::STOP);
    let ids: Vec<u64> = (0..50)
        .map(|n| alice.chat(bob.uid, &format!("{n}")))
        .collect();
    hung.signal(Signal::CONT);
    let pushed: Vec<u64> = bob.pushes(51).iter().map(|push| push.id()).collect();
    assert_eq!(pushed[1..], ids);
}

#[test]
fn whoever_holds_the_databases_lock_is_named_until_it_lets_go() {
    let cluster = Cluster::start(1, 1);
    let mut alice = cluster.register(0, "alice");
    let Cluster {
        mut backends,
        ground,
        gateways,
    } = cluster;
    let backend = backends.remove(0).into_process();
    let holder = Connection::open(ground.database()).expect("the database");
    holder.execute_batch("BEGIN IMMEDIATE").expect("its lock");
    eventually("messages are refused", || {
        // The first one waits for the lock, and may be given up meanwhile.
        alice.ask("chat:1:hello").starts_with("-ERR OVERLOADED ")
    });
    let name = format!("process {} ", std::process::id());
    eventually("/readyz names the holder", || {
        readiness(&backend).contains(&name)
    });
    let (_, log) = backend.output();
    assert!(log.contains(&name), "{log}");
    let waited = backend.metric("store_lock_wait_seconds", &[]);
    assert!(waited > 0.0, "{waited}");
    // Reading goes on, and does not wait for the lock each time.
    assert!(alice.ask("friends").starts_with("+OK"));

    holder.execute_batch("ROLLBACK").expect("its end");
    eventually("messages are stored again", || {
        alice.ask("chat:1:hello").starts_with("+OK")
    });
    eventually("/readyz is content again", || {
        readiness(&backend).contains("\"ready\":true")
    });
    assert_eq!(backend.metric("store_lock_wait_seconds", &[]), 0.0);
    drop(gateways);
}

/// What is left of the session of a client that has gone is a call nobody answers.
#[test]
fn a_drain_that_only_waits_for_a_hung_backend_ends_well_and_says_so() {
    let mut cluster = Cluster::start_with(1, 1, |config| {
        config.set("gateway_service", "drain_timeout", "1s");
    });
    let alice = cluster.register(0, "alice");
    let backend = cluster.backends.remove(0).into_process();
    let mut gateway = cluster.gateways.remove(0);
    backend.signal(Signal::STOP);
    drop(alice);
    eventually("the connection is gone", || {
        gateway.metric("connections", &[]) == 0.0 && gateway.metric("backend_inflight", &[]) > 0.0
    });
    gateway.terminate();
    assert_eq!(gateway.wait_exit(), Some(0));
    let (_, log) = gateway.output();
    assert!(log.contains("calls to services are not answered"), "{log}");
    backend.signal(Signal::CONT);
}

fn readiness(process: &Process) -> String {
    let address = process.http_address().expect("an operations listener");
    http::get(address, "/readyz").expect("an answer").body
}
