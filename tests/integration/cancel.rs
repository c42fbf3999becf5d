//! Dropped futures leave no lock behind: at every await, after any delay, on every node.

use std::time::Duration;

use redlatch::{LockGuard, LockManager, OwnerToken, Result};

use crate::support::{
    Proxy, Seeds, Server, Site, eventually, everywhere, millis, on_servers, poll_times, secs, spin,
    within,
};

everywhere!(
    acquire_dropped_at_every_await_leaves_nothing,
    try_acquire_dropped_at_every_await_leaves_nothing,
    acquire_or_extend_dropped_at_every_await_leaves_nothing,
    run_dropped_at_every_await_leaves_nothing,
    extend_dropped_at_every_await_leaves_nothing,
    release_dropped_at_every_await_leaves_nothing,
    a_waiting_acquire_dropped_at_every_await_leaves_nothing,
    a_dropped_waiter_leaves_the_holder_alone,
    a_dropped_waiter_lets_the_next_one_in,
    acquire_dropped_after_any_delay_leaves_nothing,
    acquire_timed_out_from_outside_leaves_nothing,
);

on_servers!(
    acquire_dropped_while_the_servers_are_silent_leaves_nothing,
    release_dropped_while_the_servers_are_silent_leaves_nothing,
    run_dropped_while_the_servers_are_silent_leaves_nothing,
    acquire_dropped_before_a_late_answer_leaves_nothing,
    acquire_that_lost_its_reply_leaves_nothing,
    acquire_cut_off_leaves_nothing,
    acquire_timed_out_by_its_nodes_leaves_nothing,
);

/// Drops a future after 0, 1, 2.. polls, until it has twice come to its end; several times over.
async fn at_every_await<T>(mut start: impl AsyncFnMut(u32, usize) -> Option<T>) {
    let mut key = 0;
    for _ in 0..ROUNDS {
        let (mut polls, mut finished) = (0, 0);
        while finished < 2 {
            key += 1;
            let output = start(key, polls).await;
            finished += u32::from(output.is_some());
            polls += 1;
            assert!(polls < 1000, "it never ends");
        }
    }
}

async fn acquire_dropped_at_every_await_leaves_nothing(site: Site) {
    let manager = site.manager();
    at_every_await(async |key, polls| poll_times(polls, request(&manager, key).acquire()).await)
        .await;
    nothing_is_left(&site).await;
}

async fn try_acquire_dropped_at_every_await_leaves_nothing(site: Site) {
    let manager = site.manager();
    at_every_await(async |key, polls| {
        poll_times(polls, request(&manager, key).try_acquire()).await
    })
    .await;
    nothing_is_left(&site).await;
}

async fn acquire_or_extend_dropped_at_every_await_leaves_nothing(site: Site) {
    let manager = site.manager();
    let owner = OwnerToken::new("worker-7").unwrap();
    at_every_await(async |key, polls| {
        let request = request(&manager, key).owner(owner.clone());
        poll_times(polls, request.acquire_or_extend()).await
    })
    .await;
    nothing_is_left(&site).await;
}

async fn run_dropped_at_every_await_leaves_nothing(site: Site) {
    let manager = site.manager();
    at_every_await(async |key, polls| {
        let work = async |_: &LockGuard| {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
        };
        poll_times(polls, request(&manager, key).run(work)).await
    })
    .await;
    nothing_is_left(&site).await;
}

async fn extend_dropped_at_every_await_leaves_nothing(site: Site) {
    let manager = site.manager();
    at_every_await(async |key, polls| {
        let guard = request(&manager, key).acquire().await.unwrap();
        let deadline = guard.valid_until();
        let output = poll_times(polls, guard.extend(secs(900))).await;
        assert!(guard.is_valid() && guard.valid_until() >= deadline);
        output
    })
    .await;
    nothing_is_left(&site).await;
}

async fn release_dropped_at_every_await_leaves_nothing(site: Site) {
    let manager = site.manager();
    at_every_await(async |key, polls| {
        let guard = request(&manager, key).auto_renew().await.unwrap();
        poll_times(polls, guard.release()).await
    })
    .await;
    nothing_is_left(&site).await;
}

