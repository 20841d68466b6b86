//! A whole cluster under trouble: users write to each other and to groups on two gateways, and each
//! part is killed and brought back in the middle of it. The checker accounts for every message.
//!
//! Repeat a run with `IM_GATEWAY_TEST_SEED`; the interleaving of processes stays the machine's own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::accounting_user::{User, World, history_of};
use crate::accounting_verdict::{Outcome, verdict};
use crate::common::cluster::Cluster;
use crate::common::{Client, eventually, random::Random};

const USERS: u64 = 6;

/// Slow enough for the trouble to come while users have something to say.
const PACE: Duration = Duration::from_millis(15);

/// What is killed; in the order in which several are brought back, as each needs those before it to
/// become ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Redis,
    Zookeeper,
    Backend(usize),
    AllBackends,
    Gateway(usize),
}

impl Part {
    const ALL: [Self; 7] = [
        Self::Redis,
        Self::Zookeeper,
        Self::Backend(0),
        Self::Backend(1),
        Self::AllBackends,
        Self::Gateway(0),
        Self::Gateway(1),
    ];

    fn kill(self, cluster: &mut Cluster) {
        match self {
            Self::Redis => cluster.ground.redis.kill_9(),
            Self::Zookeeper => cluster.ground.zookeeper.kill_9(),
            Self::Backend(number) => cluster.backends[number].kill_9(),
            Self::AllBackends => cluster.backends.iter_mut().for_each(|part| part.kill_9()),
            Self::Gateway(number) => cluster.gateways[number].kill_9(),
        }
    }

    fn bring_back(self, cluster: &mut Cluster) {
        match self {
            Self::Redis => cluster.ground.redis.restart(),
            Self::Zookeeper => cluster.ground.zookeeper.restart(),
            Self::Backend(number) => cluster.backends[number].restart(),
            Self::AllBackends => cluster.backends.iter_mut().for_each(|part| part.restart()),
            Self::Gateway(number) => cluster.gateways[number].restart(),
        }
    }
}

/// A cluster, and users at work on it.
struct Run {
    cluster: Cluster,
    world: Arc<World>,
    everyone: u64,
    some: u64,
    threads: Vec<JoinHandle<User>>,
}

impl Run {
    fn start(seed: u64) -> Self {
        println!("seed {seed}");
        let cluster = Cluster::start(2, 2);
        let mut clients: Vec<Client> = (0..USERS)
            .map(|n| cluster.register(n as usize % 2, &format!("user{n}")))
            .collect();
        let everyone = clients[0].create_group("everyone");
        let some = clients[0].create_group("some");
        for (n, client) in clients.iter_mut().enumerate().skip(1) {
            assert!(
                client
                    .ask(&format!("join_group:{everyone}"))
                    .starts_with("+OK ")
            );
            if n < 3 {
                assert!(
                    client
                        .ask(&format!("join_group:{some}"))
                        .starts_with("+OK ")
                );
            }
        }
        let world = Arc::new(World {
            seed,
            addresses: Mutex::new(cluster.addresses()),
            uids: clients.iter().map(|client| client.uid).collect(),
            groups: vec![everyone, some],
            last_number: AtomicU64::new(u64::MAX),
            pace: PACE,
            trouble: true,
            acknowledged: AtomicU64::new(0),
            troubled: AtomicU64::new(0),
        });
        let users: Vec<User> = clients
            .into_iter()
            .map(|client| User::new(Arc::clone(&world), client))
            .collect();
        for gateway in &cluster.gateways {
            eventually("nobody is logged in", || {
                gateway.metric("sessions_authenticated", &[]) == 0.0
            });
        }
        Self {
            threads: users
                .into_iter()
                .map(|user| std::thread::spawn(move || user.run()))
                .collect(),
            cluster,
            world,
            everyone,
            some,
        }
    }

