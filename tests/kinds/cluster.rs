//! Locks on a Redis Cluster.

use std::collections::BTreeSet;

use proptest::test_runner::{Config, TestRunner};
use redlatch::deadpool_redis::redis::Value;
use redlatch::{Error, LockManager, Node, OwnerToken, Retry};

use crate::cluster_of::{Cluster, pool};
use crate::support::{Events, Monitor, Proxy, Server, chain, eventually, millis, secs, within};

#[tokio::test]
async fn keys_in_many_slots_live_a_whole_life() {
    let cluster = Cluster::of(3);
    let manager = cluster.manager();
    let odd = ["{a}b", "a{b", "{", "}{a}", "{{a}}", "{a}{b}", "a{b{c}", "é{ü}", "{x}}", " "];
    let keys = cluster.keys().into_iter().chain(odd.map(str::to_owned));
    let mut ports = BTreeSet::new();
    for key in keys {
        let guard = within(manager.lock(&key).ttl(secs(60)).acquire()).await.unwrap();
        assert_eq!(cluster.get(&key).as_deref(), Some(guard.owner_token().as_str()), "{key}");
        ports.insert(cluster.server_of(&key).port());
        let status = within(manager.inspect(&key)).await.unwrap();
        assert_eq!(status.fencing_token(), Some(guard.fencing_token()), "{key}");
        within(guard.extend(secs(600))).await.unwrap();
        assert!(cluster.server_of(&key).pttl(&key).unwrap() > secs(60), "{key}");
        let error = within(manager.lock(&key).try_acquire()).await.unwrap_err();
        assert!(matches!(error, Error::AlreadyHeld { .. }), "{error:?}");
        within(guard.release()).await.unwrap();
        let next = within(manager.lock(&key).acquire()).await.unwrap();
        drop(next);
    }
    assert_eq!(ports.len(), 3);
    eventually("all are released", async || cluster.lock_keys().is_empty()).await;
}

#[tokio::test]
async fn fencing_tokens_grow_from_holder_to_holder() {
    let cluster = Cluster::of(3);
    let mut last = None;
    for _ in 0..20 {
        let guard = within(cluster.manager().lock("k").acquire()).await.unwrap();
        assert!(last < Some(guard.fencing_token()));
        last = Some(guard.fencing_token());
        within(guard.release()).await.unwrap();
    }
}

#[tokio::test]
async fn locks_on_different_servers_are_renewed_together() {
    let cluster = Cluster::of(3);
    let manager = cluster.manager();
    let mut held = Vec::new();
    for key in cluster.keys() {
        let events = Events::default();
        let request = manager.lock(&key).ttl(secs(600)).auto_renew_every(millis(200));
        let guard = within(request.on_renewal(events.listener()).acquire()).await.unwrap();
        held.push((guard, events));
    }
    for (guard, events) in &held {
        eventually("it is renewed twice", async || events.renewals() >= 2).await;
        assert!(guard.is_valid() && events.failures() == 0, "{:?}", events.all());
    }
    drop(held);
    eventually("all are released", async || cluster.lock_keys().is_empty()).await;
}

#[tokio::test]
async fn a_key_that_cannot_keep_to_one_slot_is_refused_before_anything_is_sent() {
    let cluster = Cluster::of(3);
    let manager = cluster.manager();
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    let monitors: Vec<Monitor> = cluster.servers.iter().map(Monitor::start).collect();
    for key in ["a}b", "{}", "{}{a}", "}"] {
        let error = within(manager.lock(key).acquire()).await.unwrap_err();
        assert!(error.is_config() && error.to_string().contains(key), "{error}");
        assert!(within(manager.lock(key).try_acquire()).await.unwrap_err().is_config());
        assert!(within(manager.inspect(key)).await.unwrap_err().is_config());
    }
    for monitor in monitors {
        let said = monitor.commands();
        let is_ours = |line: &&String| line.to_ascii_lowercase().contains("eval");
        assert_eq!(said.iter().find(is_ours), None);
    }
}

#[tokio::test]
async fn a_prefix_decides_whether_a_key_keeps_to_one_slot() {
    let cluster = Cluster::of(1);
    let manager = cluster.builder().key_prefix("{app}:").build().unwrap();
    within(manager.lock("a}b").acquire()).await.unwrap().release().await.unwrap();
    let manager = cluster.builder().key_prefix("}").build().unwrap();
    assert!(within(manager.lock("k").acquire()).await.unwrap_err().is_config());
}

