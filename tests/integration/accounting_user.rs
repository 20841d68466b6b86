//! A user who writes, reads, confirms, leaves and comes back at random, and keeps a record of all
//! of it for the verdict.
//!
//! Knows one or several gateways. Where parts of a system are being killed, some answers say that
//! something did not work for now: then whether the message was stored is unknown, and the user
//! sends it again under the same tag.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::accounting_verdict::{Delivery, History, Message, Outcome, Target};
use crate::common::{
    Client, DEADLINE, POLL_INTERVAL, Push, Received, client::password_of, field, number,
    random::Random, without_tag,
};

/// What an answer says where something does not work for now.
const PASSING: [&str; 5] = [
    "-ERR BACKEND_UNAVAILABLE ",
    "-ERR TIMEOUT ",
    "-ERR OVERLOADED ",
    "-ERR INTERNAL ",
    "-ERR SHUTTING_DOWN ",
];

/// How long a login is tried: behind the port of a gateway that was killed may be the server of
/// another test by now, which says nothing for as long as anybody waits for it.
const PATIENCE: Duration = Duration::from_secs(3 * DEADLINE.as_secs());

/// What the users and the one who kills processes share.
pub struct World {
    /// Seals the texts, and names the run.
    pub seed: u64,
    /// Where gateways listen.
    pub addresses: Mutex<Vec<SocketAddr>>,
    /// Everybody.
    pub uids: Vec<u64>,
    /// The groups some of them are in.
    pub groups: Vec<u64>,
    /// The last number a user gives to a message.
    pub last_number: AtomicU64,
    /// How long a user rests between two things.
    pub pace: Duration,
    /// Whether an answer may say that something does not work for now.
    pub trouble: bool,
    /// How many answers said that a message is stored.
    pub acknowledged: AtomicU64,
    /// How many said that something does not work for now.
    pub troubled: AtomicU64,
}

impl World {
    fn has_more(&self, next_number: u64) -> bool {
        next_number <= self.last_number.load(Ordering::Acquire)
    }

    /// Where to connect next.
    fn any_address(&self, random: &mut Random) -> SocketAddr {
        let addresses = self.addresses.lock().expect("the addresses");
        addresses[random.below(addresses.len() as u64) as usize]
    }

    /// Whether this answer says that something does not work for now. Panics where it must not.
    fn is_passing(&self, answer: &str) -> bool {
        let passing = PASSING.iter().any(|words| answer.starts_with(words));
        if passing {
            assert!(self.trouble, "seed {}: {answer}", self.seed);
            self.troubled.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(POLL_INTERVAL);
        }
        passing
    }
}

/// One user: what it still has to say, what it said and what it heard.
pub struct User {
    world: Arc<World>,
    random: Random,
    uid: u64,
    name: String,
    /// `None` once it has logged out, which ends its session: the next login needs the password.
    token: Option<String>,
    connection: Option<Client>,
    session: u64,
    next_number: u64,
    unanswered: Vec<Message>,
    unconfirmed: Vec<u64>,
    history: History,
}

impl User {
    /// The user who registered on `client`, which ends: it confirms by itself, so it must be over
    /// before anybody writes.
    pub fn new(world: Arc<World>, mut client: Client) -> Self {
        let name = field(&client.ask("whoami"), "name").to_owned();
        Self {
            random: Random::new(world.seed ^ client.uid),
            world,
            uid: client.uid,
            name,
            token: Some(client.token.clone()),
            connection: None,
            session: 0,
            next_number: 1,
            unanswered: Vec::new(),
            unconfirmed: Vec::new(),
            history: History::default(),
        }
    }

