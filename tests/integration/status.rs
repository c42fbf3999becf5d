//! Looking without touching: who holds a lock, and how the nodes are.

use redlatch::{Error, LockManager, LockStatus, Node, OwnerToken};

use crate::support::{
    Server, Site, chain, eventually, everywhere, millis, on_servers, secs, within,
};

everywhere!(
    a_free_lock_is_nobodys,
    a_held_lock_is_its_owners,
    a_held_locks_remaining_life_is_told,
    a_held_locks_fencing_token_is_told,
    a_released_lock_leaves_its_counter,
    an_expired_lock_is_nobodys,
    an_extended_lock_lives_longer,
    every_node_votes_in_order,
    a_prefix_belongs_to_the_managers_keys,
    keys_out_of_range_cannot_be_inspected,
    a_look_leaves_the_lock_to_its_holder,
    a_look_at_a_free_lock_takes_nothing,
    a_look_shows_no_owner_token_in_full,
    every_node_is_pinged_in_order,
    a_look_by_a_stranger_is_the_same,
);

on_servers!(
    a_foreign_lock_is_seen,
    a_foreign_lock_without_expiry_has_no_end,
    a_look_sends_nothing_that_writes,
    a_look_costs_one_script_a_node,
    a_ping_costs_one_ping_a_node,
    a_look_survives_flushed_scripts,
    dead_servers_cannot_be_inspected,
    silent_servers_cannot_be_inspected_in_bounded_time,
    dead_servers_fail_their_ping,
    silent_servers_fail_their_ping_in_bounded_time,
    servers_that_are_back_are_pinged_again,
);

async fn a_free_lock_is_nobodys(site: Site) {
    let status = site.manager().inspect("k").await.unwrap();
    assert_free(&status);
    assert!(status.votes().iter().all(|vote| vote.fencing_token().is_none()));
}

async fn a_held_lock_is_its_owners(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.is_held());
    assert_eq!(status.owner_token(), Some(guard.owner_token()));
}

async fn a_held_locks_remaining_life_is_told(site: Site) {
    let _guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let status = site.manager().inspect("k").await.unwrap();
    let left = status.expires_in().unwrap();
    assert!(left > secs(300) && left <= secs(600), "{left:?}");
    let votes = status.votes().iter().filter(|vote| vote.owner_token().is_some());
    assert!(votes.clone().count() > 0);
    assert!(votes.into_iter().all(|vote| vote.expires_in() > Some(secs(300))));
}

async fn a_held_locks_fencing_token_is_told(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    let status = site.manager().inspect("k").await.unwrap();
    assert_eq!(status.fencing_token(), Some(guard.fencing_token()));
}

async fn a_released_lock_leaves_its_counter(site: Site) {
    let manager = site.manager();
    let guard = manager.lock("k").await.unwrap();
    let token = guard.fencing_token();
    guard.release().await.unwrap();
    site.empties("k").await;
    let status = manager.inspect("k").await.unwrap();
    assert_free(&status);
    let known = status.votes().iter().filter(|vote| vote.fencing_token() == Some(token));
    assert!(known.count() > status.votes().len() / 2);
}

async fn an_expired_lock_is_nobodys(site: Site) {
    let manager = site.manager();
    manager.lock("k").ttl(millis(300)).await.unwrap().forget();
    eventually("it expires", async || !manager.inspect("k").await.unwrap().is_held()).await;
    eventually("it expires on every node", async || {
        let status = manager.inspect("k").await.unwrap();
        status.votes().iter().all(|vote| vote.owner_token().is_none())
    })
    .await;
}

async fn an_extended_lock_lives_longer(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(60)).await.unwrap();
    guard.extend(secs(600)).await.unwrap();
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.expires_in() > Some(secs(300)), "{status:?}");
}

async fn every_node_votes_in_order(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    let manager = site.manager();
    let names = names(&manager).await;
    let mut status = manager.inspect("k").await.unwrap();
    eventually("every node has it", async || {
        status = manager.inspect("k").await.unwrap();
        status.votes().iter().all(|vote| vote.owner_token().is_some())
    })
    .await;
    let voted: Vec<_> = status.votes().iter().map(|vote| vote.node().to_owned()).collect();
    assert_eq!(voted, names);
    for vote in status.votes() {
        assert_eq!(vote.owner_token(), Some(guard.owner_token()));
        assert!(vote.error().is_none() && vote.fencing_token().is_some());
    }
}

async fn a_prefix_belongs_to_the_managers_keys(site: Site) {
    let prefixed = site.builder().key_prefix("app:").build().unwrap();
    let guard = prefixed.lock("k").await.unwrap();
    let seen = |status: &LockStatus| status.owner_token() == Some(guard.owner_token());
    assert!(seen(&prefixed.inspect("k").await.unwrap()));
    assert!(seen(&site.manager().inspect("app:k").await.unwrap()));
    assert_free(&site.manager().inspect("k").await.unwrap());
}

async fn keys_out_of_range_cannot_be_inspected(site: Site) {
    for key in [String::new(), "x".repeat(513)] {
        let error = site.manager().inspect(key).await.unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error:?}");
    }
}

