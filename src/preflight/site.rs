//! What a survey of the nodes has found, before it is judged.

use super::Finding;
use crate::{
    node::{Facts, ServerFacts},
    types::fencing::Fencing,
};

/// The nodes of a manager, and what of its settings matters to them.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) nodes: Vec<Surveyed>,
    /// Whether a node that has restarted does not vote at first.
    pub(crate) has_quarantine: bool,
    pub(crate) key_prefix: String,
    /// Whether locks have counters, to which the user needs rights.
    pub(crate) fencing: Fencing,
}

/// A node that was asked about itself.
#[derive(Debug)]
pub(crate) struct Surveyed {
    pub(crate) name: String,
    /// It is a cluster, or under Sentinel.
    pub(crate) fails_over: bool,
    /// `None` for a node in memory; the words of the failure for one that does not serve.
    pub(crate) facts: Option<Result<Facts, String>>,
}

impl Surveyed {
    pub(super) fn servers(&self) -> impl Iterator<Item = &ServerFacts> {
        let facts = self.facts.as_ref().and_then(|facts| facts.as_ref().ok());
        facts.into_iter().flat_map(|facts| &facts.servers)
    }
}

/// Names the node, and where it has many servers the server.
pub(super) fn located(finding: Finding, node: &Surveyed, server: &ServerFacts) -> Finding {
    let problem = match &server.address {
        Some(address) => format!("{address}: {}", finding.problem),
        None => finding.problem,
    };
    Finding { node: Some(node.name.clone()), problem, ..finding }
}
