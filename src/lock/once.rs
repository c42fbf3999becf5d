//! Once: work that runs under a lock, and is remembered as done.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::Instrument;

use crate::{
    acquire::{
        self,
        attempt::attempt,
        attempt_span,
        spec::{AskOrder, LockSpec, Refusal},
    },
    keeper::{Keeper, claim_guard::ClaimGuard},
    lock::{
        guard::LockGuard,
        options::Options,
        request::LockRequest,
        take::hand_over,
        watch::{check_work, tell_unconfirmed},
    },
    metrics::Acquiring,
    types::{
        error::{Error, Result},
        retry::below,
        settings::check_keep,
    },
};

/// What became of work that is to run once: see [`LockRequest::run_once`].
///
/// ```
/// # use std::time::Duration;
/// # use redlatch::{LockManager, Once};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
/// let manager = LockManager::in_memory();
/// let run = async || {
///     let request = manager.lock("invoices:2026-11");
///     request.run_once(Duration::from_secs(86_400), async |_| Ok::<_, std::io::Error>("sent")).await
/// };
/// assert!(matches!(run().await?, Once::Ran("sent")));
/// assert!(matches!(run().await?, Once::Done { .. }));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Once<T, E> {
    /// The work ran here and succeeded, and is remembered as done.
    Ran(T),
    /// The work ran here and failed. Whoever comes next may run it.
    Failed(E),
    /// It runs elsewhere.
    #[non_exhaustive]
    Running {
        /// What is left of the runner's TTL, if it has one: the longest that a crashed one can stand in the way.
        retry_after: Option<Duration>,
        /// The [name](LockRequest::holder) of the runner, if it has one.
        holder: Option<String>,
    },
    /// It was done before.
    #[non_exhaustive]
    Done {
        /// For how long that is remembered.
        retry_after: Option<Duration>,
    },
}

impl LockRequest {
    /// Runs `work` under the lock, unless it runs elsewhere or is done already, and remembers for `keep` that it is done.
    ///
    /// The lock is renewed while the work runs. When it returns `Ok`, the key is left as [done](LockGuard::complete): for
    /// `keep`, from 1 ms to 30 days, whoever comes gets [`Once::Done`] at once, also those who waited. When it returns
    /// `Err`, the lock is released at once, and the next one may run it. Of several that start together one runs it.
    ///
    /// It tries once, and waits while it runs elsewhere only if a [`wait_timeout`](Self::wait_timeout) is set:
    /// [`Once::Running`] is the answer when that is over. [`min_hold`](Self::min_hold) plays no part.
    ///
    /// **This is not exactly once.** A process that dies after the work and before the mark leaves the key to its TTL, and
    /// then the work runs again. So it does if the lock is lost, if no majority of nodes could be told before the TTL was
    /// over (a warning in the log tells so), or if a majority has lost its memory. What must not happen twice needs a
    /// resource that refuses the second time, by a key of its own or the [fencing token](LockGuard::fencing_token).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, so is `work`, and the lock is released in the background; if the work had succeeded, it is
    /// left as done.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`](crate::Error::Lost) if the lock was lost while `work` ran, which was dropped at its current await; also if
    /// that was found out at its end. [`Error::Config`](crate::Error::Config) for a `keep` out of range, before anything is
    /// sent. Else as [`try_acquire`](Self::try_acquire), or as [`acquire`](Self::acquire) with a `wait_timeout`; but
    /// that somebody else holds the lock is no error.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use redlatch::{LockManager, Once};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let request = manager.lock("report:2026-11-27");
    /// match request.run_once(Duration::from_secs(86_400), async |_| "7".parse::<u32>()).await? {
    ///     Once::Ran(pages) => println!("{pages} pages"),
    ///     Once::Failed(error) => println!("failed, and may be tried again: {error}"),
    ///     Once::Running { .. } | Once::Done { .. } => println!("not here"),
    ///     _ => {}
    /// }
    /// # Ok(()) }
    /// ```
    #[doc(alias("idempotent", "at_most_once"))]
    pub async fn run_once<T, E>(
        self,
        keep: Duration,
        work: impl AsyncFnOnce(&LockGuard) -> Result<T, E>,
    ) -> Result<Once<T, E>> {
        let guard = match self.acquire_once(keep).await? {
            Once::Ran(guard) => guard,
            Once::Failed(never) => match never {},
            Once::Running { retry_after, holder } => {
                return Ok(Once::Running { retry_after, holder });
            }
            Once::Done { retry_after } => return Ok(Once::Done { retry_after }),
        };
        match guard.while_held(work(&guard)).await? {
            Ok(value) => check_work(guard.complete(keep).await).map(|()| Once::Ran(value)),
            Err(error) => {
                tell_unconfirmed(guard.release().await);
                Ok(Once::Failed(error))
            }
        }
    }

