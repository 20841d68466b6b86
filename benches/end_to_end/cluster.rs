//! Durable chat in a cluster: every message is taken by a gateway, stored by the backend,
//! acknowledged, published through Redis, written by the receiver's gateway, and confirmed. What it
//! costs each process, against the relay's least chat.
//!
//! In each round three contestants chat in turn, each over connections of its own: the relay, all
//! pairs at the first gateway (the second has nothing to do), and the pairs divided over both
//! gateways so that half of them have sender and receiver at different ones. The relay is bound to
//! the core of the first gateway; see [`crate::stack`] for the rest.

use anyhow::{Context, Result};

use crate::{
    FEW,
    account::{self, Account},
    latency::Latency,
    pairs::{Pairs, Run},
    process::CpuUse,
    relay::{self, Mode},
    report::{Report, Row, Sample, Target},
    server::Server,
    setup::Setup,
    stack::{self, BACKEND, FIRST_GATEWAY, Ground, REDIS, Stack, ZOOKEEPER},
    swarm::Swarm,
};

/// The promise: CPU of the gateway for each chat over the relay's, with few pairs.
const RATIO_LIMIT_FEW: f64 = 3.0;
/// The same with many pairs, where one wake-up serves several.
const RATIO_LIMIT_MANY: f64 = 2.0;
/// The promise, with many pairs: CPU in µs of gateway, backend and Redis for each message stored
/// and delivered.
const STACK_LIMIT_US: f64 = 40.0;
const TEXT: &str = "see you at eight at the usual place, and bring the others along";
/// A gateway that others have measured, to compare with.
const FOR_SCALE: &str = "MPIM on two cores: 67 µs of CPU in its gateway for a message, 308 µs with its services and Redis";

/// Measures few and many pairs, with a backend that has its database to itself and with one that
/// may share it.
pub fn measure(setup: &Setup, cores: &[usize], report: &mut Report) -> Result<()> {
    if let Some(missing) = stack::missing() {
        report.fact("cluster", format!("left out: {missing} is not installed"));
        return Ok(());
    }
    let sizes = [FEW, setup.pairs];
    // Two users a pair at one gateway, and two others a pair at both.
    let users = 4 * setup.pairs.max(FEW);
    let ground = Ground::start(cores, &setup.directory);
    let accounts = account::written_to_store(&ground.data_directory(), users)?;
    report.fact("for scale", FOR_SCALE.to_owned());
    for exclusive in [true, false] {
        let stack = Stack::start(&ground, exclusive)?;
        for (pairs, is_many) in sizes.into_iter().zip([false, true]) {
            let kind = if exclusive { "exclusive" } else { "shared" };
            let stage = Stage {
                name: format!("cluster, {kind} database, {pairs} pairs"),
                is_many,
            };
            eprintln!("{}", stage.name);
            let rounds = stack.explain(chat(
                setup,
                &ground,
                &stack,
                cores[0],
                &accounts[..4 * pairs],
            ))?;
            stage.add_rows(&rounds, report)?;
        }
        stack.stop()?;
    }
    Ok(())
}

/// All rounds of each contestant.
struct Rounds {
    relay: Vec<Run>,
    one: Vec<Run>,
    two: Vec<Run>,
}

fn chat(
    setup: &Setup,
    ground: &Ground,
    stack: &Stack,
    relay_core: usize,
    accounts: &[Account],
) -> Result<Rounds> {
    let (at_one, at_both) = accounts.split_at(accounts.len() / 2);
    let pairs = at_one.len() / 2;
    let mut one = of_cluster(ground, stack, at_one, |_| 0)?;
    // Senders are at the first and at the second gateway in turn, and of each two pairs in a row
    // the receivers are at the same one.
    let mut two = of_cluster(ground, stack, at_both, |index| {
        if index < pairs {
            index % 2
        } else {
            (index - pairs) / 2 % 2
        }
    })?;
    // The first pass fills caches and grows buffers; of it nothing but the length of the lines
    // matters.
    let first = one.run(setup.round / 4)?;
    two.run(setup.round / 4)?;
    let server = Server::relay(Mode::Pairs, &[relay_core], &setup.directory)?;
    let mut relay = of_relay(&server, &one.requests, &first)?;
    relay.run(setup.round / 4)?;

    let mut rounds = Rounds {
        relay: Vec::new(),
        one: Vec::new(),
        two: Vec::new(),
    };
    for _ in 0..setup.rounds {
        rounds.relay.push(relay.run(setup.round)?);
        rounds.one.push(one.run(setup.round)?);
        rounds.two.push(two.run(setup.round)?);
    }
    Ok(rounds)
}

