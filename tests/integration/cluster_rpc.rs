//! The gateway against a backend that misbehaves: late, lost, torn, oversized and mislabelled
//! answers on both wires.
//!
//! Every right answer can be computed from its question, so no client can mistake another's answer
//! for its own. What a misbehaving backend costs is an error for the one who asked, and nothing
//! else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::chaos_backend::{ChaosBackend, Misdeed, Plan, truth};
use crate::common::{Client, DEADLINE, Gateway, Push, assert_error, number, random::Random};
use crate::redis_server::RedisServer;

const CLIENTS: usize = 12;
const ROUNDS: usize = 60;

/// How long the gateway waits for an answer.
const PATIENCE: Duration = Duration::from_millis(250);

/// What may be said where no usable answer came.
const EXCUSES: [&str; 4] = ["BACKEND_UNAVAILABLE", "TIMEOUT", "OVERLOADED", "INTERNAL"];

struct World {
    redis: RedisServer,
    backend: ChaosBackend,
    gateway: Gateway,
}

impl World {
    fn start(plan: Plan, rpc: &str) -> Self {
        let redis = RedisServer::start();
        let backend = ChaosBackend::start(plan);
        let gateway = Gateway::start(|config| {
            config
                .cores(2)
                .set("redis", "address", redis.address())
                .set("rpc", "rpc_timeout", format!("{}ms", PATIENCE.as_millis()))
                .set("rpc", "rpc_max_reply", "64KiB")
                .set("rpc", "pool_size", 4)
                .set("load_balancer", "max_retries", 1)
                .set("load_balancer", "retry_interval", "1ms")
                // The one instance there is must not be left alone: what is tested is what it
                // answers.
                .set("load_balancer", "circuit_breaker_threshold", 1_000_000);
            backend.configure(config, rpc);
        });
        Self {
            redis,
            backend,
            gateway,
        }
    }

    /// Asserts that the gateway is well and that Redis was there all the time.
    fn assert_sound(&mut self) {
        assert!(self.gateway.is_running());
        assert_eq!(self.gateway.metric("panics_total", &[]), 0.0);
        assert!(!self.redis.log().contains("signal"));
    }
}

/// A client and who it is.
struct Asker {
    client: Client,
    name: String,
    random: Random,
    answered: usize,
    excused: BTreeMap<&'static str, usize>,
}

impl Asker {
    fn log_in(gateway: &Gateway, name: String, seed: u64) -> Self {
        let mut asker = Self {
            client: gateway.client(),
            name,
            random: Random::new(seed),
            answered: 0,
            excused: BTreeMap::new(),
        };
        let start = Instant::now();
        let uid = truth::user_id(&asker.name);
        let mut command = "register";
        loop {
            let name = &asker.name;
            let reply = asker.client.ask(&format!("{command}:{name}:password"));
            if reply.starts_with("+OK ") {
                assert_eq!(number(&reply, "uid"), uid, "{name}: {reply}");
                asker.client.uid = uid;
                return asker;
            }
            assert!(start.elapsed() < DEADLINE, "{name}: still {reply}");
            asker.excuse(&reply);
            command = "login";
        }
    }

    /// Panics unless the reply is one that may be given where no usable answer came.
    fn excuse(&mut self, reply: &str) {
        let words = reply.strip_prefix("-ERR ").unwrap_or_default();
        let code = EXCUSES.into_iter().find(|code| words.starts_with(code));
        let code = code.unwrap_or_else(|| panic!("{}: {reply}", self.name));
        *self.excused.entry(code).or_default() += 1;
        if code == "BACKEND_UNAVAILABLE" {
            // That comes at once, for as long as the way to the backend is being made anew.
            std::thread::sleep(PATIENCE / 10);
        }
    }

    /// Asks; the reply must be this one, or an excuse.
    fn expect(&mut self, question: &str, expected: &str) {
        let reply = self.client.ask(question);
        self.judge(question, &reply, expected);
    }

    fn judge(&mut self, question: &str, reply: &str, expected: &str) {
        if reply == expected {
            self.answered += 1;
        } else {
            assert!(
                reply.starts_with("-ERR "),
                "{} asked {question:?} and got {reply:?} for {expected:?}",
                self.name
            );
            self.excuse(reply);
        }
    }

