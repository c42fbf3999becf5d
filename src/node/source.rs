//! Where the connections to a Redis node come from: a URL or a caller's pool.

#[cfg(test)]
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::Manager;
use deadpool_redis::{
    Pool,
    redis::{
        AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ProtocolVersion,
        aio::{AsyncPushSender, MultiplexedConnection},
        io::tcp::{TcpSettings, socket2::TcpKeepalive},
    },
};
use tokio::sync::Semaphore;

use super::{failure::Failure, lane::transport::Transport, stranger::Stranger, url};
#[cfg(test)]
use crate::simulation::Server;
use crate::types::error::{Error, Result};

/// A Redis deployment, and how to connect to it.
#[derive(Clone)]
pub(super) enum Source {
    Url(Box<Client>),
    Pool(Pool),
    #[cfg(feature = "cluster")]
    Cluster(deadpool_redis::cluster::Pool),
    #[cfg(feature = "sentinel")]
    Sentinel(deadpool_redis::sentinel::Pool),
    #[cfg(test)]
    Simulated(Arc<Server>),
}

impl Source {
    /// Reads a URL. It may hold a password, so that no error repeats it.
    pub(super) fn url(url: &str) -> Result<Self> {
        let info = connection_info(url)?;
        let client = Client::open(info)
            .map_err(|error| Error::config(format!("a node's URL is not usable: {error}")))?;
        Ok(Self::Url(Box::new(client)))
    }

    /// Has connections begin without `CLIENT SETINFO`. A pool opens them in its own way.
    pub(super) fn without_client_info(self) -> Self {
        let Self::Url(client) = self else { return self };
        let info = client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let client = Client::open(info.set_redis_settings(settings)).map_or(client, Box::new);
        Self::Url(client)
    }

    /// Whether connections beside the lane's can be opened.
    pub(super) const fn is_url(&self) -> bool {
        match self {
            Self::Url(_) => true,
            #[cfg(test)]
            Self::Simulated(_) => true,
            _ => false,
        }
    }

    /// Whether it connects with TLS, as far as it tells.
    pub(super) fn is_tls(&self) -> bool {
        match self {
            Self::Pool(pool) => format!("{:?}", pool.manager()).contains("addr: TcpTls {"),
            Self::Url(client) => {
                matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. })
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => false,
            #[cfg(feature = "sentinel")]
            Self::Sentinel(_) => false,
            #[cfg(test)]
            Self::Simulated(_) => false,
        }
    }

    /// How many commands may be under way, if the connection's queue is short: a pool's has room for 50, and
    /// whoever finds it full loses its place in the order.
    pub(super) const fn room(&self) -> usize {
        match self {
            Self::Url(_) => Semaphore::MAX_PERMITS,
            Self::Pool(_) => 32,
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => 32,
            #[cfg(feature = "sentinel")]
            Self::Sentinel(_) => 32,
            #[cfg(test)]
            Self::Simulated(_) => Semaphore::MAX_PERMITS,
        }
    }

    /// Whether keys are spread over servers by their slots.
    pub(super) const fn is_cluster(&self) -> bool {
        match self {
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => true,
            _ => false,
        }
    }

    /// Whether both are clones of one pool, as far as that is all that tells them apart.
    pub(super) fn is_same_pool(&self, other: &Self) -> bool {
        match (self, other) {
            #[cfg(feature = "cluster")]
            (Self::Cluster(one), Self::Cluster(other)) => {
                std::ptr::eq(one.manager(), other.manager())
            }
            #[cfg(feature = "sentinel")]
            (Self::Sentinel(one), Self::Sentinel(other)) => {
                std::ptr::eq(one.manager(), other.manager())
            }
            _ => false,
        }
    }

    /// Whether the source cannot tell where it connects to: these pools keep their addresses to themselves.
    pub(super) const fn is_anonymous(&self) -> bool {
        match self {
            Self::Url(_) | Self::Pool(_) => false,
            #[cfg(test)]
            Self::Simulated(_) => false,
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => true,
            #[cfg(feature = "sentinel")]
            Self::Sentinel(_) => true,
        }
    }

    /// How long connecting may go on, though each caller waits for no longer than the node timeout: where many
    /// servers are asked the way, a silent one among them takes its second before the next is tried.
    pub(super) fn patience(&self, node_timeout: Duration) -> Duration {
        if self.is_anonymous() { node_timeout.max(ASKING_THE_WAY) } else { node_timeout }
    }

    /// The name of the node: `host:port` or the path of its socket.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Url(client) => url::name(client.get_connection_info().addr()),
            Self::Pool(pool) => address_of(pool).unwrap_or_else(|| "pool".to_owned()),
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => "cluster".to_owned(),
            #[cfg(feature = "sentinel")]
            Self::Sentinel(_) => "sentinel".to_owned(),
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
    /// the pool may have been moved to another database by its last borrower or lead to a master that was, and
    /// a pool in full use has none. The end of `patience` is the caller's to see to.
    pub(super) async fn connect(
        &self,
        stranger: &Stranger,
        patience: Duration,
    ) -> Result<Transport, Failure> {
        match self {
            // Boxed, since it is rare and large.
            Self::Url(client) => Box::pin(connect_to(client, stranger, patience)).await,
            Self::Pool(pool) => Ok(patient(Manager::create(pool.manager()).await?)),
            #[cfg(feature = "sentinel")]
            Self::Sentinel(pool) => Ok(patient(Manager::create(pool.manager()).await?)),
            #[cfg(feature = "cluster")]
            Self::Cluster(pool) => Ok(Transport::Cluster(Manager::create(pool.manager()).await?)),
            #[cfg(test)]
            Self::Simulated(server) => Ok(Transport::Simulated(server.connect(QUEUE_SIZE).await?)),
        }
    }
}

