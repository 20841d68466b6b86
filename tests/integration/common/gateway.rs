//! One gateway process: how it is started, and how clients and operators reach it.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use rustix::process::Signal;
use tempfile::TempDir;

use super::client::Client;
use super::config::Config;
use super::process::{Finished, Process, run_to_exit};
use super::{eventually, http};

/// The line of the banner that says where clients connect.
const BANNER_WORD: &str = "line protocol";

/// A running gateway. Dropping it kills the process and, in a failing test, shows what it printed.
pub struct Gateway {
    process: Process,
}

impl Gateway {
    /// Starts a gateway and waits until it is ready.
    pub fn start(configure: impl FnOnce(&mut Config)) -> Self {
        Self::start_under(&[], configure)
    }

    /// The same on two cores.
    pub fn start_on_two_cores() -> Self {
        Self::start(|config| {
            config.cores(2);
        })
    }

    /// Starts it through another program that ends by `exec`, such as `prlimit`.
    pub fn start_under(launcher: &[&str], configure: impl FnOnce(&mut Config)) -> Self {
        let mut gateway = Self::launch_under(launcher, configure);
        gateway.wait_until_ready();
        gateway
    }

    /// Starts a gateway and waits until it listens, whether it is ready or not.
    pub fn launch(configure: impl FnOnce(&mut Config)) -> Self {
        Self::launch_under(&[], configure)
    }

    /// The same through another program that ends by `exec`.
    pub fn launch_under(launcher: &[&str], configure: impl FnOnce(&mut Config)) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let mut config = Config::new(&directory.path().join("data"));
        configure(&mut config);
        Self {
            process: Process::start(directory, launcher, "run", BANNER_WORD, &config),
        }
    }

    /// Writes a configuration and runs a gateway that is expected to end by itself.
    pub fn start_and_fail(configure: impl FnOnce(&mut Config)) -> Finished {
        let directory = TempDir::new().expect("a temporary directory");
        let mut config = Config::new(&directory.path().join("data"));
        configure(&mut config);
        let path = directory.path().join("gateway.toml");
        config.write(&path);
        run_to_exit(&["run", "-c", &path.display().to_string()], &[])
    }

    /// Starts the process again on the same directory, after it ended, and waits until it is ready.
    pub fn restart(&mut self) {
        self.process.restart();
        self.wait_until_ready();
    }

    /// Waits until `/readyz` answers 200, or without an operations listener until clients can
    /// connect.
    pub fn wait_until_ready(&mut self) {
        // The operations listener is asked, so that no counter of the line port has moved before
        // the test begins.
        match self.process.http_address() {
            Some(_) => self.process.wait_until_ready(),
            None => eventually("clients can connect", || {
                TcpStream::connect(self.process.address()).is_ok()
            }),
        }
    }

    /// Whether `/readyz` answers 200 now.
    pub fn is_ready(&self) -> bool {
        self.process.readiness() == Some(200)
    }

    /// Where the line protocol listens.
    pub fn address(&self) -> SocketAddr {
        self.process.address()
    }

    /// Where the further listener of this name is.
    pub fn listener(&self, name: &str) -> SocketAddr {
        self.process.address_of(&format!("({name})"))
    }

    /// Starts a gateway that also listens for WebSockets.
    pub fn start_with_web(configure: impl FnOnce(&mut Config)) -> Self {
        Self::start(|config| {
            config.set("web", "listen", "127.0.0.1:0");
            configure(config);
        })
    }

    /// Where WebSockets and HTTP are.
    pub fn web_address(&self) -> SocketAddr {
        self.process.address_of("  web ")
    }

    /// Where the operations listener is.
    pub fn http_address(&self) -> SocketAddr {
        self.process.http_address().expect("an operations listener")
    }

    /// Its resident memory.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("the process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.map_or(0, |kib: u64| kib * 1024)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A file in the data directory.
    pub fn data_file(&self, name: &str) -> PathBuf {
        self.process.directory().join("data").join(name)
    }

    /// A new connection that has read its welcome.
    pub fn client(&self) -> Client {
        let mut client = self.connect();
        let welcome = client.line();
        assert!(welcome.starts_with("+OK welcome"), "welcome: {welcome}");
        client
    }

    /// A new connection that has read nothing.
    pub fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// The same, of a client whose kernel keeps little.
    pub fn connect_with_little_room(&self) -> Client {
        Client::connect_with_little_room(self.address())
    }

    /// A new connection with a new account logged in on it.
    pub fn register(&self, name: &str) -> Client {
        let mut client = self.client();
        client.register(name);
        client
    }

    /// A new connection with an existing account logged in on it, device `cli`.
    pub fn login(&self, name: &str) -> Client {
        let mut client = self.client();
        client.login(name);
        client
    }

    /// A new connection that names its device, then logs in.
    pub fn login_on(&self, name: &str, device: &str) -> Client {
        let mut client = self.client();
        assert_eq!(
            client.ask(&format!("set:device:{device}")),
            format!("+OK device={device}")
        );
        client.login(name);
        client
    }

    /// A new connection in manual confirmation, then logged in.
    pub fn login_manual(&self, name: &str) -> Client {
        let mut client = self.client();
        assert_eq!(client.ask("set:ack:manual"), "+OK ack=manual");
        client.login(name);
        client
    }

    /// GET on the operations listener.
    pub fn get(&self, path: &str) -> http::Response {
        http::get(self.http_address(), path).expect("an answer of the operations listener")
    }

    /// Sum over all cores of the samples of `name` (without prefix) that carry these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.process.metric(name, labels)
    }

    /// Kills the process as a power cut would, and waits for its end.
    pub fn kill_9(&mut self) {
        self.process.kill_9();
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal, if the process still lives.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the end of the process; its exit code, or `None` after a signal.
    pub fn wait_exit(&mut self) -> Option<i32> {
        self.process.wait_exit()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// What the last start printed: standard output and standard error.
    pub fn output(&self) -> (String, String) {
        self.process.output()
    }
}
