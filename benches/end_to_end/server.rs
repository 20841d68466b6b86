//! Starts and ends the programs that are measured: the real binary, as a gateway or as a backend,
//! and the relay.
//!
//! All are started the same way: this program is executed again as a launcher, which binds itself
//! to the given cores, arranges to be killed should the benchmark die, and becomes the program. So
//! none of them ever outlives a run.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, set_parent_process_death_signal},
};

use crate::{
    process::{self, CpuTimes},
    relay::Mode,
};

/// First argument of the launcher; cores and program follow.
pub const LAUNCH: &str = "--launch";
/// First argument of the relay; its mode follows.
pub const RELAY: &str = "--relay";
/// How long a program may take to end after it was asked to. The gateway's own `drain_timeout` is
/// shorter.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a program of a cluster may take until it has found all others.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is asked meanwhile.
const READY_INTERVAL: Duration = Duration::from_millis(50);
/// How long it may take to answer that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The launcher: `cores program argument…`. Returns only if the program cannot be executed.
pub fn launch(arguments: &[String]) -> Result<()> {
    let [cores, program, arguments @ ..] = arguments else {
        bail!("the launcher needs cores and a program")
    };
    let cores: Vec<usize> = cores.split(',').map(str::parse).collect::<Result<_, _>>()?;
    process::run_on(&cores)?;
    // Survives the execution of another program.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut command = Command::new(program);
    // What is measured is the configuration written for it, not what the caller's environment adds.
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("IM_GATEWAY__")
            || matches!(&*name_text, "STATE_DIRECTORY" | "NOTIFY_SOCKET")
        {
            command.env_remove(&name);
        }
    }
    Err(command.args(arguments).exec()).with_context(|| format!("executing {program}"))
}

/// How the gateway is started.
pub struct GatewayOptions<'a> {
    /// Cores it may use; it sees no others.
    pub cores: &'a [usize],
    /// `[gateway_service] thread_count`.
    pub thread_count: usize,
    /// `[auth] password_threads`.
    pub password_threads: usize,
    /// Its data; kept between starts.
    pub data_directory: &'a Path,
}

/// How a program with a configuration of its own is started.
pub struct ProgramOptions<'a> {
    /// Cores it may use; it sees no others.
    pub cores: &'a [usize],
    /// What it is: `run` or `backend`.
    pub command: &'a str,
    /// What its configuration and its log are called.
    pub name: &'a str,
    /// Where they are put.
    pub directory: &'a Path,
    /// All of its configuration.
    pub configuration: &'a str,
    /// What its banner says before the address where it listens.
    pub listens: &'a str,
}

/// A running program that is measured.
pub struct Server {
    child: Child,
    /// Where it listens for lines, or for calls.
    pub address: SocketAddr,
    /// Where it listens for operators. The relay has none.
    operations: Option<SocketAddr>,
    /// Where its stderr goes.
    log: PathBuf,
}

impl Server {
    /// Starts a gateway that serves alone and waits until it listens.
    pub fn gateway(options: &GatewayOptions<'_>) -> Result<Self> {
        let configuration = format!(
            "[gateway_service]\nport = 0\nthread_count = {}\ndata_dir = {:?}\n\n[ops]\nlisten = \"127.0.0.1:0\"\n\n\
             [auth]\npassword_threads = {}\n",
            options.thread_count,
            options.data_directory.join("data"),
            options.password_threads,
        );
        Self::program(&ProgramOptions {
            cores: options.cores,
            command: "run",
            name: "gateway",
            directory: options.data_directory,
            configuration: &configuration,
            listens: "line protocol",
        })
    }

    /// Starts the real binary and waits until it listens.
    pub fn program(options: &ProgramOptions<'_>) -> Result<Self> {
        fs::create_dir_all(options.directory)?;
        let file = |extension: &str| {
            options
                .directory
                .join(format!("{}.{extension}", options.name))
        };
        let configuration = file("toml");
        fs::write(&configuration, options.configuration)?;
        let arguments = [
            env!("CARGO_BIN_EXE_im-gateway").as_ref(),
            options.command.as_ref(),
            "-c".as_ref(),
            configuration.as_os_str(),
        ];
        let words = [options.listens, "operations"];
        Self::start(options.cores, &arguments, file("log"), &words)
    }

