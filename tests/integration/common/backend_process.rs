//! One `im-gateway backend`: the services as a process of their own.

use std::net::SocketAddr;

use rustix::process::Signal;
use tempfile::TempDir;

use super::config::Config;
use super::process::Process;

/// The line of the banner that says where gateways call it.
const BANNER_WORD: &str = "calls";

/// A running backend. Dropping it kills the process and, in a failing test, shows what it printed.
pub struct BackendProcess {
    process: Process,
}

impl BackendProcess {
    /// Starts one and waits until it listens, whether it is ready or not.
    pub fn launch(configure: impl FnOnce(&mut Config)) -> Self {
        Self::launch_under(&[], configure)
    }

    /// The same through another program that ends by `exec`.
    pub fn launch_under(launcher: &[&str], configure: impl FnOnce(&mut Config)) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let mut config = Config::new(&directory.path().join("data"));
        config.set("backend", "listen", "127.0.0.1:0");
        configure(&mut config);
        Self {
            process: Process::start(directory, launcher, "backend", BANNER_WORD, &config),
        }
    }

    /// Waits until `/readyz` answers 200.
    pub fn wait_until_ready(&mut self) {
        self.process.wait_until_ready();
    }

    /// The sum of the samples of `name` (without prefix) on its operations listener.
    pub fn metric(&self, name: &str) -> f64 {
        self.process.metric(name, &[])
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Where gateways call it.
    pub fn address(&self) -> SocketAddr {
        self.process.address()
    }

    /// Kills the process as a power cut would, and waits for its end.
    pub fn kill_9(&mut self) {
        self.process.kill_9();
    }

    /// Starts it again, after it ended, and waits until it is ready.
    pub fn restart(&mut self) {
        self.process.restart();
        self.process.wait_until_ready();
    }

    /// The process by itself, for tests that look closer.
    pub fn into_process(self) -> Process {
        self.process
    }

    /// What the last start printed: standard output and standard error.
    pub fn output(&self) -> (String, String) {
        self.process.output()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}