/// Users who chat at the gateway `gateway_of(index)`; of the accounts, the first half sends to the
/// second.
fn of_cluster(
    ground: &Ground,
    stack: &Stack,
    accounts: &[Account],
    gateway_of: impl Fn(usize) -> usize,
) -> Result<Pairs> {
    let receivers = &accounts[accounts.len() / 2..];
    let requests = receivers
        .iter()
        .map(|receiver| format!("chat:{}:{TEXT}\n", receiver.user_id).into_bytes());
    let address = |index| stack.gateways[gateway_of(index)].address;
    Ok(Pairs {
        swarm: account::log_in_each(address, accounts)?,
        requests: requests.collect(),
        reply: b"+OK msg_id=",
        push: b"MSG ",
        process_ids: stack.process_ids(ground),
    })
}

/// The same lines through the relay: the sender's as it is, the receiver's with a head that makes
/// it as long as `like` found the gateway's, and a reply.
fn of_relay(relay: &Server, requests: &[Vec<u8>], like: &Run) -> Result<Pairs> {
    let pairs = requests.len();
    let request_bytes = requests.first().context("no pair")?.len();
    let head = format!(
        "MSG {:x<1$}",
        "",
        like.push_bytes.saturating_sub(request_bytes + 4)
    );
    let introduction = |index: usize| match index.checked_sub(pairs) {
        None => format!("send {index} {head}\n").into_bytes(),
        Some(pair) => format!("receive {pair}\n").into_bytes(),
    };
    // The welcome, then the reply to the introduction.
    let swarm = Swarm::connect(relay.address, 2 * pairs, 2, introduction, |_, _| Ok(()))?;
    Ok(Pairs {
        swarm,
        requests: requests.to_vec(),
        reply: relay::REPLY,
        push: b"MSG ",
        process_ids: vec![relay.process_id()],
    })
}

/// A size and a kind of cluster, and the rows about it.
struct Stage {
    name: String,
    is_many: bool,
}

impl Stage {
    fn add_rows(&self, rounds: &Rounds, report: &mut Report) -> Result<()> {
        self.add_ratio(rounds, report);
        self.add_cpu(rounds, report);
        self.add_rate(rounds, report)?;
        self.add_scaling(rounds, report)
    }

    fn row(&self, name: &str, unit: &'static str, sample: Sample, note: String) -> Row {
        Row {
            name: format!("{}: {name}", self.name),
            unit,
            digits: 2,
            sample,
            target: Target::None,
            note,
        }
    }

    fn add_ratio(&self, rounds: &Rounds, report: &mut Report) {
        let mut used = CpuUse::default();
        for run in &rounds.one {
            used.add(run.used_by(FIRST_GATEWAY));
        }
        let limit = if self.is_many {
            RATIO_LIMIT_MANY
        } else {
            RATIO_LIMIT_FEW
        };
        let note = format!(
            "CPU per message {:.2} µs, relay {:.2} µs; gateway's threads: {}; bytes of a push and a reply {} and {}, relay {} and {}",
            of(&rounds.one, gateway_us).median(),
            of(&rounds.relay, relay_us).median(),
            used.shares(),
            rounds.one[0].push_bytes,
            rounds.one[0].reply_bytes,
            rounds.relay[0].push_bytes,
            rounds.relay[0].reply_bytes
        );
        report.add(Row {
            target: Target::AtMost(limit),
            ..self.row(
                "gateway's CPU ratio",
                "×",
                ratio(&rounds.one, gateway_us, &rounds.relay, relay_us),
                note,
            )
        });
    }

