//! A real ZooKeeper for tests: one standalone server on a loopback port of its own, over a folder
//! of its own.
//!
//! Self-contained, so that any test can take it in with `#[path]`. A server is killed by its
//! process id when it is dropped. Starting one takes a JVM one to two seconds: tests that only
//! differ in what they store can share one and use a root path (`zookeeper.hosts("/some-test")`)
//! each.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// The server's unit of time. Sessions may last two to twenty of them unless `minSessionTimeout`
/// says otherwise; they are looked through once in each, so that a small one makes short sessions
/// end on time.
const TICK: Duration = Duration::from_millis(200);

/// The shortest session the server allows.
const SESSION_MIN: Duration = Duration::from_millis(400);

/// The longest session the server allows.
const SESSION_MAX: Duration = Duration::from_secs(120);

/// How often a start is tried, each time on another port.
const START_ATTEMPTS: usize = 3;

/// After so long a start has failed. Generous, because the machine may be busy with other tests.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How often a server that is starting is asked whether it serves.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long it may take to answer that.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// The classes of ZooKeeper 3.8 and a logger that writes to standard error.
pub const CLASS_PATH: &str = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar";

/// A running server.
pub struct Zookeeper {
    folder: tempfile::TempDir,
    address: SocketAddr,
    process: Child,
}

impl Zookeeper {
    /// Starts a server and waits until it serves.
    ///
    /// # Panics
    /// If it does not; with the end of its log.
    pub fn start() -> Self {
        let mut problem = String::new();
        // Somebody else may take the port before the server does.
        for _ in 0..START_ATTEMPTS {
            let mut server = Self::spawn_new();
            match server.wait_until_it_serves() {
                Ok(()) => return server,
                Err(error) => problem = error,
            }
        }
        panic!("{problem}");
    }

    fn spawn_new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for ZooKeeper");
        let address = free_address();
        fs::create_dir(folder.path().join("data")).expect("a folder for ZooKeeper's data");
        let configuration = configuration(folder.path(), address);
        fs::write(folder.path().join("zoo.cfg"), configuration).expect("ZooKeeper's configuration");
        let process = spawn(folder.path());
        Self {
            folder,
            address,
            process,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What to put as `zookeeper_hosts`: the address and a root path such as `"/im"`, or `""` for
    /// none.
    pub fn hosts(&self, root: &str) -> String {
        format!("{}{root}", self.address)
    }

    /// The id of the process.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Ends the process as a power cut would. What was stored stays.
    pub fn kill_9(&mut self) {
        // It may have ended already, or be stopped: SIGKILL reaches a stopped process too.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again, with the same port and data, and waits until it serves.
    pub fn restart(&mut self) {
        self.kill_9();
        self.process = spawn(self.folder.path());
        if let Err(problem) = self.wait_until_it_serves() {
            panic!("{problem}");
        }
    }

    /// Stops its process: connections stay open, nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets its process go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// What it answers to a command of four letters, such as `srvr`, `mntr` or `cons`.
    pub fn ask(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, ANSWER_DEADLINE)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        stream.write_all(command.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal)
            .expect("its own child can be signalled");
    }

    fn wait_until_it_serves(&mut self) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let answer = self.ask("srvr").unwrap_or_default();
            if answer.contains("Mode: standalone") {
                return Ok(());
            }
            let ended = self.process.try_wait().ok().flatten();
            if ended.is_some() || start.elapsed() > START_DEADLINE {
                return Err(format!(
                    "ZooKeeper does not serve ({ended:?}): {answer}\n{}",
                    self.log_end()
                ));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn log_end(&self) -> String {
        let log = fs::read(self.folder.path().join("log")).unwrap_or_default();
        let from = log.len().saturating_sub(4096);
        String::from_utf8_lossy(&log[from..]).into_owned()
    }
}

impl Drop for Zookeeper {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- ZooKeeper on {}\n{}", self.address, self.log_end());
        }
        self.kill_9();
    }
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    TcpListener::bind(any)
        .and_then(|listener| listener.local_addr())
        .expect("a free loopback port")
}

fn configuration(folder: &Path, address: SocketAddr) -> String {
    format!(
        "dataDir={data}\n\
         clientPortAddress={host}\n\
         clientPort={port}\n\
         tickTime={tick}\n\
         minSessionTimeout={session_min}\n\
         maxSessionTimeout={session_max}\n\
         maxClientCnxns=0\n\
         admin.enableServer=false\n\
         4lw.commands.whitelist=*\n",
        data = folder.join("data").display(),
        host = address.ip(),
        port = address.port(),
        tick = TICK.as_millis(),
        session_min = SESSION_MIN.as_millis(),
        session_max = SESSION_MAX.as_millis(),
    )
}

fn spawn(folder: &Path) -> Child {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .expect("ZooKeeper's log");
    Command::new("java")
        .args([
            "-Xms16m",
            "-Xmx96m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
            "-Dzookeeper.jmx.log4j.disable=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            // A few kilobytes are enough here; 64 MB written with zeros is the usual size.
            "-Dzookeeper.preAllocSize=256",
            "-cp",
            CLASS_PATH,
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        ])
        .arg(folder.join("zoo.cfg"))
        .env("JMXDISABLE", "true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("java runs")
}
