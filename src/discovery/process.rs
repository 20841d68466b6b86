//! Which process somebody is, so that one that has died can be told from one that lives.
//!
//! Owns how a process is named for good: the machine since its last start, the namespace of process
//! ids, the id and the time when it was given. Reads `/proc`; knows no ZooKeeper.

use std::{fs, process::id};

use serde::{Deserialize, Serialize};

/// One process, told from every other there was or will be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Process {
    /// The name of its machine.
    pub(super) host: String,
    /// What its kernel calls the time since it was started; empty: unknown.
    pub(super) boot: String,
    /// Its namespace of process ids; containers have their own.
    pub(super) pid_namespace: String,
    /// Its id there.
    pub(super) pid: u32,
    /// When it began, in the kernel's ticks since the machine was started; 0: unknown.
    pub(super) started: u64,
}

/// What can be said about a process from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It runs.
    Alive,
    /// It has ended.
    Dead,
    /// It is on another machine, or cannot be seen.
    Unknown,
}

/// What is seen of a process id here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Nobody,
    /// A process that began at this time.
    Since(u64),
    /// One of which nothing more can be seen.
    Somebody,
}

impl Process {
    /// This one.
    pub(super) fn this() -> Self {
        let pid = id();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Self {
            host: host_name(),
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .map(|boot| boot.trim().to_owned())
                .unwrap_or_default(),
            pid_namespace: namespace.to_string_lossy().into_owned(),
            pid,
            started: match seen(pid) {
                Seen::Since(started) => started,
                Seen::Nobody | Seen::Somebody => 0,
            },
        }
    }

    /// Whether `other` lives, as far as `self` can tell.
    pub(super) fn life_of(&self, other: &Self) -> Life {
        self.judge(other, || seen(other.pid))
    }

    fn judge(&self, other: &Self, look: impl FnOnce() -> Seen) -> Life {
        let is_neighbour = !self.boot.is_empty()
            && self.host == other.host
            && self.boot == other.boot
            && self.pid_namespace == other.pid_namespace;
        if !is_neighbour || other.pid == 0 {
            return Life::Unknown;
        }
        match look() {
            Seen::Nobody => Life::Dead,
            Seen::Since(started) if started == other.started => Life::Alive,
            // The id was given to another process meanwhile.
            Seen::Since(_) if other.started != 0 => Life::Dead,
            Seen::Since(_) | Seen::Somebody => Life::Unknown,
        }
    }
}

/// The name of this machine.
pub(super) fn host_name() -> String {
    let names = rustix::system::uname();
    names.nodename().to_string_lossy().into_owned()
}

fn seen(pid: u32) -> Seen {
    let Some(process) = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    else {
        return Seen::Nobody;
    };
    // Where /proc hides the processes of others, the kernel still says whether there is one.
    match rustix::process::test_kill_process(process) {
        Err(rustix::io::Errno::SRCH) => Seen::Nobody,
        _ => fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|stat| seen_in(&stat))
            .unwrap_or(Seen::Somebody),
    }
}

/// What `/proc/PID/stat` says (proc(5)). After the name in parentheses the state comes first, and
/// 20th when it began.
fn seen_in(stat: &str) -> Option<Seen> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    // A zombie has ended, only its parent has not looked yet.
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return Some(Seen::Nobody);
    }
    fields.nth(18)?.parse().ok().map(Seen::Since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn this_process_is_alive_and_knows_itself() {
        let this = Process::this();
        assert!(!this.host.is_empty() && !this.boot.is_empty() && this.started > 0);
        assert_eq!(this.life_of(&this), Life::Alive);
    }

    #[test]
    fn a_child_that_has_ended_is_dead() {
        let mut child = std::process::Command::new("true").spawn().expect("true(1)");
        let gone = Process {
            pid: child.id(),
            started: 1,
            ..Process::this()
        };
        child.wait().expect("it ends");
        assert_eq!(Process::this().life_of(&gone), Life::Dead);
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("true").spawn().expect("true(1)");
        let start = Instant::now();
        while seen(child.id()) != Seen::Nobody {
            assert!(start.elapsed() < Duration::from_secs(10), "still alive");
            std::thread::yield_now();
        }
        // It has not been waited for until here, so its id is still taken.
        child.wait().expect("it ends");
    }

    #[test]
    fn what_the_kernel_says_is_read_whatever_the_name() {
        let rest = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 77 20";
        for (state, expected) in [
            ("S", Seen::Since(77)),
            ("R", Seen::Since(77)),
            ("Z", Seen::Nobody),
            ("X", Seen::Nobody),
        ] {
            let stat = format!("9 (a) Z (b) {state} {rest}");
            assert_eq!(seen_in(&stat), Some(expected));
        }
        assert_eq!(seen_in("9 (a) S 1"), None);
        assert_eq!(seen_in(""), None);
    }

    #[test]
    fn a_process_id_given_again_is_another_process() {
        let this = Process::this();
        let before = Process {
            started: this.started.wrapping_sub(1),
            ..this.clone()
        };
        assert_eq!(this.life_of(&before), Life::Dead);
    }

    #[test]
    fn nothing_is_said_of_what_cannot_be_seen_from_here() {
        let this = Process::this();
        let strangers = [
            Process {
                host: "elsewhere".to_owned(),
                ..this.clone()
            },
            Process {
                boot: "another".to_owned(),
                ..this.clone()
            },
            Process {
                pid_namespace: "pid:[1]".to_owned(),
                ..this.clone()
            },
            Process {
                pid: 0,
                ..this.clone()
            },
            Process::default(),
        ];
        for stranger in strangers {
            let life = this.judge(&stranger, || Seen::Nobody);
            assert_eq!(life, Life::Unknown, "{stranger:?}");
        }
        assert_eq!(this.judge(&this, || Seen::Somebody), Life::Unknown);
        let unseeing = Process {
            boot: String::new(),
            ..this.clone()
        };
        assert_eq!(unseeing.judge(&unseeing, || Seen::Nobody), Life::Unknown);
    }
}
