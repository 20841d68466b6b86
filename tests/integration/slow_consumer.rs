//! A receiver that does not read: it is cut off, others are not, and its messages wait.

use std::io::Write;

use crate::common::{Client, Gateway, Push, eventually, field};

const TEXT_LENGTH: usize = 8000;
const COUNT: usize = 200;

fn gateway() -> Gateway {
    Gateway::start(|config| {
        config
            .limit("outbound_queue_bytes", "256KiB")
            .set("network", "send_buffer_size", "16KiB");
    })
}

/// Sends big messages until the gateway has cut the receiver off, and some more.
fn overwhelm(gateway: &Gateway, alice: &mut Client, receiver: u64) -> Vec<u64> {
    let text = "z".repeat(TEXT_LENGTH);
    let sent: Vec<u64> = (0..COUNT).map(|_| alice.chat(receiver, &text)).collect();
    eventually("the slow consumer is cut off", || {
        gateway.metric("slow_consumers_total", &[]) >= 1.0
    });
    eventually("its session is over", || {
        field(&alice.ask(&format!("who:{receiver}")), "online") == "0"
    });
    assert!(gateway.metric("connections_closed_total", &[("reason", "slow_consumer")]) >= 1.0);
    sent
}

#[test]
fn a_receiver_that_does_not_read_is_cut_off_and_its_messages_wait() {
    let gateway = gateway();
    let mut alice = gateway.register("alice");
    let mut carol = gateway.register("carol");
    let bob_uid = gateway.register("bob").uid;
    let mut bob = gateway.login_manual("bob");
    bob.shrink_receive_buffer();
    let sent = overwhelm(&gateway, &mut alice, bob_uid);
    let id = alice.chat(carol.uid, "others are served");
    assert_eq!(carol.push().id(), id);
    // What the kernel had taken is still there; the last line may be cut.
    let lines = bob.lines_until_closed();
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with("MSG ") || line == "KICK reason=slow_consumer")
    );
    assert!(lines.len() < COUNT);
    // Whoever reads gets all of it, at the login or by pulling, without being cut off.
    let mut bob = gateway.login_manual("bob");
    let mut waiting = bob.drain_inbox();
    waiting.extend(bob.taken_pushes());
    let mut ids: Vec<u64> = waiting.iter().map(Push::id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, sent);
    assert_eq!(gateway.metric("slow_consumers_total", &[]), 1.0);
}

#[test]
fn in_automatic_confirmation_only_what_was_acknowledged_is_confirmed() {
    let gateway = gateway();
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    bob.shrink_receive_buffer();
    let sent = overwhelm(&gateway, &mut alice, bob.uid);
    let mut ids: Vec<u64> = bob
        .lines_until_closed()
        .iter()
        .filter_map(|line| Push::parse(line))
        .filter(|push| push.kind == "MSG")
        .map(|push| push.id())
        .collect();
    let mut bob = gateway.login_manual("bob");
    ids.extend(bob.drain_inbox().iter().map(Push::id));
    ids.extend(bob.taken_pushes().iter().map(Push::id));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, sent);
}

#[test]
fn a_sender_that_does_not_read_its_replies_is_held_back_or_cut_off_within_bounds() {
    let gateway = gateway();
    let mut witness = gateway.client();
    let client = gateway.client();
    client.shrink_receive_buffer();
    let mut writer = client.writer();
    writer
        .set_write_timeout(Some(std::time::Duration::from_secs(1)))
        .expect("timeout");
    let line = format!("ping:{}\n", "x".repeat(400))
        .into_bytes()
        .repeat(1000);
    // Past some point the gateway either reads no more or closes; it must not take everything in.
    let mut taken = 0;
    while taken < 64 << 20 {
        match std::io::Write::write(&mut writer, &line) {
            Ok(length) => taken += length,
            Err(_) => break,
        }
    }
    assert!(
        taken < 64 << 20,
        "the gateway took {taken} bytes from one who never read"
    );
    assert_eq!(witness.ask("ping"), "+OK pong");
    let outbox = gateway.metric("outbox_bytes", &[]);
    assert!(outbox > 0.0, "what waits is counted");
    assert!(outbox <= f64::from(512 * 1024), "{outbox} bytes queued");
    drop((client, writer));
    eventually("nothing is queued for one who is gone", || {
        gateway.metric("outbox_bytes", &[]) == 0.0
    });
}

#[test]
fn clients_that_never_log_in_and_never_read_cost_little() {
    const CLIENTS: usize = 400;
    /// What ten thousand of them may take of 100 MiB.
    const BYTES_EACH: u64 = 10 * 1024;
    /// What a process grows by, whoever its clients are: a map of slots, an allocator's reserves.
    const BYTES_ANYHOW: u64 = 2 << 20;
    let gateway = Gateway::start(|_| {});
    let mut witness = gateway.client();
    assert_eq!(witness.ask("ping"), "+OK pong");
    let before = gateway.resident_bytes();
    let lines = format!("ping:{}\n", "x".repeat(480)).repeat(2000);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let client = gateway.connect_with_little_room();
            client.writer().set_nonblocking(true).expect("nonblocking");
            client
        })
        .collect();
    // Each is pushed until it takes no more, again and again until none of them does.
    let mut taken = vec![0; CLIENTS];
    let mut stuck = 0;
    while stuck < 20 {
        stuck += 1;
        for (client, taken) in clients.iter().zip(&mut taken) {
            let mut writer = client.writer();
            while let Ok(count) = writer.write(&lines.as_bytes()[*taken % 486..]) {
                *taken += count;
                stuck = 0;
            }
        }
        assert_eq!(witness.ask("ping"), "+OK pong");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let queued = gateway.metric("outbox_bytes", &[]);
    assert!(queued > 0.0, "nobody was held back");
    assert!(queued <= (CLIENTS * 3 * 1024) as f64, "{queued} bytes");
    let grown = gateway.resident_bytes().saturating_sub(before);
    let limit = CLIENTS as u64 * BYTES_EACH + BYTES_ANYHOW;
    assert!(grown <= limit, "{grown} bytes for {CLIENTS} of them");
    drop(clients);
}