async fn a_look_leaves_the_lock_to_its_holder(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let until = guard.valid_until();
    for _ in 0..10 {
        site.manager().inspect("k").await.unwrap();
    }
    assert_eq!(guard.valid_until(), until);
    guard.release().await.unwrap();
    site.empties("k").await;
}

async fn a_look_at_a_free_lock_takes_nothing(site: Site) {
    let looker = site.manager();
    for _ in 0..10 {
        looker.inspect("k").await.unwrap();
    }
    let _guard = site.manager().lock("k").try_acquire().await.unwrap();
    assert_eq!(looker.close().await, 0);
}

async fn a_look_shows_no_owner_token_in_full(site: Site) {
    let owner = OwnerToken::new("a-chosen-owner-token").unwrap();
    let _guard = site.manager().lock("k").owner(owner.clone()).await.unwrap();
    let status = site.manager().inspect("k").await.unwrap();
    let shown = format!("{status:?}{status:#?}{:?}", status.votes());
    assert!(shown.contains("a-chosen") && !shown.contains("a-chosen-"), "{shown}");
    assert_eq!(status.owner_token(), Some(&owner));
}

async fn every_node_is_pinged_in_order(site: Site) {
    let manager = site.manager();
    let health = manager.ping().await;
    assert!(health.iter().all(|node| node.round_trip().is_ok()), "{health:?}");
    for (node, server) in health.iter().zip(site.all()) {
        assert_eq!(node.name(), server.name());
    }
    assert_eq!(health.len(), manager.inspect("k").await.unwrap().votes().len());
}

async fn a_look_by_a_stranger_is_the_same(site: Site) {
    let manager = site.manager();
    let _guard = manager.lock("k").await.unwrap();
    let (own, strange) =
        (manager.inspect("k").await.unwrap(), site.manager().inspect("k").await.unwrap());
    assert_eq!(own.owner_token(), strange.owner_token());
    assert_eq!(own.fencing_token(), strange.fencing_token());
}

async fn a_foreign_lock_is_seen(site: Site) {
    for server in site.all() {
        assert!(server.foreign_lock("k", "foreign", secs(600)));
    }
    let status = site.manager().inspect("k").await.unwrap();
    assert_eq!(status.owner_token().unwrap().as_str(), "foreign");
    assert!(status.expires_in() > Some(secs(300)));
    assert_eq!(status.fencing_token(), None, "it counts no tokens");
}

async fn a_foreign_lock_without_expiry_has_no_end(site: Site) {
    for server in site.all() {
        server.command(&["SET", "k", "foreign"]);
    }
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.is_held());
    assert_eq!(status.expires_in(), None);
}

async fn a_look_sends_nothing_that_writes(site: Site) {
    let _guard = site.manager().lock("k").await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == site.all().len()).await;
    let before: Vec<_> = site.all().iter().map(Server::contents).collect();
    site.all().iter().for_each(Server::reset_calls);
    for key in ["k", "free"] {
        site.manager().inspect(key).await.unwrap();
    }
    for server in site.all() {
        let writes = ["set", "pexpire", "del", "publish"].map(|name| server.calls(name));
        assert_eq!(writes, [0; 4]);
    }
    assert_eq!(site.all().iter().map(Server::contents).collect::<Vec<_>>(), before);
}

async fn a_look_costs_one_script_a_node(site: Site) {
    let manager = site.manager();
    manager.inspect("k").await.unwrap();
    site.all().iter().for_each(Server::reset_calls);
    manager.inspect("k").await.unwrap();
    assert!(site.all().iter().all(|server| server.scripts() == 1));
}

async fn a_ping_costs_one_ping_a_node(site: Site) {
    let manager = site.manager();
    manager.ping().await;
    site.all().iter().for_each(Server::reset_calls);
    manager.ping().await;
    assert!(site.all().iter().all(|server| server.calls("ping") == 1 && server.scripts() == 0));
}

async fn a_look_survives_flushed_scripts(site: Site) {
    let manager = site.manager();
    manager.inspect("k").await.unwrap();
    for server in site.all() {
        server.command(&["SCRIPT", "FLUSH"]);
    }
    assert_free(&manager.inspect("k").await.unwrap());
}

