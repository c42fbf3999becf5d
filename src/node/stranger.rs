//! What a server says to a stranger. The library does not read what was said before the server hung up, nor what
//! is no Redis at all: where connecting fails so, one connection in plain text and without a name asks again.

use std::{io, sync::Mutex, time::Duration};

use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisConnectionInfo, RedisError, Value, cmd,
    parse_redis_value,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::failure::Failure;
use crate::host::sync::lock;

/// What a node last said to a stranger.
#[derive(Debug, Default)]
pub(super) struct Stranger {
    found: Mutex<Option<Finding>>,
}

#[derive(Debug)]
struct Finding {
    at: Instant,
    /// The kind of error that it was to explain.
    kind: ErrorKind,
    failure: Option<Failure>,
}

impl Stranger {
    /// Tells why connecting failed, if the server tells a stranger; else it is as the library says.
    pub(super) async fn explain(
        &self,
        info: &ConnectionInfo,
        error: RedisError,
        patience: Duration,
    ) -> Failure {
        // The server's own words, or nobody is there to ask.
        if error.code().is_some() || error.is_connection_refusal() {
            return error.into();
        }
        let explained = timeout(patience, self.find_out(info, error.kind())).await;
        explained.ok().flatten().unwrap_or_else(|| error.into())
    }

    /// Resolves if a connection that should be encrypted is not, after a while: there each side waits for the
    /// other.
    pub(super) async fn speaks_plainly(
        &self,
        info: &ConnectionInfo,
        patience: Duration,
    ) -> Failure {
        if is_tls(info) {
            sleep(patience).await;
            if let Some(failure) = self.find_out(info, ErrorKind::Io).await {
                return failure;
            }
        }
        std::future::pending().await
    }

    /// Forgets what was found out: connecting has succeeded.
    pub(super) fn forget(&self) {
        *lock(&self.found) = None;
    }

    /// Asks, unless it was asked a short while ago: a server in need must not be stormed.
    async fn find_out(&self, info: &ConnectionInfo, kind: ErrorKind) -> Option<Failure> {
        let is_fresh = |found: &&Finding| found.kind == kind && found.at.elapsed() < FRESH;
        if let Some(found) = lock(&self.found).as_ref().filter(is_fresh) {
            return found.failure.clone();
        }
        // Noted first, in case that nobody waits for the answer.
        self.note(kind, None);
        let failure = match kind {
            ErrorKind::AuthenticationFailed => lets_in_without_password(info).await,
            _ => ask(info).await,
        };
        self.note(kind, failure.clone());
        failure
    }

    fn note(&self, kind: ErrorKind, failure: Option<Failure>) {
        *lock(&self.found) = Some(Finding { at: Instant::now(), kind, failure });
    }
}

fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

/// Whether the server lets in who names no password. It only says that ours is wrong if it has none at all.
async fn lets_in_without_password(info: &ConnectionInfo) -> Option<Failure> {
    let settings = info.redis_settings();
    if settings.username().is_some_and(|user| user != DEFAULT_USER) {
        return None;
    }
    let nameless = RedisConnectionInfo::default().set_skip_set_lib_name();
    let client = Client::open(info.clone().set_redis_settings(nameless)).ok()?;
    let mut connection = client.get_multiplexed_async_connection().await.ok()?;
    let pong = connection.send_packed_command(&cmd("PING")).await.ok()?;
    pong.extract_error().is_ok().then_some(Failure::NoPassword)
}

async fn ask(info: &ConnectionInfo) -> Option<Failure> {
    let said = converse(info, PING).await?;
    if said.is_empty() && !is_tls(info) {
        // Who wants TLS hangs up on anything else.
        let said = converse(info, TLS_HELLO).await?;
        return read(&said, false);
    }
    read(&said, is_tls(info))
}

async fn converse(info: &ConnectionInfo, question: &[u8]) -> Option<Vec<u8>> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.ok()?;
            Some(listen(stream, question).await)
        }
        #[cfg(unix)]
        ConnectionAddr::Unix(path) => {
            let stream = tokio::net::UnixStream::connect(path).await.ok()?;
            Some(listen(stream, question).await)
        }
        _ => None,
    }
}

