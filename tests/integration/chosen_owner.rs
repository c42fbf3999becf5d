//! Owner tokens of the caller's choice: what is late, lost or undone keeps what the owner got since.

use redlatch::{LockManager, OwnerToken, Retry};

use crate::support::{
    Proxy, Server, Site, eventually, everywhere, millis, on_servers, over_a_slow_third, poll_times,
    secs, within,
};

everywhere!(dropping_an_expired_guard_keeps_the_owners_new_lock);

on_servers!(
    a_late_undo_keeps_what_the_owners_next_attempt_got,
    a_late_release_keeps_the_owners_next_lock,
    with_counters_ahead_of_the_clock_an_acquire_is_no_second_grant,
    with_counters_ahead_of_the_clock_acquire_or_extend_extends,
    a_cancelled_acquire_or_extend_keeps_the_owners_lock,
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
