//! The cores of a gateway with their clients, services and bus in one deterministic world: the
//! flows and effects that run on glommio run here on a loop of some lines, with a clock that jumps,
//! and everything that can go wrong does.
//!
//! A failing seed says its number: `SIMULATION_SEED=number` runs it alone, `SIMULATION_SEEDS=count`
//! runs that many.

mod client;
mod messages;
mod model;
#[cfg(feature = "test-hooks")]
mod mutations;
mod world;

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
};

use self::{
    client::Client,
    model::{Model, Random, Stream, route},
    world::{ModelBackend, ModelBus, World, pause},
};
use crate::{
    base::{
        close::CloseReason,
        id::{ConnectionKey, MessageIds, UserId},
    },
    flow::{background, commands, core::Core},
    limits::Rate,
    metrics,
    protocol::command::Judge,
    session::{Peer, job::Job},
    shard::{Effect, Now, Shard, ShardOptions, fixtures::gateway},
};

const CORES: usize = 2;
const USERS: u64 = 8;
const STEPS: u64 = 2_000;
/// Seeds from 1 on that are run unless it is said otherwise.
const SEEDS: u64 = 60;
const START_UNIX_MS: u64 = 1_760_000_000_000;

type Task = Pin<Box<dyn Future<Output = ()>>>;

type SimCore = Core<ModelBackend, ModelBus>;

struct Simulation {
    world: World,
    random: Random,
    cores: Vec<Rc<SimCore>>,
    clients: Vec<Client>,
    received: HashSet<(UserId, Stream, u64)>,
    tasks: Rc<RefCell<Vec<Task>>>,
    counter: u64,
    ended: usize,
}

