//! How something compares with something else that was measured beside it.

use crate::measure::{median, percentile};

/// The ratios of what was measured in the same round, since what disturbs a round disturbs both.
pub struct Ratio(Vec<f64>);

impl Ratio {
    pub fn new(values: &[f64], references: &[f64]) -> Self {
        Self(values.iter().zip(references).map(|(value, reference)| value / reference).collect())
    }

    pub fn median(&self) -> f64 {
        median(self.0.iter().copied())
    }
    /// The median, and in brackets from the 10th to the 90th percentile, as a multiple of what `to` names.
    pub fn describe(&self, to: &str) -> String {
        let end = |percent| percentile(&self.0, percent, f64::total_cmp).unwrap_or(f64::NAN);
        format!("{:.2} x {to} ({:.2}..{:.2})", self.median(), end(10), end(90))
    }
}
