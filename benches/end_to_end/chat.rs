//! Durable chat: pairs of users, each sender with one message in flight or several, each message on
//! disk before its `+OK` and then pushed.
//!
//! Nothing is pinned: gateway, store and load generator share all cores, as the promise says.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::{
    account::{self, Account},
    process::{self, CpuUse},
    report::{Report, Row, Sample, Target},
    server::Server,
    setup::Setup,
    swarm::{Progress, count_lines},
};

/// How a run of the chat is loaded.
#[derive(Clone, Copy)]
pub struct Load {
    /// Messages that each sender has in flight.
    pub in_flight: usize,
    /// The promise, in messages a second stored and delivered.
    pub rate: Option<f64>,
}

const TEXT: &str = "see you at eight at the usual place, and bring the others along";

#[derive(Default)]
struct Counts {
    sent: u64,
    acknowledged: u64,
    delivered: u64,
}

/// What the windows that count have shown.
#[derive(Default)]
struct Measured {
    /// Messages a second, one for each window.
    rates: Vec<f64>,
    /// What the gateway's process used.
    used: CpuUse,
    own_cpu: Duration,
    delivered: u64,
}

impl Measured {
    fn row(self, pairs: usize, load: Load) -> Row {
        let per_message_us = |ns: f64| ns / 1000.0 / self.delivered as f64;
        Row {
            name: format!("durable chat, {pairs} pairs, {} in flight", load.in_flight),
            unit: "messages/s",
            digits: 0,
            target: load.rate.map_or(Target::None, Target::AtLeast),
            note: format!(
                "stored and delivered; CPU per message {:.1} µs ({}), load generator {:.1} µs",
                per_message_us(self.used.total_ns() as f64),
                self.used.shares(),
                per_message_us(self.own_cpu.as_nanos() as f64)
            ),
            sample: Sample::new(self.rates),
        }
    }
}

/// Measures `pairs` pairs: of the accounts, the first half sends to the second.
pub fn measure(
    setup: &Setup,
    gateway: &Server,
    accounts: &[Account],
    load: Load,
    report: &mut Report,
) -> Result<()> {
    let pairs = accounts.len() / 2;
    let requests: Vec<Vec<u8>> = accounts[pairs..]
        .iter()
        .map(|receiver| format!("chat:{}:{TEXT}\n", receiver.user_id).into_bytes())
        .collect();
    let mut swarm = account::log_in(gateway.address, accounts)?;
    let mut counts = Counts::default();
    for (index, request) in requests.iter().enumerate() {
        swarm.send(index, &request.repeat(load.in_flight))?;
        counts.sent += load.in_flight as u64;
    }

    let mut measured = Measured::default();
    // The window before the first warms up and is not counted.
    for window in 0..=setup.rounds {
        let cpu_before = gateway.cpu()?;
        let own_before = process::own_cpu();
        let delivered_before = counts.delivered;
        let start = Instant::now();
        let deadline = start + setup.round;
        while Instant::now() < deadline {
            swarm.turn(
                deadline.saturating_duration_since(Instant::now()),
                |index, lines, answer| {
                    count(&mut counts, pairs, index, lines)?;
                    if index < pairs {
                        for _ in 0..count_lines(lines) {
                            answer.extend_from_slice(&requests[index]);
                            counts.sent += 1;
                        }
                    }
                    Ok(())
                },
            )?;
        }
        if window > 0 {
            let here = counts.delivered - delivered_before;
            measured
                .rates
                .push(here as f64 / start.elapsed().as_secs_f64());
            measured.used.add(&gateway.cpu()?.since(&cpu_before));
            measured.own_cpu += process::own_cpu() - own_before;
            measured.delivered += here;
        }
    }
    swarm.run_until("every message is acknowledged and delivered", |progress| {
        if let Progress::Lines(index, lines) = progress {
            count(&mut counts, pairs, index, lines)?;
        }
        Ok(counts.acknowledged == counts.sent && counts.delivered >= counts.sent)
    })?;
    if counts.delivered != counts.sent {
        bail!(
            "{} messages were sent, but {} delivered",
            counts.sent,
            counts.delivered
        );
    }
    ensure!(measured.delivered > 0, "no message was delivered in time");
    report.add(measured.row(pairs, load));
    Ok(())
}

/// What came is what was said last: each line to a sender is a reply, each to a receiver a message.
fn count(counts: &mut Counts, pairs: usize, index: usize, lines: &[u8]) -> Result<()> {
    if index < pairs {
        ensure!(
            lines.starts_with(b"+OK msg_id="),
            "a chat was answered: {}",
            String::from_utf8_lossy(lines)
        );
        counts.acknowledged += count_lines(lines) as u64;
    } else {
        ensure!(
            lines.starts_with(b"MSG "),
            "a receiver got {}",
            String::from_utf8_lossy(lines)
        );
        counts.delivered += count_lines(lines) as u64;
    }
    Ok(())
}
