//! The TCP settings of every connection that is opened here.

use std::time::Duration;

#[cfg(feature = "deadpool")]
use redis::ConnectionInfo;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};

/// `TCP_NODELAY` is on: a lock's commands are small and their latency is all. A peer that is gone without a word is
/// found within a minute, also by a connection on which nothing is sent.
pub(in crate::node) fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(FIRST_PROBE);
    #[cfg(unix)]
    let keepalive = keepalive.with_interval(BETWEEN_PROBES).with_retries(PROBES);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(LONGEST_UNACKNOWLEDGED);
    settings
}

/// Adds what a caller's own settings leave out.
#[cfg(feature = "deadpool")]
pub(super) fn completed(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.tcp_settings().clone();
    let settings = match settings.keepalive() {
        Some(_) => settings.set_nodelay(true),
        None => tcp_settings(),
    };
    info.set_tcp_settings(settings)
}

/// How long a connection is idle before its peer is asked for a sign, how often it is then, and how many times
/// in vain before the connection is dead.
const FIRST_PROBE: Duration = Duration::from_secs(30);
#[cfg(unix)]
const BETWEEN_PROBES: Duration = Duration::from_secs(10);
#[cfg(unix)]
const PROBES: u32 = 3;
/// How long what was sent may go without a sign that it has arrived.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const LONGEST_UNACKNOWLEDGED: Duration = Duration::from_secs(30);
