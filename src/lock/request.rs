//! A request for a lock: its options and the ways to take it.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
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
        take::{hand_over, run},
    },
    metrics::Acquiring,
    types::{error::Result, event::RenewalEvent, retry::Retry, token::OwnerToken},
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

    /// Sets the time that Redis keeps the lock without an extend. Default: the manager's, which is 30 seconds.
    ///
    /// From 1 ms to 24 h; anything else is an [`Error::Config`] when the lock is taken.
    #[doc(alias("lease", "expiry"))]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = ttl;
        self
    }

    /// Sets the longest time that the whole acquire may take, standing in the local queue included. Default: none.
    ///
    /// Then the acquire ends with [`Error::WaitTimeout`], whose source is the last cause; [`Error::Unavailable`] if no
    /// answer came in time. At least one attempt is sent: if the time was over in the queue, it may take a tenth of a
    /// second more. With a timeout of zero one attempt is made, which may take as long as the nodes may.
    ///
    /// It is also how long an [outage](crate::LockManagerBuilder::outage_patience) is waited through.
    pub const fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.options.wait_timeout = Some(timeout);
        self
    }

    /// Sets when to try again. Default: the manager's, which is up to 300 ms between attempts, without limit.
    ///
    /// An unlimited policy may be woken late or early to spare Redis: it waits for the holder's release or
    /// expiry rather than for its delays, where it can know of them. A policy with
    /// [`max_retries`](Retry::max_retries) is followed to the letter, and only woken early.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.options.retry = retry;
        self
    }

    /// Sets the owner token. Default: a fresh random one for every attempt.
    ///
    /// Guards that share an owner token by [`acquire_or_extend`](Self::acquire_or_extend) share one lock.
    pub fn owner(mut self, owner: OwnerToken) -> Self {
        self.options.owner = Some(owner);
        self
    }

    /// Sets what people call who holds the lock: the host, the pod, the replica. Default: the manager's, which is nothing.
    ///
    /// [`Error::AlreadyHeld`] and [`LockStatus`](crate::LockStatus::holder) tell it to whoever asks, so it is no place for
    /// a secret, and it proves nothing: it stands, readable, in front of the owner token, which stays random and fresh for
    /// every attempt.
    ///
    /// From 1 to 64 characters, at most 128 bytes, no control characters and no `/`; anything else is an
    /// [`Error::Config`] when the lock is taken. So is a holder, the manager's too, beside an [`owner`](Self::owner) token.
    ///
    /// ```
    /// # use redlatch::{Error, LockManager};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let _guard = manager.lock("nightly").holder("db1").await?;
    /// match manager.lock("nightly").try_acquire().await {
    ///     Err(Error::AlreadyHeld { holder, .. }) => assert_eq!(holder.as_deref(), Some("db1")),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok(()) }
    /// ```
    pub fn holder(mut self, name: impl Into<String>) -> Self {
        self.options.holder = Some(name.into().into());
        self
    }

    /// Has the lock renewed in the background each third of its TTL, as long as the guard lives. Default: not.
    ///
    /// Renewals run on the runtime that the manager was used on first. **One** blocked worker of a multi-threaded
    /// runtime can stop them: the one that has tokio's I/O driver, or that the background task waits on. So put what
    /// blocks on [`spawn_blocking`](tokio::task::spawn_blocking):
    ///
    /// ```
    /// # use std::{thread::sleep, time::Duration};
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let manager = LockManager::in_memory();
    /// let guard = manager.lock("report").ttl(Duration::from_millis(200)).auto_renew().acquire().await?;
    /// let report = tokio::task::spawn_blocking(|| {
    ///     sleep(Duration::from_millis(500)); // more than twice the TTL
    ///     42
    /// });
    /// assert_eq!(report.await?, 42);
    /// assert!(guard.is_valid());
    /// # Ok(()) }
    /// ```
    ///
    /// Outside of `block_on` a current-thread runtime renews nothing at all. Where either cannot be helped, the manager
    /// needs a [runtime of its own](crate::LockManagerBuilder::dedicated_runtime).
    #[doc(alias = "watchdog")]
    pub const fn auto_renew(mut self) -> Self {
        self.options.auto_renew = true;
        self.options.renewal.every = None;
        self
    }

    /// Does without a fencing counter for this lock: one key in Redis, and one plain `SET` to take it. Default: the
    /// manager's, which is fenced.
    ///
    /// **Its [`fencing_token`](LockGuard::fencing_token) is [`FencingToken::NONE`](crate::FencingToken::NONE), which is
    /// lower than every other**: a resource that compares tokens turns it away, and one that does not is protected from a
    /// paused holder by the lock's time alone. Every other promise holds. With [`owner`](Self::owner) it is an
    /// [`Error::Config`] when the lock is taken.
    ///
    /// ```
    /// # use redlatch::{FencingToken, LockManager};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let guard = LockManager::in_memory().lock("cache").unfenced().await?;
    /// assert!(guard.fencing_token().is_none());
    /// # Ok(()) }
    /// ```
    pub const fn unfenced(mut self) -> Self {
        self.options.unfenced = true;
        self
    }

    /// Has the lock renewed in the background at this interval, up to a tenth earlier.
    ///
    /// It must be more than zero and at most four fifths of the TTL, so that a late or repeated renewal still
    /// comes in time; anything else is an [`Error::Config`] when the lock is taken. Once the lock was extended to
    /// a TTL for which the interval is too long, it is renewed each third of that TTL instead.
    #[doc(alias = "watchdog")]
    pub const fn auto_renew_every(mut self, interval: Duration) -> Self {
        self.options.auto_renew = true;
        self.options.renewal.every = Some(interval);
        self
    }

    /// Sets what is called when the lock was renewed, could not be renewed, or is lost. Default: nothing.
    ///
    /// It is called for locks with auto-renewal only, on the background task, so it should return soon. A
    /// panic in it is caught and logged. Not each attempt that fails is told: see
    /// [`RenewalEvent::Failed`] for how often.
    pub fn on_renewal(mut self, listener: impl Fn(&RenewalEvent) + Send + Sync + 'static) -> Self {
        self.options.renewal.on_event = Some(Arc::new(listener));
        self
    }

    /// Sets how long auto-renewal may keep the lock. Default: as long as the guard lives.
    ///
    /// Counted from when the lock was taken. The last renewal ends at that time, with
    /// [`RenewalEvent::Stopped`]; unless the lock is released before, it is lost then, as `Expired`. So a holder
    /// that hangs is in the way no longer than this. An explicit [`extend`](LockGuard::extend) is not bounded.
    ///
    /// It must not be less than the TTL; else it is an [`Error::Config`] when the lock is taken.
    #[doc(alias = "lock_at_most_for")]
    pub const fn max_hold(mut self, max_hold: Duration) -> Self {
        self.options.renewal.max_hold = Some(max_hold);
        self
    }

    /// Sets how long the key stays in Redis at least, even if the lock is released before. Default: not.
    ///
    /// Counted from when the lock was taken. An earlier release or drop leaves the key in place to end at that
    /// time, for nobody, so that a job which takes less than the clocks of its hosts differ, and is started on each
    /// of them at the same minute, runs once. Nobody is notified of such an end; waiters look by themselves.
    ///
    /// It is the release that keeps the key: until then the TTL, or auto-renewal, must cover the work. A lock that
    /// is lost, [forgotten](LockGuard::forget) or [handed over](LockGuard::into_ticket), or whose process dies, ends
    /// with its TTL.
    ///
    /// It may be longer than the TTL, and up to 24 h; else it is an [`Error::Config`] when the lock is taken.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let guard = manager.lock("nightly").min_hold(Duration::from_secs(60)).try_acquire().await?;
    /// guard.release().await?;
    /// assert!(manager.lock("nightly").try_acquire().await.unwrap_err().is_contended());
    /// # Ok(()) }
    /// ```
    #[doc(alias = "lock_at_least_for")]
    pub const fn min_hold(mut self, min_hold: Duration) -> Self {
        self.options.min_hold = min_hold;
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
    pub async fn try_acquire(self) -> Result<LockGuard> {
        let spec = self.spec(false)?;
        let mut record = Acquiring::begin();
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
