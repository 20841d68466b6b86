//! The two times of the services: the time of day, for time stamps and nothing else, and the
//! store's own time, by which everything in it ages: routes, tags, messages that were confirmed.
//!
//! The store's time is the time since the machine started plus an offset that stands in the
//! storage, so all processes over it agree, and a start of one of them changes nothing. Nobody can
//! set it. It began as the time of day, and is near it still. Only when the machine itself was
//! started anew is the time of day asked how long that took, and believed up to a bound: a clock
//! that is wrong by a day then makes nobody forget the tags of a day.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

use super::store::{Failure, Storage, storage::TimeBase};
use crate::machine::unix_time::unix_ms;

/// Most time that the machine is believed to have been off.
const LONGEST_OFF_MS: i64 = 12 * 3_600_000;

/// A difference between the two times that changes by more than this at once is a step, and no
/// correction.
const STEP_MS: i64 = 1000;

/// One moment, by both times, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Now {
    /// By the store's time: never goes back.
    pub(super) store_ms: i64,
    /// By the wall clock.
    pub(super) unix_ms: i64,
}

#[cfg(test)]
impl From<i64> for Now {
    /// A moment at which both times are the same.
    fn from(ms: i64) -> Self {
        Self {
            store_ms: ms,
            unix_ms: ms,
        }
    }
}

/// See the module's description.
pub(super) struct Clock {
    boot: String,
    offset_ms: i64,
    /// How far the time of day was ahead of the store's time at the last look.
    ahead_ms: i64,
}

impl Clock {
    /// The time of `storage`, which begins with this if it has none. A storage that cannot be
    /// written is read all the same.
    pub(super) fn of(storage: &mut impl Storage) -> Self {
        let boot = boot_id();
        Self::at(storage, boot, boot_ms(), unix_ms())
    }

    fn at(storage: &mut impl Storage, boot: String, boot_ms: i64, unix_ms: i64) -> Self {
        let offset_ms = settle(storage, &boot, boot_ms, unix_ms).unwrap_or_else(|error| {
            log::warn!("cannot note the store's time: {error}");
            storage.roll_back();
            let base = storage.time_base().ok().flatten();
            start(base.as_ref(), &boot, boot_ms, unix_ms).offset_ms
        });
        Self {
            boot,
            offset_ms,
            ahead_ms: unix_ms - (boot_ms + offset_ms),
        }
    }

    /// Now; `true`: the wall clock was set since the last look.
    pub(super) fn look(&mut self) -> (Now, bool) {
        let now = self.now();
        let ahead_ms = now.unix_ms - now.store_ms;
        let step_ms = ahead_ms - self.ahead_ms;
        self.ahead_ms = ahead_ms;
        let is_step = step_ms.abs() > STEP_MS;
        if is_step {
            let direction = if step_ms > 0 { "forward" } else { "back" };
            let seconds = step_ms.abs() / 1000;
            log::warn!(
                "the wall clock was set {direction} by {seconds} s; only time stamps follow it"
            );
        }
        (now, is_step)
    }

    fn now(&self) -> Now {
        Now {
            store_ms: boot_ms() + self.offset_ms,
            unix_ms: unix_ms(),
        }
    }

    /// The store's time alone.
    pub(super) fn store_ms(&self) -> i64 {
        self.now().store_ms
    }

    /// What is to be noted, so that a start of the machine finds how late it was.
    pub(super) fn base(&self) -> TimeBase {
        let now = self.now();
        TimeBase {
            boot: self.boot.clone(),
            offset_ms: self.offset_ms,
            last_ms: now.store_ms,
            last_unix_ms: now.unix_ms,
        }
    }
}

/// Reads the offset, or writes the one that holds from now on.
fn settle(
    storage: &mut impl Storage,
    boot: &str,
    boot_ms: i64,
    unix_ms: i64,
) -> Result<i64, Failure> {
    storage.begin()?;
    let base = storage.time_base()?;
    let started = start(base.as_ref(), boot, boot_ms, unix_ms);
    if !started.is_known {
        storage.put_time_base(&TimeBase {
            boot: boot.to_owned(),
            offset_ms: started.offset_ms,
            last_ms: boot_ms + started.offset_ms,
            last_unix_ms: unix_ms,
        })?;
        if started.off_ms > 0 {
            // While the machine was off nobody could refresh them.
            storage.delay_routes(started.off_ms)?;
        }
    }
    storage.commit()?;
    Ok(started.offset_ms)
}