    /// Starts the relay and waits until it listens.
    pub fn relay(mode: Mode, cores: &[usize], directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let program = env::current_exe().context("finding this program's own file")?;
        let arguments = [program.as_os_str(), RELAY.as_ref(), mode.word().as_ref()];
        let log = directory.join("relay.log");
        Self::start(cores, &arguments, log, &["relay on"])
    }

    /// `words` stand on the lines of its output that name its addresses.
    fn start(
        cores: &[usize],
        arguments: &[&std::ffi::OsStr],
        log: PathBuf,
        words: &[&str],
    ) -> Result<Self> {
        let core_list: Vec<_> = cores.iter().map(usize::to_string).collect();
        let mut child =
            Command::new(env::current_exe().context("finding this program's own file")?)
                .arg(LAUNCH)
                .arg(core_list.join(","))
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(File::create(&log)?)
                .spawn()
                .with_context(|| format!("starting {arguments:?}"))?;
        let output = child
            .stdout
            .take()
            .context("the program's stdout is not a pipe")?;
        match find_addresses(output, words) {
            Ok(addresses) => Ok(Self {
                child,
                address: addresses[0],
                operations: addresses.get(1).copied(),
                log,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.context(format!(
                    "{arguments:?} did not start; it said:\n{}",
                    tail(&log)
                )))
            }
        }
    }

    /// Waits until it says that it is ready: that it has found whatever it needs of other programs.
    pub fn wait_until_ready(&self) -> Result<()> {
        let operations = self
            .operations
            .context("this program cannot say whether it is ready")?;
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let answer = ask_whether_ready(operations);
            if matches!(&answer, Ok(text) if text.starts_with("HTTP/1.1 200")) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "not ready within {READY_TIMEOUT:?}: {answer:?}; it said:\n{}",
                    self.log_tail()
                );
            }
            thread::sleep(READY_INTERVAL);
        }
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of its threads so far.
    pub fn cpu(&self) -> Result<CpuTimes> {
        CpuTimes::of(self.process_id())
    }

    /// The end of what it wrote to stderr.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Ends it with SIGTERM and waits; for the gateway that is a full drain, after which its data
    /// can be used again.
    pub fn stop(mut self) -> Result<()> {
        let process_id = Pid::from_child(&self.child);
        let descriptor = pidfd_open(process_id, PidfdFlags::empty())?;
        kill_process(process_id, Signal::TERM)?;
        let timeout = Timespec::try_from(END_TIMEOUT)?;
        if poll(
            &mut [PollFd::new(&descriptor, PollFlags::IN)],
            Some(&timeout),
        )? == 0
        {
            bail!(
                "process {} did not end within {END_TIMEOUT:?}; it said:\n{}",
                self.process_id(),
                self.log_tail()
            );
        }
        let status = self.child.wait()?;
        // A relay knows no other end than the signal's.
        if !status.success() && std::os::unix::process::ExitStatusExt::signal(&status).is_none() {
            bail!("it ended with {status}; it said:\n{}", self.log_tail());
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask_whether_ready(operations: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(operations)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Reads lines until each of `words`, in their order, has stood on one with an address; gives back
/// the addresses. Then lets a thread swallow the rest, so that the program never blocks on a full
/// pipe.
fn find_addresses(output: ChildStdout, words: &[&str]) -> Result<Vec<SocketAddr>> {
    let mut output = BufReader::new(output);
    let mut addresses = Vec::with_capacity(words.len());
    let mut line = String::new();
    while addresses.len() < words.len() {
        line.clear();
        if output.read_line(&mut line)? == 0 {
            bail!("its output ended before it named its addresses");
        }
        if line.contains(words[addresses.len()]) {
            addresses.extend(address_in(&line));
        }
    }
    thread::Builder::new()
        .name("swallow output".into())
        .spawn(move || io::copy(&mut output, &mut io::sink()))
        .context("starting the thread that reads the program's output")?;
    Ok(addresses)
}

fn address_in(line: &str) -> Option<SocketAddr> {
    let start = line.find("127.0.0.1:")?;
    let rest = &line[start..];
    let end = rest
        .find(|character: char| !matches!(character, '0'..='9' | '.' | ':'))
        .unwrap_or(rest.len());
    rest[..end].trim_end_matches(['.', ':']).parse().ok()
}

fn tail(log: &Path) -> String {
    const LINES: usize = 20;
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
