//! Locks on a master that Sentinels watch, through its failovers.

use redlatch::{Error, LockGuard, LockManager, LossReason, Node, deadpool_redis::sentinel};

use crate::cluster_of::wait;
use crate::sentinels::{MASTER, Sentinels, role};
use crate::support::{Events, eventually, millis, secs, within};

#[tokio::test]
async fn a_lock_lives_on_the_master() {
    let site = Sentinels::start();
    let manager = site.manager();
    let guard = within(manager.lock("k").ttl(secs(60)).acquire()).await.unwrap();
    assert_eq!(site.servers[0].get("k").as_deref(), Some(guard.owner_token().as_str()));
    within(guard.extend(secs(600))).await.unwrap();
    within(guard.release()).await.unwrap();
    assert_eq!(site.servers[0].get("k"), None);
    drop(within(manager.lock("dropped").acquire()).await.unwrap());
    eventually("it is released", async || site.servers[0].lock_keys().is_empty()).await;
}

#[tokio::test]
async fn after_a_dead_master_locks_are_taken_on_the_new_one() {
    let site = Sentinels::start();
    let manager = site.manager();
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    site.servers[0].kill();
    let mut taken = None;
    eventually("the manager follows", async || {
        taken = within(manager.lock("k").try_acquire()).await.ok();
        taken.is_some()
    })
    .await;
    let guard = taken.unwrap();
    site.wait_for_master(&site.servers[1]);
    assert_eq!(site.servers[1].get("k").as_deref(), Some(guard.owner_token().as_str()));
    within(guard.release()).await.unwrap();
}

#[tokio::test]
async fn sentinels_and_their_master_have_passwords_of_their_own() {
    let site = Sentinels::start();
    site.servers[0].user("ann", "right", &["~*", "&*", "+@all"]);
    let urls = site.sentinels.iter().map(|sentinel| {
        sentinel.command(&["ACL", "SETUSER", "watch", "on", ">other", "+@all"]);
        format!("redis://watch:other@{}", sentinel.name())
    });
    let node = Node::sentinel(urls, MASTER).unwrap().with_password("ann", "right");
    assert_eq!(node.name(), site.name());
    let one_url = format!("redis-sentinel://ann:right@{}", site.name());
    for node in [node, Node::open(one_url).unwrap()] {
        let manager = LockManager::single(node).node_timeout(secs(2)).build().unwrap();
        let guard = within(manager.lock("k").acquire()).await.unwrap();
        let clients: String = site.servers[0].query(&["CLIENT", "LIST"]);
        assert!(clients.contains("user=ann"), "{clients}");
        within(guard.release()).await.unwrap();
    }
}

#[test]
fn sentinels_with_an_address_in_common_are_one_node_unless_their_masters_differ() {
    let node = |url: &str| Node::open(url).unwrap();
    let nodes = [node("redis-sentinel://a,b/locks"), node("redis-sentinel://b,c/locks")];
    assert!(LockManager::quorum(nodes).build().unwrap_err().is_config());
    let nodes = [node("redis-sentinel://a,b/one"), node("redis-sentinel://a,b/two")];
    assert!(LockManager::quorum(nodes).build().is_ok());
}

