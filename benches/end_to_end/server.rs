//! Starts and ends the programs that are measured: the gateway's real binary, and the relay.
//!
//! Both are started the same way: this program is executed again as a launcher, which binds itself to the given cores, arranges to
//! be killed should the benchmark die, and becomes the program. So nothing measured ever outlives a run.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
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
/// How long a program may take to end after it was asked to. The gateway's own `drain_timeout` is shorter.
const END_TIMEOUT: Duration = Duration::from_secs(60);

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

/// A running program that is measured.
pub struct Server {
    child: Child,
    /// Where it listens for lines.
    pub address: SocketAddr,
    /// Where its stderr goes.
    log: PathBuf,
}

impl Server {
    /// Starts the gateway with a configuration of its own and waits until it listens.
    pub fn gateway(options: &GatewayOptions<'_>) -> Result<Self> {
        fs::create_dir_all(options.data_directory)?;
        let configuration = options.data_directory.join("bench.toml");
        fs::write(
            &configuration,
            format!(
                "[gateway_service]\nport = 0\nthread_count = {}\ndata_dir = {:?}\n\n[ops]\nlisten = \"127.0.0.1:0\"\n\n\
                 [auth]\npassword_threads = {}\n",
                options.thread_count,
                options.data_directory.join("data"),
                options.password_threads,
            ),
        )?;
        let program = env!("CARGO_BIN_EXE_im-gateway");
        let arguments = [program.as_ref(), "-c".as_ref(), configuration.as_os_str()];
        let log = options.data_directory.join("gateway.log");
        Self::start(options.cores, &arguments, log, |line| {
            line.contains("line protocol")
        })
    }

    /// Starts the relay and waits until it listens.
    pub fn relay(mode: Mode, cores: &[usize], directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let program = env::current_exe().context("finding this program's own file")?;
        let arguments = [program.as_os_str(), RELAY.as_ref(), mode.word().as_ref()];
        Self::start(cores, &arguments, directory.join("relay.log"), |line| {
            line.starts_with("relay on")
        })
    }

    fn start(
        cores: &[usize],
        arguments: &[&std::ffi::OsStr],
        log: PathBuf,
        names_address: impl Fn(&str) -> bool,
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
        match find_address(output, names_address) {
            Ok(address) => Ok(Self {
                child,
                address,
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

    /// Ends it with SIGTERM and waits; for the gateway that is a full drain, after which its data can be used again.
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
            bail!(
                "the gateway ended with {status}; it said:\n{}",
                self.log_tail()
            );
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

/// Reads lines until one names an address, then lets a thread swallow the rest, so that the program never blocks on a full pipe.
fn find_address(output: ChildStdout, names_address: impl Fn(&str) -> bool) -> Result<SocketAddr> {
    let mut output = BufReader::new(output);
    let mut line = String::new();
    loop {
        line.clear();
        if output.read_line(&mut line)? == 0 {
            bail!("its output ended before it named its address");
        }
        if names_address(&line)
            && let Some(address) = address_in(&line)
        {
            thread::Builder::new()
                .name("swallow output".into())
                .spawn(move || io::copy(&mut output, &mut io::sink()))
                .context("starting the thread that reads the program's output")?;
            return Ok(address);
        }
    }
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
