//! Where the connections to a Redis node come from: addresses or a caller's pool.

mod access;
#[cfg(feature = "cluster")]
mod cluster;
mod credentials;
mod making;
#[cfg(feature = "deadpool")]
mod pool;
#[cfg(feature = "sentinel")]
mod sentinel;
mod server;
mod tcp;

#[cfg(test)]
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "deadpool")]
use deadpool_redis::Pool;
use redis::{
    Client, ConnectionAddr, ConnectionInfo, RedisConnectionInfo, RedisError,
    aio::{AsyncPushSender, MultiplexedConnection},
};
use tokio::sync::Semaphore;

#[cfg(feature = "cluster")]
use self::cluster::Cluster;
pub use self::credentials::Credentials;
#[cfg(feature = "sentinel")]
use self::sentinel::Sentinel;
pub(super) use self::{access::Access, credentials::Provider};
use super::{failure::Failure, lane::transport::Transport, stranger::Stranger, url};
#[cfg(test)]
use crate::simulation::Server;

/// A Redis deployment, and how to connect to it.
#[derive(Clone)]
pub(super) enum Source {
    Server(Box<Client>, Access),
    #[cfg(feature = "cluster")]
    Cluster(Box<Cluster>),
    #[cfg(feature = "sentinel")]
    Sentinel(Box<Sentinel>),
    #[cfg(feature = "deadpool")]
    Pool(Pool),
    #[cfg(all(feature = "cluster", feature = "deadpool"))]
    ClusterPool(deadpool_redis::cluster::Pool),
    #[cfg(all(feature = "sentinel", feature = "deadpool"))]
    SentinelPool(deadpool_redis::sentinel::Pool),
    #[cfg(test)]
    Simulated(Arc<Server>),
}

#[allow(unreachable_patterns, reason = "which others there are depends on the features")]
impl Source {
    /// Has connections begin in another way. `None`: a pool opens them in its own.
    pub(super) fn with_settings(
        self,
        change: impl Fn(RedisConnectionInfo) -> RedisConnectionInfo,
    ) -> Option<Self> {
        match self {
            Self::Server(client, access) => {
                let info = server::with_settings(client.get_connection_info().clone(), change);
                Client::open(info).ok().map(|client| Self::Server(Box::new(client), access))
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => {
                cluster.with_settings(change).ok().map(|cluster| Self::Cluster(Box::new(cluster)))
            }
            #[cfg(feature = "sentinel")]
            Self::Sentinel(sentinel) => {
                Some(Self::Sentinel(Box::new(sentinel.with_settings(change))))
            }
            _ => None,
        }
    }

    /// Has connections let in in another way. `None`: a pool's are in its own.
    pub(super) fn with_access(
        self,
        change: impl FnOnce(&mut Access),
    ) -> Option<Result<Self, RedisError>> {
        match self {
            Self::Server(client, access) => {
                let settings = client.get_connection_info().redis_settings();
                let access = access.changed(change, settings);
                let info = access.certified(client.get_connection_info().clone());
                let client = info.and_then(Client::open);
                Some(client.map(|client| Self::Server(Box::new(client), access)))
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => {
                let cluster = cluster.with_access(change);
                Some(cluster.map(|cluster| Self::Cluster(Box::new(cluster))))
            }
            #[cfg(feature = "sentinel")]
            Self::Sentinel(sentinel) => {
                let sentinel = sentinel.with_access(change);
                Some(sentinel.map(|sentinel| Self::Sentinel(Box::new(sentinel))))
            }
            _ => None,
        }
    }

    /// Has connections begin without `CLIENT SETINFO`. A pool opens them in its own way.
    pub(super) fn without_client_info(self) -> Self {
        let changed = self.clone().with_settings(RedisConnectionInfo::set_skip_set_lib_name);
        changed.unwrap_or(self)
    }

    /// Whether connections beside the lane's can be opened.
    pub(super) const fn can_hear(&self) -> bool {
        match self {
            Self::Server(..) => true,
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => true,
            #[cfg(feature = "sentinel")]
            Self::Sentinel(_) => true,
            #[cfg(test)]
            Self::Simulated(_) => true,
            _ => false,
        }
    }

    /// Whether it connects with TLS, as far as it tells.
    pub(super) fn is_tls(&self) -> bool {
        match self {
            Self::Server(client, _) => is_tls(client.get_connection_info()),
            #[cfg(feature = "deadpool")]
            Self::Pool(pool) => pool::is_tls(pool),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.servers().iter().any(is_tls),
            #[cfg(feature = "sentinel")]
            Self::Sentinel(sentinel) => sentinel.is_tls(),
            #[cfg(all(feature = "cluster", feature = "deadpool"))]
            Self::ClusterPool(_) => false,
            #[cfg(all(feature = "sentinel", feature = "deadpool"))]
            Self::SentinelPool(_) => false,
            #[cfg(test)]
            Self::Simulated(_) => false,
        }
    }

    /// How many commands may be under way, if the connection's queue is short: a pool's and those of a cluster have room
    /// for 50, and whoever finds one full loses its place in the order.
    pub(super) const fn room(&self) -> usize {
        match self {
            Self::Server(..) => Semaphore::MAX_PERMITS,
            #[cfg(feature = "sentinel")]
            Self::Sentinel(_) => Semaphore::MAX_PERMITS,
            #[cfg(test)]
            Self::Simulated(_) => Semaphore::MAX_PERMITS,
            _ => 32,
        }
    }

    /// Whether keys are spread over servers by their slots.
    pub(super) const fn is_cluster(&self) -> bool {
        match self {
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => true,
            #[cfg(all(feature = "cluster", feature = "deadpool"))]
            Self::ClusterPool(_) => true,
            _ => false,
        }
    }

    /// Whether it replaces its masters by their replicas.
    pub(super) const fn fails_over(&self) -> bool {
        match self {
            #[cfg(feature = "sentinel")]
            Self::Sentinel(_) => true,
            #[cfg(all(feature = "sentinel", feature = "deadpool"))]
            Self::SentinelPool(_) => true,
            _ => self.is_cluster(),
        }
    }

    /// Whether both are clones of one pool, as far as that is all that tells them apart.
    pub(super) fn is_same_pool(&self, other: &Self) -> bool {
        match (self, other) {
            #[cfg(all(feature = "cluster", feature = "deadpool"))]
            (Self::ClusterPool(one), Self::ClusterPool(other)) => {
                std::ptr::eq(one.manager(), other.manager())
            }
            #[cfg(all(feature = "sentinel", feature = "deadpool"))]
            (Self::SentinelPool(one), Self::SentinelPool(other)) => {
                std::ptr::eq(one.manager(), other.manager())
            }
            _ => false,
        }
    }

    /// Whether the source cannot tell where it connects to: these pools keep their addresses to themselves.
    pub(super) const fn is_anonymous(&self) -> bool {
        match self {
            #[cfg(all(feature = "cluster", feature = "deadpool"))]
            Self::ClusterPool(_) => true,
            #[cfg(all(feature = "sentinel", feature = "deadpool"))]
            Self::SentinelPool(_) => true,
            _ => false,
        }
    }

    /// How long connecting may go on, though each caller waits for no longer than the node timeout: where many
    /// servers are asked the way, a silent one among them takes its second before the next is tried, and who is asked for
    /// credentials may have to ask far away.
    pub(super) fn patience(&self, node_timeout: Duration) -> Duration {
        let asks = match self {
            Self::Server(_, access) => access.provider.is_some(),
            _ => self.fails_over(),
        };
        if asks { node_timeout.max(ASKING) } else { node_timeout }
    }

    /// The name of the node: `host:port`, a list of them, or the path of its socket.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Server(client, _) => url::name(client.get_connection_info().addr()),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => url::names(cluster.servers()),
            #[cfg(feature = "sentinel")]
            Self::Sentinel(sentinel) => {
                format!("{}/{}", url::names(sentinel.sentinels()), sentinel.master_name())
            }
            #[cfg(feature = "deadpool")]
            Self::Pool(pool) => pool::address_of(pool).unwrap_or_else(|| "pool".to_owned()),
            #[cfg(all(feature = "cluster", feature = "deadpool"))]
            Self::ClusterPool(_) => "cluster".to_owned(),
            #[cfg(all(feature = "sentinel", feature = "deadpool"))]
            Self::SentinelPool(_) => "sentinel".to_owned(),
            #[cfg(test)]
            Self::Simulated(server) => server.name.clone(),
        }
    }

