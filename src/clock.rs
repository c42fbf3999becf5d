//! The one place where time is read: monotonic time that goes on while the machine sleeps, and the wall clock for fencing.

use std::{
    sync::atomic::{AtomicU64, Ordering},
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

/// How long this machine has been suspended since it booted.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn suspended() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let read = |clock| {
        let time = clock_gettime(clock);
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or(0),
            u32::try_from(time.tv_nsec).unwrap_or(0),
        )
    };
    // The two clocks are read one after the other: what passes in between is no sleep.
    let (monotonic, boot) = (read(ClockId::Monotonic), read(ClockId::Boottime));
    let slept = boot.saturating_sub(monotonic);
    Duration::from_millis(u64::try_from(slept.as_millis()).unwrap_or(u64::MAX) / 10 * 10)
}

/// Other systems' monotonic clocks offer no such reading here; what a suspended machine misses there is
/// documented as a limit of the crate.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn suspended() -> Duration {
    Duration::ZERO
}

/// A fencing proposal: the wall clock in microseconds since 1970, strictly growing within this process.
pub(crate) fn proposal() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let wall = wall_micros();
    let last = LAST
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(wall.max(last + 1)))
        .unwrap_or(wall);
    wall.max(last + 1)
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall_micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_micros()).ok())
        .unwrap_or(0)
}

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
