//! The gateway's own node and its worker numbers.

use super::*;
use crate::discovery::process::Process;

const NODE: &str = "/im-gateway/instances/gw";

/// A gateway's record with another process in it.
fn gateway_record(process: &Process) -> Vec<u8> {
    let mut record = serde_json::to_value(process).expect("JSON");
    record["addr"] = "127.0.0.1:6001".into();
    record["ops"] = serde_json::Value::Null;
    record["cores"] = 2.into();
    record["version"] = "0.0.1".into();
    record.to_string().into_bytes()
}

/// A process that cannot be looked at from here.
fn elsewhere() -> Process {
    Process {
        host: "elsewhere".to_owned(),
        ..Process::this()
    }
}

#[test]
fn a_gateway_registers_what_it_is_and_vanishes_when_it_stops() {
    let server = shared();
    let hosts = server.hosts("/registers");
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        assert!(gateway.status.is_registered() && gateway.status.is_connected());
        let stranger = Stranger::connect(&hosts).await;
        let text = stranger.text(NODE).await.expect("the node");
        let record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(record["addr"], "127.0.0.1:6000");
        assert_eq!(record["pid"], std::process::id());
        assert_eq!(record["cores"], 2);
        assert!(record["session_timeout_ms"].as_u64() >= Some(1));
        let numbers = gateway.worker_numbers();
        for number in &numbers {
            let holder = stranger
                .text(&format!("/im-gateway/workers/{number}"))
                .await;
            assert_eq!(holder.as_deref(), Some("gw"));
        }
        gateway.stop().await;
        assert_eq!(stranger.owner(NODE).await, None);
        assert!(stranger.children("/im-gateway/workers").await.is_empty());
    });
}

#[test]
fn one_server_of_several_is_enough() {
    let server = shared();
    // Nobody listens at the first: port 1 is no place for a ZooKeeper.
    let hosts = format!("127.0.0.1:1, {}", server.hosts("/several"));
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        assert!(gateway.status.is_registered());
        gateway.stop().await;
    });
}

#[test]
fn a_node_that_was_deleted_by_hand_comes_back() {
    let server = shared();
    let hosts = server.hosts("/deleted");
    run(async {
        let gateway = Gateway::start(WatchOptions {
            interval: Duration::from_millis(200),
            ..watch_options(&hosts, "gw")
        });
        eventually("the first table", || gateway.table().is_some()).await;
        let stranger = Stranger::connect(&hosts).await;
        stranger.delete(NODE).await;
        let start = Instant::now();
        while stranger.owner(NODE).await.is_none() {
            assert!(start.elapsed() < DEADLINE, "it did not come back");
        }
        gateway.stop().await;
    });
}

#[test]
fn the_second_live_gateway_with_an_id_is_refused() {
    let server = shared();
    let hosts = server.hosts("/duplicate");
    run(async {
        let first = Gateway::ready(&hosts, "gw").await;
        let second = Gateway::start(watch_options(&hosts, "gw"));
        let refused = tokio::time::timeout(DEADLINE, second.task).await;
        let error = refused.expect("in time").expect("no panic");
        let WatchError::IdTaken { gateway_id, holder } = error.expect_err("refused");
        assert_eq!(gateway_id, "gw");
        assert!(holder.contains("127.0.0.1:6000"), "{holder}");
        assert!(second.events.borrow().is_empty());
        // The first one is none the worse for it.
        let stranger = Stranger::connect(&hosts).await;
        stranger
            .put("/UserService/instances/a", &record(5001))
            .await;
        eventually("it goes on", || first.ports(Service::User) == [5001]).await;
        assert!(stranger.owner(NODE).await.is_some());
        first.stop().await;
    });
}