fn options(seed: u64) -> ShardOptions {
    ShardOptions {
        max_line_bytes: 8192,
        login_line_bytes: 512,
        web: crate::protocol::http::upgrade::WebRules::default(),
        ping_interval_ms: 30_000,
        ping_timeout_ms: 60_000,
        pipeline_limit: 4,
        protocol_error_limit: 10,
        login_timeout_ms: 5_000,
        connection_timeout_ms: 20_000,
        acknowledgement_timeout_ms: Some(60_000),
        // So little that a page of what is fetched does not fit, or so much that nearly all do.
        outbound_queue_bytes: if seed.is_multiple_of(2) { 4_000 } else { 700 },
        unconfirmed_limit: 12,
        command_rate: Rate {
            per_second: 50,
            burst: 100,
        },
        throttle_timeout_ms: 10_000,
        banner: false,
        judge: Judge::default(),
    }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let world: World = Rc::new(RefCell::new(Model::new(seed, CORES)));
        let gateway = gateway();
        let cores = (0..CORES)
            .map(|core| {
                let (for_clock, for_pause) = (Rc::clone(&world), Rc::clone(&world));
                let shard = Shard::new(
                    options(seed),
                    MessageIds::new(core as u16),
                    Arc::new(metrics::Core::new()),
                );
                Rc::new(Core::new(
                    shard,
                    ModelBackend {
                        world: Rc::clone(&world),
                        core,
                    },
                    ModelBus {
                        world: Rc::clone(&world),
                        core,
                    },
                    Arc::clone(&gateway),
                    route(core),
                    move || now(for_clock.borrow().now_ms),
                    move |length| Box::pin(pause(&for_pause, length.as_millis() as u64)),
                ))
            })
            .collect();
        Self {
            world,
            random: Random::new(seed ^ 0xABCD),
            cores,
            clients: Vec::new(),
            received: HashSet::new(),
            tasks: Rc::default(),
            counter: 0,
            ended: 0,
        }
    }

    /// Some milliseconds pass.
    fn step(&mut self) {
        let length_ms = self.random.below(8);
        let before_ms = self.world.borrow().now_ms;
        let now_ms = before_ms + length_ms;
        self.world.borrow_mut().advance(now_ms);
        for core in 0..CORES {
            self.cores[core].advance_clock();
            self.push(core, now_ms);
            if now_ms / 100 != before_ms / 100 {
                self.cores[core].shard().tick();
            }
        }
        for index in 0..self.clients.len() {
            self.feed(index);
        }
        for core in 0..CORES {
            self.turn(core);
        }
        self.poll_tasks();
        for core in &self.cores {
            let shard = core.shard();
            shard.assert_invariants();
            let armed = shard.armed();
            assert!(armed <= 8 * (shard.len() + 8), "the wheel grows: {armed}");
            // Those of connections that are gone leave with their tick.
            assert!(shard.to_be_asked() <= shard.len() + 40);
        }
        self.bury();
    }

    fn push(&mut self, core: usize, now_ms: u64) {
        let (mut due, overflowed) = {
            let mut model = self.world.borrow_mut();
            let bus = std::mem::take(&mut model.bus[core]);
            let (due, later): (Vec<_>, Vec<_>) =
                bus.into_iter().partition(|(at_ms, _)| *at_ms <= now_ms);
            model.bus[core] = later;
            (due, std::mem::take(&mut model.overflowed[core]))
        };
        due.sort_by_key(|(at_ms, _)| *at_ms);
        let mut shard = self.cores[core].shard();
        for (_, push) in due {
            shard.on_push(Arc::new(push));
        }
        if overflowed {
            shard.on_gap();
        }
    }

    fn feed(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let core = &self.cores[client.core];
        while !client.outgoing.is_empty() && core.shard().can_read(client.key) {
            let count = 1 + self.random.below(client.outgoing.len() as u64) as usize;
            let chunk: Vec<u8> = client.outgoing.drain(..count).collect();
            let job = core.shard().feed(client.key, &chunk);
            start(&self.tasks, core, job);
        }
        if client.input_ended && client.outgoing.is_empty() && core.shard().can_read(client.key) {
            core.shard().end_of_input(client.key);
        }
    }

    /// What the worker does between looking at sockets and letting flows run.
    fn turn(&mut self, number: usize) {
        let core = Rc::clone(&self.cores[number]);
        let mut keys = Vec::new();
        core.shard().take_resumable(&mut keys);
        let distinct: HashSet<_> = keys.iter().collect();
        assert_eq!(
            distinct.len(),
            keys.len(),
            "a connection is in the list once"
        );
        for key in keys.drain(..) {
            let job = core.shard().resume(key);
            start(&self.tasks, &core, job);
        }
        core.shard().take_dirty(&mut keys);
        keys.sort_unstable();
        for key in keys.drain(..) {
            self.flush(number, key);
        }
        for index in 0..self.clients.len() {
            let key = self.clients[index].key;
            if self.clients[index].core == number
                && self.random.chance(30)
                && core.shard().unblock(key)
            {
                self.flush(number, key);
            }
        }
        self.travel(number);
        let gathered = self.random.chance(30);
        core.shard().take_questions(gathered, &mut keys);
        for key in keys.drain(..) {
            self.ask(number, key);
        }
        if gathered {
            core.shard().flush_acks();
        }
        core.shard().take_expired(&mut keys);
        for key in keys.drain(..) {
            self.remove(number, key);
        }
        let mut effects = Vec::new();
        core.shard().take_effects(&mut effects);
        // Tables are hashed: their order is not the seed's.
        effects.sort_by_key(|effect| match effect {
            Effect::Fetch { .. } | Effect::Resync { .. } => {
                format!("{effect:?}")
            }
            _ => String::new(),
        });
        let flows = effects
            .into_iter()
            .map(|effect| Box::pin(background::run(Rc::clone(&core), effect)) as Task);
        self.tasks.borrow_mut().extend(flows);
    }

    fn flush(&mut self, number: usize, key: ConnectionKey) {
        let core = &self.cores[number];
        let Some(client) = self
            .clients
            .iter_mut()
            .find(|client| client.core == number && client.key == key)
        else {
            return;
        };
        let unsent = core.shard().unsent(key).to_vec();
        if !unsent.is_empty() {
            let blocked = core.shard().is_blocked(key);
            let room = match self.random.below(10) {
                _ if blocked => 0,
                0 => self.random.below(unsent.len() as u64) as usize,
                _ => unsent.len(),
            };
            client.in_flight.extend_from_slice(&unsent[..room]);
            core.shard().sent(key, room, room < unsent.len());
        }
        let finished = core.shard().is_finished(key).is_some();
        if finished && self.random.chance(70) {
            self.remove(number, key);
        }
    }

    /// Some of what the kernels took arrives, and some of the acknowledgements.
    fn travel(&mut self, number: usize) {
        for client in self.clients.iter_mut().filter(|c| c.core == number) {
            if self.random.chance(60) {
                let count = self.random.below(client.in_flight.len() as u64 + 1) as usize;
                let count = if self.random.chance(50) {
                    client.in_flight.len()
                } else {
                    count
                };
                client.arrive(count, &self.world.borrow());
            }
            if self.random.chance(60) {
                client.unacknowledged = self.random.below(client.unacknowledged + 1);
            }
        }
    }

    /// The kernel says what the client has not acknowledged.
    fn ask(&self, number: usize, key: ConnectionKey) {
        let mut clients = self.clients.iter();
        if let Some(client) = clients.find(|c| c.core == number && c.key == key) {
            let outstanding = client.in_flight.len() as u64 + client.unacknowledged;
            self.cores[number].shard().acknowledged(key, outstanding);
        }
    }

    /// The connection is gone, and with it what is still in flight.
    fn remove(&self, number: usize, key: ConnectionKey) {
        self.ask(number, key);
        let mut shard = self.cores[number].shard();
        shard.remove(key, CloseReason::ConnectionLost);
    }

    fn poll_tasks(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let mut running = std::mem::take(&mut *self.tasks.borrow_mut());
        running.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
        self.tasks.borrow_mut().splice(0..0, running);
    }

    /// Takes note of what clients that are gone had received.
    fn bury(&mut self) {
        let (cores, world, received) = (&self.cores, &self.world, &mut self.received);
        let ended = &mut self.ended;
        self.clients.retain_mut(|client| {
            if cores[client.core].shard().connection(client.key).is_some() {
                return true;
            }
            client.gone(&world.borrow());
            received.extend(client.received.drain());
            *ended += 1;
            false
        });
    }

    fn act(&mut self) {
        let core = self.random.below(CORES as u64) as usize;
        if self.clients.len() < 12 && self.random.chance(10) {
            let peer = Peer {
                ip: std::net::Ipv4Addr::LOCALHOST.into(),
                port: 1,
                exempt: true,
                is_forwarded: false,
            };
            let key = self.cores[core]
                .shard()
                .accept(peer, crate::protocol::codec::Codec::Line);
            let user = 1 + self.random.below(USERS) as UserId;
            let device = format!("d{}", self.random.below(3));
            let mut client = Client::new(core, key, user, device);
            client.say(&format!("set:device:{}", client.device));
            if self.random.chance(30) {
                client.say("set:ack:manual");
            }
            client.say(&format!("login:u{user}:secret"));
            self.clients.push(client);
        }
        if self.clients.is_empty() {
            return;
        }
        let index = self.random.below(self.clients.len() as u64) as usize;
        let client = &mut self.clients[index];
        if client.input_ended {
            return;
        }
        match self.random.below(200) {
            0 => client.input_ended = true,
            1 => {
                let (core, key) = (client.core, client.key);
                self.remove(core, key);
            }
            _ => client.wish(&mut self.random, USERS, &mut self.counter),
        }
    }

    /// No more failures; whatever is under way ends.
    fn come_to_rest(&mut self) {
        {
            let mut model = self.world.borrow_mut();
            model.failures = 0;
            model.losses = 0;
        }
        for _ in 0..30 {
            self.step();
        }
        // Whatever is held back from those that confirm too little goes out.
        for client in &mut self.clients {
            client.say("set:ack:auto");
        }
        for core in &self.cores {
            core.shard().on_gap();
        }
        for _ in 0..20_000 {
            self.step();
            let idle = self.clients.iter().all(|client| client.outgoing.is_empty());
            if idle
                && self.tasks.borrow().is_empty()
                && self.cores.iter().all(|core| is_quiet(core, &self.clients))
            {
                return;
            }
        }
        panic!(
            "it does not come to rest: {} flows",
            self.tasks.borrow().len()
        );
    }
}

