//! What the facts about the nodes come to.

use std::cmp::Reverse;

use crate::{
    checks::{
        CLOCK, CLOCK_UNCHECKED, CLUSTER_SERVER, EVICTION, FSYNC, FSYNC_UNCHECKED, NO_ANSWER,
        NOT_MASTER, OLD_VERSION, PERSISTENCE, REPLICAS, SAME_SERVER, SERVER_UNCHECKED,
    },
    node::{Clock, Facts, ServerFacts},
    preflight::{Finding, Severity},
    rights,
    validity::quorum,
};

/// The nodes of a manager, and what of its settings matters to them.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) nodes: Vec<Surveyed>,
    /// Whether a node that has restarted does not vote at first.
    pub(crate) has_quarantine: bool,
    pub(crate) key_prefix: String,
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

/// Everything that is wrong, the worst first.
pub(crate) fn judge(site: &Site) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        site.nodes.iter().flat_map(|node| of_node(site, node)).collect();
    findings.extend(same_servers(site));
    findings.extend(clocks(site));
    findings.sort_by_key(|finding| Reverse(finding.severity));
    findings
}

fn of_node(site: &Site, node: &Surveyed) -> Vec<Finding> {
    match &node.facts {
        None => Vec::new(),
        Some(Err(words)) => {
            let finding = NO_ANSWER.finding(Some(&node.name), words.clone());
            let serves = |node: &&Surveyed| !matches!(node.facts, Some(Err(_)));
            let serving = site.nodes.iter().filter(serves).count();
            let is_majority = serving >= quorum(site.nodes.len());
            let severity = if is_majority { Severity::Warning } else { Severity::Critical };
            vec![finding.of_severity(severity)]
        }
        Some(Ok(facts)) => {
            let servers = facts.servers.iter();
            let mut findings: Vec<_> =
                servers.flat_map(|server| of_server(site, node, server)).collect();
            findings.extend(fsync(node, facts));
            findings.extend(unchecked(site, node, facts));
            findings.extend(rights::judge(&site.key_prefix, &node.name, &facts.rights));
            findings
        }
    }
}

fn of_server(site: &Site, node: &Surveyed, server: &ServerFacts) -> Vec<Finding> {
    let checks = [
        not_master(server).map(|problem| NOT_MASTER.finding(None, problem)),
        old_version(server).map(|problem| OLD_VERSION.finding(None, problem)),
        cluster_server(node, server).map(|problem| CLUSTER_SERVER.finding(None, problem)),
        eviction(server).map(|problem| EVICTION.finding(None, problem)),
        persistence(site, server),
        replicas(node, server),
    ];
    let found = checks.into_iter().flatten();
    found.map(|finding| located(finding, node, server)).collect()
}

/// Names the node, and where it has many servers the server.
fn located(finding: Finding, node: &Surveyed, server: &ServerFacts) -> Finding {
    let problem = match &server.address {
        Some(address) => format!("{address}: {}", finding.problem),
        None => finding.problem,
    };
    Finding { node: Some(node.name.clone()), problem, ..finding }
}

fn not_master(server: &ServerFacts) -> Option<String> {
    if server.mode.as_deref() == Some("sentinel") {
        return Some("it is a Sentinel, which keeps no keys".to_owned());
    }
    let role = server.role.as_deref().filter(|role| *role != "master")?;
    Some(match (&server.master, role) {
        (Some(master), "slave") => format!("it is a replica of {master}"),
        (None, "slave") => "it is a replica".to_owned(),
        _ => format!("its role is {role}"),
    })
}

fn old_version(server: &ServerFacts) -> Option<String> {
    // Valkey began at 7.2, and gives the version of Redis that it stands in for.
    let version = server.redis_version.as_deref().filter(|_| server.valkey_version.is_none())?;
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let (major, minor) = (numbers.next()?, numbers.next().unwrap_or(0));
    ((major, minor) < OLDEST).then(|| format!("it is Redis {version}"))
}

fn cluster_server(node: &Surveyed, server: &ServerFacts) -> Option<String> {
    let is_of_cluster = server.mode.as_deref() == Some("cluster");
    (is_of_cluster && !node.fails_over).then(|| "it is one server of a cluster".to_owned())
}

