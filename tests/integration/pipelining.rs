//! Many commands on their way at one time: consecutive messages of a connection are stored
//! together.

use rustix::process::Signal;

use crate::common::cluster::Cluster;
use crate::common::{Client, Gateway, assert_error, number};

const MESSAGES: usize = 300;

/// Sends many messages in one breath, some of which are refused, and checks replies and pushes.
fn sends_in_one_breath(alice: &mut Client, bob: &mut Client, group: u64) {
    let line = |n: usize| match n % 10 {
        3 => format!("group_chat:{group}:{n}\n"),
        7 => "chat:999999999:nobody\n".to_owned(),
        9 => format!("ping:{n}\n"),
        _ => format!("@t{n} chat:{}:{n}\n", bob.uid),
    };
    let lines: String = (0..MESSAGES).map(line).collect();
    alice.send_bytes(lines.as_bytes());
    let mut ids = Vec::new();
    for n in 0..MESSAGES {
        let reply = alice.reply();
        match n % 10 {
            7 => assert_error(&reply, "NOT_FOUND"),
            9 => assert_eq!(reply, format!("+OK pong {n}")),
            3 => ids.push(number(&reply, "msg_id")),
            _ => {
                let (tag, reply) = reply.split_once(' ').expect("a tag");
                assert_eq!(tag, format!("@t{n}"));
                ids.push(number(reply, "msg_id"));
            }
        }
    }
    let mut pushes = bob.pushes(ids.len());
    let mut numbers = [Vec::new(), Vec::new()];
    for push in &pushes {
        numbers[usize::from(push.kind == "GMSG")].push(push.number("seq"));
    }
    for numbers in numbers {
        let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
        assert_eq!(numbers, expected, "in order and without a hole");
    }
    // Two streams may overtake each other, one may not.
    pushes.sort_by_key(|push| push.text().parse::<u64>().expect("a number"));
    let pushed: Vec<u64> = pushes.iter().map(|push| push.id()).collect();
    assert_eq!(pushed, ids);
    bob.assert_no_push();
}

fn group_of(alice: &mut Client, bob: &mut Client) -> u64 {
    let group = alice.create_group("both");
    assert!(bob.ask(&format!("join_group:{group}")).starts_with("+OK"));
    group
}

#[test]
fn a_breath_of_messages_is_answered_and_pushed_in_order() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, mut bob) = (gateway.register("alice"), gateway.register("bob"));
    let group = group_of(&mut alice, &mut bob);
    sends_in_one_breath(&mut alice, &mut bob, group);
}

#[test]
fn in_a_cluster_it_is_the_same_and_takes_few_calls() {
    let mut cluster = Cluster::start(1, 2);
    let (mut alice, mut bob) = (cluster.register(0, "alice"), cluster.register(1, "bob"));
    let group = group_of(&mut alice, &mut bob);
    let calls = |cluster: &Cluster| cluster.backends[0].metric("rpc_calls_total");
    let before = calls(&cluster);
    sends_in_one_breath(&mut alice, &mut bob, group);
    let taken = calls(&cluster) - before;
    // Every tenth line is a `ping`, which ends a batch; confirmations take some calls, too.
    assert!(taken < (MESSAGES / 2) as f64, "{taken} calls");
    cluster.assert_sound();
}

#[test]
fn messages_behind_one_in_doubt_are_not_stored_and_the_next_is_tried() {
    let mut cluster = Cluster::start_with(1, 1, |config| {
        config.set("rpc", "rpc_timeout", "500ms");
    });
    let (mut alice, mut bob) = (cluster.register(0, "alice"), cluster.register(0, "bob"));
    alice.chat(bob.uid, "before");
    assert_eq!(bob.push().text(), "before");
    cluster.backends[0].signal(Signal::STOP);
    let line = |text: &str| format!("chat:{}:{text}\n", bob.uid);
    alice.send_bytes(line("doubtful").as_bytes());
    let lines: String = (0..20).map(|n| line(&format!("behind {n}"))).collect();
    alice.send_bytes(lines.as_bytes());
    let replies: Vec<String> = (0..21).map(|_| alice.reply()).collect();
    cluster.backends[0].signal(Signal::CONT);
    for reply in &replies {
        let failed = ["-ERR TIMEOUT", "-ERR BACKEND_UNAVAILABLE"];
        assert!(
            failed.iter().any(|error| reply.starts_with(error)),
            "{reply}"
        );
    }
    cluster.wait_until_ready();
    alice.chat(bob.uid, "after");
    let texts: Vec<String> = std::iter::repeat_with(|| bob.push().text().to_owned())
        .take_while(|text| text != "after")
        .collect();
    // The batch that was out may have been stored as a whole; what was read behind it was not.
    assert!(texts.len() <= 1 || texts[0] == "doubtful", "{texts:?}");
    let behind: Vec<usize> = texts
        .iter()
        .filter_map(|text| text.strip_prefix("behind ")?.parse().ok())
        .collect();
    assert!(behind.is_sorted(), "{texts:?}");
}
