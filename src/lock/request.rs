//! A request for a lock: its options and the ways to take it.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
};

use tracing::Instrument;

#[cfg(doc)]
use crate::Error;
use crate::{
    acquire::{attempt::attempt, attempt_span, spec::AskOrder},
    keeper::Keeper,
    lock::{
        guard::LockGuard,
        options::Options,
        setters::setters,
        take::{hand_over, run},
    },
    metrics::Acquiring,
    types::{error::Result, token::OwnerToken},
};

/// A lock about to be taken: made by [`LockManager::lock`](crate::LockManager::lock), ended by
/// [`acquire`](Self::acquire), [`try_acquire`](Self::try_acquire),
/// [`acquire_or_extend`](Self::acquire_or_extend) or [`run`](Self::run). Awaiting it is `acquire`.
///
/// ```
/// # use std::time::Duration;
/// # use redlatch::LockManager;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
/// let manager = LockManager::in_memory();
/// let request = manager.lock("invoice:42").ttl(Duration::from_secs(10));
/// let guard = request.wait_timeout(Duration::from_secs(3)).acquire().await?;
/// assert_eq!(guard.key(), "invoice:42");
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a request takes no lock before it is awaited"]
pub struct LockRequest {
    pub(super) keeper: Arc<Keeper>,
    pub(super) key: String,
    pub(super) options: Options,
}

impl LockRequest {
    pub(crate) const fn new(keeper: Arc<Keeper>, key: String, options: Options) -> Self {
        Self { keeper, key, options }
    }

    setters!();

    /// Sets the owner token. Default: a fresh random one for every attempt.
    ///
    /// Guards that share an owner token by [`acquire_or_extend`](Self::acquire_or_extend) share one lock.
    pub fn owner(mut self, owner: OwnerToken) -> Self {
        self.options.owner = Some(owner);
        self
    }

    /// Takes the lock, waiting while another holds it: for ever, unless
    /// [`wait_timeout`](Self::wait_timeout) or the [retry policy](Self::retry) says otherwise.
    ///
    /// Waiters of one manager for one key are served in the order of their arrival.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the place in the queue is given up, and what may have been taken is released
    /// in the background.
    ///
    /// # Errors
    ///
    /// - [`Error::WaitTimeout`] or [`Error::RetriesExhausted`] when the waiting ended, with the last cause.
    /// - [`Error::Unavailable`] when no majority of the nodes has answered for as long as
    ///   [`outage_patience`](crate::LockManagerBuilder::outage_patience) says, or at once if that is not mended by waiting:
    ///   a wrong password, missing rights, a key of another type.
    /// - [`Error::ValidityExpired`] after three rounds in a row that took longer than the TTL allows.
    /// - [`Error::Config`] for a key, TTL or interval out of range; [`Error::Closed`] once the manager is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let guard = manager.lock("report").acquire().await?;
    /// assert!(guard.is_valid());
    /// # Ok(()) }
    /// ```
    #[doc(alias = "lock")]
    // No `async fn` around another: each would keep the request once more.
    pub fn acquire(self) -> impl Future<Output = Result<LockGuard>> + Send {
        self.take(false, None)
    }

    /// Takes the lock in one round or not at all, past the local queue.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, what may have been taken is released in the background.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyHeld`] if another owner holds the lock, [`Error::Unavailable`] if too few nodes answered,
    /// [`Error::ValidityExpired`] if the round took longer than the TTL allows, [`Error::Config`] for a key, TTL
    /// or interval out of range, [`Error::Closed`] once the manager is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let _guard = manager.lock("nightly").try_acquire().await?;
    /// assert!(manager.lock("nightly").try_acquire().await.unwrap_err().is_contended());
    /// # Ok(()) }
    /// ```
    #[doc(alias = "try_lock")]
    pub async fn try_acquire(mut self) -> Result<LockGuard> {
        let spec = self.spec(false)?;
        let mut record = Acquiring::begin(spec.label);
        let attempt = attempt(&self.keeper, &spec, AskOrder::AllAtOnce, None);
        let attempt = attempt.instrument(attempt_span(&spec, 1));
        let result = attempt.await.map_err(|refusal| refusal.error);
        record.attempts = u32::from(result.is_err());
        record.end(result.as_ref().err());
        let armed = result?;
        self.keeper.let_renewal_begin(armed.claim().renewal()).await;
        Ok(hand_over(self.options.min_hold, armed))
    }

    /// Extends the lock if the [owner token](Self::owner) holds it already, takes it if it is free, and waits
    /// like [`acquire`](Self::acquire) while another owner holds it.
    ///
    /// The guards of one owner token share one lock: they have the same fencing token as long as the lock is
    /// unbroken, and releasing or dropping one of them ends it for all. The others learn of it at their next
    /// extend or renewal, so share owner tokens only where that is no harm.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, what it may have taken is released in the background. A lock that the owner
    /// held before stays, with its TTL reset or not.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::{LockManager, OwnerToken};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let (manager, worker) = (LockManager::in_memory(), OwnerToken::new("worker-7")?);
    /// let first = manager.lock("shard:3").owner(worker.clone()).acquire_or_extend().await?;
    /// let again = manager.lock("shard:3").owner(worker).acquire_or_extend().await?;
    /// assert_eq!(first.fencing_token(), again.fencing_token());
    /// # Ok(()) }
    /// ```
    pub fn acquire_or_extend(self) -> impl Future<Output = Result<LockGuard>> + Send {
        self.take(true, None)
    }

    /// Takes the lock, renews it while `work` runs, and releases it.
    ///
    /// `Ok` means that the lock was ours until the work had ended. Work that holds its thread, with a blocking call or a
    /// long computation, cannot be dropped at the loss, and may keep [auto-renewal](Self::auto_renew) from running: put
    /// it on [`spawn_blocking`](tokio::task::spawn_blocking). If it has outlasted the lock all the same, that is
    /// [`Error::Lost`], and its value is dropped.
    ///
    /// The value is returned even if the release could not be confirmed: that is logged, and the background keeps
    /// trying.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, so is `work`, and the lock is released in the background.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), and [`Error::Lost`] if the lock was lost while `work` ran, or had been taken away
    /// by the time of the release; then `work` was dropped at its current await, or its value if it had ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let token = manager.lock("report").run(async |guard| guard.fencing_token()).await?;
    /// assert!(token.get() > 0);
    /// # Ok(()) }
    /// ```
    #[doc(alias("using", "with_lock"))]
    pub async fn run<T>(mut self, work: impl AsyncFnOnce(&LockGuard) -> T) -> Result<T> {
        self.options.auto_renew = true;
        run(self.acquire().await?, work).await
    }
}

impl IntoFuture for LockRequest {
    type Output = Result<LockGuard>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.acquire())
    }
}

impl fmt::Debug for LockRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockRequest")
            .field("key", &self.key)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