#[test]
fn a_holder_on_another_machine_is_waited_for_and_then_refused_to() {
    let server = shared();
    let hosts = server.hosts("/elsewhere");
    run(async {
        let stranger = Stranger::connect(&hosts).await;
        stranger.put(NODE, &gateway_record(&elsewhere())).await;
        let start = Instant::now();
        let gateway = Gateway::start(watch_options(&hosts, "gw"));
        let refused = tokio::time::timeout(DEADLINE, gateway.task).await;
        let error = refused.expect("in time").expect("no panic");
        assert!(
            matches!(error, Err(WatchError::IdTaken { .. })),
            "{error:?}"
        );
        assert!(start.elapsed() >= SESSION_TIMEOUT, "{:?}", start.elapsed());
    });
}

#[test]
fn a_holder_on_another_machine_that_vanishes_makes_room() {
    let server = shared();
    let hosts = server.hosts("/makes-room");
    run(async {
        let stranger = Stranger::connect(&hosts).await;
        stranger.put(NODE, &gateway_record(&elsewhere())).await;
        let gateway = Gateway::start(watch_options(&hosts, "gw"));
        eventually("it looks", || gateway.status.is_connected()).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(gateway.events.borrow().is_empty() && !gateway.status.is_registered());
        stranger.delete(NODE).await;
        eventually("it goes on", || gateway.table().is_some()).await;
        gateway.stop().await;
    });
}

#[test]
fn what_a_dead_predecessor_left_is_replaced_at_once() {
    let server = shared();
    let hosts = server.hosts("/leftover");
    run(async {
        let mut child = std::process::Command::new("true").spawn().expect("true(1)");
        let dead = Process {
            pid: child.id(),
            ..Process::this()
        };
        child.wait().expect("it ends");
        // A first run, to learn which numbers this id begins with.
        let gateway = Gateway::ready(&hosts, "gw").await;
        let numbers = gateway.worker_numbers();
        gateway.stop().await;
        let predecessor = Stranger::connect(&hosts).await;
        predecessor.put(NODE, &gateway_record(&dead)).await;
        for number in &numbers {
            // As if it was last used long ago, or it would be passed over.
            predecessor
                .delete(&format!("/im-gateway/marks/{number}"))
                .await;
            predecessor
                .put(&format!("/im-gateway/workers/{number}"), b"gw")
                .await;
        }
        let start = Instant::now();
        let gateway = Gateway::ready(&hosts, "gw").await;
        assert!(start.elapsed() < SESSION_TIMEOUT, "{:?}", start.elapsed());
        assert_eq!(gateway.worker_numbers(), numbers);
        let owner = predecessor.owner(NODE).await;
        assert_ne!(owner, Some(predecessor.0.session_id().0));
        gateway.stop().await;
    });
}

#[test]
fn worker_numbers_are_one_gateways_at_a_time() {
    let server = shared();
    let hosts = server.hosts("/leases");
    run(async {
        let stranger = Stranger::connect(&hosts).await;
        let mut gateways = Vec::new();
        let mut numbers = Vec::new();
        for name in ["gw-1", "gw-2", "gw-3"] {
            let gateway = Gateway::start(WatchOptions {
                cores: 3,
                ..watch_options(&hosts, name)
            });
            eventually("the first table", || gateway.table().is_some()).await;
            numbers.extend(gateway.worker_numbers());
            gateways.push(gateway);
        }
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!((count, numbers.len()), (9, 9));
        assert_eq!(stranger.children("/im-gateway/workers").await.len(), 9);
        // Another gateway finds the first numbers of an id taken, and takes the next.
        let wanted = gateways[0].worker_numbers();
        gateways.remove(0).stop().await;
        for number in &wanted {
            stranger
                .delete(&format!("/im-gateway/marks/{number}"))
                .await;
        }
        stranger
            .put(&format!("/im-gateway/workers/{}", wanted[0]), b"gw-9")
            .await;
        let again = Gateway::ready(&hosts, "gw-1").await;
        assert_eq!(again.worker_numbers()[0], wanted[1]);
        again.stop().await;
        for gateway in gateways {
            gateway.stop().await;
        }
    });
}
