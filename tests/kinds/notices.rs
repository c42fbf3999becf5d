//! Releases that are heard on a cluster and behind Sentinel.

use redlatch::{LockManager, LockManagerBuilder, Retry};
use std::time::{Duration, Instant};

use crate::cluster_of::Cluster;
use crate::sentinels::{Sentinels, role};
use crate::support::{Server, eventually, millis, secs, within};

#[tokio::test]
async fn a_waiter_on_a_cluster_is_woken_by_a_release() {
    let cluster = Cluster::with_replicas(3);
    let (mine, theirs) = (cluster.manager(), cluster.manager());
    let mut times = Vec::new();
    for _ in 0..50 {
        times.push(handed_on(&mine, &theirs, &cluster.servers).await);
    }
    times.sort();
    println!("from release to acquire on a cluster: p50 {:?}, p98 {:?}", times[25], times[48]);
}

#[tokio::test]
async fn a_listener_on_a_cluster_survives_the_server_it_listens_at() {
    let cluster = Cluster::with_replicas(3);
    let (mine, theirs) = (cluster.manager(), cluster.manager());
    handed_on(&mine, &theirs, &cluster.servers).await;
    let heard_at = cluster.servers.iter().find(|server| is_listened_to(server)).unwrap();
    heard_at.kill();
    eventually("the cluster goes on", async || within(mine.lock("k").try_acquire()).await.is_ok())
        .await;
    handed_on(&mine, &theirs, &cluster.servers).await;
}

#[tokio::test]
async fn a_waiter_behind_sentinel_is_woken_before_and_after_a_failover() {
    let site = Sentinels::start();
    let manager = |builder: LockManagerBuilder| builder.outage_patience(secs(30)).build().unwrap();
    let (mine, theirs) = (manager(site.builder()), manager(site.builder()));
    handed_on(&mine, &theirs, &site.servers[..1]).await;
    site.servers[0].kill();
    site.wait_for_master(&site.servers[1]);
    handed_on(&mine, &theirs, &site.servers[1..]).await;
    assert_eq!(role(&site.servers[1]), "master");
}

/// The time from the release by one manager to the acquire by another. Only a notice can wake the waiter: each look
/// counts, and the delay is longer than anything lasts.
async fn handed_on(mine: &LockManager, theirs: &LockManager, servers: &[Server]) -> Duration {
    let guard = within(mine.lock("k").ttl(secs(600)).acquire()).await.unwrap();
    let retry = Retry::jittered(secs(500), millis(0)).max_retries(50);
    let looks = looks(servers);
    let waiter = tokio::spawn(theirs.lock("k").retry(retry).acquire());
    eventually("the waiter has looked, and listens", async || {
        self::looks(servers) > looks && servers.iter().any(is_listened_to)
    })
    .await;
    let released = Instant::now();
    within(guard.release()).await.unwrap();
    let next = within(waiter).await.unwrap().unwrap();
    let took = released.elapsed();
    within(next.release()).await.unwrap();
    took
}

fn is_listened_to(server: &Server) -> bool {
    let channels = server.try_query::<Vec<String>>(&["PUBSUB", "CHANNELS", "{k}:released"]);
    channels.is_ok_and(|channels| !channels.is_empty())
}

/// The scripts that were run on these servers, as far as they answer.
fn looks(servers: &[Server]) -> usize {
    let calls = |server: &Server| {
        let stats = server.try_query::<String>(&["INFO", "commandstats"]).unwrap_or_default();
        let is_script = |line: &&str| line.starts_with("cmdstat_eval");
        let count = |line: &str| line.split(['=', ',']).nth(1)?.parse::<usize>().ok();
        stats.lines().filter(is_script).filter_map(count).sum::<usize>()
    };
    servers.iter().map(calls).sum()
}
