//! What an auto-renewed lock tells its owner.

use std::time::Duration;

use tokio::time::Instant;

use crate::types::error::{Error, LossReason};

/// Something that happened to an auto-renewed lock, told to [`on_renewal`](crate::LockRequest::on_renewal).
#[derive(Debug)]
#[non_exhaustive]
pub enum RenewalEvent {
    /// A majority extended the lock.
    #[non_exhaustive]
    Renewed {
        /// The lock's key.
        key: String,
        /// Until when the lock may now be relied on.
        valid_until: Instant,
    },
    /// An extension did not reach a majority; it is tried again until the validity is over.
    ///
    /// Not each attempt is told: what went wrong is told once, what else goes wrong then at once, what goes on after 1,
    /// 2, 4 .. more seconds, and once more when a tenth of the TTL is left. After a success it begins anew.
    #[non_exhaustive]
    Failed {
        /// The lock's key.
        key: String,
        /// What went wrong.
        error: Error,
        /// What is left of the validity.
        remaining: Duration,
    },
    /// The lock is not renewed any more, since [`max_hold`](crate::LockRequest::max_hold) allows no more: unless
    /// it is released before, it ends at `valid_until`.
    #[non_exhaustive]
    Stopped {
        /// The lock's key.
        key: String,
        /// Until when the lock may still be relied on.
        valid_until: Instant,
    },
    /// The lock is lost. This is the last event.
    #[non_exhaustive]
    Lost {
        /// The lock's key.
        key: String,
        /// How it was lost.
        reason: LossReason,
    },
}
