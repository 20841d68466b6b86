//! End-to-end benchmarks: the real binary over loopback, against a bare newline relay in the same
//! run.
//!
//! Times differ from machine to machine and from minute to minute, so what is promised as a ratio
//! is measured in alternating rounds within one run, and every number is a median with its spread.
//! Servers run on one core and the load generator on another, except for the durable chat, where
//! all processes share all cores, and the cluster, where all but the gateways do. CPU time is that
//! of all threads of the server's process, and includes what the kernel does for its sockets.

mod accept;
mod account;
mod chat;
mod cluster;
mod fanout;
mod idle;
mod latency;
mod neighbours;
mod pairs;
mod ping;
mod process;
mod relay;
mod report;
mod server;
mod setup;
mod stack;
mod swarm;
mod trace;
mod wakeups;

#[path = "../../tests/support/redis.rs"]
mod redis_server;
#[path = "../../tests/support/zookeeper.rs"]
mod zookeeper_server;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use account::Account;
use relay::Mode;
use report::Report;
use server::{GatewayOptions, Server};
use setup::Setup;

/// Pairs of the smaller durable chat, alone and in a cluster; also the connections of `ping`.
const FEW: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Ping,
    Group,
    Accept,
    Idle,
    Chat,
    Cluster,
    Neighbours,
    Wakeups,
}

/// Measures the gateway end to end and prints a table.
#[derive(Parser)]
struct Options {
    /// Small numbers and short rounds: a check that everything runs, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Only these scenarios.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Measured rounds of each scenario.
    #[arg(long)]
    rounds: Option<usize>,
    /// Worker threads of the gateway in the durable chat, where it may use every core.
    #[arg(long)]
    chat_threads: Option<usize>,
    /// Where the results go as JSON.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/../bench.json"))]
    json: PathBuf,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(server::LAUNCH) => return server::launch(&arguments[1..]),
        Some(server::RELAY) => {
            let mode = arguments
                .get(1)
                .and_then(|word| Mode::from_word(word))
                .context("the relay needs a mode")?;
            return relay::serve(mode);
        }
        _ => {}
    }
    let options = Options::parse();
    if !options.bench {
        // `cargo test --all-targets` comes by here; a debug build has nothing to say about speed.
        println!("nothing measured: run scripts/bench, or cargo bench --bench end_to_end");
        return Ok(());
    }
    let report = measure(&options)?;
    println!("\n{}", report.table());
    report.write_json(&options.json)?;
    match report.missed() {
        0 => println!("every target is met"),
        missed => println!("targets MISSED: {missed}"),
    }
    Ok(())
}

