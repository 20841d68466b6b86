//! What the store counts. Written by the store thread and the password threads, read by whoever exposes metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of the services; all relaxed, all readable at any time.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// Committed transactions.
    pub commits: AtomicU64,
    /// Stored messages, direct and of groups.
    pub messages: AtomicU64,
    /// Calls carried out.
    pub calls: AtomicU64,
    /// Transactions that were taken back: disk full, input or output failed, a panic.
    pub errors: AtomicU64,
    /// Calls that panicked.
    pub panics: AtomicU64,
    /// Microseconds spent in transactions, from `BEGIN` to the end of `COMMIT`.
    pub commit_duration_us: AtomicU64,
    /// The longest such time since [`StoreCounters::take_commit_duration_max_us`].
    pub commit_duration_max_us: AtomicU64,
    /// Calls waiting for the store thread when it last looked.
    pub queue_depth: AtomicU64,
    /// Log-ins and registrations waiting for a password thread or in its hands.
    pub password_queue_depth: AtomicU64,
    /// Messages deleted because they were confirmed and old enough.
    pub swept_messages: AtomicU64,
}

impl StoreCounters {
    /// The longest time a transaction took since the last call of this, in microseconds.
    pub fn take_commit_duration_max_us(&self) -> u64 {
        self.commit_duration_max_us.swap(0, Relaxed)
    }

    pub(super) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Relaxed);
    }

    pub(super) fn observe_commit(&self, duration_us: u64) {
        Self::add(&self.commits, 1);
        Self::add(&self.commit_duration_us, duration_us);
        self.commit_duration_max_us.fetch_max(duration_us, Relaxed);
    }
}
