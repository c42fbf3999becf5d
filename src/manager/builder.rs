//! The builder: what a manager may be told, and what is checked before there is one.

use std::{sync::Arc, time::Duration};

use super::LockManager;
use crate::{
    host::background::Background,
    keeper::Keeper,
    node::Node,
    types::{
        error::{Error, Result},
        retry::Retry,
        settings::Settings,
        validity::ClockDrift,
    },
};

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
    pub(super) fn new(nodes: Vec<Result<Node>>) -> Self {
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
    /// [`wait_timeout`](crate::LockRequest::wait_timeout), or 5 seconds for requests without one.
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

    /// Sets how long a fencing counter outlives the last use of its key: counted from the last acquire, extend or renewal.
    /// Default: 24 hours.
    ///
    /// From 1 minute to 30 days, and never less than twice the lock's TTL. Each key that was locked within that time takes
    /// about 130 bytes of each node's memory. Tokens grow strictly unless a counter has gone *and* the clocks of the
    /// machines that lock its key differ by more than this, less a tenth: an attempt that takes longer than a tenth is
    /// [`Error::ValidityExpired`], since its token would be that of a clock which is behind.
    pub const fn fencing_retention(mut self, retention: Duration) -> Self {
        self.settings.fencing_retention = retention;
        self
    }

    /// Does without fencing counters: a lock is one key in Redis, taken with one plain `SET`. Default: locks are fenced.
    ///
    /// **Every [`fencing_token`](crate::LockGuard::fencing_token) is then [`FencingToken::NONE`](crate::FencingToken::NONE)**:
    /// see [`LockRequest::unfenced`](crate::LockRequest::unfenced), which does the same for one lock.
    pub const fn unfenced(mut self) -> Self {
        self.settings.unfenced = true;
        self
    }

    /// Sets what people call who holds the manager's locks, unless the request says otherwise: the host, the pod, the
    /// replica. Default: nothing.
    ///
    /// It is told to whoever asks for a lock that is held: see [`LockRequest::holder`](crate::LockRequest::holder), also
    /// for what it may be. A request with an [`owner`](crate::LockRequest::owner) token of the caller's choice is an
    /// [`Error::Config`] with such a manager: its locks would not tell who holds them.
    ///
    /// ```
    /// use redlatch::{LockManager, Node};
    ///
    /// let manager = LockManager::single(Node::in_memory()).holder("web-7").build()?;
    /// # Ok::<(), redlatch::Error>(())
    /// ```
    pub fn holder(mut self, name: impl Into<String>) -> Self {
        self.settings.holder = Some(name.into().into());
        self
    }

    /// Checks the settings and makes the manager. It does no I/O and needs no runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for: no node, the same node twice, a URL that cannot be read, TLS for which nobody has
    /// chosen rustls' crypto provider, a drift factor outside `[0, 1)`, a timeout of zero, a TTL or a retention out of range,
    /// a holder's name that is none.
    pub fn build(self) -> Result<LockManager> {
        let nodes: Vec<Node> = self.nodes.into_iter().collect::<Result<_>>()?;
        check_nodes(&nodes)?;
        self.settings.check()?;
        Self::build_of(nodes, self.settings)
    }

    fn build_of(nodes: Vec<Node>, settings: Settings) -> Result<LockManager> {
        let cluster = nodes.iter().find(|node| node.is_cluster());
        if let Some(cluster) = cluster.filter(|_| settings.restart_quarantine.is_some()) {
            let name = cluster.name();
            return Err(Error::config(format!(
                "node {name} is a cluster, which has no one uptime"
            )));
        }
        Ok(LockManager { keeper: Arc::new(Keeper::new(nodes, settings)) })
    }
}

/// Has each error say which of several nodes it is about.
pub(super) fn number(nodes: &mut [Result<Node>]) {
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
        node.check()?;
    }
    Ok(())
}