/// Where the store's time stands at a start.
struct Started {
    offset_ms: i64,
    /// Whether the storage says so already.
    is_known: bool,
    /// How long the machine was off, as far as it counts.
    off_ms: i64,
}

fn start(base: Option<&TimeBase>, boot: &str, boot_ms: i64, unix_ms: i64) -> Started {
    let Some(base) = base else {
        return Started {
            offset_ms: unix_ms - boot_ms,
            is_known: false,
            off_ms: 0,
        };
    };
    // A machine that does not tell its starts apart may still show a time that was before.
    if base.boot == boot && boot_ms + base.offset_ms >= base.last_ms {
        return Started {
            offset_ms: base.offset_ms,
            is_known: true,
            off_ms: 0,
        };
    }
    let off_ms = (unix_ms - base.last_unix_ms).clamp(0, LONGEST_OFF_MS);
    Started {
        offset_ms: base.last_ms + off_ms - boot_ms,
        is_known: false,
        off_ms,
    }
}

/// Milliseconds since the machine started, those in which it slept included.
fn boot_ms() -> i64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// Names the machine's last start; empty: unknown.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::service::store::{
        sqlite::Sqlite,
        storage::{Routes, StoredRoute, Transactions},
    };

    const DAY_MS: i64 = 24 * 3_600_000;
    const UNIX: i64 = 1_760_000_000_000;

    fn storage(directory: &TempDir) -> Sqlite {
        Sqlite::open(directory.path(), false).expect("a store")
    }

    /// The store's time when the machine has run for `boot_ms` and the wall clock shows `unix_ms`.
    fn store_ms(storage: &mut Sqlite, boot: &str, boot_ms: i64, unix_ms: i64) -> i64 {
        boot_ms + Clock::at(storage, boot.to_owned(), boot_ms, unix_ms).offset_ms
    }

    #[test]
    fn the_stores_time_begins_as_the_time_of_day_and_follows_no_clock_that_is_set() {
        let directory = TempDir::new().expect("a directory");
        let mut storage = storage(&directory);
        assert_eq!(store_ms(&mut storage, "a", 5000, UNIX), UNIX);
        for unix_ms in [UNIX + DAY_MS, UNIX - DAY_MS, 0] {
            assert_eq!(store_ms(&mut storage, "a", 7000, unix_ms), UNIX + 2000);
        }
    }

    #[test]
    fn after_a_start_of_the_machine_it_goes_on_however_wrong_the_clock_is() {
        for (off_ms, counted_ms) in [
            (60_000, 60_000),
            (0, 0),
            (-DAY_MS, 0),
            (DAY_MS, LONGEST_OFF_MS),
            (365 * DAY_MS, LONGEST_OFF_MS),
        ] {
            let directory = TempDir::new().expect("a directory");
            let mut storage = storage(&directory);
            store_ms(&mut storage, "a", 5000, UNIX);
            let route = StoredRoute {
                session_id: 1,
                login_session: 0,
                route: "gw#0".to_owned(),
                device: "cli".to_owned(),
                expires_ms: UNIX + 100,
            };
            storage.begin().expect("begun");
            storage.put_route(1, &route).expect("put");
            storage.commit().expect("committed");
            let expected = UNIX + counted_ms;
            assert_eq!(store_ms(&mut storage, "b", 30, UNIX + off_ms), expected);
            assert_eq!(store_ms(&mut storage, "b", 31, 0), expected + 1);
            let expiry = storage.first_expiry_ms().expect("read");
            assert_eq!(expiry, Some(expected + 100), "it has as long as before");
        }
    }

    #[test]
    fn it_never_goes_back_where_starts_cannot_be_told_apart() {
        let directory = TempDir::new().expect("a directory");
        let mut storage = storage(&directory);
        assert_eq!(store_ms(&mut storage, "", 5_000_000, UNIX), UNIX);
        assert_eq!(store_ms(&mut storage, "", 40, UNIX + 10), UNIX + 10);
    }

    #[test]
    fn the_two_times_of_this_machine_go_on_together() {
        let directory = TempDir::new().expect("a directory");
        let mut clock = Clock::of(&mut storage(&directory));
        let (now, is_step) = clock.look();
        assert!(!is_step);
        assert!((now.unix_ms - now.store_ms).abs() <= STEP_MS, "{now:?}");
        // As if the wall clock had been set back since.
        clock.ahead_ms += 3_600_000;
        assert!(clock.look().1);
        assert!(!clock.look().1, "it is noticed once");
    }
}
