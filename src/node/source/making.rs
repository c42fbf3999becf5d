//! What sources are made of.

use redis::{Client, ConnectionInfo, RedisConnectionInfo, RedisError};

#[cfg(feature = "cluster")]
use super::cluster::Cluster;
#[cfg(feature = "sentinel")]
use super::sentinel::Sentinel;
use super::{
    super::url::{self, Target},
    Source,
    access::Access,
    tcp,
};
use crate::types::error::{Error, Result};

impl Source {
    /// Reads a URL. It may hold a password, so that no error repeats it.
    pub(in crate::node) fn url(url: &str) -> Result<Self> {
        match url::read(url)? {
            Target::Server(info) => Self::server(info.set_tcp_settings(tcp::tcp_settings())),
            Target::Cluster(servers) => Self::cluster(servers),
            Target::Sentinel { sentinels, master_name, settings } => {
                Self::sentinel(sentinels, master_name, settings)
            }
        }
    }

    /// A client that the caller has set up.
    #[cfg(feature = "deadpool")]
    pub(in crate::node) fn client(client: Client) -> Self {
        let info = tcp::completed(client.get_connection_info().clone());
        Self::Server(Box::new(Client::open(info).unwrap_or(client)), Access::default())
    }

    fn server(info: ConnectionInfo) -> Result<Self> {
        let client = Client::open(info).map_err(|error| unusable("a node's URL", &error))?;
        Ok(Self::Server(Box::new(client), Access::default()))
    }

    /// A cluster, known by some of its servers.
    #[cfg(feature = "cluster")]
    pub(in crate::node) fn cluster(servers: Vec<ConnectionInfo>) -> Result<Self> {
        let name = url::names(&servers);
        let cluster = Cluster::new(servers, Access::default());
        let cluster = cluster.map_err(|error| unusable(&format!("the cluster {name}"), &error))?;
        Ok(Self::Cluster(Box::new(cluster)))
    }

    #[cfg(not(feature = "cluster"))]
    pub(in crate::node) fn cluster(servers: Vec<ConnectionInfo>) -> Result<Self> {
        let name = url::names(&servers);
        Err(Error::config(format!("the cluster {name} needs the feature `cluster` of redlatch")))
    }

    /// The master that Sentinels know by this name.
    #[cfg(feature = "sentinel")]
    pub(in crate::node) fn sentinel(
        sentinels: Vec<ConnectionInfo>,
        master_name: String,
        settings: RedisConnectionInfo,
    ) -> Result<Self> {
        let own_settings = |info: ConnectionInfo| info.set_tcp_settings(tcp::tcp_settings());
        let sentinels = sentinels.into_iter().map(own_settings).collect();
        Ok(Self::Sentinel(Box::new(Sentinel::new(sentinels, master_name, settings))))
    }

    #[cfg(not(feature = "sentinel"))]
    pub(in crate::node) fn sentinel(
        sentinels: Vec<ConnectionInfo>,
        master_name: String,
        _: RedisConnectionInfo,
    ) -> Result<Self> {
        let names = url::names(&sentinels);
        Err(Error::config(format!(
            "the master {master_name:?} of the Sentinels {names} needs the feature `sentinel` of redlatch"
        )))
    }
}

/// That something cannot be connected to; the library's words hold no credentials.
fn unusable(what: &str, error: &RedisError) -> Error {
    Error::config(format!("{what} is not usable: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_url_is_refused_without_repeating_it() {
        for url in
            ["", "http://secret@x", "redis://:secret@", "redis://h:99999999/secret", "secret"]
        {
            let message = Source::url(url).err().map(|error| error.to_string());
            assert!(!message.unwrap_or_default().contains("secret"), "{url}");
        }
    }

    #[cfg(not(all(feature = "cluster", feature = "sentinel")))]
    #[test]
    fn what_the_crate_was_built_without_is_named() {
        for (feature, url) in [
            ("cluster", "redis-cluster://:secret@a,b"),
            ("sentinel", "redis-sentinel://:secret@a,b/locks"),
        ] {
            let Err(error) = Source::url(url) else { continue };
            let said = error.to_string();
            assert!(said.contains(&format!("the feature `{feature}`")), "{said}");
            assert!(said.contains("a:") && !said.contains("secret"), "{said}");
        }
        assert!(Source::url("redis-cluster://a").is_ok() == cfg!(feature = "cluster"));
        assert!(Source::url("redis-sentinel://a/locks").is_ok() == cfg!(feature = "sentinel"));
    }
}
