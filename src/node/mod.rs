//! A node: one independent deployment that votes, whether a Redis or this process' memory.

mod command;
mod facts;
mod failure;
#[cfg(feature = "test-util")]
mod faults;
mod into_node;
mod lane;
mod link;
mod login;
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

use redis::RedisConnectionInfo;

#[cfg(feature = "test-util")]
pub use self::faults::Faults;
pub(crate) use self::{
    command::{Answer, Command, Keep, KeyState, Released, Touch, Whose},
    facts::{Clock, Facts, Missing, Rights, ServerFacts},
    lane::Recovered,
    link::{NodeClient, NodeSubscription},
    notices::{Notice, OnNotice},
    send_log::SendLog,
    survey::Questions,
};
use self::{failure::Failure, memory::Store, source::Source};
pub use self::{into_node::IntoNode, source::Credentials};
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
    /// What was asked of it in vain.
    fault: Option<Arc<str>>,
}

#[derive(Clone)]
enum Kind {
    Redis(Source),
    Memory(Arc<Store>),
}

impl Node {
    /// Reads a URL, for one server, a cluster, or a master that Sentinels watch. Opens nothing yet.
    ///
    /// | URL | leads to |
    /// |---|---|
    /// | `redis://user:password@host:port/database` | a server; `valkey://` is the same, `rediss://` is with TLS |
    /// | `redis+unix:///path?user=..&pass=..&db=..` | the socket of a server |
    /// | `redis-cluster://user:password@host1:port,host2:port` | a cluster that has these servers: see [`cluster`](Self::cluster); with TLS `rediss-cluster://` |
    /// | `redis-sentinel://user:password@host1:port,host2:port/master-name/database` | the master that these Sentinels know: see [`sentinel`](Self::sentinel); user and password are the *master's*; with TLS, of both, `rediss-sentinel://` |
    ///
    /// A server's port defaults to 6379, a Sentinel's to 26379, the database to 0; `?db=3` names it too. Add
    /// `?protocol=resp3` for servers that demand it. User and password are percent-encoded (`#` as `%23`, `/` as `%2F`, `?` as `%3F`, `@` as `%40`, `:`
    /// as `%3A`, `%` as `%25`).
    ///
    /// What is not understood is refused: other parameters, a user without a password, and whatever follows a `#`,
    /// so that there is no `#insecure`; certificates are always checked.
    ///
    /// # Errors
    ///
    /// [`Error::Config`](crate::Error::Config) if the URL cannot be read, or needs TLS, a cluster or Sentinel and the
    /// crate was built without. It says what would do, and never repeats credentials.
    pub fn open(url: impl AsRef<str>) -> Result<Self> {
        Ok(Self::from_source(Source::url(url.as_ref())?))
    }

    /// Makes a node of a Redis Cluster, from the `redis://` or `rediss://` URLs of some of its servers. The others are
    /// found, as long as one of these is there: name several. The cluster as a whole is one node.
    ///
    /// All URLs have the same user, password and database. A key that has a `}` but no hash tag is refused with
    /// [`Error::Config`](crate::Error::Config): its fencing counter could not share its slot. After a failover the
    /// new master is found by itself; what a failover can break is told in the README.
    ///
    /// ```
    /// use redlatch::{LockManager, Node};
    ///
    /// # #[cfg(feature = "cluster")] {
    /// let node = Node::cluster(["redis://127.0.0.1:7000", "redis://127.0.0.1:7001"])?;
    /// assert_eq!(node.name(), "127.0.0.1:7000,127.0.0.1:7001");
    /// let manager = LockManager::single(node).build()?;
    /// # }
    /// # Ok::<(), redlatch::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Config`](crate::Error::Config) if there is no URL, one cannot be read, they contradict one another, or
    /// the crate was built without the feature `cluster`.
    pub fn cluster<U: AsRef<str>>(urls: impl IntoIterator<Item = U>) -> Result<Self> {
        let servers = url::read_servers(urls)?;
        if servers.is_empty() {
            return Err(Error::config("a cluster needs the URL of at least one of its servers"));
        }
        Ok(Self::from_source(Source::cluster(servers)?))
    }

    /// Makes a node of the master that Sentinels know by this name, and its replicas, from the `redis://` or `rediss://`
    /// URLs of the Sentinels, with *their* users and passwords. The master's are said by
    /// [`with_password`](Self::with_password); with `rediss://` the master, too, is reached with TLS.
    ///
    /// The present master is asked for with every connection, and a new one is found by itself as soon as the Sentinels
    /// have agreed on it. What a failover can break is told in the README. A user with few rights needs `role` or `info`.
    ///
    /// ```
    /// use redlatch::{LockManager, Node};
    ///
    /// # #[cfg(feature = "sentinel")] {
    /// let urls = ["redis://:watch@10.0.0.1:26379", "redis://:watch@10.0.0.2:26379"];
    /// let node = Node::sentinel(urls, "mymaster")?.with_password("locks", "secret");
    /// assert_eq!(node.name(), "10.0.0.1:26379,10.0.0.2:26379/mymaster");
    /// let manager = LockManager::single(node).build()?;
    /// # }
    /// # Ok::<(), redlatch::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Config`](crate::Error::Config) if there is no URL, one cannot be read or names a database (which a
    /// Sentinel has not), the name is none, or the crate was built without the feature `sentinel`.
    pub fn sentinel<U: AsRef<str>>(
        urls: impl IntoIterator<Item = U>,
        master_name: impl AsRef<str>,
    ) -> Result<Self> {
        let (sentinels, name) = (url::read_sentinels(urls)?, master_name.as_ref());
        url::check_master_name(name)?;
        let settings = RedisConnectionInfo::default();
        Ok(Self::from_source(Source::sentinel(sentinels, name.to_owned(), settings)?))
    }

    /// Creates a node in this process' memory: the same semantics without a server.
    ///
    /// Clones share one store, so that managers over clones exclude each other. Expiry follows tokio's
    /// clock, which a test can pause.
    #[must_use]
    pub fn in_memory() -> Self {
        let store = Store::new();
        Self {
            name: store.name.clone(),
            kind: Kind::Memory(Arc::new(store)),
            notices: None,
            fault: None,
        }
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
    /// connections in its own way: `redis::RedisConnectionInfo::set_skip_set_lib_name` tells it. To a cluster it is always
    /// said.
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

    /// Returns `host:port`, with brackets around an IPv6 address, or the path of the node's socket; of a cluster the
    /// servers that were named, of Sentinels these and `/master-name`. Never credentials.
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
        Self { name: source.name().into(), kind: Kind::Redis(source), notices: None, fault: None }
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

    /// Refuses what was asked of it in vain, and TLS that cannot begin.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(fault) = &self.fault {
            return Err(Error::config(&**fault));
        }
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
        matches!(&self.kind, Kind::Redis(source) if source.fails_over())
    }

    /// Whether release notices are heard with the same credentials that the lane has.
    pub(crate) const fn hears_as_it_asks(&self) -> bool {
        self.notices.is_none() && matches!(&self.kind, Kind::Redis(source) if source.can_hear())
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.name).finish()
    }
}