async fn a_waiting_acquire_dropped_at_every_await_leaves_nothing(site: Site) {
    let (holder, waiter) = (site.manager(), site.manager());
    for polls in 0..40 {
        let guard = request(&holder, 1).acquire().await.unwrap();
        let wait = poll_times(polls, request(&waiter, 1).acquire());
        let release = async {
            tokio::task::yield_now().await;
            guard.release().await.unwrap();
        };
        within(futures_util::future::join(wait, release)).await;
    }
    nothing_is_left(&site).await;
}

async fn a_dropped_waiter_leaves_the_holder_alone(site: Site) {
    let guard = request(&site.manager(), 1).acquire().await.unwrap();
    let waiter = site.manager();
    for polls in 0..30 {
        let wait = poll_times(polls, request(&waiter, 1).acquire());
        let got = tokio::time::timeout(millis(3), wait).await.ok().flatten();
        assert!(got.is_none(), "the lock is held");
    }
    waiter.close().await;
    guard.extend(secs(600)).await.expect("it is held on a majority");
    let holder = site.holder("1").await;
    assert_eq!(holder.as_deref(), Some(guard.owner_token().as_str()));
}

async fn a_dropped_waiter_lets_the_next_one_in(site: Site) {
    let (holder, waiters) = (site.manager(), site.manager());
    for polls in 0..10 {
        let guard = request(&holder, 1).acquire().await.unwrap();
        let mut first = Box::pin(request(&waiters, 1).acquire());
        let second = tokio::spawn(request(&waiters, 1).acquire());
        for _ in 0..polls {
            let waiting = tokio::time::timeout(Duration::from_micros(100), &mut first).await;
            assert!(waiting.is_err(), "the lock is held");
        }
        guard.release().await.unwrap();
        drop(first);
        within(second).await.unwrap().unwrap().release().await.unwrap();
    }
    nothing_is_left(&site).await;
}

async fn acquire_dropped_after_any_delay_leaves_nothing(site: Site) {
    let (manager, mut seeds) = (site.manager(), Seeds::new(5));
    let _warm = request(&manager, 0).acquire().await.unwrap();
    for key in 1..200 {
        let delay = seeds.duration(millis(1));
        drop_after(delay, request(&manager, key).acquire()).await;
    }
    drop(_warm);
    nothing_is_left(&site).await;
}

async fn acquire_timed_out_from_outside_leaves_nothing(site: Site) {
    let (manager, mut seeds) = (site.manager(), Seeds::new(6));
    for key in 1..50 {
        let patience = seeds.duration(millis(3));
        let acquire = tokio::time::timeout(patience, request(&manager, key % 5).acquire());
        drop(acquire.await);
    }
    nothing_is_left(&site).await;
}

async fn acquire_dropped_while_the_servers_are_silent_leaves_nothing(site: Site) {
    let manager = site.builder().node_timeout(millis(200)).build().unwrap();
    request(&manager, 0).acquire().await.unwrap().release().await.unwrap();
    site.all()[0].pause();
    for key in 1..60_usize {
        let acquire = request(&manager, u32::try_from(key).unwrap()).acquire();
        drop(tokio::time::timeout(millis(1), poll_times(key % 6, acquire)).await);
    }
    site.all()[0].resume();
    nothing_is_left(&site).await;
}

async fn release_dropped_while_the_servers_are_silent_leaves_nothing(site: Site) {
    let manager = site.builder().node_timeout(millis(200)).build().unwrap();
    let mut guards = Vec::new();
    for key in 0..30 {
        guards.push(request(&manager, key).acquire().await.unwrap());
    }
    site.all()[0].pause();
    for (polls, guard) in guards.into_iter().enumerate() {
        drop(tokio::time::timeout(millis(1), poll_times(polls % 5, guard.release())).await);
    }
    site.all()[0].resume();
    nothing_is_left(&site).await;
}

async fn run_dropped_while_the_servers_are_silent_leaves_nothing(site: Site) {
    let manager = site.builder().node_timeout(millis(200)).build().unwrap();
    for key in 0..5 {
        let run = request(&manager, key).run(async |_| {
            site.all()[0].pause();
            std::future::pending::<()>().await;
        });
        drop(tokio::time::timeout(millis(50), run).await);
        site.all()[0].resume();
    }
    nothing_is_left(&site).await;
}

