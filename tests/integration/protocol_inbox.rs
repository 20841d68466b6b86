//! The inbox: what waits there, how it is pulled, and what confirms it.

use crate::common::{Client, Gateway, Push, assert_error, eventually, field};

fn two_users(gateway: &Gateway) -> (Client, Client) {
    (gateway.register("alice"), gateway.register("bob"))
}

fn ids(messages: &[Push]) -> Vec<u64> {
    messages.iter().map(Push::id).collect()
}

#[test]
fn automatic_confirmation_empties_the_inbox_after_a_push() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, mut bob) = two_users(&gateway);
    alice.chat(bob.uid, "one");
    bob.push();
    // A connection in manual confirmation looks, so that looking confirms nothing.
    let mut watcher = gateway.client();
    assert_eq!(watcher.ask("set:ack:manual"), "+OK ack=manual");
    assert_eq!(watcher.ask("set:device:watch"), "+OK device=watch");
    watcher.login("bob");
    eventually("the pushed message is confirmed", || {
        watcher.pull("pull").0.is_empty()
    });
}

#[test]
fn automatic_confirmation_empties_the_inbox_after_a_pull() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, bob) = two_users(&gateway);
    let receiver = bob.uid;
    drop(bob);
    eventually("bob is gone", || {
        field(&alice.ask(&format!("who:{receiver}")), "online") == "0"
    });
    alice.chat(receiver, "one");
    let mut bob = gateway.login("bob");
    assert_eq!(bob.pull("pull").0.len(), 1);
    drop(bob);
    let mut watcher = gateway.login_manual("bob");
    eventually("the pulled message is confirmed", || {
        watcher.pull("pull").0.is_empty()
    });
}

#[test]
fn in_manual_confirmation_what_is_unconfirmed_comes_again_marked() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let bob_uid = gateway.register("bob").uid;
    let mut bob = gateway.login_manual("bob");
    let sent: Vec<u64> = (0..3)
        .map(|n| alice.chat(bob_uid, &format!("n{n}")))
        .collect();
    let pushes = bob.pushes(3);
    assert_eq!(ids(&pushes), sent);
    assert!(pushes.iter().all(|push| !push.is_dup()));
    let (again, _) = bob.pull("pull");
    assert_eq!(ids(&again), sent);
    assert!(again.iter().all(Push::is_dup), "{again:?}");
    assert_eq!(again[0].keys(), ["id", "seq", "from", "ts", "dup", "text"]);
    assert_eq!(bob.acknowledge(&sent[..1]), 1);
    drop(bob);
    let mut bob = gateway.login_manual("bob");
    let pushes = bob.pushes(2);
    assert_eq!(ids(&pushes), sent[1..], "they come again at the next login");
    assert!(pushes.iter().all(Push::is_dup), "{pushes:?}");
    assert_eq!(bob.acknowledge(&sent), 2);
    assert_eq!(bob.ask("pull"), "+OK pull_done count=0 more=0");
    drop(bob);
    gateway.login_manual("bob").assert_no_push();
}

#[test]
fn ack_counts_what_it_confirmed_and_forgives_the_unknown() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let bob_uid = gateway.register("bob").uid;
    let mut bob = gateway.login_manual("bob");
    let sent: Vec<u64> = (0..4)
        .map(|n| alice.chat(bob_uid, &format!("n{n}")))
        .collect();
    bob.pushes(4);
    assert_eq!(bob.ask("ack:1"), "+OK acked=0");
    // Another user's confirmation changes nothing.
    assert_eq!(alice.acknowledge(&sent), 0);
    assert_eq!(bob.ask(&format!("ack:{}", sent[0])), "+OK acked=1");
    assert_eq!(
        bob.ask(&format!("ack:{}:{}:77:{}", sent[0], sent[2], sent[2])),
        "+OK acked=1"
    );
    assert_eq!(ids(&bob.pull("pull").0), [sent[1], sent[3]]);
    assert_eq!(bob.acknowledge(&sent), 2);
    assert_eq!(bob.acknowledge(&sent), 0);
    for line in [
        "ack",
        "ack:",
        "ack:x",
        "ack:1:x",
        "ack:99999999999999999999",
    ] {
        assert_error(&bob.ask(line), "BAD_ARGUMENT");
    }
}