    /// Takes the lock for work that is to run once: what [`run_once`](Self::run_once) begins with. It is for the command
    /// alone, whose work is no future.
    #[doc(hidden)]
    pub async fn acquire_once(mut self, keep: Duration) -> Result<Once<LockGuard, Infallible>> {
        check_keep(keep)?;
        self.options.auto_renew = true;
        self.options.min_hold = Duration::ZERO;
        let began = Instant::now();
        let spec = LockSpec { once: true, ..self.spec(false)? };
        let Options { wait_timeout, retry, min_hold, .. } = self.options;
        let taken = match wait_timeout {
            None => take_undivided(&self.keeper, &spec).await,
            wait_timeout => {
                let limits = acquire::Limits { began, wait_timeout, retry };
                acquire::acquire(&self.keeper, spec, None, limits).await
            }
        };
        match taken {
            Ok(armed) => {
                self.keeper.let_renewal_begin(armed.claim().renewal()).await;
                Ok(Once::Ran(hand_over(min_hold, armed)))
            }
            Err(error) => elsewhere(error),
        }
    }
}

impl LockGuard {
    /// Releases the lock and leaves its key as *done*: nobody gets it before `keep` is over, from now on.
    ///
    /// It is what [`run_once`](LockRequest::run_once) ends with. On a done key `try_acquire` is
    /// [`Error::AlreadyHeld`](crate::Error::AlreadyHeld) with `is_done`, `acquire` waits, and
    /// [`inspect`](crate::LockManager::inspect) says [so](crate::LockStatus::is_done). No owner token can take it over, the
    /// one that has done it neither; only `redlatch break` can. A [shortest hold](LockRequest::min_hold) gives way.
    ///
    /// It is done when a majority of nodes remembers it, and as long as one does: nodes that lose their memory forget it.
    /// A lock that is lost already marks nothing.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it was polled, the lock is released; after that it is left as done in the
    /// background.
    ///
    /// # Errors
    ///
    /// [`Error::Config`](crate::Error::Config) if `keep` is not from 1 ms to 30 days; the lock is released. Else as
    /// [`release`](Self::release): [`Error::NotHeld`](crate::Error::NotHeld) if the lock was lost before, and
    /// [`Error::Unavailable`](crate::Error::Unavailable) if no majority has confirmed the mark in time; the background goes
    /// on then until the TTL is over.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let guard = manager.lock("import:2026-11-27").await?;
    /// guard.complete(Duration::from_secs(86_400)).await?;
    /// assert!(manager.lock("import:2026-11-27").try_acquire().await.unwrap_err().is_contended());
    /// # Ok(()) }
    /// ```
    pub async fn complete(self, keep: Duration) -> Result<()> {
        if let Err(error) = check_keep(keep) {
            let _released = self.release().await;
            return Err(error);
        }
        let claim = self.claim().clone();
        claim.done_for(keep);
        let released = self.release().await;
        // What was lost before is released, and not done.
        if released.is_ok() && !claim.is_done() {
            return Err(Error::NotHeld { key: claim.key().to_owned() });
        }
        released
    }
}

/// Makes one attempt, and others as long as the contenders tear the votes apart: one of them is to get it.
async fn take_undivided(keeper: &Arc<Keeper>, spec: &LockSpec) -> Result<ClaimGuard> {
    let (mut record, began) = (Acquiring::begin(spec.label), Instant::now());
    let mut most = FIRST_PAUSE;
    let result = loop {
        let number = record.attempts + 1;
        let span = attempt_span(spec, number);
        let attempt = Box::pin(attempt(keeper, spec, AskOrder::Census, None).instrument(span));
        match attempt.await {
            Ok(armed) => break Ok(armed),
            Err(Refusal { error, is_split, .. }) => {
                record.attempts = number;
                if !is_split || began.elapsed() >= PATIENCE {
                    break Err(error);
                }
            }
        }
        sleep(SHORTEST_PAUSE + below(most)).await;
        most = LONGEST_PAUSE.min(most * 2);
    };
    record.end(result.as_ref().err());
    result
}

/// What it means for work that is to run once that the lock was not to be had.
fn elsewhere<T, E>(error: Error) -> Result<Once<T, E>> {
    match error {
        Error::AlreadyHeld { retry_after, is_done: true, .. } => Ok(Once::Done { retry_after }),
        Error::AlreadyHeld { retry_after, holder, .. } => Ok(Once::Running { retry_after, holder }),
        Error::WaitTimeout { source, .. } | Error::RetriesExhausted { source, .. }
            if source.is_contended() =>
        {
            elsewhere(*source)
        }
        error => Err(error),
    }
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const FIRST_PAUSE: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How long the votes may stay torn apart, as by somebody who has died in between, before that counts as held.
const PATIENCE: Duration = Duration::from_secs(2);
