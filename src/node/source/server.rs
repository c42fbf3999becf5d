//! One server, and the connections to it.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ProtocolVersion, RedisConnectionInfo,
    aio::{AsyncPushSender, MultiplexedConnection},
};

use super::{
    super::{failure::Failure, lane::transport::Transport, stranger::Stranger},
    credentials::Subscriptions,
};

/// Connects a lane, and finds out why if that comes to nothing.
pub(super) async fn connect(
    client: &Client,
    credentials: Option<Subscriptions>,
    stranger: &Stranger,
    patience: Duration,
) -> Result<Transport, Failure> {
    let config = config(credentials).set_pipeline_buffer_size(QUEUE_SIZE);
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

/// Opens a connection on which pushes are heard.
pub(super) async fn connect_for_pushes(
    info: &ConnectionInfo,
    credentials: Option<Subscriptions>,
    hear: impl AsyncPushSender,
) -> Result<MultiplexedConnection, Failure> {
    let speaking_resp3 =
        |settings: RedisConnectionInfo| settings.set_protocol(ProtocolVersion::RESP3);
    let client = Client::open(with_settings(info.clone(), speaking_resp3))?;
    let config = config(credentials).set_push_sender(hear);
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

/// The same server, to which other things are said at first.
pub(super) fn with_settings(
    info: ConnectionInfo,
    change: impl FnOnce(RedisConnectionInfo) -> RedisConnectionInfo,
) -> ConnectionInfo {
    let settings = change(info.redis_settings().clone());
    info.set_redis_settings(settings)
}

/// The node timeout is ours to see to.
fn config(credentials: Option<Subscriptions>) -> AsyncConnectionConfig {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    match credentials {
        Some(credentials) => config.set_credentials_provider(credentials),
        None => config,
    }
}

/// Commands that may wait for the connection's driver: more than there will ever be, since whoever finds the
/// queue full loses its place in the order. It takes memory only as it fills.
pub(super) const QUEUE_SIZE: usize = 1 << 20;
