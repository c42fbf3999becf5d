//! Elections: one of several processes leads, as long as it holds a lock.

mod lead;
mod leader;
mod watch;

use std::{fmt, sync::Arc, time::Duration};

pub use self::{leader::Leader, watch::LeaderWatch};
use crate::{
    inspect,
    keeper::Keeper,
    lock::{guard::LockGuard, options::Options, request::LockRequest, setters::setters},
    types::error::Result,
};

/// An election: of all who campaign under one name, one leads at a time. Made by
/// [`LockManager::election`](crate::LockManager::election).
///
/// To lead is to hold the lock of that name, and a term is its [fencing token](LockGuard::fencing_token): it grows from
/// leader to leader. All that a guard promises holds, and no more: a leader that is paused may wake up after its time, so
/// tie its work to [`while_held`](LockGuard::while_held), as [`lead`](Self::lead) does, and have the resource check the
/// term. An election is fenced on an [unfenced](crate::LockManagerBuilder::unfenced) manager too.
///
/// A leader that dies is replaced within the TTL, one that resigns at once.
///
/// ```
/// # use redlatch::LockManager;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
/// let manager = LockManager::in_memory();
/// let election = manager.election("scheduler").holder("db1");
/// let guard = election.campaign().await?; // elected
/// let leader = election.leader().await?.expect("there is one");
/// assert_eq!((leader.name(), leader.term()), (Some("db1"), guard.fencing_token()));
/// guard.release().await?; // resigns
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "an election is held by those who campaign"]
pub struct Election {
    keeper: Arc<Keeper>,
    name: String,
    options: Options,
}

impl Election {
    pub(crate) fn new(keeper: Arc<Keeper>, name: String) -> Self {
        let mut options = Options::new(&keeper.settings);
        let longest = keeper.settings.restart_quarantine.unwrap_or(TTL);
        (options.ttl, options.unfenced, options.auto_renew) = (TTL.min(longest), false, true);
        Self { keeper, name, options }
    }

    setters!(holder retry on_renewal label);

    /// Sets for how long a leader that dies is in the way, and how soon one that is cut off must stop. Default: 15 seconds,
    /// or the manager's [restart quarantine](crate::LockManagerBuilder::restart_quarantine) if that is less.
    ///
    /// From 1 ms to 24 h; anything else is an [`Error::Config`](crate::Error::Config) at the campaign. A leader renews each
    /// third of it. Observers look as often, so give all who take part the same.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = ttl;
        self
    }

    /// Waits until elected. The lock is renewed as long as the guard lives; to release or drop it is to resign.
    ///
    /// # Cancel safety
    ///
    /// As [`LockRequest::acquire`].
    ///
    /// # Errors
    ///
    /// As [`LockRequest::acquire`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let guard = manager.election("scheduler").campaign().await?;
    /// guard.while_held(async { /* lead */ }).await?;
    /// # Ok(()) }
    /// ```
    pub fn campaign(&self) -> impl Future<Output = Result<LockGuard>> + Send + use<> {
        LockRequest::new(self.keeper.clone(), self.name.clone(), self.options.clone()).acquire()
    }

    /// Looks who leads, as a majority of the nodes sees it now. It is advisory.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`](crate::Error::Unavailable) if no majority answered within the node timeout,
    /// [`Error::Config`](crate::Error::Config) for a name that cannot be a key,
    /// [`Error::Closed`](crate::Error::Closed) once the manager is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let election = LockManager::in_memory().election("scheduler");
    /// assert!(election.leader().await?.is_none());
    /// # Ok(()) }
    /// ```
    pub async fn leader(&self) -> Result<Option<Leader>> {
        Ok(self.look().await?.map(|(leader, _)| leader))
    }

    /// Who leads, and until when at least if nothing happens.
    async fn look(&self) -> Result<Option<(Leader, Option<Duration>)>> {
        self.keeper.check_open()?;
        let key = self.keeper.key(self.name.clone(), self.keeper.settings.fencing(false))?;
        let status = inspect::inspect_key(&self.keeper, key).await?;
        Ok(Leader::of(&status).map(|leader| (leader, status.expires_in())))
    }

    /// Watches who leads, from the next call of [`changed`](LeaderWatch::changed) on.
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let election = LockManager::in_memory().election("scheduler").holder("db1");
    /// let mut watch = election.observe();
    /// let guard = election.campaign().await?;
    /// let leader = watch.changed().await?.expect("the first that is told is a leader");
    /// assert_eq!(leader.term(), guard.fencing_token());
    /// guard.release().await?;
    /// assert_eq!(watch.changed().await?, None);
    /// # Ok(()) }
    /// ```
    #[must_use = "a watch looks when it is asked"]
    pub fn observe(&self) -> LeaderWatch {
        LeaderWatch::new(self.clone())
    }
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election")
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

const TTL: Duration = Duration::from_secs(15);
