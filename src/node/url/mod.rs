//! What a node's URL says: where to connect, as whom, and to which database.
//!
//! It is read here, and not by the client's library, which passes over what it does not know and takes the start of
//! a password that is not encoded for the host. What cannot be read in one way only is refused, and no error
//! repeats anything that may be a part of a password.

mod parameters;

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use deadpool_redis::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use self::parameters::{Draft, decoded};
use crate::types::error::{Error, Result};

/// Reads a URL.
pub(super) fn read(url: &str) -> Result<ConnectionInfo> {
    let url = url.trim();
    connection(url).map_err(|Fault(what)| {
        Error::config(match place(url) {
            Some(place) => format!("the URL of node {place} is not usable: {what}"),
            None => format!("a node's URL is not usable: {what}"),
        })
    })
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

/// Whether two names are spellings of one address.
pub(super) fn is_same_place(one: &str, other: &str) -> bool {
    canonical(one) == canonical(other)
}

/// Host names know no case and may end with a dot; an IPv6 address may hold an IPv4 one. Paths are as they are.
fn canonical(name: &str) -> Cow<'_, str> {
    let (false, Some((host, port))) = (name.contains('/'), name.rsplit_once(':')) else {
        return name.into();
    };
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
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self(what.into())
    }
}

fn connection(url: &str) -> Result<ConnectionInfo, Fault> {
    let Some((scheme, rest)) = url.split_once("://") else { return Err(without_scheme(url)) };
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Fault::new(
            "it has a blank or a control character in it; write it as %20 and the like",
        ));
    }
    let (address, draft) = match Scheme::read(scheme) {
        Some(Scheme::Plain) => {
            let (host, port, draft) = server(rest)?;
            (ConnectionAddr::Tcp(host, port), draft)
        }
        Some(Scheme::Tls) => {
            let (host, port, draft) = server(rest)?;
            (ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }, draft)
        }
        Some(Scheme::Socket) => socket(rest)?,
        None => return Err(Fault::new(SCHEMES)),
    };
    if !address.is_supported() {
        return Err(Fault::new(match address {
            ConnectionAddr::TcpTls { .. } => NO_TLS,
            _ => "this system has no Unix sockets",
        }));
    }
    let info = address.into_connection_info();
    let info = info.map_err(|error| Fault::from(error.category().to_owned()))?;
    Ok(info.set_redis_settings(draft.settings()))
}

/// How a node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Plain,
    Tls,
    Socket,
}

impl Scheme {
    fn read(scheme: &str) -> Option<Self> {
        match scheme.to_ascii_lowercase().as_str() {
            "redis" | "valkey" => Some(Self::Plain),
            "rediss" | "valkeys" => Some(Self::Tls),
            "redis+unix" | "valkey+unix" | "unix" => Some(Self::Socket),
            _ => None,
        }
    }
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
    let (credentials, address) = parts.credentials().ok()?;
    let is_plain = parts.fragment.is_none() && is_database(parts.path) && parts.is_list();
    if credentials.is_none() && !is_plain {
        return None;
    }
    match Address::read(address) {
        Ok(Address { host, port }) => Some(host_and_port(&host, port)),
        // A port out of range.
        Err(_) => {
            let (host, digits) = address.rsplit_once(':')?;
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            (is_host(host) && is_number).then(|| host.to_owned())
        }
    }
}

/// What stands behind `://`, cut apart.
#[derive(Debug)]
struct Parts<'a> {
    authority: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    fragment: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Self {
        let (rest, fragment) = cut(rest, '#');
        let (rest, query) = cut(rest, '?');
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Self { authority, path, query, fragment }
    }

    /// User and password, if there are any, and the address. An `@` elsewhere tells that a part of them was not
    /// encoded, and nobody knows which.
    fn credentials(&self) -> Result<(Option<&'a str>, &'a str), Fault> {
        let behind = [Some(self.path), self.query, self.fragment];
        if behind.into_iter().flatten().any(|part| part.contains('@')) {
            return Err(Fault::new(ENCODE));
        }
        match self.authority.split_once('@') {
            Some((_, address)) if address.contains('@') => Err(Fault::new(ENCODE)),
            Some((credentials, address)) => Ok((Some(credentials), address)),
            None => Ok((None, self.authority)),
        }
    }

    /// The parameters, and what they are set to.
    fn parameters(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        let parts = self.query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
        parts.map(|part| cut(part, '='))
    }

    /// Whether what stands behind the `?` looks like parameters.
    fn is_list(&self) -> bool {
        self.parameters().all(|(name, value)| value.is_some() && is_word(name))
    }
}

/// The text before a mark, and what is behind it, if it is there.
fn cut(text: &str, mark: char) -> (&str, Option<&str>) {
    text.split_once(mark).map_or((text, None), |(before, behind)| (before, Some(behind)))
}