/// All of our keys have expiries, so that `volatile-..` drops them as `allkeys-..` does.
fn eviction(server: &ServerFacts) -> Option<String> {
    let maxmemory = server.maxmemory.filter(|bytes| *bytes > 0)?;
    let policy = server.maxmemory_policy.as_deref()?;
    let evicts = policy.starts_with("allkeys-") || policy.starts_with("volatile-");
    evicts.then(|| format!("it evicts keys by {policy} when it needs more than {maxmemory} bytes"))
}

fn persistence(site: &Site, server: &ServerFacts) -> Option<Finding> {
    if site.has_quarantine || server.aof != Some(false) {
        return None;
    }
    let finding = PERSISTENCE.finding(None, "it writes no append-only file".to_owned());
    let severity = if site.nodes.len() > 1 { Severity::Warning } else { Severity::Advice };
    let finding = finding.of_severity(severity);
    let by_hand = "set appendonly to yes and appendfsync to always";
    Some(if server.address.is_some() { finding.advising(by_hand.to_owned()) } else { finding })
}

fn replicas(node: &Surveyed, server: &ServerFacts) -> Option<Finding> {
    let count = server.replicas.filter(|count| *count > 0)?;
    if server.role.as_deref() != Some("master") {
        return None;
    }
    let finding = REPLICAS.finding(None, format!("replicas attached: {count}"));
    let severity = if node.fails_over { Severity::Advice } else { Severity::Warning };
    Some(finding.of_severity(severity))
}

fn fsync(node: &Surveyed, facts: &Facts) -> Option<Finding> {
    if !facts.servers.iter().any(|server| server.aof == Some(true)) {
        return None;
    }
    match facts.appendfsync.as_ref()? {
        Ok(when) if when == "always" => None,
        Ok(when) => Some(FSYNC.finding(Some(&node.name), format!("its appendfsync is {when}"))),
        Err(words) => {
            Some(FSYNC_UNCHECKED.finding(Some(&node.name), format!("appendfsync: {words}")))
        }
    }
}

/// What the node does not tell about itself.
fn unchecked(site: &Site, node: &Surveyed, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut missing: Vec<&str> =
        facts.servers.iter().flat_map(|server| silent_on(site, server)).collect();
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        let why = facts.silence.as_deref().unwrap_or("it does not tell all of it");
        let problem = format!("INFO: {why}; not checked: {}", missing.join(", "));
        findings.push(SERVER_UNCHECKED.finding(Some(&node.name), problem));
    }
    if facts.servers.iter().any(|server| server.clock.is_none()) {
        let problem = "it does not tell the time".to_owned();
        findings.push(CLOCK_UNCHECKED.finding(Some(&node.name), problem));
    }
    findings
}

/// The checks that lack a fact.
fn silent_on(site: &Site, server: &ServerFacts) -> Vec<&'static str> {
    if server.mode.as_deref() == Some("sentinel") {
        return Vec::new();
    }
    let has_memory = server.maxmemory.is_some() && server.maxmemory_policy.is_some();
    let checks = [
        (site.nodes.len() > 1 && server.run_id.is_none(), SAME_SERVER.code),
        (server.role.is_none(), NOT_MASTER.code),
        (server.redis_version.is_none() && server.valkey_version.is_none(), OLD_VERSION.code),
        (!has_memory, EVICTION.code),
        (!site.has_quarantine && server.aof.is_none(), PERSISTENCE.code),
        (server.replicas.is_none(), REPLICAS.code),
    ];
    checks.into_iter().filter_map(|(is_missing, code)| is_missing.then_some(code)).collect()
}

/// Nodes that have a server in common.
fn same_servers(site: &Site) -> Vec<Finding> {
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
fn clocks(site: &Site) -> Vec<Finding> {
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

impl Surveyed {
    fn servers(&self) -> impl Iterator<Item = &ServerFacts> {
        let facts = self.facts.as_ref().and_then(|facts| facts.as_ref().ok());
        facts.into_iter().flat_map(|facts| &facts.servers)
    }
}

const OLDEST: (u32, u32) = (6, 2);
const OURS: Clock = Clock { least: 0, most: 0 };
const MOST_APART_MICROS: i64 = 1_000_000;
