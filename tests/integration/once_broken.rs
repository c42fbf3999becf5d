//! Each of these was broken once.

use std::sync::mpsc::channel;
use std::time::Duration;

use redlatch::deadpool_redis::{self, redis::cmd};
use redlatch::{LockGuard, LockManager, LossReason, Node, OwnerToken, Retry};
use tokio::runtime::{Builder, Runtime};

use crate::support::{
    BOUND, Proxy, Server, Site, eventually, everywhere, millis, on_servers, poll_times, secs,
    within,
};

everywhere!(
    dropping_an_expired_guard_keeps_the_owners_new_lock,
    renewal_goes_on_when_the_runtime_of_the_first_use_ends,
);

on_servers!(
    a_late_undo_keeps_what_the_owners_next_attempt_got,
    a_late_release_keeps_the_owners_next_lock,
    with_counters_ahead_of_the_clock_an_acquire_is_no_second_grant,
    with_counters_ahead_of_the_clock_acquire_or_extend_extends,
    a_cancelled_acquire_or_extend_keeps_the_owners_lock,
    extend_in_an_outage_is_unavailable,
    a_pools_borrower_cannot_move_the_lane_to_another_database,
    a_pool_in_full_use_still_locks,
    a_release_whose_answer_was_lost_with_its_connection_is_confirmed,
);

fn owner() -> OwnerToken {
    OwnerToken::new("worker-7").unwrap()
}

async fn dropping_an_expired_guard_keeps_the_owners_new_lock(site: Site) {
    let manager = site.manager();
    let old = manager.lock("k").owner(owner()).ttl(millis(200)).await.unwrap();
    let new = within(manager.lock("k").owner(owner()).ttl(secs(600)).acquire()).await.unwrap();
    assert!(!old.is_valid() && new.fencing_token() > old.fencing_token());
    old.release().await.unwrap_err();
    new.extend(secs(600)).await.expect("it is held on a majority");
}

async fn a_late_undo_keeps_what_the_owners_next_attempt_got(site: Site) {
    let builder = site.builder().node_timeout(millis(100)).outage_patience(secs(600));
    let manager = builder.retry(Retry::jittered(millis(5), millis(0))).build().unwrap();
    manager.lock("warm").await.unwrap().release().await.unwrap();
    for round in 0..5 {
        let key = format!("k{round}");
        site.all().iter().for_each(Server::pause);
        let acquire = tokio::spawn(manager.lock(&key).owner(owner()).ttl(secs(600)).acquire());
        tokio::time::sleep(millis(205)).await;
        site.all().iter().for_each(Server::resume);
        let guard = within(acquire).await.unwrap().unwrap();
        tokio::time::sleep(millis(150)).await;
        guard.extend(secs(600)).await.expect("it is held on a majority");
    }
}

async fn a_late_release_keeps_the_owners_next_lock(site: Site) {
    let builder = site.builder().node_timeout(millis(100)).outage_patience(secs(600));
    let manager = builder.retry(Retry::jittered(millis(1), millis(0))).build().unwrap();
    for round in 0..5 {
        let key = format!("k{round}");
        let guard = manager.lock(&key).owner(owner()).ttl(secs(600)).await.unwrap();
        site.all().iter().for_each(Server::pause);
        drop(guard);
        tokio::time::sleep(millis(105)).await;
        site.all().iter().for_each(Server::resume);
        let next = within(manager.lock(&key).owner(owner()).ttl(secs(600)).acquire());
        let next = next.await.unwrap();
        tokio::time::sleep(millis(120)).await;
        next.extend(secs(600)).await.expect("it is held on a majority");
    }
}

/// Sets the counters to the far future.
fn set_ahead(site: &Site) {
    for server in site.all() {
        server.command(&["SET", "{k}:fence", "4000000000000000", "PX", "86400000"]);
    }
}

async fn with_counters_ahead_of_the_clock_an_acquire_is_no_second_grant(site: Site) {
    set_ahead(&site);
    let manager = site.manager();
    let _guard = manager.lock("k").owner(owner()).try_acquire().await.unwrap();
    let second = manager.lock("k").owner(owner()).try_acquire().await;
    assert!(second.unwrap_err().is_contended());
}

