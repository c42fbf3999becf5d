//! The manager: settings checked once, and the way to every lock.

use std::{sync::Arc, time::Duration};

use crate::{
    background::Background,
    error::{Error, Result},
    guard::LockGuard,
    keeper::Keeper,
    node::{IntoNode, Node},
    options::Options,
    preflight::{self, Preflight},
    request::LockRequest,
    retry::Retry,
    set_request::LockSetRequest,
    settings::Settings,
    status::{self, LockStatus, NodeHealth},
    ticket::{self, LockTicket},
    validity::ClockDrift,
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
        ticket::redeem(&self.keeper, ticket).await
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
        status::inspect(&self.keeper, key.into()).await
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
        status::ping(&self.keeper).await
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

/// The settings of a [`LockManager`] to be: made by [`single`](LockManager::single) or
/// [`quorum`](LockManager::quorum), ended by [`build`](Self::build).
///
/// ```
/// use std::time::Duration;
/// use redlatch::{ClockDrift, LockManager, Retry};
///
/// let manager = LockManager::single("redis://127.0.0.1:6379")
///     .key_prefix("shop:")
///     .ttl(Duration::from_secs(20))
///     .retry(Retry::jittered(Duration::from_millis(20), Duration::from_millis(50)))
///     .node_timeout(Duration::from_millis(200))
///     .build()?;
/// # Ok::<(), redlatch::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing before it is built"]
pub struct LockManagerBuilder {
    nodes: Vec<Result<Node>>,
    settings: Settings,
}

impl LockManagerBuilder {
    fn new(nodes: Vec<Result<Node>>) -> Self {
        Self { nodes, settings: Settings::default() }
    }

    /// Sets what precedes every key in Redis. Default: nothing.
    #[doc(alias = "namespace")]
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.settings.key_prefix = prefix.into();
        self
    }

    /// Sets the time that Redis keeps a lock without an extend, unless the request says otherwise. Default: 30 seconds.
    ///
    /// From 1 ms to 24 h, and more than the clock drift allowance.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = ttl;
        self
    }

    /// Sets when to try again, unless the request says otherwise. Default: up to 300 ms between attempts, without limit.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.settings.retry = retry;
        self
    }

    /// Sets the allowance for clocks that run at different rates. Default: 1 % of the TTL and 2 ms.
    pub const fn clock_drift(mut self, drift: ClockDrift) -> Self {
        self.settings.clock_drift = drift;
        self
    }

    /// Sets the longest time that one node may take over one command, connecting included. Default: 500 ms.
    pub const fn node_timeout(mut self, timeout: Duration) -> Self {
        self.settings.node_timeout = timeout;
        self
    }

    /// Sets the longest time that a release may take before it is reported as unconfirmed, on drop too.
    /// Default: 5 seconds. The background goes on until the TTL is over.
    pub const fn release_timeout(mut self, timeout: Duration) -> Self {
        self.settings.release_timeout = timeout;
        self
    }

    /// Sets how long an acquire goes on while no majority of the nodes answers. Default: as long as the request's
    /// [`wait_timeout`](LockRequest::wait_timeout), or 5 seconds for requests without one.
    ///
    /// It counts from the start of the first round that no majority answered, or from the call if that came later, and
    /// the outage ends with the first round that a majority answers. When it is over, all whose patience is over fail
    /// with [`Error::Unavailable`], those who stand behind others in the queue too. Zero: one round.
    ///
    /// Refused connections, silence, and servers that are loading, read-only, without a master or out of memory are
    /// outages. Keys of a wrong type, missing rights and wrong passwords are not mended by waiting: where they rule a
    /// majority out, the acquire fails at once.
    pub const fn outage_patience(mut self, patience: Duration) -> Self {
        self.settings.outage_patience = Some(patience);
        self
    }

    /// Keeps a node that has restarted within the last `max_ttl` from voting. Default: off.
    ///
    /// A node that restarts without its memory has forgotten the locks it granted, and would grant them again:
    /// it must not vote before they have all ended. Name the longest TTL that anybody uses on these nodes; longer
    /// ones are refused here with [`Error::Config`]. Whether a node has restarted is told by its own uptime, asked
    /// for on each new connection, for which users need the right to `INFO`; told in whole seconds, it may keep a
    /// node away for a second or two longer. This is the delayed restart that the
    /// Redis documentation asks of operators ("Distributed Locks with Redis", crash recovery), without the
    /// operators. It is not available for clusters, whose servers restart one by one.
    pub const fn restart_quarantine(mut self, max_ttl: Duration) -> Self {
        self.settings.restart_quarantine = Some(max_ttl);
        self
    }

    /// Has the background work - renewals, releases, connections and notices - done on a thread of its own. Default: on
    /// the runtime of the manager's first use.
    ///
    /// It is for programs that block their runtime, or that only now and then drive it: without it, a blocked worker can
    /// stop renewals (even one of several: see [`auto_renew`](crate::LockRequest::auto_renew)), and outside of
    /// `block_on` a current-thread runtime renews nothing and releases nothing that is dropped. Others do not need it,
    /// and save two changes of thread a command.
    ///
    /// The thread runs a current-thread runtime. It starts at the manager's first use, however many runtimes the manager
    /// is used on, and ends once the manager, its requests and its guards are gone and everything is released; the
    /// process may end without waiting for it, so [`close`](LockManager::close) what must be released before. Waiting
    /// stays with the caller: futures of this crate still need a tokio runtime to be awaited on. `on_renewal` is called
    /// on the thread.
    ///
    /// The thread has real time: a test that pauses tokio's clock does not pause it. A process that forks must use the
    /// manager first after the fork, since threads do not survive it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use redlatch::{LockManager, Node};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let manager = LockManager::single(Node::in_memory()).dedicated_runtime().build()?;
    /// let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    /// let request = manager.lock("report").ttl(Duration::from_millis(200)).auto_renew();
    /// let guard = runtime.block_on(request.acquire())?;
    /// std::thread::sleep(Duration::from_millis(500)); // work that is not async
    /// assert!(guard.is_valid());
    /// drop(guard); // released, although no runtime runs here
    /// # Ok(()) }
    /// ```
    #[doc(alias("blocking", "sync"))]
    pub fn dedicated_runtime(mut self) -> Self {
        self.settings.background = Background::dedicated();
        self
    }

    /// Checks the settings and makes the manager. It does no I/O and needs no runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for: no node, the same node twice, a URL that cannot be read, TLS for which nobody has
    /// chosen rustls' crypto provider, a drift factor outside `[0, 1)`, a timeout of zero, a TTL out of range.
    pub fn build(self) -> Result<LockManager> {
        let nodes: Vec<Node> = self.nodes.into_iter().collect::<Result<_>>()?;
        check_nodes(&nodes)?;
        self.settings.check()?;
        let cluster = nodes.iter().find(|node| node.is_cluster());
        if let Some(cluster) = cluster.filter(|_| self.settings.restart_quarantine.is_some()) {
            let name = cluster.name();
            return Err(Error::config(format!(
                "node {name} is a cluster, which has no one uptime"
            )));
        }
        Ok(LockManager { keeper: Arc::new(Keeper::new(nodes, self.settings)) })
    }
}

/// Has each error say which of several nodes it is about.
fn number(nodes: &mut [Result<Node>]) {
    let all = nodes.len();
    for (position, node) in nodes.iter_mut().enumerate().filter(|_| all > 1) {
        if let Err(Error::Config { message }) = node {
            message.insert_str(0, &format!("node {} of {all}: ", position + 1));
        }
    }
}

/// Refuses to count one server twice: whatever the database or the credentials, it fails as one. Refuses TLS that
/// would panic when it connects.
fn check_nodes(nodes: &[Node]) -> Result<()> {
    if nodes.is_empty() {
        return Err(Error::config("a manager needs at least one node"));
    }
    for (position, node) in nodes.iter().enumerate() {
        if nodes[..position].iter().any(|other| other.is_same_as(node)) {
            return Err(Error::config(format!("node {} is named twice", node.name())));
        }
        node.check_tls()?;
    }
    Ok(())
}
