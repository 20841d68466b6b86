//! One process of the binary: its directory, its configuration file, what it prints, its life and
//! death.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::config::Config;
use super::{DEADLINE, POLL_INTERVAL, http};

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

/// A process that serves. Dropping it kills it and, in a failing test, shows what it printed.
pub struct Process {
    directory: TempDir,
    launcher: Vec<String>,
    /// What it is run as: `run` or `backend`.
    command: &'static str,
    child: Child,
    exit: Option<ExitStatus>,
    starts: u32,
    /// The word on the line of its banner that names where it listens.
    word: &'static str,
    address: SocketAddr,
    http_address: Option<SocketAddr>,
}

impl Process {
    /// Starts it through `launcher` and waits until it listens, as the line of its banner with
    /// `word` says.
    pub fn start(
        directory: TempDir,
        launcher: &[&str],
        command: &'static str,
        word: &'static str,
        config: &Config,
    ) -> Self {
        config.write(&directory.path().join(CONFIG_FILE));
        let launcher: Vec<String> = launcher.iter().map(|word| word.to_string()).collect();
        let child = launch(&launcher, command, directory.path(), 1);
        let mut process = Self {
            directory,
            launcher,
            command,
            child,
            exit: None,
            starts: 1,
            word,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            http_address: None,
        };
        process.wait_until_listening();
        process
    }

    /// Starts it again on the same directory, after it ended, and waits until it listens.
    pub fn restart(&mut self) {
        assert!(self.exit.is_some(), "restart comes after the end");
        self.starts += 1;
        self.exit = None;
        self.child = launch(
            &self.launcher,
            self.command,
            self.directory.path(),
            self.starts,
        );
        self.wait_until_listening();
    }

    /// Waits until `/readyz` answers 200.
    pub fn wait_until_ready(&mut self) {
        let start = Instant::now();
        while self.readiness() != Some(200) {
            let (stdout, stderr) = self.output();
            assert!(
                self.is_running() && start.elapsed() < DEADLINE,
                "`{}` did not become ready\n--- stdout\n{stdout}\n--- stderr\n{stderr}",
                self.command
            );
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// What `/readyz` answers now.
    pub fn readiness(&self) -> Option<u16> {
        let response = http::get(self.http_address?, "/readyz").ok()?;
        Some(response.status)
    }

    /// The sum of the samples of `name` (without prefix) that carry these labels, on its operations
    /// listener.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let address = self.http_address.expect("an operations listener");
        let response = http::get(address, "/metrics").expect("an answer");
        http::sum_of(&response.body, name, labels)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address on the first line of its banner that has `word` in it.
    pub fn address_of(&self, word: &str) -> SocketAddr {
        address_on(&self.output().0, word).expect("a line of the banner")
    }

    /// Where the operations listener is, if there is one.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Its own directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process as a power cut would, and waits for its end.
    pub fn kill_9(&mut self) {
        self.child.kill().expect("kill");
        self.exit = Some(self.child.wait().expect("wait"));
    }

    /// Sends a signal, if the process still lives.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // An error means that it has ended already.
        let _ = kill_process(pid.expect("a process id"), signal);
    }

    /// Waits for the end of the process; its exit code, or `None` after a signal.
    pub fn wait_exit(&mut self) -> Option<i32> {
        let status = wait_for_exit(&mut self.child).expect("the process ends");
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

    fn wait_until_listening(&mut self) {
        let start = Instant::now();
        loop {
            let (stdout, stderr) = self.output();
            // The banner comes in one piece: where one of its lines is, all of them are.
            if let Some(address) = address_on(&stdout, self.word) {
                self.address = address;
                self.http_address = address_on(&stdout, "http");
                return;
            }
            assert!(
                self.is_running() && start.elapsed() < DEADLINE,
                "`{}` does not listen\n--- stdout\n{stdout}\n--- stderr\n{stderr}",
                self.command
            );
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            for start in 1..=self.starts {
                let (stdout, stderr) = output_paths(self.directory.path(), start);
                eprintln!(
                    "--- {} start {start} stdout\n{}--- start {start} stderr\n{}",
                    self.command,
                    read(&stdout),
                    read(&stderr)
                );
            }
        }
    }
}

const CONFIG_FILE: &str = "im-gateway.toml";

fn launch(launcher: &[String], command: &str, directory: &Path, start: u32) -> Child {
    let mut process = clean_command(launcher);
    process
        .args([command, "-c"])
        .arg(directory.join(CONFIG_FILE))
        .current_dir(directory);
    let (stdout, stderr) = output_paths(directory, start);
    spawn(&mut process, &stdout, &stderr)
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
