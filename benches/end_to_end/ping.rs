//! `ping` against an echoed line: what the gateway adds to a message that touches neither store nor
//! bus.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    account::{self, Account},
    latency::Latency,
    process::CpuUse,
    relay::Mode,
    report::{Report, Row, Sample, Target},
    server::Server,
    setup::Setup,
    swarm::{Progress, Swarm, count_lines},
};

const CONNECTIONS: usize = 64;
/// The promise: CPU per message, gateway over relay.
const RATIO_LIMIT: f64 = 1.5;
const REQUEST: &[u8] = b"ping\n";

/// One run against one server.
struct Run {
    messages: u64,
    wall: Duration,
    cpu: CpuUse,
    latency: Latency,
}

impl Run {
    fn cpu_ns_per_message(&self) -> f64 {
        self.cpu.total_ns() as f64 / self.messages as f64
    }

    fn messages_per_second(&self) -> f64 {
        self.messages as f64 / self.wall.as_secs_f64()
    }
}

/// Measures both servers in turn, with one and with sixteen pings in flight on each connection.
pub fn measure(
    setup: &Setup,
    gateway: &Server,
    accounts: &[Account],
    report: &mut Report,
) -> Result<()> {
    let relay = Server::relay(Mode::Echo, &[setup.server_core], &setup.directory)?;
    let mut to_gateway = account::log_in(gateway.address, &accounts[..CONNECTIONS])?;
    let mut to_relay =
        Swarm::connect(relay.address, CONNECTIONS, 1, |_| Vec::new(), |_, _| Ok(()))?;
    for in_flight in [1, 16] {
        let duration = setup.round;
        // The first pass fills caches and grows buffers; nobody looks at it.
        run(
            gateway,
            &mut to_gateway,
            in_flight,
            b"+OK pong",
            duration / 4,
        )?;
        run(&relay, &mut to_relay, in_flight, b"ping", duration / 4)?;
        let mut gateway_runs = Vec::new();
        let mut relay_runs = Vec::new();
        for _ in 0..setup.rounds {
            gateway_runs.push(run(
                gateway,
                &mut to_gateway,
                in_flight,
                b"+OK pong",
                duration,
            )?);
            relay_runs.push(run(&relay, &mut to_relay, in_flight, b"ping", duration)?);
        }
        add_rows(report, in_flight, &gateway_runs, &relay_runs)?;
    }
    Ok(())
}

fn run(
    server: &Server,
    swarm: &mut Swarm,
    in_flight: usize,
    expected: &[u8],
    duration: Duration,
) -> Result<Run> {
    let mut latency = Latency::new()?;
    let mut sent_at: Vec<VecDeque<Instant>> = vec![VecDeque::with_capacity(in_flight); swarm.len()];
    let mut outstanding = 0;
    let mut messages = 0;
    let before = server.cpu()?;
    let start = Instant::now();
    let burst = REQUEST.repeat(in_flight);
    for (index, times) in sent_at.iter_mut().enumerate() {
        swarm.send(index, &burst)?;
        times.extend(std::iter::repeat_n(Instant::now(), in_flight));
        outstanding += in_flight;
    }
    let deadline = start + duration;
    let mut receive = |index: usize, lines: &[u8], answer: Option<&mut Vec<u8>>| -> Result<usize> {
        let now = Instant::now();
        ensure!(
            lines.starts_with(expected),
            "a ping was answered: {}",
            String::from_utf8_lossy(lines)
        );
        let replies = count_lines(lines);
        let times = &mut sent_at[index];
        for sent in times.drain(..replies) {
            latency.record(now - sent);
        }
        messages += replies as u64;
        if let Some(answer) = answer {
            answer.extend_from_slice(&burst[..replies * REQUEST.len()]);
            times.extend(std::iter::repeat_n(now, replies));
        }
        Ok(replies)
    };
    while Instant::now() < deadline {
        swarm.turn(
            deadline.saturating_duration_since(Instant::now()),
            |index, lines, answer| receive(index, lines, Some(answer)).map(|_| ()),
        )?;
    }
    swarm.run_until("every ping is answered", |progress| {
        if let Progress::Lines(index, lines) = progress {
            outstanding -= receive(index, lines, None)?;
        }
        Ok(outstanding == 0)
    })?;
    let wall = start.elapsed();
    let cpu = server.cpu()?.since(&before);
    Ok(Run {
        messages,
        wall,
        cpu,
        latency,
    })
}

fn add_rows(report: &mut Report, in_flight: usize, gateway: &[Run], relay: &[Run]) -> Result<()> {
    let of = |runs: &[Run], value: fn(&Run) -> f64| Sample::new(runs.iter().map(value).collect());
    let cpu = [gateway, relay].map(|runs| of(runs, Run::cpu_ns_per_message));
    let rate = [gateway, relay].map(|runs| of(runs, Run::messages_per_second));
    let ratio = Sample::new(
        gateway
            .iter()
            .zip(relay)
            .map(|(ours, bare)| ours.cpu_ns_per_message() / bare.cpu_ns_per_message())
            .collect(),
    );
    let mut used = CpuUse::default();
    gateway.iter().for_each(|run| used.add(&run.cpu));
    let quantiles = |runs: &[Run]| -> Result<String> {
        Ok(Latency::sum(runs.iter().map(|run| &run.latency))?.quantiles_us())
    };
    let name = format!("ping, {CONNECTIONS} connections × {in_flight} in flight");
    report.add(Row {
        name: format!("{name}: CPU ratio"),
        unit: "×",
        digits: 2,
        sample: ratio,
        // The promise is about one in flight; a batch only divides what one recv and one send cost.
        target: if in_flight == 1 {
            Target::AtMost(RATIO_LIMIT)
        } else {
            Target::None
        },
        note: format!(
            "CPU per message {:.2} µs, relay {:.2} µs; gateway's threads: {}",
            cpu[0].median() / 1000.0,
            cpu[1].median() / 1000.0,
            used.shares()
        ),
    });
    let [rate_ours, rate_bare] = rate;
    report.add(Row {
        name: format!("{name}: rate"),
        unit: "messages/s",
        digits: 0,
        note: format!(
            "relay {:.0}; latency p50 / p99 / p99.9: {} µs, relay {} µs",
            rate_bare.median(),
            quantiles(gateway)?,
            quantiles(relay)?
        ),
        sample: rate_ours,
        target: Target::None,
    });
    Ok(())
}
