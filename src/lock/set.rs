//! A set: several held locks that live and end as one.

use std::{fmt, future::Future, time::Duration};

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::{
    claim::{Claim, origin::Renewal},
    host::clock,
    lock::{
        guard::LockGuard,
        watch::{Lost, WarnBefore, WhileHeld},
    },
    types::{
        error::{Error, Result},
        token::FencingToken,
    },
};

/// Several held locks: made by [`LockManager::lock_all`](crate::LockManager::lock_all). Dropping it releases them all
/// in the background.
///
/// It is as good as its weakest lock: the loss of one is the loss of the set. Each key has a
/// [fencing token](Self::fencing_token) of its own, for the resource that the key stands for.
///
/// ```
/// # use redlatch::LockManager;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
/// let manager = LockManager::in_memory();
/// let set = manager.lock_all(["account:7", "account:3"]).auto_renew().acquire().await?;
/// for (key, fencing_token) in set.fencing_tokens() {
///     println!("write to {key} with fencing token {fencing_token}");
/// }
/// set.release().await?;
/// # Ok(()) }
/// ```
#[doc(alias = "multilock")]
#[must_use = "if unused, the locks are released immediately"]
pub struct LockSet {
    /// At least one, in the order of their keys.
    guards: Vec<LockGuard>,
}

impl LockSet {
    pub(crate) const fn new(guards: Vec<LockGuard>) -> Self {
        Self { guards }
    }

    pub(crate) fn push(&mut self, guard: LockGuard) {
        self.guards.push(guard);
    }

    /// How long the lock that was taken last may still be relied on.
    pub(crate) fn newest(&self) -> Duration {
        self.guards.last().map(LockGuard::remaining).unwrap_or_default()
    }

    /// Tells which lock is not valid any more, if one is not.
    pub(crate) fn check(&self) -> Result<()> {
        match self.guards.iter().find(|guard| !guard.is_valid()) {
            Some(lost) => Err(Error::NotHeld { key: lost.key().to_owned() }),
            None => Ok(()),
        }
    }

    /// Begins the hold of all the locks at one time, and has them renewed at the same times.
    pub(crate) fn begin(&self, renewal: Option<&Renewal>) {
        let now = clock::now();
        for guard in &self.guards {
            guard.claim().begin_hold(now);
            renewal.into_iter().for_each(|renewal| guard.renew_by(renewal.clone()));
        }
    }

    /// Has an early release leave the keys in place until they were held for so long.
    pub(crate) fn keep_for(&self, min_hold: Duration) {
        self.guards.iter().for_each(|guard| guard.claim().keep_for(min_hold));
    }

    /// Returns the guards of the single locks, in the order of their keys.
    #[must_use = "if unused, the locks are released immediately"]
    pub fn into_guards(self) -> Vec<LockGuard> {
        self.guards
    }

