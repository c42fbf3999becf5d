//! Unfenced locks: one key in Redis and no token, and every other promise.

use std::collections::BTreeMap;

use redlatch::{
    Error, FencingToken, LockGuard, LockManager, LockRequest, LockTicket, LossReason, Retry,
};

use crate::support::{
    Events, Server, Site, eventually, everywhere, millis, on_servers, poll_times, secs, within,
};

everywhere!(
    an_unfenced_request_is_a_lock_for_all_its_life,
    a_request_to_an_unfenced_manager_is_a_lock_for_all_its_life,
    fenced_and_unfenced_locks_exclude_each_other,
    an_unfenced_lock_is_renewed,
    an_unfenced_lock_is_lost_when_it_is_gone,
    an_unfenced_lock_is_lost_when_it_is_anothers,
    an_unfenced_lock_is_lost_when_its_validity_ends,
    an_abandoned_unfenced_lock_goes_to_the_next,
    an_unfenced_manager_locks_sets,
    an_unfenced_request_locks_a_set,
    an_unfenced_lock_is_kept_for_nobody_until_its_min_hold,
    an_unfenced_manager_runs_work,
    a_dropped_unfenced_lock_can_be_taken_again_at_once,
    a_dropped_attempt_at_an_unfenced_lock_leaves_nothing,
    many_contenders_for_an_unfenced_lock_are_all_served_once,
);

on_servers!(an_unfenced_lock_is_one_key, nothing_is_left_of_an_unfenced_lock);

async fn an_unfenced_request_is_a_lock_for_all_its_life(site: Site) {
    let manager = site.manager();
    assert_whole_life(&site, || manager.lock("k").unfenced()).await;
}

async fn a_request_to_an_unfenced_manager_is_a_lock_for_all_its_life(site: Site) {
    let manager = unfenced(&site);
    assert_whole_life(&site, || manager.lock("k")).await;
}

/// Takes a lock, is refused it, extends it, looks at it, releases it and takes it again.
async fn assert_whole_life(site: &Site, request: impl Fn() -> LockRequest) {
    let guard = request().ttl(secs(600)).acquire().await.unwrap();
    assert!(guard.is_valid() && guard.fencing_token().is_none());
    assert_eq!(guard.fencing_token(), FencingToken::NONE);
    assert_refused(request()).await;
    guard.extend(secs(900)).await.unwrap();
    assert!(guard.remaining() > secs(600));
    let status = site.manager().inspect("k").await.unwrap();
    assert_eq!(status.owner_token(), Some(guard.owner_token()));
    assert!(status.expires_in() > Some(secs(600)) && !status.is_kept(), "{status:?}");
    assert_eq!(status.fencing_token(), None);
    guard.release().await.unwrap();
    site.empties("k").await;
    request().try_acquire().await.expect("it is free").release().await.unwrap();
}

/// Another has the lock for ten minutes.
async fn assert_refused(request: LockRequest) {
    let error = request.try_acquire().await.unwrap_err();
    let Error::AlreadyHeld { key, retry_after: Some(left), .. } = &error else {
        panic!("{error:?}");
    };
    assert!(key == "k" && *left > secs(300) && *left <= secs(600), "{error:?}");
}

async fn fenced_and_unfenced_locks_exclude_each_other(site: Site) {
    let (fenced, unfenced) = (site.manager(), unfenced(&site));
    let guard = fenced.lock("k").ttl(secs(600)).await.unwrap();
    assert_refused(unfenced.lock("k")).await;
    assert_refused(fenced.lock("k").unfenced()).await;
    guard.release().await.unwrap();
    let guard = unfenced.lock("k").ttl(secs(600)).await.unwrap();
    assert_refused(fenced.lock("k")).await;
    guard.release().await.unwrap();
    let guard = fenced.lock("k").try_acquire().await.unwrap();
    assert!(!guard.fencing_token().is_none());
}

async fn an_unfenced_lock_is_renewed(site: Site) {
    let (manager, events) = (unfenced(&site), Events::default());
    let request = manager.lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    let first = guard.valid_until();
    events.more_renewals(3).await;
    assert!(guard.valid_until() > first && guard.fencing_token().is_none());
    guard.release().await.unwrap();
    site.empties("k").await;
}