#[tokio::test]
async fn a_quorum_with_a_cluster_in_it_refuses_such_keys_too() {
    let cluster = Cluster::of(1);
    let nodes = [cluster.pool().into(), Node::in_memory(), Node::in_memory()];
    let manager = LockManager::quorum(nodes).build().unwrap();
    assert!(within(manager.lock("a}b").acquire()).await.unwrap_err().is_config());
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
}

#[test]
fn what_the_crate_takes_for_one_slot_is_one_slot_to_the_server() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = Cluster::of(1);
    let (manager, server) = (cluster.manager(), &cluster.servers[0]);
    let config = Config { failure_persistence: None, ..Config::default() };
    let property = TestRunner::new(config).run(&"[{}ab:]{1,8}", |key| {
        // The server refuses a script whose keys lie in different slots.
        match runtime.block_on(async { within(manager.inspect(&key)).await }) {
            Ok(_) => assert_eq!(slot(server, &key), slot(server, &fence(&key)), "{key:?}"),
            Err(error) => assert!(error.is_config() && !has_tag(&key), "{key:?}: {error:?}"),
        }
        Ok(())
    });
    property.unwrap();
}

#[tokio::test]
async fn a_lock_is_extended_and_released_after_its_slot_has_moved() {
    let cluster = Cluster::of(3);
    let manager = cluster.manager();
    let guard = within(manager.lock("k").ttl(secs(60)).acquire()).await.unwrap();
    let moving = cluster.begin_move("k");
    moving.carry();
    moving.end();
    within(guard.extend(secs(600))).await.unwrap();
    assert!(moving.to().pttl("k").unwrap() > secs(60));
    within(guard.release()).await.unwrap();
    assert_eq!(moving.to().get("k"), None);
}