async fn with_counters_ahead_of_the_clock_acquire_or_extend_extends(site: Site) {
    set_ahead(&site);
    let request = || site.manager().lock("k").owner(owner());
    let first = request().ttl(secs(20)).await.unwrap();
    let second = request().ttl(secs(200)).acquire_or_extend().await.unwrap();
    assert!(second.remaining() > secs(100));
    assert_eq!(first.fencing_token(), second.fencing_token());
}

async fn a_cancelled_acquire_or_extend_keeps_the_owners_lock(site: Site) {
    set_ahead(&site);
    let manager = site.manager();
    let guard = manager.lock("k").owner(owner()).ttl(secs(600)).await.unwrap();
    for polls in 0..8 {
        drop(poll_times(polls, manager.lock("k").owner(owner()).acquire_or_extend()).await);
    }
    manager.lock("other").await.unwrap().release().await.unwrap();
    // The last one may have got so far that dropping it released the shared lock.
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.is_held() || guard.try_extend(secs(600)).await.is_err());
}

async fn extend_in_an_outage_is_unavailable(site: Site) {
    let manager = site.builder().node_timeout(millis(30)).build().unwrap();
    for round in 0..4 {
        let guard = held_in_an_outage(&site, &manager, &format!("k{round}")).await;
        let error = within(guard.extend(secs(5))).await.unwrap_err();
        site.all().iter().for_each(Server::resume);
        assert!(error.is_unavailable(), "{error:?}");
        eventually("the servers are back", async || {
            manager.ping().await.iter().all(|node| node.round_trip().is_ok())
        })
        .await;
    }
}

/// A lock on servers that are paused now. On a busy machine it takes several attempts to be so quick.
async fn held_in_an_outage(site: &Site, manager: &LockManager, key: &str) -> LockGuard {
    for _ in 0..100 {
        let Ok(guard) = within(manager.lock(key).ttl(millis(400)).acquire()).await else {
            continue;
        };
        site.all().iter().for_each(Server::pause);
        if guard.remaining() > millis(200) {
            return guard;
        }
        site.all().iter().for_each(Server::resume);
    }
    panic!("the machine is too slow for a lock of 400 ms");
}

fn pool(server: &Server, size: usize) -> deadpool_redis::Pool {
    let config = deadpool_redis::Config::from_url(server.url());
    let builder = config.builder().expect("the URL is valid").max_size(size);
    builder.runtime(deadpool_redis::Runtime::Tokio1).build().expect("the pool is valid")
}

async fn a_pools_borrower_cannot_move_the_lane_to_another_database(site: Site) {
    let mut pools = Vec::new();
    for server in site.all() {
        let pool = pool(server, 4);
        let mut borrowed = pool.get().await.unwrap();
        let () = cmd("SELECT").arg(5).query_async(&mut borrowed).await.unwrap();
        drop(borrowed);
        pools.push(pool);
    }
    let manager = LockManager::quorum(pools).build().unwrap();
    let _guard = manager.lock("k").try_acquire().await.unwrap();
    assert!(site.manager().lock("k").try_acquire().await.unwrap_err().is_contended());
}

async fn a_pool_in_full_use_still_locks(site: Site) {
    let pools: Vec<_> = site.all().iter().map(|server| pool(server, 1)).collect();
    let mut in_use = Vec::new();
    for pool in &pools {
        in_use.push(pool.get().await.unwrap());
    }
    let manager = LockManager::quorum(pools).build().unwrap();
    manager.lock("k").try_acquire().await.unwrap().release().await.unwrap();
}

async fn a_release_whose_answer_was_lost_with_its_connection_is_confirmed(site: Site) {
    let proxies: Vec<_> = site.all().iter().map(Proxy::start).collect();
    let builder = LockManager::quorum(proxies.iter().map(Proxy::url));
    let manager = builder.node_timeout(secs(10)).release_timeout(secs(10)).build().unwrap();
    let all_have_it = async || site.lock_keys().len() == site.all().len();
    // Every server knows the scripts by then.
    let warm = manager.lock("warm").await.unwrap();
    eventually("all have it", all_have_it).await;
    warm.release().await.unwrap();
    site.empties("warm").await;
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    eventually("all have it", all_have_it).await;
    proxies.iter().for_each(Proxy::swallow_replies);
    let release = tokio::spawn(guard.release());
    eventually("it is deleted", async || site.lock_keys().is_empty()).await;
    proxies.iter().for_each(Proxy::heal);
    proxies.iter().for_each(Proxy::cut);
    within(release).await.unwrap().expect("it was ours when it was deleted");
}

