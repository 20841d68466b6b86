//! What the machine must offer before anything starts, and what it allows.
//!
//! Owns the checks, their remedies, and the raising of soft limits. Never creates a file or opens a
//! port: it only asks. Each check is a plain function of what was found, so the judgement can be
//! tested without the machine.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CpuSet;

use crate::{
    base::error::{ExitCode, StartupError},
    machine::sys,
};

/// Locked memory that one executor's rings take; the executor itself refuses to start with less.
const MEMLOCK_PER_CORE_BYTES: u64 = 512 * 1024;
/// Descriptors that are not connections: rings, listeners, the store's files, the ops listener, the
/// log.
const RESERVED_FILES: u64 = 256;
/// Room for so many connections needs no warning, even where more are configured.
const ROOM_ENOUGH: usize = 10_000;
/// With fewer descriptors than these, not even one worker can start.
const MIN_FILES: u64 = 64;

/// A kernel's version as far as it matters.
type Version = (u32, u32);

/// The first kernel with all io_uring operations that the executors use.
const MIN_KERNEL: Version = (5, 8);
/// From this kernel on rings are accounted to the control group, and no longer to the limit of
/// locked memory.
const RINGS_NOT_LOCKED_KERNEL: Version = (5, 12);

/// What is asked of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Workers to start; 0: one per CPU that the process may use in full.
    pub workers: usize,
    /// Connections at one time over all workers.
    pub connections: usize,
    /// The directory to write in.
    pub data_dir: &'a Path,
}

/// What the machine allows this process.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Workers to start: as many as are wanted.
    pub workers: usize,
    /// The CPUs the process may use, in ascending order; never empty.
    pub cpus: Vec<usize>,
    /// How many CPUs' time the control group allows, where that is less than there are CPUs. Which
    /// of them it is spent on is then better left to the kernel: neighbours have the same CPUs.
    pub quota: Option<usize>,
    /// Connections at one time over all workers: those wanted, or what the limit of open files
    /// leaves.
    pub max_connections: usize,
    /// The limit of open files in force.
    open_files: u64,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to do.
    Ok,
    /// The gateway runs, with less than was asked for.
    Warn,
    /// The gateway cannot run.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at, in a word or two.
    pub what: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What an operator can do; empty if there is nothing to do.
    pub remedy: String,
}

impl Check {
    /// A check that found what it wanted.
    pub fn ok(what: &'static str, detail: impl Into<String>) -> Self {
        Self {
            what,
            verdict: Verdict::Ok,
            detail: detail.into(),
            remedy: String::new(),
        }
    }

    /// A check that found less than was asked for.
    pub fn warn(what: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what,
            verdict: Verdict::Warn,
            detail: detail.into(),
            remedy: remedy.into(),
        }
    }

    /// A check that found what keeps the gateway from running.
    pub fn fail(what: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what,
            verdict: Verdict::Fail,
            detail: detail.into(),
            remedy: remedy.into(),
        }
    }
}

/// Raises soft limits, checks what the gateway cannot run without, logs what is merely less than
/// asked for.
///
/// The error is the first check that failed, with exit code 4.
pub fn preflight(wanted: Wanted<'_>) -> Result<Limits, StartupError> {
    let (limits, checks) = inspect(wanted);
    for check in &checks {
        match check.verdict {
            Verdict::Ok => {}
            Verdict::Warn => log::warn!("{}: {}; {}", check.what, check.detail, check.remedy),
            Verdict::Fail => {
                return Err(StartupError::new(
                    ExitCode::Preflight,
                    check.what,
                    &check.detail,
                    &check.remedy,
                ));
            }
        }
    }
    Ok(limits)
}

/// Raises the limit of open files, and says how many of `wanted` connections fit into it. What a
/// backend process needs: it has no rings.
pub fn connections_possible(wanted: usize) -> usize {
    connections_within(raise(Resource::Nofile).current.unwrap_or(u64::MAX), wanted)
}

