//! Where all clocks of the process begin.

use std::time::Instant;

use crate::{machine::unix_time, shard::Now};

/// The one beginning.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) started: Instant,
    pub(super) started_unix_ms: u64,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            started: Instant::now(),
            started_unix_ms: unix_ms(),
        }
    }

    pub(super) fn now(&self) -> Now {
        Now {
            monotonic_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            unix_ms: unix_ms(),
        }
    }
}

fn unix_ms() -> u64 {
    unix_time::unix_ms().unsigned_abs()
}
