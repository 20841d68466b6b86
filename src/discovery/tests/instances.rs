//! What the gateway sees of the services.

use super::*;
use crate::contract::methods::method;

#[test]
fn instances_of_both_layouts_are_seen_and_vanish_with_their_nodes() {
    let server = shared();
    let hosts = server.hosts("/layouts");
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        assert_eq!(gateway.ports(Service::User), [0u16; 0]);
        let stranger = Stranger::connect(&hosts).await;
        stranger
            .put("/UserService/instances/a", &record(5001))
            .await;
        stranger.put("/UserService/Login", b"127.0.0.1:8010").await;
        stranger
            .put("/UserService/Register", b"127.0.0.1:8010")
            .await;
        stranger.put("/HealthService/Ping", b"127.0.0.1:8010").await;
        stranger
            .put("/HealthService/instances/a", &record(5001))
            .await;
        let took = eventually("both instances", || {
            gateway.ports(Service::User) == [5001, 8010]
                && gateway
                    .table()
                    .is_some_and(|table| table.answers_ping(address(5001)))
        })
        .await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        let table = gateway.table().expect("a table");
        let [recorded, classic] = table.of(Service::User) else {
            panic!("two instances: {table:?}");
        };
        assert_eq!(
            (recorded.wire, classic.wire),
            (Wire::WithIds, Wire::Classic)
        );
        assert!(recorded.methods.contains::<method::Logout>());
        assert!(classic.methods.contains::<method::Login>());
        assert!(!classic.methods.contains::<method::Logout>());
        assert!(table.answers_ping(address(8010)));
        assert_eq!(gateway.status.instances(Service::User), 2);

        stranger.delete("/UserService/instances/a").await;
        let took = eventually("one instance", || gateway.ports(Service::User) == [8010]).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        // The last instance outlives its nodes for a while: they may have been deleted by mistake.
        let before = gateway.status.reads_total();
        stranger.delete("/UserService/Login").await;
        stranger.delete("/UserService/Register").await;
        eventually("it is read", || gateway.status.reads_total() > before).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(gateway.ports(Service::User), [8010]);
        stranger
            .put("/UserService/instances/b", &record(5002))
            .await;
        eventually("another", || gateway.ports(Service::User) == [5002]).await;
        gateway.stop().await;
    });
}

#[test]
fn what_stood_there_before_is_in_the_first_table() {
    let server = shared();
    let hosts = server.hosts("/deep/root/path");
    run(async {
        let stranger = Stranger::connect(&hosts).await;
        stranger
            .put("/GroupService/instances/g", &record(5002))
            .await;
        let gateway = Gateway::ready(&hosts, "gw").await;
        let first = gateway.events.borrow().clone();
        assert!(matches!(first[0], Event::IdLeases(_)), "{first:?}");
        assert_eq!(first.len(), 2, "{first:?}");
        assert_eq!(gateway.ports(Service::Group), [5002]);
        gateway.stop().await;
    });
}

#[test]
fn an_instance_that_changes_is_seen_as_it_is() {
    let server = shared();
    let hosts = server.hosts("/changing");
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        let stranger = Stranger::connect(&hosts).await;
        stranger
            .put("/UserService/instances/a", &record(5001))
            .await;
        eventually("seen", || gateway.ports(Service::User) == [5001]).await;
        let moved = stranger
            .0
            .set_data("/UserService/instances/a", &record(5009), None);
        moved.await.expect("written");
        eventually("moved", || gateway.ports(Service::User) == [5009]).await;
        gateway.stop().await;
    });
}

