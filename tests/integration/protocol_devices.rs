//! One user on several devices: pushes to all, copies of what one sends, displacement.

use crate::common::{Gateway, assert_error, field};

#[test]
fn every_device_gets_every_push() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let bob = gateway.register("bob").uid;
    let mut devices: Vec<_> = (0..5)
        .map(|n| gateway.login_on("bob", &format!("d{n}")))
        .collect();
    let sent: Vec<u64> = (0..20).map(|n| alice.chat(bob, &format!("n{n}"))).collect();
    for device in &mut devices {
        for (n, push) in device.pushes(20).iter().enumerate() {
            assert_eq!((push.id(), push.number("seq")), (sent[n], n as u64 + 1));
            assert!(!push.is_dup(), "the first time for this device: {push:?}");
        }
        device.assert_no_push();
    }
}

#[test]
fn the_senders_other_devices_get_a_copy_that_names_the_receiver() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut others: Vec<_> = (0..3)
        .map(|n| gateway.login_on("alice", &format!("d{n}")))
        .collect();
    let mut bob = gateway.register("bob");
    let id = alice.chat(bob.uid, "hello");
    for other in &mut others {
        let copy = other.push();
        assert_eq!(copy.kind, "MSG");
        assert_eq!(copy.keys(), ["id", "from", "to", "ts", "text"]);
        assert_eq!((copy.id(), copy.number("from")), (id, alice.uid));
        assert_eq!((copy.number("to"), copy.text()), (bob.uid, "hello"));
        other.assert_no_push();
    }
    assert!(bob.push().get("to").is_none());
    alice.assert_no_push();
    // A copy is in nobody's inbox and takes no number.
    assert_eq!(others[0].ask("pull"), "+OK pull_done count=0 more=0");
    bob.chat(alice.uid, "hi");
    assert_eq!(alice.push().number("seq"), 1);
}

#[test]
fn a_message_to_oneself_reaches_all_own_devices_with_a_number() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut phone = gateway.login_on("alice", "phone");
    let id = alice.chat(alice.uid, "note");
    for client in [&mut alice, &mut phone] {
        let push = client.push();
        assert_eq!((push.id(), push.number("seq")), (id, 1));
        client.assert_no_push();
    }
}

#[test]
fn what_one_device_confirms_is_confirmed_for_all() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let bob = gateway.register("bob").uid;
    let manual = |device: &str| {
        let mut client = gateway.client();
        assert_eq!(client.ask("set:ack:manual"), "+OK ack=manual");
        client.ask(&format!("set:device:{device}"));
        client.login("bob");
        client
    };
    let (mut phone, mut laptop) = (manual("phone"), manual("laptop"));
    let sent: Vec<u64> = (0..3).map(|n| alice.chat(bob, &format!("n{n}"))).collect();
    phone.pushes(3);
    laptop.pushes(3);
    assert_eq!(phone.acknowledge(&sent[..2]), 2);
    let waiting: Vec<u64> = laptop.pull("pull").0.iter().map(|push| push.id()).collect();
    assert_eq!(waiting, sent[2..]);
    assert_eq!(laptop.acknowledge(&sent), 1);
    assert_eq!(phone.ask("pull"), "+OK pull_done count=0 more=0");
}

#[test]
fn the_same_device_name_replaces_the_older_connection_on_any_core() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut current = gateway.register("bob");
    let bob = current.uid;
    // The kernel spreads connections over the cores, so some of these replacements cross from one
    // to the other.
    for n in 0..24 {
        let next = gateway.login("bob");
        current.assert_kicked("replaced");
        current = next;
        let id = alice.chat(bob, &format!("n{n}"));
        assert_eq!(current.push().id(), id);
        current.assert_no_push();
        assert_eq!(field(&current.ask(&format!("who:{bob}")), "devices"), "cli");
    }
}

#[test]
fn a_login_that_displaced_a_session_says_so_but_not_to_mpims_client() {
    let gateway = Gateway::start_on_two_cores();
    let first = gateway.register("bob");
    let displaced = |reply: &str| reply.ends_with(" replaced=1");
    let other = gateway.client().ask("login:bob:password-of-bob");
    assert!(displaced(&other), "{other}");
    let mut phone = gateway.client();
    phone.ask("set:device:phone");
    let reply = phone.ask(&format!("auth:{}", first.token));
    assert!(!displaced(&reply), "{reply}");
    let mut again = gateway.client();
    again.ask("set:device:phone");
    let reply = again.ask(&format!("auth:{}", first.token));
    assert!(displaced(&reply), "{reply}");
    phone.assert_kicked("replaced");
    let reply = gateway.client().ask("LOGIN bob password-of-bob");
    assert_eq!(reply, format!("+OK uid={}", first.uid));
}

#[test]
fn another_device_name_replaces_nobody() {
    let gateway = Gateway::start_on_two_cores();
    let mut cli = gateway.register("bob");
    let mut phone = gateway.login_on("bob", "phone");
    cli.assert_no_push();
    phone.assert_no_push();
    assert_eq!(field(&cli.ask("whoami"), "device"), "cli");
    assert_eq!(field(&phone.ask("whoami"), "device"), "phone");
}

#[test]
fn past_max_devices_the_oldest_is_replaced() {
    let gateway = Gateway::start(|config| {
        config.cores(2).limit("max_devices", 2);
    });
    gateway.register("bob").ask("logout");
    let mut first = gateway.login_on("bob", "d1");
    let mut second = gateway.login_on("bob", "d2");
    let mut third = gateway.login_on("bob", "d3");
    first.assert_kicked("replaced");
    second.assert_no_push();
    third.assert_no_push();
    let mut fourth = gateway.login_on("bob", "d4");
    second.assert_kicked("replaced");
    third.assert_no_push();
    fourth.assert_no_push();
}

#[test]
fn many_users_on_two_cores_reach_each_other() {
    const USERS: usize = 16;
    let gateway = Gateway::start_on_two_cores();
    let mut clients: Vec<_> = (0..USERS)
        .map(|n| gateway.register(&format!("user{n}")))
        .collect();
    let uids: Vec<u64> = clients.iter().map(|client| client.uid).collect();
    for (from, client) in clients.iter_mut().enumerate() {
        let lines: String = uids
            .iter()
            .map(|to| format!("chat:{to}:from {from} to {to}\n"))
            .collect();
        client.send_bytes(lines.as_bytes());
    }
    for client in &mut clients {
        for _ in 0..USERS {
            let reply = client.reply();
            assert!(reply.starts_with("+OK msg_id="), "{reply}");
        }
    }
    for client in &mut clients {
        let mut senders: Vec<u64> = client
            .pushes(USERS)
            .iter()
            .enumerate()
            .map(|(n, push)| {
                assert_eq!(push.number("seq"), n as u64 + 1);
                assert!(push.text().ends_with(&format!(" to {}", client.uid)));
                push.number("from")
            })
            .collect();
        senders.sort_unstable();
        assert_eq!(senders, uids);
        client.assert_no_push();
    }
}

#[test]
fn a_replaced_session_can_be_taken_back() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut one = gateway.register("bob");
    let bob = one.uid;
    let mut two = gateway.login("bob");
    one.assert_kicked("replaced");
    let mut one = gateway.login("bob");
    two.assert_kicked("replaced");
    let id = alice.chat(bob, "hello");
    assert_eq!(one.push().id(), id);
    // The late end of a replaced connection takes nothing away from the newer one.
    drop(two);
    let id = alice.chat(bob, "again");
    assert_eq!(one.push().id(), id);
    assert_error(&alice.ask("chat:999999:x"), "NOT_FOUND");
}
