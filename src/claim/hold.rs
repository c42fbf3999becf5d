//! The hold: what a claim is once a majority has granted it.

use std::time::Duration;

use tokio::time::Instant;

use crate::{error::LossReason, metrics, validity::ClockDrift};

/// A held lock.
pub(super) struct Held {
    pub(super) token: u64,
    pub(super) ttl: Duration,
    pub(super) since: Instant,
    /// For how long the key stays at least, though the lock may be released before.
    pub(super) min_hold: Duration,
    /// It is not renewed any more.
    pub(super) is_stopped: bool,
    pub(super) valid_until: Instant,
    pub(super) lost: Option<LossReason>,
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
    pub(super) fn new(token: u64, ttl: Duration, since: Instant, valid_until: Instant) -> Self {
        metrics::held();
        let (min_hold, is_stopped, loss_told) = (Duration::ZERO, false, false);
        Self { token, ttl, since, min_hold, is_stopped, valid_until, lost: None, loss_told }
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
        metrics::lost(reason);
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
