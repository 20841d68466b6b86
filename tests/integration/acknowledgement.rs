//! What a receiver's TCP has not acknowledged is not confirmed, however much of it the gateway's
//! kernel took.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::SockRef;

use crate::common::{Client, Gateway, Push, Received, eventually, field};

/// Ends a connection as a machine that is switched off and on again does: with a reset, and nothing
/// before it.
fn reset(client: Client) {
    let stream = client.writer();
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("linger");
    drop((client, stream));
}

fn wait_until_offline(alice: &mut Client, uid: u64) {
    eventually("the receiver is gone", || {
        field(&alice.ask(&format!("who:{uid}")), "online") == "0"
    });
}

#[test]
fn what_a_receiver_had_no_room_for_comes_again_marked_as_a_repeat() {
    let gateway = Gateway::start(|config| {
        config.set("network", "send_buffer_size", "1MiB");
    });
    let mut alice = gateway.register("alice");
    let mut bob = gateway.connect_with_little_room();
    assert!(bob.line().starts_with("+OK welcome"));
    let bob_uid = bob.register("bob");
    let text = "z".repeat(4000);
    let sent: Vec<u64> = (0..20).map(|_| alice.chat(bob_uid, &text)).collect();
    // All of it has left the gateway for the kernel, and most of it nobody has.
    eventually("nothing is queued any more", || {
        gateway.metric("outbox_bytes", &[]) == 0.0
    });
    reset(bob);
    wait_until_offline(&mut alice, bob_uid);
    let mut bob = gateway.login("bob");
    let (pulled, _) = bob.pull("pull");
    let mut again = bob.taken_pushes();
    again.extend(pulled);
    let ids: Vec<u64> = again.iter().map(Push::id).collect();
    assert!(ids.len() >= 15, "only {} of 20 came again", ids.len());
    assert_eq!(ids, sent[sent.len() - ids.len()..]);
    assert!(again.iter().all(Push::is_dup));
}

#[test]
fn what_a_receiver_has_does_not_come_again_however_the_connection_ends() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let bob_uid = gateway.register("bob").uid;
    type End = fn(Client);
    let ends: [(&str, End); 4] = [
        ("quit", |mut bob| assert_eq!(bob.ask("quit"), "+OK bye")),
        ("logout", |mut bob| {
            assert_eq!(bob.ask("logout"), "+OK logout")
        }),
        ("close", drop),
        ("half-close", |mut bob| {
            bob.half_close();
            assert_eq!(bob.lines_until_closed(), Vec::<String>::new());
        }),
    ];
    for (name, end) in ends {
        wait_until_offline(&mut alice, bob_uid);
        let mut bob = gateway.login("bob");
        assert_eq!(bob.pull("pull"), (Vec::new(), false), "before {name}");
        assert!(bob.taken_pushes().is_empty(), "before {name}");
        alice.chat(bob_uid, name);
        assert_eq!(bob.push().text(), name);
        end(bob);
    }
    wait_until_offline(&mut alice, bob_uid);
    let mut bob = gateway.login("bob");
    assert_eq!(bob.pull("pull"), (Vec::new(), false));
    assert!(bob.taken_pushes().is_empty());
}

#[test]
fn one_who_pulls_and_leaves_in_one_breath_has_confirmed_what_was_read() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let bob_uid = gateway.register("bob").uid;
    wait_until_offline(&mut alice, bob_uid);
    let sent: Vec<u64> = (0..5)
        .map(|n| alice.chat(bob_uid, &format!("n{n}")))
        .collect();
    let mut bob = gateway.client();
    bob.send_bytes(b"login:bob:password-of-bob\npull\n");
    bob.half_close();
    let lines = bob.lines_until_closed();
    let ids: Vec<u64> = lines
        .iter()
        .filter_map(|line| Push::parse(line))
        .map(|push| push.id())
        .collect();
    assert_eq!(ids, sent);
    wait_until_offline(&mut alice, bob_uid);
    let mut bob = gateway.login("bob");
    assert_eq!(bob.pull("pull"), (Vec::new(), false));
}

#[test]
fn pulls_on_the_heels_of_each_other_bring_each_message_once() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let bob_uid = gateway.register("bob").uid;
    wait_until_offline(&mut alice, bob_uid);
    let sent: Vec<u64> = (0..50)
        .map(|n| alice.chat(bob_uid, &format!("n{n}")))
        .collect();
    let mut bob = gateway.login("bob");
    bob.send_bytes(&b"pull:5\n".repeat(10));
    let mut ids = Vec::new();
    for _ in 0..10 {
        assert!(bob.reply().starts_with("+OK pull_done count=5"));
        ids.extend(bob.taken_pushes().iter().map(Push::id));
    }
    assert_eq!(ids, sent);
}

