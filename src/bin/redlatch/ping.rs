//! `redlatch ping`: a sign of life from every server.

use std::{
    error::Error,
    fmt::{self, Display},
};

use redlatch::{LockManager, NodeHealth};
use serde::Serialize;

use crate::{args::Options, exit, output, text::chain};

/// Asks, and returns the exit code.
pub(crate) async fn ping(manager: &LockManager, options: &Options) -> u8 {
    let nodes: Vec<Health> = manager.ping().await.iter().map(Health::new).collect();
    for node in &nodes {
        output::answer(node, options);
    }
    let alive = nodes.iter().filter(|node| node.error.is_none()).count();
    if alive > nodes.len() / 2 { 0 } else { exit::UNAVAILABLE }
}

#[derive(Debug, Serialize)]
struct Health {
    node: String,
    round_trip_ms: Option<f64>,
    error: Option<String>,
}

impl Health {
    fn new(node: &NodeHealth) -> Self {
        let round_trip = node.round_trip();
        Self {
            node: node.name().to_owned(),
            round_trip_ms: round_trip.ok().map(|time| time.as_secs_f64() * 1_000.0),
            error: round_trip.err().map(|error| error.source().map_or_else(|| chain(error), chain)),
        }
    }
}

impl Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.error, self.round_trip_ms) {
            (Some(error), _) => write!(f, "{}  {error}", self.node),
            (None, time) => write!(f, "{}  {:.1} ms", self.node, time.unwrap_or_default()),
        }
    }
}
