//! The loss signal that outlives the borrow of its guard: [`Loss`].

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{claim::Claim, lock::watch::Watch, types::error::LossReason};

/// Resolves once a lock is no longer its guard's: see [`LockGuard::loss`](crate::LockGuard::loss).
///
/// It borrows nothing, so that it goes into other tasks, and the guard can be released or dropped meanwhile:
/// [`LossReason::Released`] says so. All clones resolve, each at once.
#[must_use = "futures do nothing unless awaited"]
pub struct Loss {
    claim: Arc<Claim>,
    /// There once it is awaited.
    wait: Option<Wait>,
}

type Wait = Pin<Box<dyn Future<Output = LossReason> + Send + Sync>>;

impl Loss {
    pub(crate) const fn new(claim: Arc<Claim>) -> Self {
        Self { claim, wait: None }
    }

    /// Returns why the lock is no longer its guard's; `None` as long as it is. The first reason stays.
    ///
    /// ```
    /// # use redlatch::{LockManager, LossReason};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let guard = LockManager::in_memory().lock("k").await?;
    /// let loss = guard.loss();
    /// assert_eq!(loss.reason(), None);
    /// guard.release().await?;
    /// assert_eq!(loss.reason(), Some(LossReason::Released));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn reason(&self) -> Option<LossReason> {
        self.claim.fate().err()
    }
}

impl Future for Loss {
    type Output = LossReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<LossReason> {
        let Self { claim, wait } = self.get_mut();
        if let Err(reason) = claim.fate() {
            *wait = None;
            return Poll::Ready(reason);
        }
        let wait = wait.get_or_insert_with(|| Box::pin(watch(claim.clone())));
        wait.as_mut().poll(cx)
    }
}

async fn watch(claim: Arc<Claim>) -> LossReason {
    let mut watch = pin!(Watch::new(&claim, Duration::ZERO));
    poll_fn(|cx| watch.as_mut().poll_loss(cx)).await.1
}

impl Clone for Loss {
    fn clone(&self) -> Self {
        Self::new(self.claim.clone())
    }
}

impl fmt::Debug for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loss")
            .field("key", &self.claim.key())
            .field("reason", &self.reason())
            .finish_non_exhaustive()
    }
}