#[test]
fn what_is_broken_is_left_out_and_counted_and_the_rest_is_used() {
    let server = shared();
    let hosts = server.hosts("/garbage");
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        let stranger = Stranger::connect(&hosts).await;
        let long = vec![b'7'; 64 * 1024 + 1];
        let huge = vec![b'7'; 1_000_000];
        let broken: [(&str, &[u8]); 13] = [
            ("/UserService/Login", b"127.0.0.1"),
            ("/UserService/Logout", b"backend:5001"),
            ("/UserService/Register", b""),
            ("/UserService/AddFriend", b"\xff\xfe\x00"),
            ("/UserService/GetFriends", &long),
            ("/UserService/instances/empty", b""),
            ("/UserService/instances/binary", b"\x80\x81{}"),
            ("/UserService/instances/long", &long),
            ("/UserService/instances/huge", &huge),
            ("/UserService/RemoveFriend", b"127.0.0.1:99999"),
            ("/UserService/GetProfile", b"127.0.0.1:5001\0"),
            ("/MessageService/Ack", b"0.0.0.0:5001"),
            ("/UserService/instances/port", br#"{"addr":"127.0.0.1:0"}"#),
        ];
        for (path, data) in broken {
            stranger.put(path, data).await;
        }
        let good: [(&str, &[u8]); 6] = [
            ("/UserService/Search", b"[::1]:8011"),
            ("/UserService/NoSuchMethod", b"garbage that nobody reads"),
            ("/UserService/instances/good", &record(5001)),
            ("/UserService/instances/caf\u{e9} \u{202e}", &record(5002)),
            // One process with two services.
            ("/MessageService/instances/good", &record(5001)),
            ("/MessageService/Send", b"127.0.0.1:5001"),
        ];
        for (path, data) in good {
            stranger.put(path, data).await;
        }
        eventually("the good ones are used", || {
            gateway.ports(Service::User) == [5001, 5002, 8011]
                && gateway.ports(Service::Message) == [5001]
                && gateway.status.bad_records() == broken.len() as u64
        })
        .await;
        let total = gateway.status.bad_records_total();
        assert_eq!(total, broken.len() as u64);

        // Seen again, counted no more; mended, counted no more at all.
        stranger
            .put("/UserService/instances/more", &record(5003))
            .await;
        eventually("read again", || {
            gateway.ports(Service::User) == [5001, 5002, 5003, 8011]
        })
        .await;
        assert_eq!(gateway.status.bad_records_total(), total);
        for (path, _) in broken {
            stranger.delete(path).await;
        }
        eventually("none is broken", || gateway.status.bad_records() == 0).await;
        gateway.stop().await;
    });
}

#[test]
fn a_service_with_very_many_records_is_read_up_to_a_bound() {
    let server = shared();
    let hosts = server.hosts("/many");
    run(async {
        let stranger = Stranger::connect(&hosts).await;
        stranger
            .put("/UserService/instances/0000", &record(1))
            .await;
        let options = zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());
        let paths: Vec<String> = (1..1100)
            .map(|number| format!("/UserService/instances/{number:04}"))
            .collect();
        let created: Vec<_> = paths
            .iter()
            .zip(2u16..)
            .map(|(path, port)| stranger.0.create(path, &record(port), &options))
            .collect();
        for created in created {
            created.await.expect("created");
        }
        let gateway = Gateway::ready(&hosts, "gw").await;
        assert_eq!(gateway.ports(Service::User).len(), 1024);
        gateway.stop().await;
    });
}

#[test]
fn a_node_that_comes_and_goes_all_the_time_costs_a_few_reads_a_second() {
    let server = shared();
    let hosts = server.hosts("/flapping");
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        let stranger = Stranger::connect(&hosts).await;
        stranger
            .put("/UserService/instances/steady", &record(5001))
            .await;
        eventually("seen", || gateway.ports(Service::User) == [5001]).await;
        let (before, start) = (gateway.status.reads_total(), Instant::now());
        for _ in 0..20 {
            stranger
                .put("/UserService/instances/flap", &record(5002))
                .await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            stranger.delete("/UserService/instances/flap").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let reads = gateway.status.reads_total() - before;
        let seconds = start.elapsed().as_secs_f64();
        assert!(
            (reads as f64) <= seconds * 4.0 + 2.0,
            "{reads} in {seconds} s"
        );
        assert!(!gateway.ever_lost(Service::User));
        eventually("the steady one alone", || {
            gateway.ports(Service::User) == [5001]
        })
        .await;
        gateway.stop().await;
    });
}

#[test]
fn everything_is_read_again_once_in_an_interval() {
    let server = shared();
    let hosts = server.hosts("/interval");
    run(async {
        let gateway = Gateway::start(WatchOptions {
            interval: Duration::from_millis(300),
            ..watch_options(&hosts, "gw")
        });
        eventually("ten reads of five places", || {
            gateway.status.reads_total() >= 50
        })
        .await;
        gateway.stop().await;
    });
}
