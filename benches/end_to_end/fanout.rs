//! A group message to many members against the relay's fan-out of a line of the same length.
//!
//! Paced: the next message goes out when everyone has the last one, so no queue grows and nobody is
//! slow. The members confirm automatically, as is the default, so storing and confirming are part
//! of what is counted for the gateway; the note says how the CPU time divides among its threads.

use anyhow::{Context, Result, ensure};

use crate::{
    account::{self, Account},
    process::CpuUse,
    relay::Mode,
    report::{Report, Row, Sample, Target},
    server::Server,
    setup::Setup,
    swarm::{Progress, Swarm, count_lines},
};

/// The promise: CPU per delivery, gateway over relay.
const RATIO_LIMIT: f64 = 1.3;
const TEXT: &str = "see you at eight at the usual place, and bring the others along";
const WARM_UP_MESSAGES: usize = 20;

/// Measures both servers in turn. The first account sends, all others receive.
pub fn measure(
    setup: &Setup,
    gateway: &Server,
    accounts: &[Account],
    report: &mut Report,
) -> Result<()> {
    let members = accounts.len() - 1;
    let relay = Server::relay(Mode::Fanout, &[setup.server_core], &setup.directory)?;
    let mut to_gateway = account::log_in(gateway.address, accounts)?;
    let group = make_group(&mut to_gateway)?;
    let request = format!("group_chat:{group}:{TEXT}\n").into_bytes();
    let mut to_relay = Swarm::connect(
        relay.address,
        accounts.len(),
        1,
        |_| Vec::new(),
        |_, _| Ok(()),
    )?;

    let pushed_bytes = deliver(&mut to_gateway, &request, members, b"GMSG ", 1)?;
    let line = [vec![b'x'; pushed_bytes - 1], vec![b'\n']].concat();
    for _ in 0..WARM_UP_MESSAGES {
        deliver(&mut to_gateway, &request, members, b"GMSG ", 1)?;
        deliver(&mut to_relay, &line, members, b"x", 0)?;
    }

    let mut per_delivery = [Vec::new(), Vec::new()];
    let mut used = CpuUse::default();
    for _ in 0..setup.rounds {
        let before = gateway.cpu()?;
        for _ in 0..setup.group_messages {
            deliver(&mut to_gateway, &request, members, b"GMSG ", 1)?;
        }
        let ours = gateway.cpu()?.since(&before);
        let before = relay.cpu()?;
        for _ in 0..setup.group_messages {
            deliver(&mut to_relay, &line, members, b"x", 0)?;
        }
        let bare = relay.cpu()?.since(&before);
        let deliveries = (members * setup.group_messages) as f64;
        per_delivery[0].push(ours.total_ns() as f64 / deliveries);
        per_delivery[1].push(bare.total_ns() as f64 / deliveries);
        used.add(&ours);
    }
    let ratio = Sample::new(
        per_delivery[0]
            .iter()
            .zip(&per_delivery[1])
            .map(|(ours, bare)| ours / bare)
            .collect(),
    );
    let [ours, bare] = per_delivery.map(Sample::new);
    report.add(Row {
        name: format!("group message to {members} members: CPU ratio"),
        unit: "×",
        digits: 2,
        sample: ratio,
        target: Target::AtMost(RATIO_LIMIT),
        note: format!(
            "CPU per delivery of {pushed_bytes} bytes {:.2} µs, relay {:.2} µs; gateway's threads: {}",
            ours.median() / 1000.0,
            bare.median() / 1000.0,
            used.shares()
        ),
    });
    Ok(())
}

/// The first connection creates a group that all others join; gives back its number.
pub fn make_group(swarm: &mut Swarm) -> Result<u64> {
    let mut group = None;
    swarm.ask_each(
        1,
        |_| b"create_group:bench\n".to_vec(),
        |_, lines| {
            let reply = std::str::from_utf8(lines)?.trim_end();
            let number = reply
                .strip_prefix("+OK group_id=")
                .and_then(|number| number.parse().ok());
            group =
                Some(number.with_context(|| format!("creating a group was answered: {reply}"))?);
            Ok(())
        },
    )?;
    let group: u64 = group.context("creating a group was not answered")?;
    swarm.ask_each(
        swarm.len(),
        // The creator is a member already, and joining twice is fine.
        |_| format!("join_group:{group}\n").into_bytes(),
        |_, lines| {
            ensure!(
                lines.starts_with(b"+OK joined"),
                "joining was answered: {}",
                String::from_utf8_lossy(lines)
            );
            Ok(())
        },
    )?;
    Ok(group)
}

/// Sends `request` on the first connection and waits until all others have a line that starts with
/// `expected`, and the sender has its `replies`. Gives back how long that line is.
fn deliver(
    swarm: &mut Swarm,
    request: &[u8],
    members: usize,
    expected: &[u8],
    replies: usize,
) -> Result<usize> {
    let mut outstanding = members + replies;
    let mut line_bytes = 0;
    swarm.send(0, request)?;
    swarm.run_until("every member has the message", |progress| {
        if let Progress::Lines(index, lines) = progress {
            let awaited: &[u8] = if index == 0 { b"+OK msg_id=" } else { expected };
            ensure!(
                lines.starts_with(awaited),
                "connection {index} got {}",
                String::from_utf8_lossy(lines)
            );
            let arrived = count_lines(lines);
            ensure!(
                arrived == 1,
                "connection {index} got {arrived} lines for one message"
            );
            if index != 0 {
                line_bytes = lines.len();
            }
            outstanding -= 1;
        }
        Ok(outstanding == 0)
    })?;
    Ok(line_bytes)
}
