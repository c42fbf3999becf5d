//! How a URL says that a node is reached.

use super::{
    address::DEFAULT_PORT,
    cut, is_database,
    several::{SENTINEL_PORT, is_master_name},
};

/// How a node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Server(Security),
    Socket,
    Cluster(Security),
    Sentinel(Security),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    Plain,
    Tls,
}

impl Scheme {
    pub(super) fn read(scheme: &str) -> Option<Self> {
        let scheme = scheme.to_ascii_lowercase();
        let (name, kind) = cut(&scheme, '-');
        let security = match name {
            "redis" | "valkey" => Security::Plain,
            "rediss" | "valkeys" => Security::Tls,
            "redis+unix" | "valkey+unix" | "unix" => return kind.is_none().then_some(Self::Socket),
            _ => return None,
        };
        match kind {
            None => Some(Self::Server(security)),
            Some("cluster") => Some(Self::Cluster(security)),
            Some("sentinel") => Some(Self::Sentinel(security)),
            Some(_) => None,
        }
    }

    pub(super) const fn default_port(self) -> u16 {
        if matches!(self, Self::Sentinel(_)) { SENTINEL_PORT } else { DEFAULT_PORT }
    }

    /// The addresses of the servers that it is about.
    pub(super) fn addresses(self, text: &str) -> impl Iterator<Item = &str> {
        let is_list = matches!(self, Self::Cluster(_) | Self::Sentinel(_));
        text.split(move |c: char| is_list && c == ',')
    }

    /// Whether a path is what may follow the servers, and nothing else.
    pub(super) fn explains(self, path: &str) -> bool {
        match (self, path.strip_prefix('/').map(|path| cut(path, '/'))) {
            (Self::Sentinel(_), Some((name, database))) => {
                is_master_name(name) && is_database(database.unwrap_or_default())
            }
            _ => is_database(path),
        }
    }
}
