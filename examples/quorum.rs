//! A lock on five independent nodes: three of them decide, so that two may be away.
//!
//! ```text
//! cargo run --example quorum
//! ./scripts/with-redis 5 cargo run --example quorum
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

mod shared;

use std::time::Duration;

use redlatch::{LockManager, Node, Result};
use shared::{Log, manager, nodes};

#[tokio::main]
async fn main() -> Result<()> {
    let nodes = nodes(5)?;
    let log = Log::start("One lock, a quorum of nodes", &nodes);
    let key = format!("quorum:{}", std::process::id());

    let all = manager(nodes.clone())?;
    ping("all", &all, log).await;
    lock("all", &all, &key, log).await?;

    // The same nodes, but the last two do not answer: as if they had died.
    let lost = nodes.len().div_ceil(2) - 1;
    let mut fewer = nodes;
    for (node, port) in fewer.iter_mut().rev().take(lost).zip(1..) {
        *node = Node::open(format!("redis://127.0.0.1:{port}"))?;
    }
    let fewer = manager(fewer)?;
    ping("minority", &fewer, log).await;
    lock("minority", &fewer, &key, log).await?;

    for manager in [all, fewer] {
        manager.close().await;
    }
    Ok(())
}

/// Asks every node for a sign of life.
async fn ping(title: &str, manager: &LockManager, log: Log) {
    for node in manager.ping().await {
        match node.round_trip() {
            Ok(time) => log.say(title, format!("{} answers in {time:.1?}", node.name())),
            Err(error) => log.say(title, format!("{error}: it is away")),
        }
    }
}

/// Takes the lock, looks at it as anybody else would, and releases it.
async fn lock(title: &str, manager: &LockManager, key: &str, log: Log) -> Result<()> {
    let guard = manager.lock(key).ttl(Duration::from_secs(10)).acquire().await?;
    let (token, left) = (guard.fencing_token(), guard.remaining());
    log.say(title, format!("acquired with fencing token {token}, valid for {left:.3?}"));

    let status = manager.inspect(key).await?;
    log.say(title, format!("a majority says: held by {:?}", status.owner_token()));
    for vote in status.votes() {
        log.say(title, format!("  {vote:?}"));
    }

    guard.release().await?;
    let held = manager.inspect(key).await?.is_held();
    log.say(title, format!("released; held by anybody: {held}\n"));
    Ok(())
}
