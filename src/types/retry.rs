//! When to try again: the delays between attempts, and how many there may be.

use std::{fmt, sync::Arc, time::Duration};

use crate::host::random;

/// How long [`acquire`](crate::LockRequest::acquire) pauses between attempts, and how often it tries again.
///
/// Without [`max_retries`](Self::max_retries) an acquire goes on as long as its caller lets it. A delay of
/// zero still pauses 1 ms. Retry number `n` is the `n`-th attempt after the first.
///
/// ```
/// use std::time::Duration;
/// use redlatch::Retry;
///
/// let patient = Retry::jittered(Duration::from_millis(50), Duration::from_millis(100));
/// let growing = Retry::exponential(Duration::from_millis(10), 2.0, Duration::from_secs(1))
///     .with_jitter(Duration::from_millis(5))
///     .max_retries(8);
/// let chosen = Retry::from_fn(|n| Duration::from_millis(20) * n);
/// let once = Retry::never();
/// ```
#[derive(Clone)]
pub struct Retry {
    delays: Delays,
    jitter: Duration,
    max_retries: Option<u32>,
}

#[derive(Clone)]
enum Delays {
    Constant(Duration),
    Exponential { base: Duration, factor: f64, max_delay: Duration },
    Chosen(Arc<dyn Fn(u32) -> Duration + Send + Sync>),
}

impl Retry {
    /// Creates a policy whose delays are `min_delay` plus a random time in `[0, max_jitter)`, without limit.
    #[must_use]
    pub const fn jittered(min_delay: Duration, max_jitter: Duration) -> Self {
        Self::unlimited(Delays::Constant(min_delay), max_jitter)
    }

    /// Creates a policy whose `n`-th delay is `base * factor^(n-1)`, at most `max_delay`, without limit.
    ///
    /// A factor that is negative or not a number counts as zero.
    #[must_use]
    pub const fn exponential(base: Duration, factor: f64, max_delay: Duration) -> Self {
        Self::unlimited(Delays::Exponential { base, factor, max_delay }, Duration::ZERO)
    }

    /// Creates a policy whose `n`-th delay is `delay(n)`, without limit; `n` is 1 for the first retry.
    #[must_use]
    pub fn from_fn(delay: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        Self::unlimited(Delays::Chosen(Arc::new(delay)), Duration::ZERO)
    }

    /// Creates a policy of one attempt and no retry.
    #[must_use]
    pub const fn never() -> Self {
        Self::jittered(Duration::ZERO, Duration::ZERO).max_retries(0)
    }

    /// Adds a random time in `[0, max)` to every delay, in place of the jitter so far.
    #[must_use]
    pub const fn with_jitter(mut self, max: Duration) -> Self {
        self.jitter = max;
        self
    }

    /// Limits the attempts to one plus `n` retries. Default: no limit.
    #[must_use]
    pub const fn max_retries(mut self, n: u32) -> Self {
        self.max_retries = Some(n);
        self
    }

    const fn unlimited(delays: Delays, jitter: Duration) -> Self {
        Self { delays, jitter, max_retries: None }
    }

    /// Whether the policy allows a retry after `attempts` attempts.
    pub(crate) fn allows_another(&self, attempts: u32) -> bool {
        self.max_retries.is_none_or(|max| attempts <= max)
    }

    /// Whether the caller bounded the retries, and so wants each of them at its time.
    pub(crate) const fn is_limited(&self) -> bool {
        self.max_retries.is_some()
    }

    /// The pause before retry number `n`.
    pub(crate) fn delay(&self, n: u32) -> Duration {
        let delay = match &self.delays {
            Delays::Constant(delay) => *delay,
            Delays::Exponential { base, factor, max_delay } => {
                grown(*base, *factor, n).min(*max_delay)
            }
            Delays::Chosen(delay) => delay(n),
        };
        delay.saturating_add(below(self.jitter)).max(SHORTEST_DELAY)
    }
}

impl Default for Retry {
    /// Up to 300 ms of jitter and no minimum, without limit.
    fn default() -> Self {
        Self::jittered(Duration::ZERO, Duration::from_millis(300))
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Retry");
        match &self.delays {
            Delays::Constant(delay) => debug.field("min_delay", delay),
            Delays::Exponential { base, factor, max_delay } => {
                debug.field("base", base).field("factor", factor).field("max_delay", max_delay)
            }
            Delays::Chosen(_) => debug.field("delay", &"from_fn"),
        };
        debug.field("jitter", &self.jitter).field("max_retries", &self.max_retries).finish()
    }
}

