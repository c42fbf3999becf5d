//! What the log and `on_renewal` are told of a lock's life.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    claim::Claim,
    host::clock,
    node::tally::Shortage,
    types::{error::LossReason, event::RenewalEvent},
};

/// Tells the log and the owner that a renewal failed.
pub(super) fn tell_failed(claim: &Claim, failed: Shortage, remaining: Duration) {
    let (key, error) = (claim.key().to_owned(), failed.error(claim.key()));
    tracing::debug!(key, %error, ?remaining, "renewal failed");
    tell(claim, || RenewalEvent::Failed { key, error, remaining });
}

/// Tells the owner that a lock is not renewed any more, and ends at this time.
pub(super) fn tell_stop(claim: &Claim, until: Instant) {
    if !claim.stop() {
        return;
    }
    let valid_until = clock::to_tokio(until);
    tracing::debug!(key = claim.key(), "held for as long as it may be; renewal ends");
    tell(claim, || RenewalEvent::Stopped { key: claim.key().to_owned(), valid_until });
}

/// Tells the log and the owner that a lock is lost, once. If it has expired because its last renewal failed, that is the
/// cause, or else what the caller knows.
pub(crate) fn tell_loss(claim: &Claim, cause: Option<&str>) {
    let Some(reason) = claim.take_untold_loss() else { return };
    let _span = claim.span().entered();
    if reason != LossReason::Closed {
        let fencing_token = claim.fencing_token().get();
        let failed = claim.failed().map(|failed| failed.error(claim.key()).to_string());
        let cause = failed.as_deref().or(cause).filter(|_| reason == LossReason::Expired);
        let (key, label) = (claim.key(), claim.label);
        tracing::warn!(key, label, fencing_token, %reason, cause, "lock lost");
    }
    tell(claim, || RenewalEvent::Lost { key: claim.key().to_owned(), reason });
}

/// Calls the owner's callback, if there is one. A panic in it is the owner's own affair.
pub(super) fn tell(claim: &Claim, event: impl FnOnce() -> RenewalEvent) {
    let renewal = claim.renewal();
    let Some(on_event) = renewal.and_then(|renewal| renewal.on_event.as_ref()) else { return };
    let event = event();
    if catch_unwind(AssertUnwindSafe(|| on_event(&event))).is_err() {
        tracing::error!(key = claim.key(), "on_renewal panicked");
    }
}
