//! The cells that numbers live in: counter, gauge, histogram, peak.
//!
//! Owns how a number is changed and read. Every cell but the shared ones has one writer, the thread
//! it belongs to: a change is a relaxed load and a relaxed store, no locked instruction, so it
//! costs the path of a message next to nothing. Anyone may read at any time. Two writers would lose
//! changes, never corrupt anything.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// `count` more.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// The count so far.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Goes up and down, never below zero.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// It is `value` now.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// One more.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// One less.
    #[inline]
    pub fn dec(&self) {
        self.sub(1);
    }

    /// `amount` more.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.set(self.get().saturating_add(amount));
    }

    /// `amount` less; stops at zero.
    #[inline]
    pub fn sub(&self, amount: u64) {
        self.set(self.get().saturating_sub(amount));
    }

    /// What it is now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A counter that several threads add to. Costs a locked instruction, so it is for what is rare.
#[derive(Debug, Default)]
pub struct SharedCounter(AtomicU64);

impl SharedCounter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `count` more; zero costs nothing.
    pub fn add(&self, count: u64) {
        if count > 0 {
            self.0.fetch_add(count, Relaxed);
        }
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A gauge that several threads change. Costs a locked instruction, so it is not for the path of a
/// message.
#[derive(Debug, Default)]
pub struct SharedGauge(AtomicU64);

impl SharedGauge {
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// One less. Every `dec` follows its own `inc`, so this cannot pass zero.
    pub fn dec(&self) {
        let before = self.0.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "a gauge was taken below zero");
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How many bounds a histogram has; one more bucket holds what is above the last.
const BOUNDS: usize = 16;

/// Upper bounds for durations in microseconds: 50 µs to 5 s, so that both a ping and a call that
/// times out fall inside.
const DURATION_BOUNDS_US: [u64; BOUNDS] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000,
];

/// Upper bounds for plain numbers: the powers of two up to 32768.
const COUNT_BOUNDS: [u64; BOUNDS] = [
    1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768,
];

/// How values are spread, over bounds that are fixed.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64; BOUNDS],
    /// How many units of the bounds make one unit of the exposition: 1,000,000 µs are a second.
    scale: f64,
    buckets: [Counter; BOUNDS + 1],
    sum: Counter,
}

impl Histogram {
    /// Of durations: observed in microseconds, exposed in seconds.
    pub(super) fn of_durations() -> Self {
        Self::new(&DURATION_BOUNDS_US, 1e6)
    }

    /// Of plain numbers.
    pub(super) fn of_counts() -> Self {
        Self::new(&COUNT_BOUNDS, 1.0)
    }

    fn new(bounds: &'static [u64; BOUNDS], scale: f64) -> Self {
        debug_assert!(bounds.is_sorted_by(|one, next| one < next) && scale > 0.0);
        Self {
            bounds,
            scale,
            buckets: Default::default(),
            sum: Counter::default(),
        }
    }

    /// Counts `value`, in the unit of the bounds.
    #[inline]
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        debug_assert!(self.bounds.get(bucket).is_none_or(|bound| value <= *bound));
        self.buckets[bucket].inc();
        self.sum.add(value);
    }

    /// Counts a duration of `duration_us` microseconds.
    #[inline]
    pub fn observe_us(&self, duration_us: u64) {
        self.observe(duration_us);
    }

    /// Whether nothing was observed yet.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.get() == 0)
    }

    /// What was observed so far, in the unit of the exposition.
    pub(super) fn snapshot(&self) -> HistogramSnapshot {
        let upper_bounds = self.bounds.iter().map(|bound| *bound as f64 / self.scale);
        let buckets: Vec<(f64, u64)> = upper_bounds
            .chain([f64::INFINITY])
            .zip(self.buckets.iter().map(Counter::get))
            .collect();
        assert_eq!(buckets.len(), self.buckets.len(), "a bound for each bucket");
        HistogramSnapshot {
            // Summed from the buckets, not counted apart, so that the two agree however the owner
            // moves on meanwhile.
            count: buckets.iter().map(|(_, count)| count).sum(),
            sum: self.sum.get() as f64 / self.scale,
            buckets,
        }
    }
}

/// One reading of a [`Histogram`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HistogramSnapshot {
    /// How many values.
    pub count: u64,
    /// All values added.
    pub sum: f64,
    /// Upper bound and the number of values in this bucket alone; the last bound is infinite.
    pub(super) buckets: Vec<(f64, u64)>,
}

/// How long one window of a [`Peak`] lasts: longer than the usual scrape interval, so that no peak
/// falls between two scrapes.
const PEAK_WINDOW_MS: u64 = 15_000;

/// The largest value of the last 15 to 30 seconds.
///
/// It forgets by time and not by being read, so any number of readers see the same.
#[derive(Debug, Default)]
pub struct Peak {
    window_started_ms: AtomicU64,
    current: AtomicU64,
    previous: AtomicU64,
}

