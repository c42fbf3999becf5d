//! Time policies: how long a lock is held at most and at least, and the warning before its end.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use redlatch::{LockTicket, LossReason, OwnerToken, Retry};
use tokio::time::{Instant, sleep};

use crate::support::{
    Events, Seen, Server, Site, eventually, everywhere, millis, on_servers, secs, within,
};

everywhere!(
    renewal_keeps_a_lock_no_longer_than_max_hold,
    a_lock_of_max_hold_goes_to_the_next,
    an_extend_is_not_bounded_by_max_hold,
    a_key_stays_for_min_hold_although_it_is_released,
    a_key_stays_for_min_hold_although_its_guard_is_dropped,
    min_hold_shortens_a_longer_ttl,
    a_lock_held_for_min_hold_is_deleted_by_its_release,
    a_lost_lock_is_not_kept,
    a_waiter_gets_the_lock_when_min_hold_is_over,
    a_warning_comes_while_the_lock_is_valid,
    a_lost_lock_warns_at_once,
    policies_that_cannot_work_are_refused,
    the_longest_max_hold_bounds_nothing,
    a_kept_key_is_nobodys,
    no_text_takes_a_kept_key_over,
    a_kept_lock_ends_for_all_who_shared_it,
    waiting_retries_are_not_spent_on_a_kept_key,
);

on_servers!(a_node_that_was_away_is_released_for_min_hold_later);

async fn renewal_keeps_a_lock_no_longer_than_max_hold(site: Site) {
    let (events, before) = (Events::default(), Instant::now());
    let request = site.manager().lock("k").ttl(secs(2)).max_hold(secs(3)).auto_renew();
    let guard = request.on_renewal(events.listener()).await.unwrap();
    let latest = Instant::now() + secs(3);
    assert_eq!(within(guard.lost()).await, LossReason::Expired);
    assert!(guard.valid_until() <= latest, "it was carried beyond its longest hold");
    assert!(guard.valid_until() > before + secs(2), "it was renewed");
    let all = events.all();
    let stops: Vec<_> = all.iter().filter(|event| matches!(event, Seen::Stopped { .. })).collect();
    let [Seen::Stopped { key, valid_until }] = stops[..] else { panic!("{all:?}") };
    assert!(key == "k" && *valid_until == guard.valid_until());
    let after = all.iter().skip_while(|event| !matches!(event, Seen::Stopped { .. }));
    assert_eq!(after.filter(|event| matches!(event, Seen::Renewed { .. })).count(), 0);
    assert_eq!(guard.ttl(), secs(2));
}

async fn a_lock_of_max_hold_goes_to_the_next(site: Site) {
    let request = site.manager().lock("k").ttl(millis(500)).max_hold(secs(1)).auto_renew();
    let hung = request.await.unwrap();
    let next = within(site.manager().lock("k").acquire()).await.unwrap();
    assert!(!hung.is_valid() && next.fencing_token() > hung.fencing_token());
}

async fn an_extend_is_not_bounded_by_max_hold(site: Site) {
    let events = Events::default();
    let request = site.manager().lock("k").ttl(secs(10)).max_hold(secs(10));
    let request = request.auto_renew_every(millis(100)).on_renewal(events.listener());
    let guard = request.await.unwrap();
    guard.extend(secs(600)).await.unwrap();
    eventually("renewal stops", async || {
        events.all().iter().any(|event| matches!(event, Seen::Stopped { .. }))
    })
    .await;
    assert!(guard.remaining() > secs(300));
}

async fn a_key_stays_for_min_hold_although_it_is_released(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(1)).min_hold(secs(600)).await.unwrap();
    guard.release().await.unwrap();
    assert_is_kept(&site).await;
}

async fn a_key_stays_for_min_hold_although_its_guard_is_dropped(site: Site) {
    let manager = site.manager();
    drop(manager.lock("k").ttl(secs(1)).min_hold(secs(600)).await.unwrap());
    assert_eq!(manager.close().await, 0);
    assert_is_kept(&site).await;
}

async fn assert_is_kept(site: &Site) {
    let status = site.manager().inspect("k").await.unwrap();
    let left = status.expires_in().unwrap();
    assert!(left > secs(300) && left <= secs(600), "{left:?}");
    assert!(site.manager().lock("k").try_acquire().await.unwrap_err().is_contended());
}

