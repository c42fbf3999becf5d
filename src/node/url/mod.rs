//! What a node's URL says: where to connect, as whom, and to which database.
//!
//! It is read here, and not by the client's library, which passes over what it does not know and takes the start of
//! a password that is not encoded for the host. What cannot be read in one way only is refused, and no error
//! repeats anything that may be a part of a password.

mod address;
mod parameters;
mod parts;
mod scheme;
mod several;

use std::{borrow::Cow, net::IpAddr, path::PathBuf};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

use self::{
    address::{Address, DEFAULT_PORT, is_host, port},
    parameters::{Draft, decoded},
    parts::Parts,
    scheme::{Scheme, Security},
    several::{MASTER_NAME, is_master_name},
};
use crate::types::error::{Error, Result};

/// What a URL leads to.
#[derive(Debug)]
pub(super) enum Target {
    Server(ConnectionInfo),
    /// Some of a cluster's servers.
    Cluster(Vec<ConnectionInfo>),
    /// Who knows the master of this name, and what is said to it at first.
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        master_name: String,
        settings: RedisConnectionInfo,
    },
}

/// Reads a URL.
pub(super) fn read(url: &str) -> Result<Target> {
    let url = url.trim();
    target(url).map_err(|fault| fault.about(url))
}

/// Reads the URLs of some of a deployment's servers.
pub(super) fn read_servers<U: AsRef<str>>(
    urls: impl IntoIterator<Item = U>,
) -> Result<Vec<ConnectionInfo>> {
    let read = |url: U| match read(url.as_ref())? {
        Target::Server(info) if !matches!(info.addr(), ConnectionAddr::Unix(_)) => Ok(info),
        _ => Err(Fault::new(SERVERS).about(url.as_ref().trim())),
    };
    urls.into_iter().map(read).collect()
}

/// Reads the URLs of Sentinels.
pub(super) fn read_sentinels<U: AsRef<str>>(
    urls: impl IntoIterator<Item = U>,
) -> Result<Vec<ConnectionInfo>> {
    let sentinels = read_servers(urls)?;
    if sentinels.is_empty() {
        return Err(Error::config("the URL of at least one Sentinel is wanted"));
    }
    match sentinels.iter().find(|sentinel| sentinel.redis_settings().db() != 0) {
        Some(sentinel) => Err(Error::config(format!(
            "the URL of Sentinel {} names a database, and a Sentinel has none; the master's stands in the one-URL form, \
             redis-sentinel://host1,host2/mymaster/3",
            name(sentinel.addr())
        ))),
        None => Ok(sentinels),
    }
}

/// Checks the name of a master.
pub(super) fn check_master_name(name: &str) -> Result<()> {
    if is_master_name(name) { Ok(()) } else { Err(Error::config(MASTER_NAME)) }
}

/// The names of several addresses.
pub(super) fn names(servers: &[ConnectionInfo]) -> String {
    let names: Vec<_> = servers.iter().map(|server| name(server.addr())).collect();
    names.join(",")
}

/// The name of an address: `host:port`, with brackets around an IPv6 address, or the path of a socket.
pub(super) fn name(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            host_and_port(host, *port)
        }
        address => address.to_string(),
    }
}

pub(super) fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Whether two names are spellings of one address, or have one in common.
pub(super) fn is_same_place(one: &str, other: &str) -> bool {
    let others = places(other);
    places(one).iter().any(|place| others.contains(place))
}

/// The addresses in a name. That of Sentinels names the master too: they know several.
fn places(name: &str) -> Vec<Cow<'_, str>> {
    if name.starts_with('/') {
        return vec![name.into()];
    }
    let (addresses, master) = cut(name, '/');
    let addresses = addresses.split(',').map(canonical);
    match master {
        Some(master) => addresses.map(|address| format!("{address}/{master}").into()).collect(),
        None => addresses.collect(),
    }
}

