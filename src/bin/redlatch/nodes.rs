//! The servers to lock on.

use redlatch::LockManager;

use crate::{args::Options, failure::Failure};

/// A manager over one server, or over a quorum of several. It connects to nothing yet.
pub(crate) fn manager(options: &Options) -> Result<LockManager, Failure> {
    let urls: Vec<&str> =
        options.nodes.iter().map(|url| url.trim()).filter(|url| !url.is_empty()).collect();
    let builder = match urls.as_slice() {
        [] => return Err(Failure::Usage(NOWHERE.to_owned())),
        [url] => LockManager::single(*url),
        urls => LockManager::quorum(urls.iter().copied()),
    };
    let builder = builder.key_prefix(&options.key_prefix).node_timeout(options.node_timeout());
    Ok(match options.restart_quarantine {
        // The TTL of a manager must not be longer, though every `run` has its own.
        Some(longest) => builder.restart_quarantine(longest).ttl(longest).build()?,
        None => builder.build()?,
    })
}

const NOWHERE: &str = "no Redis server is named: set REDLATCH_NODES, or --nodes, to something like redis://127.0.0.1:6379";
