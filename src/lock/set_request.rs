//! A request for a set: its options, and the way to take several locks without a deadlock.

use std::{
    collections::BTreeSet,
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
};

use futures_util::future::join_all;
use tokio::time::{Instant, Interval, interval};

use crate::{
    keeper::Keeper,
    lock::{
        options::Options, request::LockRequest, set::LockSet, setters::setters, watch::check_work,
    },
    types::{
        error::{Error, Result},
        token::OwnerToken,
    },
};

/// Several locks about to be taken, all or none: made by [`LockManager::lock_all`](crate::LockManager::lock_all), ended
/// by [`acquire`](Self::acquire), [`try_acquire`](Self::try_acquire) or [`run`](Self::run). Awaiting it is `acquire`.
///
/// The options are those of a [`LockRequest`], for each key alike; [`wait_timeout`](Self::wait_timeout) bounds the taking of
/// all.
///
/// ```
/// # use std::time::Duration;
/// # use redlatch::LockManager;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
/// let manager = LockManager::in_memory();
/// let request = manager.lock_all(["account:7", "account:3"]).ttl(Duration::from_secs(10));
/// let set = request.wait_timeout(Duration::from_secs(3)).acquire().await?;
/// assert!(set.keys().eq(["account:3", "account:7"]));
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a request takes no lock before it is awaited"]
pub struct LockSetRequest {
    keeper: Arc<Keeper>,
    keys: BTreeSet<String>,
    options: Options,
}

impl LockSetRequest {
    pub(crate) const fn new(keeper: Arc<Keeper>, keys: BTreeSet<String>, options: Options) -> Self {
        Self { keeper, keys, options }
    }

    setters!();

    /// Sets the owner token of all the locks: see [`LockRequest::owner`]. Default: random ones.
    pub fn owner(mut self, owner: OwnerToken) -> Self {
        self.options.owner = Some(owner);
        self
    }

    /// Takes all the locks, waiting while others hold some of them.
    ///
    /// The keys are locked one after the other in their order, which all sets share, so that two sets cannot wait
    /// for each other. Single locks must keep to that order too: who waits for a set should hold no other lock. While
    /// it waits, it extends what it has; if it loses one of them, as in an outage longer than the TTL, it begins anew.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, all that was taken is released in the background.
    ///
    /// # Errors
    ///
    /// As [`LockRequest::acquire`], for the key that could not be locked; [`Error::NotHeld`] for one that was lost again
    /// and again while it waited for the others; [`Error::Config`] also for no key at all. After any of them all that was taken is released in the background.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let set = manager.lock_all(["a", "b"]).acquire().await?;
    /// assert!(set.is_valid());
    /// # Ok(()) }
    /// ```
    #[doc(alias = "lock")]
    pub async fn acquire(self) -> Result<LockSet> {
        let (began, requests) = (Instant::now(), self.requests()?);
        let mut losses = 0;
        loop {
            match self.gather(&requests, began).await {
                // What outlives the loss is released: whoever waits must not hold.
                Err(error) if error.is_not_held() && losses < MOST_LOSSES => {
                    tracing::debug!(key = error.key(), "lost while waiting for others");
                    losses += 1;
                }
                result => return result,
            }
        }
    }

    /// Takes all the locks in one round or none at all.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, all that was taken is released in the background.
    ///
    /// # Errors
    ///
    /// As [`LockRequest::try_acquire`], for the first key that could not be locked; [`Error::Config`] also for no
    /// key at all. After any of them all that was taken is released in the background.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let _guard = manager.lock("b").await?;
    /// let error = manager.lock_all(["a", "b"]).try_acquire().await.unwrap_err();
    /// assert_eq!(error.key(), Some("b"));
    /// # Ok(()) }
    /// ```
    #[doc(alias = "try_lock")]
    pub async fn try_acquire(self) -> Result<LockSet> {
        let requests = self.requests()?.into_iter();
        // All are heard out: one that was refused cancels none of the others, which are given back.
        let guards = join_all(requests.map(LockRequest::try_acquire)).await;
        self.complete(LockSet::new(guards.into_iter().collect::<Result<_>>()?)).await
    }

