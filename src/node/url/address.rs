//! Where a server is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use redis::ConnectionAddr;

use super::{BRACKETS, Fault, ONE_EACH, PORT, scheme::Security};

/// Host and port.
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    pub(super) fn read(text: &str, default_port: u16) -> Result<Self, Fault> {
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
            "" => default_port,
            behind => behind
                .strip_prefix(':')
                .and_then(port)
                .ok_or_else(|| Fault::new(if text.contains(',') { ONE_EACH } else { PORT }))?,
        };
        Self { host, port }.checked()
    }

    pub(super) fn over(self, security: Security) -> ConnectionAddr {
        let Self { host, port } = self;
        match security {
            Security::Plain => ConnectionAddr::Tcp(host, port),
            Security::Tls => {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            }
        }
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
pub(super) fn is_host(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !text.is_empty() && (text.bytes().all(is_part) || text.parse::<Ipv4Addr>().is_ok())
}

pub(super) fn port(digits: &str) -> Option<u16> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|port| is_number && *port != 0)
}

pub(super) const DEFAULT_PORT: u16 = 6379;
