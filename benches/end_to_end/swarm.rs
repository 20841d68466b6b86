//! The load generator: many connections, one thread, one epoll set.
//!
//! It must cost little itself, since it shares the machine with what it measures: whole batches of
//! lines go to the scenario at once, nothing is copied that ends in a line break, and what the
//! scenario answers goes out in one `send`.

use std::{
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddr},
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
    net::{RecvFlags, SendFlags, recv, send},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// What a scenario may take in all before the run is given up: a lost reply must not hang the
/// benchmark.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections opened at a time: well under the backlog, so that no SYN is dropped and sent again a
/// second later.
const CONNECTIONS_PER_BATCH: usize = 256;
/// Connections from one source address; loopback has as many addresses as anyone could want.
const CONNECTIONS_PER_ADDRESS: usize = 4096;
const READ_BUFFER_BYTES: usize = 64 * 1024;
const EVENTS_PER_WAIT: usize = 1024;

/// One turn's word to the scenario: connection `index` received `lines`, each with its line break;
/// what it puts into `answer` goes out at once.
pub trait Handler: FnMut(usize, &[u8], &mut Vec<u8>) -> Result<()> {}
impl<F: FnMut(usize, &[u8], &mut Vec<u8>) -> Result<()>> Handler for F {}

struct Connection {
    socket: Socket,
    /// The beginning of a line whose end has not come yet.
    unfinished: Vec<u8>,
}

/// Many connections to one server, or to several that are measured together.
pub struct Swarm {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    answer: Vec<u8>,
}

impl Swarm {
    /// Opens `count` connections to one address, as [`Swarm::connect_each`] does.
    pub fn connect(
        address: SocketAddr,
        count: usize,
        lines: usize,
        greeting: impl FnMut(usize) -> Vec<u8>,
        check: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<Self> {
        Self::connect_each(|_| address, count, lines, greeting, check)
    }

    /// Opens `count` connections, each to its `address(index)`, as [`Swarm::connect_from`] does.
    pub fn connect_each(
        address: impl Fn(usize) -> SocketAddr,
        count: usize,
        lines: usize,
        greeting: impl FnMut(usize) -> Vec<u8>,
        check: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<Self> {
        let source = |index| source_address(index / CONNECTIONS_PER_ADDRESS);
        Self::connect_from(source, address, count, lines, greeting, check)
    }

    /// Opens `count` connections, each from its `source(index)` to its `address(index)`.
    /// `greeting(index)` is what each sends at once; then each must have received `lines` lines,
    /// and `check` sees them as they come.
    pub fn connect_from(
        source: impl Fn(usize) -> Ipv4Addr,
        address: impl Fn(usize) -> SocketAddr,
        count: usize,
        lines: usize,
        mut greeting: impl FnMut(usize) -> Vec<u8>,
        mut check: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<Self> {
        let mut swarm = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: Vec::with_capacity(count),
            buffer: vec![0; READ_BUFFER_BYTES],
            answer: Vec::new(),
        };
        while swarm.connections.len() < count {
            let first = swarm.connections.len();
            let batch = CONNECTIONS_PER_BATCH.min(count - first);
            for index in first..first + batch {
                swarm.open(source(index), address(index))?;
                swarm.send(index, &greeting(index))?;
            }
            let mut outstanding = batch * lines;
            swarm.run_until("connections are set up", |progress| match progress {
                Progress::Asked => Ok(outstanding == 0),
                Progress::Lines(index, received) => {
                    check(index, received)?;
                    let arrived = count_lines(received);
                    ensure!(
                        arrived <= outstanding,
                        "more lines than expected: {:?}",
                        String::from_utf8_lossy(received)
                    );
                    outstanding -= arrived;
                    Ok(outstanding == 0)
                }
            })?;
        }
        Ok(swarm)
    }

    fn open(&mut self, source: Ipv4Addr, address: SocketAddr) -> Result<()> {
        let index = self.connections.len();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SockAddr::from(SocketAddr::from((source, 0))))?;
        socket
            .connect(&SockAddr::from(address))
            .with_context(|| format!("connection {index} to {address}"))?;
        socket.set_nonblocking(true)?;
        epoll::add(
            &self.epoll,
            &socket,
            EventData::new_u64(index as u64),
            EventFlags::IN,
        )?;
        self.connections.push(Connection {
            socket,
            unfinished: Vec::new(),
        });
        Ok(())
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Sends `bytes` on one connection. Every scenario paces itself, so what does not fit is an
    /// error.
    pub fn send(&self, index: usize, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = send(&self.connections[index].socket, bytes, SendFlags::NOSIGNAL)
            .with_context(|| format!("sending on connection {index}"))?;
        ensure!(
            sent == bytes.len(),
            "connection {index} took only {sent} of {} bytes",
            bytes.len()
        );
        Ok(())
    }

    /// Waits for input at most `timeout`, hands it to `handler`, sends its answers.
    pub fn turn(&mut self, timeout: Duration, mut handler: impl Handler) -> Result<()> {
        let timeout = Timespec::try_from(timeout)?;
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS_PER_WAIT];
        let ready = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok((ready, _)) => ready,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => bail!("waiting for events: {error}"),
        };
        for event in ready {
            let data = event.data;
            self.receive(data.u64() as usize, &mut handler)?;
        }
        Ok(())
    }

