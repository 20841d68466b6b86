//! One gateway process: its configuration, its directory, its life and death.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::Client;
use super::{DEADLINE, POLL_INTERVAL, http};

/// A configuration file in the making. Starts with free ports and a directory of its own.
pub struct Config {
    table: toml::Table,
}

impl Config {
    fn new(data_directory: &Path) -> Self {
        let mut config = Self {
            table: toml::Table::new(),
        };
        config
            .set("gateway_service", "port", 0)
            .set("gateway_service", "thread_count", 1)
            .set("gateway_service", "gateway_id", "test-gateway")
            .set(
                "gateway_service",
                "data_dir",
                data_directory.display().to_string(),
            )
            .set("gateway_service", "drain_timeout", "10s")
            .set("ops", "listen", "127.0.0.1:0");
        config
    }

    /// Sets one key.
    pub fn set(&mut self, section: &str, key: &str, value: impl Into<toml::Value>) -> &mut Self {
        let section = self
            .table
            .entry(section)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let toml::Value::Table(keys) = section {
            keys.insert(key.to_string(), value.into());
        }
        self
    }

    /// One key of `[limits]`.
    pub fn limit(&mut self, key: &str, value: impl Into<toml::Value>) -> &mut Self {
        self.set("limits", key, value)
    }

    /// The number of cores.
    pub fn cores(&mut self, count: i64) -> &mut Self {
        self.set("gateway_service", "thread_count", count)
    }

    /// No address is exempt from the limits that count by address or rate.
    pub fn nobody_exempt(&mut self) -> &mut Self {
        self.limit("limit_exempt", toml::Value::Array(Vec::new()))
    }

    fn write(&self, path: &Path) {
        std::fs::write(path, self.table.to_string()).expect("write the configuration");
    }
}

/// What a run that ended by itself left behind.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs the binary with these arguments until it ends.
pub fn run_to_exit(arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
    let directory = TempDir::new().expect("a temporary directory");
    let (stdout, stderr) = (
        directory.path().join("stdout"),
        directory.path().join("stderr"),
    );
    let mut command = clean_command(&[]);
    command
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(directory.path());
    let mut child = spawn(&mut command, &stdout, &stderr);
    let status = wait_for_exit(&mut child);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let finished = Finished {
        code: status.and_then(|status| status.code()),
        stdout: read(&stdout),
        stderr: read(&stderr),
    };
    assert!(
        status.is_some(),
        "{arguments:?} did not end: {} {}",
        finished.stdout,
        finished.stderr
    );
    finished
}

/// A running gateway. Dropping it kills the process and, in a failing test, shows what it printed.
pub struct Gateway {
    directory: TempDir,
    launcher: Vec<String>,
    child: Child,
    exit: Option<ExitStatus>,
    starts: u32,
    line_address: SocketAddr,
    http_address: Option<SocketAddr>,
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
        let directory = TempDir::new().expect("a temporary directory");
        let mut config = Config::new(&directory.path().join("data"));
        configure(&mut config);
        config.write(&directory.path().join("gateway.toml"));
        let launcher: Vec<String> = launcher.iter().map(|word| word.to_string()).collect();
        let child = launch(&launcher, directory.path(), 1);
        let mut gateway = Self {
            directory,
            launcher,
            child,
            exit: None,
            starts: 1,
            line_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            http_address: None,
        };
        gateway.wait_until_ready();
        gateway
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

    /// Starts the process again on the same directory, after it ended.
    pub fn restart(&mut self) {
        assert!(self.exit.is_some(), "restart comes after the end");
        self.starts += 1;
        self.exit = None;
        self.child = launch(&self.launcher, self.directory.path(), self.starts);
        self.wait_until_ready();
    }

    /// Where the line protocol listens.
    pub fn address(&self) -> SocketAddr {
        self.line_address
    }

    /// Where the operations listener is.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address.expect("an operations listener")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A file in the data directory.
    pub fn data_file(&self, name: &str) -> PathBuf {
        self.directory.path().join("data").join(name)
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
        Client::connect(self.line_address)
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
        http::sum_of(&self.get("/metrics").body, name, labels)
    }

