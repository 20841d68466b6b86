//! Connections opened, welcomed and closed, against the relay doing the same.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{
        Timespec,
        epoll::{self, Event, EventData, EventFlags},
    },
    io::Errno,
    net::{RecvFlags, recv},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    process::CpuUse,
    relay::Mode,
    report::{Report, Row, Sample, Target},
    server::Server,
    setup::Setup,
    swarm::source_address,
};

/// Connections open at one time.
const AT_ONCE: usize = 64;
/// Source addresses taken in turn: the ports of one would be used up by closed connections in
/// seconds.
const SOURCE_ADDRESSES: usize = 250;

struct Run {
    connections: u64,
    wall: Duration,
    cpu: CpuUse,
}

impl Run {
    fn rate(&self) -> f64 {
        self.connections as f64 / self.wall.as_secs_f64()
    }

    fn cpu_us(&self) -> f64 {
        self.cpu.total_ns() as f64 / 1000.0 / self.connections as f64
    }
}

/// Measures both servers in turn.
pub fn measure(setup: &Setup, gateway: &Server, report: &mut Report) -> Result<()> {
    let relay = Server::relay(Mode::Echo, &[setup.server_core], &setup.directory)?;
    let mut visitors = Visitors::new()?;
    let mut ours = Vec::new();
    let mut bare = Vec::new();
    for _ in 0..setup.rounds {
        ours.push(visitors.run(gateway, setup.round)?);
        bare.push(visitors.run(&relay, setup.round)?);
    }
    let of = |runs: &[Run], value: fn(&Run) -> f64| Sample::new(runs.iter().map(value).collect());
    let ratio = Sample::new(
        ours.iter()
            .zip(&bare)
            .map(|(ours, bare)| ours.cpu_us() / bare.cpu_us())
            .collect(),
    );
    report.add(Row {
        name: "connections accepted, welcomed, closed".to_owned(),
        unit: "connections/s",
        digits: 0,
        sample: of(&ours, Run::rate),
        target: Target::None,
        note: format!(
            "relay {:.0}; CPU per connection {:.1} µs, relay {:.1} µs, ratio {:.2}",
            of(&bare, Run::rate).median(),
            of(&ours, Run::cpu_us).median(),
            of(&bare, Run::cpu_us).median(),
            ratio.median()
        ),
    });
    Ok(())
}

struct Visitors {
    epoll: OwnedFd,
    sockets: Vec<Option<Socket>>,
    opened: usize,
}

impl Visitors {
    fn new() -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sockets: (0..AT_ONCE).map(|_| None).collect(),
            opened: 0,
        })
    }

    /// A visitor leaves at the first byte of the welcome, and the next one comes at once.
    fn run(&mut self, server: &Server, duration: Duration) -> Result<Run> {
        let before = server.cpu()?;
        let start = Instant::now();
        let deadline = start + duration;
        let mut connections = 0;
        let mut open = 0;
        for slot in 0..AT_ONCE {
            self.open(slot, server.address)?;
            open += 1;
        }
        let mut events: Vec<Event> = Vec::with_capacity(AT_ONCE);
        let patience = Timespec::try_from(Duration::from_secs(30))?;
        while open > 0 {
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&patience),
            ) {
                Ok(0) => bail!("{open} connections were not welcomed within 30 s"),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => bail!("waiting for events: {error}"),
            }
            let more = Instant::now() < deadline;
            for event in &events {
                let data = event.data;
                let slot = data.u64() as usize;
                let socket = self.sockets[slot]
                    .take()
                    .context("an event for a closed connection")?;
                let mut welcome = [0; 512];
                let (length, _) = recv(&socket, &mut welcome[..], RecvFlags::empty())
                    .context("reading the welcome")?;
                ensure!(
                    welcome[..length].starts_with(b"+OK welcome"),
                    "a connection was refused"
                );
                drop(socket);
                connections += 1;
                open -= 1;
                if more {
                    self.open(slot, server.address)?;
                    open += 1;
                }
            }
        }
        Ok(Run {
            connections,
            wall: start.elapsed(),
            cpu: server.cpu()?.since(&before),
        })
    }

    fn open(&mut self, slot: usize, address: SocketAddr) -> Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        let source = source_address(self.opened % SOURCE_ADDRESSES);
        self.opened += 1;
        socket.bind(&SockAddr::from(SocketAddr::from((source, 0))))?;
        // On loopback the handshake ends within this call.
        socket
            .connect(&SockAddr::from(address))
            .context("connecting")?;
        epoll::add(
            &self.epoll,
            &socket,
            EventData::new_u64(slot as u64),
            EventFlags::IN,
        )?;
        self.sockets[slot] = Some(socket);
        Ok(())
    }
}
