//! The guard: a held lock, released when dropped.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::Instrument;

use crate::{
    claim::{Claim, origin::Renewal},
    host::clock,
    keeper::{
        claim_guard::ClaimGuard,
        extend::{extend, extend_once},
    },
    lock::{
        loss::Loss,
        watch::{Lost, WarnBefore, WhileHeld},
    },
    types::{
        error::Result,
        ticket::LockTicket,
        token::{FencingToken, OwnerToken},
    },
};

/// A held lock. Dropping it releases the lock, without waiting for it.
///
/// A lock is a lease: Redis ends it when its TTL is over, whatever the holder does. So look at
/// [`is_valid`](Self::is_valid) before each step that needs the lock, tie work to it with
/// [`while_held`](Self::while_held), and give the [`fencing_token`](Self::fencing_token) to the resource,
/// which alone can turn a late write away.
///
/// Dropping never blocks and never panics, on any thread. Inside of the manager's runtime it is in order: whatever the
/// manager asks a node afterwards comes behind the release, as long as the connection stands. So the lock can be taken
/// again at once, for no round trip. On a plain thread, on another runtime or in a panic, the release goes out soon.
///
/// It is a best effort: nobody hears whether it worked, so [`release`](Self::release) where that matters. If the runtime
/// of the manager has ended, the TTL ends the lock.
///
/// ```
/// # use std::time::Duration;
/// # use redlatch::LockManager;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
/// let manager = LockManager::in_memory();
/// let guard = manager.lock("invoice:42").ttl(Duration::from_secs(10)).acquire().await?;
/// guard.extend(Duration::from_secs(20)).await?;
/// assert!(guard.remaining() > Duration::from_secs(15));
/// guard.release().await?;
/// # Ok(()) }
/// ```
#[doc(alias("lease", "mutex"))]
#[must_use = "if unused, the lock is released immediately"]
pub struct LockGuard {
    armed: ClaimGuard,
}

impl LockGuard {
    pub(crate) const fn new(armed: ClaimGuard) -> Self {
        Self { armed }
    }

    pub(crate) const fn claim(&self) -> &Arc<Claim> {
        self.armed.claim()
    }

    /// Has the lock renewed from now on.
    pub(crate) fn renew_by(&self, renewal: Renewal) {
        self.armed.claim().renew_by(renewal);
        self.armed.keeper().watch(self.armed.claim());
    }

    /// Returns the key as the caller gave it, without the manager's prefix.
    #[must_use]
    pub fn key(&self) -> &str {
        self.armed.claim().key()
    }

    /// Returns the value under the key in Redis, which proves ownership. Keep it out of logs.
    #[must_use]
    pub fn owner_token(&self) -> &OwnerToken {
        &self.armed.claim().send_log.owner
    }

