//! A quiet pair beside one busy address: how long its messages take while ninety connections of
//! another address ask for the dearest things they may, within the limits that strangers have.
//!
//! What is promised is a ratio: against the same ninety connections that send `ping` at the same
//! pace, in alternating rounds of one run. Nothing is pinned, and nobody is exempt from limits.
//! Times are from the line sent to the receiver's having it.

use std::{
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    account::{self, Account},
    latency::Latency,
    report::{Report, Row, Sample, Target},
    server::{ProgramOptions, Server},
    setup::Setup,
    swarm::{Progress, Swarm, count_lines, source_address},
};

/// The promises, as ratios of the quiet pair's times.
const P50_LIMIT: f64 = 1.5;
const P99_LIMIT: f64 = 3.0;

/// Connections of the busy address; it may have a hundred.
const BUSY: usize = 90;
/// The first connections are the quiet pair.
const PAIR: usize = 2;
/// What a connection may send on average, and less.
const BUSY_PACE: Duration = Duration::from_millis(20);
const QUIET_PACE: Duration = Duration::from_millis(25);
/// Rounds are longer than elsewhere: the quiet pair says little.
const ROUND_TIMES: u32 = 2;

const MEMBERS: usize = 10_000;
const GROUPS: i64 = 500;
const MESSAGES: i64 = 1000;
const UNKNOWN_IDS: i64 = 400;

/// What the busy address does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    Members,
    Acks,
    Logins,
    Pulls,
}

impl Attack {
    const ALL: [Self; 4] = [Self::Members, Self::Acks, Self::Logins, Self::Pulls];

    fn name(self) -> &'static str {
        match self {
            Self::Members => "group_members of 10,000",
            Self::Acks => "ack of 400 unknown ids",
            Self::Logins => "logout and auth in 500 groups",
            Self::Pulls => "pull:1000",
        }
    }

    /// What a connection says in turn, beginning and ending in the same state.
    fn script(self, account: &Account) -> Vec<Vec<u8>> {
        match self {
            Self::Members => vec![format!("group_members:{BIG_GROUP}\n").into_bytes()],
            Self::Acks => {
                let ids: Vec<String> = (1..=UNKNOWN_IDS).map(|id| (id << 40).to_string()).collect();
                vec![format!("ack:{}\n", ids.join(":")).into_bytes()]
            }
            Self::Logins => vec![b"logout\n".to_vec(), account.auth_line()],
            Self::Pulls => vec![b"pull:1000\n".to_vec()],
        }
    }
}

const BIG_GROUP: i64 = 1_000_000;

/// Measures each attack in turn.
pub fn measure(setup: &Setup, cores: &[usize], report: &mut Report) -> Result<()> {
    let data = setup.directory.join("neighbours");
    // Once for its tables and its secret.
    start(setup, cores, &data)?.stop()?;
    let accounts = account::written_to_store(&data, PAIR + MEMBERS)?;
    write_groups_and_messages(&data, &accounts)?;
    let gateway = start(setup, cores, &data)?;
    for (place, attack) in Attack::ALL.into_iter().enumerate() {
        eprintln!("neighbours: {}", attack.name());
        let busy = &accounts[PAIR + place * BUSY..PAIR + (place + 1) * BUSY];
        let outcome = beside(setup, &gateway, attack, &accounts[..PAIR], busy, report);
        outcome.with_context(|| format!("the gateway's log ends:\n{}", gateway.log_tail()))?;
    }
    gateway.stop()
}

fn start(setup: &Setup, cores: &[usize], data: &Path) -> Result<Server> {
    let configuration = format!(
        "[gateway_service]\nport = 0\nthread_count = 1\ndata_dir = {data:?}\n\n[ops]\nlisten = \"127.0.0.1:0\"\n\n\
         [limits]\nlimit_exempt = []\n"
    );
    Server::program(&ProgramOptions {
        cores,
        command: "run",
        name: "neighbours",
        directory: &setup.directory,
        configuration: &configuration,
        listens: "line protocol",
    })
}

