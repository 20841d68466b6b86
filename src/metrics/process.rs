//! What the kernel knows about this process: CPU time, memory, file descriptors.
//!
//! Read at scrape time, on the control thread. What cannot be read is left out, never guessed.

use std::{fs, os::unix::fs::MetadataExt};

use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// One reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ProcessUsage {
    /// CPU time used by all threads, user and system.
    pub(super) cpu_seconds: f64,
    /// Resident memory, if `/proc` tells.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors, if `/proc` tells.
    pub(super) open_fds: Option<u64>,
    /// The soft limit of file descriptors; `None`: there is none.
    pub(super) max_fds: Option<u64>,
}

impl ProcessUsage {
    /// Reads it now.
    pub fn read() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Self {
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            resident_bytes: fs::read_to_string("/proc/self/status")
                .ok()
                .as_deref()
                .and_then(resident_bytes),
            open_fds: open_fds(),
            max_fds: getrlimit(Resource::Nofile).current,
        }
    }
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Since Linux 6.2 the size of the directory is the number of descriptors; before, it is zero and
/// one has to count them, which takes long with a hundred thousand connections.
fn open_fds() -> Option<u64> {
    const DIRECTORY: &str = "/proc/self/fd";
    match fs::metadata(DIRECTORY).ok()?.size() {
        // The listing itself holds one descriptor open.
        0 => Some((fs::read_dir(DIRECTORY).ok()?.count() as u64).saturating_sub(1)),
        count => Some(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_of_this_process_is_plausible() {
        let usage = ProcessUsage::read();
        assert!(usage.cpu_seconds > 0.0);
        assert!(usage.resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(usage.open_fds.is_some_and(|count| count >= 3));
    }

    #[test]
    fn resident_memory_is_read_in_bytes_or_not_at_all() {
        assert_eq!(
            resident_bytes("Name:\tx\nVmRSS:\t    1234 kB\n"),
            Some(1_263_616)
        );
        for broken in [
            "",
            "VmRSS:",
            "VmRSS: 12",
            "VmRSS: x kB",
            "VmRSS: 99999999999999999999 kB",
        ] {
            assert_eq!(resident_bytes(broken), None, "{broken}");
        }
    }
}
