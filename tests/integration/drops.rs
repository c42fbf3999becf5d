//! A dropped guard is released in the background, wherever it is dropped.

use redlatch::LockGuard;
use tokio::time::sleep_until;

use crate::support::{Proxy, Server, Site, eventually, everywhere, millis, on_servers, secs};

everywhere!(
    a_guard_dropped_in_a_task_is_released,
    a_guard_dropped_on_a_plain_thread_is_released,
    a_guard_dropped_by_a_panic_is_released,
    a_guard_dropped_by_an_aborted_task_is_released,
    a_guard_dropped_on_a_blocking_thread_is_released,
    a_guard_dropped_after_its_manager_is_released,
    many_guards_dropped_at_once_are_released,
    a_renewed_guard_dropped_is_released,
    a_guard_dropped_keeps_anothers_lock,
);

on_servers!(
    a_guard_dropped_while_the_servers_are_silent_is_released_later,
    a_guard_dropped_while_the_connection_is_broken_is_released,
    many_guards_dropped_during_an_outage_are_released_later,
    an_extended_guard_dropped_in_an_outage_is_released_however_long_that_lasts,
);

async fn locked(site: &Site) -> LockGuard {
    site.manager().lock("k").ttl(secs(600)).await.unwrap()
}

async fn a_guard_dropped_in_a_task_is_released(site: Site) {
    drop(locked(&site).await);
    site.empties("k").await;
}

async fn a_guard_dropped_on_a_plain_thread_is_released(site: Site) {
    let guard = locked(&site).await;
    std::thread::spawn(move || drop(guard)).join().unwrap();
    site.empties("k").await;
}

async fn a_guard_dropped_by_a_panic_is_released(site: Site) {
    let guard = locked(&site).await;
    let failing = tokio::spawn(async move {
        let _guard = guard;
        panic!("the holder fails");
    });
    assert!(failing.await.is_err_and(|error| error.is_panic()));
    site.empties("k").await;
}

async fn a_guard_dropped_by_an_aborted_task_is_released(site: Site) {
    let guard = locked(&site).await;
    let task = tokio::spawn(async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
    tokio::task::yield_now().await;
    task.abort();
    assert!(task.await.is_err_and(|error| error.is_cancelled()));
    site.empties("k").await;
}

async fn a_guard_dropped_on_a_blocking_thread_is_released(site: Site) {
    let guard = locked(&site).await;
    tokio::task::spawn_blocking(move || drop(guard)).await.unwrap();
    site.empties("k").await;
}

async fn a_guard_dropped_after_its_manager_is_released(site: Site) {
    let manager = site.manager();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    drop(manager);
    tokio::time::sleep(millis(20)).await;
    guard.extend(secs(700)).await.unwrap();
    drop(guard);
    site.empties("k").await;
}

async fn many_guards_dropped_at_once_are_released(site: Site) {
    let manager = site.manager();
    let mut guards = Vec::new();
    for n in 0..300 {
        guards.push(manager.lock(format!("k{n}")).ttl(secs(600)).await.unwrap());
    }
    drop(guards);
    site.empties("k299").await;
}

async fn a_renewed_guard_dropped_is_released(site: Site) {
    let request = site.manager().lock("k").ttl(secs(600));
    drop(request.auto_renew_every(millis(1)).await.unwrap());
    site.empties("k").await;
}

async fn a_guard_dropped_keeps_anothers_lock(site: Site) {
    let manager = site.manager();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    site.seize("k", guard.owner_token()).await;
    drop(guard);
    manager.close().await;
    assert_eq!(site.holder("k").await.as_deref(), Some("another-owner"));
}

async fn a_guard_dropped_while_the_servers_are_silent_is_released_later(site: Site) {
    let builder = site.builder().node_timeout(millis(100));
    let manager = builder.release_timeout(millis(100)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    drop(guard);
    tokio::time::sleep(millis(500)).await;
    site.all().iter().for_each(Server::resume);
    site.empties("k").await;
}

async fn a_guard_dropped_while_the_connection_is_broken_is_released(site: Site) {
    let guard = locked(&site).await;
    for server in site.all() {
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
    drop(guard);
    site.empties("k").await;
}

async fn many_guards_dropped_during_an_outage_are_released_later(site: Site) {
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let mut guards = Vec::new();
    for n in 0..100 {
        guards.push(manager.lock(format!("k{n}")).ttl(secs(600)).await.unwrap());
    }
    site.all()[0].pause();
    drop(guards);
    tokio::time::sleep(millis(500)).await;
    site.all()[0].resume();
    site.empties("k99").await;
}

/// It is tried until the end that the extend has set.
async fn an_extended_guard_dropped_in_an_outage_is_released_however_long_that_lasts(site: Site) {
    let (proxies, builder) = site.proxied();
    let manager = builder.node_timeout(millis(100)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(2)).await.unwrap();
    let first_end = guard.valid_until() + secs(1);
    guard.extend(secs(600)).await.unwrap();
    // A server that was not asked yet has nothing to release.
    site.fills("k").await;
    proxies.iter().for_each(Proxy::swallow_requests);
    drop(guard);
    sleep_until(first_end).await;
    for proxy in &proxies {
        let tries = proxy.swallowed_requests();
        eventually("it is tried again", async || proxy.swallowed_requests() > tries + 1).await;
        proxy.heal();
        proxy.cut();
    }
    site.empties("k").await;
}

#[test]
fn a_guard_dropped_after_its_runtime_does_no_harm() {
    let site = Site::servers(1);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let guard = runtime.block_on(locked(&site));
    drop(runtime);
    drop(guard);
}

#[test]
fn close_before_the_runtime_ends_releases_what_was_dropped() {
    let site = Site::servers(1);
    let manager = site.manager();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        drop(manager.lock("k").ttl(secs(600)).await.unwrap());
        assert_eq!(manager.close().await, 0);
    });
    assert!(site.lock_keys().is_empty());
}
