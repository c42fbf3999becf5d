//! Taking a lock: who gets it, who waits, who is told what.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use futures_util::future::{join, poll_immediate};
use redlatch::{Error, LockManager, OwnerToken, Retry};
use tokio::task::JoinSet;

use crate::support::{Site, eventually, everywhere, millis, secs, within};

everywhere!(
    an_acquired_lock_belongs_to_its_owner_token,
    a_request_can_be_awaited_itself,
    a_guard_tells_what_was_asked_for,
    a_default_ttl_comes_from_the_manager,
    another_manager_is_refused,
    another_request_of_the_same_manager_is_refused,
    different_keys_do_not_exclude_each_other,
    a_released_lock_can_be_taken_again,
    a_waiter_gets_a_released_lock,
    a_waiter_gets_an_expired_lock,
    the_caller_may_choose_the_owner_token,
    owner_tokens_differ_from_request_to_request,
    at_most_one_holder_at_any_time,
    a_wait_timeout_ends_the_waiting,
    a_zero_wait_timeout_still_makes_one_attempt,
    retries_used_up_are_told_with_the_last_cause,
    never_retrying_makes_one_attempt,
    a_custom_retry_is_asked_for_each_delay,
    a_refused_attempt_leaves_nothing_behind,
);

async fn an_acquired_lock_belongs_to_its_owner_token(site: Site) {
    let guard = site.manager().lock("k").acquire().await.unwrap();
    let holder = site.holder("k").await;
    assert_eq!(holder.as_deref(), Some(guard.owner_token().as_str()));
}

async fn a_request_can_be_awaited_itself(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    assert!(guard.is_valid());
}

async fn a_guard_tells_what_was_asked_for(site: Site) {
    let ttl = secs(50);
    let before = tokio::time::Instant::now();
    let guard = site.manager().lock("k").ttl(ttl).acquire().await.unwrap();
    assert_eq!((guard.key(), guard.ttl()), ("k", ttl));
    assert!(guard.valid_until() > before && guard.valid_until() < before + ttl);
    assert!(!guard.remaining().is_zero() && guard.remaining() < ttl);
}

async fn a_default_ttl_comes_from_the_manager(site: Site) {
    let manager = site.builder().ttl(secs(77)).build().unwrap();
    let guard = manager.lock("k").await.unwrap();
    assert_eq!(guard.ttl(), secs(77));
}

async fn another_manager_is_refused(site: Site) {
    let _guard = site.manager().lock("k").ttl(secs(60)).await.unwrap();
    let error = site.manager().lock("k").try_acquire().await.unwrap_err();
    let Error::AlreadyHeld { key, retry_after, .. } = &error else {
        panic!("{error:?}");
    };
    let retry_after = retry_after.expect("the holder's TTL is known");
    assert_eq!(key, "k");
    assert!(!retry_after.is_zero() && retry_after <= secs(60));
    assert!(error.is_contended() && !error.is_unavailable() && !error.is_timeout());
}

async fn another_request_of_the_same_manager_is_refused(site: Site) {
    let manager = site.manager();
    let _guard = manager.lock("k").await.unwrap();
    let error = manager.clone().lock("k").try_acquire().await.unwrap_err();
    assert!(matches!(error, Error::AlreadyHeld { .. }), "{error:?}");
}

async fn different_keys_do_not_exclude_each_other(site: Site) {
    let manager = site.manager();
    let _a = manager.lock("a").try_acquire().await.unwrap();
    let _b = manager.lock("b").try_acquire().await.unwrap();
}

async fn a_released_lock_can_be_taken_again(site: Site) {
    let (one, other) = (site.manager(), site.manager());
    one.lock("k").await.unwrap().release().await.unwrap();
    let _guard = other.lock("k").try_acquire().await.unwrap();
}

async fn a_waiter_gets_a_released_lock(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let waiter = tokio::spawn(site.manager().lock("k").acquire());
    tokio::time::sleep(millis(20)).await;
    assert!(!waiter.is_finished(), "the lock is held");
    guard.release().await.unwrap();
    let _guard = within(waiter).await.unwrap().unwrap();
}

async fn a_waiter_gets_an_expired_lock(site: Site) {
    let guard = site.manager().lock("k").ttl(millis(500)).await.unwrap();
    guard.forget();
    let _guard = within(site.manager().lock("k").acquire()).await.unwrap();
}

async fn the_caller_may_choose_the_owner_token(site: Site) {
    let owner = OwnerToken::new("worker-7").unwrap();
    let guard = site.manager().lock("k").owner(owner.clone()).await.unwrap();
    assert_eq!(guard.owner_token(), &owner);
    assert_eq!(site.holder("k").await.as_deref(), Some("worker-7"));
}

async fn owner_tokens_differ_from_request_to_request(site: Site) {
    let manager = site.manager();
    let a = manager.lock("a").await.unwrap();
    let b = manager.lock("b").await.unwrap();
    assert_ne!(a.owner_token(), b.owner_token());
}

