//! The bare newline relay: what the kernel's TCP alone costs, and so the baseline of every ratio.
//!
//! The least a server can do that moves lines between sockets: one thread, level-triggered epoll,
//! one `recv` and one `send` for each batch, the gateway's socket options, nothing else. It knows
//! no command, user, limit or time-out. Of a chat it does the least that could be called one: one
//! `recv` from the sender, one `send` to the receiver, one `send` back; it stores nothing, and
//! every connection is its own, so nothing passes between processes.

mod pairing;

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use pairing::Pairing;
use rustix::{
    event::epoll::{self, Event, EventData, EventFlags},
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send},
};
use slab::Slab;
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

/// What the relay does with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Back to the one who sent it.
    Echo,
    /// To everyone but the one who sent it.
    Fanout,
    /// With the sender's head before it, to the one receiver its sender was paired with; the sender
    /// gets [`REPLY`]. A connection's first line says what it is, see [`pairing`], and is answered
    /// with [`INTRODUCED`].
    Pairs,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Echo, Self::Fanout, Self::Pairs];

    /// The mode's name on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Fanout => "fanout",
            Self::Pairs => "pairs",
        }
    }

    /// The mode of that name.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.word() == word)
    }
}

/// Sent to whoever connects; as long as the gateway's own first line, to the byte for a version of
/// five characters.
const GREETING: &[u8] = b"+OK welcome to im-gateway/0.1.0, try help\n";
/// What a sender gets for its line: a reply as long as the gateway's to a chat.
pub const REPLY: &[u8] = b"+OK msg_id=1310000000000000000\n";
/// What answers the first line of a connection in a relay of pairs.
const INTRODUCED: &[u8] = b"+OK paired\n";
/// The gateway's default for both directions.
const SOCKET_BUFFER_BYTES: usize = 64 * 1024;
/// The gateway's default.
const BACKLOG: i32 = 4096;
const READ_BUFFER_BYTES: usize = 64 * 1024;
const EVENTS_PER_WAIT: usize = 1024;
/// The listener's name in the epoll set; connections are named by their slot.
const LISTENER: u64 = u64::MAX;

/// Serves until it is killed; prints its address as the first line on stdout.
pub fn serve(mode: Mode) -> Result<()> {
    let listener = listen()?;
    let address = listener
        .local_addr()?
        .as_socket()
        .context("the relay's listener has no address")?;
    println!("relay on {address}");
    std::io::stdout().flush()?;
    Relay::new(mode, listener)?.run()
}

fn listen() -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // An accepted socket inherits all of these, so accepting costs no further calls.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)))?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(30)))?;
    socket.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

struct Connection {
    socket: OwnedFd,
    /// The beginning of a line whose end has not come yet.
    unfinished: Vec<u8>,
    /// What the socket would not take.
    unsent: Vec<u8>,
}

struct Relay {
    mode: Mode,
    listener: Socket,
    epoll: OwnedFd,
    connections: Slab<Connection>,
    pairing: Pairing,
    buffer: Vec<u8>,
    /// A head and the line behind it.
    joined: Vec<u8>,
}

