//! Groups joined and left on one gateway while the bus was away, as the user's device on another
//! gateway sees it.

use crate::common::cluster::Cluster;
use crate::common::{Client, eventually};

/// Bob's device on the second gateway, and everybody else on the first.
fn bob_on_both(cluster: &Cluster) -> (Client, Client, Client) {
    let alice = cluster.register(0, "alice");
    let here = cluster.register(0, "bob");
    let there = cluster.gateways[1].login_on("bob", "phone");
    (alice, here, there)
}

fn bus_is(cluster: &Cluster, connected: f64) {
    eventually("every core knows of the bus", || {
        let cores = cluster.gateways.iter();
        cores
            .map(|gateway| gateway.metric("bus_connected", &[]))
            .sum::<f64>()
            == connected
    });
}

#[test]
fn what_was_joined_and_left_while_the_bus_was_away_holds_on_every_gateway() {
    let mut cluster = Cluster::start_with(1, 2, |config| {
        config.cores(1);
    });
    let (mut alice, mut here, mut there) = bob_on_both(&cluster);
    let (left, joined) = (alice.create_group("left"), alice.create_group("joined"));
    assert!(here.ask(&format!("join_group:{left}")).starts_with("+OK"));
    let id = alice.group_chat(left, "before");
    for client in [&mut here, &mut there] {
        assert_eq!(client.push().id(), id);
    }
    cluster.ground.redis.kill_9();
    bus_is(&cluster, 0.0);
    assert!(here.ask(&format!("leave_group:{left}")).starts_with("+OK"));
    assert!(here.ask(&format!("join_group:{joined}")).starts_with("+OK"));
    let mut sent = Vec::new();
    for n in 0..5 {
        alice.group_chat(left, &format!("after leaving {n}"));
        sent.push(alice.group_chat(joined, &format!("after joining {n}")));
    }
    cluster.ground.redis.restart();
    bus_is(&cluster, 2.0);
    for n in 5..10 {
        alice.group_chat(left, &format!("after leaving {n}"));
        sent.push(alice.group_chat(joined, &format!("after joining {n}")));
    }
    for client in [&mut here, &mut there] {
        let came: Vec<(u64, u64)> = (0..sent.len())
            .map(|_| client.push())
            .map(|push| (push.id(), push.number("group")))
            .collect();
        let expected: Vec<(u64, u64)> = sent.iter().map(|id| (*id, joined)).collect();
        assert_eq!(came, expected, "all of the one group, none of the other");
        client.assert_no_push();
    }
    cluster.assert_sound();
}