/// Host names know no case and may end with a dot; an IPv6 address may hold an IPv4 one.
fn canonical(name: &str) -> Cow<'_, str> {
    let Some((host, port)) = name.rsplit_once(':') else { return name.into() };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let host = match address {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
    };
    format!("{host}:{port}").into()
}

/// What is wrong with a URL, and what would do. It never holds a part of the URL that may be secret.
#[derive(Debug)]
struct Fault(Cow<'static, str>);

impl Fault {
    const fn new(what: &'static str) -> Self {
        Self(Cow::Borrowed(what))
    }

    /// The error that tells of it.
    fn about(self, url: &str) -> Error {
        let Self(what) = self;
        Error::config(match place(url) {
            Some(place) => format!("the URL of node {place} is not usable: {what}"),
            None => format!("a node's URL is not usable: {what}"),
        })
    }
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self(what.into())
    }
}

fn target(url: &str) -> Result<Target, Fault> {
    let Some((scheme, rest)) = url.split_once("://") else { return Err(without_scheme(url)) };
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Fault::new(
            "it has a blank or a control character in it; write it as %20 and the like",
        ));
    }
    match Scheme::read(scheme) {
        Some(Scheme::Server(security)) => server(rest, security).map(Target::Server),
        Some(Scheme::Socket) => socket(rest).map(Target::Server),
        Some(Scheme::Cluster(security)) => several::cluster(rest, security),
        Some(Scheme::Sentinel(security)) => several::sentinel(rest, security),
        None => Err(Fault::new(SCHEMES)),
    }
}

/// How to connect to an address, if that can be done here.
fn info(address: ConnectionAddr, settings: RedisConnectionInfo) -> Result<ConnectionInfo, Fault> {
    if !address.is_supported() {
        return Err(Fault::new(match address {
            ConnectionAddr::TcpTls { .. } => NO_TLS,
            _ => "this system has no Unix sockets",
        }));
    }
    let info = address.into_connection_info();
    let info = info.map_err(|error| Fault::from(error.category().to_owned()))?;
    Ok(info.set_redis_settings(settings))
}

/// That nothing says how to connect. What looks like a server's address, and like nothing else, is shown as it
/// ought to be.
fn without_scheme(url: &str) -> Fault {
    match url.rsplit_once(':') {
        Some((host, digits)) if is_host(host) && port(digits).is_some() => {
            Fault::from(format!("it has no scheme; write redis://{url}"))
        }
        _ => Fault::new(SCHEMES),
    }
}

/// Where a URL leads to, as far as that is beyond doubt. What stands before a `#` or a `?` may be the start of a
/// password, unless credentials stand in their place before it.
fn place(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let parts = Parts::of(rest);
    let scheme = Scheme::read(scheme);
    // Any other may be anything.
    if scheme.is_none() && !MISTAKEN.iter().any(|mistaken| url.starts_with(mistaken)) {
        return None;
    }
    if scheme == Some(Scheme::Socket) {
        return rest.starts_with('/').then(|| [parts.authority, parts.path].concat());
    }
    let scheme = scheme.unwrap_or(Scheme::Server(Security::Plain));
    let (credentials, addresses) = parts.credentials().ok()?;
    let is_plain = parts.fragment.is_none() && scheme.explains(parts.path) && parts.is_list();
    if credentials.is_none() && !is_plain {
        return None;
    }
    let shown = |address| shown(address, scheme.default_port());
    let shown: Option<Vec<_>> = scheme.addresses(addresses).map(shown).collect();
    shown.map(|shown| shown.join(","))
}

/// An address as it may be shown.
fn shown(address: &str, default_port: u16) -> Option<String> {
    match Address::read(address, default_port) {
        Ok(Address { host, port }) => Some(host_and_port(&host, port)),
        // A port out of range.
        Err(_) => {
            let (host, digits) = address.rsplit_once(':')?;
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            (is_host(host) && is_number).then(|| host.to_owned())
        }
    }
}

