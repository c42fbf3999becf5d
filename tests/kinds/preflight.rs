//! What preflight finds on a cluster and under Sentinel.

use redlatch::{Finding, LockManager, LockManagerBuilder, Node, Preflight, Severity};

use crate::cluster_of::{Cluster, pool};
use crate::sentinels::Sentinels;
use crate::support::{Server, secs, within};

#[tokio::test]
async fn each_master_of_a_cluster_is_looked_at() {
    let cluster = Cluster::of(3);
    let preflight = asked(cluster.builder()).await;
    assert_eq!(checks(&preflight), ["persistence"; 3], "{preflight}");
    for server in &cluster.servers {
        server.command(&["CONFIG", "SET", "appendonly", "yes"]);
        let address = server.name();
        let named = |finding: &Finding| finding.problem().starts_with(&address);
        assert!(preflight.findings().iter().any(named), "{address} in {preflight}");
    }
    let preflight = asked(cluster.builder()).await;
    assert!(preflight.findings().is_empty(), "{preflight}");
    cluster.servers[1].command(&["CONFIG", "SET", "maxmemory", "100mb"]);
    cluster.servers[1].command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let preflight = asked(cluster.builder()).await;
    assert_eq!(checks(&preflight), ["eviction"], "{preflight}");
    assert_eq!(preflight.findings()[0].node(), Some(&*cluster.addresses()));
}

#[tokio::test]
async fn a_cluster_and_one_of_its_servers_are_one_server() {
    let cluster = Cluster::of(3);
    let nodes = [Node::from(cluster.pool()), Node::open(cluster.servers[2].url()).unwrap()];
    let preflight = asked(LockManager::quorum(nodes)).await;
    assert_eq!(checks(&preflight)[0], "same-server", "{preflight}");
}

#[tokio::test]
async fn a_user_of_a_cluster_hears_what_is_missing() {
    let cluster = Cluster::of(3);
    if cluster.servers[0].lacks("redis.acl_check_cmd", (7, 0)) {
        return;
    }
    let rules = "~app:* ~{app:*}:fence resetchannels &app:*:released &{app:*}:released -@all +eval +evalsha \
                 +ping +get +set +pttl +pexpire +publish +cluster|slots";
    let rules: Vec<&str> = rules.split_whitespace().collect();
    let urls = cluster.servers.iter().map(|server| server.user("locks", "secret", &rules));
    let builder = LockManager::single(pool(urls.collect())).key_prefix("app:");
    let preflight = asked(builder).await;
    let expected = ["rights", "server-unchecked", "clock-unchecked"];
    assert_eq!(checks(&preflight), expected, "{preflight}");
    assert!(preflight.findings()[0].problem().ends_with("run DEL"), "{preflight}");
}

#[tokio::test]
async fn replicas_under_sentinel_are_pointed_out() {
    let site = Sentinels::start();
    let preflight = asked(site.builder().ttl(secs(60)).restart_quarantine(secs(60))).await;
    assert_eq!(checks(&preflight), ["replicas"], "{preflight}");
    assert_eq!(preflight.worst(), Some(Severity::Advice));
    let master: &Server = &site.servers[0];
    let nodes = [Node::from(site.pool()), Node::open(master.url()).unwrap()];
    let preflight = asked(LockManager::quorum(nodes)).await;
    assert_eq!(checks(&preflight)[0], "same-server", "{preflight}");
}

async fn asked(builder: LockManagerBuilder) -> Preflight {
    within(builder.node_timeout(secs(10)).build().unwrap().preflight()).await
}

fn checks(preflight: &Preflight) -> Vec<&str> {
    preflight.findings().iter().map(Finding::check).collect()
}
