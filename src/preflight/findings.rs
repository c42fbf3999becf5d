//! What the facts about the nodes come to.

use std::cmp::Reverse;

use super::{
    Finding, Severity, among,
    checks::{
        CLOCK_UNCHECKED, CLUSTER_SERVER, EVICTION, FSYNC, FSYNC_UNCHECKED, NO_ANSWER, NOT_MASTER,
        OLD_VERSION, PERSISTENCE, REPLICAS, SAME_SERVER, SERVER_UNCHECKED,
    },
    rights,
    site::{Site, Surveyed, located},
};
use crate::{
    node::{Facts, ServerFacts},
    types::validity::quorum,
};

/// Everything that is wrong, the worst first.
pub(crate) fn judge(site: &Site) -> Vec<Finding> {
    let mut of_nodes: Vec<_> = site.nodes.iter().map(|node| of_node(site, node)).collect();
    let serves = |found: &&Vec<Finding>| found.iter().all(|one| one.severity < Severity::Critical);
    if of_nodes.iter().filter(serves).count() >= quorum(site.nodes.len()) {
        let critical = of_nodes.iter_mut().flatten();
        critical.for_each(|finding| finding.severity = finding.severity.min(Severity::Warning));
    }
    let mut findings: Vec<Finding> = of_nodes.into_iter().flatten().collect();
    // Critical even on a minority: what the server forgets, several votes forget.
    findings.extend(among::same_servers(site));
    findings.extend(among::clocks(site));
    findings.sort_by_key(|finding| Reverse(finding.severity));
    findings
}