    fn ask_something(&mut self, round: usize) {
        let uid = self.client.uid;
        let other = 1 + self.random.below(1_000_000);
        match self.random.below(9) {
            0..=2 => self.chat_several(round, other),
            3 => {
                let [one, two] = truth::friends(uid);
                self.expect("friends", &format!("+OK friends={one},{two}"));
            }
            4 => {
                let name = truth::name(other);
                let expected = format!("+OK uid={other} name={name}");
                self.expect(&format!("profile:{other}"), &expected);
            }
            5 => {
                let prefix = format!("p{other}");
                let (found, name) = truth::found(&prefix);
                let expected = format!("+OK users={found}:{name}");
                self.expect(&format!("search:{prefix}"), &expected);
            }
            6 => {
                let device = truth::device(other);
                let expected = format!("+OK uid={other} online=1 devices={device}");
                self.expect(&format!("who:{other}"), &expected);
            }
            7 => {
                let name = format!("group-{uid}-{round}");
                let expected = format!("+OK group_id={}", truth::group_id(&name));
                self.expect(&format!("create_group:{name}"), &expected);
            }
            _ => self.pull(),
        }
    }

    /// A few at once: their replies must come in their order.
    fn chat_several(&mut self, round: usize, to: u64) {
        let from = self.client.uid;
        let questions: Vec<(String, String)> = (0..1 + self.random.below(4))
            .map(|n| {
                let text = format!("{} {round} {n}", self.name);
                let id = truth::message_id(from, to, &text);
                (format!("chat:{to}:{text}"), format!("+OK msg_id={id}"))
            })
            .collect();
        for (question, _) in &questions {
            self.client.send(question);
        }
        for (question, expected) in &questions {
            let reply = self.client.reply();
            self.judge(question, &reply, expected);
        }
    }

    /// The messages must be the user's own, and only those.
    fn pull(&mut self) {
        let uid = self.client.uid;
        self.client.taken_pushes();
        let reply = self.client.ask("pull");
        let came = self.client.taken_pushes();
        for push in &came {
            self.assert_own(uid, push);
        }
        if reply.starts_with("+OK ") {
            assert_eq!(number(&reply, "count") as usize, came.len(), "{reply}");
            self.answered += 1;
        } else {
            self.excuse(&reply);
        }
    }

    fn assert_own(&self, uid: u64, push: &Push) {
        assert!(
            truth::waiting(uid).iter().any(|text| text == push.text()),
            "{} was given {push:?}",
            self.name
        );
        assert_eq!(push.number("from"), truth::waiting_from(uid));
    }
}

/// Many clients at once; how many answers were right, and how many excuses of each kind there were.
fn run(world: &Arc<World>, seed: u64) -> (usize, BTreeMap<&'static str, usize>) {
    let threads: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let world = Arc::clone(world);
            std::thread::spawn(move || {
                let name = format!("user{number}");
                let mut asker = Asker::log_in(&world.gateway, name, seed ^ number as u64);
                for round in 0..ROUNDS {
                    asker.ask_something(round);
                }
                (asker.answered, asker.excused)
            })
        })
        .collect();
    let (mut answered, mut excused) = (0, BTreeMap::new());
    for thread in threads {
        let one = thread.join().expect("a client");
        answered += one.0;
        for (code, count) in one.1 {
            *excused.entry(code).or_default() += count;
        }
    }
    (answered, excused)
}

fn against_chaos(rpc: &str) {
    let seed = Random::seed();
    println!("seed {seed}");
    let plan = Plan {
        seed,
        one_in: 10,
        misdeeds: Misdeed::ALL.to_vec(),
        patience: PATIENCE,
    };
    let world = Arc::new(World::start(plan, rpc));
    let (answered, excused) = run(&world, seed);
    println!(
        "{answered} answers, excuses: {excused:?}, misdeeds: {:?}",
        world.backend.done()
    );
    assert!(!excused.is_empty(), "the backend misbehaved");
    let excuses: usize = excused.values().sum();
    assert!(answered > excuses, "{answered} answers, {excused:?}");
    assert!(
        world.gateway.metric("backend_rpc_errors_total", &[]) > 0.0,
        "failures are counted"
    );
    let Some(mut world) = Arc::into_inner(world) else {
        panic!("a client still runs");
    };
    world.assert_sound();
}