async fn min_hold_shortens_a_longer_ttl(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(6_000)).min_hold(secs(600)).await.unwrap();
    guard.release().await.unwrap();
    assert_is_kept(&site).await;
}

async fn a_lock_held_for_min_hold_is_deleted_by_its_release(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).min_hold(millis(20)).await.unwrap();
    sleep(millis(21)).await;
    guard.release().await.unwrap();
    site.empties("k").await;
}

async fn a_lost_lock_is_not_kept(site: Site) {
    let guard = site.manager().lock("k").ttl(millis(50)).min_hold(secs(600)).await.unwrap();
    within(guard.lost()).await;
    drop(guard.release().await);
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.expires_in().is_none_or(|left| left < secs(1)), "{status:?}");
}

async fn a_waiter_gets_the_lock_when_min_hold_is_over(site: Site) {
    let manager = site.manager();
    let guard = manager.lock("k").ttl(secs(600)).min_hold(secs(1)).await.unwrap();
    let kept_until = Instant::now() + secs(1);
    let waiters = [manager.clone(), site.manager()].map(|manager| {
        tokio::spawn(async move {
            let guard = manager.lock("k").acquire().await.unwrap();
            let taken = Instant::now();
            guard.release().await.unwrap();
            taken
        })
    });
    guard.release().await.unwrap();
    for waiter in waiters {
        // What the clocks of client and server count differently in a second.
        assert!(within(waiter).await.unwrap() + millis(100) > kept_until);
    }
}

async fn a_warning_comes_while_the_lock_is_valid(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(2)).await.unwrap();
    let first = guard.valid_until();
    let warning = guard.warn_before(secs(1));
    guard.extend(secs(600)).await.unwrap();
    // It follows the deadline, so that it is not due when the old one would be near.
    tokio::select! {
        () = warning => panic!("there is time enough"),
        () = tokio::time::sleep_until(first) => {}
    }
    let soon = guard.remaining().saturating_sub(millis(100));
    within(guard.warn_before(soon)).await;
    assert!(guard.is_valid());
    within(guard.warn_before(secs(6_000))).await;
}

async fn a_lost_lock_warns_at_once(site: Site) {
    let request = site.manager().lock("k").ttl(secs(600));
    let guard = request.auto_renew_every(millis(50)).await.unwrap();
    let warning = guard.warn_before(secs(1));
    site.delete("k", guard.owner_token()).await;
    within(warning).await;
    assert!(!guard.is_valid());
}

async fn policies_that_cannot_work_are_refused(site: Site) {
    let request = || site.manager().lock("k").ttl(secs(10));
    let too_short = request().auto_renew().max_hold(secs(9)).try_acquire().await.unwrap_err();
    assert!(too_short.is_config() && too_short.to_string().contains("max_hold"), "{too_short}");
    let too_long = request().min_hold(secs(86_401)).try_acquire().await.unwrap_err();
    assert!(too_long.is_config() && too_long.to_string().contains("min_hold"), "{too_long}");
    let manager = site.builder().ttl(secs(60)).restart_quarantine(secs(60)).build().unwrap();
    let too_long = manager.lock("k").min_hold(secs(61)).try_acquire().await.unwrap_err();
    assert!(too_long.is_config() && too_long.to_string().contains("min_hold"), "{too_long}");
    assert!(site.lock_keys().is_empty());
}

async fn the_longest_max_hold_bounds_nothing(site: Site) {
    let (manager, events) = (site.manager(), Events::default());
    let request = manager.lock("k").ttl(secs(600)).max_hold(std::time::Duration::MAX);
    let request = request.auto_renew_every(millis(20)).on_renewal(events.listener());
    let guard = request.await.unwrap();
    events.more_renewals(3).await;
    guard.release().await.unwrap();
    site.empties("k").await;
}

/// Not even its last owner can take over what is kept.
async fn a_kept_key_is_nobodys(site: Site) {
    let us = OwnerToken::new("us").unwrap();
    let request = || site.manager().lock("k").owner(us.clone()).ttl(secs(30));
    request().min_hold(secs(600)).await.unwrap().release().await.unwrap();
    let joined = request().retry(Retry::never()).acquire_or_extend().await;
    assert!(joined.unwrap_err().is_contended());
    assert!(request().try_acquire().await.unwrap_err().is_contended());
    assert_is_kept_by_us(&site).await;
}