fn is_quiet(core: &SimCore, clients: &[Client]) -> bool {
    let shard = core.shard();
    !shard.has_work()
        && !shard.has_to_gather()
        && !shard.is_resyncing()
        && clients.iter().all(|client| {
            shard.unsent(client.key).is_empty()
                && !shard.awaits(client.key)
                && client.in_flight.is_empty()
        })
}

fn now(now_ms: u64) -> Now {
    Now {
        monotonic_us: now_ms * 1000,
        unix_ms: START_UNIX_MS + now_ms,
    }
}

fn start(tasks: &RefCell<Vec<Task>>, core: &Rc<SimCore>, job: Option<Job>) {
    let Some(job) = job else { return };
    let core = Rc::clone(core);
    tasks.borrow_mut().push(Box::pin(async move {
        let mut next = Some(job);
        while let Some(mut job) = next {
            let replies = commands::run(&core, &mut job).await;
            next = core.shard().complete(&job, &replies);
        }
    }));
}

/// Messages of one connection are stored in the order in which it sent them.
fn check_order(log: &[String]) {
    let mut last: HashMap<&str, u64> = HashMap::new();
    for text in log {
        let [_, by, number] = text.split(' ').collect::<Vec<_>>()[..] else {
            panic!("a strange text: {text}");
        };
        let number = number.parse().expect("a number");
        let before = last.insert(by, number).unwrap_or(0);
        assert!(before < number, "{by}: {number} after {before}");
    }
}

