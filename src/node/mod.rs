//! A node: one independent deployment that votes, whether a Redis or this process' memory.

mod command;
mod facts;
mod failure;
mod lane;
mod link;
mod memory;
mod message;
mod notices;
mod presence;
pub(crate) mod round;
mod scripts;
mod send_log;
mod source;
mod stranger;
mod survey;
pub(crate) mod tally;
mod tls;
mod url;

use std::{fmt, sync::Arc, time::Duration};

use deadpool_redis::Pool;

pub(crate) use self::{
    command::{Answer, Command, KeyState, Released, Touch},
    facts::{Clock, Facts, Missing, Rights, ServerFacts},
    lane::Recovered,
    link::{NodeClient, NodeSubscription},
    notices::{Notice, OnNotice},
    send_log::SendLog,
    survey::Questions,
};
use self::{failure::Failure, memory::Store, source::Source};
#[cfg(test)]
pub(crate) use self::{
    memory::{Kept, Names},
    scripts::scripts,
};
use crate::types::error::{Error, NodeError, Result};

/// One Redis deployment that votes, or its in-process stand-in.
///
/// It is a description: connections open with a manager's first use. `Debug` and
/// [`name`](Self::name) never show credentials.
///
/// ```
/// use redlatch::{LockManager, Node};
///
/// let node = Node::open("redis://user:secret@127.0.0.1/3")?;
/// assert_eq!(node.name(), "127.0.0.1:6379");
/// let manager = LockManager::single(node).build()?;
/// # Ok::<(), redlatch::Error>(())
/// ```
#[derive(Clone)]
pub struct Node {
    name: Arc<str>,
    kind: Kind,
    notices: Option<Source>,
}

#[derive(Clone)]
enum Kind {
    Redis(Source),
    Memory(Arc<Store>),
}

impl Node {
    /// Reads a URL: `redis://`, `rediss://`, `redis+unix://` or `valkey://`. Opens nothing yet.
    ///
    /// `redis://user:password@host:port/database`, or `redis+unix:///path?user=..&pass=..&db=..` for a socket. The
    /// port defaults to 6379, the database to 0; `?db=3` names it too. Add `?protocol=resp3` for servers that
    /// demand it. User and password are percent-encoded (`#` as `%23`, `/` as `%2F`, `?` as `%3F`, `@` as `%40`, `:`
    /// as `%3A`, `%` as `%25`).
    ///
    /// What is not understood is refused: other parameters, a user without a password, and whatever follows a `#`,
    /// so that there is no `#insecure`; certificates are always checked.
    ///
    /// # Errors
    ///
    /// [`Error::Config`](crate::Error::Config) if the URL cannot be read, or needs TLS and the crate was built
    /// without. It says what would do, and never repeats credentials.
    pub fn open(url: impl AsRef<str>) -> Result<Self> {
        Ok(Self::from_source(Source::url(url.as_ref())?))
    }

    /// Creates a node in this process' memory: the same semantics without a server.
    ///
    /// Clones share one store, so that managers over clones exclude each other. Expiry follows tokio's
    /// clock, which a test can pause.
    #[must_use]
    pub fn in_memory() -> Self {
        let store = Store::new();
        Self { name: store.name.clone(), kind: Kind::Memory(Arc::new(store)), notices: None }
    }

    /// Names the URL of this node at which release notices can be heard.
    ///
    /// A node from a URL hears them anyway. From a pool alone nobody can open the connection for it, so that
    /// waiters on a pool-built node sleep by the holder's TTL and their retry delay unless this is given.
    ///
    /// # Errors
    ///
    /// [`Error::Config`](crate::Error::Config) if the URL cannot be read, or needs TLS and the crate was built without.
    pub fn with_notices(mut self, url: impl AsRef<str>) -> Result<Self> {
        let notices = Source::url(url.as_ref())?;
        if let Kind::Redis(source) = &self.kind
            && source.is_anonymous()
        {
            self.name = format!("{} {}", source.name(), notices.name()).into();
        }
        self.notices = Some(notices);
        Ok(self)
    }

    /// Leaves out the `CLIENT SETINFO` with which a connection begins, for proxies that hang up on it, such as
    /// twemproxy. `?client_info=no` in the URL does the same. Default: the server is told the client's name, for
    /// `CLIENT LIST`, and a refusal is ignored.
    ///
    /// It goes for the connections to a URL, that of [`with_notices`](Self::with_notices) too. A pool opens its
    /// connections in its own way: `redis::RedisConnectionInfo::set_skip_set_lib_name` tells it.
    ///
    /// ```
    /// use redlatch::{LockManager, Node};
    ///
    /// let node = Node::open("redis://127.0.0.1:22121")?.without_client_info();
    /// let manager = LockManager::single(node).build()?;
    /// # Ok::<(), redlatch::Error>(())
    /// ```
    #[must_use]
    pub fn without_client_info(mut self) -> Self {
        if let Kind::Redis(source) = self.kind {
            self.kind = Kind::Redis(source.without_client_info());
        }
        self.notices = self.notices.map(Source::without_client_info);
        self
    }

    /// Returns `host:port`, with brackets around an IPv6 address, or the path of the node's socket; never
    /// credentials.
    ///
    /// Pools over a cluster or Sentinel keep their addresses to themselves: a node of theirs is `cluster` or
    /// `sentinel`, followed by the `host:port` of [`with_notices`](Self::with_notices) if that was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[cfg(test)]
    pub(crate) fn simulated(server: Arc<crate::simulation::Server>) -> Self {
        Self::from_source(Source::Simulated(server))
    }

