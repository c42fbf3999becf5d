//! The manager: the way to every lock.

mod builder;

use std::{collections::BTreeSet, sync::Arc};

pub use self::builder::LockManagerBuilder;
use self::builder::number;
#[cfg(doc)]
use crate::Error;
use crate::{
    acquire::take_over,
    election::Election,
    inspect::{self, LockStatus, NodeHealth},
    keeper::Keeper,
    lock::{
        any_request::{LockAnyRequest, slots},
        guard::LockGuard,
        options::Options,
        request::LockRequest,
        set_request::LockSetRequest,
    },
    node::{IntoNode, Node},
    preflight::{self, Preflight},
    types::{error::Result, settings::Settings, ticket::LockTicket},
};

/// Hands out locks on one Redis node or on a quorum of independent ones. Cheap to clone; clones share everything.
///
/// Connections and the background task start at the first use, on the runtime of that use, and start again if
/// that runtime has ended. One that lives on but is not driven, such as a current-thread runtime outside of
/// `block_on`, stalls what lives on it: use a manager on runtimes that run, or give it [one of its
/// own](LockManagerBuilder::dedicated_runtime).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
/// use redlatch::{LockManager, Node};
///
/// let single = LockManager::single("redis://127.0.0.1:6379").build()?;
/// let quorum = LockManager::quorum(["redis://a:6379", "redis://b:6379", "redis://c:6379"]).build()?;
/// let in_process = LockManager::quorum((0..3).map(|_| Node::in_memory())).build()?;
/// let guard = in_process.lock("invoice:42").await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[doc(alias("redlock", "mutex"))]
pub struct LockManager {
    keeper: Arc<Keeper>,
}

