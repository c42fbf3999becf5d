//! The servers to lock on.

use redlatch::LockManager;

use crate::{args::Options, failure::Failure};

/// A manager over one server, or over a quorum of several. It connects to nothing yet.
pub(crate) fn manager(options: &Options) -> Result<LockManager, Failure> {
    let urls: Vec<&str> =
        options.nodes.iter().map(|url| url.trim()).filter(|url| !url.is_empty()).collect();
    let builder = match urls.as_slice() {
        [] => return Err(Failure::Usage(nowhere())),
        [url] => LockManager::single(*url),
        urls => LockManager::quorum(urls.iter().copied()),
    };
    let builder = builder.key_prefix(&options.key_prefix).node_timeout(options.node_timeout());
    let builder = match options.outage_patience {
        Some(patience) => builder.outage_patience(patience),
        None => builder,
    };
    Ok(match options.restart_quarantine {
        // The TTL of a manager must not be longer, though every `run` has its own.
        Some(longest) => builder.restart_quarantine(longest).ttl(longest).build()?,
        None => builder.build()?,
    })
}

/// That no server is named, and what to do.
fn nowhere() -> String {
    let mut text = "no Redis server is named: set REDLATCH_NODES, or --nodes, to something like redis://127.0.0.1:6379".to_owned();
    if std::env::var_os("REDLATCH_KEY").is_some() {
        text.push_str(" (`redlatch run` hands REDLATCH_NODES on with --pass-nodes only)");
    }
    text
}
