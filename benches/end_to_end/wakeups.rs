//! What a core does for one message where there is little to do, so that each message wakes it
//! anew: its system calls, and in a cluster its CPU time at a steady pace.
//!
//! One message at a time means: the next one is sent when the last was answered and received.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{
    FEW,
    account::{self, Account},
    fanout,
    process::{CpuTimes, CpuUse},
    report::{Report, Row, Sample, Target},
    server::{GatewayOptions, Server},
    setup::Setup,
    stack::{self, FIRST_GATEWAY, Ground, Stack},
    swarm::{Progress, Swarm, count_lines},
    trace::{self, Trace},
};

/// The promise, for a chat in a gateway that serves alone.
const CALLS_LIMIT: f64 = 8.0;
/// The promise, in µs of the gateway for a message at the steady pace.
const CPU_LIMIT_US: f64 = 60.0;
/// Messages of one counted round.
const MESSAGES: usize = 1000;
/// Members of the group besides the sender.
const MEMBERS: usize = 8;
/// The steady pace.
const MESSAGES_PER_SECOND: u32 = 1000;
const CORE_THREAD: &str = "core-0";
const TEXT: &str = "see you at eight at the usual place, and bring the others along";

/// Who needs to be registered for it.
pub const ACCOUNTS: usize = 1 + MEMBERS;

/// A message that is sent on the first connection, and the lines that follow from it.
struct Flow {
    name: &'static str,
    request: Vec<u8>,
    /// Lines to all connections together, the reply included.
    lines: usize,
    limit: Option<f64>,
}

/// Measures a gateway that serves alone, then a cluster.
pub fn measure(
    setup: &Setup,
    cores: &[usize],
    accounts: &[Account],
    report: &mut Report,
) -> Result<()> {
    let gateway = Server::gateway(&GatewayOptions {
        cores,
        thread_count: 1,
        password_threads: 1,
        data_directory: &setup.directory,
    })?;
    let outcome = alone(setup, &gateway, accounts, report);
    outcome.with_context(|| format!("the gateway's log ends:\n{}", gateway.log_tail()))?;
    gateway.stop()?;
    if let Some(missing) = stack::missing() {
        report.fact("wake-ups in a cluster", format!("left out: no {missing}"));
        return Ok(());
    }
    let ground = Ground::start(cores, &setup.directory);
    let accounts = account::written_to_store(&ground.data_directory(), 2 * FEW)?;
    let stack = Stack::start(&ground, true)?;
    stack.explain(in_cluster(setup, &ground, &stack, &accounts, report))?;
    stack.stop()
}

fn alone(setup: &Setup, gateway: &Server, accounts: &[Account], report: &mut Report) -> Result<()> {
    let mut swarm = account::log_in(gateway.address, &accounts[..ACCOUNTS])?;
    let group = fanout::make_group(&mut swarm)?;
    let flows = [
        Flow {
            name: "a ping",
            request: b"ping\n".to_vec(),
            lines: 1,
            limit: None,
        },
        Flow {
            name: "a chat",
            request: format!("chat:{}:{TEXT}\n", accounts[1].user_id).into_bytes(),
            lines: 2,
            limit: Some(CALLS_LIMIT),
        },
        Flow {
            name: "a message to a group of 9",
            request: format!("group_chat:{group}:{TEXT}\n").into_bytes(),
            lines: 1 + MEMBERS,
            limit: None,
        },
    ];
    for flow in flows {
        count_calls(setup, gateway.process_id(), &mut swarm, &flow, report)?;
    }
    Ok(())
}