    /// Kills the process as a power cut would, and waits for its end.
    pub fn kill_9(&mut self) {
        self.child.kill().expect("kill");
        self.exit = Some(self.child.wait().expect("wait"));
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal, if the process still lives.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // An error means that it has ended already.
        let _ = kill_process(pid.expect("a process id"), signal);
    }

    /// Waits for the end of the process; its exit code, or `None` after a signal.
    pub fn wait_exit(&mut self) -> Option<i32> {
        let status = wait_for_exit(&mut self.child).expect("the gateway ends");
        self.exit = Some(status);
        status.code()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().expect("wait");
        }
        self.exit.is_none()
    }

    /// What the last start printed: standard output and standard error.
    pub fn output(&self) -> (String, String) {
        let (stdout, stderr) = output_paths(self.directory.path(), self.starts);
        (read(&stdout), read(&stderr))
    }

    fn wait_until_ready(&mut self) {
        let start = Instant::now();
        loop {
            let (stdout, stderr) = self.output();
            let listens = (
                address_on(&stdout, "line protocol"),
                address_on(&stdout, "http"),
            );
            if let (Some(line), http) = listens
                && self.answers(line, http)
            {
                (self.line_address, self.http_address) = (line, http);
                return;
            }
            assert!(
                self.is_running() && start.elapsed() < DEADLINE,
                "the gateway did not become ready\n--- stdout\n{stdout}\n--- stderr\n{stderr}"
            );
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Asks the operations listener, so that no counter of the line port has moved before the test begins.
    fn answers(&self, line: SocketAddr, http: Option<SocketAddr>) -> bool {
        match http {
            Some(address) => {
                http::get(address, "/readyz").is_ok_and(|response| response.status == 200)
            }
            None => TcpStream::connect(line).is_ok(),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.exit.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            for start in 1..=self.starts {
                let (stdout, stderr) = output_paths(self.directory.path(), start);
                eprintln!(
                    "--- start {start} stdout\n{}--- start {start} stderr\n{}",
                    read(&stdout),
                    read(&stderr)
                );
            }
        }
    }
}

fn launch(launcher: &[String], directory: &Path, start: u32) -> Child {
    let mut command = clean_command(launcher);
    command
        .args(["run", "-c"])
        .arg(directory.join("gateway.toml"))
        .current_dir(directory);
    let (stdout, stderr) = output_paths(directory, start);
    spawn(&mut command, &stdout, &stderr)
}

/// The binary, with nothing of the caller's environment that would configure it.
fn clean_command(launcher: &[String]) -> Command {
    let binary = env!("CARGO_BIN_EXE_im-gateway");
    let mut command = match launcher.split_first() {
        None => Command::new(binary),
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(binary);
            command
        }
    };
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("IM_GATEWAY__") {
            command.env_remove(&name);
        }
    }
    for name in ["STATE_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        command.env_remove(name);
    }
    command
}

fn spawn(command: &mut Command, stdout: &Path, stderr: &Path) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(File::create(stdout).expect("create a file"))
        .stderr(File::create(stderr).expect("create a file"))
        .spawn()
        .expect("start the binary")
}

fn wait_for_exit(child: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return Some(status);
        }
        if start.elapsed() > DEADLINE + DEADLINE {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn output_paths(directory: &Path, start: u32) -> (PathBuf, PathBuf) {
    (
        directory.join(format!("stdout.{start}")),
        directory.join(format!("stderr.{start}")),
    )
}

fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The `127.0.0.1:PORT` on the first finished banner line that holds `word`.
fn address_on(banner: &str, word: &str) -> Option<SocketAddr> {
    let finished = &banner[..banner.rfind('\n')? + 1];
    finished.lines().find_map(|line| {
        if !line.to_lowercase().contains(word) {
            return None;
        }
        let address = &line[line.find("127.0.0.1:")?..];
        let end = address
            .find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')
            .unwrap_or(address.len());
        address[..end].trim_end_matches(['.', ':']).parse().ok()
    })
}