/// Runs on threads of its own: the test's runtime is the third.
async fn renewal_goes_on_when_the_runtime_of_the_first_use_ends(site: Site) {
    let manager = site.manager();
    let (first, second) = (runtime(), runtime());
    let once = manager.clone();
    let used = first.spawn(async move { once.lock("x").await?.release().await });
    used.await.unwrap().unwrap();
    let run = second.spawn(manager.lock("k").ttl(secs(2)).run(async |guard| {
        let start = tokio::time::Instant::now();
        while guard.valid_until() < start + secs(5) {
            tokio::time::sleep(millis(20)).await;
        }
    }));
    tokio::time::sleep(millis(100)).await;
    first.shutdown_background();
    within(run).await.unwrap().expect("it was renewed throughout");
    second.shutdown_background();
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[tokio::test]
async fn an_outage_is_told_although_the_one_node_left_refuses() {
    let node = Node::in_memory();
    let other = LockManager::single(node.clone()).build().unwrap();
    let _held = other.lock("k").ttl(secs(600)).await.unwrap();
    let down = |port| Node::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let builder = LockManager::quorum([node, down(1), down(2)]).node_timeout(millis(50));
    let manager = builder.retry(Retry::jittered(millis(1), millis(5))).build().unwrap();
    let error = within(manager.lock("k").acquire()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
}

#[tokio::test]
async fn a_release_that_one_of_three_confirmed_is_unavailable() {
    let servers = Server::group(2);
    let nobody = "redis://127.0.0.1:1".to_owned();
    let builder = LockManager::quorum([servers[0].url(), servers[1].url(), nobody]);
    let builder = builder.node_timeout(millis(200)).release_timeout(secs(1));
    let guard = builder.build().unwrap().lock("k").await.unwrap();
    servers[1].pause();
    let error = within(guard.release()).await.unwrap_err();
    servers[1].resume();
    assert!(error.is_unavailable(), "{error:?}");
}

#[tokio::test]
async fn a_lock_that_one_of_three_nodes_supports_is_lost() {
    let site = Site::servers(3);
    let manager = site.builder().node_timeout(millis(200)).build().unwrap();
    drop(manager.ping().await);
    site.all()[2].pause();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    site.all()[1].del("k");
    within(guard.try_extend(secs(600))).await.unwrap_err();
    assert_eq!(within(guard.lost()).await, LossReason::Taken);
    site.all()[2].resume();
}

#[tokio::test]
async fn an_adopted_lock_is_released_where_the_counter_is_ahead_too() {
    let site = Site::servers(3);
    site.all()[2].command(&["SET", "{k}:fence", "4000000000000000"]);
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    let adopted = site.manager().adopt(guard.into_ticket()).await.unwrap();
    adopted.release().await.unwrap();
    site.empties("k").await;
}

/// A manager whose connections stand, over three servers of which the third answers late.
async fn over_a_slow_third(site: &Site, delay: Duration) -> (LockManager, Proxy) {
    let slow = Proxy::start(&site.all()[2]);
    let urls = [site.all()[0].url(), site.all()[1].url(), slow.url()];
    let builder = LockManager::quorum(urls).node_timeout(BOUND).release_timeout(BOUND * 2);
    let manager = builder.build().unwrap();
    drop(manager.ping().await);
    slow.delay_replies(delay);
    (manager, slow)
}

#[tokio::test]
async fn an_adopted_lock_is_released_where_the_counter_is_behind_too() {
    let site = Site::servers(3);
    for server in &site.all()[..2] {
        server.command(&["SET", "{k}:fence", "4000000000000000"]);
    }
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    let (manager, _slow) = over_a_slow_third(&site, millis(200)).await;
    let adopted = manager.adopt(guard.into_ticket()).await.unwrap();
    adopted.release().await.unwrap();
    site.empties("k").await;
}

#[tokio::test]
async fn a_refused_attempt_keeps_the_owners_lock_where_the_answer_came_late() {
    let site = Site::servers(3);
    let held = site.manager().lock("k").owner(owner()).ttl(secs(600)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    let (manager, _slow) = over_a_slow_third(&site, millis(100)).await;
    let request = manager.lock("k").owner(owner()).ttl(secs(600));
    assert!(within(request.try_acquire()).await.unwrap_err().is_contended());
    assert_eq!(within(manager.close()).await, 0);
    assert_eq!(site.lock_keys().len(), 3);
    held.release().await.unwrap();
}

#[tokio::test]
async fn close_does_not_wait_for_a_key_that_is_no_lock() {
    let site = Site::servers(3);
    for server in site.all() {
        server.command(&["RPUSH", "k", "a list"]);
    }
    let (manager, _slow) = over_a_slow_third(&site, millis(200)).await;
    within(manager.lock("k").try_acquire()).await.unwrap_err();
    assert_eq!(within(manager.close()).await, 0);
}

#[test]
fn a_release_reaches_every_server_although_its_runtime_has_ended() {
    let site = Site::servers(3);
    let manager = site.manager();
    let guard = runtime().block_on(async {
        let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
        eventually("every server has it", async || site.lock_keys().len() == 3).await;
        guard
    });
    site.all()[2].pause();
    runtime().block_on(within(guard.release())).unwrap();
    site.all()[2].resume();
    runtime().block_on(async {
        manager.lock("other").await.unwrap().release().await.unwrap();
        site.empties_of("k").await;
    });
}

#[test]
fn a_runtime_that_ends_while_lanes_connect_ends() {
    let (ended, rounds) = channel();
    std::thread::spawn(move || {
        for round in 0..100 {
            let mut builder = Builder::new_multi_thread();
            let runtime = builder.worker_threads(2).enable_all().build().unwrap();
            for _ in 0..2 {
                runtime.spawn(connect_in_vain());
            }
            std::thread::sleep(Duration::from_micros(300 + 37 * round % 1500));
            drop(runtime);
            ended.send(()).unwrap();
        }
    });
    for _ in 0..100 {
        rounds.recv_timeout(BOUND).expect("the runtime ends");
    }
}

async fn connect_in_vain() {
    loop {
        let manager = LockManager::single("redis://127.0.0.1:1").build().unwrap();
        manager.lock("k").try_acquire().await.unwrap_err();
    }
}

/// Through another manager, or by another process, the owner may have taken a lock since.
#[tokio::test]
async fn an_undo_that_goes_on_keeps_what_the_owner_got_through_another_manager() {
    let site = Site::servers(1);
    let proxy = Proxy::start(&site.all()[0]);
    let builder = LockManager::single(proxy.url()).node_timeout(millis(200));
    let first = builder.build().unwrap();
    first.lock("warm").await.unwrap().release().await.unwrap();
    proxy.swallow_replies();
    let request = || first.lock("k").owner(owner()).ttl(secs(600));
    // It is granted, and nobody hears of that; the release that follows is carried out as well.
    within(request().try_acquire()).await.unwrap_err();
    eventually("it is undone", async || site.lock_keys().is_empty()).await;
    let other = site.manager();
    let guard = other.lock("k").owner(owner()).ttl(secs(600)).await.unwrap();
    proxy.heal();
    proxy.cut();
    assert_eq!(within(first.close()).await, 0);
    guard.extend(secs(600)).await.expect("it is held");
}

#[tokio::test]
async fn a_lock_whose_release_goes_on_is_not_taken_over() {
    let site = Site::servers(1);
    let proxy = Proxy::start(&site.all()[0]);
    let builder = LockManager::single(proxy.url()).node_timeout(millis(200));
    // So long that it is a while until it is tried again.
    let builder = builder.release_timeout(secs(3)).outage_patience(secs(600));
    let manager = builder.build().unwrap();
    let request = || manager.lock("k").owner(owner()).ttl(secs(600));
    let first = request().acquire_or_extend().await.unwrap();
    let token = first.fencing_token();
    proxy.swallow_requests();
    assert!(first.release().await.unwrap_err().is_unavailable());
    proxy.heal();
    proxy.cut();
    let second = within(request().acquire_or_extend()).await.unwrap();
    assert!(second.fencing_token() > token, "the release would end it");
    second.extend(secs(600)).await.expect("it is held");
}