    fn from_source(source: Source) -> Self {
        Self { name: source.name().into(), kind: Kind::Redis(source), notices: None }
    }

    /// Whether the two fail together: they are one server, whatever the credentials or the database.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        if let (Kind::Redis(one), Kind::Redis(other)) = (&self.kind, &other.kind)
            && one.is_anonymous()
            && other.is_anonymous()
        {
            return one.is_same_pool(other);
        }
        url::is_same_place(&self.name, &other.name)
    }

    /// Refuses TLS that cannot begin.
    pub(crate) fn check_tls(&self) -> Result<()> {
        let source = match &self.kind {
            Kind::Redis(source) => Some(source),
            Kind::Memory(_) => None,
        };
        let is_tls = source.into_iter().chain(&self.notices).any(Source::is_tls);
        if !is_tls || tls::has_provider() {
            return Ok(());
        }
        Err(Error::config(format!("node {}: {}", self.name, tls::NO_PROVIDER)))
    }

    /// That the node answered something else than was asked.
    pub(crate) fn odd_answer(&self) -> NodeError {
        NodeError::new(&self.name, Failure::Shape)
    }

    /// That the node gave no answer in the time that a caller had.
    pub(crate) fn no_answer(&self, within: Duration) -> NodeError {
        let whole = Duration::from_millis(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        NodeError::new(&self.name, Failure::TimedOut(whole))
    }

    /// Whether the node is a cluster, which wants the keys of a command in one slot.
    pub(crate) const fn is_cluster(&self) -> bool {
        matches!(&self.kind, Kind::Redis(source) if source.is_cluster())
    }

    /// Whether the node replaces its masters by their replicas: it is a cluster or a deployment under Sentinel.
    pub(crate) const fn fails_over(&self) -> bool {
        matches!(&self.kind, Kind::Redis(source) if source.is_anonymous())
    }

    /// Whether release notices are heard with the same credentials that the lane has.
    pub(crate) const fn hears_as_it_asks(&self) -> bool {
        self.notices.is_none() && matches!(&self.kind, Kind::Redis(source) if source.is_url())
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.name).finish()
    }
}

impl From<Pool> for Node {
    /// Has the pool's manager open one more connection when the lock manager is first used. It is no part of
    /// the pool: neither is it lent to others, nor does it count against the pool's size.
    fn from(pool: Pool) -> Self {
        Self::from_source(Source::Pool(pool))
    }
}

#[cfg(feature = "cluster")]
impl From<deadpool_redis::cluster::Pool> for Node {
    /// Has the pool's manager open one more connection when the lock manager is first used. The cluster as a
    /// whole is one node.
    ///
    /// A key that has a `}` but no hash tag is refused with [`Error::Config`](crate::Error::Config): its fencing
    /// counter could not share its slot. What a failover of one of the masters can break is told in the README.
    ///
    /// ```
    /// use redlatch::{LockManager, deadpool_redis::cluster};
    ///
    /// let urls = ["redis://127.0.0.1:7000".to_owned(), "redis://127.0.0.1:7001".to_owned()];
    /// let pool = cluster::Config::from_urls(urls).create_pool(None)?;
    /// let manager = LockManager::single(pool).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn from(pool: deadpool_redis::cluster::Pool) -> Self {
        Self::from_source(Source::Cluster(pool))
    }
}

#[cfg(feature = "sentinel")]
impl From<deadpool_redis::sentinel::Pool> for Node {
    /// Has the pool's manager open one more connection when the lock manager is first used, and another after
    /// each failover. The master and its replicas are one node.
    ///
    /// What a failover can break is told in the README.
    ///
    /// ```
    /// use redlatch::{LockManager, deadpool_redis::sentinel::{Config, SentinelServerType}};
    ///
    /// let urls = ["redis://127.0.0.1:26379".to_owned()];
    /// let config = Config::from_urls(urls, "mymaster".to_owned(), SentinelServerType::Master);
    /// let manager = LockManager::single(config.create_pool(None)?).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn from(pool: deadpool_redis::sentinel::Pool) -> Self {
        Self::from_source(Source::Sentinel(pool))
    }
}

/// What a manager can be built on: a [`Node`], a URL, or a pool.
pub trait IntoNode: sealed::Sealed {
    /// Makes a node of it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`](crate::Error::Config) if it is a URL that cannot be read.
    fn into_node(self) -> Result<Node>;
}

#[expect(unnameable_types, reason = "that is what seals `IntoNode`")]
mod sealed {
    pub trait Sealed {}
}

/// Implements [`IntoNode`] for types that turn into a node.
macro_rules! into_node {
    ($($(#[$cfg:meta])? $type:ty: $self:ident => $node:expr;)*) => {$(
        $(#[$cfg])?
        impl sealed::Sealed for $type {}
        $(#[$cfg])?
        impl IntoNode for $type {
            fn into_node($self) -> Result<Node> { $node }
        }
    )*};
}

into_node! {
    Node: self => Ok(self);
    &str: self => Node::open(self);
    String: self => Node::open(self);
    &String: self => Node::open(self);
    Pool: self => Ok(self.into());
    #[cfg(feature = "cluster")]
    deadpool_redis::cluster::Pool: self => Ok(self.into());
    #[cfg(feature = "sentinel")]
    deadpool_redis::sentinel::Pool: self => Ok(self.into());
}
