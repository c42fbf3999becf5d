//! A Redis Cluster, known by some of its servers.

use std::time::Duration;

use redis::{
    ConnectionInfo, RedisConnectionInfo, RedisError,
    aio::{AsyncPushSender, MultiplexedConnection},
    cluster::{ClusterClient, ClusterClientBuilder, ClusterConfig},
};
use tokio::time::timeout;

use super::{
    super::{failure::Failure, lane::transport::Transport},
    ASKING,
    access::Access,
    server,
    tcp::tcp_settings,
};
use crate::host::random;

/// A Redis Cluster.
#[derive(Clone)]
pub(in crate::node) struct Cluster {
    client: ClusterClient,
    /// Those that the caller has named, of which any leads to the others.
    servers: Vec<ConnectionInfo>,
    access: Access,
}

impl Cluster {
    pub(super) fn new(servers: Vec<ConnectionInfo>, access: Access) -> Result<Self, RedisError> {
        let servers = servers.into_iter().map(|info| access.certified(info));
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        let mut builder = ClusterClientBuilder::new(servers.clone())
            .tcp_settings(tcp_settings())
            .overall_response_timeout(None)
            .retries(RETRIES)
            .min_retry_wait(10)
            .max_retry_wait(200)
            .retry_wait_formula(10, 2);
        if let Some(provider) = &access.provider {
            builder = builder.set_credentials_provider(provider.of_many_connections());
        }
        #[cfg(feature = "tls-rustls")]
        if let Some(certificates) = &access.certificates {
            builder = builder.certs(certificates.clone());
        }
        Ok(Self { client: builder.build()?, servers, access })
    }

    /// The same cluster, let in in another way.
    pub(super) fn with_access(self, change: impl FnOnce(&mut Access)) -> Result<Self, RedisError> {
        let settings = self.servers.first().map(|server| server.redis_settings().clone());
        let access = self.access.changed(change, &settings.unwrap_or_default());
        Self::new(self.servers, access)
    }

    pub(super) fn servers(&self) -> &[ConnectionInfo] {
        &self.servers
    }

    /// The same cluster, to whose servers other things are said at first.
    pub(super) fn with_settings(
        self,
        change: impl Fn(RedisConnectionInfo) -> RedisConnectionInfo,
    ) -> Result<Self, RedisError> {
        let servers = self.servers.into_iter();
        let servers = servers.map(|info| server::with_settings(info, &change)).collect();
        Self::new(servers, self.access)
    }

    /// Connects to all servers. One that is silent must not hold up for long what the others are asked.
    pub(super) async fn connect(&self, node_timeout: Duration) -> Result<Transport, Failure> {
        let to_connect = match self.access.provider {
            Some(_) => ASKING,
            None => node_timeout.min(LONGEST_TO_CONNECT),
        };
        let config = ClusterConfig::new()
            .set_connection_timeout(to_connect)
            .set_response_timeout(node_timeout.saturating_mul(2));
        let connection = self.client.get_async_connection_with_config(config).await?;
        Ok(Transport::Cluster(connection))
    }

    /// Opens a connection to any of the servers: each passes on what is published at another.
    pub(super) async fn connect_for_pushes(
        &self,
        hear: impl AsyncPushSender + Clone,
        node_timeout: Duration,
    ) -> Result<MultiplexedConnection, Failure> {
        let (mut servers, mut failure) = (self.servers.clone(), Failure::NotConnected);
        // Not always the same, if that one is silent; and not all processes at one.
        servers.rotate_left(random::index(self.servers.len()));
        for server in servers {
            let (_, credentials) = self.access.ask().await?;
            let opening = server::connect_for_pushes(&server, credentials, hear.clone());
            match timeout(node_timeout, opening).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(cause)) => failure = cause,
                Err(_elapsed) => failure = Failure::TimedOut(node_timeout),
            }
        }
        Err(failure)
    }
}

/// How often a command is sent again, along redirections and where its slot is on the way or without a master, with
/// pauses from 10 to 200 ms in between: for less than the node timeout by default, so that its error is told.
const RETRIES: u32 = 6;
const LONGEST_TO_CONNECT: Duration = Duration::from_secs(1);