async fn at_most_one_holder_at_any_time(site: Site) {
    let (inside, entries) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let manager = site.manager();
        for _ in 0..3 {
            tasks.spawn(enter_often(manager.clone(), Arc::clone(&inside), Arc::clone(&entries)));
        }
    }
    within(tasks.join_all()).await;
    assert_eq!(entries.load(Ordering::SeqCst), 9 * ENTRIES);
}

async fn enter_often(manager: LockManager, inside: Arc<AtomicBool>, entries: Arc<AtomicU32>) {
    for _ in 0..ENTRIES {
        let request = manager.lock("k").retry(Retry::jittered(millis(0), millis(10)));
        let guard = request.ttl(secs(600)).acquire().await.unwrap();
        assert!(!inside.swap(true, Ordering::SeqCst), "two holders at once");
        tokio::task::yield_now().await;
        entries.fetch_add(1, Ordering::SeqCst);
        assert!(inside.swap(false, Ordering::SeqCst), "two holders at once");
        guard.release().await.unwrap();
    }
}

async fn a_wait_timeout_ends_the_waiting(site: Site) {
    let _guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let request = site.manager().lock("k").wait_timeout(millis(100));
    let error = within(request.acquire()).await.unwrap_err();
    let Error::WaitTimeout { key, attempts, waited, source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(key, "k");
    assert!(*attempts >= 1 && *waited >= millis(100), "{error:?}");
    assert!(matches!(**source, Error::AlreadyHeld { .. }), "{source:?}");
    assert!(error.is_timeout() && error.is_contended() && !error.is_unavailable());
}

async fn a_zero_wait_timeout_still_makes_one_attempt(site: Site) {
    let manager = site.manager();
    let request = || manager.lock("k").wait_timeout(millis(0));
    let _guard = request().acquire().await.expect("the one attempt finds it free");
    let error = within(request().acquire()).await.unwrap_err();
    assert!(matches!(error, Error::WaitTimeout { attempts: 1, .. }), "{error:?}");
}

async fn retries_used_up_are_told_with_the_last_cause(site: Site) {
    let _guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let retry = Retry::jittered(millis(1), millis(1)).max_retries(3);
    let request = site.manager().lock("k").retry(retry);
    let error = within(request.acquire()).await.unwrap_err();
    let Error::RetriesExhausted { key, attempts, source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((key.as_str(), *attempts), ("k", 4));
    assert!(matches!(**source, Error::AlreadyHeld { .. }), "{source:?}");
    assert!(error.is_contended() && !error.is_timeout() && !error.is_unavailable());
}

async fn never_retrying_makes_one_attempt(site: Site) {
    let _guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let request = site.manager().lock("k").retry(Retry::never());
    let error = within(request.acquire()).await.unwrap_err();
    assert!(matches!(error, Error::RetriesExhausted { attempts: 1, .. }), "{error:?}");
}

async fn a_custom_retry_is_asked_for_each_delay(site: Site) {
    let _guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&asked);
    let retry = Retry::from_fn(move |n| {
        assert_eq!(seen.fetch_add(1, Ordering::SeqCst) + 1, n, "one by one from 1");
        millis(1)
    });
    let request = site.manager().lock("k").retry(retry.max_retries(4));
    within(request.acquire()).await.unwrap_err();
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

async fn a_refused_attempt_leaves_nothing_behind(site: Site) {
    let manager = site.manager();
    let guard = manager.lock("k").await.unwrap();
    for _ in 0..10 {
        site.manager().lock("k").try_acquire().await.unwrap_err();
    }
    guard.release().await.unwrap();
    site.empties("k").await;
}

#[tokio::test]
async fn a_short_retry_delay_does_not_starve_others_of_the_runtime() {
    let site = Site::memory(1);
    let manager = site.manager();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    let retry = Retry::jittered(millis(0), millis(0)).max_retries(u32::MAX);
    let waiter = tokio::spawn(manager.lock("k").retry(retry).acquire());
    tokio::time::sleep(millis(20)).await;
    guard.release().await.unwrap();
    eventually("the waiter holds it", async || waiter.is_finished()).await;
}

/// It has forgotten the lock, so that the late vote of another makes no majority with its own.
#[tokio::test]
async fn the_vote_of_a_server_that_has_restarted_since_does_not_count() {
    let site = Site::servers(3);
    site.learns_the_scripts().await;
    let (proxies, builder) = site.proxied();
    let manager = builder.build().unwrap();
    assert!(manager.ping().await.iter().all(|node| node.round_trip().is_ok()));
    proxies[1].swallow_requests();
    proxies[2].hold_replies();
    let restart = async {
        eventually("two have voted", async || site.lock_keys().len() == 2).await;
        let connections = proxies[0].accepted();
        site.all()[0].restart();
        eventually("it is connected to anew", async || {
            // Whoever says something to it finds out.
            drop(poll_immediate(manager.ping()).await);
            proxies[0].accepted() > connections
        })
        .await;
        proxies[2].heal();
        proxies[1].cut();
    };
    let (acquired, ()) = within(join(manager.lock("k").try_acquire(), restart)).await;
    assert!(acquired.unwrap_err().is_unavailable());
}

/// How often each contender enters.
const ENTRIES: u32 = 20;