async fn an_unfenced_lock_is_lost_when_it_is_gone(site: Site) {
    let guard = renewed(&unfenced(&site)).await;
    released_elsewhere(&site, &guard).await;
    assert_eq!(within(guard.lost()).await, LossReason::Taken);
    assert!(guard.release().await.unwrap_err().is_not_held());
}

async fn an_unfenced_lock_is_lost_when_it_is_anothers(site: Site) {
    let manager = unfenced(&site);
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    released_elsewhere(&site, &guard).await;
    let next = manager.lock("k").ttl(secs(600)).try_acquire().await.unwrap();
    assert!(guard.try_extend(secs(600)).await.unwrap_err().is_not_held());
    assert_eq!(within(guard.lost()).await, LossReason::Taken);
    assert!(guard.release().await.unwrap_err().is_not_held());
    next.release().await.expect("it is the other's still");
}

async fn an_unfenced_lock_is_lost_when_its_validity_ends(site: Site) {
    let guard = unfenced(&site).lock("k").ttl(millis(200)).await.unwrap();
    assert_eq!(within(guard.lost()).await, LossReason::Expired);
    assert!(guard.try_extend(secs(600)).await.unwrap_err().is_not_held());
}

async fn an_abandoned_unfenced_lock_goes_to_the_next(site: Site) {
    let manager = unfenced(&site);
    manager.lock("k").ttl(millis(300)).await.unwrap().forget();
    let next = within(manager.lock("k").acquire()).await.unwrap();
    next.release().await.unwrap();
}

async fn an_unfenced_manager_locks_sets(site: Site) {
    let manager = unfenced(&site);
    let set = manager.lock_all(["a", "b"]).acquire().await.unwrap();
    let tokens: Vec<_> = set.fencing_tokens().collect();
    assert_eq!(tokens, [("a", FencingToken::NONE), ("b", FencingToken::NONE)]);
    set.extend(secs(900)).await.unwrap();
    let refused = manager.lock_all(["b", "c"]).try_acquire().await.unwrap_err();
    assert!(refused.is_contended(), "{refused:?}");
    drop(manager.lock("c").try_acquire().await.expect("the refused set has left nothing"));
    set.release().await.unwrap();
    for key in ["a", "b", "c"] {
        site.empties(key).await;
    }
}

async fn an_unfenced_request_locks_a_set(site: Site) {
    let set = site.manager().lock_all(["a", "b"]).unfenced().await.unwrap();
    assert!(set.fencing_tokens().all(|(_, token)| token.is_none()));
    let fenced = site.manager().lock_all(["b", "c"]);
    assert!(fenced.try_acquire().await.unwrap_err().is_contended());
    set.release().await.unwrap();
}

async fn an_unfenced_lock_is_kept_for_nobody_until_its_min_hold(site: Site) {
    let manager = unfenced(&site);
    let guard = manager.lock("k").ttl(secs(30)).min_hold(secs(600)).await.unwrap();
    let owner = guard.owner_token().clone();
    guard.release().await.unwrap();
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.is_held() && status.is_kept(), "{status:?}");
    assert_refused(manager.lock("k")).await;
    let ticket = LockTicket::new("k", owner, FencingToken::NONE, secs(600));
    assert!(manager.adopt(ticket).await.unwrap_err().is_not_held(), "not even its last owner's");
}

async fn an_unfenced_manager_runs_work(site: Site) {
    let request = unfenced(&site).lock("k").ttl(secs(600));
    let token = request.run(async |guard| guard.fencing_token()).await.unwrap();
    assert!(token.is_none());
    site.empties("k").await;
}

async fn a_dropped_unfenced_lock_can_be_taken_again_at_once(site: Site) {
    let manager = unfenced(&site);
    for _ in 0..20 {
        let guard = manager.lock("k").try_acquire().await.expect("the drop came first");
        drop(guard);
    }
}

async fn a_dropped_attempt_at_an_unfenced_lock_leaves_nothing(site: Site) {
    let manager = unfenced(&site);
    for polls in 1..6 {
        drop(poll_times(polls, manager.lock("k").acquire()).await);
    }
    let held = site.manager().lock("held").await.unwrap();
    for polls in 1..6 {
        drop(poll_times(polls, manager.lock("held").try_acquire()).await);
    }
    assert_eq!(within(manager.close()).await, 0);
    held.release().await.expect("it is held");
    site.empties("k").await;
}

