//! The hold: what a claim is once a majority has granted it.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    metrics::{self, Label},
    types::{error::LossReason, token::Mark, validity::ClockDrift},
};

/// A held lock.
pub(super) struct Held {
    label: Label,
    pub(super) token: u64,
    pub(super) ttl: Duration,
    pub(super) since: Instant,
    /// For how long the key stays at least, though the lock may be released before.
    pub(super) min_hold: Duration,
    /// For how long the release leaves the key as done.
    pub(super) done_for: Option<Duration>,
    /// It is not renewed any more.
    pub(super) is_stopped: bool,
    pub(super) valid_until: Instant,
    pub(super) lost: Option<LossReason>,
    /// Its guard has gone while it was valid.
    pub(super) is_let_go: bool,
    /// Whether the loss was told to `on_renewal` and the log.
    loss_told: bool,
}

/// What the next renewal is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extension {
    pub(crate) ttl: Duration,
    /// The lock may be held no longer than that.
    pub(crate) is_last: bool,
}

impl Held {
    pub(super) fn new(
        label: Label,
        token: u64,
        ttl: Duration,
        since: Instant,
        valid_until: Instant,
    ) -> Self {
        metrics::held(label);
        Self {
            label,
            token,
            ttl,
            since,
            min_hold: Duration::ZERO,
            done_for: None,
            is_stopped: false,
            valid_until,
            lost: None,
            is_let_go: false,
            loss_told: false,
        }
    }

    /// Whether the lock is lost by `now`; a loss is for ever.
    pub(super) fn judge(&mut self, now: Instant) -> Option<LossReason> {
        if self.lost.is_none() && now >= self.valid_until {
            self.lose(LossReason::Expired);
        }
        self.lost
    }

    pub(super) fn lose(&mut self, reason: LossReason) {
        self.lost = Some(reason);
        metrics::lost(self.label, reason);
    }

    /// Until when its release leaves the key in place, and as what. A lock that is lost marks nothing as done: its work is not
    /// known to have been its own.
    pub(super) fn left(&self, is_valid: bool, now: Instant) -> Option<(Instant, Mark)> {
        let done_for = self.done_for.filter(|_| is_valid && now < self.valid_until);
        let done = done_for.and_then(|keep| now.checked_add(keep)).map(|until| (until, Mark::Done));
        done.or_else(|| is_valid.then(|| (self.since + self.min_hold, Mark::Kept)))
    }

    /// Shortly before the deadline, when there is a last chance to do something about it.
    pub(super) fn alarm(&self) -> Instant {
        let early = self.ttl / ALARM;
        self.valid_until.checked_sub(early).unwrap_or(self.valid_until)
    }

    /// The loss, if there is one that nobody was told yet.
    pub(super) fn take_untold_loss(&mut self, now: Instant) -> Option<LossReason> {
        let reason = self.judge(now)?;
        (!std::mem::replace(&mut self.loss_told, true)).then_some(reason)
    }

    /// How a lock that may be held for so long is extended at this time, if that gains anything.
    pub(super) fn last_extension(
        &self,
        now: Instant,
        max_hold: Duration,
        drift: ClockDrift,
    ) -> Option<Extension> {
        let left = max_hold.saturating_sub(now.saturating_duration_since(self.since));
        let extension = Extension { ttl: self.ttl.min(left), is_last: left <= self.ttl };
        let gains = drift.deadline(now, extension.ttl) > self.valid_until;
        Some(extension).filter(|_| gains && !self.is_stopped)
    }
}

/// Which part of the TTL is left at the alarm.
const ALARM: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn drift() -> ClockDrift {
        ClockDrift::new(0.0, SECOND)
    }

    /// A lock of ten seconds, and since when it is held.
    fn held() -> (Held, Instant) {
        let now = Instant::now();
        (Held::new(None, 7, 10 * SECOND, now, drift().deadline(now, 10 * SECOND)), now)
    }

    #[test]
    fn an_extension_that_gains_nothing_is_not_made() {
        let (held, since) = held();
        assert!(held.last_extension(since, 10 * SECOND, drift()).is_none());
        assert!(held.last_extension(since + SECOND, 11 * SECOND, drift()).is_some());
    }

    #[test]
    fn a_lock_that_is_not_renewed_any_more_is_not_extended() {
        let (mut held, since) = held();
        assert!(held.last_extension(since + SECOND, 60 * SECOND, drift()).is_some());
        held.is_stopped = true;
        assert!(held.last_extension(since + SECOND, 60 * SECOND, drift()).is_none());
    }

    #[test]
    fn an_extension_to_the_very_end_of_the_longest_hold_is_the_last() {
        let (held, since) = held();
        let last =
            |now| held.last_extension(now, 20 * SECOND, drift()).map(|it| (it.ttl, it.is_last));
        assert_eq!(last(since + 9 * SECOND), Some((10 * SECOND, false)));
        assert_eq!(last(since + 10 * SECOND), Some((10 * SECOND, true)));
        assert_eq!(last(since + 12 * SECOND), Some((8 * SECOND, true)));
    }

    #[test]
    fn the_alarm_is_a_tenth_of_the_ttl_before_the_deadline() {
        let (held, since) = held();
        assert_eq!(held.alarm(), since + 8 * SECOND);
    }

    #[test]
    fn a_lock_is_lost_at_its_deadline_and_for_ever() {
        let (mut held, since) = held();
        assert_eq!(held.judge(since + 9 * SECOND - Duration::from_nanos(1)), None);
        assert_eq!(held.judge(since + 9 * SECOND), Some(LossReason::Expired));
        assert_eq!(held.judge(since), Some(LossReason::Expired));
    }

    #[test]
    fn a_loss_is_told_once_and_a_lock_that_is_held_is_none() {
        let (mut held, since) = held();
        assert_eq!(held.take_untold_loss(since), None);
        held.lose(LossReason::Taken);
        assert_eq!(held.take_untold_loss(since), Some(LossReason::Taken));
        assert_eq!(held.take_untold_loss(since), None);
    }

    const SECOND: Duration = Duration::from_secs(1);
}