#[tokio::test]
async fn a_lock_is_extended_and_released_while_its_slot_is_moving() {
    let cluster = Cluster::of(3);
    let manager = cluster.manager();
    let guard = within(manager.lock("k").ttl(secs(60)).acquire()).await.unwrap();
    let moving = cluster.begin_move("k");
    within(guard.extend(secs(300))).await.unwrap();
    moving.carry();
    within(guard.extend(secs(600))).await.unwrap();
    within(guard.release()).await.unwrap();
    moving.end();
    assert_eq!(moving.to().get("k"), None);
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_lock_dropped_after_its_slot_has_moved_is_released() {
    let cluster = Cluster::of(3);
    let manager = cluster.manager();
    let guard = within(manager.lock("k").ttl(secs(600)).acquire()).await.unwrap();
    let moving = cluster.begin_move("k");
    moving.carry();
    moving.end();
    drop(guard);
    eventually("it is released", async || cluster.lock_keys().is_empty()).await;
}

#[tokio::test]
async fn a_dead_server_is_an_outage_of_its_own_keys_only() {
    let cluster = Cluster::of(3);
    let manager = cluster.builder().node_timeout(secs(1)).build().unwrap();
    let keys = cluster.keys();
    let dead = cluster.server_of(&keys[0]);
    let alive = keys.iter().find(|key| cluster.server_of(key).port() != dead.port()).unwrap();
    for key in [&keys[0], alive] {
        within(manager.lock(key).acquire()).await.unwrap().release().await.unwrap();
    }
    dead.kill();
    for _ in 0..5 {
        let error = within(manager.lock(&keys[0]).try_acquire()).await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        assert_eq!(error.node_errors()[0].node(), cluster.addresses());
        assert!(chain(&error.node_errors()[0]).len() > 1, "it says why");
        let guard = within(manager.lock(alive).acquire()).await.unwrap();
        within(guard.release()).await.unwrap();
    }
}

#[tokio::test]
async fn a_manager_works_again_once_the_dead_server_is_back() {
    let cluster = Cluster::of(3);
    let manager = cluster.builder().node_timeout(millis(500)).build().unwrap();
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    let server = cluster.server_of("k");
    server.kill();
    assert!(within(manager.lock("k").try_acquire()).await.unwrap_err().is_unavailable());
    server.restart();
    eventually("it works again", async || within(manager.lock("k").try_acquire()).await.is_ok())
        .await;
}

#[tokio::test]
async fn a_silent_server_is_an_outage_of_its_own_keys_only() {
    let cluster = Cluster::of(3);
    for silent in [0, 2] {
        let manager = cluster.builder().node_timeout(millis(500)).build().unwrap();
        let silent = &cluster.servers[silent];
        let keys = cluster.keys();
        let is_silent = |key: &&String| cluster.server_of(key).port() == silent.port();
        let sick = keys.iter().find(is_silent).unwrap();
        let healthy = keys.iter().find(|key| !is_silent(key)).unwrap();
        for key in [sick, healthy] {
            within(manager.lock(key).acquire()).await.unwrap().release().await.unwrap();
        }
        silent.pause();
        for _ in 0..2 {
            let error = within(manager.lock(sick).ttl(secs(3)).acquire()).await.unwrap_err();
            assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
            // What the client sends late, behind its release, the TTL ends.
            eventually("the others are found again", async || {
                within(manager.lock(healthy).ttl(secs(3)).try_acquire()).await.is_ok()
            })
            .await;
        }
        silent.resume();
        eventually("it works again", async || {
            within(manager.lock(sick).ttl(secs(3)).try_acquire()).await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn broken_connections_are_survived() {
    let cluster = Cluster::of(3);
    let manager = cluster.manager();
    let guard = within(manager.lock("k").ttl(secs(60)).acquire()).await.unwrap();
    for _ in 0..5 {
        for server in &cluster.servers {
            server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        }
        within(guard.extend(secs(60))).await.unwrap();
    }
    within(guard.release()).await.unwrap();
    assert_eq!(cluster.get("k"), None);
}

/// A cluster of one server, which everybody reaches through a proxy.
fn behind_a_proxy() -> (Cluster, Proxy, LockManager) {
    let cluster = Cluster::of(1);
    let proxy = Proxy::start(&cluster.servers[0]);
    let port = proxy.url().rsplit(':').next().unwrap().to_owned();
    cluster.servers[0].command(&["CONFIG", "SET", "cluster-announce-port", &port]);
    let builder = LockManager::single(pool(vec![proxy.url()]));
    let patience = secs(10);
    let manager = builder.node_timeout(patience).release_timeout(patience).build().unwrap();
    (cluster, proxy, manager)
}

/// Runs `work` while its first reply is lost together with the connection, and the next goes through.
async fn with_a_lost_reply<T>(server: &Server, proxy: &Proxy, work: impl Future<Output = T>) -> T {
    let scripts = server.scripts();
    proxy.swallow_replies();
    let accident = async {
        eventually("the server has run it", async || server.scripts() > scripts).await;
        proxy.heal();
        proxy.cut();
    };
    within(async { tokio::join!(work, accident).0 }).await
}

#[tokio::test]
async fn a_release_that_is_sent_twice_is_a_release() {
    let (cluster, proxy, manager) = behind_a_proxy();
    let server = &cluster.servers[0];
    // The server knows the script.
    within(manager.lock("other").acquire()).await.unwrap().release().await.unwrap();
    let guard = within(manager.lock("k").acquire()).await.unwrap();
    let token = guard.fencing_token();
    let before = server.scripts();
    with_a_lost_reply(server, &proxy, guard.release()).await.unwrap();
    assert!(server.scripts() >= before + 2, "it was sent twice");
    let next = within(manager.lock("k").acquire()).await.unwrap();
    assert!(next.fencing_token() > token);
}

#[tokio::test]
async fn an_acquire_that_is_sent_twice_is_one_grant() {
    let (cluster, proxy, manager) = behind_a_proxy();
    let server = &cluster.servers[0];
    within(manager.lock("other").acquire()).await.unwrap().release().await.unwrap();
    let request = manager.lock("k").ttl(secs(600)).acquire();
    let guard = with_a_lost_reply(server, &proxy, request).await.unwrap();
    assert_eq!(cluster.get("k").as_deref(), Some(guard.owner_token().as_str()));
    assert_eq!(server.counter("{k}:fence"), Some(guard.fencing_token().get()));
    within(guard.release()).await.unwrap();
    assert_eq!(cluster.get("k"), None);
}

#[tokio::test]
async fn a_chosen_owners_acquire_that_is_sent_twice_is_one_grant() {
    let (cluster, proxy, manager) = behind_a_proxy();
    let server = &cluster.servers[0];
    within(manager.lock("other").acquire()).await.unwrap().release().await.unwrap();
    let owner = OwnerToken::new("ann").unwrap();
    let request = manager.lock("k").owner(owner.clone()).ttl(secs(600)).acquire();
    let guard = with_a_lost_reply(server, &proxy, request).await.unwrap();
    assert_eq!(server.counter("{k}:fence"), Some(guard.fencing_token().get()));
    with_a_lost_reply(server, &proxy, guard.release()).await.unwrap();
    assert_eq!(cluster.get("k"), None);
}

#[tokio::test]
async fn a_lock_that_was_deleted_is_not_held_even_if_its_release_is_sent_twice() {
    let (cluster, proxy, manager) = behind_a_proxy();
    let server = &cluster.servers[0];
    within(manager.lock("other").acquire()).await.unwrap().release().await.unwrap();
    let guard = within(manager.lock("k").acquire()).await.unwrap();
    server.del("k");
    let error = with_a_lost_reply(server, &proxy, guard.release()).await.unwrap_err();
    assert!(error.is_not_held(), "{error:?}");
}

#[tokio::test]
async fn a_release_is_heard_on_any_server_of_the_cluster() {
    let cluster = Cluster::of(3);
    for server in &cluster.servers {
        let node = Node::from(cluster.pool()).with_notices(server.url()).unwrap();
        let patience = secs(10);
        let manager = LockManager::single(node).node_timeout(patience).build().unwrap();
        let guard = within(cluster.manager().lock("k").ttl(secs(600)).acquire()).await.unwrap();
        // Only a notice can wake it: each look counts, and the delay is longer than anything lasts.
        let retry = Retry::jittered(secs(500), millis(0)).max_retries(5);
        let waiter = tokio::spawn(manager.lock("k").retry(retry).acquire());
        eventually("the waiter listens", async || {
            let heard: Vec<Value> = server.query(&["PUBSUB", "CHANNELS", "{k}:released"]);
            !heard.is_empty()
        })
        .await;
        within(guard.release()).await.unwrap();
        within(within(waiter).await.unwrap().unwrap().release()).await.unwrap();
    }
}

#[tokio::test]
async fn a_waiter_without_notices_all_served() {
    let cluster = Cluster::of(3);
    let guard = within(cluster.manager().lock("k").acquire()).await.unwrap();
    let waiter = tokio::spawn(cluster.manager().lock("k").acquire());
    tokio::task::yield_now().await;
    within(guard.release()).await.unwrap();
    within(within(waiter).await.unwrap().unwrap().release()).await.unwrap();
}

#[tokio::test]
async fn a_user_with_few_rights_can_lock() {
    let cluster = Cluster::of(3);
    let rules = "resetkeys ~app:* ~{app:*}:fence resetchannels &app:*:released &{app:*}:released \
                 -@all +eval +evalsha +ping +get +set +pttl +pexpire +del +publish +cluster|slots";
    let rules: Vec<&str> = rules.split_whitespace().collect();
    let urls = cluster.servers.iter().map(|server| server.user("locks", "secret", &rules));
    let builder = LockManager::single(Node::cluster(urls).unwrap()).key_prefix("app:");
    let manager = builder.node_timeout(secs(10)).build().unwrap();
    for key in cluster.keys() {
        let guard = within(manager.lock(&key).acquire()).await.unwrap();
        within(guard.extend(secs(60))).await.unwrap();
        within(guard.release()).await.unwrap();
    }
    let pinged = within(manager.ping()).await;
    assert!(pinged[0].round_trip().is_ok(), "{pinged:?}");
}

#[test]
fn two_clusters_are_two_nodes_and_one_is_one() {
    let pool = |port: u16| pool(vec![format!("redis://127.0.0.1:{port}")]);
    assert!(LockManager::quorum([pool(1), pool(2), pool(3)]).build().is_ok());
    let one = pool(1);
    let error = LockManager::quorum([one.clone(), one]).build().unwrap_err();
    assert!(error.is_config() && error.to_string().contains("cluster"), "{error}");
}

#[test]
fn a_cluster_goes_by_the_address_of_its_notices_without_credentials() {
    let node = Node::from(pool(vec!["redis://ann:secret@h:7000".to_owned()]));
    assert_eq!(node.name(), "cluster");
    let node = node.with_notices("redis://ann:secret@h:7000").unwrap();
    assert_eq!(node.name(), "cluster h:7000");
    assert!(!format!("{node:?}").contains("secret"));
}

/// The key of the fencing counter, as the README has it.
fn fence(key: &str) -> String {
    if has_tag(key) { format!("{key}:fence") } else { format!("{{{key}}}:fence") }
}

fn has_tag(key: &str) -> bool {
    let tag = key.split_once('{').and_then(|(_, behind)| behind.split_once('}'));
    tag.is_some_and(|(tag, _)| !tag.is_empty())
}

fn slot(server: &Server, key: &str) -> u64 {
    server.query(&["CLUSTER", "KEYSLOT", key])
}