/// Everybody but the pair is in one big group; those who log in again and again are in many small
/// ones, and those who pull have much to pull.
fn write_groups_and_messages(data: &Path, accounts: &[Account]) -> Result<()> {
    let mut store = rusqlite::Connection::open(data.join("im-gateway.db"))?;
    let transaction = store.transaction()?;
    {
        let mut group = transaction.prepare(
            "INSERT INTO groups (group_id, name, description, creator_id, created_ms) VALUES (?1, 'bench', '', 1, 0)",
        )?;
        let mut member = transaction.prepare(
            "INSERT INTO cursors (stream, user_id, since, floor, confirmed, handed) VALUES (?1, ?2, 0, 0, x'', x'')",
        )?;
        let mut message = transaction.prepare(
            "INSERT INTO messages (msg_id, stream, seq, sender, ts_ms, text) VALUES (?1, ?2, ?3, 1, ?4, ?5)",
        )?;
        let members = &accounts[PAIR..];
        group.execute([BIG_GROUP])?;
        for account in members {
            member.execute((2 * BIG_GROUP + 1, account.user_id as i64))?;
        }
        let of = |attack: Attack| &members[attack as usize * BUSY..(attack as usize + 1) * BUSY];
        for number in 1..=GROUPS {
            group.execute([BIG_GROUP + number])?;
            for account in of(Attack::Logins) {
                member.execute((2 * (BIG_GROUP + number) + 1, account.user_id as i64))?;
            }
        }
        let mut msg_id = 1_i64 << 50;
        for account in of(Attack::Pulls) {
            for seq in 1..=MESSAGES {
                msg_id += 1;
                let stream = 2 * account.user_id as i64;
                message.execute((msg_id, stream, seq, 1_760_000_000_000_i64, "x".repeat(64)))?;
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// All rounds of one attack, each behind one of pings.
fn beside(
    setup: &Setup,
    gateway: &Server,
    attack: Attack,
    pair: &[Account],
    busy: &[Account],
    report: &mut Report,
) -> Result<()> {
    // Those of the attack before may still count for their address.
    let address = 1 + attack as usize;
    let mut swarm = connect(gateway, pair, busy, address)?;
    let scripts: Vec<_> = busy.iter().map(|account| attack.script(account)).collect();
    let pings = vec![vec![b"ping\n".to_vec()]; BUSY];
    let chat = format!("chat:{}:how quiet it is here\n", pair[1].user_id).into_bytes();
    let duration = setup.round * ROUND_TIMES;
    round(&mut swarm, &chat, &pings, duration / 4)?;
    round(&mut swarm, &chat, &scripts, duration / 4)?;
    let (mut calm, mut loud) = (Vec::new(), Vec::new());
    for _ in 0..setup.rounds {
        calm.push(round(&mut swarm, &chat, &pings, duration)?);
        loud.push(round(&mut swarm, &chat, &scripts, duration)?);
    }
    add_rows(attack, &calm, &loud, report)
}

/// Opens all connections, those of the pair from an address of their own, and logs everybody in.
fn connect(gateway: &Server, pair: &[Account], busy: &[Account], address: usize) -> Result<Swarm> {
    let source =
        |index: usize| -> Ipv4Addr { source_address(if index < PAIR { 0 } else { address }) };
    let mut swarm = Swarm::connect_from(
        source,
        |_| gateway.address,
        PAIR + BUSY,
        1,
        |_| Vec::new(),
        |_, _| Ok(()),
    )?;
    let account = |index: usize| match index.checked_sub(PAIR) {
        Some(place) => &busy[place],
        None => &pair[index],
    };
    let lines = |index: usize| match index.checked_sub(PAIR) {
        // What is pulled must be there the next time, too.
        Some(_) => [b"set:ack:manual\n".to_vec(), account(index).auth_line()].concat(),
        None => account(index).auth_line(),
    };
    for index in 0..swarm.len() {
        swarm.send(index, &lines(index))?;
    }
    let mut expected = PAIR + 2 * BUSY;
    swarm.run_until("everybody is logged in", |progress| {
        if let Progress::Lines(index, lines) = progress {
            ensure!(
                lines.starts_with(b"+OK "),
                "connection {index}: {}",
                String::from_utf8_lossy(lines)
            );
            expected = expected.saturating_sub(count_lines(lines));
        }
        Ok(expected == 0)
    })?;
    Ok(swarm)
}

/// One busy connection.
struct Speaker {
    due: Instant,
    step: usize,
    is_waiting: bool,
}

/// What one round found.
struct Round {
    until_push: Latency,
    until_reply: Latency,
    commands: u64,
    seconds: f64,
}

/// The pair chats, the others say what stands in their scripts, each with one command under way.
fn round(
    swarm: &mut Swarm,
    chat: &[u8],
    scripts: &[Vec<Vec<u8>>],
    duration: Duration,
) -> Result<Round> {
    let start = Instant::now();
    let mut traffic = Traffic {
        speakers: (0..scripts.len())
            .map(|place| Speaker {
                due: start + BUSY_PACE * place as u32 / scripts.len() as u32,
                step: 0,
                is_waiting: false,
            })
            .collect(),
        quiet_due: start,
        sent: None,
        is_answered: true,
        found: Round {
            until_push: Latency::new()?,
            until_reply: Latency::new()?,
            commands: 0,
            seconds: 0.0,
        },
    };
    let deadline = start + duration;
    while Instant::now() < deadline {
        let next = traffic.speak(swarm, chat, scripts)?;
        let wait = next.min(deadline).saturating_duration_since(Instant::now());
        swarm.turn(wait, |index, lines, _| traffic.hear(index, lines))?;
    }
    traffic.found.seconds = start.elapsed().as_secs_f64();
    swarm.run_until("everything is answered", |progress| {
        if let Progress::Lines(index, lines) = progress {
            traffic.hear(index, lines)?;
        }
        Ok(traffic.is_silent())
    })?;
    // Back to where the script began.
    for (place, script) in scripts.iter().enumerate() {
        while !traffic.speakers[place].step.is_multiple_of(script.len()) {
            let step = traffic.speakers[place].step % script.len();
            traffic.speakers[place].is_waiting = true;
            traffic.speakers[place].step += 1;
            swarm.send(PAIR + place, &script[step])?;
            swarm.run_until("the script ends", |progress| {
                if let Progress::Lines(index, lines) = progress {
                    traffic.hear(index, lines)?;
                }
                Ok(traffic.is_silent())
            })?;
        }
    }
    Ok(traffic.found)
}

struct Traffic {
    speakers: Vec<Speaker>,
    quiet_due: Instant,
    /// When the quiet message was sent that its receiver does not have yet.
    sent: Option<Instant>,
    is_answered: bool,
    found: Round,
}

impl Traffic {
    /// Says whatever is due, and tells when something will be.
    fn speak(&mut self, swarm: &Swarm, chat: &[u8], scripts: &[Vec<Vec<u8>>]) -> Result<Instant> {
        let now = Instant::now();
        let mut next = now + QUIET_PACE;
        if self.sent.is_none() && self.is_answered {
            if self.quiet_due <= now {
                self.quiet_due = now + QUIET_PACE;
                self.sent = Some(Instant::now());
                self.is_answered = false;
                swarm.send(0, chat)?;
            }
            next = next.min(self.quiet_due);
        }
        for (place, speaker) in self.speakers.iter_mut().enumerate() {
            if speaker.is_waiting {
                continue;
            }
            if speaker.due <= now {
                let script = &scripts[place];
                swarm.send(PAIR + place, &script[speaker.step % script.len()])?;
                speaker.step += 1;
                speaker.is_waiting = true;
                speaker.due = (speaker.due + BUSY_PACE).max(now);
                self.found.commands += 1;
            } else {
                next = next.min(speaker.due);
            }
        }
        Ok(next)
    }

    fn hear(&mut self, index: usize, lines: &[u8]) -> Result<()> {
        let now = Instant::now();
        let last = lines[..lines.len() - 1]
            .rsplit(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        ensure!(
            !last.starts_with(b"-ERR") && !last.starts_with(b"KICK"),
            "connection {index}: {}",
            String::from_utf8_lossy(last)
        );
        match index {
            0 => {
                let sent = self.quiet_due - QUIET_PACE;
                self.found.until_reply.record(now - sent);
                self.is_answered = true;
            }
            1 => {
                if let Some(sent) = self.sent.take() {
                    self.found.until_push.record(now - sent);
                }
            }
            // A pull brings messages first.
            _ if last.starts_with(b"+OK") => self.speakers[index - PAIR].is_waiting = false,
            _ => {}
        }
        Ok(())
    }

    fn is_silent(&self) -> bool {
        self.sent.is_none() && self.is_answered && self.speakers.iter().all(|s| !s.is_waiting)
    }
}

fn add_rows(attack: Attack, calm: &[Round], loud: &[Round], report: &mut Report) -> Result<()> {
    let together = |rounds: &[Round]| Latency::sum(rounds.iter().map(|round| &round.until_push));
    let (all_calm, all_loud) = (together(calm)?, together(loud)?);
    let rate = |rounds: &[Round]| {
        let commands: u64 = rounds.iter().map(|round| round.commands).sum();
        commands as f64 / rounds.iter().map(|round| round.seconds).sum::<f64>()
    };
    let replies = |rounds: &[Round]| -> Result<String> {
        Ok(Latency::sum(rounds.iter().map(|round| &round.until_reply))?.quantiles_us())
    };
    for (quantile, word, limit) in [(0.5, "p50", P50_LIMIT), (0.99, "p99", P99_LIMIT)] {
        let ratios = calm.iter().zip(loud).map(|(calm, loud)| {
            loud.until_push.quantile_us(quantile) / calm.until_push.quantile_us(quantile)
        });
        report.add(Row {
            name: format!("quiet pair beside {}: {word}", attack.name()),
            unit: "×",
            digits: 2,
            sample: Sample::new(ratios.collect()),
            target: Target::AtMost(limit),
            note: format!(
                "p50 / p99 / p99.9 until the push: {} µs at {:.0} commands/s, beside pings {} µs at {:.0}; until the reply {}, beside pings {}",
                all_loud.quantiles_us(),
                rate(loud),
                all_calm.quantiles_us(),
                rate(calm),
                replies(loud)?,
                replies(calm)?,
            ),
        });
    }
    Ok(())
}