/// Connects to where a URL leads, and finds out why if that comes to nothing.
async fn connect_to(
    client: &Client,
    stranger: &Stranger,
    patience: Duration,
) -> Result<Transport, Failure> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE_SIZE);
    let info = client.get_connection_info();
    let opened = tokio::select! {
        biased;
        opened = client.get_multiplexed_async_connection_with_config(&config) => opened,
        failure = stranger.speaks_plainly(info, patience / 2) => return Err(failure),
    };
    match opened {
        Ok(connection) => {
            stranger.forget();
            Ok(Transport::Server(connection))
        }
        Err(error) => Err(stranger.explain(info, error, patience / 4).await),
    }
}

/// Leaves it to the node timeout how long to wait: a pool's connection has the library's own 500 ms otherwise.
fn patient(mut connection: MultiplexedConnection) -> Transport {
    connection.set_response_timeout(NEVER);
    Transport::Server(connection)
}

/// The TCP settings of every connection that is opened here. `TCP_NODELAY` is on: a lock's commands are small and
/// their latency is all. A peer that is gone without a word is found within a minute, also by a connection on
/// which nothing is sent.
pub(super) fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(FIRST_PROBE);
    #[cfg(unix)]
    let keepalive = keepalive.with_interval(BETWEEN_PROBES).with_retries(PROBES);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(LONGEST_UNACKNOWLEDGED);
    settings
}

/// A URL as connection settings.
fn connection_info(url: &str) -> Result<ConnectionInfo> {
    Ok(url::read(url)?.set_tcp_settings(tcp_settings()))
}

/// The address that a pool connects to. Its manager keeps the client private and only `Debug` tells, which is
/// read here and nowhere else kept: it holds the credentials too.
fn address_of(pool: &Pool) -> Option<String> {
    let debug = format!("{:?}", pool.manager());
    let (_, address) = debug.split_once("addr: ")?;
    if let Some(tcp) = address.strip_prefix("Tcp(\"") {
        let (host, rest) = tcp.split_once("\", ")?;
        return Some(url::host_and_port(host, rest.split_once(')')?.0.parse().ok()?));
    }
    if let Some(tls) = address.strip_prefix("TcpTls { host: \"") {
        let (host, rest) = tls.split_once("\", port: ")?;
        return Some(url::host_and_port(host, rest.split_once(',')?.0.parse().ok()?));
    }
    let (path, _) = address.strip_prefix("Unix(\"")?.split_once("\")")?;
    Some(path.to_owned())
}

/// Long enough for our own timeout to come first.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long a connection is idle before its peer is asked for a sign, how often it is then, and how many times
/// in vain before the connection is dead.
const FIRST_PROBE: Duration = Duration::from_secs(30);
#[cfg(unix)]
const BETWEEN_PROBES: Duration = Duration::from_secs(10);
#[cfg(unix)]
const PROBES: u32 = 3;
/// How long what was sent may go without a sign that it has arrived.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const LONGEST_UNACKNOWLEDGED: Duration = Duration::from_secs(30);

const ASKING_THE_WAY: Duration = Duration::from_secs(5);

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