    /// Returns the number that grows strictly from holder to holder of this key. Give it to the resource.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.armed.claim().fencing_token()
    }

    /// Returns the TTL of the last acquire or extend.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.armed.claim().ttl()
    }

    /// Returns until when the lock may be relied on: the start of the last confirmed round plus TTL less drift.
    ///
    /// It keeps its value when the lock is lost earlier; [`remaining`](Self::remaining) and
    /// [`is_valid`](Self::is_valid) know of that.
    #[must_use]
    pub fn valid_until(&self) -> Instant {
        self.armed.claim().valid_until().map_or_else(Instant::now, clock::to_tokio)
    }

    /// Returns how long the lock may still be relied on; zero when it is not valid.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let until = self.armed.claim().judge();
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(clock::now()))
    }

    /// Whether the lock may be relied on at this moment.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.armed.claim().judge().is_ok()
    }

    /// Gives the lock at least `ttl` from now. Tries again after transient failures while the lock is valid.
    ///
    /// It never shortens the lock's life and never puts back a key that is gone.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the TTL may or may not have been reset. [`valid_until`](Self::valid_until)
    /// counts only what a majority has confirmed, so relying on it stays safe.
    ///
    /// # Errors
    ///
    /// [`Error::NotHeld`](crate::Error::NotHeld) if the lock is lost, also when a majority answered, but after the
    /// validity had ended; [`Error::Unavailable`](crate::Error::Unavailable) if no majority answered, each node within
    /// the node timeout, as long as the lock was valid; [`Error::Config`](crate::Error::Config) for a TTL out
    /// of range, [`Error::Closed`](crate::Error::Closed) once the manager is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let guard = LockManager::in_memory().lock("k").ttl(Duration::from_secs(5)).await?;
    /// guard.extend(Duration::from_secs(60)).await?;
    /// assert_eq!(guard.ttl(), Duration::from_secs(60));
    /// # Ok(()) }
    /// ```
    #[doc(alias("renew", "refresh"))]
    pub async fn extend(&self, ttl: Duration) -> Result<()> {
        extend(self.armed.keeper(), self.armed.claim(), ttl).await
    }

    /// As [`extend`](Self::extend), in one round.
    ///
    /// # Cancel safety
    ///
    /// As [`extend`](Self::extend).
    ///
    /// # Errors
    ///
    /// As [`extend`](Self::extend); [`Error::Unavailable`](crate::Error::Unavailable) leaves the lock valid as
    /// long as it was.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let guard = LockManager::in_memory().lock("k").await?;
    /// guard.try_extend(Duration::from_secs(60)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_extend(&self, ttl: Duration) -> Result<()> {
        extend_once(self.armed.keeper(), self.armed.claim(), ttl).await
    }

    /// Returns a future that resolves once the lock is no longer ours, with how it was lost.
    ///
    /// It goes by the deadline, from a timer, whatever the network does, and is never late: from that moment
    /// on [`is_valid`](Self::is_valid) is false too. It resolves earlier if an extend or a renewal learns that
    /// the key is gone.
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
    /// let guard = LockManager::in_memory().lock("k").ttl(Duration::from_millis(50)).await?;
    /// assert_eq!(guard.lost().await, LossReason::Expired);
    /// # Ok(()) }
    /// ```
    pub fn lost(&self) -> Lost<'_> {
        Lost::new(self.armed.claim(), std::iter::empty())
    }

    /// Returns the same signal for tasks that outlive the borrow of [`lost`](Self::lost): it is cheap to clone, and goes
    /// anywhere.
    ///
    /// It resolves when the guard goes, too: with [`LossReason::Released`](crate::LossReason::Released) if the lock was
    /// valid then, whether it was released, dropped, forgotten or made into a ticket. The first reason stays. Waiting takes
    /// no task, and no more of a timer than `lost` does.
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
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let guard = LockManager::in_memory().lock("k").await?;
    /// let loss = guard.loss();
    /// let worker = tokio::spawn(async move {
    ///     tokio::select! {
    ///         reason = loss => reason, // stop working
    ///         () = std::future::pending() => unreachable!(), // the work
    ///     }
    /// });
    /// guard.release().await?;
    /// assert_eq!(worker.await?, LossReason::Released);
    /// # Ok(()) }
    /// ```
    pub fn loss(&self) -> Loss {
        Loss::new(self.armed.claim().clone())
    }

    /// Runs `work` as long as the lock is held. On loss the work is dropped at its current await.
    ///
    /// The future resolves to the work's output or to [`Error::Lost`](crate::Error::Lost). Work that does not
    /// await cannot be dropped: only fencing stops it. If the lock is no longer valid when such work has ended, that is
    /// `Lost` too, and the output is dropped.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, so is the work; the guard stays.
    ///
    /// # Panics
    ///
    /// Awaiting it outside of a tokio runtime with a timer panics, as all of tokio's timers do.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let guard = LockManager::in_memory().lock("k").ttl(Duration::from_millis(50)).await?;
    /// assert_eq!(guard.while_held(async { 42 }).await?, 42);
    /// let too_long = tokio::time::sleep(Duration::from_secs(60));
    /// assert!(guard.while_held(too_long).await.unwrap_err().is_lost());
    /// # Ok(()) }
    /// ```
    pub fn while_held<F: Future>(&self, work: F) -> WhileHeld<'_, F> {
        WhileHeld::new(self.lost(), work)
    }

    /// Returns a future that completes `early` before the lock ends, to finish or to hand over in time.
    ///
    /// It follows extends and renewals: a renewed lock warns once its renewal has failed for long enough, or has
    /// [stopped](crate::LockRequest::max_hold), as long as `early` is less than what is left when a renewal is due,
    /// which is about two thirds of the TTL. It completes at once if less is left, or if the lock is lost.
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
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let guard = LockManager::in_memory().lock("k").ttl(Duration::from_secs(2)).await?;
    /// guard.warn_before(Duration::from_millis(1_900)).await;
    /// assert!(guard.is_valid()); // there is time to clean up
    /// # Ok(()) }
    /// ```
    pub fn warn_before(&self, early: Duration) -> WarnBefore<'_> {
        WarnBefore::new(std::iter::once(&**self.armed.claim()), early)
    }

    /// Releases the lock and tells whether it was still ours.
    ///
    /// It ends any renewal first. It waits for a majority of nodes, up to the manager's
    /// [`release_timeout`](crate::LockManagerBuilder::release_timeout); after that the background keeps trying
    /// until the TTL is over. The nodes keep a key for its TTL, a little longer than the holder may rely on
    /// it: so it can succeed for a lock that is no longer valid.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the lock is released in the background.
    ///
    /// # Errors
    ///
    /// [`Error::NotHeld`](crate::Error::NotHeld) if it had expired or been taken: work done under it was not
    /// protected to its end. [`Error::Unavailable`](crate::Error::Unavailable) if no majority answered in time.
    /// [`Error::Config`](crate::Error::Config) outside of a tokio runtime, where it cannot be waited for; it is
    /// released in the background then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// manager.lock("k").await?.release().await?;
    /// assert!(!manager.inspect("k").await?.is_held());
    /// # Ok(()) }
    /// ```
    #[doc(alias = "unlock")]
    pub async fn release(self) -> Result<()> {
        self.armed.keeper().check_runtime()?;
        let (key, label) = (self.key(), self.claim().label);
        let fencing_token = self.fencing_token().get();
        let span = tracing::debug_span!("release", key, fencing_token, label);
        self.armed.release().instrument(span).await
    }

    /// Gives the lock up to another process without releasing it: see [`LockManager::adopt`](crate::LockManager::adopt).
    ///
    /// From here on it is neither released nor renewed by this guard; the TTL ends it unless somebody adopts it.
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let ticket = manager.lock("k").await?.into_ticket();
    /// let guard = manager.adopt(ticket).await?;
    /// assert!(guard.is_valid());
    /// # Ok(()) }
    /// ```
    #[must_use = "a ticket that nobody adopts leaves the lock to its TTL"]
    pub fn into_ticket(self) -> LockTicket {
        let (key, owner) = (self.key().to_owned(), self.owner_token().clone());
        let ticket = LockTicket::new(key, owner, self.fencing_token(), self.ttl());
        let ticket = ticket.of(self.claim().send_log.id);
        self.forget();
        ticket
    }

    /// Lets go of the lock without releasing it: it is no longer renewed, and its TTL ends it.
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// manager.lock("at most once in 30 s").await?.forget();
    /// assert!(manager.inspect("at most once in 30 s").await?.is_held());
    /// # Ok(()) }
    /// ```
    pub fn forget(self) {
        self.armed.disarm();
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("key", &self.key())
            .field("owner_token", self.owner_token())
            .field("fencing_token", &self.fencing_token())
            .field("ttl", &self.ttl())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}
