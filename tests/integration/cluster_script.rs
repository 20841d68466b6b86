//! `scripts/cluster`: a cluster to try things out, brought up and taken down by one command.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::common::Client;

/// The script, and the directory it keeps everything in. Dropping it takes the cluster down.
struct Script {
    directory: TempDir,
}

impl Script {
    fn new() -> Self {
        Self {
            directory: TempDir::new().expect("a temporary directory"),
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cluster"))
            .args(arguments)
            .arg("-d")
            .arg(self.directory.path())
            .env("IM_GATEWAY_BIN", env!("CARGO_BIN_EXE_im-gateway"))
            .output()
            .expect("the script runs")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn address(&self, name: &str) -> SocketAddr {
        let text = std::fs::read_to_string(self.file(&format!("{name}.address")));
        let text = text.expect("its address");
        text.trim().parse().expect("an address")
    }

    /// The ids of the processes it keeps.
    fn processes(&self) -> Vec<(String, u32)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.directory.path()).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "pid") {
                let name = path.file_stem().expect("a name").to_string_lossy();
                let text = std::fs::read_to_string(&path).expect("a process id");
                let pid = text.split(' ').next().and_then(|pid| pid.parse().ok());
                found.push((name.into_owned(), pid.expect("a process id")));
            }
        }
        found.sort();
        found
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", text(&self.run(&["logs"]).stdout));
        }
        self.run(&["down"]);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

fn log_in(address: SocketAddr, name: &str) -> Client {
    let mut client = Client::connect(address);
    assert!(client.line().starts_with("+OK welcome"));
    client.register(name);
    client
}

#[test]
fn a_cluster_comes_up_serves_and_goes_down_without_a_trace() {
    let script = Script::new();
    let up = script.run(&["up", "-b", "2", "-g", "2", "--nginx"]);
    let printed = text(&up.stdout);
    assert!(up.status.success(), "{printed}\n{}", text(&up.stderr));
    let processes = script.processes();
    let names: Vec<&str> = processes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "backend-1",
            "backend-2",
            "gateway-1",
            "gateway-2",
            "nginx",
            "redis",
            "zookeeper"
        ]
    );
    for name in &names {
        let address = script.address(name).to_string();
        assert!(printed.contains(&address), "{name} {address}: {printed}");
    }

    let mut alice = log_in(script.address("gateway-1"), "alice");
    let mut bob = log_in(script.address("gateway-2"), "bob");
    let mut carol = log_in(script.address("nginx"), "carol");
    let id = alice.chat(bob.uid, "hello");
    assert_eq!(bob.push().id(), id);
    let id = bob.chat(carol.uid, "hello");
    assert_eq!(carol.push().id(), id);

    let status = script.run(&["status"]);
    assert!(status.status.success());
    assert_eq!(text(&status.stdout).lines().count(), names.len());
    let logs = script.run(&["logs", "gateway-1"]);
    assert!(text(&logs.stdout).contains("line protocol"));
    let again = script.run(&["up"]);
    assert!(!again.status.success(), "it is up already");
    assert!(processes.iter().all(|(_, pid)| is_alive(*pid)));

    let down = script.run(&["down"]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    for (name, pid) in &processes {
        assert!(!is_alive(*pid), "{name} still runs");
    }
    assert_eq!(script.processes(), []);
    assert_eq!(text(&script.run(&["status"]).stdout), "it is down\n");
    assert!(script.run(&["down"]).status.success(), "once more");
}

#[test]
fn down_leaves_alone_what_it_did_not_start() {
    let script = Script::new();
    let mut stranger = Command::new("sleep").arg("600").spawn().expect("sleep");
    // A number that was given to somebody else meanwhile: the start time is not the one noted.
    std::fs::write(script.file("redis.pid"), format!("{} 1\n", stranger.id())).expect("write");
    std::fs::write(script.file("nginx.pid"), "no number\n").expect("write");
    let down = script.run(&["down"]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    assert!(is_alive(stranger.id()));
    assert_eq!(script.processes(), []);
    stranger.kill().expect("kill");
    stranger.wait().expect("wait");
}

#[test]
fn wrong_words_are_one_message() {
    let script = Script::new();
    for arguments in [&["sideways"][..], &["up", "-b", "x"], &["up", "--fast"]] {
        let output = script.run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    let missing = script.run(&["logs", "nobody"]);
    assert!(text(&missing.stderr).contains("nobody"));
}
