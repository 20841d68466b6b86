//! What the kernel knows about a process: its CPU time, its resident memory, the cores it may use,
//! how many files it may open.
//!
//! Reads `/proc` only; starts and ends nothing.

use std::{collections::BTreeMap, fs, io, time::Duration};

use anyhow::{Context, Result};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// CPU time of each thread of a process at one moment.
///
/// `schedstat` counts nanoseconds; the clock ticks of `stat` (10 ms) would be too coarse for runs
/// of a second.
#[derive(Clone, Debug, Default)]
pub struct CpuTimes {
    /// Thread id → its name and the nanoseconds it has run.
    threads: BTreeMap<u32, (String, u64)>,
}

impl CpuTimes {
    /// The CPU time every living thread of `process_id` has used so far.
    pub fn of(process_id: u32) -> Result<Self> {
        let directory = format!("/proc/{process_id}/task");
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(&directory).with_context(|| format!("reading {directory}"))? {
            let entry = entry?;
            let Some(thread_id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // A thread may end between the listing and the reading.
            let Some(statistics) = read_if_alive(&entry.path().join("schedstat"))? else {
                continue;
            };
            let Some(name) = read_if_alive(&entry.path().join("comm"))? else {
                continue;
            };
            let run_ns = statistics
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .with_context(|| {
                    format!(
                        "{directory}/{thread_id}/schedstat is not what this kernel should write"
                    )
                })?;
            threads.insert(thread_id, (name.trim_end().to_owned(), run_ns));
        }
        Ok(Self { threads })
    }

    /// What was used since `earlier`, by thread name.
    pub fn since(&self, earlier: &Self) -> CpuUse {
        let mut by_name = BTreeMap::new();
        for (thread_id, (name, run_ns)) in &self.threads {
            let before_ns = earlier
                .threads
                .get(thread_id)
                .map_or(0, |(_, before_ns)| *before_ns);
            *by_name.entry(name.clone()).or_insert(0) += run_ns.saturating_sub(before_ns);
        }
        CpuUse { by_name }
    }
}

/// CPU time used between two moments.
#[derive(Clone, Debug, Default)]
pub struct CpuUse {
    by_name: BTreeMap<String, u64>,
}

impl CpuUse {
    /// All threads together.
    pub fn total_ns(&self) -> u64 {
        self.by_name.values().sum()
    }

    /// Adds what was used in another interval.
    pub fn add(&mut self, other: &Self) {
        for (name, run_ns) in &other.by_name {
            *self.by_name.entry(name.clone()).or_insert(0) += run_ns;
        }
    }

    /// "core-0 82 %, store 17 %": who used it, the greatest first, shares under one percent left
    /// out.
    pub fn shares(&self) -> String {
        let total = self.total_ns().max(1) as f64;
        let mut shares: Vec<_> = self
            .by_name
            .iter()
            .map(|(name, run_ns)| (*run_ns as f64 / total * 100.0, name))
            .collect();
        shares.sort_by(|left, right| right.0.total_cmp(&left.0));
        let words: Vec<_> = shares
            .iter()
            .filter(|(share, _)| *share >= 1.0)
            .map(|(share, name)| format!("{name} {share:.0} %"))
            .collect();
        words.join(", ")
    }
}

fn read_if_alive(path: &std::path::Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // ESRCH: the thread ended after the file was opened.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// CPU time this process has used so far.
pub fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(process_id: u32) -> Result<u64> {
    let path = format!("/proc/{process_id}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let kibibytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("no VmRSS in {path}"))?;
    Ok(kibibytes * 1024)
}

/// The cores this process may use.
pub fn allowed_cores() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("asking for the cores this process may use")?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect())
}

/// Binds the calling thread, and whatever it starts from now on, to `cores`.
pub fn run_on(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(None, &set).with_context(|| format!("binding to the cores {cores:?}"))
}

/// Allows as many open files as the system lets this process have; children inherit it. Gives back
/// how many that is.
pub fn raise_file_limit() -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .context("raising the limit of open files")?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}