/// The text before a mark, and what is behind it, if it is there.
fn cut(text: &str, mark: char) -> (&str, Option<&str>) {
    text.split_once(mark).map_or((text, None), |(before, behind)| (before, Some(behind)))
}

/// `user:password@host:port/database?parameters`.
fn server(rest: &str, security: Security) -> Result<ConnectionInfo, Fault> {
    let parts = Parts::of(rest);
    let (credentials, address) = parts.credentials()?;
    let address = Address::read(address, DEFAULT_PORT)?;
    if parts.fragment.is_some() {
        return Err(Fault::new(FRAGMENT));
    }
    let mut draft = Draft::default();
    draft.log_in(credentials.unwrap_or_default())?;
    read_database(&mut draft, parts.path)?;
    draft.read(&parts, false)?;
    info(address.over(security), draft.settings())
}

/// Reads the number of a database in a path.
fn read_database(draft: &mut Draft, path: &str) -> Result<(), Fault> {
    if !is_database(path) {
        return Err(Fault::new(
            "what follows the host is no database number, as 3 in redis://host:6379/3 is",
        ));
    }
    match path.trim_matches('/') {
        "" => Ok(()),
        number => draft.database(number).map_err(Fault::new),
    }
}

/// `/path/of/socket?parameters`.
fn socket(rest: &str) -> Result<ConnectionInfo, Fault> {
    let parts = Parts::of(rest);
    if !parts.authority.is_empty() || parts.path.is_empty() {
        return Err(Fault::new(
            "the path of a socket begins with a third slash, and user and password are parameters: \
             redis+unix:///run/redis.sock?user=USER&pass=PASSWORD",
        ));
    }
    if parts.fragment.is_some() {
        return Err(Fault::new(FRAGMENT));
    }
    let path = PathBuf::from(decoded(parts.path)?);
    let mut draft = Draft::default();
    draft.read(&parts, true)?;
    info(ConnectionAddr::Unix(path), draft.settings())
}

/// Whether a path is empty or names a database.
fn is_database(path: &str) -> bool {
    path.trim_matches('/').bytes().all(|byte| byte.is_ascii_digit())
}

/// How URLs begin that were meant otherwise.
const MISTAKEN: &[&str] = &["http://", "https://", "tcp://"];

const SCHEMES: &str = "it must begin with redis://, as redis://localhost:6379, with rediss:// for TLS, with redis-cluster:// or \
                       redis-sentinel:// for several servers, or with redis+unix:// and the path of a socket";

const ENCODE: &str = "there is an @ where none can be; in user and password, percent-encode what has a meaning in \
                      URLs: # as %23, / as %2F, ? as %3F, @ as %40, : as %3A, % as %25";

const FRAGMENT: &str = "nothing may follow a #; in a password, percent-encode it as %23 (a database is written \
                        redis://host:6379/3, and certificates are always checked)";

const ONLY_ONE: &str = "before its @ stands a user without a password; write redis://:PASSWORD@host for a password \
                        alone, and redis://USER:@host for a user who has none";

const ONE_EACH: &str = "it has a comma; each node has a URL of its own (the servers of a cluster have one together, \
                        redis-cluster://host1:7000,host2:7000, and so have Sentinels, \
                        redis-sentinel://host1:26379,host2:26379/mymaster)";

const SERVERS: &str =
    "here the server's own URL is wanted, redis://host:port, or rediss:// for TLS";

const PORT: &str =
    "its port is no number from 1 to 65535; a user and a password are followed by an @";

const NO_TLS: &str = "TLS needs the feature `tls-rustls` or `tls-native-tls` of redlatch";

const BRACKETS: Fault =
    Fault::new("an IPv6 address is written in brackets, as in redis://[::1]:6379");

const PERCENT: Fault =
    Fault::new("a % in it is not followed by two hexadecimal digits; percent-encode it as %25");

#[cfg(test)]
mod tests;