/// Asks a question and hears the first line of the answer, or of what was said before.
async fn listen(mut stream: impl AsyncRead + AsyncWrite + Unpin, question: &[u8]) -> Vec<u8> {
    // Whoever hangs up at once may have said why.
    let _written: io::Result<()> = stream.write_all(question).await;
    let mut said = Vec::with_capacity(LONGEST_ANSWER);
    while said.len() < LONGEST_ANSWER && !said.contains(&b'\n') {
        match stream.read_buf(&mut said).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    said
}

/// What is wrong with a server that answers a stranger so; `None`: nothing, or nobody knows.
fn read(said: &[u8], is_tls: bool) -> Option<Failure> {
    match said {
        [] => None,
        [TLS_HANDSHAKE | TLS_ALERT, 3, ..] => (!is_tls).then_some(Failure::WantsTls),
        _ => match (parse_redis_value(said), is_tls) {
            (Ok(_), true) if matches!(said, [b'+' | b'-', ..]) => Some(Failure::SpeaksNoTls),
            (Ok(Value::ServerError(error)), false) if error.code() != "NOAUTH" => {
                Some(Failure::Redis(error.into()))
            }
            (Ok(Value::ServerError(_) | Value::SimpleString(_)), false) => None,
            _ => Some(Failure::NoRedis(printable(said))),
        },
    }
}

/// The first line, without what a terminal or a log would make something of.
fn printable(said: &[u8]) -> String {
    let line = said.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    line.chars().take(LONGEST_SHOWN).map(|c| if c.is_control() { '.' } else { c }).collect()
}

/// For any Redis, and at its end for what waits for the end of a header.
const PING: &[u8] = b"PING\r\n\r\n";
/// The shortest that a TLS server takes for a greeting, and turns down in its own protocol.
const TLS_HELLO: &[u8] = &[TLS_HANDSHAKE, 3, 1, 0, 4, 1, 0, 0, 0];
const DEFAULT_USER: &str = "default";
const TLS_ALERT: u8 = 0x15;
const TLS_HANDSHAKE: u8 = 0x16;
/// How long an answer stands for the next failures of its kind.
const FRESH: Duration = Duration::from_secs(10);
const LONGEST_ANSWER: usize = 256;
const LONGEST_SHOWN: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(said: &[u8], is_tls: bool) -> Option<String> {
        read(said, is_tls).map(|failure| failure.to_string())
    }

    #[test]
    fn a_redis_that_answers_explains_nothing() {
        assert!(told(b"", false).is_none());
        assert!(told(b"+PONG\r\n", false).is_none());
        assert!(told(b"-NOAUTH Authentication required.\r\n", false).is_none());
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let told = told(b"-ERR max number of clients reached\r\n", false).unwrap();
        assert!(told.contains("max number of clients reached"), "{told}");
    }

    #[test]
    fn plain_text_on_an_encrypted_connection_is_told() {
        for said in [&b"+PONG\r\n"[..], b"-NOAUTH Authentication required.\r\n"] {
            assert!(told(said, true).unwrap().contains("no TLS"));
        }
    }

    #[test]
    fn tls_on_a_plain_connection_is_told() {
        let alert = [0x15, 3, 3, 0, 2, 2, 70];
        assert!(told(&alert, false).unwrap().contains("speaks TLS"));
        assert!(told(&alert, true).is_none());
    }

    #[test]
    fn what_is_no_redis_is_told_in_print_and_in_short() {
        let http = told(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n", false).unwrap();
        assert_eq!(http, "not a Redis server: it answered \"HTTP/1.1 400 Bad Request\"");
        let noise: Vec<u8> = [0, 27, 255, b'x'].into_iter().cycle().take(300).collect();
        let noise = told(&noise, false).unwrap();
        assert!(noise.chars().count() < 120 && !noise.contains('\u{1b}'), "{noise}");
    }
}