async fn dead_servers_cannot_be_inspected(site: Site) {
    let manager = site.manager();
    manager.inspect("k").await.unwrap();
    site.all().iter().for_each(Server::kill);
    let error = within(manager.inspect("k")).await.unwrap_err();
    let Error::Unavailable { key, reached: 0, nodes, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((key.as_str(), nodes.len()), ("k", site.all().len()));
    for (node, server) in nodes.iter().zip(site.all()) {
        assert_eq!(node.node(), server.name());
    }
}

async fn silent_servers_cannot_be_inspected_in_bounded_time(site: Site) {
    let manager = site.builder().node_timeout(millis(200)).build().unwrap();
    site.all().iter().for_each(Server::pause);
    let error = within(manager.inspect("k")).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
}

async fn dead_servers_fail_their_ping(site: Site) {
    let manager = site.manager();
    manager.ping().await;
    site.all().iter().for_each(Server::kill);
    let health = within(manager.ping()).await;
    for (node, server) in health.iter().zip(site.all()) {
        let error = node.round_trip().unwrap_err();
        assert_eq!((node.name(), error.node()), (&*server.name(), &*server.name()));
        assert!(chain(error).len() > 1, "it has a cause: {error:?}");
    }
}

async fn silent_servers_fail_their_ping_in_bounded_time(site: Site) {
    let manager = site.builder().node_timeout(millis(200)).build().unwrap();
    site.all().iter().for_each(Server::pause);
    let health = within(manager.ping()).await;
    assert!(health.iter().all(|node| node.round_trip().is_err()), "{health:?}");
    assert_eq!(health.len(), site.all().len());
}

async fn servers_that_are_back_are_pinged_again(site: Site) {
    let manager = site.manager();
    site.all().iter().for_each(Server::kill);
    within(manager.ping()).await;
    site.all().iter().for_each(Server::restart);
    eventually("all answer", async || {
        manager.ping().await.iter().all(|node| node.round_trip().is_ok())
    })
    .await;
}

#[tokio::test]
async fn split_owners_hold_nothing() {
    let site = Site::servers(3);
    for (server, owner) in site.all().iter().zip(["a", "b", "c"]) {
        assert!(server.foreign_lock("k", owner, secs(600)));
    }
    let status = site.manager().inspect("k").await.unwrap();
    assert_free(&status);
    let owners: Vec<_> = status.votes().iter().map(|vote| vote.owner_token().unwrap()).collect();
    assert_eq!(owners.iter().map(|owner| owner.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[tokio::test]
async fn an_owner_on_a_minority_holds_nothing() {
    let site = Site::servers(3);
    assert!(site.all()[1].foreign_lock("k", "foreign", secs(600)));
    let status = site.manager().inspect("k").await.unwrap();
    assert_free(&status);
    assert_eq!(status.votes()[1].owner_token().unwrap().as_str(), "foreign");
}

#[tokio::test]
async fn an_owner_on_a_majority_holds_the_lock() {
    let site = Site::servers(3);
    for (server, life) in site.all()[..2].iter().zip([100, 600]) {
        assert!(server.foreign_lock("k", "foreign", secs(life)));
    }
    let status = site.manager().inspect("k").await.unwrap();
    assert_eq!(status.owner_token().unwrap().as_str(), "foreign");
    assert!(status.expires_in() <= Some(secs(100)), "the majority ends with the first key");
}

#[tokio::test]
async fn a_majority_ends_when_too_few_keys_are_left() {
    let site = Site::servers(3);
    for (server, life) in site.all().iter().zip([100, 600, 300]) {
        assert!(server.foreign_lock("k", "foreign", secs(life)));
    }
    let status = site.manager().inspect("k").await.unwrap();
    let left = status.expires_in().unwrap();
    assert!(left > secs(100) && left <= secs(300), "{left:?}");
}

#[tokio::test]
async fn a_majority_shows_beside_a_dead_node() {
    for dead in 0..3 {
        let site = Site::servers(3);
        let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
        eventually("all have it", async || site.lock_keys().len() == 3).await;
        site.all()[dead].kill();
        let status = within(site.manager().inspect("k")).await.unwrap();
        assert_eq!(status.owner_token(), Some(guard.owner_token()));
        assert_eq!(status.fencing_token(), Some(guard.fencing_token()));
        let error = status.votes()[dead].error().expect("it is dead");
        assert_eq!(error.node(), site.all()[dead].name());
        assert_eq!(status.votes()[dead].owner_token(), None);
    }
}

#[tokio::test]
async fn a_dead_majority_cannot_be_inspected() {
    let site = Site::servers(3);
    site.all()[..2].iter().for_each(Server::kill);
    let error = within(site.manager().inspect("k")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { needed: 2, reached: 1, .. }), "{error:?}");
    assert_eq!(error.node_errors().len(), 2);
}

#[tokio::test]
async fn a_dead_node_fails_its_ping_beside_the_others() {
    let site = Site::servers(3);
    site.all()[1].kill();
    let health = within(site.manager().ping()).await;
    let fine: Vec<_> = health.iter().map(|node| node.round_trip().is_ok()).collect();
    assert_eq!(fine, [true, false, true]);
}

#[tokio::test]
async fn nodes_in_memory_are_pinged_by_name() {
    let nodes = [Node::in_memory(), Node::in_memory()];
    let health = LockManager::quorum(nodes.to_vec()).build().unwrap().ping().await;
    for (health, node) in health.iter().zip(&nodes) {
        assert_eq!(health.name(), node.name());
    }
}

fn assert_free(status: &LockStatus) {
    assert!(!status.is_held(), "{status:?}");
    assert_eq!((status.owner_token(), status.expires_in()), (None, None));
    assert_eq!(status.fencing_token(), None);
}

async fn names(manager: &LockManager) -> Vec<String> {
    manager.ping().await.iter().map(|node| node.name().to_owned()).collect()
}