impl Peak {
    /// Takes note of `value`, observed at `now_ms` (monotonic).
    #[inline]
    pub fn observe(&self, now_ms: u64, value: u64) {
        let age_ms = now_ms.saturating_sub(self.window_started_ms.load(Relaxed));
        if age_ms >= PEAK_WINDOW_MS {
            let follows_directly = age_ms < 2 * PEAK_WINDOW_MS;
            let previous = if follows_directly {
                self.current.load(Relaxed)
            } else {
                0
            };
            self.previous.store(previous, Relaxed);
            self.current.store(value, Relaxed);
            self.window_started_ms.store(now_ms, Relaxed);
        } else if value > self.current.load(Relaxed) {
            self.current.store(value, Relaxed);
        }
    }

    /// The largest value of the last 15 to 30 seconds, as of the last observation.
    pub fn get(&self) -> u64 {
        self.current.load(Relaxed).max(self.previous.load(Relaxed))
    }
}

/// How old a heartbeat may be before its core counts as stalled.
const HEARTBEAT_LIMIT_MS: u64 = 2_000;

const NOT_STARTED: u64 = 0;
const ENDED: u64 = u64::MAX;

/// When a core last came round, in monotonic milliseconds since the start of the process.
#[derive(Debug, Default)]
pub struct Heartbeat(AtomicU64);

impl Heartbeat {
    /// The core came round at `now_ms`.
    #[inline]
    pub fn beat(&self, now_ms: u64) {
        self.0
            .store(now_ms.clamp(NOT_STARTED + 1, ENDED - 1), Relaxed);
    }

    /// The core has ended in good order and will beat no more; from now on it is not stalled.
    pub fn end(&self) {
        self.0.store(ENDED, Relaxed);
    }

    /// How long the core has been silent at `now_ms`, if that is longer than
    /// [`HEARTBEAT_LIMIT_MS`].
    ///
    /// A core that has not started or has ended in good order is not stalled.
    pub(super) fn stalled_for_ms(&self, now_ms: u64) -> Option<u64> {
        match self.0.load(Relaxed) {
            NOT_STARTED | ENDED => None,
            beat_ms => {
                Some(now_ms.saturating_sub(beat_ms)).filter(|age_ms| *age_ms > HEARTBEAT_LIMIT_MS)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn gauge_stops_at_zero() {
        let gauge = Gauge::default();
        gauge.add(3);
        gauge.sub(5);
        assert_eq!(gauge.get(), 0);
        gauge.inc();
        assert_eq!(gauge.get(), 1);
        gauge.dec();
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn durations_are_exposed_in_seconds() {
        let histogram = Histogram::of_durations();
        histogram.observe_us(1_000);
        histogram.observe_us(9_000_000);
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count, 2);
        assert!((snapshot.sum - 9.001).abs() < 1e-9);
        assert!(snapshot.buckets.contains(&(0.001, 1)));
        assert_eq!(snapshot.buckets.last(), Some(&(f64::INFINITY, 1)));
    }

    #[test]
    fn bounds_grow() {
        for bounds in [DURATION_BOUNDS_US, COUNT_BOUNDS] {
            assert!(bounds.is_sorted_by(|one, next| one < next));
        }
    }

    #[test]
    fn peak_is_seen_for_a_window_and_forgotten_after_two() {
        let peak = Peak::default();
        peak.observe(1_000, 70);
        peak.observe(2_000, 7);
        assert_eq!(peak.get(), 70);
        assert_eq!(peak.get(), 70, "reading does not reset it");
        peak.observe(16_000, 5);
        assert_eq!(peak.get(), 70, "the window before still counts");
        peak.observe(31_000, 6);
        assert_eq!(peak.get(), 6);
        peak.observe(100_000, 1);
        assert_eq!(peak.get(), 1, "what is older than two windows is gone");
    }

    #[test]
    fn heartbeat_is_stalled_only_between_start_and_end() {
        let heartbeat = Heartbeat::default();
        assert_eq!(heartbeat.stalled_for_ms(1_000_000), None);
        heartbeat.beat(0);
        assert_eq!(heartbeat.stalled_for_ms(HEARTBEAT_LIMIT_MS + 1), None);
        assert_eq!(
            heartbeat.stalled_for_ms(HEARTBEAT_LIMIT_MS + 2),
            Some(HEARTBEAT_LIMIT_MS + 1)
        );
        heartbeat.beat(5_000);
        assert_eq!(
            heartbeat.stalled_for_ms(4_000),
            None,
            "a reader's clock may be behind"
        );
        heartbeat.end();
        assert_eq!(heartbeat.stalled_for_ms(1_000_000), None);
    }

    proptest! {
        #[test]
        fn every_value_is_in_the_first_bucket_that_holds_it(
            values in prop::collection::vec(0u64..100_000, 0..50),
        ) {
            let histogram = Histogram::of_counts();
            for value in &values {
                histogram.observe(*value);
            }
            let snapshot = histogram.snapshot();
            prop_assert_eq!(snapshot.count, values.len() as u64);
            prop_assert_eq!(snapshot.sum, values.iter().sum::<u64>() as f64);
            let mut below = 0;
            for (bound, count) in snapshot.buckets {
                below += count;
                let expected = values.iter().filter(|value| **value as f64 <= bound).count();
                prop_assert_eq!(below, expected as u64);
            }
        }
    }
}