/// A random time in `[0, max)`.
pub(crate) fn below(max: Duration) -> Duration {
    max.mul_f64(random::unit())
}

fn grown(base: Duration, factor: f64, n: u32) -> Duration {
    let exponent = i32::try_from(n.saturating_sub(1)).unwrap_or(i32::MAX);
    let seconds = base.as_secs_f64() * factor.max(0.0).powi(exponent);
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

const SHORTEST_DELAY: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn jittered_delays_stay_in_their_range() {
        let retry = Retry::jittered(ms(10), ms(5));
        for n in 1..1_000 {
            assert!((ms(10)..ms(15)).contains(&retry.delay(n)));
        }
    }

    #[test]
    fn exponential_delays_grow_to_their_cap() {
        let retry = Retry::exponential(ms(10), 2.0, ms(65));
        assert_eq!([1, 2, 3, 4, 5].map(|n| retry.delay(n)), [10, 20, 40, 65, 65].map(ms));
        assert_eq!(retry.delay(u32::MAX), ms(65));
    }

    #[test]
    fn odd_factors_do_no_harm() {
        for factor in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
            let delay = Retry::exponential(ms(10), factor, ms(65)).delay(3);
            assert!((ms(1)..=ms(65)).contains(&delay), "{factor}: {delay:?}");
        }
    }

    #[test]
    fn chosen_delays_start_with_the_first_retry() {
        let retry = Retry::from_fn(|n| ms(7) * n);
        assert_eq!([1, 2, 3].map(|n| retry.delay(n)), [7, 14, 21].map(ms));
    }

    #[test]
    fn a_zero_delay_still_pauses() {
        assert_eq!(Retry::from_fn(|_| Duration::ZERO).delay(1), ms(1));
    }

    #[test]
    fn huge_delays_do_not_overflow() {
        let retry = Retry::from_fn(|_| Duration::MAX).with_jitter(Duration::from_secs(1));
        assert_eq!(retry.delay(1), Duration::MAX);
    }

    #[test]
    fn retries_are_counted_after_the_first_attempt() {
        assert!(!Retry::never().allows_another(1));
        let two = Retry::default().max_retries(2);
        assert!(two.allows_another(2) && !two.allows_another(3));
        assert!(Retry::default().allows_another(u32::MAX));
    }

    fn duration() -> impl Strategy<Value = Duration> {
        prop_oneof![any::<Duration>(), (0..10_000u64).prop_map(ms), Just(Duration::MAX)]
    }

    fn number() -> impl Strategy<Value = u32> {
        prop_oneof![1..50u32, any::<u32>()]
    }

    proptest! {
        #[test]
        fn jittered_delays_are_bounded_whatever_is_asked(
            min in duration(), jitter in duration(), n in number(),
        ) {
            let delay = Retry::jittered(min, jitter).delay(n);
            prop_assert!(delay >= min.max(SHORTEST_DELAY), "{delay:?}");
            prop_assert!(delay <= min.saturating_add(jitter).max(SHORTEST_DELAY), "{delay:?}");
        }

        #[test]
        fn exponential_delays_are_bounded_whatever_is_asked(
            base in duration(), factor: f64, most in duration(), jitter in duration(), n in number(),
        ) {
            let retry = Retry::exponential(base, factor, most);
            prop_assert!(retry.delay(n) >= SHORTEST_DELAY);
            prop_assert!(retry.delay(n) <= most.max(SHORTEST_DELAY));
            let delay = retry.with_jitter(jitter).delay(n);
            prop_assert!(delay <= most.saturating_add(jitter).max(SHORTEST_DELAY), "{delay:?}");
        }

        #[test]
        fn exponential_delays_do_not_shrink(
            base in duration(), factor in 1.0..10.0f64, most in duration(), n in 1..100u32,
        ) {
            let retry = Retry::exponential(base, factor, most);
            prop_assert!(retry.delay(n) <= retry.delay(n + 1));
        }

        #[test]
        fn chosen_delays_are_bounded_whatever_is_chosen(
            chosen in duration(), jitter in duration(), n: u32,
        ) {
            let delay = Retry::from_fn(move |_| chosen).with_jitter(jitter).delay(n);
            prop_assert!(delay >= chosen.max(SHORTEST_DELAY), "{delay:?}");
            prop_assert!(delay <= chosen.saturating_add(jitter).max(SHORTEST_DELAY), "{delay:?}");
        }
    }
}
