//! `scripts/cluster`: a cluster to try things out, brought up and taken down by one command.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

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

    /// With a directory that an earlier `up` has used.
    fn used() -> Self {
        let script = Self::new();
        std::fs::write(script.file(".im-gateway-cluster"), "").expect("write");
        script
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(Path::new(env!("CARGO_BIN_EXE_im-gateway")), arguments)
    }

    fn run_with(&self, program: &Path, arguments: &[&str]) -> Output {
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cluster"))
            .args(arguments)
            .arg("-d")
            .arg(self.directory.path())
            .env("IM_GATEWAY_BIN", program)
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
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
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

    for name in ["redis", "zookeeper", "backend-1", "gateway-2", "nginx"] {
        assert_restarts(&script, name);
    }
    let mut dave = log_in(script.address("gateway-2"), "dave");
    let id = dave.chat(alice.uid, "hello");
    assert_eq!(alice.push().id(), id);
    let processes = script.processes();

    let down = script.run(&["down"]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    for (name, pid) in &processes {
        assert!(!is_alive(*pid), "{name} still runs");
    }
    assert_eq!(script.processes(), []);
    let status = script.run(&["status"]);
    assert_eq!(text(&status.stdout), "it is down\n");
    assert_eq!(status.status.code(), Some(3));
    assert!(script.run(&["down"]).status.success(), "once more");
}

/// Another process takes the place of `name`, at the same address.
fn assert_restarts(script: &Script, name: &str) {
    let pid_of = |processes: Vec<(String, u32)>| {
        let found = processes.into_iter().find(|(other, _)| other == name);
        found.expect("a process of this name").1
    };
    let (pid, address) = (pid_of(script.processes()), script.address(name));
    let restart = script.run(&["restart", name]);
    assert!(
        restart.status.success(),
        "{name}: {}",
        text(&restart.stderr)
    );
    assert!(!is_alive(pid), "{name}");
    assert!(is_alive(pid_of(script.processes())), "{name}");
    assert_eq!(script.address(name), address);
    assert!(script.run(&["status"]).status.success(), "{name}");
}

#[test]
fn a_directory_of_somebody_else_is_refused_and_left_alone() {
    let script = Script::new();
    let names = ["Cargo.toml", "app.log", "backend-1.toml", "nginx.pid"];
    for name in names {
        std::fs::write(script.file(name), "1 1\n").expect("write");
    }
    let shared = Permissions::from_mode(0o755);
    std::fs::set_permissions(script.directory.path(), shared).expect("chmod");
    let up = script.run(&["up"]);
    assert!(!up.status.success());
    let said = text(&up.stderr);
    assert!(said.contains("not made by this script"), "{said}");
    assert!(script.run(&["down"]).status.success());
    assert_eq!(text(&script.run(&["status"]).stdout), "it is down\n");
    let entries = std::fs::read_dir(script.directory.path()).expect("a directory");
    assert_eq!(entries.count(), names.len());
    for name in names {
        let kept = std::fs::read_to_string(script.file(name)).expect("still there");
        assert_eq!(kept, "1 1\n", "{name}");
    }
    let mode = std::fs::metadata(script.directory.path()).expect("a directory");
    assert_eq!(mode.permissions().mode() & 0o777, 0o755);
}

#[test]
fn a_program_that_ends_at_once_is_told_at_once() {
    let script = Script::new();
    let programs = TempDir::new().expect("a temporary directory");
    let program = programs.path().join("broken");
    std::fs::write(&program, "#!/bin/sh\necho out of order >&2\nexit 1\n").expect("write");
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("chmod");
    let start = Instant::now();
    let up = script.run_with(&program, &["up"]);
    assert!(!up.status.success());
    let said = text(&up.stderr);
    assert!(said.contains("backend-1 does not listen"), "{said}");
    assert!(said.contains("out of order"), "{said}");
    // A process that runs and does not listen is waited for as long as a minute.
    assert!(start.elapsed() < Duration::from_secs(50));
    assert_eq!(script.processes(), []);
}

#[test]
fn a_process_that_was_gone_before_it_was_looked_at_does_not_run() {
    let script = Script::used();
    let mut child = Command::new("true").spawn().expect("true(1)");
    child.wait().expect("it ends");
    std::fs::write(script.file("redis.pid"), format!("{} \n", child.id())).expect("write");
    let status = script.run(&["status"]);
    assert!(!status.status.success());
    let said = text(&status.stdout);
    assert!(said.contains("has ended"), "{said}");
}

#[test]
fn down_leaves_alone_what_it_did_not_start() {
    let script = Script::used();
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
    for command in ["logs", "restart"] {
        let missing = script.run(&[command, "nobody"]);
        assert!(!missing.status.success());
        assert!(text(&missing.stderr).contains("nobody"));
    }
}
