//! Masters that die while locks on them are held, waited for and renewed.

use std::time::Duration;

use redlatch::{LockGuard, LockManager, LossReason};

use crate::cluster_of::{Cluster, replication, wait};
use crate::crowd::Crowd;
use crate::sentinels::Sentinels;
use crate::support::{BOUND, Events, Server, eventually, millis, secs, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_waiters_outlive_the_master_of_a_cluster() {
    let cluster = Cluster::with_replicas(3);
    let master = cluster.server_of("k");
    let replica = cluster.replica_of(master);
    outlives(master, replica, || cluster.builder()).await;
    let alive = cluster.servers.iter().filter(|server| server.port() != master.port());
    for server in alive {
        eventually("no key is left", async || server.lock_keys().is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_waiters_outlive_the_master_of_sentinels() {
    let site = Sentinels::start();
    let [master, replica] = &site.servers;
    outlives(master, replica, || site.builder()).await;
    eventually("no key is left", async || replica.lock_keys().is_empty()).await;
}

/// Kills the master under a lock that is held and renewed, and for which a hundred wait.
async fn outlives(
    master: &Server,
    replica: &Server,
    builder: impl Fn() -> redlatch::LockManagerBuilder,
) {
    let manager = || {
        builder().node_timeout(NODE_TIMEOUT).outage_patience(BOUND).build().expect("it is valid")
    };
    let events = Events::default();
    let request = manager().lock("k").ttl(secs(600)).auto_renew_every(millis(100));
    let guard = within(request.on_renewal(events.listener()).acquire()).await.unwrap();
    let crowd = Crowd::before("k", manager);
    events.more_renewals(2).await;
    // What the master has not passed on dies with it.
    wait("the lock is replicated", || has(replica, "k") && has(replica, "{k}:fence"));
    master.kill();
    wait("the replica takes over", || replication(replica, "role") == "master");
    events.more_renewals(2).await;
    assert!(guard.is_valid() && events.losses().is_empty(), "{:?}", events.all());
    within(guard.release()).await.unwrap();
    tokio::time::timeout(4 * BOUND, crowd.all_served()).await.expect("all are served");
}

#[tokio::test]
async fn a_lock_that_a_clusters_new_master_has_not_got_is_lost() {
    let cluster = Cluster::with_replicas(3);
    let manager = cluster.builder().node_timeout(NODE_TIMEOUT).build().unwrap();
    let events = Events::default();
    let request = manager.lock("k").ttl(secs(600)).auto_renew_every(millis(100));
    let master = cluster.server_of("k");
    let replica = cluster.replica_of(master);
    let guard = within(request.on_renewal(events.listener()).acquire()).await.unwrap();
    wait("the lock is replicated", || has(replica, "k"));
    master.kill();
    wait("the replica takes over", || replication(replica, "role") == "master");
    // As if the master had died before it could pass it on.
    replica.del("k");
    assert_eq!(within(guard.lost()).await, LossReason::Taken);
    assert!(within(guard.release()).await.unwrap_err().is_not_held());
    let next: LockGuard = within(manager.lock("k").acquire()).await.unwrap();
    within(next.release()).await.unwrap();
}

#[tokio::test]
async fn a_silent_master_of_a_cluster_is_left_for_its_replica() {
    let cluster = Cluster::with_replicas(3);
    let manager = cluster.builder().node_timeout(NODE_TIMEOUT).outage_patience(BOUND).build();
    let manager: LockManager = manager.unwrap();
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    let master = cluster.server_of("k");
    let replica = cluster.replica_of(master);
    master.pause();
    let guard = within(manager.lock("k").acquire()).await.unwrap();
    assert_eq!(replica.get("k").as_deref(), Some(guard.owner_token().as_str()));
    within(guard.release()).await.unwrap();
}

fn has(replica: &Server, key: &str) -> bool {
    // A cluster's replica answers for its master's keys if it is asked to.
    replica.try_query::<String>(&["READONLY"]).ok();
    replica.try_query::<Option<String>>(&["GET", key]).is_ok_and(|value| value.is_some())
}

const NODE_TIMEOUT: Duration = Duration::from_millis(500);
