//! What a node's URL says: where to connect, as whom, and to which database.
//!
//! It is read here, and not by the client's library, which passes over what it does not know and takes the start of
//! a password that is not encoded for the host. What cannot be read in one way only is refused, and no error
//! repeats anything that may be a part of a password.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use deadpool_redis::redis::{
    ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo,
};

use crate::error::{Error, Result};

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

/// What a connection begins with, as far as it was read.
#[derive(Default)]
struct Draft {
    user: Option<String>,
    password: Option<String>,
    database: Option<i64>,
    protocol: Option<ProtocolVersion>,
    hides_client_info: bool,
}

/// What may follow the `?` of a URL.
struct Parameter {
    name: &'static str,
    /// Servers have their credentials before the host.
    of_sockets_only: bool,
    read: fn(&mut Draft, &str) -> Result<(), &'static str>,
}

/// All that may.
const PARAMETERS: &[Parameter] = &[
    Parameter { name: "db", of_sockets_only: false, read: Draft::database },
    Parameter { name: "protocol", of_sockets_only: false, read: Draft::protocol },
    Parameter { name: "client_info", of_sockets_only: false, read: Draft::client_info },
    Parameter { name: "user", of_sockets_only: true, read: Draft::user },
    Parameter { name: "pass", of_sockets_only: true, read: Draft::password },
];

impl Draft {
    /// Reads `user:password`.
    fn log_in(&mut self, credentials: &str) -> Result<(), Fault> {
        match cut(credentials, ':') {
            ("", None | Some("")) => {}
            // The client's library would not log in at all.
            (_, None) => return Err(Fault::new(ONLY_ONE)),
            (user, Some(password)) => {
                self.user = Some(decoded(user)?).filter(|user| !user.is_empty());
                self.password = Some(decoded(password)?);
            }
        }
        Ok(())
    }

    /// Reads the parameters, each once at most.
    fn read(&mut self, parts: &Parts<'_>, is_socket: bool) -> Result<(), Fault> {
        let (mut seen, mut is_behind_a_secret) = (Vec::new(), false);
        for (name, value) in parts.parameters() {
            let known = PARAMETERS
                .iter()
                .find(|known| known.name == name && (is_socket || !known.of_sockets_only));
            let (Some(known), Some(value)) = (known, value) else {
                return Err(unknown(name, value.is_some(), is_behind_a_secret, is_socket));
            };
            if seen.contains(&name) {
                return Err(Fault::from(format!("the parameter `{name}` is there twice")));
            }
            (known.read)(self, &decoded(value)?)
                .map_err(|what| Fault::from(format!("the parameter `{name}`: {what}")))?;
            seen.push(name);
            is_behind_a_secret |= known.of_sockets_only;
        }
        Ok(())
    }

    fn user(&mut self, user: &str) -> Result<(), &'static str> {
        self.user = Some(user.to_owned());
        Ok(())
    }

    fn password(&mut self, password: &str) -> Result<(), &'static str> {
        self.password = Some(password.to_owned());
        Ok(())
    }

    fn database(&mut self, number: &str) -> Result<(), &'static str> {
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
        let database = number.parse::<u32>().ok().filter(|_| is_number).map(i64::from);
        let database = database.ok_or("a database is a number, from 0")?;
        if self.database.replace(database).is_some_and(|other| other != database) {
            return Err("another database is named before it");
        }
        Ok(())
    }

    fn protocol(&mut self, version: &str) -> Result<(), &'static str> {
        self.protocol = Some(match version {
            "2" | "resp2" => ProtocolVersion::RESP2,
            "3" | "resp3" => ProtocolVersion::RESP3,
            _ => return Err("the protocol is resp2 or resp3"),
        });
        Ok(())
    }

    /// Whether the server is told the client's name.
    fn client_info(&mut self, whether: &str) -> Result<(), &'static str> {
        self.hides_client_info = match whether {
            "yes" => false,
            "no" => true,
            _ => return Err("client information is given or not: yes or no"),
        };
        Ok(())
    }

    fn settings(self) -> RedisConnectionInfo {
        let mut settings = RedisConnectionInfo::default().set_db(self.database.unwrap_or_default());
        if let Some(user) = self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = self.password {
            settings = settings.set_password(password);
        }
        if self.hides_client_info {
            settings = settings.set_skip_set_lib_name();
        }
        settings.set_protocol(self.protocol.unwrap_or_default())
    }
}