fn of_node(site: &Site, node: &Surveyed) -> Vec<Finding> {
    match &node.facts {
        None => Vec::new(),
        Some(Err(words)) => vec![NO_ANSWER.finding(Some(&node.name), words.clone())],
        Some(Ok(facts)) => {
            let servers = facts.servers.iter();
            let mut findings: Vec<_> =
                servers.flat_map(|server| of_server(site, node, server)).collect();
            findings.extend(fsync(node, facts));
            findings.extend(unchecked(site, node, facts));
            findings.extend(rights::judge(site, &node.name, &facts.rights));
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
    if server.mode.as_deref() != Some("cluster") || node.fails_over {
        return None;
    }
    let problem = match server.has_all_slots {
        // There is nothing that the others refuse.
        Some(true) => return None,
        Some(false) => "it is one server of a cluster",
        None => {
            "it is one server of a cluster, and does not tell (CLUSTER NODES) whether it has all slots"
        }
    };
    Some(problem.to_owned())
}

/// All of our keys have expiries, so that `volatile-..` drops them as `allkeys-..` does: `..-lrm` those that were not
/// written to for long, as a lock that is not renewed. Whatever else a server may name, `noeviction` alone drops nothing.
fn eviction(server: &ServerFacts) -> Option<String> {
    let maxmemory = server.maxmemory.filter(|bytes| *bytes > 0)?;
    let policy = server.maxmemory_policy.as_deref()?;
    (policy != "noeviction")
        .then(|| format!("it evicts keys by {policy} when it needs more than {maxmemory} bytes"))
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

const OLDEST: (u32, u32) = (6, 2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Clock, Missing, Rights};
    use crate::preflight::among::OURS;
    use crate::types::fencing::Fencing;

    /// A server with which nothing is wrong.
    fn sound(run_id: &str) -> ServerFacts {
        ServerFacts {
            address: None,
            run_id: Some(run_id.to_owned()),
            redis_version: Some("7.0.15".to_owned()),
            valkey_version: None,
            mode: Some("standalone".to_owned()),
            role: Some("master".to_owned()),
            master: None,
            replicas: Some(0),
            maxmemory: Some(0),
            maxmemory_policy: Some("noeviction".to_owned()),
            aof: Some(true),
            has_all_slots: None,
            clock: Some(OURS),
        }
    }

    fn node(name: &str, servers: Vec<ServerFacts>) -> Surveyed {
        let rights = Rights::Missing(Missing::default());
        let facts = Facts { servers, silence: None, appendfsync: None, rights };
        Surveyed { name: name.to_owned(), fails_over: false, facts: Some(Ok(facts)) }
    }

    fn site(nodes: Vec<Surveyed>) -> Site {
        Site {
            nodes,
            has_quarantine: false,
            key_prefix: String::new(),
            fencing: Fencing::default(),
        }
    }

    fn replica(run_id: &str) -> ServerFacts {
        ServerFacts { role: Some("slave".to_owned()), ..sound(run_id) }
    }

    fn one(change: impl FnOnce(&mut ServerFacts)) -> Vec<Finding> {
        let mut server = sound("1");
        change(&mut server);
        judge(&site(vec![node("a", vec![server])]))
    }

    fn with_clocks(clocks: &[(i64, i64)]) -> Vec<Finding> {
        let server = |(at, &(least, most)): (usize, &(i64, i64))| {
            let clock = Some(Clock { least, most });
            let server = ServerFacts { clock, ..sound(&at.to_string()) };
            node(&format!("node{at}"), vec![server])
        };
        judge(&site(clocks.iter().enumerate().map(server).collect()))
    }

    fn checks(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(Finding::check).collect()
    }

    #[test]
    fn nothing_is_wrong_with_sound_nodes() {
        let nodes = ["1", "2", "3"].map(|id| node(id, vec![sound(id)]));
        assert!(judge(&site(nodes.into())).is_empty());
    }

    #[test]
    fn versions_before_6_2_are_old() {
        for (version, is_old) in [
            ("2.8.24", true),
            ("6.0.16", true),
            ("6.2.0", false),
            ("10.0", false),
            ("255.255.255", false),
        ] {
            let found = one(|server| server.redis_version = Some(version.to_owned()));
            assert_eq!(checks(&found) == ["old-version"], is_old, "{version}");
        }
    }

    #[test]
    fn no_valkey_is_old() {
        let found = one(|server| {
            server.redis_version = Some("1.0.0".to_owned());
            server.valkey_version = Some("8.0.1".to_owned());
        });
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_clock_within_a_second_and_the_round_trip_is_well() {
        assert!(with_clocks(&[(-900_000, -890_000)]).is_empty());
        assert!(with_clocks(&[(900_000, 5_000_000)]).is_empty());
        assert!(with_clocks(&[(0, 600_000), (-600_000, 0)]).is_empty());
    }

    #[test]
    fn a_clock_apart_from_ours_is_found() {
        let found = with_clocks(&[(0, 1_000), (2_500_000, 2_600_000), (-3_100_000, -3_000_001)]);
        assert_eq!(checks(&found), ["clock"; 2]);
        assert_eq!(found[0].node(), Some("node1"));
        assert_eq!(found[0].problem(), "its clock is 2.5 s ahead of this machine's");
        assert_eq!(found[1].problem(), "its clock is 3.0 s behind this machine's");
    }

    #[test]
    fn clocks_apart_from_one_another_are_found() {
        let found = with_clocks(&[(-700_000, -600_000), (0, 1_000), (800_000, 900_000)]);
        assert_eq!(checks(&found), ["clock"]);
        assert_eq!(found[0].node(), Some("node2"));
        assert_eq!(found[0].problem(), "its clock is 1.4 s ahead of that of node0");
    }

    #[test]
    fn what_a_server_hides_is_listed() {
        let found = one(|server| (server.maxmemory_policy, server.clock) = (None, None));
        assert_eq!(checks(&found), ["server-unchecked", "clock-unchecked"]);
        assert!(found[0].problem().ends_with("not checked: eviction"), "{}", found[0]);
    }

    #[test]
    fn every_policy_but_noeviction_drops_locks() {
        for policy in ["volatile-lrm", "allkeys-lrm", "volatile-lru", "eviction", "noeviction"] {
            let is_found = policy != "noeviction";
            let found = one(|server| {
                server.maxmemory = Some(1_000_000);
                server.maxmemory_policy = Some(policy.to_owned());
            });
            assert_eq!(checks(&found) == ["eviction"], is_found, "{policy}: {found:?}");
        }
    }

    #[test]
    fn a_server_that_has_all_slots_of_its_cluster_is_well() {
        for (has_all_slots, is_found) in [(Some(true), false), (Some(false), true), (None, true)] {
            let found = one(|server| {
                server.mode = Some("cluster".to_owned());
                server.has_all_slots = has_all_slots;
            });
            assert_eq!(checks(&found) == ["cluster-server"], is_found, "{found:?}");
        }
    }

    #[test]
    fn what_is_critical_is_a_warning_while_the_other_nodes_are_a_majority() {
        let silent = || Surveyed { facts: Some(Err("silence".to_owned())), ..node("s", vec![]) };
        let spoilt = |nodes: Vec<Surveyed>| judge(&site(nodes))[0].severity();
        let (well, a_replica) = (|id| node(id, vec![sound(id)]), || node("r", vec![replica("0")]));
        assert_eq!(spoilt(vec![a_replica(), well("1"), well("2")]), Severity::Warning);
        assert_eq!(spoilt(vec![a_replica(), well("1")]), Severity::Critical);
        assert_eq!(spoilt(vec![a_replica(), silent(), well("1")]), Severity::Critical);
        assert_eq!(spoilt(vec![a_replica()]), Severity::Critical);
        assert_eq!(spoilt(vec![well("1"), well("1"), well("2")]), Severity::Critical);
    }

    #[test]
    fn a_server_that_is_too_old_to_tell_rights_is_noted_and_no_finding() {
        let mut old = node("a", vec![sound("1")]);
        if let Some(Ok(facts)) = &mut old.facts {
            facts.rights = Rights::TooOld;
        }
        let site = site(vec![old, node("b", vec![sound("2")])]);
        assert!(judge(&site).is_empty());
        assert_eq!(
            rights::notes(&site),
            ["a: rights are not told: the server is older than Redis 7"]
        );
    }

    #[test]
    fn a_server_of_a_cluster_goes_by_its_address() {
        let at = |address: &str| ServerFacts {
            address: Some(address.to_owned()),
            mode: Some("cluster".to_owned()),
            replicas: Some(1),
            ..sound(address)
        };
        let cluster = Surveyed { fails_over: true, ..node("cluster", vec![at("h:1"), at("h:2")]) };
        let found = judge(&site(vec![cluster]));
        assert_eq!(checks(&found), ["replicas"; 2]);
        assert!(found.iter().all(|finding| finding.severity() == Severity::Advice));
        assert_eq!(found[1].problem(), "h:2: replicas attached: 1");
    }

    #[test]
    fn nodes_with_a_server_in_common_are_found() {
        let nodes = vec![
            node("cluster", vec![sound("1"), sound("2")]),
            node("other", vec![sound("3")]),
            node("part", vec![sound("2")]),
        ];
        let found = judge(&site(nodes));
        assert_eq!(checks(&found), ["same-server"]);
        assert_eq!(found[0].node(), Some("part"));
        assert_eq!(found[0].problem(), "it is the same server as cluster (run id 2)");
    }

    #[test]
    fn the_worst_comes_first() {
        let mut forgetful = sound("2");
        forgetful.aof = Some(false);
        let rights = Rights::Unknown("too old".to_owned());
        let mut untold = node("c", vec![sound("3")]);
        if let Some(Ok(facts)) = &mut untold.facts {
            facts.rights = rights;
        }
        let found = judge(&site(vec![
            untold,
            node("a", vec![forgetful]),
            node("b", vec![replica("1")]),
            node("d", vec![replica("4")]),
        ]));
        let expected = ["not-master", "not-master", "persistence", "rights-unchecked"];
        assert_eq!(checks(&found), expected);
    }
}
