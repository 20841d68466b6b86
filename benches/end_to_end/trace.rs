//! System calls of one thread, counted by strace.
//!
//! Not installed, or not allowed to look into another process: then there is nothing to count with,
//! and whoever wants to know is told why.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// The system calls of a thread, by name.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    by_name: BTreeMap<String, u64>,
}

impl Calls {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.by_name.values().sum()
    }

    /// "sendto 2.0, epoll_pwait 1.9": for each of so many messages, the most frequent first; what
    /// is rare is left out.
    pub fn per_message(&self, messages: usize) -> String {
        let mut each: Vec<(f64, &String)> = self
            .by_name
            .iter()
            .map(|(name, calls)| (*calls as f64 / messages as f64, name))
            .filter(|(calls, _)| *calls >= 0.05)
            .collect();
        each.sort_by(|left, right| right.0.total_cmp(&left.0));
        let words: Vec<String> = each
            .iter()
            .map(|(calls, name)| format!("{name} {calls:.2}"))
            .collect();
        words.join(", ")
    }

    /// From the table that `strace -c` writes.
    fn parse(table: &str) -> Self {
        let lines = table.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let name = *words.last()?;
            let calls = words.get(3)?.parse().ok()?;
            (name != "total").then(|| (name.to_owned(), calls))
        });
        Self {
            by_name: lines.collect(),
        }
    }
}

/// The id of the thread whose name begins with `name`.
pub fn thread_of(process_id: u32, name: &str) -> Result<u32> {
    let folder = format!("/proc/{process_id}/task");
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {folder}"))? {
        let entry = entry?;
        let thread_name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if thread_name.starts_with(name) {
            let number = entry.file_name().to_string_lossy().parse();
            return number.context("a thread's id is no number");
        }
    }
    anyhow::bail!("process {process_id} has no thread {name}")
}

/// A strace at work.
pub struct Trace {
    strace: Child,
    table: PathBuf,
}

impl Trace {
    /// Begins to count the calls of `thread_id`; the error says why that is not possible here.
    pub fn begin(thread_id: u32, directory: &Path) -> Result<Self, String> {
        let table = directory.join("strace");
        let mut strace = Command::new("strace")
            .args(["-c", "-p", &thread_id.to_string(), "-o"])
            .arg(&table)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("strace cannot be started: {error}"))?;
        let mut said = String::new();
        if let Some(output) = strace.stderr.take() {
            // Nothing follows but at its end, so it never waits for a reader.
            let _ = BufReader::new(output).read_line(&mut said);
        }
        if said.contains("attached") {
            return Ok(Self { strace, table });
        }
        let _ = strace.kill();
        let _ = strace.wait();
        Err(format!("strace cannot look: {}", said.trim_end()))
    }

    /// Ends it and gives back what it counted.
    pub fn end(mut self) -> Result<Calls> {
        kill_process(Pid::from_child(&self.strace), Signal::INT)?;
        self.strace.wait()?;
        Ok(Calls::parse(&fs::read_to_string(&self.table)?))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Errors mean that it has ended already; a strace that is killed lets go of its thread.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}
