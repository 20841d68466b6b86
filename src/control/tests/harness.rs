//! The peers of a control thread under test: a client of the ops listener, a service manager, cores
//! and signals.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as SocketName, UnixDatagram},
    },
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

use super::super::*;

/// No condition here takes longer, however busy the machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A beat far in the future: fresh for as long as any test runs.
pub(super) const FRESH_MS: u64 = u64::MAX / 2;
/// A beat right after the start, which the tests' registries have long behind them.
pub(super) const STALE_MS: u64 = 1;

pub(super) fn registry(cores: usize) -> Arc<Registry> {
    let started = Instant::now().checked_sub(Duration::from_secs(60));
    let registry = Registry::new(
        cores,
        started.expect("a machine that is up for a minute"),
        0,
    );
    for core in &registry.cores {
        core.heartbeat.beat(FRESH_MS);
    }
    Arc::new(registry)
}

/// A service manager's socket.
pub(super) struct Manager {
    pub socket: UnixDatagram,
    pub path: PathBuf,
    _directory: Option<TempDir>,
}

impl Manager {
    pub fn listen() -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            path,
            _directory: Some(directory),
        }
    }

    /// One whose socket has a name that is no file.
    pub fn listen_abstract() -> Self {
        let name = format!("im-gateway-test-{}", std::process::id());
        let address = SocketName::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            path: format!("@{name}").into(),
            _directory: None,
        }
    }

    /// The next datagram.
    pub fn receive(&self) -> String {
        let mut buffer = [0; 1024];
        let length = self.socket.recv(&mut buffer).expect("a notification");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Waits for a datagram that holds `line`, past others.
    pub fn wait_for(&self, line: &str) -> String {
        loop {
            let datagram = self.receive();
            if datagram.lines().any(|received| received.starts_with(line)) {
                return datagram;
            }
        }
    }
}

/// A control thread under test.
pub(super) struct Control {
    pub address: SocketAddr,
    pub registry: Arc<Registry>,
    pub readiness: Arc<Readiness>,
    pub manager: Manager,
    pub signals: mpsc::UnboundedSender<StopSignal>,
    pub cores_ready: Option<oneshot::Sender<()>>,
    pub cores_drained: Option<oneshot::Sender<()>>,
    pub drains: Arc<AtomicUsize>,
    pub thread: JoinHandle<Result<End, ControlError>>,
}

#[derive(Clone, Copy)]
pub(super) struct Setup {
    pub limits: Limits,
    pub drain_timeout: Duration,
    pub watchdog: Option<Duration>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits {
                connection_time: PATIENCE,
                ..Limits::default()
            },
            drain_timeout: PATIENCE,
            watchdog: None,
        }
    }
}

impl Control {
    pub fn start(setup: Setup) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let registry = registry(2);
        let readiness = Arc::new(Readiness::new());
        let manager = Manager::listen();
        let (signals, signal_receiver) = mpsc::unbounded_channel();
        let (cores_ready, cores_ready_receiver) = oneshot::channel();
        let (cores_drained, cores_drained_receiver) = oneshot::channel();
        let drains = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&drains);
        let options = Options {
            ops_listener: Some(listener),
            ops_tls: None,
            registry: Arc::clone(&registry),
            readiness: Arc::clone(&readiness),
            cores: Vec::new(),
            drain_timeout: setup.drain_timeout,
            cores_ready: cores_ready_receiver,
            cores_drained: cores_drained_receiver,
            on_drain: Box::new(move || {
                counted.fetch_add(1, SeqCst);
            }),
        };
        let path = manager.path.clone();
        let notify = move |states: &[NotifyState]| -> io::Result<()> {
            let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
            UnixDatagram::unbound()?.send_to(lines.join("\n").as_bytes(), &path)?;
            Ok(())
        };
        let supervisor = Supervisor::new(Arc::new(notify), setup.watchdog);
        let thread = std::thread::spawn(move || {
            let signals = StopSignals::from_channel(signal_receiver);
            runtime()?.block_on(supervise(options, signals, supervisor, setup.limits))
        });
        Self {
            address,
            registry,
            readiness,
            manager,
            signals,
            cores_ready: Some(cores_ready),
            cores_drained: Some(cores_drained),
            drains,
            thread,
        }
    }

    pub fn started() -> Self {
        let mut control = Self::start(Setup::default());
        control.cores_up();
        control
    }

    pub fn cores_up(&mut self) {
        self.cores_ready.take().unwrap().send(()).unwrap();
        self.manager.wait_for("READY=1");
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    pub fn request(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        Answer::read(stream)
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn signal(&self, signal: StopSignal) {
        self.signals.send(signal).unwrap();
    }

    pub fn end(self) -> End {
        self.thread.join().unwrap().unwrap()
    }
}

/// All that came on one connection until its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Answer {
    pub fn read(mut stream: TcpStream) -> Self {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Self {
            status: status.parse().unwrap(),
            headers,
            body: body.to_owned(),
        }
    }

    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.headers["content-type"], "application/json");
        serde_json::from_str(&self.body).unwrap()
    }
}
