//! Ids of messages over gateways, restarts and outages: none is another message's, and nothing
//! acknowledged is lost to one.

use std::collections::BTreeSet;

use crate::common::cluster::Cluster;
use crate::common::{Client, number, run_to_exit};

/// Has every client send `count` messages to `to`, all at once; gives the ids and the texts.
fn send_all(clients: &mut [&mut Client], to: u64, count: usize) -> (Vec<u64>, BTreeSet<String>) {
    let mut texts = BTreeSet::new();
    for (sender, client) in clients.iter_mut().enumerate() {
        let mut lines = String::new();
        for n in 0..count {
            let text = format!("{sender}-{n}");
            lines += &format!("chat:{to}:{text}\n");
            texts.insert(text);
        }
        client.send_bytes(lines.as_bytes());
    }
    let mut ids = Vec::new();
    for client in clients {
        for _ in 0..count {
            let reply = client.reply();
            assert!(reply.starts_with("+OK msg_id="), "{reply}");
            ids.push(number(&reply, "msg_id"));
        }
    }
    (ids, texts)
}

#[test]
fn gateways_on_the_same_worker_numbers_lose_nothing_that_they_acknowledged() {
    const COUNT: usize = 1000;
    const ROUNDS_MAX: usize = 100;
    let mut cluster = Cluster::start(1, 0);
    cluster.launch_static_gateway(0);
    cluster.launch_static_gateway(0);
    cluster.wait_until_ready();
    let mut clients: Vec<Client> = (0..4)
        .map(|n| cluster.register(n % 2, &format!("sender{n}")))
        .collect();
    let mut bob = cluster.register(0, "bob");
    let mut senders: Vec<&mut Client> = clients.iter_mut().collect();
    let conflicts = |cluster: &Cluster| -> f64 {
        let of =
            |gateway: usize| cluster.gateways[gateway].metric("message_id_conflicts_total", &[]);
        of(0) + of(1)
    };
    let mut all = Vec::new();
    let mut rounds = 0;
    // The same numbers make the same ids where both gateways make some in one millisecond.
    while conflicts(&cluster) == 0.0 {
        rounds += 1;
        assert!(rounds <= ROUNDS_MAX, "the same numbers make the same ids");
        let (ids, texts) = send_all(&mut senders, bob.uid, COUNT);
        let pushes = bob.pushes(4 * COUNT);
        let arrived: BTreeSet<String> = pushes.iter().map(|push| push.text().to_owned()).collect();
        assert_eq!(arrived, texts);
        all.extend(ids);
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), rounds * 4 * COUNT);
    cluster.assert_sound();
}

#[test]
fn a_gateway_that_starts_again_makes_no_id_a_second_time() {
    let mut cluster = Cluster::start(1, 1);
    let mut all = BTreeSet::new();
    let mut count = 0;
    for round in 0..3 {
        let mut alice = cluster.register(0, &format!("alice{round}"));
        let to = alice.uid;
        let (ids, _) = send_all(&mut [&mut alice], to, 200);
        count += ids.len();
        all.extend(ids);
        cluster.gateways[0].kill_9();
        cluster.gateways[0].restart();
        cluster.wait_until_ready();
    }
    assert_eq!(all.len(), count);
    assert_eq!(
        cluster.gateways[0].metric("message_id_conflicts_total", &[]),
        0.0
    );
    let marks = cluster.ground.znodes().children("/im-gateway/marks");
    // Two cores, and other numbers at each of the four starts.
    assert_eq!(marks.len(), 8, "{marks:?}");
}

#[test]
fn worker_numbers_that_nobody_hands_out_have_to_be_set() {
    let instances = (
        "IM_GATEWAY__SERVICE_DISCOVERY__STATIC_INSTANCES",
        "user mprpc-id 127.0.0.1:5001",
    );
    for command in ["check-config", "run"] {
        let finished = run_to_exit(&[command], &[instances]);
        assert_eq!(finished.code, Some(3), "{finished:?}");
        assert!(finished.stderr.contains("first_worker"), "{finished:?}");
        assert!(
            finished.stderr.contains("64 for the second"),
            "{finished:?}"
        );
    }
}