/// All checks, in the order in which they matter, and what the machine allows.
pub fn inspect(wanted: Wanted<'_>) -> (Limits, Vec<Check>) {
    let cpus = usable_cpus();
    let quota = cpu_quota(cpus.len());
    let workers = match wanted.workers {
        0 => quota.unwrap_or(cpus.len()),
        count => count,
    };
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    // The limit of locked memory first: on older kernels a ring is refused for want of it.
    let memlock = raise(Resource::Memlock);
    let open_files = raise(Resource::Nofile).current.unwrap_or(u64::MAX);
    let max_connections = connections_within(open_files, wanted.connections);
    let checks = vec![
        check_kernel(&release),
        check_memlock(memlock, kernel_version(&release), workers),
        check_io_uring(sys::io_uring_available(), &release, io_uring_disabled()),
        check_open_files(open_files, wanted.connections),
        check_cpus(cpus.len(), quota, workers),
        check_data_dir(wanted.data_dir),
    ];
    assert!(
        !cpus.is_empty() && workers > 0,
        "there is something to run on"
    );
    assert!(
        quota.is_none_or(|quota| quota < cpus.len()),
        "a quota takes something away"
    );
    let limits = Limits {
        workers,
        cpus,
        quota,
        max_connections,
        open_files,
    };
    (limits, checks)
}

/// The CPUs this process may run on.
fn usable_cpus() -> Vec<usize> {
    let cpus: Vec<usize> = rustix::thread::sched_getaffinity(None)
        .map(|set| {
            (0..CpuSet::MAX_CPU)
                .filter(|cpu| set.is_set(*cpu))
                .collect()
        })
        .unwrap_or_default();
    if cpus.is_empty() {
        // More CPUs than the set can hold, or a filter that forbids the question: count, and take
        // the first ones.
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        return (0..count).collect();
    }
    cpus
}

/// How many CPUs' time this process may have, if that is less than the `cpus` it may run on. The
/// standard library knows both versions of control groups, and looks all the way up.
fn cpu_quota(cpus: usize) -> Option<usize> {
    let allowed = std::thread::available_parallelism().map_or(cpus, usize::from);
    (allowed < cpus).then_some(allowed)
}

/// Raises the soft limit to the hard one, and gives back what is in force then.
fn raise(resource: Resource) -> Rlimit {
    let found = getrlimit(resource);
    if found.current == found.maximum {
        return found;
    }
    let raised = Rlimit {
        current: found.maximum,
        maximum: found.maximum,
    };
    debug_assert!(
        found
            .maximum
            .is_none_or(|most| found.current.is_some_and(|now| now <= most)),
        "a soft limit is within the hard one"
    );
    match setrlimit(resource, raised) {
        Ok(()) => raised,
        Err(_) => found,
    }
}

fn kernel_version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((major, minor))
}

fn check_kernel(release: &str) -> Check {
    const WHAT: &str = "kernel";
    match kernel_version(release) {
        None => Check::warn(
            WHAT,
            format!("cannot read the version out of {release:?}"),
            "Linux 5.8 or newer is needed",
        ),
        Some(version) if version < MIN_KERNEL => Check::fail(
            WHAT,
            format!("Linux {release} is older than 5.8"),
            "run Linux 5.8 or newer: older kernels lack io_uring operations",
        ),
        Some(_) => Check::ok(WHAT, format!("Linux {release}")),
    }
}

fn check_memlock(limit: Rlimit, kernel: Option<Version>, workers: usize) -> Check {
    const WHAT: &str = "locked memory";
    let rings_are_locked = kernel.is_none_or(|version| version < RINGS_NOT_LOCKED_KERNEL);
    let cores = if rings_are_locked { workers.max(1) } else { 1 };
    let needed = MEMLOCK_PER_CORE_BYTES.saturating_mul(cores as u64);
    match limit.current {
        None => Check::ok(WHAT, "no limit"),
        Some(current) if current >= needed => Check::ok(WHAT, format!("{} KiB", current / 1024)),
        Some(current) => Check::fail(
            WHAT,
            format!(
                "the limit is {} KiB, io_uring needs {} KiB",
                current / 1024,
                needed / 1024
            ),
            "raise it: LimitMEMLOCK=infinity in the systemd unit, --ulimit memlock=-1 for a container, \
             memlock in /etc/security/limits.conf for a login",
        ),
    }
}

