//! A master that Sentinels know, and its replicas.

use deadpool_redis::redis::{
    Client, ConnectionAddr, ConnectionInfo, RedisConnectionInfo, TlsMode,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};

use super::{super::failure::Failure, tcp::tcp_settings};

/// A deployment under Sentinel.
#[derive(Clone)]
pub(in crate::node) struct Sentinel {
    sentinels: Vec<ConnectionInfo>,
    master_name: String,
    /// What is said to the master at first.
    settings: RedisConnectionInfo,
}

impl Sentinel {
    pub(super) fn new(
        sentinels: Vec<ConnectionInfo>,
        master_name: String,
        settings: RedisConnectionInfo,
    ) -> Self {
        Self { sentinels, master_name, settings }
    }

    pub(super) fn sentinels(&self) -> &[ConnectionInfo] {
        &self.sentinels
    }

    pub(super) fn master_name(&self) -> &str {
        &self.master_name
    }

    /// The same deployment, to whose master other things are said at first.
    pub(super) fn with_settings(
        self,
        change: impl FnOnce(RedisConnectionInfo) -> RedisConnectionInfo,
    ) -> Self {
        Self { settings: change(self.settings), ..self }
    }

    /// The Sentinels and their master speak TLS, or none of them does.
    pub(super) fn is_tls(&self) -> bool {
        let is_tls = |info: &ConnectionInfo| matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        self.sentinels.iter().any(is_tls)
    }

    /// Finds the present master, by asking up to three Sentinels at a time, and the server whether it agrees. Nothing of
    /// it is kept: it is asked for with every connection, which is rare.
    pub(super) async fn master(&self) -> Result<Client, Failure> {
        let mut master = SentinelNodeConnectionInfo::default()
            .set_redis_connection_info(self.settings.clone())
            .set_tcp_settings(tcp_settings());
        if self.is_tls() {
            master = master.set_tls_mode(TlsMode::Secure);
        }
        let mut client = SentinelClient::build(
            self.sentinels.clone(),
            self.master_name.clone(),
            Some(master),
            SentinelServerType::Master,
        )?;
        Ok(client.async_get_client().await?)
    }
}
