//! A caller's pool: it is its manager that makes the lane's connection.

use std::time::Duration;

use deadpool::managed::Manager;
use deadpool_redis::Pool;
use redis::{RedisError, aio::MultiplexedConnection};

use super::super::{failure::Failure, lane::transport::Transport, url};

/// Connects a lane to one server. It is left to the node timeout how long to wait: a pool's connection has the library's
/// own 500 ms otherwise.
pub(super) async fn connect<M>(manager: &M) -> Result<Transport, Failure>
where
    M: Manager<Type = MultiplexedConnection, Error = RedisError>,
{
    let mut connection = manager.create().await?;
    connection.set_response_timeout(NEVER);
    Ok(Transport::Server(connection))
}

/// The address that a pool connects to. Its manager keeps the client private and only `Debug` tells, which is
/// read here and nowhere else kept: it holds the credentials too.
pub(super) fn address_of(pool: &Pool) -> Option<String> {
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

/// Whether it connects with TLS, as far as it tells.
pub(super) fn is_tls(pool: &Pool) -> bool {
    format!("{:?}", pool.manager()).contains("addr: TcpTls {")
}

/// Long enough for our own timeout to come first.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

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
}
