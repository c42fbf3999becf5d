//! What nodes are made of: pools, and whatever else a manager may be given for one.

#[cfg(feature = "deadpool")]
use deadpool_redis::Pool;
#[cfg(feature = "deadpool")]
use redis::Client;

use super::Node;
#[cfg(feature = "deadpool")]
use super::source::Source;
use crate::types::error::Result;

#[cfg(feature = "deadpool")]
impl From<Client> for Node {
    /// Connects as the client, of [`redlatch::redis`](crate::redis), is set up to: with certificates of your own, for example. `TCP_NODELAY` is turned on, and
    /// keepalive too where the client has none.
    ///
    /// ```
    /// use redlatch::{LockManager, redis::Client};
    ///
    /// let client = Client::open("redis://127.0.0.1:6379")?;
    /// let manager = LockManager::single(client).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn from(client: Client) -> Self {
        Self::from_source(Source::client(client))
    }
}

#[cfg(feature = "deadpool")]
impl From<Pool> for Node {
    /// Has the pool's manager open one more connection when the lock manager is first used. It is no part of
    /// the pool: neither is it lent to others, nor does it count against the pool's size.
    fn from(pool: Pool) -> Self {
        Self::from_source(Source::Pool(pool))
    }
}

#[cfg(all(feature = "cluster", feature = "deadpool"))]
impl From<deadpool_redis::cluster::Pool> for Node {
    /// Has the pool's manager open one more connection when the lock manager is first used. The cluster as a
    /// whole is one node.
    ///
    /// A key that has a `}` but no hash tag is refused with [`Error::Config`](crate::Error::Config): its fencing
    /// counter could not share its slot. What a failover of one of the masters can break is told in the README. Nothing
    /// tells this node of releases, unless [`with_notices`](Node::with_notices) does: [`Node::cluster`] hears them.
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
        Self::from_source(Source::ClusterPool(pool))
    }
}

#[cfg(all(feature = "sentinel", feature = "deadpool"))]
impl From<deadpool_redis::sentinel::Pool> for Node {
    /// Has the pool's manager open one more connection when the lock manager is first used, and another after
    /// each failover. The master and its replicas are one node.
    ///
    /// What a failover can break is told in the README. Nothing tells this node of releases, unless
    /// [`with_notices`](Node::with_notices) does: [`Node::sentinel`] hears them.
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
        Self::from_source(Source::SentinelPool(pool))
    }
}

/// What a manager can be built on: a [`Node`], a URL, a client, or a pool.
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
    #[cfg(feature = "deadpool")]
    Client: self => Ok(self.into());
    #[cfg(feature = "deadpool")]
    Pool: self => Ok(self.into());
    #[cfg(all(feature = "cluster", feature = "deadpool"))]
    deadpool_redis::cluster::Pool: self => Ok(self.into());
    #[cfg(all(feature = "sentinel", feature = "deadpool"))]
    deadpool_redis::sentinel::Pool: self => Ok(self.into());
}