#[tokio::test]
async fn silent_sentinels_are_passed_over() {
    let site = Sentinels::start();
    site.sentinels[..2].iter().for_each(crate::support::Server::pause);
    let manager = site.builder().node_timeout(millis(500)).build().unwrap();
    eventually("the last one is asked", async || {
        within(manager.lock("k").try_acquire()).await.is_ok()
    })
    .await;
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn while_there_is_no_master_acquire_says_unavailable() {
    let site = Sentinels::start();
    let manager = site.manager();
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    site.servers.iter().for_each(crate::support::Server::kill);
    let error = within(manager.lock("k").acquire()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert_eq!(error.node_errors()[0].node(), site.name());
}

#[tokio::test]
async fn after_a_planned_failover_locks_are_taken_on_the_new_master() {
    let site = Sentinels::start();
    let manager = site.manager();
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    site.fail_over();
    site.wait_for_master(&site.servers[1]);
    // Until the old master hears of it, it goes on giving locks: that is what a failover can break.
    wait("the old master is demoted", || role(&site.servers[0]) == "slave");
    let guard = taken_on_the_new_master(&site, &manager).await;
    within(guard.release()).await.unwrap();
}

#[tokio::test]
async fn a_lock_that_was_replicated_outlives_its_master() {
    let site = Sentinels::start();
    let manager = site.manager();
    let guard = within(manager.lock("k").ttl(secs(600)).acquire()).await.unwrap();
    site.wait_for_replication("k");
    site.wait_for_replication("{k}:fence");
    site.servers[0].kill();
    site.wait_for_master(&site.servers[1]);
    within(guard.extend(secs(1200))).await.unwrap();
    assert!(guard.is_valid());
    let error = within(site.manager().lock("k").try_acquire()).await.unwrap_err();
    assert!(error.is_contended(), "{error:?}");
    let token = guard.fencing_token();
    within(guard.release()).await.unwrap();
    let next = within(manager.lock("k").acquire()).await.unwrap();
    assert!(next.fencing_token() > token);
}

#[tokio::test]
async fn a_lock_that_was_not_replicated_is_reported_as_lost() {
    let site = Sentinels::start();
    let manager = site.manager();
    let events = Events::default();
    let request = manager.lock("k").ttl(secs(600)).auto_renew_every(millis(200));
    let guard = within(request.on_renewal(events.listener()).acquire()).await.unwrap();
    let unlucky = within(manager.lock("j").ttl(secs(600)).acquire()).await.unwrap();
    site.wait_for_replication("j");
    site.servers[0].kill();
    site.wait_for_master(&site.servers[1]);
    // As if the master had died before it could pass them on.
    ["k", "j"].iter().for_each(|key| site.servers[1].del(key));
    assert_eq!(within(guard.lost()).await, LossReason::Taken);
    assert!(!guard.is_valid());
    let error = within(unlucky.extend(secs(600))).await.unwrap_err();
    assert!(error.is_not_held() || error.is_lost(), "{error:?}");
    assert!(within(guard.release()).await.unwrap_err().is_not_held());
    let next = within(site.manager().lock("k").acquire()).await.unwrap();
    within(next.release()).await.unwrap();
}

#[tokio::test]
async fn a_master_without_enough_replicas_is_left_for_a_new_one() {
    let site = Sentinels::start();
    let manager = site.manager();
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    site.servers[0].command(&["CONFIG", "SET", "min-replicas-to-write", "2"]);
    let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    site.fail_over();
    site.wait_for_master(&site.servers[1]);
    // The old master is left although it is alive and nobody has demoted it yet.
    let _guard = taken_on_the_new_master(&site, &manager).await;
}

#[tokio::test]
async fn releases_are_heard_across_a_failover() {
    let site = Sentinels::start();
    // A replica passes on what its master publishes.
    let node = Node::from(site.pool()).with_notices(site.servers[1].url()).unwrap();
    let manager = LockManager::single(node).node_timeout(secs(2)).build().unwrap();
    for _ in 0..2 {
        let guard = within(site.manager().lock("k").ttl(secs(600)).acquire()).await.unwrap();
        let retry = redlatch::Retry::jittered(secs(500), millis(0)).max_retries(5);
        let waiter = tokio::spawn(manager.lock("k").retry(retry).acquire());
        eventually("the waiter listens", async || {
            let heard: Vec<String> = site.servers[1].query(&["PUBSUB", "CHANNELS", "{k}:released"]);
            !heard.is_empty()
        })
        .await;
        within(guard.release()).await.unwrap();
        within(within(waiter).await.unwrap().unwrap().release()).await.unwrap();
        if role(&site.servers[0]) == "master" {
            site.servers[0].kill();
            site.wait_for_master(&site.servers[1]);
            eventually("the manager follows", async || {
                within(manager.lock("other").try_acquire()).await.is_ok()
            })
            .await;
        }
    }
}

#[test]
fn a_sentinel_pool_is_a_node_of_its_own() {
    let pool = || {
        let urls = vec!["redis://ann:secret@h:26379".to_owned()];
        let server_type = sentinel::SentinelServerType::Master;
        let config = sentinel::Config::from_urls(urls, "locks".to_owned(), server_type);
        config.create_pool(None).unwrap()
    };
    assert!(LockManager::quorum([pool(), pool(), pool()]).build().is_ok());
    let one = pool();
    assert!(LockManager::quorum([one.clone(), one.clone()]).build().unwrap_err().is_config());
    let node = Node::from(one);
    assert_eq!(node.name(), "sentinel");
    assert_eq!(node.with_notices("redis://ann:secret@h").unwrap().name(), "sentinel h:6379");
}

/// Tries until the manager has found the new master, and sees that the lock lies there.
async fn taken_on_the_new_master(site: &Sentinels, manager: &LockManager) -> LockGuard {
    let mut taken = None;
    eventually("the manager follows", async || {
        taken = within(manager.lock("k").try_acquire()).await.ok();
        taken.is_some()
    })
    .await;
    let guard = taken.unwrap();
    assert_eq!(site.servers[1].get("k").as_deref(), Some(guard.owner_token().as_str()));
    guard
}