/// The system-wide switch, where it exists and may be read.
fn io_uring_disabled() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()
        .and_then(|text| text.trim().parse().ok())
}

fn check_io_uring(found: Result<(), Errno>, release: &str, switch: Option<u32>) -> Check {
    const WHAT: &str = "io_uring";
    let Err(error) = found else {
        return Check::ok(WHAT, "available");
    };
    match error {
        Errno::PERM | Errno::ACCESS => {
            let detail = match switch {
                Some(value) if value != 0 => {
                    format!("forbidden: kernel.io_uring_disabled is {value}")
                }
                _ => "forbidden (operation not permitted)".to_owned(),
            };
            Check::fail(
                WHAT,
                detail,
                "allow it: sysctl kernel.io_uring_disabled=0; in a container a seccomp profile that permits io_uring_setup, \
                 io_uring_enter and io_uring_register; in a systemd unit SystemCallFilter= with @aio or @system-service",
            )
        }
        Errno::NOSYS => Check::fail(
            WHAT,
            format!("this kernel, Linux {release}, was built without it or hides it"),
            "run Linux 5.8 or newer with CONFIG_IO_URING=y; some sandboxes, such as gVisor, have none",
        ),
        Errno::NOMEM => Check::fail(
            WHAT,
            "not enough lockable memory",
            "raise the limit of locked memory: LimitMEMLOCK=infinity in the systemd unit",
        ),
        Errno::MFILE | Errno::NFILE => Check::fail(
            WHAT,
            "no file descriptor is left",
            "raise the limit of open files: LimitNOFILE= in the systemd unit",
        ),
        other => Check::fail(WHAT, other.to_string(), "run Linux 5.8 or newer"),
    }
}

/// The connections that fit beside the files the process needs for itself.
///
/// Where a fixed reserve would take more than a quarter of a small limit, a quarter is kept.
fn connections_within(open_files: u64, wanted: usize) -> usize {
    let room = open_files - RESERVED_FILES.min(open_files / 4);
    let possible = usize::try_from(room).map_or(wanted, |room| room.min(wanted));
    assert!(possible <= wanted && possible as u64 <= open_files);
    possible
}

fn check_open_files(open_files: u64, wanted: usize) -> Check {
    const WHAT: &str = "open files";
    const REMEDY: &str = "raise it: LimitNOFILE= in the systemd unit, ulimit -n in a shell, or lower max_connections";
    let possible = connections_within(open_files, wanted);
    if open_files < MIN_FILES {
        let detail = format!("the limit is {open_files}, at least {MIN_FILES} are needed");
        Check::fail(WHAT, detail, REMEDY)
    } else if possible < wanted.min(ROOM_ENOUGH) {
        let detail = format!(
            "the limit of {open_files} allows {possible} connections, max_connections is {wanted}"
        );
        Check::warn(WHAT, detail, REMEDY)
    } else {
        let limit = match open_files {
            u64::MAX => "no limit".to_owned(),
            limit => format!("limit {limit}"),
        };
        Check::ok(WHAT, format!("{limit}, {possible} connections"))
    }
}

fn check_cpus(cpus: usize, quota: Option<usize>, workers: usize) -> Check {
    const WHAT: &str = "CPUs";
    let usable = match quota {
        Some(quota) => format!("{cpus} usable, of which a quota allows the time of {quota}"),
        None => format!("{cpus} usable"),
    };
    if workers > quota.unwrap_or(cpus) {
        return Check::warn(
            WHAT,
            format!("{usable}, shared by {workers} workers"),
            "set thread_count to 0 or to at most the number of CPUs, or raise the quota",
        );
    }
    Check::ok(WHAT, format!("{usable}, {workers} workers"))
}

