//! How long a holder may rely on a lock: TTL, drift, and the deadline that a majority of votes supports.

use std::time::Duration;

use tokio::time::Instant;

use crate::types::{
    error::{Error, Result},
    few::Few,
};

/// The allowance for clocks that run at different rates: `factor * TTL + floor`.
///
/// A lock is valid for its TTL less this allowance, counted from before the first byte was sent. The
/// default of 1 % and 2 ms is that of the Redlock algorithm (redis.io, "Distributed locks").
///
/// ```
/// use std::time::Duration;
/// use redlatch::{ClockDrift, LockManager};
///
/// let manager = LockManager::single("redis://127.0.0.1")
///     .clock_drift(ClockDrift::new(0.02, Duration::from_millis(5)))
///     .build()?;
/// # Ok::<(), redlatch::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClockDrift {
    factor: f64,
    floor: Duration,
}

impl ClockDrift {
    /// Creates an allowance of `factor` times the TTL plus `floor`.
    ///
    /// A factor outside `[0, 1)` is reported by [`build`](crate::LockManagerBuilder::build).
    #[must_use]
    pub const fn new(factor: f64, floor: Duration) -> Self {
        Self { factor, floor }
    }

    pub(crate) fn check(self) -> Result<()> {
        if (0.0..1.0).contains(&self.factor) {
            return Ok(());
        }
        Err(Error::config(format!(
            "the clock drift factor must lie in [0, 1), not {}",
            self.factor
        )))
    }

    fn allowance(self, ttl: Duration) -> Duration {
        ttl.mul_f64(self.factor).saturating_add(self.floor)
    }

    /// What is left of `ttl` after the allowance for a lock of that TTL.
    fn usable(self, ttl: Duration) -> Option<Duration> {
        ttl.checked_sub(self.allowance(ttl)).filter(|left| !left.is_zero())
    }

    /// The instant until which a vote `sent` then, with `ttl` to live at that time, may be relied on.
    pub(crate) fn deadline(self, sent: Instant, ttl: Duration) -> Instant {
        self.usable(ttl).map_or(sent, |left| sent + left)
    }
}

impl Default for ClockDrift {
    fn default() -> Self {
        Self::new(0.01, Duration::from_millis(2))
    }
}

/// Refuses a TTL below 1 ms, above 24 h, or of which the drift allowance leaves nothing.
pub(crate) fn check_ttl(ttl: Duration, drift: ClockDrift) -> Result<()> {
    if ttl < SHORTEST_TTL || ttl > LONGEST_TTL {
        return Err(Error::config(format!("the TTL must lie between 1 ms and 24 h, not {ttl:?}")));
    }
    if drift.usable(ttl).is_none() {
        return Err(Error::config(format!(
            "the clock drift allowance of {:?} leaves nothing of the TTL of {ttl:?}",
            drift.allowance(ttl)
        )));
    }
    Ok(())
}

/// The TTL in whole milliseconds as Redis keeps it: rounded up, so that no key ends before its holder thinks.
pub(crate) fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The `quorum`-th largest of the votes' deadlines: until then a majority of them holds.
///
/// Rules 4 and 5: a later one would rely on fewer nodes than any other majority must meet.
pub(crate) fn supported_by(
    quorum: usize,
    deadlines: impl Iterator<Item = Instant>,
) -> Option<Instant> {
    let mut deadlines: Few<Instant> = deadlines.collect();
    deadlines.sort_unstable_by(|a, b| b.cmp(a));
    deadlines.get(quorum - 1).copied()
}

/// More than half of the configured nodes.
pub(crate) const fn quorum(nodes: usize) -> usize {
    nodes / 2 + 1
}

const SHORTEST_TTL: Duration = Duration::from_millis(1);
pub(crate) const LONGEST_TTL: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn the_allowance_is_taken_from_the_ttl() {
        let sent = Instant::now();
        let deadline = ClockDrift::default().deadline(sent, ms(10_000));
        assert_eq!(deadline - sent, ms(10_000 - 100 - 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_vote_with_too_little_to_live_supports_nothing() {
        let sent = Instant::now();
        assert_eq!(ClockDrift::default().deadline(sent, ms(1)), sent);
    }

    #[test]
    fn ttls_out_of_range_are_refused() {
        let drift = ClockDrift::new(0.0, Duration::ZERO);
        for refused in [Duration::ZERO, Duration::from_micros(999), ms(86_400_001), Duration::MAX] {
            assert!(check_ttl(refused, drift).is_err(), "{refused:?}");
        }
        for accepted in [ms(1), Duration::from_micros(1_500), ms(86_400_000)] {
            assert!(check_ttl(accepted, drift).is_ok(), "{accepted:?}");
        }
    }

    #[test]
    fn a_ttl_that_drift_eats_up_is_refused() {
        assert!(check_ttl(ms(2), ClockDrift::default()).is_err());
        assert!(check_ttl(ms(3), ClockDrift::default()).is_ok());
    }

    #[test]
    fn drift_factors_out_of_range_are_refused() {
        for factor in [-0.1, 1.0, 2.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(ClockDrift::new(factor, ms(0)).check().is_err(), "{factor}");
        }
    }

    #[test]
    fn redis_keeps_at_least_the_ttl() {
        assert_eq!(millis(ms(7)), 7);
        assert_eq!(millis(Duration::from_micros(7_001)), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_majority_supports_the_quorumth_largest_deadline() {
        let start = Instant::now();
        let deadlines = || [5, 1, 9, 7].map(|n| start + ms(n)).into_iter();
        assert_eq!(supported_by(3, deadlines()), Some(start + ms(5)));
        assert_eq!(supported_by(5, deadlines()), None);
    }

    #[test]
    fn a_quorum_is_more_than_half() {
        assert_eq!([1, 2, 3, 4, 5, 6].map(quorum), [1, 2, 2, 3, 3, 4]);
    }
}