/// That a parameter is unknown. It is named, unless it may be the rest of a password.
fn unknown(name: &str, is_set: bool, is_behind_a_secret: bool, is_socket: bool) -> Fault {
    if is_behind_a_secret {
        return Fault::new(
            "an unknown parameter follows `user` or `pass`; an & in them is written %26",
        );
    }
    if !is_set || !is_word(name) {
        return Fault::new("what follows its ? is no parameter; a ? in a password is written %3F");
    }
    let hint = match name.to_ascii_lowercase().as_str() {
        "ssl" | "tls" => "TLS is written rediss://".to_owned(),
        "user" | "username" | "pass" | "password" if !is_socket => {
            "credentials stand before the host: redis://USER:PASSWORD@host".to_owned()
        }
        _ => {
            let known = PARAMETERS.iter().filter(|known| is_socket || !known.of_sockets_only);
            let known: Vec<_> = known.map(|known| known.name).collect();
            format!("there are: {}", known.join(", "))
        }
    };
    Fault::from(format!("it has no parameter `{name}`; {hint}"))
}

/// Text without percent-encoding.
fn decoded(text: &str) -> Result<String, Fault> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => encoded(rest.next(), rest.next()).ok_or(PERCENT)?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| Fault::new("it is not UTF-8 when percent-decoded"))
}

