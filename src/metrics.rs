//! Metrics, through the `metrics` facade. Without the feature nothing of this is left but calls of empty functions.

use std::time::Duration;

use tokio::time::Instant;

use crate::types::error::{Error, LossReason};

/// What operators call locks of one kind: on every series that is about locks.
pub(crate) type Label = Option<&'static str>;

/// How an acquire fares. It is recorded when dropped, so that one that is given up counts too.
pub(crate) struct Acquiring {
    pub(crate) began: Instant,
    /// Those that were made and failed.
    pub(crate) attempts: u32,
    outcome: &'static str,
    label: Label,
}

impl Acquiring {
    pub(crate) fn begin(label: Label) -> Self {
        Self { began: Instant::now(), attempts: 0, outcome: "cancelled", label }
    }

    /// Notes how it ended.
    pub(crate) fn end(&mut self, error: Option<&Error>) {
        self.outcome = match error {
            None => "acquired",
            Some(error) if error.is_contended() => "contended",
            Some(error) if error.is_unavailable() => "unavailable",
            Some(error) if error.is_late() => "late",
            Some(Error::Closed) => "closed",
            Some(_) => "refused",
        };
    }
}

impl Drop for Acquiring {
    fn drop(&mut self) {
        let labels = [Some(("outcome", self.outcome)), of_lock(self.label)];
        let succeeded = u32::from(self.outcome == "acquired");
        recorder::sample(ACQUIRE, labels, || self.began.elapsed().as_secs_f64());
        recorder::sample(ATTEMPTS, labels, || f64::from(self.attempts.saturating_add(succeeded)));
    }
}

/// Somebody waits in the local queue as long as this lives.
pub(crate) struct Waiting {
    label: Label,
}

impl Waiting {
    pub(crate) fn begin(label: Label) -> Self {
        recorder::shift(WAITERS, [of_lock(label)], 1.0);
        Self { label }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        recorder::shift(WAITERS, [of_lock(self.label)], -1.0);
    }
}

/// An acquire was refused before its first attempt.
pub(crate) fn refused(label: Label, error: &Error) {
    Acquiring::begin(label).end(Some(error));
}

/// A lock is held from now on.
pub(crate) fn held(label: Label) {
    recorder::shift(GUARDS, [of_lock(label)], 1.0);
}

/// A guard has gone that held a lock for so long.
pub(crate) fn let_go(label: Label, held: Duration) {
    recorder::shift(GUARDS, [of_lock(label)], -1.0);
    recorder::sample(HOLD, [of_lock(label)], || held.as_secs_f64());
}

/// A lock was lost under its guard.
pub(crate) fn lost(label: Label, reason: LossReason) {
    let reason = match reason {
        LossReason::Expired => "expired",
        LossReason::Taken => "taken",
        LossReason::Closed => "closed",
        LossReason::Released => return,
    };
    recorder::count(LOSSES, [Some(("reason", reason)), of_lock(label)]);
}

/// A renewal was confirmed when so much of the validity was left.
pub(crate) fn renewed(label: Label, margin: Duration) {
    recorder::sample(MARGIN, [of_lock(label)], || margin.as_secs_f64());
}

/// A renewal was not confirmed.
pub(crate) fn renewal_failed(label: Label) {
    recorder::count(RENEWAL_FAILURES, [of_lock(label)]);
}

/// A release was not confirmed within the release timeout.
pub(crate) fn release_failed(label: Label) {
    recorder::count(RELEASE_FAILURES, [of_lock(label)]);
}

/// A node was asked in one piece and took so long to answer, though it may have failed to answer some of it.
pub(crate) fn asked(node: &str, took: Duration, has_answered: bool, failures: usize) {
    let node = [Some(("node", node))];
    if has_answered {
        recorder::sample(NODE, node, || took.as_secs_f64());
    }
    (0..failures).for_each(|_| recorder::count(NODE_FAILURES, node));
}

/// Tells the installed recorder what redlatch's metrics mean and their units.
///
/// Call it once, after the recorder was installed. The metrics themselves are recorded without it.
///
/// ```
/// redlatch::describe_metrics();
/// ```
#[cfg(feature = "metrics")]
pub fn describe_metrics() {
    use ::metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_histogram!(ACQUIRE, Unit::Seconds, "from the call of an acquire to its end");
    describe_histogram!(ATTEMPTS, Unit::Count, "attempts of an acquire");
    describe_histogram!(HOLD, Unit::Seconds, "from taking a lock to the end of its guard");
    describe_histogram!(MARGIN, Unit::Seconds, "validity left when a renewal was confirmed");
    describe_counter!(RENEWAL_FAILURES, Unit::Count, "renewals that no majority confirmed");
    describe_counter!(LOSSES, Unit::Count, "locks lost under their guards");
    describe_counter!(RELEASE_FAILURES, Unit::Count, "releases not confirmed in time");
    describe_gauge!(GUARDS, Unit::Count, "guards of held locks in this process");
    describe_gauge!(WAITERS, Unit::Count, "acquires in this process' queues");
    describe_histogram!(NODE, Unit::Seconds, "time a node took over a command");
    describe_counter!(NODE_FAILURES, Unit::Count, "commands that a node failed");
}

const ACQUIRE: &str = "redlatch_acquire_seconds";
const ATTEMPTS: &str = "redlatch_acquire_attempts";
const HOLD: &str = "redlatch_hold_seconds";
const MARGIN: &str = "redlatch_renewal_margin_seconds";
const RENEWAL_FAILURES: &str = "redlatch_renewal_failures_total";
const LOSSES: &str = "redlatch_losses_total";
const RELEASE_FAILURES: &str = "redlatch_release_failures_total";
const GUARDS: &str = "redlatch_guards";
const WAITERS: &str = "redlatch_waiters";
const NODE: &str = "redlatch_node_seconds";
const NODE_FAILURES: &str = "redlatch_node_failures_total";

/// A name and a value that tell apart what is recorded under one name, if there is one.
type Pair<'a> = Option<(&'static str, &'a str)>;

fn of_lock(label: Label) -> Pair<'static> {
    label.map(|label| ("label", label))
}

#[cfg(feature = "metrics")]
mod recorder {
    use metrics::{counter, gauge, histogram};

    use super::Pair;

    pub(super) fn count<const N: usize>(name: &'static str, pairs: [Pair<'_>; N]) {
        counter!(name, labels(pairs)).increment(1);
    }

    pub(super) fn sample<const N: usize>(
        name: &'static str,
        pairs: [Pair<'_>; N],
        value: impl FnOnce() -> f64,
    ) {
        histogram!(name, labels(pairs)).record(value());
    }

    pub(super) fn shift<const N: usize>(name: &'static str, pairs: [Pair<'_>; N], by: f64) {
        gauge!(name, labels(pairs)).increment(by);
    }

    fn labels<const N: usize>(pairs: [Pair<'_>; N]) -> Vec<metrics::Label> {
        let own = |(name, value): (&'static str, &str)| metrics::Label::new(name, value.to_owned());
        pairs.into_iter().flatten().map(own).collect()
    }
}

#[cfg(not(feature = "metrics"))]
mod recorder {
    use super::Pair;

    pub(super) const fn count<const N: usize>(_: &'static str, _: [Pair<'_>; N]) {}

    pub(super) fn sample<const N: usize>(
        _: &'static str,
        _: [Pair<'_>; N],
        _: impl FnOnce() -> f64,
    ) {
    }

    pub(super) const fn shift<const N: usize>(_: &'static str, _: [Pair<'_>; N], _: f64) {}
}
