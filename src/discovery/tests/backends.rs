//! The nodes of backends.

use super::*;
use crate::contract::methods::METHODS;

#[test]
fn a_backend_is_found_by_gateways_and_vanishes_when_it_stops() {
    let server = shared();
    let hosts = server.hosts("/backend");
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        let backend = Backend::registered(&hosts, 5001).await;
        eventually("it is found", || {
            gateway.ports(Service::User) == [5001]
                && gateway.ports(Service::Message) == [5001]
                && gateway
                    .table()
                    .is_some_and(|table| table.answers_ping(address(5001)))
        })
        .await;
        let is_known = |gateways: &Gateways| {
            let addresses = gateways.addresses();
            addresses.is_some_and(|known| known.contains(&address(6000).ip()))
        };
        eventually("whom it serves is known", || is_known(&backend.gateways)).await;
        let stranger = Stranger::connect(&hosts).await;
        let login = stranger.text("/UserService/Login").await;
        assert_eq!(login.as_deref(), Some("127.0.0.1:5001"));
        assert_eq!(gateway.status.bad_records(), 0);
        stranger
            .put("/UserService/instances/other", &record(5002))
            .await;
        eventually("another one", || {
            gateway.ports(Service::User) == [5001, 5002]
        })
        .await;
        backend.stop().await;
        let took = eventually("it is gone", || gateway.ports(Service::User) == [5002]).await;
        assert!(took < SESSION_TIMEOUT, "{took:?}");
        gateway.stop().await;
    });
}

#[test]
fn nodes_that_were_deleted_by_hand_come_back_and_nobody_loses_an_instance_meanwhile() {
    let server = shared();
    let hosts = server.hosts("/all-deleted");
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        let backend = Backend::registered(&hosts, 5001).await;
        eventually("found", || gateway.ports(Service::User) == [5001]).await;
        let stranger = Stranger::connect(&hosts).await;
        let mut nodes = vec!["/HealthService/Ping".to_owned()];
        for service in ["UserService", "MessageService", "HealthService"] {
            for name in stranger.children(&format!("/{service}/instances")).await {
                nodes.push(format!("/{service}/instances/{name}"));
            }
        }
        for (service, method) in METHODS {
            if matches!(service, Service::User | Service::Message) {
                nodes.push(format!("/{}/{method}", service.name()));
            }
        }
        for node in &nodes {
            stranger.delete(node).await;
        }
        let start = Instant::now();
        for node in &nodes {
            while stranger.owner(node).await.is_none() {
                assert!(start.elapsed() < DEADLINE, "{node} does not come back");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert!(!gateway.ever_lost(Service::User) && !gateway.ever_lost(Service::Message));
        backend.stop().await;
        gateway.stop().await;
    });
}

#[test]
fn method_nodes_are_one_backends_and_handed_on() {
    let server = shared();
    let hosts = server.hosts("/handed-on");
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        let first = Backend::registered(&hosts, 5001).await;
        let second = Backend::registered(&hosts, 5002).await;
        let stranger = Stranger::connect(&hosts).await;
        let login = stranger.text("/UserService/Login").await;
        assert_eq!(login.as_deref(), Some("127.0.0.1:5001"));
        eventually("both are found", || {
            gateway.ports(Service::User) == [5001, 5002]
        })
        .await;
        first.stop().await;
        let start = Instant::now();
        while stranger.text("/UserService/Login").await.as_deref() != Some("127.0.0.1:5002") {
            assert!(start.elapsed() < DEADLINE, "nobody took it over");
        }
        second.stop().await;
        gateway.stop().await;
    });
}

#[test]
fn what_an_earlier_run_left_is_replaced_at_once() {
    let server = shared();
    let hosts = server.hosts("/earlier-run");
    run(async {
        let backend = Backend::registered(&hosts, 5001).await;
        let stranger = Stranger::connect(&hosts).await;
        let names = stranger.children("/UserService/instances").await;
        let record_path = format!("/UserService/instances/{}", names[0]);
        let left = stranger.text(&record_path).await.expect("the record");
        backend.stop().await;
        stranger.put(&record_path, left.as_bytes()).await;
        stranger.put("/UserService/Login", b"127.0.0.1:5001").await;
        stranger.put("/UserService/Logout", b"127.0.0.1:5009").await;

        stranger
            .put("/UserService/instances/other", &record(5002))
            .await;
        let gateway = Gateway::ready(&hosts, "gw").await;
        assert_eq!(gateway.ports(Service::User), [5001, 5002, 5009]);
        let start = Instant::now();
        let backend = Backend::registered(&hosts, 5001).await;
        assert!(start.elapsed() < SESSION_TIMEOUT, "{:?}", start.elapsed());
        let old = stranger.0.session_id().0;
        for path in [record_path.as_str(), "/UserService/Login"] {
            let owner = stranger.owner(path).await;
            assert!(owner.is_some_and(|owner| owner != old), "{path}");
        }
        assert_eq!(stranger.owner("/UserService/Logout").await, Some(old));
        // A replaced node is never seen to be missing.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let was_lost = gateway.events.borrow().iter().any(
            |event| matches!(event, Event::Endpoints(table) if table.of(Service::User).len() < 3),
        );
        assert!(!was_lost);
        gateway.stop().await;
        backend.stop().await;
    });
}

#[test]
fn two_backends_that_were_told_the_same_address_do_not_fight() {
    let server = shared();
    let hosts = server.hosts("/same-address");
    run(async {
        let first = Backend::registered(&hosts, 5001).await;
        let second = Backend::registered(&hosts, 5001).await;
        let stranger = Stranger::connect(&hosts).await;
        let second_owner = stranger.owner("/UserService/Login").await;
        // The first looks again after its connection or its patience; it takes the nodes back once
        // and leaves them then.
        let start = Instant::now();
        let mut owners = vec![second_owner];
        while start.elapsed() < Duration::from_secs(12) {
            let owner = stranger.owner("/UserService/Login").await;
            if owners.last() != Some(&owner) && owner.is_some() {
                owners.push(owner);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(owners.len() <= 3, "{owners:?}");
        first.stop().await;
        second.stop().await;
    });
}
