//! The one place where time is read: monotonic time that goes on while the machine sleeps, and the wall clock for fencing and preflight.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// The present, on a time line that does not stand still while the machine is suspended.
///
/// It is tokio's clock (so tests can pause it) plus the time spent asleep since boot. Every deadline of
/// the crate lies on this line; [`to_tokio`] brings it back to the clock that timers and callers use.
pub(crate) fn now() -> Instant {
    Instant::now() + suspended()
}

/// The instant on tokio's clock at which [`now`] will reach `instant`, unless the machine sleeps until then.
pub(crate) fn to_tokio(instant: Instant) -> Instant {
    instant.checked_sub(suspended()).unwrap_or(instant)
}

/// When to look whether `instant` has come: then, but no later than in a second, since timers stand still
/// while the machine sleeps.
pub(crate) fn wake_at(instant: Instant) -> Instant {
    to_tokio(instant).min(Instant::now() + LONGEST_NAP)
}

const LONGEST_NAP: Duration = Duration::from_secs(1);

/// How long this machine has been suspended since this process first asked.
fn suspended() -> Duration {
    #[cfg(test)]
    if let Some(suspended) = crate::simulation::suspended() {
        return suspended;
    }
    static SINCE_BOOT: LazyLock<Duration> = LazyLock::new(|| system::suspended(Duration::MAX));
    static NOTED_MS: AtomicU64 = AtomicU64::new(0);
    let noted = Duration::from_millis(NOTED_MS.load(Ordering::Relaxed));
    let slept = system::suspended(*SINCE_BOOT + noted).saturating_sub(*SINCE_BOOT);
    // The reading is a difference of two clocks and wavers a little. Once noted it stands, lest a deadline
    // set with one reading be judged with a smaller one.
    if slept < noted + SHORTEST_SLEEP {
        return noted;
    }
    let slept_ms = u64::try_from(slept.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(NOTED_MS.fetch_max(slept_ms, Ordering::Relaxed).max(slept_ms))
}

/// What a machine cannot sleep less than.
const SHORTEST_SLEEP: Duration = Duration::from_millis(10);

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    use super::SHORTEST_SLEEP;

    /// How long the machine has been suspended since it booted. What differs from `expected` is read again
    /// until the thread was not held up between its readings.
    pub(super) fn suspended(expected: Duration) -> Duration {
        loop {
            let (before, boot) = (read(ClockId::Monotonic), read(ClockId::Boottime));
            let slept = boot.saturating_sub(before);
            let is_as_expected = slept.abs_diff(expected) < SHORTEST_SLEEP;
            if is_as_expected || read(ClockId::Monotonic).saturating_sub(before) < MOST_BETWEEN {
                return slept;
            }
        }
    }

    fn read(clock: ClockId) -> Duration {
        let time = clock_gettime(clock);
        let (secs, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
        Duration::new(secs.unwrap_or(0), nanos.unwrap_or(0))
    }

    const MOST_BETWEEN: Duration = Duration::from_millis(1);
}

/// Other systems' monotonic clocks offer no such reading here; what a suspended machine misses there is
/// documented as a limit of the crate.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    use std::time::Duration;

    pub(super) const fn suspended(_expected: Duration) -> Duration {
        Duration::ZERO
    }
}

/// A fencing proposal: the wall clock in microseconds since 1970, strictly growing within this process.
pub(crate) fn proposal() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    #[cfg(test)]
    if let Some(proposal) = crate::simulation::proposal() {
        return proposal;
    }
    above(&LAST, wall_micros())
}

/// The wall clock's reading, or one above the `last` proposal if that is more.
pub(crate) fn above(last: &AtomicU64, wall: u64) -> u64 {
    let last = last
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(wall.max(last + 1)))
        .unwrap_or(wall);
    wall.max(last + 1)
}

/// The wall clock's reading in microseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub(crate) fn wall_micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_micros()).ok())
        .map_or(0, |micros| micros.min(LATEST_MICROS))
}

/// Beyond this, in the year 2223, a clock is wrong, and the nodes' counters would soon run out of exact numbers.
const LATEST_MICROS: u64 = 8_000_000_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposals_grow_strictly() {
        let proposals: Vec<u64> = (0..10_000).map(|_| proposal()).collect();
        assert!(proposals.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[tokio::test(start_paused = true)]
    async fn time_follows_the_paused_clock() {
        let before = now();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(now() - before, Duration::from_secs(3600));
    }
}
