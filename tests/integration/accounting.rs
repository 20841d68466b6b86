//! A whole system under trouble: users write to each other and to groups, come and go at random,
//! the process is killed in the middle, and the checker accounts for every message.
//!
//! Repeat a run with `IM_GATEWAY_TEST_SEED`; the interleaving of threads stays the machine's own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::accounting_user::{User, World, history_of};
use crate::accounting_verdict::{Outcome, verdict};
use crate::common::{Client, Gateway, eventually, random::Random};

const USERS: u64 = 6;
const MESSAGES_PER_USER: u64 = 120;

/// Users who all are in one group, and the first three in another; each has left its connection.
fn users_with_two_groups(gateway: &Gateway, seed: u64) -> (Arc<World>, Vec<User>) {
    let mut clients: Vec<Client> = (0..USERS)
        .map(|n| gateway.register(&format!("user{n}")))
        .collect();
    let everyone = clients[0].create_group("everyone");
    let some = clients[0].create_group("some");
    for client in &mut clients[1..] {
        client.ask(&format!("join_group:{everyone}"));
    }
    for client in &mut clients[1..3] {
        client.ask(&format!("join_group:{some}"));
    }
    let world = Arc::new(World {
        seed,
        addresses: Mutex::new(vec![gateway.address()]),
        uids: clients.iter().map(|client| client.uid).collect(),
        groups: vec![everyone, some],
        last_number: AtomicU64::new(MESSAGES_PER_USER),
        pace: Duration::ZERO,
        trouble: false,
        acknowledged: AtomicU64::new(0),
        troubled: AtomicU64::new(0),
    });
    let users = clients
        .into_iter()
        .map(|client| User::new(Arc::clone(&world), client))
        .collect();
    (world, users)
}

#[test]
fn every_acknowledged_message_is_accounted_for_across_disconnects_and_kill_9() {
    let seed = Random::seed();
    println!("seed {seed}");
    let mut gateway = Gateway::start_on_two_cores();
    let (world, users) = users_with_two_groups(&gateway, seed);
    eventually("nobody is logged in", || {
        gateway.metric("sessions_authenticated", &[]) == 0.0
    });
    let threads: Vec<_> = users
        .into_iter()
        .map(|user| std::thread::spawn(move || user.run()))
        .collect();
    for share in [1, 2] {
        let enough = USERS * MESSAGES_PER_USER * share / 3;
        eventually("a third more is acknowledged", || {
            world.acknowledged.load(Ordering::Relaxed) >= enough.saturating_sub(60)
        });
        gateway.kill_9();
        gateway.restart();
        *world.addresses.lock().expect("the addresses") = vec![gateway.address()];
    }
    let mut users: Vec<User> = threads
        .into_iter()
        .map(|thread| thread.join().expect("a user"))
        .collect();
    // Two rounds, so that what one user's login brought about is seen as well.
    for _ in 0..2 {
        for user in &mut users {
            user.finish();
        }
    }
    for user in &mut users {
        user.assert_done();
    }
    let members = [
        (world.groups[0], &world.uids[..]),
        (world.groups[1], &world.uids[..3]),
    ];
    let history = history_of(&world, &mut users, &members);
    let outcomes = || history.attempts.values();
    let acknowledged = outcomes()
        .filter(|outcome| matches!(outcome, Outcome::Acknowledged(_)))
        .count();
    let refused = outcomes()
        .filter(|outcome| **outcome == Outcome::Refused)
        .count();
    println!(
        "{acknowledged} acknowledged, {refused} refused, {} lines delivered",
        history.deliveries.len()
    );
    let violations = verdict(&history);
    assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
    assert_eq!(history.attempts.len() as u64, USERS * MESSAGES_PER_USER);
    assert!(acknowledged as u64 > USERS * MESSAGES_PER_USER / 2 && refused > 0);
}
