//! A quiet pair beside one busy address: how long its messages take while ninety connections of
//! another address ask for the dearest things they may, within the limits that strangers have.
//!
//! What is promised is a ratio: against the same ninety connections that send `ping` at the same
//! pace, in alternating rounds of one run. Nothing is pinned, and nobody is exempt from limits.
//! Times are from the line sent to the receiver's having it. The pair has a thread of its own: who
//! reads what the busy connections get would keep it waiting.

use std::{
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};

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
/// The first accounts are the quiet pair's.
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
    let mut neighbours = Neighbours {
        pair: connect(gateway, pair, 0, false)?,
        chat: format!("chat:{}:how quiet it is here\n", pair[1].user_id).into_bytes(),
        busy: connect(gateway, busy, address, true)?,
    };
    let scripts: Vec<_> = busy.iter().map(|account| attack.script(account)).collect();
    let pings = vec![vec![b"ping\n".to_vec()]; BUSY];
    let duration = setup.round * ROUND_TIMES;
    neighbours.round(&pings, duration / 4)?;
    neighbours.round(&scripts, duration / 4)?;
    let (mut calm, mut loud) = (Vec::new(), Vec::new());
    for _ in 0..setup.rounds {
        calm.push(neighbours.round(&pings, duration)?);
        loud.push(neighbours.round(&scripts, duration)?);
    }
    add_rows(attack, &calm, &loud, report)
}

/// Opens a connection for each of `accounts` from one address, and logs everybody in. `manual`:
/// what they are sent must be there the next time, too.
fn connect(gateway: &Server, accounts: &[Account], address: usize, manual: bool) -> Result<Swarm> {
    let source = |_| -> Ipv4Addr { source_address(address) };
    let target = |_| gateway.address;
    let nothing = |_| Vec::new();
    let mut swarm = Swarm::connect_from(source, target, accounts.len(), 1, nothing, |_, _| Ok(()))?;
    let first: &[u8] = if manual { b"set:ack:manual\n" } else { b"" };
    for (index, account) in accounts.iter().enumerate() {
        swarm.send(index, &[first, &account.auth_line()].concat())?;
    }
    let mut expected = accounts.len() * (1 + usize::from(manual));
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

/// The quiet pair and the busy address.
struct Neighbours {
    pair: Swarm,
    /// What one of the pair says to the other.
    chat: Vec<u8>,
    busy: Swarm,
}

/// What one round found.
struct Round {
    until_push: Latency,
    until_reply: Latency,
    commands: u64,
    seconds: f64,
}

impl Neighbours {
    /// The pair chats, the others say what stands in their scripts, each with one command under
    /// way.
    fn round(&mut self, scripts: &[Vec<Vec<u8>>], duration: Duration) -> Result<Round> {
        let start = Instant::now();
        let deadline = start + duration;
        let Self { pair, chat, busy } = self;
        std::thread::scope(|scope| {
            let quiet = scope.spawn(|| converse(pair, chat, deadline));
            let commands = speak_all(busy, scripts, deadline)?;
            let seconds = start.elapsed().as_secs_f64();
            let quiet = quiet.join();
            let (until_push, until_reply) =
                quiet.map_err(|_| anyhow!("the pair's thread panicked"))??;
            Ok(Round {
                until_push,
                until_reply,
                commands,
                seconds,
            })
        })
    }
}

/// One of the pair says something each [`QUIET_PACE`]; the times until the other has it, and until
/// it is answered.
fn converse(pair: &mut Swarm, chat: &[u8], deadline: Instant) -> Result<(Latency, Latency)> {
    let (mut until_push, mut until_reply) = (Latency::new()?, Latency::new()?);
    while Instant::now() < deadline {
        let sent = Instant::now();
        pair.send(0, chat)?;
        let (mut is_answered, mut is_received) = (false, false);
        pair.run_until("the pair's message has arrived", |progress| {
            if let Progress::Lines(index, lines) = progress {
                check(index, last_line(lines))?;
                let (time, is_done) = match index {
                    0 => (&mut until_reply, &mut is_answered),
                    _ => (&mut until_push, &mut is_received),
                };
                time.record(sent.elapsed());
                *is_done = true;
            }
            Ok(is_answered && is_received)
        })?;
        std::thread::sleep(QUIET_PACE.saturating_sub(sent.elapsed()));
    }
    Ok((until_push, until_reply))
}

/// One busy connection.
struct Speaker {
    due: Instant,
    step: usize,
    is_waiting: bool,
}

/// The busy connections say what stands in their scripts until the deadline, and then until each
/// script is at its beginning again; how many commands that were until the deadline.
fn speak_all(busy: &mut Swarm, scripts: &[Vec<Vec<u8>>], deadline: Instant) -> Result<u64> {
    let start = Instant::now();
    let count = scripts.len();
    let speaker = |place| Speaker {
        due: start + BUSY_PACE * place as u32 / count as u32,
        step: 0,
        is_waiting: false,
    };
    let mut speakers: Vec<Speaker> = (0..count).map(speaker).collect();
    let mut commands = 0;
    loop {
        let now = Instant::now();
        let is_over = now >= deadline;
        let mut next = now + BUSY_PACE;
        for (place, speaker) in speakers.iter_mut().enumerate() {
            let script = &scripts[place];
            let is_at_its_beginning = speaker.step.is_multiple_of(script.len());
            if speaker.is_waiting || is_over && is_at_its_beginning {
                continue;
            }
            if is_over || speaker.due <= now {
                busy.send(place, &script[speaker.step % script.len()])?;
                speaker.step += 1;
                speaker.is_waiting = true;
                speaker.due = (speaker.due + BUSY_PACE).max(now);
                commands += u64::from(!is_over);
            } else {
                next = next.min(speaker.due);
            }
        }
        let at_rest = |(speaker, script): (&Speaker, &Vec<Vec<u8>>)| {
            !speaker.is_waiting && speaker.step.is_multiple_of(script.len())
        };
        if is_over && speakers.iter().zip(scripts).all(at_rest) {
            return Ok(commands);
        }
        let wait = next.saturating_duration_since(Instant::now());
        busy.turn(wait, |index, lines, _| {
            let last = last_line(lines);
            check(index, last)?;
            // A pull brings messages first.
            if last.starts_with(b"+OK") {
                speakers[index].is_waiting = false;
            }
            Ok(())
        })?;
    }
}

/// Nothing may be refused.
fn check(index: usize, line: &[u8]) -> Result<()> {
    ensure!(
        !line.starts_with(b"-ERR") && !line.starts_with(b"KICK"),
        "connection {index}: {}",
        String::from_utf8_lossy(line)
    );
    Ok(())
}

/// The last of whole lines, without its end.
fn last_line(lines: &[u8]) -> &[u8] {
    let lines = lines.strip_suffix(b"\n").unwrap_or(lines);
    lines
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default()
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