/// Whether this may stand in a message as the name of a parameter.
fn is_word(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '-');
    !name.is_empty() && name.len() <= LONGEST_WORD && name.chars().all(is_letter)
}

/// `user:password@host:port/database?parameters`.
fn server(rest: &str) -> Result<(String, u16, Draft), Fault> {
    let parts = Parts::of(rest);
    let (credentials, address) = parts.credentials()?;
    let Address { host, port } = Address::read(address)?;
    if parts.fragment.is_some() {
        return Err(Fault::new(FRAGMENT));
    }
    let mut draft = Draft::default();
    draft.log_in(credentials.unwrap_or_default())?;
    if !is_database(parts.path) {
        return Err(Fault::new(
            "what follows the host is no database number, as 3 in redis://host:6379/3 is",
        ));
    }
    match parts.path.trim_matches('/') {
        "" => {}
        number => draft.database(number).map_err(Fault::new)?,
    }
    draft.read(&parts, false)?;
    Ok((host, port, draft))
}

/// `/path/of/socket?parameters`.
fn socket(rest: &str) -> Result<(ConnectionAddr, Draft), Fault> {
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
    Ok((ConnectionAddr::Unix(path), draft))
}

/// Whether a path is empty or names a database.
fn is_database(path: &str) -> bool {
    path.trim_matches('/').bytes().all(|byte| byte.is_ascii_digit())
}

/// Host and port.
struct Address {
    host: String,
    port: u16,
}

impl Address {
    fn read(text: &str) -> Result<Self, Fault> {
        let (host, behind) = match text.strip_prefix('[') {
            Some(text) => {
                let Some((host, behind)) = text.split_once(']') else { return Err(BRACKETS) };
                let address: Ipv6Addr = host.parse().map_err(|_| BRACKETS)?;
                (address.to_string(), behind)
            }
            None if text.parse::<Ipv6Addr>().is_ok() => return Err(BRACKETS),
            None => {
                let (host, behind) = text.split_at(text.find(':').unwrap_or(text.len()));
                (host.to_owned(), behind)
            }
        };
        if host.is_empty() {
            return Err(Fault::new("its host is missing"));
        }
        let port = match behind {
            "" => DEFAULT_PORT,
            behind => behind
                .strip_prefix(':')
                .and_then(port)
                .ok_or_else(|| Fault::new(if text.contains(',') { ONE_EACH } else { PORT }))?,
        };
        Self { host, port }.checked()
    }

    fn checked(self) -> Result<Self, Fault> {
        match self.host.parse::<IpAddr>() {
            Ok(address) if address.is_unspecified() => {
                Err(Fault::new("0.0.0.0 and [::] are to listen on, not to connect to"))
            }
            Ok(_) => Ok(self),
            Err(_) if is_host(&self.host) => Ok(self),
            Err(_) if self.host.contains(',') => Err(Fault::new(ONE_EACH)),
            Err(_) => Err(Fault::new("its host has characters that no host name has")),
        }
    }
}

/// Whether this may be the name of a host, or its IPv4 address.
fn is_host(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !text.is_empty() && (text.bytes().all(is_part) || text.parse::<Ipv4Addr>().is_ok())
}

fn port(digits: &str) -> Option<u16> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|port| is_number && *port != 0)
}

const DEFAULT_PORT: u16 = 6379;

/// How URLs begin that were meant otherwise.
const MISTAKEN: &[&str] = &["http://", "https://", "tcp://"];

const LONGEST_WORD: usize = 32;

const SCHEMES: &str = "it must begin with redis://, as redis://localhost:6379, with rediss:// for TLS, or with \
                       redis+unix:// and the path of a socket";

const ENCODE: &str = "there is an @ where none can be; in user and password, percent-encode what has a meaning in \
                      URLs: # as %23, / as %2F, ? as %3F, @ as %40, : as %3A, % as %25";

const FRAGMENT: &str = "nothing may follow a #; in a password, percent-encode it as %23 (a database is written \
                        redis://host:6379/3, and certificates are always checked)";

const ONLY_ONE: &str = "before its @ stands a user without a password; write redis://:PASSWORD@host for a password \
                        alone, and redis://USER:@host for a user who has none";

const ONE_EACH: &str = "it has a comma; each node has a URL of its own";

const PORT: &str =
    "its port is no number from 1 to 65535; a user and a password are followed by an @";

const NO_TLS: &str = "TLS needs the feature `tls-rustls` or `tls-native-tls` of redlatch; the command `redlatch` \
                      has it with `cli-tls`";

const BRACKETS: Fault =
    Fault::new("an IPv6 address is written in brackets, as in redis://[::1]:6379");

const PERCENT: Fault =
    Fault::new("a % in it is not followed by two hexadecimal digits; percent-encode it as %25");

#[cfg(test)]
mod tests;