#[test]
fn unconfirmed_limit_stops_a_manual_connection_until_it_confirms() {
    let gateway = Gateway::start(|config| {
        config.limit("unconfirmed_limit", 3);
    });
    let mut alice = gateway.register("alice");
    let bob_uid = gateway.register("bob").uid;
    let mut bob = gateway.login_manual("bob");
    let sent: Vec<u64> = (0..10)
        .map(|n| alice.chat(bob_uid, &format!("n{n}")))
        .collect();
    let mut seen = ids(&bob.pushes(3));
    bob.assert_no_push();
    while seen.len() < sent.len() {
        let confirmed = seen.len();
        assert_eq!(bob.acknowledge(&sent[confirmed - 1..confirmed]), 1);
        seen.push(bob.push().id());
        bob.assert_no_push();
    }
    assert_eq!(seen, sent);
    assert_eq!(bob.acknowledge(&sent), 3);
    bob.assert_no_push();
    assert_eq!(bob.ask("pull"), "+OK pull_done count=0 more=0");
}

#[test]
fn what_came_while_away_waits_for_pull_oldest_first_and_page_by_page() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, bob) = two_users(&gateway);
    let receiver = bob.uid;
    drop(bob);
    eventually("bob is gone", || {
        field(&alice.ask(&format!("who:{receiver}")), "online") == "0"
    });
    let sent: Vec<u64> = (0..250)
        .map(|n| alice.chat(receiver, &format!("n{n}")))
        .collect();
    let mut bob = gateway.login_manual("bob");
    bob.assert_no_push();
    let (page, more) = bob.pull("pull:7");
    assert_eq!((ids(&page), more), (sent[..7].to_vec(), true));
    assert!(page.iter().all(|push| !push.is_dup() && push.kind == "MSG"));
    assert_eq!(page[0].keys(), ["id", "seq", "from", "ts", "text"]);
    assert_eq!(bob.acknowledge(&sent[..7]), 7);
    let (page, more) = bob.pull("pull");
    assert_eq!((ids(&page), more), (sent[7..107].to_vec(), true));
    assert_eq!(bob.acknowledge(&sent[7..57]), 50);
    assert_eq!(bob.acknowledge(&sent[57..107]), 50);
    let (page, more) = bob.pull("pull:1000");
    assert_eq!((ids(&page), more), (sent[107..].to_vec(), false));
}

#[test]
fn pull_answers_count_and_more_and_checks_its_limit() {
    let gateway = Gateway::start(|_| {});
    let (mut alice, _) = two_users(&gateway);
    assert_eq!(alice.ask("pull"), "+OK pull_done count=0 more=0");
    assert_eq!(
        alice.ask("@p1 pull:1000"),
        "@p1 +OK pull_done count=0 more=0"
    );
    for line in [
        "pull:0",
        "pull:1001",
        "pull:x",
        "pull:-1",
        "pull:99999999999999999999",
    ] {
        assert_error(&alice.ask(line), "BAD_ARGUMENT");
    }
}

#[test]
fn what_a_log_in_brings_again_is_not_pulled_a_second_time_even_by_a_pull_right_behind_it() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let receiver = gateway.register("bob").uid;
    let mut bob = gateway.login_manual("bob");
    alice.chat(receiver, "one");
    let id = bob.push().id();
    drop(bob);
    let mut bob = gateway.client();
    bob.send("login:bob:password-of-bob\npull\npull");
    assert!(bob.reply().starts_with("+OK uid="));
    let again = bob.push();
    assert_eq!((again.id(), again.is_dup()), (id, true));
    assert_eq!(bob.reply(), "+OK pull_done count=0 more=0");
    assert_eq!(bob.reply(), "+OK pull_done count=0 more=0");
}
