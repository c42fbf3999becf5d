//! How a node is logged in to, where its URL does not say it all.

use std::error::Error as StdError;

#[cfg(feature = "tls-rustls")]
use redis::ClientTlsConfig;
use redis::{RedisConnectionInfo, RedisError};

use super::{
    Kind, Node,
    source::{Access, Credentials, Provider, Source},
};

impl Node {
    /// Logs in with this user and password, that of the master where there are Sentinels, whatever a URL said. An empty
    /// user is the default one.
    ///
    /// A pool and a node in memory log nobody in: building a manager on them is then refused with
    /// [`Error::Config`](crate::Error::Config).
    ///
    /// ```
    /// use redlatch::{LockManager, Node};
    ///
    /// let node = Node::open("redis://127.0.0.1:6379")?.with_password("locks", "p@ss/word");
    /// let manager = LockManager::single(node).build()?;
    /// # Ok::<(), redlatch::Error>(())
    /// ```
    #[must_use]
    pub fn with_password(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        let (user, password) = (user.into(), password.into());
        self.logging_in("password", |settings| {
            let user = if user.is_empty() { "default" } else { &user };
            settings.set_username(user).set_password(&password)
        })
    }

    /// Asks for user and password anew for each connection, and again before they end if they are
    /// [good for a time](Credentials::valid_for): for the tokens of managed services, which last minutes, and passwords
    /// that are changed. With Sentinels they are the master's. What a URL says is not used.
    ///
    /// A connection that lasts logs in anew while it is used. The provider may take up to 5 seconds, during which calls fail
    /// for want of a connection, and `acquire` goes on; if it gives an error, the node cannot be connected to for now, and
    /// errors say why. Of a cluster it is asked twice for each of its servers.
    ///
    /// A pool and a node in memory ask nobody: building a manager on them is then refused with
    /// [`Error::Config`](crate::Error::Config).
    ///
    /// ```
    /// use std::{io, time::Duration};
    /// use redlatch::{Credentials, LockManager, Node};
    ///
    /// async fn token() -> io::Result<String> {
    ///     std::fs::read_to_string("/run/secrets/redis-token")
    /// }
    ///
    /// let node = Node::open("redis://127.0.0.1:6379")?.with_credentials(|| async {
    ///     let token = token().await?;
    ///     Ok::<_, io::Error>(Credentials::new("locks", token).valid_for(Duration::from_secs(900)))
    /// });
    /// let manager = LockManager::single(node).build()?;
    /// # Ok::<(), redlatch::Error>(())
    /// ```
    #[must_use]
    pub fn with_credentials<F, A, E>(self, provider: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<Credentials, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let provider = Provider::new(provider);
        self.let_in("credentials", |access| access.provider = Some(provider))
    }

    /// Trusts the certificates in this PEM text, and none that the system trusts, when TLS is begun. It is for every server
    /// of the node, Sentinels included.
    ///
    /// Of a node without TLS, a pool or a node in memory it is asked in vain: building a manager on them is then refused
    /// with [`Error::Config`](crate::Error::Config), and so is what cannot be read.
    ///
    /// ```no_run
    /// use redlatch::Node;
    ///
    /// let node = Node::open("rediss://redis.example")?.with_ca(std::fs::read("ca.pem")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tls-rustls")]
    #[must_use]
    pub fn with_ca(self, pem: impl Into<Vec<u8>>) -> Self {
        let pem = Some(pem.into());
        self.let_in("certificates", |access| access.certificates().root_cert = pem)
    }

    /// Shows this certificate when TLS is begun, and proves with the key that it is ours: both are PEM texts. It is for
    /// every server of the node, Sentinels included, which then have one user all.
    ///
    /// It is refused where [`with_ca`](Self::with_ca) is.
    ///
    /// ```no_run
    /// use redlatch::Node;
    ///
    /// let (cert, key) = (std::fs::read("client.pem")?, std::fs::read("client.key")?);
    /// let node = Node::open("rediss://redis.example")?.with_client_certificate(cert, key);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tls-rustls")]
    #[must_use]
    pub fn with_client_certificate(
        self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        let (client_cert, client_key) = (certificate.into(), key.into());
        let ours = Some(ClientTlsConfig { client_cert, client_key });
        self.let_in("certificates", |access| access.certificates().client_tls = ours)
    }

    /// Changes what connections begin with.
    fn logging_in(
        self,
        what: &str,
        change: impl Fn(RedisConnectionInfo) -> RedisConnectionInfo,
    ) -> Self {
        self.changed(what, |source| source.with_settings(change).map(Ok))
    }

    /// Changes what lets connections in.
    fn let_in(self, what: &str, change: impl FnOnce(&mut Access)) -> Self {
        self.changed(what, |source| source.with_access(change))
    }

    /// Changes the source, or notes why that cannot be: the manager's builder tells it.
    fn changed(
        mut self,
        what: &str,
        change: impl FnOnce(Source) -> Option<Result<Source, RedisError>>,
    ) -> Self {
        let changed = match &self.kind {
            Kind::Redis(source) => change(source.clone()),
            Kind::Memory(_) => None,
        };
        let name = &self.name;
        match changed {
            Some(Ok(source)) => self.kind = Kind::Redis(source),
            Some(Err(error)) => {
                self.fault =
                    Some(format!("node {name}: the {what} cannot be used: {error}").into());
            }
            None => {
                let fault = format!("node {name} does not log in by itself, and takes no {what}");
                self.fault = Some(fault.into());
            }
        }
        self
    }
}
