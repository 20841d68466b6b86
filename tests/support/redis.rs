//! A Redis server for one test: the real program on a port of its own, with a directory of its own,
//! nothing kept on disk.
//!
//! Include it with `#[path = "../support/redis.rs"] mod redis_server;`. Dropping a [`RedisServer`]
//! kills its process, by id. The port stays reserved while the server is down, so that it comes
//! back where it was and nobody else takes the port.

#![allow(
    dead_code,
    reason = "shared by several test programs, each of which uses a part"
)]

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

/// After this long a server that does not answer has failed to start.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How often it is asked meanwhile.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running `redis-server`.
pub struct RedisServer {
    directory: TempDir,
    arguments: Vec<String>,
    /// Bound, never listening: the server may bind the port as well, but it is given to nobody
    /// else.
    reserved: Socket,
    address: SocketAddr,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one without a password and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with further arguments, as in `["--requirepass", "secret"]`, and waits until it
    /// answers.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, arguments)
    }

    /// The same on another address of this machine.
    pub fn start_at(host: Ipv4Addr, arguments: &[&str]) -> Self {
        let (reserved, address) = reserve_port(host);
        let mut server = Self {
            directory: TempDir::new().expect("a temporary directory"),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            reserved,
            address,
            child: None,
        };
        server.restart();
        server
    }

    /// The port, the same after every restart.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `host:port`, as the configuration wants it.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// For the `redis` crate.
    pub fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// The id of the process.
    pub fn process_id(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    /// Kills the process and waits for its end. Without effect where there is none.
    pub fn kill_9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It fails only where the process has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a new process on the same port, after killing the old one, and waits until it
    /// answers.
    pub fn restart(&mut self) {
        self.kill_9();
        debug_assert!(self.reserved.local_addr().is_ok());
        let log = File::create(self.directory.path().join("log")).expect("a log file");
        let child = Command::new("redis-server")
            .args(["--port", &self.port().to_string()])
            .args(["--bind", &self.address.ip().to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn()
            .expect("redis-server starts");
        self.child = Some(child);
        self.wait_until_it_answers();
    }

    /// Stops the process without ending it (SIGSTOP): connections stay open, and nothing is
    /// answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// What the process wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running server");
        kill_process(Pid::from_child(child), signal).expect("its own child can be signalled");
    }

    fn wait_until_it_answers(&mut self) {
        let start = Instant::now();
        while !self.answers() {
            let child = self.child.as_mut().expect("it was started");
            let ended = child.try_wait().expect("the state of a child");
            assert!(
                ended.is_none() && start.elapsed() < START_DEADLINE,
                "redis-server does not answer ({ended:?}): {}",
                self.log()
            );
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Whether it answers a `PING`; to want a password is an answer, too.
    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect_timeout(&self.address, START_DEADLINE) else {
            return false;
        };
        let mut line = String::new();
        stream.set_read_timeout(Some(START_DEADLINE)).is_ok()
            && stream.write_all(b"PING\r\n").is_ok()
            && BufReader::new(stream).read_line(&mut line).is_ok()
            && (line.starts_with("+PONG") || line.starts_with("-NOAUTH"))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- redis-server on {}\n{}", self.address, self.log());
        }
        self.kill_9();
    }
}

fn reserve_port(host: Ipv4Addr) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket
        .set_reuse_address(true)
        .expect("an address that can be bound twice");
    socket
        .bind(&SocketAddr::from((host, 0)).into())
        .expect("a free port");
    let address = socket.local_addr().ok().and_then(|bound| bound.as_socket());
    (socket, address.expect("an IPv4 address"))
}
