//! What is wrong among several nodes: servers in common, clocks apart.

use super::{
    Finding,
    checks::{CLOCK, SAME_SERVER},
    site::{Site, Surveyed, located},
};
use crate::node::{Clock, ServerFacts};

/// Nodes that have a server in common.
pub(super) fn same_servers(site: &Site) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (position, node) in site.nodes.iter().enumerate() {
        let earlier = site.nodes[..position].iter();
        if let Some((other, run_id)) = earlier.filter_map(|other| common_server(other, node)).next()
        {
            let problem = format!("it is the same server as {other} (run id {run_id})");
            findings.push(SAME_SERVER.finding(Some(&node.name), problem));
        }
    }
    findings
}

fn common_server<'a>(one: &'a Surveyed, other: &'a Surveyed) -> Option<(&'a str, &'a str)> {
    let mut run_ids = other.servers().filter_map(|server| server.run_id.as_deref());
    let is_of_one = |id: &&str| one.servers().any(|server| server.run_id.as_deref() == Some(*id));
    run_ids.find(is_of_one).map(|id| (&*one.name, id))
}

/// Clocks that are apart from ours, or where none is, two nodes' from one another.
pub(super) fn clocks(site: &Site) -> Vec<Finding> {
    let known: Vec<(&Surveyed, &ServerFacts, Clock)> = site
        .nodes
        .iter()
        .flat_map(|node| node.servers().map(move |server| (node, server)))
        .filter_map(|(node, server)| Some((node, server, server.clock?)))
        .collect();
    let from_ours = known.iter().filter_map(|(node, server, clock)| {
        let problem = apart(*clock, OURS)?;
        let problem = format!("its clock is {problem} this machine's");
        Some(located(CLOCK.finding(None, problem), node, server))
    });
    let findings: Vec<Finding> = from_ours.collect();
    if !findings.is_empty() {
        return findings;
    }
    let first = known.iter().max_by_key(|(.., clock)| clock.least);
    let last = known.iter().min_by_key(|(.., clock)| clock.most);
    let pair = first.zip(last).and_then(|(first, last)| {
        let problem = format!("its clock is {} that of {}", apart(first.2, last.2)?, last.0.name);
        Some(located(CLOCK.finding(None, problem), first.0, first.1))
    });
    pair.into_iter().collect()
}

/// How far one clock is from another, if that is certainly too much.
fn apart(one: Clock, other: Clock) -> Option<String> {
    let (ahead, behind) = (one.ahead_of(other), other.ahead_of(one));
    let (by, word) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
    (by > MOST_APART_MICROS)
        .then(|| format!("{}.{} s {word}", by / 1_000_000, by % 1_000_000 / 100_000))
}

pub(super) const OURS: Clock = Clock { least: 0, most: 0 };
const MOST_APART_MICROS: i64 = 1_000_000;