    fn add_cpu(&self, rounds: &Rounds, report: &mut Report) {
        for (name, value) in [
            ("CPU of the gateway", gateway_us as fn(&Run) -> f64),
            ("CPU of the backend", |run| run.cpu_us([BACKEND])),
            ("CPU of Redis", |run| run.cpu_us([REDIS])),
        ] {
            report.add(self.row(name, "µs", of(&rounds.one, value), String::new()));
        }
        let mut backend = CpuUse::default();
        for run in &rounds.one {
            backend.add(run.used_by(BACKEND));
        }
        let note = format!(
            "per message stored and delivered: gateway (and an idle second one), backend, Redis; besides, ZooKeeper {:.2} µs, load generator {:.2} µs; \
             backend's threads: {}",
            of(&rounds.one, |run| run.cpu_us([ZOOKEEPER])).median(),
            of(&rounds.one, Run::own_cpu_us).median(),
            backend.shares()
        );
        report.add(Row {
            target: if self.is_many {
                Target::AtMost(STACK_LIMIT_US)
            } else {
                Target::None
            },
            ..self.row("CPU of all three", "µs", of(&rounds.one, stack_us), note)
        });
    }

    fn add_rate(&self, rounds: &Rounds, report: &mut Report) -> Result<()> {
        let note = format!(
            "{}; relay {:.0} messages/s, {}",
            latencies(&rounds.one)?,
            of(&rounds.relay, Run::rate).median(),
            latencies(&rounds.relay)?
        );
        report.add(Row {
            digits: 0,
            ..self.row("rate", "messages/s", of(&rounds.one, Run::rate), note)
        });
        Ok(())
    }

    fn add_scaling(&self, rounds: &Rounds, report: &mut Report) -> Result<()> {
        let both = |run: &Run| run.cpu_us([FIRST_GATEWAY, FIRST_GATEWAY + 1]);
        let note = format!(
            "half of the pairs across gateways; gateways {:.2} µs, backend {:.2} µs, Redis {:.2} µs; {:.2} times one gateway's",
            of(&rounds.two, both).median(),
            of(&rounds.two, |run| run.cpu_us([BACKEND])).median(),
            of(&rounds.two, |run| run.cpu_us([REDIS])).median(),
            ratio(&rounds.two, stack_us, &rounds.one, stack_us).median()
        );
        report.add(self.row(
            "two gateways, CPU of all four",
            "µs",
            of(&rounds.two, stack_us),
            note,
        ));
        let note = format!(
            "{:.0} messages/s, one gateway {:.0}; {}",
            of(&rounds.two, Run::rate).median(),
            of(&rounds.one, Run::rate).median(),
            latencies(&rounds.two)?
        );
        report.add(self.row(
            "two gateways, rate over one gateway's",
            "×",
            ratio(&rounds.two, Run::rate, &rounds.one, Run::rate),
            note,
        ));
        Ok(())
    }
}

fn of(runs: &[Run], value: impl Fn(&Run) -> f64) -> Sample {
    Sample::new(runs.iter().map(value).collect())
}

/// One contestant's value over another's in the same round.
fn ratio(
    ours: &[Run],
    our_value: impl Fn(&Run) -> f64,
    theirs: &[Run],
    their_value: impl Fn(&Run) -> f64,
) -> Sample {
    let rounds = ours.iter().zip(theirs);
    Sample::new(
        rounds
            .map(|(ours, theirs)| our_value(ours) / their_value(theirs))
            .collect(),
    )
}

fn relay_us(run: &Run) -> f64 {
    run.cpu_us([0])
}

fn gateway_us(run: &Run) -> f64 {
    run.cpu_us([FIRST_GATEWAY])
}

/// Backend, Redis and both gateways, of which an idle one uses next to nothing.
fn stack_us(run: &Run) -> f64 {
    run.cpu_us([BACKEND, REDIS, FIRST_GATEWAY, FIRST_GATEWAY + 1])
}

fn latencies(runs: &[Run]) -> Result<String> {
    let until_reply = Latency::sum(runs.iter().map(|run| &run.until_reply))?;
    let until_push = Latency::sum(runs.iter().map(|run| &run.until_push))?;
    Ok(format!(
        "p50 / p99 / p99.9 until +OK {} µs, until MSG {} µs",
        until_reply.quantiles_us(),
        until_push.quantiles_us()
    ))
}