impl Relay {
    fn new(mode: Mode, listener: Socket) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &listener,
            EventData::new_u64(LISTENER),
            EventFlags::IN,
        )?;
        Ok(Self {
            mode,
            listener,
            epoll,
            connections: Slab::new(),
            pairing: Pairing::default(),
            buffer: vec![0; READ_BUFFER_BYTES],
            joined: Vec::new(),
        })
    }

    fn run(mut self) -> Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_PER_WAIT);
        loop {
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => bail!("waiting for events: {error}"),
            }
            for event in &events {
                let data = event.data;
                if data.u64() == LISTENER {
                    self.accept()?;
                } else {
                    let flags = event.flags;
                    self.serve_connection(data.u64() as usize, flags)?;
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let socket =
                match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                    Ok(socket) => socket,
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(Errno::CONNABORTED | Errno::INTR) => continue,
                    Err(error) => bail!("accepting a connection: {error}"),
                };
            let slot = self.connections.insert(Connection {
                socket,
                unfinished: Vec::new(),
                unsent: Vec::new(),
            });
            let socket = &self.connections[slot].socket;
            epoll::add(
                &self.epoll,
                socket,
                EventData::new_u64(slot as u64),
                EventFlags::IN,
            )?;
            self.send(slot, GREETING)?;
        }
    }

    fn serve_connection(&mut self, slot: usize, flags: EventFlags) -> Result<()> {
        if flags.contains(EventFlags::OUT) {
            let unsent = std::mem::take(&mut self.connections[slot].unsent);
            let socket = &self.connections[slot].socket;
            epoll::modify(
                &self.epoll,
                socket,
                EventData::new_u64(slot as u64),
                EventFlags::IN,
            )?;
            self.send(slot, &unsent)?;
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Ok(());
        }
        // Taken out for the time of the call, so that sending may borrow the rest.
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcome = match recv(
            &self.connections[slot].socket,
            &mut buffer[..],
            RecvFlags::empty(),
        ) {
            Ok((0, _)) => self.close(slot),
            Ok((length, _)) => self.relay(slot, &buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(_) => self.close(slot),
        };
        self.buffer = buffer;
        outcome
    }

    fn close(&mut self, slot: usize) -> Result<()> {
        // Closing the only descriptor takes it out of the epoll set as well.
        drop(self.connections.remove(slot));
        self.pairing.forget(slot);
        Ok(())
    }

    fn relay(&mut self, slot: usize, received: &[u8]) -> Result<()> {
        let whole = memchr::memrchr(b'\n', received).map_or(0, |position| position + 1);
        let (lines, rest) = received.split_at(whole);
        let connection = &mut self.connections[slot];
        if whole > 0 && !connection.unfinished.is_empty() {
            let mut joined = std::mem::take(&mut connection.unfinished);
            joined.extend_from_slice(lines);
            self.pass_on(slot, &joined)?;
        } else if whole > 0 {
            self.pass_on(slot, lines)?;
        }
        self.connections[slot].unfinished.extend_from_slice(rest);
        Ok(())
    }

    fn pass_on(&mut self, from: usize, lines: &[u8]) -> Result<()> {
        match self.mode {
            Mode::Echo => self.send(from, lines),
            Mode::Fanout => self.send_to_others(from, lines),
            Mode::Pairs => self.send_to_receiver(from, lines),
        }
    }

    fn send_to_receiver(&mut self, from: usize, lines: &[u8]) -> Result<()> {
        let Some((receiver, head)) = self.pairing.receiver_of(from) else {
            self.pairing.introduce(from, lines)?;
            return self.send(from, INTRODUCED);
        };
        self.joined.clear();
        self.joined.extend_from_slice(head);
        self.joined.extend_from_slice(lines);
        self.connections[receiver].send(&self.epoll, receiver, &self.joined)?;
        self.send(from, REPLY)
    }

    fn send_to_others(&mut self, from: usize, lines: &[u8]) -> Result<()> {
        for (slot, connection) in &mut self.connections {
            if slot != from {
                connection.send(&self.epoll, slot, lines)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, slot: usize, bytes: &[u8]) -> Result<()> {
        self.connections[slot].send(&self.epoll, slot, bytes)
    }
}

impl Connection {
    fn send(&mut self, epoll: &OwnedFd, slot: usize, bytes: &[u8]) -> Result<()> {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        let sent = match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => sent,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            // The reader will see the end of this connection and take it away.
            Err(_) => return Ok(()),
        };
        if sent < bytes.len() {
            self.unsent.extend_from_slice(&bytes[sent..]);
            let interest = EventFlags::IN | EventFlags::OUT;
            epoll::modify(
                epoll,
                &self.socket,
                EventData::new_u64(slot as u64),
                interest,
            )?;
        }
        Ok(())
    }
}