    /// Returns the keys, sorted, each once.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.guards.iter().map(LockGuard::key)
    }

    /// Returns the number that grows strictly from holder to holder of this key; `None` if it is not of the set.
    #[must_use]
    pub fn fencing_token(&self, key: &str) -> Option<FencingToken> {
        let guard = self.guards.iter().find(|guard| guard.key() == key);
        guard.map(LockGuard::fencing_token)
    }

    /// Returns each key with its fencing token, in the order of the keys.
    pub fn fencing_tokens(&self) -> impl Iterator<Item = (&str, FencingToken)> {
        self.guards.iter().map(|guard| (guard.key(), guard.fencing_token()))
    }

    /// Returns until when all the locks may be relied on.
    #[must_use]
    pub fn valid_until(&self) -> Instant {
        let ends = self.guards.iter().map(LockGuard::valid_until);
        ends.min().unwrap_or_else(Instant::now)
    }

    /// Returns how long all the locks may still be relied on; zero when one is not valid.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.guards.iter().map(LockGuard::remaining).min().unwrap_or_default()
    }

    /// Whether all the locks may be relied on at this moment.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.guards.iter().all(LockGuard::is_valid)
    }

    /// Gives all the locks at least `ttl` from now: see [`LockGuard::extend`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the TTLs may or may not have been reset. [`valid_until`](Self::valid_until)
    /// counts only what is confirmed.
    ///
    /// # Errors
    ///
    /// As [`LockGuard::extend`], for the first key that fails. The others may have been extended.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let set = LockManager::in_memory().lock_all(["a", "b"]).acquire().await?;
    /// set.extend(Duration::from_secs(60)).await?;
    /// # Ok(()) }
    /// ```
    #[doc(alias("renew", "refresh"))]
    pub async fn extend(&self, ttl: Duration) -> Result<()> {
        all(self.guards.iter().map(|guard| guard.extend(ttl))).await
    }

    /// As [`extend`](Self::extend), in one round.
    ///
    /// # Cancel safety
    ///
    /// As [`extend`](Self::extend).
    ///
    /// # Errors
    ///
    /// As [`LockGuard::try_extend`], for the first key that fails. The others may have been extended.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let set = LockManager::in_memory().lock_all(["a", "b"]).acquire().await?;
    /// set.try_extend(Duration::from_secs(60)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_extend(&self, ttl: Duration) -> Result<()> {
        all(self.guards.iter().map(|guard| guard.try_extend(ttl))).await
    }

    /// Returns a future that resolves once the first of the locks is lost, with how: see [`LockGuard::lost`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Panics
    ///
    /// Awaiting it outside of a tokio runtime with a timer panics, as all of tokio's timers do.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use redlatch::{LockManager, LossReason};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let set = manager.lock_all(["a", "b"]).ttl(Duration::from_millis(50)).acquire().await?;
    /// assert_eq!(set.lost().await, LossReason::Expired);
    /// # Ok(()) }
    /// ```
    pub fn lost(&self) -> Lost<'_> {
        let mut claims = self.claims();
        #[expect(clippy::expect_used, reason = "a set is made of at least one key")]
        let first = claims.next().expect("a set is never empty");
        Lost::new(first, claims)
    }

    /// Runs `work` as long as all the locks are held: see [`LockGuard::while_held`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, so is the work; the set stays.
    ///
    /// # Panics
    ///
    /// Awaiting it outside of a tokio runtime with a timer panics, as all of tokio's timers do.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let set = LockManager::in_memory().lock_all(["a", "b"]).acquire().await?;
    /// assert_eq!(set.while_held(async { 42 }).await?, 42);
    /// # Ok(()) }
    /// ```
    pub fn while_held<F: Future>(&self, work: F) -> WhileHeld<'_, F> {
        WhileHeld::new(self.lost(), work)
    }

    /// Returns a future that completes `early` before the first of the locks ends: see [`LockGuard::warn_before`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Panics
    ///
    /// Awaiting it outside of a tokio runtime with a timer panics, as all of tokio's timers do.
    pub fn warn_before(&self, early: Duration) -> WarnBefore<'_> {
        WarnBefore::new(self.claims(), early)
    }

    /// Releases all the locks at once and tells whether they were still ours.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the locks are released in the background.
    ///
    /// # Errors
    ///
    /// As [`LockGuard::release`], for the first key that was not held any more, or else for the first that could
    /// not be confirmed. All of them are released, or tried to be in the background, whatever it says.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// manager.lock_all(["a", "b"]).acquire().await?.release().await?;
    /// assert!(!manager.inspect("a").await?.is_held());
    /// # Ok(()) }
    /// ```
    #[doc(alias = "unlock")]
    pub async fn release(self) -> Result<()> {
        all(self.guards.into_iter().map(LockGuard::release)).await
    }

    fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.guards.iter().map(|guard| &**guard.claim())
    }
}

impl fmt::Debug for LockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LockSet").field(&self.guards).finish()
    }
}

/// Waits for all. The error is the first that says that a lock is gone, or else the first.
async fn all(calls: impl Iterator<Item = impl Future<Output = Result<()>>>) -> Result<()> {
    let mut errors: Vec<Error> =
        join_all(calls).await.into_iter().filter_map(Result::err).collect();
    let gone = errors.iter().position(Error::is_not_held).unwrap_or(0);
    if errors.is_empty() { Ok(()) } else { Err(errors.swap_remove(gone)) }
}
