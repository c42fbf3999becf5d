//! A master that Sentinels know, and its replicas.

use redis::{
    Client, ConnectionAddr, ConnectionInfo, RedisConnectionInfo, RedisError, RedisResult, TlsMode,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};
#[cfg(feature = "tls-rustls")]
use redis::{TlsCertificates, sentinel::SentinelClientBuilder};

use super::{
    super::failure::Failure, access::Access, credentials::Subscriptions, server, tcp::tcp_settings,
};

/// A deployment under Sentinel.
#[derive(Clone)]
pub(in crate::node) struct Sentinel {
    sentinels: Vec<ConnectionInfo>,
    master_name: String,
    /// What is said to the master at first.
    settings: RedisConnectionInfo,
    access: Access,
}

impl Sentinel {
    pub(super) fn new(
        sentinels: Vec<ConnectionInfo>,
        master_name: String,
        settings: RedisConnectionInfo,
    ) -> Self {
        Self { sentinels, master_name, settings, access: Access::default() }
    }

    /// The same deployment, whose master lets in in another way. Certificates are for the Sentinels too.
    pub(super) fn with_access(
        mut self,
        change: impl FnOnce(&mut Access),
    ) -> Result<Self, RedisError> {
        self.access = self.access.changed(change, &self.settings);
        let sentinels = self.sentinels.into_iter().map(|info| self.access.certified(info));
        self.sentinels = sentinels.collect::<Result<_, _>>()?;
        Ok(self)
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
    pub(super) async fn master(&self) -> Result<(Client, Option<Subscriptions>), Failure> {
        let (first, later) = self.access.ask().await?;
        let settings = self.settings.clone();
        let settings = match first {
            Some(credentials) => credentials.apply(settings),
            None => settings,
        };
        let client = self.client(settings.clone())?.async_get_client().await?;
        // Sentinels know none of the settings that the library leaves out.
        let info = server::with_settings(client.get_connection_info().clone(), |_| settings);
        Ok((Client::open(info)?, later))
    }

    #[cfg(feature = "tls-rustls")]
    fn client(&self, settings: RedisConnectionInfo) -> RedisResult<SentinelClient> {
        match &self.access.certificates {
            Some(certificates) => self.certified_client(&settings, certificates),
            None => self.plain_client(settings),
        }
    }

    #[cfg(not(feature = "tls-rustls"))]
    fn client(&self, settings: RedisConnectionInfo) -> RedisResult<SentinelClient> {
        self.plain_client(settings)
    }

    fn plain_client(&self, settings: RedisConnectionInfo) -> RedisResult<SentinelClient> {
        let mut master = SentinelNodeConnectionInfo::default()
            .set_redis_connection_info(settings)
            .set_tcp_settings(tcp_settings());
        if self.is_tls() {
            master = master.set_tls_mode(TlsMode::Secure);
        }
        SentinelClient::build(
            self.sentinels.clone(),
            self.master_name.clone(),
            Some(master),
            SentinelServerType::Master,
        )
    }

    /// The library takes certificates for the master only where all Sentinels have one user.
    #[cfg(feature = "tls-rustls")]
    fn certified_client(
        &self,
        settings: &RedisConnectionInfo,
        certificates: &TlsCertificates,
    ) -> RedisResult<SentinelClient> {
        let addresses = self.sentinels.iter().map(|info| info.addr().clone());
        let mut builder =
            SentinelClientBuilder::new(addresses, &self.master_name, SentinelServerType::Master)?
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_redis_tcp_settings(tcp_settings())
                .set_client_to_redis_db(settings.db())
                .set_client_to_redis_protocol(settings.protocol())
                .set_client_to_sentinel_tcp_settings(tcp_settings());
        if let Some(user) = settings.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        let first = self.sentinels.first().map(ConnectionInfo::redis_settings);
        if let Some(user) = first.and_then(RedisConnectionInfo::username) {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = first.and_then(RedisConnectionInfo::password) {
            builder = builder.set_client_to_sentinel_password(password);
        }
        builder.build()
    }
}