    /// Opens a connection on which pushes are heard. From a pool alone nobody can open one. The end of
    /// [`patience`](Self::patience) is the caller's to see to.
    pub(super) async fn connect_for_pushes(
        &self,
        hear: impl AsyncPushSender + Clone,
        node_timeout: Duration,
    ) -> Result<MultiplexedConnection, Failure> {
        #[cfg(not(feature = "cluster"))]
        let _ = node_timeout;
        match self {
            Self::Server(client, access) => {
                let (_, credentials) = access.ask().await?;
                server::connect_for_pushes(client.get_connection_info(), credentials, hear).await
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.connect_for_pushes(hear, node_timeout).await,
            #[cfg(feature = "sentinel")]
            Self::Sentinel(sentinel) => {
                let (master, credentials) = Box::pin(sentinel.master()).await?;
                server::connect_for_pushes(master.get_connection_info(), credentials, hear).await
            }
            #[cfg(test)]
            Self::Simulated(server) => Ok(server.connect_for_pushes(hear).await?),
            _ => Err(Failure::NotConnected),
        }
    }

    /// Opens a connection of our own. Of a pool it is the manager that is asked for one: a connection out of
    /// the pool may have been moved to another database by its last borrower or lead to a master that was, and
    /// a pool in full use has none. The end of [`patience`](Self::patience) is the caller's to see to.
    pub(super) async fn connect(
        &self,
        stranger: &Stranger,
        node_timeout: Duration,
    ) -> Result<Transport, Failure> {
        match self {
            // Boxed, since it is rare and large.
            Self::Server(client, access) => {
                let (_, credentials) = access.ask().await?;
                Box::pin(server::connect(client, credentials, stranger, node_timeout)).await
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => Box::pin(cluster.connect(node_timeout)).await,
            #[cfg(feature = "sentinel")]
            Self::Sentinel(sentinel) => {
                let (master, credentials) = Box::pin(sentinel.master()).await?;
                Box::pin(server::connect(&master, credentials, stranger, node_timeout)).await
            }
            #[cfg(feature = "deadpool")]
            Self::Pool(pool) => pool::connect(pool.manager()).await,
            #[cfg(all(feature = "sentinel", feature = "deadpool"))]
            Self::SentinelPool(pool) => pool::connect(pool.manager()).await,
            #[cfg(all(feature = "cluster", feature = "deadpool"))]
            Self::ClusterPool(pool) => {
                let created = deadpool::managed::Manager::create(pool.manager()).await;
                Ok(Transport::Cluster(created?))
            }
            #[cfg(test)]
            Self::Simulated(server) => {
                Ok(Transport::Simulated(server.connect(server::QUEUE_SIZE).await?))
            }
        }
    }
}

fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

const ASKING: Duration = Duration::from_secs(5);
