//! Nodes that callers make of pools over a cluster and Sentinels.

use redlatch::{LockManager, Node, deadpool_redis::Config};

use crate::cluster_of::Cluster;
use crate::sentinels::Sentinels;
use crate::support::{eventually, secs, within};

#[tokio::test]
async fn a_pool_over_a_cluster_is_a_node() {
    let cluster = Cluster::of(3);
    let manager = LockManager::single(cluster.pool()).node_timeout(secs(10)).build().unwrap();
    for key in cluster.keys() {
        let guard = within(manager.lock(&key).acquire()).await.unwrap();
        assert_eq!(cluster.get(&key).as_deref(), Some(guard.owner_token().as_str()), "{key}");
        within(guard.release()).await.unwrap();
    }
    assert_eq!(cluster.lock_keys(), [""; 0]);
}

#[tokio::test]
async fn a_pool_behind_sentinel_finds_the_new_master() {
    let site = Sentinels::start();
    let manager = LockManager::single(site.pool()).node_timeout(secs(2)).build().unwrap();
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    site.servers[0].kill();
    eventually("the manager follows", async || {
        within(manager.lock("k").try_acquire()).await.is_ok()
    })
    .await;
}

#[test]
fn a_pool_and_a_url_of_one_server_are_one_node() {
    let pool = Config::from_url("redis://h:7000").create_pool(None);
    let nodes = [Node::from(pool.unwrap()), Node::open("redis-cluster://g:7000,h:7000").unwrap()];
    assert!(LockManager::quorum(nodes).build().unwrap_err().is_config());
}