#[test]
fn nobody_gets_anothers_answer_where_replies_have_ids() {
    against_chaos("mprpc-id");
}

#[test]
fn nobody_gets_anothers_answer_where_replies_have_none() {
    against_chaos("mprpc");
}

#[test]
fn an_honest_backend_is_always_understood() {
    for rpc in ["mprpc-id", "mprpc"] {
        let world = Arc::new(World::start(Plan::honest(), rpc));
        let (answered, excused) = run(&world, 1);
        assert!(excused.is_empty(), "{rpc}: {excused:?}");
        assert!(answered >= CLIENTS * ROUNDS);
        assert_eq!(
            world.gateway.metric("backend_stray_replies_total", &[]),
            0.0
        );
    }
}

/// Each misdeed alone, at every second call: whoever asks gets his own answer or an excuse, and in
/// the end an answer.
fn each_misdeed_alone(rpc: &str) {
    let all = Misdeed::ALL.into_iter();
    for misdeed in all.filter(|misdeed| rpc != "mprpc" || !misdeed.needs_ids()) {
        let start = Instant::now();
        let mut world = World::start(
            Plan {
                seed: 7,
                one_in: 0,
                misdeeds: vec![misdeed],
                patience: PATIENCE,
            },
            rpc,
        );
        let mut askers: Vec<Asker> = (0..2)
            .map(|n| Asker::log_in(&world.gateway, format!("user{n}"), n))
            .collect();
        world.backend.set_one_in(2);
        for round in 0..3 {
            for asker in &mut askers {
                asker.chat_several(round, 3);
                asker.pull();
            }
        }
        let answered: usize = askers.iter().map(|asker| asker.answered).sum();
        assert!(answered > 0, "{rpc} {misdeed:?}: no answer at all");
        assert!(
            world.backend.done().contains_key(&misdeed),
            "{rpc} {misdeed:?} was never done"
        );
        println!("{misdeed:?}: {answered} answers in {:?}", start.elapsed());
        world.assert_sound();
    }
}

#[test]
fn after_each_misdeed_the_next_answer_is_the_right_one_where_replies_have_ids() {
    each_misdeed_alone("mprpc-id");
}

#[test]
fn after_each_misdeed_the_next_answer_is_the_right_one_where_replies_have_none() {
    each_misdeed_alone("mprpc");
}

#[test]
fn strays_and_failures_are_counted() {
    for (misdeed, metric) in [
        (Misdeed::UnknownId, "backend_stray_replies_total"),
        (Misdeed::Twice, "backend_stray_replies_total"),
        (Misdeed::TooLate, "backend_stray_replies_total"),
        (Misdeed::Garbage, "backend_rpc_errors_total"),
        (Misdeed::Never, "backend_rpc_errors_total"),
    ] {
        let world = World::start(
            Plan {
                seed: 3,
                one_in: 0,
                misdeeds: vec![misdeed],
                patience: PATIENCE,
            },
            "mprpc-id",
        );
        let mut asker = Asker::log_in(&world.gateway, "user".to_string(), 1);
        world.backend.set_one_in(2);
        for round in 0..10 {
            asker.chat_several(round, 3);
        }
        crate::common::eventually(&format!("{misdeed:?} is counted"), || {
            world.gateway.metric(metric, &[]) > 0.0
        });
    }
}

#[test]
fn a_backend_that_never_answers_costs_a_timeout_and_no_more() {
    let world = World::start(
        Plan {
            seed: 1,
            one_in: 0,
            misdeeds: vec![Misdeed::Never],
            patience: PATIENCE,
        },
        "mprpc-id",
    );
    let asker = Asker::log_in(&world.gateway, "user".to_string(), 1);
    let mut client = asker.client;
    world.backend.set_one_in(1);
    for _ in 0..3 {
        let asked = Instant::now();
        assert_error(&client.ask("friends"), "TIMEOUT");
        let took = asked.elapsed();
        assert!(took >= PATIENCE && took < PATIENCE * 8, "it took {took:?}");
        assert_eq!(client.ask("ping"), "+OK pong");
    }
    world.backend.set_one_in(0);
    let [one, two] = truth::friends(client.uid);
    assert_eq!(client.ask("friends"), format!("+OK friends={one},{two}"));
}
