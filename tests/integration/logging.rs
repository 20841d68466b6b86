//! The log and the banner towards somebody who does not read them: a full pipe holds up nobody.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::config::Config;
use crate::common::{Client, Gateway, eventually};

/// Redirects a standard stream of the program that follows into the file that follows.
const STDERR_INTO: &str = "exec \"$@\" 2>\"$0\"";
const STDOUT_INTO: &str = "exec \"$@\" >\"$0\"";

/// A pipe with a name, filled to the brim.
struct FullPipe {
    _directory: TempDir,
    path: PathBuf,
    end: File,
}

impl FullPipe {
    fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let path = directory.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        // Both ends, so that it is never without a reader or a writer.
        let mut end = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&path)
            .expect("open the pipe");
        fill(&mut end);
        Self {
            _directory: directory,
            path,
            end,
        }
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }

    /// Everything that is in it now.
    fn read(&mut self) -> String {
        let mut bytes = Vec::new();
        if let Err(error) = self.end.read_to_end(&mut bytes) {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn fill(pipe: &mut File) {
    for piece in [&[b'.'; 4096][..], b"."] {
        while pipe.write(piece).is_ok() {}
    }
}

/// Makes the gateway log until its buffer is full and lines are dropped.
fn log_until_lines_are_dropped(gateway: &Gateway) {
    eventually("log lines are dropped", || {
        for _ in 0..100 {
            let mut client = gateway.client();
            assert_eq!(client.ask("quit"), "+OK bye");
        }
        gateway.metric("log_lines_dropped_total", &[]) > 0.0
    });
}

#[test]
fn a_standard_error_that_nobody_reads_holds_up_nobody() {
    let mut stderr = FullPipe::new();
    let launcher = [
        "env",
        "RUST_LOG=trace",
        "sh",
        "-c",
        STDERR_INTO,
        stderr.path(),
    ];
    let mut gateway = Gateway::start_under(&launcher, |config| {
        config.cores(2);
    });
    let mut old = gateway.register("alice");
    log_until_lines_are_dropped(&gateway);
    // Connections there are, new ones, and the control thread.
    for _ in 0..20 {
        assert_eq!(old.ask("ping"), "+OK pong");
        assert_eq!(gateway.client().ask("ping"), "+OK pong");
        assert_eq!(gateway.get("/livez").status, 200);
    }

    // Read again, the log goes on and says what is missing.
    let mut log = String::new();
    eventually("the log tells of what is missing", || {
        gateway.client();
        log.push_str(&stderr.read());
        log.contains("log lines are missing")
    });

    // Full once more, it does not keep the process from ending, nor change how.
    fill(&mut stderr.end);
    log_until_lines_are_dropped(&gateway);
    gateway.terminate();
    assert_eq!(gateway.wait_exit(), Some(0));
}

/// The standard hook for panics would write on the thread of the core.
#[cfg(feature = "test-hooks")]
#[test]
fn a_panic_is_logged_without_waiting_for_a_reader() {
    let mut stderr = FullPipe::new();
    let launcher = [
        "env",
        "RUST_BACKTRACE=0",
        "sh",
        "-c",
        STDERR_INTO,
        stderr.path(),
    ];
    let gateway = Gateway::start_under(&launcher, |_| {});
    for _ in 0..20 {
        let mut victim = gateway.client();
        victim.send("panic");
        victim.lines_until_closed();
        assert_eq!(gateway.client().ask("ping"), "+OK pong");
    }
    let mut log = String::new();
    eventually("the panics are in the log", || {
        log.push_str(&stderr.read());
        log.matches("panicked at src/").count() == 20
    });
    assert!(log.contains("thread \"core-0"), "{log}");
}

#[test]
fn last_words_do_not_wait_for_a_reader() {
    let stderr = FullPipe::new();
    let directory = TempDir::new().expect("a temporary directory");
    let missing = directory.path().join("missing.toml");
    let mut failing = Child::start(STDERR_INTO, stderr.path(), &missing);
    assert_eq!(failing.wait(), Some(3));

    let launcher = ["sh", "-c", STDERR_INTO, stderr.path()];
    let mut gateway = Gateway::start_under(&launcher, |_| {});
    // It does not close, so the first signal does not end the process at once.
    let _client = gateway.register("alice");
    gateway.signal(Signal::TERM);
    eventually("it drains", || !gateway.is_ready());
    gateway.signal(Signal::INT);
    let code = gateway.wait_exit();
    assert!(matches!(code, Some(0 | 130)), "{code:?}");
}

#[test]
fn a_standard_output_that_nobody_reads_holds_up_nobody() {
    let mut stdout = FullPipe::new();
    let directory = TempDir::new().expect("a temporary directory");
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("its address");
    drop(free);
    let path = directory.path().join("gateway.toml");
    let mut config = Config::new(&directory.path().join("data"));
    config.set("gateway_service", "port", i64::from(address.port()));
    config.write(&path);
    let mut gateway = Child::start(STDOUT_INTO, stdout.path(), &path);
    eventually("it serves", || TcpStream::connect(address).is_ok());
    let mut client = Client::connect(address);
    assert!(client.line().starts_with("+OK welcome"));
    let mut banner = String::new();
    eventually("the banner is there for who reads it", || {
        banner.push_str(&stdout.read());
        banner.contains(&address.to_string())
    });
    gateway.terminate();
    assert_eq!(gateway.wait(), Some(0));
}

/// A gateway of which nothing is known but its configuration.
struct Child(std::process::Child);

impl Child {
    fn start(redirection: &str, pipe: &str, config: &Path) -> Self {
        let child = Command::new("sh")
            .args(["-c", redirection, pipe])
            .args([env!("CARGO_BIN_EXE_im-gateway"), "run", "-c"])
            .arg(config)
            .spawn();
        Self(child.expect("start the binary"))
    }

    fn terminate(&self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), Signal::TERM).expect("it runs");
    }

    /// Waits for its end; the exit code, or `None` after a signal.
    fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the process ends", || {
            status = self.0.try_wait().expect("wait");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
