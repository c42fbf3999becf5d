//! Where the connections to a Redis node come from: a URL or a caller's pool.

#[cfg(test)]
use std::sync::Arc;

use deadpool::managed::Manager;
use deadpool_redis::{
    Pool,
    redis::{
        AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
        aio::{AsyncPushSender, MultiplexedConnection},
    },
};

use tokio::sync::Semaphore;

use super::lane::Failure;
use crate::error::{Error, Result};
#[cfg(test)]
use crate::simulation::Server;

/// A Redis deployment, and how to connect to it.
#[derive(Clone)]
pub(super) enum Source {
    Url(Client),
    Pool(Pool),
    #[cfg(test)]
    Simulated(Arc<Server>),
}

/// A connection. Once all its clones are gone, nothing more is sent on it.
#[cfg(not(test))]
pub(super) type Wire = MultiplexedConnection;
#[cfg(test)]
pub(super) use crate::simulation::Wire;

impl Source {
    /// Reads a URL. It may hold a password, so that no error repeats it.
    pub(super) fn url(url: &str) -> Result<Self> {
        let info = connection_info(url)?;
        let client = Client::open(info)
            .map_err(|error| Error::config(format!("a node's URL is not usable: {error}")))?;
        Ok(Self::Url(client))
    }

    /// Whether connections beside the lane's can be opened.
    pub(super) const fn is_url(&self) -> bool {
        !matches!(self, Self::Pool(_))
    }

    /// How many commands may be under way, if the connection's queue is short: a pool's has room for 50, and
    /// whoever finds it full loses its place in the order.
    pub(super) const fn room(&self) -> usize {
        match self {
            Self::Url(_) => Semaphore::MAX_PERMITS,
            Self::Pool(_) => 32,
            #[cfg(test)]
            Self::Simulated(_) => Semaphore::MAX_PERMITS,
        }
    }

    /// The name of the node: `host:port` or the path of its socket.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Url(client) => client.get_connection_info().addr().to_string(),
            Self::Pool(pool) => address_of(pool).unwrap_or_else(|| "pool".to_owned()),
            #[cfg(test)]
            Self::Simulated(server) => server.name.clone(),
        }
    }

    /// Opens a connection on which pushes are heard. From a pool alone nobody can open one.
    pub(super) async fn connect_for_pushes(
        &self,
        hear: impl AsyncPushSender,
    ) -> Result<MultiplexedConnection, Failure> {
        #[cfg(test)]
        if let Self::Simulated(server) = self {
            return Ok(server.connect_for_pushes(hear).await?);
        }
        let Self::Url(client) = self else { return Err(Failure::NotConnected) };
        let info = client.get_connection_info();
        let resp3 = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.clone().set_redis_settings(resp3))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(hear);
        Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// Opens a connection of our own. Of a pool it is the manager that is asked for one: a connection out of
    /// the pool may have been moved to another database by its last borrower, and a pool in full use has none.
    #[cfg_attr(
        not(test),
        expect(clippy::useless_conversion, reason = "tests have a `Wire` of their own")
    )]
    pub(super) async fn connect(&self) -> Result<Wire, Failure> {
        match self {
            Self::Url(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(None)
                    .set_response_timeout(None)
                    .set_pipeline_buffer_size(QUEUE_SIZE);
                Ok(client.get_multiplexed_async_connection_with_config(&config).await?.into())
            }
            Self::Pool(pool) => {
                let mut wire = Manager::create(pool.manager()).await?;
                wire.set_response_timeout(NEVER);
                Ok(wire.into())
            }
            #[cfg(test)]
            Self::Simulated(server) => Ok(server.connect(QUEUE_SIZE).await?),
        }
    }
}

/// A URL as connection settings, with `TCP_NODELAY` on: a lock's commands are small and their latency is all.
fn connection_info(url: &str) -> Result<ConnectionInfo> {
    let info = url.into_connection_info().map_err(|error| {
        Error::config(format!("a node's URL is not usable: {}", error.category()))
    })?;
    if !info.addr().is_supported() {
        return Err(Error::config(format!(
            "node {}: TLS needs a TLS feature of this crate",
            info.addr()
        )));
    }
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Ok(info.set_tcp_settings(tcp))
}

/// The address that a pool connects to. Its manager keeps the client private and only `Debug` tells, which is
/// read here and nowhere else kept: it holds the credentials too.
fn address_of(pool: &Pool) -> Option<String> {
    let debug = format!("{:?}", pool.manager());
    let (_, address) = debug.split_once("addr: ")?;
    if let Some(tcp) = address.strip_prefix("Tcp(\"") {
        let (host, rest) = tcp.split_once("\", ")?;
        return Some(format!("{host}:{}", rest.split_once(')')?.0));
    }
    if let Some(tls) = address.strip_prefix("TcpTls { host: \"") {
        let (host, rest) = tls.split_once("\", port: ")?;
        return Some(format!("{host}:{}", rest.split_once(',')?.0));
    }
    let (path, _) = address.strip_prefix("Unix(\"")?.split_once("\")")?;
    Some(path.to_owned())
}

/// Long enough for our own timeout to come first; a pool's connection has the library's 500 ms otherwise.
const NEVER: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 60 * 60);

/// Commands that may wait for the connection's driver: more than there will ever be, since whoever finds the
/// queue full loses its place in the order. It takes memory only as it fills.
const QUEUE_SIZE: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(url: &str) -> Pool {
        deadpool_redis::Config::from_url(url).create_pool(None).unwrap()
    }

    #[test]
    fn a_pools_address_is_found() {
        assert_eq!(
            address_of(&pool("redis://user:secret@localhost:7001/2")).unwrap(),
            "localhost:7001"
        );
        assert_eq!(address_of(&pool("redis://127.0.0.1")).unwrap(), "127.0.0.1:6379");
        assert_eq!(address_of(&pool("redis+unix:///tmp/r.sock")).unwrap(), "/tmp/r.sock");
    }

    #[test]
    fn a_bad_url_is_refused_without_repeating_it() {
        for url in
            ["", "http://secret@x", "redis://:secret@", "redis://h:99999999/secret", "secret"]
        {
            let message = Source::url(url).err().map(|error| error.to_string());
            assert!(!message.unwrap_or_default().contains("secret"), "{url}");
        }
    }
}
