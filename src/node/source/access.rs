//! What lets connections in, beside the user and password that a URL can say.

#[cfg(feature = "tls-rustls")]
use redis::{Client, ConnectionInfo, TlsCertificates};
use redis::{RedisConnectionInfo, RedisResult};

use super::credentials::{Credentials, Provider, Subscriptions};

/// Who is asked for credentials, and the certificates for TLS.
#[derive(Clone, Default)]
pub(in crate::node) struct Access {
    pub(in crate::node) provider: Option<Provider>,
    #[cfg(feature = "tls-rustls")]
    pub(in crate::node) certificates: Option<TlsCertificates>,
}

impl Access {
    /// The same, changed, for those that log in so.
    pub(super) fn changed(
        mut self,
        change: impl FnOnce(&mut Self),
        settings: &RedisConnectionInfo,
    ) -> Self {
        change(&mut self);
        if let Some(provider) = &mut self.provider {
            provider.set_user(settings);
        }
        self
    }

    /// Asks for the credentials of one connection.
    pub(super) async fn ask(&self) -> RedisResult<(Option<Credentials>, Option<Subscriptions>)> {
        Ok(match &self.provider {
            Some(provider) => {
                let (first, later) = provider.ask().await?;
                (Some(first), Some(later))
            }
            None => (None, None),
        })
    }

    /// The certificates so far.
    #[cfg(feature = "tls-rustls")]
    pub(in crate::node) fn certificates(&mut self) -> &mut TlsCertificates {
        let none = TlsCertificates { client_tls: None, root_cert: None };
        self.certificates.get_or_insert(none)
    }

    /// The same server, reached with the certificates.
    #[cfg(feature = "tls-rustls")]
    pub(super) fn certified(&self, info: ConnectionInfo) -> RedisResult<ConnectionInfo> {
        match &self.certificates {
            Some(certificates) => {
                let client = Client::build_with_tls(info, certificates.clone())?;
                Ok(client.get_connection_info().clone())
            }
            None => Ok(info),
        }
    }

    #[cfg(not(feature = "tls-rustls"))]
    #[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
    pub(super) fn certified(
        &self,
        info: redis::ConnectionInfo,
    ) -> RedisResult<redis::ConnectionInfo> {
        Ok(info)
    }
}