    /// Takes all the locks, renews them while `work` runs, and releases them: see [`LockRequest::run`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, so is `work`, and the locks are released in the background.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), and [`Error::Lost`] if one of the locks was lost while `work` ran, or had been
    /// taken away by the time of the release; then `work` was dropped at its current await, or its value if it had ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let keys = manager.lock_all(["a", "b"]).run(async |set| set.keys().count()).await?;
    /// assert_eq!(keys, 2);
    /// # Ok(()) }
    /// ```
    #[doc(alias("using", "with_lock"))]
    pub async fn run<T>(mut self, work: impl AsyncFnOnce(&LockSet) -> T) -> Result<T> {
        self.options.auto_renew = true;
        let set = self.acquire().await?;
        let value = set.while_held(work(&set)).await?;
        check_work(set.release().await)?;
        Ok(value)
    }

    /// Takes the locks one after the other, for a caller who waits since then. Fails with [`Error::NotHeld`] if one was
    /// lost meanwhile.
    async fn gather(&self, requests: &[LockRequest], began: Instant) -> Result<LockSet> {
        let mut taken = LockSet::new(Vec::with_capacity(requests.len()));
        let mut upkeep = interval(self.options.ttl / 3);
        for request in requests {
            // Boxed, since it is large, and moves.
            let acquire = Box::pin(request.clone().acquire_since(began));
            let guard = self.keep(&taken, &mut upkeep, acquire).await?;
            taken.push(guard);
        }
        self.complete(self.freshen(taken).await?).await
    }

    /// The requests for the single keys, in their order. They are not renewed before all have been taken.
    fn requests(&self) -> Result<Vec<LockRequest>> {
        if self.keys.is_empty() {
            return Err(Error::config("a set of locks needs at least one key"));
        }
        let one = |key: &String| {
            LockRequest::new(self.keeper.clone(), key.clone(), self.options.of_one())
        };
        let requests: Vec<_> = self.keys.iter().map(one).collect();
        // All of them before anything is sent.
        requests.iter().try_for_each(LockRequest::check)?;
        Ok(requests)
    }

    /// Awaits `work`, and extends what was taken each time that it is due.
    async fn keep<T>(
        &self,
        taken: &LockSet,
        due: &mut Interval,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let upkeep = async {
            loop {
                due.tick().await;
                match taken.extend(self.options.ttl).await {
                    // It was tried for as long as the lock was valid.
                    Err(Error::Unavailable { key, .. }) => return Error::NotHeld { key },
                    Err(error) => return error,
                    Ok(()) => {}
                }
            }
        };
        tokio::select! {
            biased;
            result = work => result,
            error = upkeep => Err(error),
        }
    }

    /// Extends all the locks, unless the first is about as new as the last.
    async fn freshen(&self, taken: LockSet) -> Result<LockSet> {
        let ttl = self.options.ttl;
        if taken.newest().saturating_sub(taken.remaining()) > ttl / FRESH
            && let Err(error) = taken.try_extend(ttl).await
        {
            // Without it the locks are as good as they were.
            tracing::debug!(key = error.key(), %error, "extend failed");
        }
        Ok(taken)
    }

    /// Hands the set over, unless one of its locks was lost meanwhile.
    async fn complete(&self, set: LockSet) -> Result<LockSet> {
        set.check()?;
        set.begin(self.options.renewal());
        self.keeper.let_renewal_begin(self.options.renewal()).await;
        // Only what is handed over is kept: whoever gives up before leaves nothing behind.
        set.keep_for(self.options.min_hold);
        Ok(set)
    }
}

impl fmt::Debug for LockSetRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockSetRequest")
            .field("keys", &self.keys)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl IntoFuture for LockSetRequest {
    type Output = Result<LockSet>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.acquire())
    }
}

/// How often in a row a set is begun anew since one of its locks was lost while it waited for the others.
const MOST_LOSSES: u32 = 3;
/// Which part of the TTL the first of the locks may be old by without being extended.
const FRESH: u32 = 20;