/// The network of a process of its own, with an address that can be taken away.
struct Island {
    holder: Child,
}

const SHORE: [u8; 4] = [10, 77, 0, 1];

impl Island {
    /// Moves this thread, and what it starts, into a network of its own; says why where the system
    /// does not let it.
    fn enter() -> Result<Self, String> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "600"]);
        let holder = command.stdin(Stdio::null()).spawn();
        let island = Self {
            holder: holder.map_err(|error| format!("unshare: {error}"))?,
        };
        let path = format!("/proc/{}/ns/net", island.holder.id());
        let own = std::fs::read_link("/proc/self/ns/net").map_err(|error| error.to_string())?;
        for _ in 0..400 {
            if std::fs::read_link(&path).is_ok_and(|its| its != own) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if std::fs::read_link(&path).is_ok_and(|its| its == own) {
            return Err("no network namespace can be made".into());
        }
        let file = std::fs::File::open(&path).map_err(|error| error.to_string())?;
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&file),
            Some(LinkNameSpaceType::Network),
        )
        .map_err(|error| format!("setns: {error}"))?;
        island.ip("link set lo up")?;
        island.connect()?;
        Ok(island)
    }

    fn ip(&self, arguments: &str) -> Result<(), String> {
        let status = Command::new("ip").args(arguments.split(' ')).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!("ip {arguments}: {other:?}")),
        }
    }

    fn connect(&self) -> Result<(), String> {
        self.ip("address add 10.77.0.1/32 dev lo")
    }

    /// From here on nothing reaches who is there, and nothing comes from there.
    fn cut(&self) {
        self.ip("address delete 10.77.0.1/32 dev lo").expect("cut");
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Runs `test` in a network of its own, or says why not.
fn on_an_island(test: impl FnOnce(&Island) + Send + 'static) {
    // A thread of its own: what it has entered, no other test is to be in.
    let thread = std::thread::spawn(|| match Island::enter() {
        Ok(island) => test(&island),
        Err(reason) => eprintln!("skipped, no network can be cut here: {reason}"),
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn what_was_sent_into_a_cut_link_comes_with_the_next_login() {
    on_an_island(|island| {
        let gateway = Gateway::start(|config| {
            config.set("network", "tcp_user_timeout", "2s");
        });
        let mut alice = gateway.register("alice");
        let mut bob = Client::connect_from(gateway.address(), SHORE);
        assert!(bob.line().starts_with("+OK welcome"));
        let bob_uid = bob.register("bob");
        let first = alice.chat(bob_uid, "before");
        assert_eq!(bob.push().id(), first);
        island.cut();
        let sent: Vec<u64> = (0..5)
            .map(|n| alice.chat(bob_uid, &format!("n{n}")))
            .collect();
        // Nobody says that the link is dead: that nothing is acknowledged does.
        wait_until_offline(&mut alice, bob_uid);
        island.connect().expect("the link is mended");
        let mut bob_again = gateway.login("bob");
        let pushes = bob_again.pushes(5);
        let ids: Vec<u64> = pushes.iter().map(Push::id).collect();
        assert_eq!(ids, sent);
        assert!(pushes.iter().all(Push::is_dup));
        bob_again.assert_no_push();
        while let Received::Line(line) = bob.receive_within(Duration::from_millis(100)) {
            assert!(!line.starts_with("MSG"), "it was cut off: {line}");
        }
    });
}

#[test]
fn a_new_login_gets_what_the_dead_link_of_the_old_one_swallowed() {
    on_an_island(|island| {
        let gateway = Gateway::start(|_| {});
        let mut alice = gateway.register("alice");
        let mut bob = Client::connect_from(gateway.address(), SHORE);
        assert!(bob.line().starts_with("+OK welcome"));
        let bob_uid = bob.register("bob");
        island.cut();
        let sent: Vec<u64> = (0..5)
            .map(|n| alice.chat(bob_uid, &format!("n{n}")))
            .collect();
        // The same device: it takes the place of the session that nobody has.
        let mut bob = gateway.login("bob");
        let ids: Vec<u64> = bob.pushes(5).iter().map(Push::id).collect();
        assert_eq!(ids, sent);
        bob.assert_no_push();
    });
}
