//! What the examples share: the nodes to lock on, and a log with the time since the start.

use std::{env, fmt::Display};

use redlatch::{LockManager, Node, Result};
use tokio::time::Instant;

/// The servers that `REDLATCH_NODES` names, separated by commas, or else this many nodes in memory.
pub(crate) fn nodes(in_memory: usize) -> Result<Vec<Node>> {
    match env::var("REDLATCH_NODES") {
        Ok(urls) if !urls.is_empty() => urls.split(',').map(|url| Node::open(url.trim())).collect(),
        _ => Ok((0..in_memory).map(|_| Node::in_memory()).collect()),
    }
}

/// A manager over one node, or over a quorum of several.
pub(crate) fn manager(mut nodes: Vec<Node>) -> Result<LockManager> {
    match nodes.len() {
        1 => LockManager::single(nodes.remove(0)).build(),
        _ => LockManager::quorum(nodes).build(),
    }
}

/// Says who did what, and how long after the start.
#[derive(Clone, Copy)]
pub(crate) struct Log {
    start: Instant,
}

impl Log {
    pub(crate) fn start(title: &str, nodes: &[Node]) -> Self {
        let names: Vec<_> = nodes.iter().map(Node::name).collect();
        println!("{title}\non {}\n", names.join(", "));
        Self { start: Instant::now() }
    }

    pub(crate) fn say(&self, who: &str, what: impl Display) {
        println!("{:>5} ms  {who:<10} {what}", self.start.elapsed().as_millis());
    }
}