/// A text that looks like what lies under a kept key is another owner's.
async fn no_text_takes_a_kept_key_over(site: Site) {
    let us = OwnerToken::new("us").unwrap();
    let guard = site.manager().lock("k").owner(us).ttl(secs(30)).min_hold(secs(600)).await.unwrap();
    let (fencing, ttl) = (guard.fencing_token(), guard.ttl());
    guard.release().await.unwrap();
    assert!(OwnerToken::new("\u{1}us").unwrap_err().is_config());
    for text in ["us", "us:released", "u001us", "\\1us"] {
        let owner = OwnerToken::new(text).unwrap();
        let request = || site.manager().lock("k").owner(owner.clone()).retry(Retry::never());
        assert!(request().acquire_or_extend().await.unwrap_err().is_contended(), "{text}");
        assert!(request().try_acquire().await.unwrap_err().is_contended(), "{text}");
        let ticket = LockTicket::new("k", owner, fencing, ttl);
        assert!(site.manager().adopt(ticket).await.unwrap_err().is_not_held(), "{text}");
    }
    assert_is_kept_by_us(&site).await;
}

async fn a_kept_lock_ends_for_all_who_shared_it(site: Site) {
    let (us, manager) = (OwnerToken::new("us").unwrap(), site.manager());
    let request = || manager.lock("k").owner(us.clone()).ttl(secs(600));
    let first = request().min_hold(secs(60)).acquire_or_extend().await.unwrap();
    let second = request().acquire_or_extend().await.unwrap();
    let third = request().acquire_or_extend().await.unwrap();
    assert_eq!(first.fencing_token(), second.fencing_token());
    first.release().await.unwrap();
    assert!(third.release().await.unwrap_err().is_not_held(), "it ended before");
    assert!(second.extend(secs(600)).await.unwrap_err().is_not_held());
    drop(second);
    assert_eq!(manager.close().await, 0);
    assert_is_kept_by_us(&site).await;
}

async fn assert_is_kept_by_us(site: &Site) {
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.is_held() && status.is_kept(), "{status:?}");
    assert_eq!(status.owner_token().map(OwnerToken::as_str), Some("us"));
    let left = site.all().iter().filter(|server| server.get("k").as_deref() == Some("\u{1}us"));
    assert!(site.is_memory() || left.count() > site.all().len() / 2);
}

/// A release that frees nothing wakes nobody.
async fn waiting_retries_are_not_spent_on_a_kept_key(site: Site) {
    let manager = site.manager();
    let guard = manager.lock("k").ttl(secs(600)).min_hold(secs(2)).await.unwrap();
    let looks = Arc::new(AtomicU32::new(0));
    let counted = looks.clone();
    let retry = Retry::from_fn(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        millis(3_000)
    });
    let waiting = [manager.clone(), site.manager()].map(|manager| {
        let retry = retry.clone().max_retries(1);
        tokio::spawn(manager.lock("k").retry(retry).acquire())
    });
    eventually("both have looked", async || looks.load(Ordering::SeqCst) >= 2).await;
    guard.release().await.unwrap();
    let [one, other] = waiting;
    let (one, other) = (within(one).await.unwrap(), within(other).await.unwrap());
    assert!(one.is_ok() || other.is_ok(), "{one:?}, {other:?}");
}

/// A release that a node answers late keeps the key for what is left of the hold, not for all of it again.
async fn a_node_that_was_away_is_released_for_min_hold_later(site: Site) {
    let manager = site.builder().node_timeout(millis(300)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).min_hold(secs(1)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    drop(guard);
    sleep(secs(1)).await;
    site.all().iter().for_each(Server::resume);
    site.empties("k").await;
}

#[tokio::test(start_paused = true)]
async fn a_warning_follows_renewals_and_comes_on_time() {
    let site = Site::memory(3);
    let request = site.manager().lock("k").ttl(secs(30)).max_hold(secs(100)).auto_renew();
    let guard = request.await.unwrap();
    let start = Instant::now();
    guard.warn_before(secs(5)).await;
    let left = guard.remaining();
    assert!(left <= secs(5) && left > millis(4_990), "{left:?}");
    let end = guard.valid_until() - start;
    assert!(end <= secs(100) && end > secs(99), "{end:?}");
}