    /// Says all it has to say.
    pub fn run(mut self) -> Self {
        while self.world.has_more(self.next_number) || !self.unanswered.is_empty() {
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
            if !self.world.pace.is_zero() {
                std::thread::sleep(self.world.pace);
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
                start.elapsed() < PATIENCE,
                "seed {}: no login for user {}, but {last_reply:?}",
                self.world.seed,
                self.uid
            );
            let address = self.world.any_address(&mut self.random);
            let Some(mut client) = Client::try_connect(address) else {
                std::thread::sleep(POLL_INTERVAL);
                continue;
            };
            let log_in = match &self.token {
                Some(token) => format!("auth:{token}"),
                None => format!("login:{}:{}", self.name, password_of(&self.name)),
            };
            last_reply = client.try_reply();
            for line in ["set:ack:manual", &log_in] {
                last_reply = last_reply.and_then(|_| client.try_ask(line));
            }
            let welcomed = last_reply
                .as_ref()
                .is_some_and(|reply| reply.starts_with("+OK uid="));
            match welcomed {
                true => {
                    if let (None, Some(reply)) = (&self.token, &last_reply) {
                        self.token = Some(field(reply, "token").to_owned());
                    }
                    self.connection = Some(client);
                }
                false => std::thread::sleep(POLL_INTERVAL),
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
            self.think_of_messages();
        }
        let seed = self.world.seed;
        let batch = self.unanswered.clone();
        let mut lines = String::new();
        for message in &batch {
            self.history
                .attempts
                .entry(*message)
                .or_insert(Outcome::Unknown);
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
                passing if self.world.is_passing(passing) => {
                    // Those sent behind it may be stored before it is repeated.
                    self.history.overtaken.insert(*message);
                    continue;
                }
                refused => {
                    assert!(
                        refused.starts_with("-ERR FORBIDDEN "),
                        "seed {seed}: {reply}"
                    );
                    Outcome::Refused
                }
            };
            self.history.attempts.insert(*message, outcome);
            self.unanswered.retain(|other| other != message);
        }
        answers_read == batch.len()
    }

    /// One to five messages, as long as the world has more.
    fn think_of_messages(&mut self) {
        for _ in 0..=self.random.below(5) {
            if self.world.has_more(self.next_number) {
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
        self.went_well(reply, "+OK pull_done ")
    }

    /// Whether the connection lives on. What was not confirmed comes again.
    fn went_well(&self, reply: Option<String>, expected: &str) -> bool {
        reply.is_some_and(|reply| {
            assert!(
                reply.starts_with(expected) || self.world.is_passing(&reply),
                "seed {}: {reply}",
                self.world.seed
            );
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
        self.went_well(reply, "+OK acked=")
    }

    /// Three ways to go: politely, with everything read, or at once with unread lines in the
    /// socket.
    fn leave(&mut self) {
        match self.random.below(3) {
            0 => {
                let _ = self.client().try_ask("quit");
            }
            1 => {
                let _ = self.client().try_ask("logout");
                self.token = None;
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
            // What another session of the same user sent is in nobody's inbox: a copy, without a
            // number.
            let copy = push.get("to").is_some();
            if (push.kind == "MSG" || push.kind == "GMSG") && !copy {
                self.unconfirmed.push(push.id());
                self.history
                    .deliveries
                    .push(delivery(self.uid, self.session, pushed, &push));
            }
        }
    }

    /// Asserts that nothing waits, and that nothing comes any more.
    pub fn assert_done(&mut self) {
        let client = self.client();
        assert_eq!(client.ask("pull"), "+OK pull_done count=0 more=0");
        assert_eq!(
            client.receive_within(Duration::from_millis(1)),
            Received::Nothing
        );
    }

    /// Reads and confirms all that is left.
    pub fn finish(&mut self) {
        self.connect();
        self.note_pushes();
        let messages = self.client().drain_inbox();
        for push in &messages {
            self.history
                .deliveries
                .push(delivery(self.uid, self.session, false, push));
        }
        self.note_pushes();
    }
}

/// Puts the records of all users together.
pub fn history_of(world: &World, users: &mut [User], members: &[(u64, &[u64])]) -> History {
    let mut history = History {
        seed: world.seed,
        ..History::default()
    };
    for (group, users) in members {
        let users: BTreeSet<u64> = users.iter().copied().collect();
        history.members.insert(*group, users);
    }
    for user in users {
        history.attempts.append(&mut user.history.attempts);
        history.overtaken.append(&mut user.history.overtaken);
        history.deliveries.append(&mut user.history.deliveries);
    }
    history
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
