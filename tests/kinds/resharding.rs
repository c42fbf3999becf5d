//! A slot that moves while only a part of a lock has moved with it.

use crate::cluster_of::Cluster;
use crate::support::{Server, eventually, secs, within};

#[tokio::test]
async fn a_lock_whose_parts_are_apart_is_extended_once_they_are_together() {
    let cluster = Cluster::of(3);
    let manager = cluster.manager();
    let guard = within(manager.lock("k").ttl(secs(60)).acquire()).await.unwrap();
    let moving = cluster.begin_move("k");
    let from = cluster.server_of("k");
    // Neither server has both, so that each sends away who asks for both.
    moving.carry_one("{k}:fence");
    let refusals = refusals(&cluster.servers);
    let extending = async {
        guard.extend(secs(600)).await.unwrap();
    };
    let joining = async {
        eventually("it is sent away", async || self::refusals(&cluster.servers) > refusals).await;
        moving.carry();
    };
    within(async { tokio::join!(extending, joining) }).await;
    moving.end();
    assert_ne!(from.port(), moving.to().port());
    assert!(moving.to().pttl("k").unwrap() > secs(60));
    within(guard.release()).await.unwrap();
    assert_eq!(moving.to().get("k"), None);
}

/// How often these servers have said `TRYAGAIN`.
fn refusals(servers: &[Server]) -> u64 {
    let said = |server: &Server| {
        let stats: String = server.query(&["INFO", "errorstats"]);
        let count = stats.lines().find_map(|line| line.strip_prefix("errorstat_TRYAGAIN:count="));
        count.map_or(0, |count| count.trim().parse::<u64>().expect("a count is a number"))
    };
    servers.iter().map(said).sum()
}