fn check_data_dir(directory: &Path) -> Check {
    const WHAT: &str = "data directory";
    let shown = directory.display();
    let existing = nearest_existing(directory);
    if !existing.is_dir() {
        return Check::fail(
            WHAT,
            format!("{} is not a directory", existing.display()),
            "set data_dir to a directory",
        );
    }
    // access(2) goes by the real user, which is the effective one here: the gateway is never
    // installed set-uid.
    match rustix::fs::access(&existing, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if existing == directory => Check::ok(WHAT, format!("{shown} is writable")),
        Ok(()) => Check::ok(WHAT, format!("{shown} will be created")),
        Err(error) => Check::fail(
            WHAT,
            format!("{} is not writable: {error}", existing.display()),
            "set data_dir to a directory this user may write, or StateDirectory= in the systemd unit",
        ),
    }
}

/// The path itself, or the nearest directory above it that exists.
fn nearest_existing(path: &Path) -> PathBuf {
    path.ancestors()
        .map(|part| match part.as_os_str().is_empty() {
            true => Path::new("."),
            false => part,
        })
        .find(|part| part.symlink_metadata().is_ok())
        .unwrap_or(Path::new("."))
        .to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(bytes: u64) -> Rlimit {
        Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        }
    }

    #[test]
    fn a_kernel_older_than_the_operations_in_use_fails() {
        for (release, verdict) in [
            ("6.18.44-fc-v669", Verdict::Ok),
            ("5.8.0", Verdict::Ok),
            ("5.10", Verdict::Ok),
            ("5.7.19", Verdict::Fail),
            ("4.19.0-27-amd64", Verdict::Fail),
            ("unknown", Verdict::Warn),
            ("", Verdict::Warn),
        ] {
            assert_eq!(check_kernel(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn locked_memory_counts_per_core_only_on_kernels_that_lock_rings() {
        let half_mib = limit(512 * 1024);
        assert_eq!(
            check_memlock(half_mib, Some((6, 1)), 8).verdict,
            Verdict::Ok
        );
        assert_eq!(
            check_memlock(half_mib, Some((5, 10)), 1).verdict,
            Verdict::Ok
        );
        assert_eq!(
            check_memlock(half_mib, Some((5, 10)), 2).verdict,
            Verdict::Fail
        );
        assert_eq!(check_memlock(half_mib, None, 2).verdict, Verdict::Fail);
        let unlimited = Rlimit {
            current: None,
            maximum: None,
        };
        assert_eq!(check_memlock(unlimited, None, 64).verdict, Verdict::Ok);
    }

    #[test]
    fn too_little_locked_memory_names_the_limit_to_raise() {
        let check = check_memlock(limit(65_536), Some((6, 1)), 2);
        assert_eq!(check.verdict, Verdict::Fail);
        assert_eq!(check.detail, "the limit is 64 KiB, io_uring needs 512 KiB");
        assert!(check.remedy.contains("LimitMEMLOCK="));
    }

    #[test]
    fn a_forbidden_io_uring_names_who_may_have_forbidden_it() {
        let check = check_io_uring(Err(Errno::PERM), "6.1.0", Some(2));
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.detail.contains("kernel.io_uring_disabled is 2"));
        for word in ["kernel.io_uring_disabled", "seccomp", "SystemCallFilter"] {
            assert!(check.remedy.contains(word), "{word}");
        }
        let check = check_io_uring(Err(Errno::PERM), "6.1.0", Some(0));
        assert_eq!(check.detail, "forbidden (operation not permitted)");
    }

    #[test]
    fn a_missing_io_uring_names_the_kernel() {
        let check = check_io_uring(Err(Errno::NOSYS), "5.4.0", None);
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.detail.contains("5.4.0"));
        assert!(check.remedy.contains("CONFIG_IO_URING"));
    }

    #[test]
    fn every_refusal_of_io_uring_has_a_remedy() {
        for error in [
            Errno::PERM,
            Errno::NOSYS,
            Errno::NOMEM,
            Errno::MFILE,
            Errno::INVAL,
        ] {
            let check = check_io_uring(Err(error), "6.1.0", None);
            assert_eq!(check.verdict, Verdict::Fail);
            assert!(!check.remedy.is_empty(), "{error}");
        }
        assert_eq!(check_io_uring(Ok(()), "6.1.0", None).verdict, Verdict::Ok);
    }

    #[test]
    fn connections_leave_room_for_the_files_of_the_process() {
        assert_eq!(connections_within(1_048_576, 100_000), 100_000);
        assert_eq!(connections_within(20_000, 100_000), 19_744);
        assert_eq!(connections_within(1024, 100_000), 768);
        assert_eq!(connections_within(256, 100_000), 192);
        assert_eq!(connections_within(0, 100_000), 0);
        assert_eq!(connections_within(u64::MAX, 100_000), 100_000);
    }

    #[test]
    fn fewer_files_than_connections_is_a_warning_that_says_how_many_fit() {
        assert_eq!(check_open_files(20_000, 100_000).verdict, Verdict::Ok);
        let check = check_open_files(1024, 100_000);
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(
            check.detail.contains("allows 768 connections"),
            "{}",
            check.detail
        );
        assert_eq!(check_open_files(32, 10).verdict, Verdict::Fail);
        assert_eq!(check_open_files(u64::MAX, 10).verdict, Verdict::Ok);
    }

    #[test]
    fn more_workers_than_cpus_is_a_warning() {
        assert_eq!(check_cpus(2, None, 2).verdict, Verdict::Ok);
        assert_eq!(check_cpus(2, None, 3).verdict, Verdict::Warn);
        assert_eq!(check_cpus(8, Some(2), 2).verdict, Verdict::Ok);
        let check = check_cpus(8, Some(2), 3);
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.detail.contains("quota allows the time of 2"));
    }

    #[test]
    fn a_data_directory_is_checked_and_never_created() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(check_data_dir(directory.path()).verdict, Verdict::Ok);
        let missing = directory.path().join("a/b");
        let check = check_data_dir(&missing);
        assert_eq!(check.verdict, Verdict::Ok);
        assert!(
            check.detail.ends_with("will be created"),
            "{}",
            check.detail
        );
        assert!(!directory.path().join("a").exists());
        let file = directory.path().join("file");
        fs::write(&file, "").expect("written");
        assert_eq!(check_data_dir(&file).verdict, Verdict::Fail);
        assert_eq!(check_data_dir(&file.join("below")).verdict, Verdict::Fail);
        // procfs takes no new directory, whoever asks.
        let check = check_data_dir(Path::new("/proc/self/new"));
        assert!(!Path::new("/proc/self/new").exists(), "{}", check.detail);
    }

    #[test]
    fn a_relative_data_directory_is_looked_up_in_the_working_directory() {
        assert_eq!(
            nearest_existing(Path::new("no-such-directory")),
            Path::new(".")
        );
        assert_eq!(
            nearest_existing(Path::new("./no-such-directory/x")),
            Path::new(".")
        );
    }

    #[test]
    fn the_inspection_reports_one_worker_per_cpu_by_default() {
        let wanted = Wanted {
            workers: 0,
            connections: 100,
            data_dir: Path::new("."),
        };
        let (limits, checks) = inspect(wanted);
        assert!(!limits.cpus.is_empty());
        assert_eq!(limits.workers, limits.quota.unwrap_or(limits.cpus.len()));
        assert!(limits.max_connections <= wanted.connections);
        assert_eq!(checks.len(), 6);
        let current = getrlimit(Resource::Nofile);
        assert_eq!(current.current, current.maximum);
    }
}