fn measure(options: &Options) -> Result<Report> {
    // Beside the build, not under /tmp: there durable may mean memory.
    let directory = tempfile::Builder::new()
        .prefix("end-to-end-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    process::raise_file_limit()?;
    let cores = process::allowed_cores()?;
    let [server_core, generator_core] = match cores[..] {
        [] => bail!("this process may use no core"),
        [only] => [only, only],
        [first, second, ..] => [first, second],
    };
    let mut setup = if options.quick {
        Setup::quick(server_core, directory.path())
    } else {
        Setup::full(server_core, directory.path())
    };
    setup.rounds = options.rounds.unwrap_or(setup.rounds).max(1);
    setup.chat_threads = options.chat_threads.unwrap_or(setup.chat_threads);

    let mut report = Report::default();
    report.fact("cores", describe_cores(&cores, server_core, generator_core));
    let sync = setup.sync_ms()?;
    report.fact(
        "disk",
        format!(
            "append 4 KiB and sync: median {:.2} ms ({:.2}–{:.2})",
            sync.median(),
            sync.least(),
            sync.greatest()
        ),
    );
    if options.quick {
        report.fact(
            "quick",
            "small numbers, short rounds: the targets are not judged fairly".to_owned(),
        );
    }

    let wanted = |scenario| options.only.is_empty() || options.only.contains(&scenario);
    let accounts = register(&setup, &cores, wanted)?;
    process::run_on(&[generator_core])?;
    pinned(&setup, &accounts, wanted, &mut report)?;
    if wanted(Scenario::Idle) {
        eprintln!("idle connections");
        idle::measure(&setup, &accounts, &mut report)?;
    }
    process::run_on(&cores)?;
    if wanted(Scenario::Chat) {
        chat(&setup, &cores, &accounts, &mut report)?;
    }
    if wanted(Scenario::Wakeups) {
        eprintln!("wake-ups");
        wakeups::measure(&setup, &cores, &accounts, &mut report)?;
    }
    if wanted(Scenario::Neighbours) {
        neighbours::measure(&setup, &cores, &mut report)?;
    }
    if wanted(Scenario::Cluster) {
        eprintln!("cluster");
        cluster::measure(&setup, &cores, &mut report)?;
    }
    Ok(report)
}

fn describe_cores(cores: &[usize], server_core: usize, generator_core: usize) -> String {
    if server_core == generator_core {
        "one only, shared by server and load generator: rates and latencies say little".to_owned()
    } else {
        format!(
            "{} allowed; server on {server_core}, load generator on {generator_core}; durable chat on all; in the cluster each gateway on one, the rest on all",
            cores.len()
        )
    }
}

/// Registers as many users as the wanted scenarios need, once for all of them, on all cores.
fn register(
    setup: &Setup,
    cores: &[usize],
    wanted: impl Fn(Scenario) -> bool,
) -> Result<Vec<Account>> {
    let needs = [
        (Scenario::Ping, FEW),
        (Scenario::Group, setup.members + 1),
        (Scenario::Idle, 1),
        (Scenario::Chat, 2 * setup.pairs.max(FEW)),
        // What it needs of this is the database and the secret; its users are written there.
        (Scenario::Cluster, 1),
        (Scenario::Wakeups, wakeups::ACCOUNTS),
    ];
    let count = needs
        .into_iter()
        .filter(|(scenario, _)| wanted(*scenario))
        .map(|(_, count)| count)
        .max()
        .unwrap_or(0);
    if count == 0 {
        return Ok(Vec::new());
    }
    eprintln!("registering {count} users");
    let gateway = Server::gateway(&GatewayOptions {
        cores,
        thread_count: 1,
        password_threads: cores.len(),
        data_directory: &setup.directory,
    })?;
    let accounts = explain(&gateway, account::register(gateway.address, count))?;
    gateway.stop()?;
    Ok(accounts)
}

/// The scenarios with the server on one core and the load generator on another.
fn pinned(
    setup: &Setup,
    accounts: &[Account],
    wanted: impl Fn(Scenario) -> bool,
    report: &mut Report,
) -> Result<()> {
    let scenarios = [Scenario::Ping, Scenario::Group, Scenario::Accept];
    if !scenarios.into_iter().any(&wanted) {
        return Ok(());
    }
    let gateway = Server::gateway(&GatewayOptions {
        cores: &[setup.server_core],
        thread_count: 1,
        password_threads: 1,
        data_directory: &setup.directory,
    })?;
    for scenario in scenarios.into_iter().filter(|scenario| wanted(*scenario)) {
        eprintln!("{scenario:?}");
        let outcome = match scenario {
            Scenario::Ping => ping::measure(setup, &gateway, accounts, report),
            Scenario::Group => {
                fanout::measure(setup, &gateway, &accounts[..=setup.members], report)
            }
            Scenario::Accept => accept::measure(setup, &gateway, report),
            Scenario::Idle
            | Scenario::Chat
            | Scenario::Cluster
            | Scenario::Neighbours
            | Scenario::Wakeups => Ok(()),
        };
        explain(&gateway, outcome)?;
    }
    gateway.stop()
}

/// The durable chat, with few pairs and with many, one message after the other and several at one
/// time, everything on all cores.
fn chat(setup: &Setup, cores: &[usize], accounts: &[Account], report: &mut Report) -> Result<()> {
    let load = |in_flight, rate| chat::Load { in_flight, rate };
    for (pairs, load) in [
        (FEW, load(1, None)),
        (FEW, load(8, Some(100_000.0))),
        (setup.pairs, load(1, Some(50_000.0))),
    ] {
        eprintln!("durable chat, {pairs} pairs, {} in flight", load.in_flight);
        let gateway = Server::gateway(&GatewayOptions {
            cores,
            thread_count: setup.chat_threads,
            password_threads: 1,
            data_directory: &setup.directory,
        })?;
        explain(
            &gateway,
            chat::measure(setup, &gateway, &accounts[..2 * pairs], load, report),
        )?;
        gateway.stop()?;
    }
    Ok(())
}

/// An error of the measurement, with what the gateway said last.
fn explain<T>(gateway: &Server, outcome: Result<T>) -> Result<T> {
    outcome.with_context(|| format!("the gateway's log ends:\n{}", gateway.log_tail()))
}
