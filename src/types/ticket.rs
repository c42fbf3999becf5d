//! Tickets: a lock on its way from one process to another.

use std::time::Duration;

use super::{
    attempt_id::AttemptId,
    token::{FencingToken, OwnerToken},
};

/// What another process needs to take a lock over: made by [`LockGuard::into_ticket`](crate::LockGuard::into_ticket), redeemed by
/// [`LockManager::adopt`](crate::LockManager::adopt).
///
/// It holds the whole owner token, so treat it as a secret. With the feature `serde` it can be serialised.
///
/// ```
/// use std::time::Duration;
/// use redlatch::{FencingToken, LockTicket, OwnerToken};
///
/// let (owner, fencing) = (OwnerToken::new("worker-7")?, FencingToken::new(34));
/// let ticket = LockTicket::new("shard:3", owner, fencing, Duration::from_secs(30));
/// assert_eq!(ticket.key(), "shard:3");
/// # Ok::<(), redlatch::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LockTicket {
    pub(crate) key: String,
    pub(crate) owner_token: OwnerToken,
    pub(crate) fencing_token: FencingToken,
    pub(crate) ttl: Duration,
    /// Which of the owner's locks it is. A ticket that was rebuilt does not say.
    #[cfg_attr(feature = "serde", serde(default))]
    pub(crate) attempt: Option<AttemptId>,
}

impl LockTicket {
    /// Rebuilds a ticket from its parts; `key` is without the manager's prefix.
    ///
    /// Nothing is checked before the ticket is adopted. Which of its owner's locks is meant is asked then, in one more
    /// round trip; the ticket of a guard says it.
    #[must_use]
    pub fn new(
        key: impl Into<String>,
        owner_token: OwnerToken,
        fencing_token: FencingToken,
        ttl: Duration,
    ) -> Self {
        Self { key: key.into(), owner_token, fencing_token, ttl, attempt: None }
    }

    /// The same ticket, for the lock that this attempt became.
    pub(crate) fn of(self, attempt: AttemptId) -> Self {
        Self { attempt: Some(attempt), ..self }
    }

    /// Returns the lock's key, without the manager's prefix.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the value under the key in Redis.
    #[must_use]
    pub const fn owner_token(&self) -> &OwnerToken {
        &self.owner_token
    }

    /// Returns the lock's fencing token, which stays the same when the lock is adopted.
    #[must_use]
    pub const fn fencing_token(&self) -> FencingToken {
        self.fencing_token
    }

    /// Returns the TTL to which the lock is extended when it is adopted.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }
}