fn in_cluster(
    setup: &Setup,
    ground: &Ground,
    stack: &Stack,
    accounts: &[Account],
    report: &mut Report,
) -> Result<()> {
    let process_id = stack.process_ids(ground)[FIRST_GATEWAY];
    let mut swarm = account::log_in(stack.gateways[0].address, accounts)?;
    // The first half sends to the second.
    let request = |pair: usize| {
        let receiver = accounts[FEW + pair].user_id;
        format!("chat:{receiver}:{TEXT}\n").into_bytes()
    };
    let flow = Flow {
        name: "a chat in a cluster",
        request: request(0),
        lines: 2,
        limit: None,
    };
    count_calls(setup, process_id, &mut swarm, &flow, report)?;
    let requests: Vec<Vec<u8>> = (0..FEW).map(request).collect();
    let mut used = CpuUse::default();
    let mut each = Vec::new();
    // The first round warms up.
    for round in 0..=setup.rounds {
        let before = CpuTimes::of(process_id)?;
        let messages = at_steady_pace(&mut swarm, &requests, setup.round)?;
        let here = CpuTimes::of(process_id)?.since(&before);
        if round > 0 {
            each.push(here.total_ns() as f64 / 1000.0 / f64::from(messages));
            used.add(&here);
        }
    }
    report.add(Row {
        name: format!("cluster, {MESSAGES_PER_SECOND} messages/s, {FEW} pairs: CPU of the gateway"),
        unit: "µs",
        digits: 1,
        sample: Sample::new(each),
        target: Target::AtMost(CPU_LIMIT_US),
        note: format!("for a message; its threads: {}", used.shares()),
    });
    Ok(())
}

/// Counts the calls of the core of `process_id` while `flow` runs again and again.
fn count_calls(
    setup: &Setup,
    process_id: u32,
    swarm: &mut Swarm,
    flow: &Flow,
    report: &mut Report,
) -> Result<()> {
    let thread_id = trace::thread_of(process_id, CORE_THREAD)?;
    one_at_a_time(swarm, flow, MESSAGES / 4)?;
    let mut each = Vec::new();
    let mut note = String::new();
    for _ in 0..setup.rounds {
        let trace = match Trace::begin(thread_id, &setup.directory) {
            Ok(trace) => trace,
            Err(reason) => {
                report.fact("system calls", format!("{} left out: {reason}", flow.name));
                return Ok(());
            }
        };
        one_at_a_time(swarm, flow, MESSAGES)?;
        let calls = trace.end()?;
        each.push(calls.total() as f64 / MESSAGES as f64);
        note = calls.per_message(MESSAGES);
    }
    report.add(Row {
        name: format!("system calls of the core for {}, one at a time", flow.name),
        unit: "calls",
        digits: 2,
        sample: Sample::new(each),
        target: flow.limit.map_or(Target::None, Target::AtMost),
        note,
    });
    Ok(())
}

fn one_at_a_time(swarm: &mut Swarm, flow: &Flow, messages: usize) -> Result<()> {
    for _ in 0..messages {
        let mut outstanding = flow.lines;
        swarm.send(0, &flow.request)?;
        swarm.run_until("everybody has the message", |progress| {
            if let Progress::Lines(_, lines) = progress {
                ensure!(
                    !lines.starts_with(b"-"),
                    "{} was answered {}",
                    flow.name,
                    String::from_utf8_lossy(lines)
                );
                outstanding = outstanding.saturating_sub(count_lines(lines));
            }
            Ok(outstanding == 0)
        })?;
    }
    Ok(())
}

/// Pairs speak in turn, one after the other at the steady pace, whatever is answered meanwhile;
/// gives back how many messages that were.
fn at_steady_pace(swarm: &mut Swarm, requests: &[Vec<u8>], length: Duration) -> Result<u32> {
    let start = Instant::now();
    let interval = Duration::from_secs(1) / MESSAGES_PER_SECOND;
    let (mut sent, mut lines_left) = (0_u32, 0_usize);
    while start.elapsed() < length {
        let due = start + interval * sent;
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let pair = sent as usize % requests.len();
            swarm.send(pair, &requests[pair])?;
            sent += 1;
            lines_left += 2;
            continue;
        }
        swarm.turn(left, |_, lines, _| {
            lines_left = lines_left.saturating_sub(count_lines(lines));
            Ok(())
        })?;
    }
    swarm.run_until("every message is answered and received", |progress| {
        if let Progress::Lines(_, lines) = progress {
            lines_left = lines_left.saturating_sub(count_lines(lines));
        }
        Ok(lines_left == 0)
    })?;
    Ok(sent)
}