fn simulate(seed: u64) {
    let mut simulation = Simulation::new(seed);
    for _ in 0..STEPS {
        simulation.act();
        simulation.step();
    }
    simulation.come_to_rest();
    for client in &mut simulation.clients {
        let shard = simulation.cores[client.core].shard();
        let lives = shard
            .connection(client.key)
            .is_some_and(|c| c.session.ended().is_none());
        if lives {
            client.check_complete(&simulation.world.borrow());
            assert_eq!(
                client.replies, client.commands,
                "every command is answered once"
            );
        }
    }
    for client in &mut simulation.clients {
        client.input_ended = true;
    }
    for _ in 0..20_000 {
        simulation.step();
        if simulation.clients.is_empty()
            && simulation.tasks.borrow().is_empty()
            && simulation.cores.iter().all(|core| is_quiet(core, &[]))
        {
            break;
        }
    }
    for core in &simulation.cores {
        let shard = core.shard();
        assert!(shard.is_empty());
        assert_eq!(shard.table_sizes(), (0, 0));
    }
    check_order(&simulation.world.borrow().log);
    let model = simulation.world.borrow();
    assert_eq!(model.route_count(), 0, "no route outlives its session");
    assert!(model.listening.is_empty(), "nobody listens for nobody");
    // Without a secret a confirmation of a forged number may meet the real one.
    let truthful = model.streams.iter().filter(|_| model.forgeries == 0);
    for (stream, stored) in truthful {
        for (index, message) in stored.iter().enumerate() {
            for user in &message.confirmed {
                let own = matches!(stream, Stream::Group(_)) && message.from == *user;
                let read = simulation
                    .received
                    .contains(&(*user, *stream, index as u64 + 1));
                assert!(
                    own || read,
                    "{stream:?} {} was confirmed and never read by {user}",
                    index + 1
                );
            }
        }
    }
    assert!(simulation.received.len() > 50, "something happened");
}

#[test]
fn whatever_goes_wrong_every_client_gets_what_the_contract_says() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse::<u64>().ok())
    };
    let first = number("SIMULATION_SEED").unwrap_or(1);
    let count = number("SIMULATION_SEEDS").unwrap_or(if first == 1 { SEEDS } else { 1 });
    let seeds = first..first + count;
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| simulate(seed)) {
            eprintln!("SIMULATION_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
