//! How long things took, as quantiles: one histogram that every scenario fills and prints the same
//! way.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

/// Nothing shorter is told apart.
const LEAST_NS: u64 = 100;
/// Whatever takes longer counts as this.
const GREATEST_NS: u64 = 60_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Times of many messages.
#[derive(Clone)]
pub struct Latency {
    nanoseconds: Histogram<u64>,
}

impl Latency {
    /// Of no message yet.
    pub fn new() -> Result<Self> {
        Ok(Self {
            nanoseconds: Histogram::new_with_bounds(LEAST_NS, GREATEST_NS, SIGNIFICANT_DIGITS)?,
        })
    }

    /// Adds one message.
    pub fn record(&mut self, time: Duration) {
        self.nanoseconds.saturating_record(time.as_nanos() as u64);
    }

    /// All these together.
    pub fn sum<'a>(all: impl IntoIterator<Item = &'a Self>) -> Result<Self> {
        let mut sum = Self::new()?;
        for one in all {
            sum.nanoseconds.add(&one.nanoseconds)?;
        }
        Ok(sum)
    }

    /// One quantile in microseconds.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        self.nanoseconds.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// "p50 / p99 / p99.9" in microseconds.
    pub fn quantiles_us(&self) -> String {
        [0.5, 0.99, 0.999]
            .map(|quantile| format!("{:.0}", self.quantile_us(quantile)))
            .join(" / ")
    }
}
