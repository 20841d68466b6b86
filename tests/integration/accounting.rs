//! A whole system under trouble: users write to each other and to groups, come and go at random,
//! the process is killed in the middle, and the checker accounts for every message.
//!
//! Repeat a run with `IM_GATEWAY_TEST_SEED`; the interleaving of threads stays the machine's own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::accounting_verdict::{Delivery, History, Message, Outcome, Target, verdict};
use crate::common::{
    Client, DEADLINE, Gateway, POLL_INTERVAL, Push, eventually, number, random::Random, without_tag,
};

const USERS: u64 = 6;
const MESSAGES_PER_USER: u64 = 120;

/// What the users and the one who kills the gateway share.
struct World {
    seed: u64,
    address: Mutex<SocketAddr>,
    uids: Vec<u64>,
    groups: Vec<u64>,
    acknowledged: AtomicU64,
}

/// One user: what it still has to say, what it said and what it heard.
struct User {
    world: Arc<World>,
    random: Random,
    uid: u64,
    token: String,
    connection: Option<Client>,
    session: u64,
    next_number: u64,
    unanswered: Vec<Message>,
    unconfirmed: Vec<u64>,
    attempts: BTreeMap<Message, Outcome>,
    deliveries: Vec<Delivery>,
}

impl User {
    fn run(mut self) -> Self {
        while self.next_number <= MESSAGES_PER_USER || !self.unanswered.is_empty() {
            if self.connection.is_none() {
                self.connect();
            }
            let alive = match self.random.below(10) {
                0..=5 => self.send_some(),
                6 => self.pull(),
                7..=8 => self.confirm_some(),
                _ => {
                    self.leave();
                    true
                }
            };
            self.note_pushes();
            if !alive {
                self.connection = None;
            }
        }
        self.connection = None;
        self
    }

    /// Logs in, however often that has to be tried.
    fn connect(&mut self) {
        let start = Instant::now();
        self.session += 1;
        self.unconfirmed.clear();
        let mut last_reply = None;
        while self.connection.is_none() {
            assert!(
                start.elapsed() < DEADLINE,
                "seed {}: no log-in for user {}, but {last_reply:?}",
                self.world.seed,
                self.uid
            );
            let address = *self.world.address.lock().expect("the address");
            let Some(mut client) = Client::try_connect(address) else {
                std::thread::sleep(POLL_INTERVAL);
                continue;
            };
            let log_in = format!("auth:{}", self.token);
            last_reply = client.try_reply();
            for line in ["set:ack:manual", &log_in] {
                last_reply = last_reply.and_then(|_| client.try_ask(line));
            }
            let welcomed = last_reply
                .as_ref()
                .is_some_and(|reply| reply.starts_with("+OK uid="));
            if welcomed {
                self.connection = Some(client);
            }
        }
        self.note_pushes();
    }

    fn client(&mut self) -> &mut Client {
        self.connection.as_mut().expect("connected")
    }

    /// Repeats what had no answer, in order and with the same tags; else sends a few new messages.
    fn send_some(&mut self) -> bool {
        if self.unanswered.is_empty() {
            for _ in 0..=self.random.below(5) {
                if self.next_number <= MESSAGES_PER_USER {
                    let to = self.any_target();
                    self.unanswered.push(Message {
                        from: self.uid,
                        to,
                        number: self.next_number,
                    });
                    self.next_number += 1;
                }
            }
        }
        let seed = self.world.seed;
        let batch = self.unanswered.clone();
        let mut lines = String::new();
        for message in &batch {
            self.attempts.entry(*message).or_insert(Outcome::Unknown);
            let (command, target) = match message.to {
                Target::User(uid) => ("chat", uid),
                Target::Group(group) => ("group_chat", group),
            };
            lines.push_str(&format!(
                "@m{} {command}:{target}:{}\n",
                message.number,
                message.text(seed)
            ));
        }
        lines.pop();
        if !self.client().try_send(&lines) {
            return false;
        }
        // Sometimes the user is gone before the answers are.
        let answers_read = match self.random.once_in(12) {
            true => self.random.below(batch.len() as u64 + 1) as usize,
            false => batch.len(),
        };
        for message in &batch[..answers_read] {
            let Some(reply) = self.client().try_reply() else {
                return false;
            };
            assert!(
                reply.starts_with(&format!("@m{} ", message.number)),
                "seed {seed}: {reply}"
            );
            let outcome = match without_tag(&reply) {
                ok if ok.starts_with("+OK msg_id=") => {
                    self.world.acknowledged.fetch_add(1, Ordering::Relaxed);
                    Outcome::Acknowledged(number(&reply, "msg_id"))
                }
                refused => {
                    assert!(
                        refused.starts_with("-ERR FORBIDDEN "),
                        "seed {seed}: {reply}"
                    );
                    Outcome::Refused
                }
            };
            self.attempts.insert(*message, outcome);
            self.unanswered.retain(|other| other != message);
        }
        answers_read == batch.len()
    }

