//! A lock on five independent nodes: three of them decide, so that two may be away.
//!
//! ```text
//! cargo run --example quorum
//! ./scripts/with-redis 5 cargo run --example quorum
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

mod shared;

use std::{error::Error, time::Duration};

use redlatch::{LockManager, Node, NodeError, Result};
use shared::{Log, manager, nodes};

#[tokio::main]
async fn main() -> Result<()> {
    let mut nodes = nodes(5)?;
    let log = Log::start("One lock, a quorum of nodes", &nodes);
    let key = format!("quorum:{}", std::process::id());

    log.say("manager", "with all nodes:");
    lock(manager(nodes.clone())?, &key, log).await?;

    // As if a minority had died: nobody listens where they were.
    let minority = (nodes.len() - 1) / 2;
    if minority == 0 {
        log.say("manager", "so few nodes bear no loss");
        return Ok(());
    }
    for (node, port) in nodes.iter_mut().zip(1..).take(minority) {
        *node = Node::open(format!("redis://127.0.0.1:{port}"))?;
    }
    log.say("manager", format!("with {minority} of {} nodes away:", nodes.len()));
    lock(manager(nodes)?, &key, log).await
}

/// Takes the lock, looks at it as anybody else would, and releases it.
async fn lock(manager: LockManager, key: &str, log: Log) -> Result<()> {
    for node in manager.ping().await {
        match node.round_trip() {
            Ok(time) => log.say("ping", format!("{:<16} answers in {time:.0?}", node.name())),
            Err(error) => log.say("ping", format!("{:<16} {}", node.name(), why(error))),
        }
    }
    let guard = manager.lock(key).ttl(Duration::from_secs(10)).acquire().await?;
    let (token, left) = (guard.fencing_token(), guard.remaining());
    log.say("holder", format!("acquired, fencing token {token}, valid for {left:.2?}"));

    let status = manager.inspect(key).await?;
    for vote in status.votes() {
        let says = match (vote.owner_token(), vote.expires_in(), vote.error()) {
            (Some(owner), Some(left), _) => format!("held by {owner} for {left:.2?}"),
            (_, _, Some(error)) => why(error),
            _ => "not held".to_owned(),
        };
        log.say("inspect", format!("{:<16} {says}", vote.node()));
    }
    log.say("inspect", format!("the majority: held by anybody: {}", status.is_held()));

    guard.release().await?;
    let is_held = manager.inspect(key).await?.is_held();
    log.say("holder", format!("released; held by anybody: {is_held}\n"));
    manager.close().await;
    Ok(())
}

/// The server's or the system's words; the error itself only names the node.
fn why(error: &NodeError) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