async fn many_contenders_for_an_unfenced_lock_are_all_served_once(site: Site) {
    let managers = [unfenced(&site), unfenced(&site), site.manager()];
    let inside = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..30 {
        let request = managers[n % 3].lock("k").retry(Retry::jittered(millis(0), millis(10)));
        let inside = inside.clone();
        tasks.spawn(async move {
            let guard = request.acquire().await.unwrap();
            let alone = inside.try_acquire().expect("nobody else is inside");
            tokio::task::yield_now().await;
            drop(alone);
            guard.release().await.unwrap();
        });
    }
    assert_eq!(within(tasks.join_all()).await.len(), 30);
}

async fn an_unfenced_lock_is_one_key(site: Site) {
    let guard = unfenced(&site).lock("k").ttl(secs(600)).await.unwrap();
    site.fills("k").await;
    guard.extend(secs(900)).await.unwrap();
    eventually("every server has extended it", async || site.live_longer("k", secs(600))).await;
    for server in site.all() {
        assert_eq!(server.query::<Vec<String>>(&["KEYS", "*"]), ["k"]);
        assert_eq!(server.get("k").unwrap(), guard.owner_token().as_str());
    }
}

async fn nothing_is_left_of_an_unfenced_lock(site: Site) {
    let manager = unfenced(&site);
    manager.lock("k").await.unwrap().release().await.unwrap();
    drop(manager.lock("k").await.unwrap());
    manager.lock_all(["a", "b"]).await.unwrap().release().await.unwrap();
    assert_eq!(manager.close().await, 0);
    eventually("every server is empty", async || {
        site.all().iter().all(|server| server.contents() == BTreeMap::new())
    })
    .await;
}

#[tokio::test]
async fn an_unfenced_lock_is_put_back_where_a_minority_has_lost_it() {
    let site = Site::servers(3);
    let guard = renewed(&unfenced(&site)).await;
    site.fills("k").await;
    site.all()[1].del("k");
    site.fills("k").await;
    assert!(guard.is_valid());
    assert!(site.all().iter().all(|server| server.counter("{k}:fence").is_none()));
}

#[tokio::test]
async fn an_unfenced_lock_leaves_the_counter_alone() {
    let site = Site::servers(1);
    let server = &site.all()[0];
    server.command(&["SET", "{k}:fence", "7", "PX", "100000"]);
    let guard = renewed(&unfenced(&site)).await;
    guard.extend(secs(900)).await.unwrap();
    let guard = site.manager().adopt(guard.into_ticket()).await.unwrap();
    guard.release().await.unwrap();
    let kept = unfenced(&site).lock("k").min_hold(secs(60)).await.unwrap();
    kept.release().await.unwrap();
    assert_eq!(server.get("{k}:fence").as_deref(), Some("7"));
    assert!(server.pttl("{k}:fence") <= Some(secs(100)));
}

#[tokio::test]
async fn releases_of_unfenced_locks_survive_restarts_of_a_minority() {
    let site = Site::servers(3);
    let guard = unfenced(&site).lock("k").ttl(secs(600)).await.unwrap();
    site.fills("k").await;
    Server::restart(&site.all()[0]);
    within(guard.release()).await.unwrap();
    site.empties("k").await;
}

/// A lock that is renewed all the time.
async fn renewed(manager: &LockManager) -> LockGuard {
    let request = manager.lock("k").ttl(secs(600));
    request.auto_renew_every(millis(20)).await.unwrap()
}

/// Ends a lock behind its holder's back, by what its holder knows.
async fn released_elsewhere(site: &Site, guard: &LockGuard) {
    let owner = guard.owner_token().clone();
    let ticket = LockTicket::new(guard.key(), owner, FencingToken::NONE, secs(600));
    let adopted = site.manager().adopt(ticket).await.unwrap();
    adopted.release().await.unwrap();
}

fn unfenced(site: &Site) -> LockManager {
    site.builder().unfenced().build().unwrap()
}