    /// Mostly users, sometimes a group, which may be one the user is not in.
    fn any_target(&mut self) -> Target {
        let random = self.random.next();
        let choose = |list: &[u64]| list[(random >> 8) as usize % list.len()];
        match random % 4 {
            0 => Target::Group(choose(&self.world.groups)),
            _ => Target::User(choose(&self.world.uids)),
        }
    }

    fn pull(&mut self) -> bool {
        self.note_pushes();
        let limit = 1 + self.random.below(50);
        let reply = self.client().try_ask(&format!("pull:{limit}"));
        self.note(false);
        reply.is_some_and(|reply| {
            assert!(reply.starts_with("+OK pull_done "), "{reply}");
            true
        })
    }

    fn confirm_some(&mut self) -> bool {
        let count = self.random.below(self.unconfirmed.len() as u64 + 1) as usize;
        if count == 0 {
            return true;
        }
        let list: Vec<String> = self
            .unconfirmed
            .drain(..count.min(50))
            .map(|id| id.to_string())
            .collect();
        let reply = self.client().try_ask(&format!("ack:{}", list.join(":")));
        reply.is_some_and(|reply| {
            assert!(reply.starts_with("+OK acked="), "{reply}");
            true
        })
    }

    /// Three ways to go: politely, with everything read, or at once with unread lines in the socket.
    fn leave(&mut self) {
        match self.random.below(3) {
            0 => {
                let _ = self.client().try_ask("quit");
            }
            1 => {
                let _ = self.client().try_ask("logout");
            }
            _ => {}
        }
        self.note_pushes();
        self.connection = None;
    }

    fn note_pushes(&mut self) {
        self.note(true);
    }

    fn note(&mut self, pushed: bool) {
        let Some(client) = &mut self.connection else {
            return;
        };
        for push in client.taken_pushes() {
            // What another session of the same user sent is in nobody's inbox: a copy, without a number.
            let copy = push.get("to").is_some();
            if (push.kind == "MSG" || push.kind == "GMSG") && !copy {
                self.unconfirmed.push(push.id());
                self.deliveries
                    .push(delivery(self.uid, self.session, pushed, &push));
            }
        }
    }

    /// Reads and confirms all that is left.
    fn finish(&mut self) {
        self.connect();
        self.note_pushes();
        let messages = self.client().drain_inbox();
        for push in &messages {
            self.deliveries
                .push(delivery(self.uid, self.session, false, push));
        }
        self.note_pushes();
    }
}

fn delivery(user: u64, session: u64, pushed: bool, push: &Push) -> Delivery {
    Delivery {
        user,
        session,
        pushed,
        id: push.id(),
        group: push.get("group").map(|_| push.number("group")),
        seq: push.number("seq"),
        from: push.number("from"),
        dup: push.is_dup(),
        text: push.text().to_string(),
    }
}

#[test]
fn every_acknowledged_message_is_accounted_for_across_disconnects_and_kill_9() {
    let seed = Random::seed();
    println!("seed {seed}");
    let mut gateway = Gateway::start_on_two_cores();
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
    let uids: Vec<u64> = clients.iter().map(|client| client.uid).collect();
    let world = Arc::new(World {
        seed,
        address: Mutex::new(gateway.address()),
        uids: uids.clone(),
        groups: vec![everyone, some],
        acknowledged: AtomicU64::new(0),
    });
    let users: Vec<User> = clients
        .into_iter()
        .enumerate()
        .map(|(n, client)| {
            let user = User {
                world: Arc::clone(&world),
                random: Random::new(seed ^ (n as u64 + 1)),
                uid: client.uid,
                token: client.token.clone(),
                connection: None,
                session: 0,
                next_number: 1,
                unanswered: Vec::new(),
                unconfirmed: Vec::new(),
                attempts: BTreeMap::new(),
                deliveries: Vec::new(),
            };
            // The connection that registered confirms by itself, so it must be over before anybody writes.
            drop(client);
            user
        })
        .collect();
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
        *world.address.lock().expect("the address") = gateway.address();
    }
    let mut users: Vec<User> = threads
        .into_iter()
        .map(|thread| thread.join().expect("a user"))
        .collect();
    let mut history = History {
        seed,
        ..History::default()
    };
    history
        .members
        .insert(everyone, uids.iter().copied().collect());
    history
        .members
        .insert(some, uids[..3].iter().copied().collect::<BTreeSet<u64>>());
    // Two rounds, so that what one user's log-in brought about is seen as well.
    for _ in 0..2 {
        for user in &mut users {
            user.finish();
        }
    }
    for user in &mut users {
        let client = user.client();
        assert_eq!(client.ask("pull"), "+OK pull_done count=0 more=0");
        history.attempts.append(&mut user.attempts);
        history.deliveries.append(&mut user.deliveries);
    }
    let acknowledged = history
        .attempts
        .values()
        .filter(|outcome| matches!(outcome, Outcome::Acknowledged(_)))
        .count();
    let refused = history
        .attempts
        .values()
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
    // A moment later nothing comes again: it is confirmed.
    for user in &mut users {
        let client = user.client();
        assert_eq!(
            client.receive_within(Duration::from_millis(1)),
            crate::common::Received::Nothing
        );
    }
}