impl LockManager {
    #[cfg(test)]
    pub(crate) const fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }

    /// Starts a manager over one node: a URL, a [`Node`], or a pool.
    #[doc(alias = "mutex")]
    pub fn single(node: impl IntoNode) -> LockManagerBuilder {
        LockManagerBuilder::new(vec![node.into_node()])
    }

    /// Starts a manager over independent nodes, of which more than half must agree.
    ///
    /// This is Redlock (Redis documentation, "Distributed Locks with Redis"): the nodes must not replicate
    /// one another and should not fail together. An odd number is best, since an even one tolerates no more
    /// failures than one less.
    #[doc(alias = "redlock")]
    pub fn quorum<N: IntoNode>(nodes: impl IntoIterator<Item = N>) -> LockManagerBuilder {
        let mut nodes: Vec<_> = nodes.into_iter().map(IntoNode::into_node).collect();
        number(&mut nodes);
        LockManagerBuilder::new(nodes)
    }

    /// Creates a manager over one node in this process' memory, with all defaults.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let guard = redlatch::LockManager::in_memory().lock("k").await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    #[doc(alias = "mock")]
    pub fn in_memory() -> Self {
        Self { keeper: Arc::new(Keeper::new(vec![Node::in_memory()], Settings::default())) }
    }

    /// Starts a request for the lock of this key: 1 to 512 bytes, any characters, but not the name of another key's
    /// fencing counter (`{k}:fence`).
    ///
    /// Nothing is checked or sent before one of the request's ends is awaited.
    #[doc(alias("lease", "mutex"))]
    pub fn lock(&self, key: impl Into<String>) -> LockRequest {
        LockRequest::new(self.keeper.clone(), key.into(), Options::new(&self.keeper.settings))
    }

    /// Starts a request for the locks of all these keys at once: all or none. A key that is named twice is
    /// locked once.
    ///
    /// Nothing is checked or sent before one of the request's ends is awaited.
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let transfer = manager.lock_all(["account:7", "account:3"]).acquire().await?;
    /// assert!(transfer.fencing_token("account:3").is_some());
    /// transfer.release().await?;
    /// # Ok(()) }
    /// ```
    #[doc(alias = "multilock")]
    pub fn lock_all<K: Into<String>>(&self, keys: impl IntoIterator<Item = K>) -> LockSetRequest {
        let keys = keys.into_iter().map(Into::into).collect();
        LockSetRequest::new(self.keeper.clone(), keys, Options::new(&self.keeper.settings))
    }

    /// Starts a request for the lock of any one of these keys, whichever is free. A key that is named twice counts once.
    ///
    /// Each key is a lock of its own: [`lock`](Self::lock) on one of them and this exclude each other, on a quorum too.
    /// Nothing is checked or sent before one of the request's ends is awaited.
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let _busy = manager.lock("gpu:0").await?;
    /// let gpu = manager.lock_any(["gpu:0", "gpu:1"]).acquire().await?;
    /// assert_eq!(gpu.key(), "gpu:1");
    /// # Ok(()) }
    /// ```
    pub fn lock_any<K: Into<String>>(&self, keys: impl IntoIterator<Item = K>) -> LockAnyRequest {
        self.any_of(Ok(keys.into_iter().map(Into::into).collect()))
    }

    /// Starts a request for one of so many permits, 1 to 1024: any one of the locks `name#0` to `name#(permits - 1)`.
    ///
    /// There are never more than `permits` valid guards, on a quorum too, since each is that of a lock. All who use the
    /// semaphore must name the same number: whoever names more uses slots that others do not know of. It is a bound, not
    /// a rate: [`min_hold`](LockAnyRequest::min_hold) keeps a slot taken for a while after a short use.
    ///
    /// The fencing token of a guard orders the holders of its slot, and says nothing of other slots: the resource must
    /// compare tokens slot by slot. Nothing is checked or sent before one of the request's ends is awaited.
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let (one, other) = (manager.semaphore("api", 2).await?, manager.semaphore("api", 2).await?);
    /// assert_ne!(one.key(), other.key());
    /// assert!(manager.semaphore("api", 2).try_acquire().await.unwrap_err().is_contended());
    /// # Ok(()) }
    /// ```
    #[doc(alias("permit", "rate_limit", "concurrency"))]
    pub fn semaphore(&self, name: impl Into<String>, permits: usize) -> LockAnyRequest {
        self.any_of(slots(&name.into(), permits))
    }

    fn any_of(&self, names: Result<BTreeSet<String>, String>) -> LockAnyRequest {
        LockAnyRequest::new(self.keeper.clone(), names, Options::new(&self.keeper.settings))
    }

    /// Holds an election of this name: of all who campaign, one leads at a time. The name is a key, so that nothing else
    /// should be locked under it.
    ///
    /// Nothing is checked or sent before somebody campaigns or looks.
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let election = LockManager::in_memory().election("scheduler");
    /// let guard = election.campaign().await?;
    /// guard.while_held(async { /* what the leader does */ }).await?;
    /// # Ok(()) }
    /// ```
    #[doc(alias("leader", "leadership"))]
    pub fn election(&self, name: impl Into<String>) -> Election {
        Election::new(self.keeper.clone(), name.into())
    }

    /// Takes over the lock of a ticket, with the same owner and fencing tokens, and extends it to the ticket's TTL.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the lock stays as it is, extended or not, and is released by nobody. A clone of
    /// the ticket can be adopted.
    ///
    /// # Errors
    ///
    /// [`Error::NotHeld`] if a majority does not have the ticket's owner under the ticket's fencing token any
    /// more, [`Error::Unavailable`] if too few nodes answered, [`Error::ValidityExpired`] if they took longer than
    /// the TTL allows, [`Error::Config`] for a key or TTL out of range, [`Error::Closed`] once the manager is
    /// closed. After any of them the lock is as after dropping the future.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let ticket = manager.lock("shard:3").await?.into_ticket();
    /// let guard = manager.adopt(ticket.clone()).await?;
    /// assert_eq!(guard.fencing_token(), ticket.fencing_token());
    /// # Ok(()) }
    /// ```
    pub async fn adopt(&self, ticket: LockTicket) -> Result<LockGuard> {
        take_over::redeem(&self.keeper, ticket).await.map(LockGuard::new)
    }

    /// Looks who holds a lock and for how long. Takes nothing and changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if no majority answered within the node timeout, [`Error::Config`] for a key out of range.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let guard = manager.lock("k").await?;
    /// let status = manager.inspect("k").await?;
    /// assert_eq!(status.owner_token(), Some(guard.owner_token()));
    /// # Ok(()) }
    /// ```
    #[doc(alias = "is_locked")]
    pub async fn inspect(&self, key: impl Into<String>) -> Result<LockStatus> {
        inspect::inspect(&self.keeper, key.into()).await
    }

    /// Pings every node, all at once. One entry a node, in the order in which they were given.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let health = LockManager::in_memory().ping().await;
    /// assert!(health.iter().all(|node| node.round_trip().is_ok()));
    /// # Ok(()) }
    /// ```
    pub async fn ping(&self) -> Vec<NodeHealth> {
        inspect::ping(&self.keeper).await
    }

    /// Looks for what would let locks down: nodes that are one server, that forget, evict or fail over, and
    /// missing rights. [`Preflight`] lists the checks.
    ///
    /// All nodes are asked at once, each for up to the node timeout and in one round trip. No key is read,
    /// written or deleted. A user without the right to `INFO`, `TIME` or `CONFIG GET` is told what could not be
    /// checked; each refusal leaves an entry in the server's `ACL LOG`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let preflight = LockManager::in_memory().preflight().await;
    /// assert!(preflight.is_ok(), "{preflight}");
    /// # Ok(()) }
    /// ```
    #[doc(alias = "doctor")]
    pub async fn preflight(&self) -> Preflight {
        preflight::run(&self.keeper).await
    }

    /// Closes the manager and all its clones, and waits for what is pending, up to the release timeout.
    ///
    /// New acquires, extends and adoptions are refused with [`Error::Closed`]. Renewal ends, and live guards are
    /// lost with [`LossReason::Closed`](crate::LossReason::Closed); their keys are never deleted under them. It
    /// waits for live guards to go and for their releases to be confirmed, and returns how many locks stayed
    /// unreleased. A live guard may still be released afterwards.
    ///
    /// Await it as the last thing before a runtime ends: what was dropped just before may not be released otherwise,
    /// of which a warning tells, and ends with its TTL.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the manager stays closed, and releases go on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// drop(manager.lock("k").await?);
    /// assert_eq!(manager.close().await, 0);
    /// # Ok(()) }
    /// ```
    pub async fn close(&self) -> usize {
        self.keeper.close().await
    }
}
