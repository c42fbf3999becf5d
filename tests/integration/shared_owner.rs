//! `acquire_or_extend`: guards that share an owner token share one lock.

use redlatch::{Error, LossReason, OwnerToken};
use tokio::time::{Instant, sleep};

use crate::support::{Site, eventually, everywhere, millis, on_servers, secs, within};

everywhere!(
    a_free_lock_is_acquired,
    a_free_lock_is_acquired_without_an_owner_token_too,
    the_owners_lock_is_extended,
    the_owners_lock_is_not_shortened,
    guards_of_one_owner_share_the_fencing_token,
    a_lock_taken_anew_gets_a_new_fencing_token,
    anothers_lock_is_waited_for,
    anothers_lock_is_kept_when_the_wait_ends,
    releasing_one_guard_ends_the_lock_for_all,
    dropping_one_guard_ends_the_lock_for_all,
    a_lock_that_is_forgotten_at_once_is_shared,
);

on_servers!(the_owners_lock_is_extended_in_redis);

fn owner() -> OwnerToken {
    OwnerToken::new("worker-7").unwrap()
}

async fn a_free_lock_is_acquired(site: Site) {
    let request = site.manager().lock("k").owner(owner());
    let guard = request.acquire_or_extend().await.unwrap();
    assert!(guard.is_valid());
    assert_eq!(site.holder("k").await.as_deref(), Some("worker-7"));
}

async fn a_free_lock_is_acquired_without_an_owner_token_too(site: Site) {
    let guard = site.manager().lock("k").acquire_or_extend().await.unwrap();
    let holder = site.holder("k").await;
    assert_eq!(holder.as_deref(), Some(guard.owner_token().as_str()));
}

async fn the_owners_lock_is_extended(site: Site) {
    let first = site.manager().lock("k").owner(owner()).ttl(secs(20)).await.unwrap();
    let request = site.manager().lock("k").owner(owner()).ttl(secs(200));
    let second = request.acquire_or_extend().await.unwrap();
    assert!(second.valid_until() > first.valid_until() + secs(60));
}

async fn the_owners_lock_is_extended_in_redis(site: Site) {
    let _first = site.manager().lock("k").owner(owner()).ttl(secs(20)).await.unwrap();
    let request = site.manager().lock("k").owner(owner()).ttl(secs(200));
    let _second = request.acquire_or_extend().await.unwrap();
    let extended = site.all().iter().filter(|server| server.pttl("k") > Some(secs(60)));
    assert!(extended.count() > site.all().len() / 2);
}

async fn the_owners_lock_is_not_shortened(site: Site) {
    let _first = site.manager().lock("k").owner(owner()).ttl(secs(600)).await.unwrap();
    let request = site.manager().lock("k").owner(owner()).ttl(secs(5));
    let _second = request.acquire_or_extend().await.unwrap();
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.expires_in() > Some(secs(300)), "{status:?}");
}

async fn guards_of_one_owner_share_the_fencing_token(site: Site) {
    let manager = site.manager();
    let request = || manager.lock("k").owner(owner());
    let first = request().acquire().await.unwrap();
    let second = request().acquire_or_extend().await.unwrap();
    let third = site.manager().lock("k").owner(owner()).acquire_or_extend().await.unwrap();
    assert_eq!(first.fencing_token(), second.fencing_token());
    assert_eq!(first.fencing_token(), third.fencing_token());
}

async fn a_lock_taken_anew_gets_a_new_fencing_token(site: Site) {
    let request = || site.manager().lock("k").owner(owner());
    let first = request().acquire_or_extend().await.unwrap();
    let old = first.fencing_token();
    first.release().await.unwrap();
    let second = request().acquire_or_extend().await.unwrap();
    assert!(second.fencing_token() > old);
}

async fn anothers_lock_is_waited_for(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let waiter = tokio::spawn(site.manager().lock("k").owner(owner()).acquire_or_extend());
    sleep(millis(20)).await;
    assert!(!waiter.is_finished(), "the lock is held");
    guard.release().await.unwrap();
    let _guard = within(waiter).await.unwrap().unwrap();
}

async fn anothers_lock_is_kept_when_the_wait_ends(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let request = site.manager().lock("k").owner(owner()).wait_timeout(millis(50));
    let error = within(request.acquire_or_extend()).await.unwrap_err();
    assert!(error.is_timeout() && error.is_contended(), "{error:?}");
    let holder = site.holder("k").await;
    assert_eq!(holder.as_deref(), Some(guard.owner_token().as_str()));
}

async fn releasing_one_guard_ends_the_lock_for_all(site: Site) {
    let request = || site.manager().lock("k").owner(owner());
    let first = request().acquire_or_extend().await.unwrap();
    let second = request().acquire_or_extend().await.unwrap();
    second.release().await.unwrap();
    let error = first.extend(secs(60)).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
    assert_eq!(within(first.lost()).await, LossReason::Taken);
}

async fn dropping_one_guard_ends_the_lock_for_all(site: Site) {
    let request = || site.manager().lock("k").owner(owner());
    let first = request().acquire_or_extend().await.unwrap();
    drop(request().acquire_or_extend().await.unwrap());
    site.empties("k").await;
    let error = first.try_extend(secs(60)).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
}

/// It was forgotten before the servers had even said that they do not know the script which marks it as held.
async fn a_lock_that_is_forgotten_at_once_is_shared(site: Site) {
    let manager = site.manager();
    let request = || manager.lock("k").owner(owner()).ttl(secs(600));
    site.all().iter().for_each(|server| drop(server.command(&["SCRIPT", "FLUSH"])));
    let first = within(request().try_acquire()).await.unwrap();
    let token = first.fencing_token();
    first.forget();
    let second = within(request().acquire_or_extend()).await.unwrap();
    assert_eq!(second.fencing_token(), token);
}

/// There is no use in waiting for the end of a lock that it may share. On the clock of a test, what is no wait takes no
/// time.
#[tokio::test(start_paused = true)]
async fn whoever_stands_behind_its_own_owner_in_the_queue_joins_at_once() {
    let site = Site::memory(3);
    let (manager, other) = (site.manager(), site.manager());
    let request = || manager.lock("k").owner(owner()).ttl(secs(600));
    let held = other.lock("k").ttl(secs(600)).await.unwrap();
    let first = tokio::spawn(request().acquire());
    sleep(millis(10)).await;
    let joiner = tokio::spawn(request().acquire_or_extend());
    sleep(millis(10)).await;
    held.release().await.unwrap();
    let first = first.await.unwrap().unwrap();
    let start = Instant::now();
    let joined = joiner.await.unwrap().unwrap();
    assert_eq!(joined.fencing_token(), first.fencing_token());
    assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_lock_is_released_where_it_was_put_back_beside_a_counter_that_went_on() {
    let site = Site::servers(3);
    let manager = site.manager();
    let request = manager.lock("k").owner(owner()).ttl(secs(600)).auto_renew_every(millis(20));
    let guard = request.acquire().await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    // As an attempt leaves it that got this one vote and gave it back.
    let counter = (guard.fencing_token().get() + 100).to_string();
    let node = &site.all()[0];
    node.command(&["SET", "{k}:fence", &counter]);
    node.del("k");
    eventually("it is put back", async || node.get("k").is_some()).await;
    let known = node.scripts() + 2;
    eventually("its renewals are answered", async || node.scripts() > known).await;
    guard.release().await.unwrap();
    site.empties("k").await;
}
