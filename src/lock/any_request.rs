//! A request for any one of several locks.

use std::{
    collections::BTreeSet,
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
};

use tokio::time::Instant;

use crate::{
    acquire::{
        any::{AnyOf, Tactics},
        spec::{AskOrder, LockSpec},
    },
    keeper::Keeper,
    lock::{
        guard::LockGuard,
        options::Options,
        setters::setters,
        take::{hand_over, key, run, spec, wait},
    },
    metrics::{self, Acquiring},
    types::{
        error::{Error, Result},
        key::Key,
    },
};

/// Any one of several locks about to be taken: made by [`LockManager::lock_any`](crate::LockManager::lock_any) or
/// [`LockManager::semaphore`](crate::LockManager::semaphore), ended by [`acquire`](Self::acquire),
/// [`try_acquire`](Self::try_acquire) or [`run`](Self::run). Awaiting it is `acquire`.
///
/// The options are those of a [`LockRequest`](crate::LockRequest), but for the owner token, which is always a fresh random one.
///
/// ```
/// # use std::time::Duration;
/// # use redlatch::LockManager;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
/// let manager = LockManager::in_memory();
/// let worker = manager.lock_any(["gpu:0", "gpu:1"]).ttl(Duration::from_secs(10)).acquire().await?;
/// assert!(["gpu:0", "gpu:1"].contains(&worker.key()));
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a request takes no lock before it is awaited"]
pub struct LockAnyRequest {
    keeper: Arc<Keeper>,
    /// Those of the keys, or why there can be none.
    names: Result<BTreeSet<String>, String>,
    options: Options,
}

impl LockAnyRequest {
    pub(crate) const fn new(
        keeper: Arc<Keeper>,
        names: Result<BTreeSet<String>, String>,
        options: Options,
    ) -> Self {
        Self { keeper, names, options }
    }

    setters!();

    /// Takes one of the locks, waiting while others hold all of them.
    ///
    /// Where one is free that nobody in this process holds, it takes one round trip in the usual case; where others hold
    /// some, one more to see which are free, and one to take it. Those who wait are woken by the release of any of the
    /// locks, and within one manager they are served in the order of their arrival.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the place in the queue is given up, and what may have been taken is released in the
    /// background.
    ///
    /// # Errors
    ///
    /// As [`LockRequest::acquire`](crate::LockRequest::acquire), for the lock that ends first; [`Error::Config`] also for no key at all.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let permit = manager.semaphore("reports", 3).acquire().await?;
    /// assert!(permit.key().starts_with("reports#"));
    /// # Ok(()) }
    /// ```
    #[doc(alias = "lock")]
    pub async fn acquire(self) -> Result<LockGuard> {
        let began = Instant::now();
        let (spec, any) = self.spec()?;
        wait(&self.keeper, self.options, spec, Some(any), began).await
    }

    /// Takes one of the locks that are free, or none if there is none.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, what may have been taken is released in the background.
    ///
    /// # Errors
    ///
    /// As [`LockRequest::try_acquire`](crate::LockRequest::try_acquire): [`Error::AlreadyHeld`] names the lock that ends first. [`Error::Config`] also for
    /// no key at all.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let permits = manager.semaphore("reports", 2);
    /// let (_one, _other) = (permits.clone().await?, permits.clone().await?);
    /// assert!(permits.try_acquire().await.unwrap_err().is_contended());
    /// # Ok(()) }
    /// ```
    #[doc(alias = "try_lock")]
    pub async fn try_acquire(self) -> Result<LockGuard> {
        let (mut spec, any) = self.spec()?;
        let mut record = Acquiring::begin(spec.label);
        let (ask_order, freed) = (AskOrder::AllAtOnce, None);
        let tactics = Tactics { number: 1, ask_order, until: None, freed };
        let attempt = any.attempt(&self.keeper, &mut spec, tactics);
        let result = attempt.await.map_err(|refusal| refusal.error);
        record.attempts = u32::from(result.is_err());
        record.end(result.as_ref().err());
        let armed = result?;
        self.keeper.let_renewal_begin(armed.claim().renewal()).await;
        Ok(hand_over(self.options.min_hold, armed))
    }

    /// Takes one of the locks, renews it while `work` runs, and releases it: see [`LockRequest::run`](crate::LockRequest::run).
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
    /// let slot = manager.semaphore("reports", 3).run(async |permit| permit.key().to_owned()).await?;
    /// assert!(slot.starts_with("reports#"));
    /// # Ok(()) }
    /// ```
    #[doc(alias("using", "with_lock"))]
    pub async fn run<T>(mut self, work: impl AsyncFnOnce(&LockGuard) -> T) -> Result<T> {
        self.options.auto_renew = true;
        run(self.acquire().await?, work).await
    }

    /// Checks everything before anything is sent.
    fn spec(&self) -> Result<(LockSpec, AnyOf)> {
        let keys = self.keys().inspect_err(|error| metrics::refused(self.options.label, error))?;
        let first = Ok(keys[0].clone());
        Ok((spec(&self.keeper, &self.options, first, false)?, AnyOf::new(keys)))
    }

    fn keys(&self) -> Result<Vec<Arc<Key>>> {
        let names = self.names.as_ref().map_err(|refusal| Error::config(refusal.clone()))?;
        if names.is_empty() {
            return Err(Error::config("a lock on any of several keys needs at least one key"));
        }
        names.iter().map(|name| key(&self.keeper, &self.options, name.clone())).collect()
    }
}

impl IntoFuture for LockAnyRequest {
    type Output = Result<LockGuard>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.acquire())
    }
}

impl fmt::Debug for LockAnyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockAnyRequest")
            .field("keys", &self.names)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// The names of the slots of a semaphore.
pub(crate) fn slots(name: &str, permits: usize) -> Result<BTreeSet<String>, String> {
    if (1..=MOST_PERMITS).contains(&permits) {
        return Ok((0..permits).map(|slot| format!("{name}#{slot}")).collect());
    }
    Err(format!("a semaphore has 1 to {MOST_PERMITS} permits, not {permits}"))
}

const MOST_PERMITS: usize = 1024;