    /// Waits until so many more messages are acknowledged.
    fn wait_for(&self, more: u64) {
        let enough = self.world.acknowledged.load(Ordering::Relaxed) + more;
        eventually("more is acknowledged", || {
            let ended = self.threads.iter().any(JoinHandle::is_finished);
            assert!(!ended, "seed {}: a user gave up", self.world.seed);
            self.world.acknowledged.load(Ordering::Relaxed) >= enough
        });
    }

    /// Kills these, lets the users feel it, and brings them back.
    fn trouble(&mut self, mut parts: Vec<Part>, random: &mut Random) {
        parts.sort_unstable();
        println!("kill {parts:?}");
        for part in &parts {
            part.kill(&mut self.cluster);
        }
        std::thread::sleep(Duration::from_millis(100 + random.below(700)));
        for part in &parts {
            part.bring_back(&mut self.cluster);
        }
        *self.world.addresses.lock().expect("the addresses") = self.cluster.addresses();
    }

    /// Has the users end and gives the verdict.
    fn finish(mut self) {
        self.world.last_number.store(0, Ordering::Release);
        let mut users: Vec<User> = self
            .threads
            .drain(..)
            .map(|thread| thread.join().expect("a user"))
            .collect();
        self.cluster.wait_until_ready();
        // Two rounds, so that what one user's login brought about is seen as well.
        for _ in 0..2 {
            for user in &mut users {
                user.finish();
            }
        }
        for user in &mut users {
            user.assert_done();
        }
        let uids = &self.world.uids;
        let members = [(self.everyone, &uids[..]), (self.some, &uids[..3])];
        let history = history_of(&self.world, &mut users, &members);
        let count = |is: fn(&Outcome) -> bool| {
            let outcomes = history.attempts.values();
            outcomes.filter(|outcome| is(outcome)).count() as u64
        };
        let acknowledged = count(|outcome| matches!(outcome, Outcome::Acknowledged(_)));
        println!(
            "{acknowledged} acknowledged, {} refused, {} lines delivered, {} answers of trouble",
            count(|outcome| *outcome == Outcome::Refused),
            history.deliveries.len(),
            self.world.troubled.load(Ordering::Relaxed)
        );
        let violations = verdict(&history);
        let seed = self.world.seed;
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
        assert!(acknowledged > history.attempts.len() as u64 / 2);
        self.cluster.assert_sound();
    }
}

#[test]
fn every_acknowledged_message_is_accounted_for_while_each_part_is_killed_in_turn() {
    let seed = Random::seed();
    let mut random = Random::new(seed);
    let mut run = Run::start(seed);
    let mut parts = Part::ALL.to_vec();
    while !parts.is_empty() {
        let part = parts.swap_remove(random.below(parts.len() as u64) as usize);
        run.wait_for(100);
        run.trouble(vec![part], &mut random);
    }
    run.wait_for(100);
    let world = Arc::clone(&run.world);
    run.finish();
    let troubled = world.troubled.load(Ordering::Relaxed);
    assert!(troubled > 0, "without any backend, somebody was told so");
}

#[test]
fn every_acknowledged_message_is_accounted_for_while_parts_are_killed_two_at_a_time() {
    let seed = Random::seed();
    let mut random = Random::new(seed ^ 2);
    let mut run = Run::start(seed);
    for _ in 0..4 {
        let mut pair = Vec::new();
        while pair.len() < 2 {
            let part = Part::ALL[random.below(Part::ALL.len() as u64) as usize];
            let twice = pair.contains(&part)
                || matches!(
                    (pair.first(), part),
                    (Some(Part::Backend(_)), Part::AllBackends)
                        | (Some(Part::AllBackends), Part::Backend(_))
                );
            if !twice {
                pair.push(part);
            }
        }
        run.wait_for(100);
        run.trouble(pair, &mut random);
    }
    run.wait_for(100);
    run.finish();
}

#[test]
fn without_trouble_nothing_is_lost_either_and_nobody_hears_of_any() {
    let seed = Random::seed();
    let run = Run::start(seed);
    run.wait_for(500);
    let world = Arc::clone(&run.world);
    run.finish();
    assert_eq!(world.troubled.load(Ordering::Relaxed), 0);
}