async fn acquire_dropped_before_a_late_answer_leaves_nothing(site: Site) {
    let (proxies, manager) = proxied(&site, secs(10));
    proxies.iter().for_each(|proxy| proxy.delay_replies(millis(3)));
    let mut seeds = Seeds::new(7);
    for key in 0..100 {
        let delay = seeds.duration(millis(12));
        drop_after(delay, request(&manager, key).acquire()).await;
    }
    proxies.iter().for_each(Proxy::heal);
    nothing_is_left(&site).await;
}

async fn acquire_that_lost_its_reply_leaves_nothing(site: Site) {
    let (proxies, manager) = proxied(&site, millis(100));
    request(&manager, 0).acquire().await.unwrap().release().await.unwrap();
    proxies.iter().for_each(Proxy::swallow_replies);
    let error = within(request(&manager, 1).try_acquire()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    proxies.iter().for_each(Proxy::heal);
    nothing_is_left(&site).await;
}

async fn acquire_cut_off_leaves_nothing(site: Site) {
    let (proxies, manager) = proxied(&site, secs(1));
    proxies.iter().for_each(|proxy| proxy.delay_replies(millis(1)));
    let mut seeds = Seeds::new(8);
    for key in 0..40 {
        let delay = seeds.duration(millis(8));
        let cut = async {
            spin(delay).await;
            let chosen = usize::try_from(seeds.next() % 7).unwrap() % proxies.len();
            proxies[chosen].cut();
        };
        let (acquired, ()) =
            futures_util::future::join(request(&manager, key).try_acquire(), cut).await;
        drop(acquired);
    }
    proxies.iter().for_each(Proxy::heal);
    nothing_is_left(&site).await;
}

async fn acquire_timed_out_by_its_nodes_leaves_nothing(site: Site) {
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    request(&manager, 0).acquire().await.unwrap().release().await.unwrap();
    site.all().iter().for_each(Server::pause);
    for key in 1..4 {
        let error = within(request(&manager, key).try_acquire()).await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
    }
    site.all().iter().for_each(Server::resume);
    nothing_is_left(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acquire_dropped_on_another_thread_leaves_nothing() {
    let site = Site::servers(3);
    let (manager, mut seeds) = (site.manager(), Seeds::new(9));
    for key in 0..200 {
        let task = tokio::spawn(request(&manager, key % 20).acquire());
        spin(seeds.duration(millis(2))).await;
        task.abort();
        drop(task.await);
    }
    nothing_is_left(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn futures_dropped_on_another_thread_leave_nothing_on_one_server() {
    let site = Site::servers(1);
    let (manager, mut seeds) = (site.manager(), Seeds::new(10));
    for key in 0..200 {
        let cycle = whole_life(manager.clone(), key % 20);
        let task = tokio::spawn(cycle);
        spin(seeds.duration(millis(2))).await;
        task.abort();
        drop(task.await);
    }
    nothing_is_left(&site).await;
}

/// Acquire, extend and release in one future.
async fn whole_life(manager: LockManager, key: u32) -> Result<()> {
    let guard = request(&manager, key).auto_renew_every(millis(1)).await?;
    guard.extend(secs(700)).await?;
    guard.release().await
}

/// So long a TTL that only a release can free the key within the test.
fn request(manager: &LockManager, key: u32) -> redlatch::LockRequest {
    manager.lock(key.to_string()).ttl(secs(600))
}

async fn drop_after<F: Future>(delay: Duration, future: F) {
    tokio::select! {
        biased;
        _ = future => {}
        () = spin(delay) => {}
    }
}

/// A manager that talks to the servers through faulty networks.
fn proxied(site: &Site, node_timeout: Duration) -> (Vec<Proxy>, LockManager) {
    let proxies: Vec<_> = site.all().iter().map(Proxy::start).collect();
    let manager = LockManager::quorum(proxies.iter().map(Proxy::url));
    let manager = manager.node_timeout(node_timeout).build().unwrap();
    (proxies, manager)
}

async fn nothing_is_left(site: &Site) {
    eventually("no node holds a lock key", async || site.lock_keys().is_empty()).await;
    let watcher = site.manager();
    for key in 0..200 {
        let key = key.to_string();
        eventually("the key is free", async || !watcher.inspect(&key).await.unwrap().is_held())
            .await;
    }
}

/// How often every await is tried.
const ROUNDS: u32 = 10;
