//! The samples of one metric, as they are written out.
//!
//! Owns the pairing of a metric's label names with the values of each sample.

use std::fmt;

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

use super::Histogram;

/// One family whose head is written. Label values are given in the order of the label names in the
/// table.
pub(super) struct Family<'a> {
    encoder: MetricEncoder<'a>,
    label_names: &'static [&'static str],
}

impl<'a> Family<'a> {
    /// With these names of labels.
    pub(super) fn new(encoder: MetricEncoder<'a>, label_names: &'static [&'static str]) -> Self {
        Self {
            encoder,
            label_names,
        }
    }

    /// A counter's sample.
    pub(super) fn counter(&mut self, labels: &[&str], value: u64) -> fmt::Result {
        self.sample(labels, |sample| {
            sample.encode_counter::<NoLabelSet, u64, f64>(&value, None)
        })
    }

    /// The sample of a counter of seconds.
    pub(super) fn counter_seconds(&mut self, labels: &[&str], value: f64) -> fmt::Result {
        self.sample(labels, |sample| {
            sample.encode_counter::<NoLabelSet, f64, f64>(&value, None)
        })
    }

    /// A gauge's sample.
    pub(super) fn gauge(&mut self, labels: &[&str], value: u64) -> fmt::Result {
        self.sample(labels, |sample| sample.encode_gauge(&value))
    }

    /// The sample of a gauge of seconds.
    pub(super) fn gauge_seconds(&mut self, labels: &[&str], value: f64) -> fmt::Result {
        self.sample(labels, |sample| sample.encode_gauge(&value))
    }

    /// A histogram's samples.
    pub(super) fn histogram(&mut self, labels: &[&str], histogram: &Histogram) -> fmt::Result {
        let reading = histogram.snapshot();
        self.sample(labels, |sample| {
            sample.encode_histogram::<NoLabelSet>(
                reading.sum,
                reading.count,
                &reading.buckets,
                None,
            )
        })
    }

    /// What never changes, which is in the labels.
    pub(super) fn info(&mut self, labels: &[&str]) -> fmt::Result {
        let labels = self.labelled(labels);
        self.encoder.encode_info(&labels)
    }

    fn sample(
        &mut self,
        labels: &[&str],
        write: impl FnOnce(&mut MetricEncoder) -> fmt::Result,
    ) -> fmt::Result {
        // An empty set of labels would be written as an empty pair of braces.
        if labels.is_empty() {
            return write(&mut self.encoder);
        }
        let labels = self.labelled(labels);
        write(&mut self.encoder.encode_family(&labels)?)
    }

    fn labelled<'v>(&self, values: &[&'v str]) -> Vec<(&'static str, &'v str)> {
        debug_assert_eq!(values.len(), self.label_names.len());
        self.label_names
            .iter()
            .copied()
            .zip(values.iter().copied())
            .collect()
    }
}
