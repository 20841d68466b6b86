//! Chatting pairs whose every message is timed: each sender has one message in flight, and says the
//! next thing once the last is answered, whether or not its receiver has it yet.
//!
//! Knows nothing of who answers, so that the gateways of a cluster and the relay are measured by
//! the same lines of code. Counts a message when it has been both answered and received; a lost
//! one, one too many and a wrong line are errors.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    latency::Latency,
    process::{self, CpuTimes, CpuUse},
    swarm::{Progress, Swarm},
};

/// After the last message: receivers' confirmations wait for each other for 10 ms, and belong to
/// the messages they confirm.
const SETTLE: Duration = Duration::from_millis(50);

/// Pairs with their connections, of which the first half sends, each to the one in the same place
/// of the second half.
pub struct Pairs {
    /// The connections, logged in.
    pub swarm: Swarm,
    /// What each sender says.
    pub requests: Vec<Vec<u8>>,
    /// How the reply to that begins.
    pub reply: &'static [u8],
    /// How the line to the receiver begins.
    pub push: &'static [u8],
    /// The processes whose CPU time it takes.
    pub process_ids: Vec<u32>,
}

/// What one round found.
pub struct Run {
    messages: u64,
    wall: Duration,
    used: Vec<CpuUse>,
    own_cpu: Duration,
    /// From a line sent to its reply.
    pub until_reply: Latency,
    /// From a line sent to the receiver's having it.
    pub until_push: Latency,
    /// Length of the last reply.
    pub reply_bytes: usize,
    /// Length of the last line to a receiver.
    pub push_bytes: usize,
}

impl Run {
    /// CPU time for each message of the processes in these places of [`Pairs::process_ids`].
    pub fn cpu_us(&self, places: impl IntoIterator<Item = usize>) -> f64 {
        let total: u64 = places
            .into_iter()
            .map(|place| self.used[place].total_ns())
            .sum();
        self.per_message_us(total as f64)
    }

    /// CPU time for each message of the load generator.
    pub fn own_cpu_us(&self) -> f64 {
        self.per_message_us(self.own_cpu.as_nanos() as f64)
    }

    /// CPU time of the process in that place, by thread.
    pub fn used_by(&self, place: usize) -> &CpuUse {
        &self.used[place]
    }

    /// Messages a second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.wall.as_secs_f64()
    }

    fn per_message_us(&self, nanoseconds: f64) -> f64 {
        nanoseconds / 1000.0 / self.messages as f64
    }
}

impl Pairs {
    /// Lets all pairs chat for `duration`, then waits until the last message has arrived.
    pub fn run(&mut self, duration: Duration) -> Result<Run> {
        let mut traffic = Traffic::new(self)?;
        let before = self.cpu()?;
        let own_before = process::own_cpu();
        let start = Instant::now();
        for (index, request) in self.requests.iter().enumerate() {
            self.swarm.send(index, request)?;
            traffic.sent(index, Instant::now());
        }
        let deadline = start + duration;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let requests = &self.requests;
            self.swarm.turn(left, |index, lines, answer| {
                let now = Instant::now();
                traffic.received(index, lines, now)?;
                if let Some(request) = requests.get(index) {
                    answer.extend_from_slice(request);
                    traffic.sent(index, now);
                }
                Ok(())
            })?;
        }
        self.swarm
            .run_until("every message is answered and received", |progress| {
                if let Progress::Lines(index, lines) = progress {
                    traffic.received(index, lines, Instant::now())?;
                }
                Ok(traffic.is_complete())
            })?;
        let wall = start.elapsed();
        self.settle()?;
        let used = self.cpu()?;
        Ok(Run {
            messages: traffic.messages,
            wall,
            used: used
                .iter()
                .zip(&before)
                .map(|(now, before)| now.since(before))
                .collect(),
            own_cpu: process::own_cpu() - own_before,
            until_reply: traffic.until_reply,
            until_push: traffic.until_push,
            reply_bytes: traffic.reply_bytes,
            push_bytes: traffic.push_bytes,
        })
    }

    fn cpu(&self) -> Result<Vec<CpuTimes>> {
        self.process_ids.iter().copied().map(CpuTimes::of).collect()
    }

    /// Nothing may come any more.
    fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.swarm.turn(left, |index, lines, _answer| {
                bail!(
                    "connection {index} got more than it should: {}",
                    String::from_utf8_lossy(lines)
                )
            })?;
        }
    }
}

/// The messages of one round.
struct Traffic {
    reply: &'static [u8],
    push: &'static [u8],
    /// By sender, when its unanswered line was sent.
    unanswered: Vec<Option<Instant>>,
    /// By pair, when the lines were sent that the receiver has not got yet: messages of one sender
    /// keep their order.
    unreceived: Vec<VecDeque<Instant>>,
    messages: u64,
    answered: u64,
    received: u64,
    until_reply: Latency,
    until_push: Latency,
    reply_bytes: usize,
    push_bytes: usize,
}

impl Traffic {
    fn new(pairs: &Pairs) -> Result<Self> {
        let count = pairs.requests.len();
        Ok(Self {
            reply: pairs.reply,
            push: pairs.push,
            unanswered: vec![None; count],
            unreceived: vec![VecDeque::new(); count],
            messages: 0,
            answered: 0,
            received: 0,
            until_reply: Latency::new()?,
            until_push: Latency::new()?,
            reply_bytes: 0,
            push_bytes: 0,
        })
    }

    fn sent(&mut self, sender: usize, now: Instant) {
        self.unanswered[sender] = Some(now);
        self.unreceived[sender].push_back(now);
        self.messages += 1;
    }

    fn received(&mut self, index: usize, lines: &[u8], now: Instant) -> Result<()> {
        let senders = self.unanswered.len();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let expected = if index < senders {
                self.reply
            } else {
                self.push
            };
            ensure!(
                line.starts_with(expected),
                "connection {index} got {}",
                String::from_utf8_lossy(line)
            );
            if index < senders {
                let sent = self.unanswered[index]
                    .take()
                    .context("a sender got two replies to one line")?;
                self.until_reply.record(now - sent);
                self.reply_bytes = line.len();
                self.answered += 1;
            } else {
                let sent = self.unreceived[index - senders]
                    .pop_front()
                    .context("a receiver got a message twice")?;
                self.until_push.record(now - sent);
                self.push_bytes = line.len();
                self.received += 1;
            }
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.answered == self.messages && self.received == self.messages
    }
}
