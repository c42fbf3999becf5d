//! The setters that requests share, whatever they take: written once, and given to each kind of request in one line.

/// The setters of a request with a field `options: Options`: all of them, or those that are named. `owner` is not among
/// them, since not every request can have one.
macro_rules! setters {
    () => {
        setters!(
            ttl wait_timeout retry holder unfenced auto_renew auto_renew_every on_renewal max_hold min_hold
            label
        );
    };
    ($($name:ident)+) => { $(setters!(@$name);)+ };
    (@ttl) => {
        /// Sets the time that Redis keeps the lock without an extend. Default: the manager's, which is 30 seconds.
        ///
        /// From 1 ms to 24 h; anything else is an [`Error::Config`](crate::Error::Config) when the lock is taken.
        #[doc(alias("lease", "expiry"))]
        pub const fn ttl(mut self, ttl: std::time::Duration) -> Self {
            self.options.ttl = ttl;
            self
        }
    };
    (@wait_timeout) => {
        /// Sets the longest time that the whole acquire may take, standing in the local queue included. Default: none.
        ///
        /// Then the acquire ends with [`Error::WaitTimeout`](crate::Error::WaitTimeout), whose source is the last
        /// cause; [`Error::Unavailable`](crate::Error::Unavailable) if no answer came in time. At least one attempt is
        /// sent: if the time was over in the queue, it may take a tenth of a second more. With a timeout of zero one
        /// attempt is made, which may take as long as the nodes may.
        ///
        /// It is also how long an [outage](crate::LockManagerBuilder::outage_patience) is waited through.
        pub const fn wait_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.options.wait_timeout = Some(timeout);
            self
        }
    };
    (@retry) => {
        /// Sets when to try again. Default: the manager's, which is up to 300 ms between attempts, without limit.
        ///
        /// An unlimited policy may be woken late or early to spare Redis: it waits for the holder's release or expiry
        /// rather than for its delays, where it can know of them. A policy with
        /// [`max_retries`](crate::Retry::max_retries) is followed to the letter, and only woken early. A set counts the
        /// retries of each key.
        pub fn retry(mut self, retry: $crate::Retry) -> Self {
            self.options.retry = retry;
            self
        }
    };
    (@holder) => {
        /// Sets what people call who holds the lock: the host, the pod, the replica. Default: the manager's, which is
        /// nothing.
        ///
        /// [`Error::AlreadyHeld`](crate::Error::AlreadyHeld) and [`LockStatus`](crate::LockStatus::holder) tell it to
        /// whoever asks, so it is no place for a secret, and it proves nothing: it stands, readable, in front of the
        /// owner token, which stays random and fresh for every attempt.
        ///
        /// From 1 to 64 characters, at most 128 bytes, no control characters and no `/`; anything else is an
        /// [`Error::Config`](crate::Error::Config) when the lock is taken. So is a holder, the manager's too, beside an
        /// [`owner`](crate::LockRequest::owner) token.
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
    };
    (@unfenced) => {
        /// Does without a fencing counter for this lock: one key in Redis, and one plain `SET` to take it. Default: the
        /// manager's, which is fenced.
        ///
        /// **Its [`fencing_token`](crate::LockGuard::fencing_token) is
        /// [`FencingToken::NONE`](crate::FencingToken::NONE), which is lower than every other**: a resource that
        /// compares tokens turns it away, and one that does not is protected from a paused holder by the lock's time
        /// alone. Every other promise holds. With [`owner`](crate::LockRequest::owner) it is an
        /// [`Error::Config`](crate::Error::Config) when the lock is taken.
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
    };
    (@auto_renew) => {
        /// Has the lock renewed in the background each third of its TTL, as long as the guard lives. Default: not.
        ///
        /// Renewals run on the runtime that the manager was used on first. **One** blocked worker of a multi-threaded
        /// runtime can stop them: the one that has tokio's I/O driver, or that the background task waits on. So put
        /// what blocks on [`spawn_blocking`](tokio::task::spawn_blocking):
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
        /// Outside of `block_on` a current-thread runtime renews nothing at all. Where either cannot be helped, the
        /// manager needs a [runtime of its own](crate::LockManagerBuilder::dedicated_runtime).
        #[doc(alias = "watchdog")]
        pub const fn auto_renew(mut self) -> Self {
            self.options.auto_renew = true;
            self.options.renewal.every = None;
            self
        }
    };
    (@auto_renew_every) => {
        /// Has the lock renewed in the background at this interval, up to a tenth earlier.
        ///
        /// It must be more than zero and at most four fifths of the TTL, so that a late or repeated renewal still comes
        /// in time; anything else is an [`Error::Config`](crate::Error::Config) when the lock is taken. Once the lock
        /// was extended to a TTL for which the interval is too long, it is renewed each third of that TTL instead.
        #[doc(alias = "watchdog")]
        pub const fn auto_renew_every(mut self, interval: std::time::Duration) -> Self {
            self.options.auto_renew = true;
            self.options.renewal.every = Some(interval);
            self
        }
    };
    (@on_renewal) => {
        /// Sets what is called when the lock was renewed, could not be renewed, or is lost. Default: nothing.
        ///
        /// It is called for locks with auto-renewal only, on the background task, so it should return soon. A
        /// panic in it is caught and logged. Not each attempt that fails is told: see
        /// [`RenewalEvent::Failed`](crate::RenewalEvent::Failed) for how often.
        pub fn on_renewal(mut self, listener: impl Fn(&$crate::RenewalEvent) + Send + Sync + 'static) -> Self {
            self.options.renewal.on_event = Some(std::sync::Arc::new(listener));
            self
        }
    };
    (@max_hold) => {
        /// Sets how long auto-renewal may keep the lock. Default: as long as the guard lives.
        ///
        /// Counted from when the lock was taken, or all of a set were. The last renewal ends at that time, with
        /// [`RenewalEvent::Stopped`](crate::RenewalEvent::Stopped); unless the lock is released before, it is lost
        /// then, as `Expired`. So a holder that hangs is in the way no longer than this. An explicit
        /// [`extend`](crate::LockGuard::extend) is not bounded.
        ///
        /// It must not be less than the TTL; else it is an [`Error::Config`](crate::Error::Config) when the lock is
        /// taken.
        #[doc(alias = "lock_at_most_for")]
        pub const fn max_hold(mut self, max_hold: std::time::Duration) -> Self {
            self.options.renewal.max_hold = Some(max_hold);
            self
        }
    };
    (@min_hold) => {
        /// Sets how long the key stays in Redis at least, even if the lock is released before. Default: not.
        ///
        /// Counted from when the lock was taken, or all of a set were. An earlier release or drop leaves the key in
        /// place to end at that time, for nobody, so that a job which takes less than the clocks of its hosts differ,
        /// and is started on each of them at the same minute, runs once. Nobody is notified of such an end; waiters
        /// look by themselves.
        ///
        /// It is the release that keeps the key: until then the TTL, or auto-renewal, must cover the work. A lock that
        /// is lost, [forgotten](crate::LockGuard::forget) or [handed over](crate::LockGuard::into_ticket), or whose
        /// process dies, ends with its TTL.
        ///
        /// It may be longer than the TTL, and up to 24 h; else it is an [`Error::Config`](crate::Error::Config) when
        /// the lock is taken.
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
        pub const fn min_hold(mut self, min_hold: std::time::Duration) -> Self {
            self.options.min_hold = min_hold;
            self
        }
    };
    (@label) => {
        /// Sets what operators call locks of this kind: the value of the field `label` of their spans, and of the label
        /// `label` of their metrics. Default: none.
        ///
        /// Keys are no labels of metrics, since there may be any number of them. A word for all invoices or all nightly
        /// jobs tells which kind of lock is contended, late or lost.
        ///
        /// ```
        /// # use redlatch::LockManager;
        /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
        /// let manager = LockManager::in_memory();
        /// let guard = manager.lock("invoice:42").label("invoice").await?;
        /// # Ok(()) }
        /// ```
        pub const fn label(mut self, label: &'static str) -> Self {
            self.options.label = Some(label);
            self
        }
    };
}

pub(crate) use setters;