    fn receive(&mut self, index: usize, handler: &mut impl Handler) -> Result<()> {
        let connection = &mut self.connections[index];
        let length = match recv(&connection.socket, &mut self.buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => bail!("the server closed connection {index}"),
            Ok((length, _)) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => bail!("connection {index}: {error}"),
        };
        let received = &self.buffer[..length];
        let whole = memchr::memrchr(b'\n', received).map_or(0, |position| position + 1);
        let (lines, rest) = received.split_at(whole);
        self.answer.clear();
        if whole > 0 && connection.unfinished.is_empty() {
            handler(index, lines, &mut self.answer)?;
        } else if whole > 0 {
            connection.unfinished.extend_from_slice(lines);
            handler(index, &connection.unfinished, &mut self.answer)?;
            connection.unfinished.clear();
        }
        connection.unfinished.extend_from_slice(rest);
        if !self.answer.is_empty() {
            self.send(index, &self.answer)?;
        }
        Ok(())
    }

    /// Reads until `done` says so; fails when that takes longer than a minute. `what` names the
    /// condition.
    pub fn run_until(
        &mut self,
        what: &str,
        mut done: impl FnMut(Progress<'_>) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut finished = done(Progress::Asked)?;
        while !finished {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "waited {PATIENCE:?} in vain until {what}");
            self.turn(left, |index, lines, _answer| {
                finished = done(Progress::Lines(index, lines))?;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Sends one line on each of the first `count` connections and waits for one reply to each,
    /// which `check` sees.
    pub fn ask_each(
        &mut self,
        count: usize,
        mut request: impl FnMut(usize) -> Vec<u8>,
        mut check: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        for first in (0..count).step_by(CONNECTIONS_PER_BATCH) {
            let batch = first..count.min(first + CONNECTIONS_PER_BATCH);
            let mut outstanding = batch.len();
            for index in batch {
                self.send(index, &request(index))?;
            }
            self.run_until("every connection has its reply", |progress| {
                if let Progress::Lines(index, lines) = progress {
                    check(index, lines)?;
                    outstanding = outstanding.saturating_sub(count_lines(lines));
                }
                Ok(outstanding == 0)
            })?;
        }
        Ok(())
    }

    /// Reads for `duration`, whatever comes.
    pub fn idle(&mut self, duration: Duration) -> Result<()> {
        let deadline = Instant::now() + duration;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left, |_index, _lines, _answer| Ok(()))?;
        }
    }
}

/// What `run_until` asks its condition about.
pub enum Progress<'a> {
    /// Nothing has happened yet: is it fulfilled already?
    Asked,
    /// That connection received these lines.
    Lines(usize, &'a [u8]),
}

/// How many lines end in `bytes`.
pub fn count_lines(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', bytes).count()
}

/// The `number`th source address on loopback, beginning with 127.0.0.2.
pub fn source_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 0, 2)) + number as u32)
}
