//! A client of the line protocol that keeps pushes apart from replies, and both in order.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Instant;

use socket2::{Domain, SockRef, Socket, Type};

use super::push::Push;
use super::{DEADLINE, field, number};

/// What reading gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// One line without its line feed.
    Line(String),
    /// The other side closed or reset the connection.
    Closed,
    /// Nothing came in time.
    Nothing,
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    consumed: usize,
    pushes: VecDeque<Push>,
    /// The user logged in here by [`Client::register`] or [`Client::login`].
    pub uid: u64,
    /// The token that login answered.
    pub token: String,
}

/// The password of every test user.
pub fn password_of(name: &str) -> String {
    format!("password-of-{name}")
}

impl Client {
    /// Connects and reads nothing.
    pub fn connect(address: SocketAddr) -> Self {
        Self::from_stream(TcpStream::connect(address).expect("connect"))
    }

    /// Connects if somebody listens.
    pub fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        // Where nobody listens, a socket may be given that very port for its own and end up
        // connected to itself.
        let to_itself = stream.local_addr().ok()? == address;
        (!to_itself).then(|| Self::from_stream(stream))
    }

    /// Connects with a receive buffer as small as the system allows, which the other side knows
    /// from the beginning.
    pub fn connect_with_little_room(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.set_recv_buffer_size(1).expect("receive buffer");
        socket.connect(&address.into()).expect("connect");
        Self::from_stream(socket.into())
    }

    /// Connects from another address of the loopback network.
    pub fn connect_from(address: SocketAddr, source: [u8; 4]) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket
            .bind(&SocketAddr::from((source, 0)).into())
            .expect("bind");
        socket.connect(&address.into()).expect("connect");
        Self::from_stream(socket.into())
    }

    /// The connection, with nothing read from it.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn from_stream(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("nodelay");
        Self {
            stream,
            buffer: Vec::new(),
            consumed: 0,
            pushes: VecDeque::new(),
            uid: 0,
            token: String::new(),
        }
    }

    /// The kernel keeps little for this connection, so that a reader who stops is noticed soon.
    pub fn shrink_receive_buffer(&self) {
        SockRef::from(&self.stream)
            .set_recv_buffer_size(4096)
            .expect("receive buffer");
    }

    /// The client's own address, by which the gateway knows it.
    pub fn local_address(&self) -> SocketAddr {
        self.writer().local_addr().expect("its own address")
    }

    /// A second handle on the socket, for a thread that writes.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("clone")
    }

    /// Sends a line.
    #[track_caller]
    pub fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes());
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            panic!("cannot send: {error}");
        }
    }

    /// Sends a line; false if the connection is gone.
    pub fn try_send(&mut self, line: &str) -> bool {
        self.stream
            .write_all(format!("{line}\n").as_bytes())
            .is_ok()
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("shutdown");
    }

    /// The next line, the end, or nothing after `patience`.
    pub fn receive_within(&mut self, patience: std::time::Duration) -> Received {
        let start = Instant::now();
        loop {
            let unread = &self.buffer[self.consumed..];
            if let Some(end) = memchr::memchr(b'\n', unread) {
                let line = String::from_utf8(unread[..end].to_vec()).expect("lines are UTF-8");
                assert!(
                    !line.contains(|c: char| c.is_control() && c != '\t'),
                    "a control character in {line:?}"
                );
                self.consumed += end + 1;
                if self.consumed == self.buffer.len() {
                    self.buffer.clear();
                    self.consumed = 0;
                }
                return Received::Line(line);
            }
            let left = patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Received::Nothing;
            }
            self.stream.set_read_timeout(Some(left)).expect("timeout");
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Received::Closed,
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Received::Nothing,
                    ErrorKind::Interrupted => {}
                    _ => return Received::Closed,
                },
            }
        }
    }

    /// The next line or the end.
    #[track_caller]
    pub fn receive(&mut self) -> Received {
        match self.receive_within(DEADLINE) {
            Received::Nothing => panic!("nothing came within {DEADLINE:?}"),
            received => received,
        }
    }

    /// The next line.
    #[track_caller]
    pub fn line(&mut self) -> String {
        match self.receive() {
            Received::Line(line) => line,
            _ => panic!(
                "the connection was closed; pushes so far: {:?}",
                self.pushes
            ),
        }
    }

    /// The next reply; pushes before it are kept for [`Client::push`].
    #[track_caller]
    pub fn reply(&mut self) -> String {
        loop {
            let line = self.line();
            match Push::parse(&line) {
                Some(push) => self.pushes.push_back(push),
                None => return line,
            }
        }
    }

    /// The next reply, or `None` when the connection ends first.
    pub fn try_reply(&mut self) -> Option<String> {
        loop {
            let Received::Line(line) = self.receive_within(DEADLINE) else {
                return None;
            };
            match Push::parse(&line) {
                Some(push) => self.pushes.push_back(push),
                None => return Some(line),
            }
        }
    }

    /// Sends a line and waits for its reply.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.reply()
    }

    /// The same where the connection may end at any moment.
    pub fn try_ask(&mut self, line: &str) -> Option<String> {
        if !self.try_send(line) {
            return None;
        }
        self.try_reply()
    }

    /// The next push, waiting for it if need be.
    #[track_caller]
    pub fn push(&mut self) -> Push {
        if let Some(push) = self.pushes.pop_front() {
            return push;
        }
        let line = self.line();
        match Push::parse(&line) {
            Some(push) => push,
            None => panic!("a push was expected, this came: {line}"),
        }
    }

    /// The next `count` pushes.
    #[track_caller]
    pub fn pushes(&mut self, count: usize) -> Vec<Push> {
        (0..count).map(|_| self.push()).collect()
    }

    /// The pushes read so far and not yet taken.
    pub fn taken_pushes(&mut self) -> Vec<Push> {
        self.pushes.drain(..).collect()
    }

    /// Asserts that whatever was on its way has come and that there was no push in it.
    #[track_caller]
    pub fn assert_no_push(&mut self) {
        assert_eq!(self.ask("ping:fence"), "+OK pong fence");
        assert!(self.pushes.is_empty(), "unexpected: {:?}", self.pushes);
    }

    /// Reads to the end of the connection; the lines that came before it.
    #[track_caller]
    pub fn lines_until_closed(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Received::Line(line) = self.receive() {
            lines.push(line);
        }
        lines
    }

    /// Asserts that the connection ends with `KICK reason=WORD` as its last line.
    #[track_caller]
    pub fn assert_kicked(&mut self, reason: &str) {
        let lines = self.lines_until_closed();
        assert_eq!(
            lines.last().map(String::as_str),
            Some(format!("KICK reason={reason}").as_str()),
            "all lines: {lines:?}"
        );
    }

    /// Creates an account and remembers who it is.
    #[track_caller]
    pub fn register(&mut self, name: &str) -> u64 {
        let reply = self.ask(&format!("register:{name}:{}", password_of(name)));
        self.remember(&reply)
    }

    /// Logs in with the password.
    #[track_caller]
    pub fn login(&mut self, name: &str) -> u64 {
        let reply = self.ask(&format!("login:{name}:{}", password_of(name)));
        self.remember(&reply)
    }

    #[track_caller]
    fn remember(&mut self, reply: &str) -> u64 {
        assert!(reply.starts_with("+OK uid="), "login: {reply}");
        self.uid = number(reply, "uid");
        self.token = field(reply, "token").to_string();
        self.uid
    }

    /// Sends a direct message that must be stored; its id.
    #[track_caller]
    pub fn chat(&mut self, to: u64, text: &str) -> u64 {
        let reply = self.ask(&format!("chat:{to}:{text}"));
        assert!(reply.starts_with("+OK msg_id="), "chat: {reply}");
        number(&reply, "msg_id")
    }

    /// Sends a group message that must be stored; its id.
    #[track_caller]
    pub fn group_chat(&mut self, group: u64, text: &str) -> u64 {
        let reply = self.ask(&format!("group_chat:{group}:{text}"));
        assert!(reply.starts_with("+OK msg_id="), "group_chat: {reply}");
        number(&reply, "msg_id")
    }

    /// Creates a group; its number.
    #[track_caller]
    pub fn create_group(&mut self, name: &str) -> u64 {
        let reply = self.ask(&format!("create_group:{name}"));
        assert!(reply.starts_with("+OK group_id="), "create_group: {reply}");
        number(&reply, "group_id")
    }

    /// One `pull`: the messages that came with it, and whether there are more.
    #[track_caller]
    pub fn pull(&mut self, command: &str) -> (Vec<Push>, bool) {
        let before = self.pushes.len();
        let reply = self.ask(command);
        assert!(reply.starts_with("+OK pull_done count="), "pull: {reply}");
        let count = number(&reply, "count") as usize;
        let came = self.pushes.len() - before;
        assert!(came >= count, "{reply}: {came} came");
        // What was pushed on its own, such as repeats after a login, came before.
        let messages = self.pushes.drain(before + came - count..).collect();
        (messages, field(&reply, "more") == "1")
    }

    /// Confirms messages; how many were unconfirmed until now.
    #[track_caller]
    pub fn acknowledge(&mut self, ids: &[u64]) -> u64 {
        let list: Vec<String> = ids.iter().map(u64::to_string).collect();
        number(&self.ask(&format!("ack:{}", list.join(":"))), "acked")
    }

    /// Pulls and confirms page by page until the inbox is empty. For a connection in manual
    /// confirmation.
    #[track_caller]
    pub fn drain_inbox(&mut self) -> Vec<Push> {
        let mut all = Vec::new();
        loop {
            let (messages, _) = self.pull("pull");
            if messages.is_empty() {
                return all;
            }
            for page in messages.chunks(50) {
                let ids: Vec<u64> = page.iter().map(Push::id).collect();
                self.acknowledge(&ids);
            }
            all.extend(messages);
        }
    }
}