/// The byte of two hexadecimal digits.
fn encoded(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let [high, low] = [high?, low?].map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
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
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::Node;

    fn settings(url: &str) -> RedisConnectionInfo {
        read(url).unwrap().redis_settings().clone()
    }

    fn refusal(url: &str) -> String {
        read(url).unwrap_err().to_string()
    }

    #[test]
    fn everything_that_a_url_says_is_taken() {
        let said = settings("redis://ann:p%40s%3As@a:7001/3?protocol=resp3");
        assert_eq!((said.username(), said.password()), (Some("ann"), Some("p@s:s")));
        assert_eq!((said.db(), said.protocol()), (3, ProtocolVersion::RESP3));
        let said = settings("redis+unix:///run/a.sock?db=4&user=ann&pass=p%26s+&protocol=2");
        assert_eq!((said.username(), said.password()), (Some("ann"), Some("p&s+")));
        assert_eq!((said.db(), said.protocol()), (4, ProtocolVersion::RESP2));
    }

    #[test]
    fn the_database_is_a_path_or_a_parameter() {
        for url in
            ["redis://a/3", "redis://a/3/", "redis://a?db=3", "redis://a/?db=3", "redis://a/3?db=3"]
        {
            assert_eq!(settings(url).db(), 3, "{url}");
        }
        for url in ["redis://a/0?db=3", "redis://a?db=3&db=4", "redis://a?db=", "redis://a?db=-1"] {
            assert!(refusal(url).contains("`db`"), "{url}");
        }
    }

    #[test]
    fn a_password_may_stand_alone_or_be_empty() {
        let of = |url| {
            let said = settings(url);
            (said.username().map(str::to_owned), said.password().map(str::to_owned))
        };
        assert_eq!(of("redis://:pw@a"), (None, Some("pw".to_owned())));
        assert_eq!(of("redis://ann:@a"), (Some("ann".to_owned()), Some(String::new())));
        for url in ["redis://a", "redis://@a", "redis://:@a"] {
            assert_eq!(of(url), (None, None), "{url}");
        }
        assert!(refusal("redis://pw@a").contains("user without a password"));
    }

    #[test]
    fn blanks_around_a_url_are_no_part_of_it() {
        assert_eq!(name(read(" redis://:pw@a:7001\n").unwrap().addr()), "a:7001");
    }

    #[test]
    fn an_ipv6_address_has_brackets() {
        assert_eq!(name(read("redis://[0:0::1]").unwrap().addr()), "[::1]:6379");
        assert_eq!(
            read("redis://[::1]:7001").unwrap().addr(),
            &ConnectionAddr::Tcp("::1".into(), 7001)
        );
        assert!(refusal("redis://::1").contains("redis://[::1]:6379"));
    }

    #[test]
    fn spellings_of_one_address_are_one_place() {
        for (one, other) in [
            ("A.example:1", "a.Example:1"),
            ("a.example.:1", "a.example:1"),
            ("[::1]:1", "[0:0:0:0:0:0:0:1]:1"),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1"),
        ] {
            assert!(is_same_place(one, other), "{one} {other}");
        }
        for (one, other) in
            [("/run/a", "/run/A"), ("a:1", "a:2"), ("a:1", "a.b:1"), ("[::1]:1", "127.0.0.1:1")]
        {
            assert!(!is_same_place(one, other), "{one} {other}");
        }
    }

    #[test]
    fn an_unknown_parameter_is_named_and_not_its_value() {
        for (url, names) in [
            ("redis://b:7001?ssl=hunter", ["`ssl`", "rediss://"]),
            ("redis://b:7001/0?tls=hunter", ["`tls`", "rediss://"]),
            ("redis://b:7001?password=hunter", ["`password`", "before the host"]),
            ("redis://b:7001?client_name=hunter", ["`client_name`", "db, protocol, client_info"]),
            (
                "redis+unix:///b:7001?timeout=hunter",
                ["`timeout`", "db, protocol, client_info, user, pass"],
            ),
            ("redis://b:7001?protocol=hunter", ["`protocol`", "resp3"]),
            ("redis://b:7001?client_info=hunter", ["`client_info`", "yes or no"]),
        ] {
            let said = refusal(url);
            assert!(names.iter().all(|name| said.contains(name)), "{url}: {said}");
            assert!(said.contains("b:7001") && !said.contains("hunter"), "{url}: {said}");
        }
    }

    #[test]
    fn a_refusal_says_what_would_do() {
        for (url, hint) in [
            ("localhost:6379", "write redis://localhost:6379"),
            ("localhost", "redis://localhost:6379"),
            ("/run/redis.sock", "redis+unix://"),
            ("http://b:7001", "of node b:7001 is not usable: it must begin with redis://"),
            ("redis://b:99999", "of node b is not usable: its port"),
            ("redis://b:0", "from 1 to 65535"),
            ("redis://b:", "from 1 to 65535"),
            ("redis://ann:pw@b/x", "of node b:6379 is not usable: what follows the host"),
            ("redis://ann:p#w@b", "%23"),
            ("redis://ann:p/w@b", "%2F"),
            ("redis://ann:p?w@b", "%3F"),
            ("redis://ann:p@w@b", "%40"),
            ("redis://ann:p%w@b", "%25"),
            ("redis://b#3", "redis://host:6379/3"),
            ("redis://ann:pw@b#insecure", "certificates are always checked"),
            ("redis://b:1,redis://c:1", "each node"),
            ("redis://b,c", "each node"),
            ("redis+unix://ann:pw@/run/a.sock", "user=USER"),
        ] {
            let said = refusal(url);
            assert!(said.contains(hint), "{url}: {said}");
        }
    }

    /// All that can be seen of a URL: the node's name and text, or the error.
    fn shown(url: &str) -> String {
        match Node::open(url) {
            Ok(node) => format!("{} {node:?}", node.name()),
            Err(error) => format!("{error} {error:?}"),
        }
    }

    /// A password of which nothing may be shown but digits that look like a port.
    fn passwords() -> impl Strategy<Value = String> {
        let pieces = [
            "57", "Wc903z", "Qx7", "#", "?", "/", "@", ":", "[", "]", "%", "%2", "&", "=", "+",
            ",", "ü", " ", "\\", "\t", "//", "://",
        ];
        vec(select(pieces.to_vec()), 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn no_part_of_a_password_is_shown(password in passwords()) {
            let mut urls = vec![
                format!("redis://default:{password}@127.0.0.1:6379/0"),
                format!("redis://:{password}@[::1]"),
                format!("rediss://:{password}@host"),
                format!("redis://default:{password}@"),
                format!("redis://default:{password}@:6379"),
                format!("redis://default:{password}@host:0"),
                format!("redis://default:{password}@host:{password}"),
                format!("redis://host:6379/{password}"),
                format!("redis://host:6379?password={password}"),
                format!("redis://host:6379#{password}"),
                format!("redis+unix:///run/a.sock?pass={password}&db=1"),
                format!("redis+unix://:{password}@/run/a.sock"),
                format!("http://default:{password}@host"),
                format!("default:{password}@host:6379"),
                format!("{password}://host"),
            ];
            if !password.contains('@') {
                urls.push(format!("redis://default:{password}host:6379"));
                urls.push(format!("redis://:{password}"));
            }
            for url in urls {
                let shown = shown(&url);
                let parts = ["Wc903z", "Qx7", "default"];
                prop_assert!(!parts.iter().any(|part| shown.contains(part)), "{}: {}", url, shown);
            }
        }

        #[test]
        fn any_password_can_be_encoded(user in "\\PC{1,9}", password in any::<String>()) {
            let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
            let (in_url, in_query) = (
                format!("redis://{}:{}@a", encoded(&user), encoded(&password)),
                format!("unix:///a?user={}&pass={}", encoded(&user), encoded(&password)),
            );
            for url in [in_url, in_query] {
                let said = settings(&url);
                prop_assert_eq!(said.username(), Some(&*user));
                prop_assert_eq!(said.password(), Some(&*password));
            }
        }
    }
}
