//! Sets: several locks taken, renewed, lost and released as one.

use std::collections::BTreeSet;

use redlatch::{Error, LockManager, LossReason, OwnerToken, Retry};

use crate::support::{
    Events, Monitor, Proxy, Seen, Site, eventually, everywhere, millis, on_servers, poll_times,
    secs, within,
};

everywhere!(
    all_keys_are_locked_and_released,
    a_dropped_set_releases_all,
    each_key_has_a_token_that_grows,
    keys_are_sorted_and_locked_once,
    one_held_key_refuses_the_set_and_leaves_nothing,
    a_set_waits_for_the_last_of_its_keys,
    what_was_taken_is_kept_while_the_set_waits,
    the_wait_timeout_is_that_of_the_whole_set,
    sets_in_opposite_order_do_not_deadlock,
    a_set_that_is_dropped_while_it_waits_leaves_nothing,
    the_loss_of_one_is_the_loss_of_the_set,
    extend_extends_all,
    work_that_blocks_until_another_had_one_of_the_locks_is_lost,
    work_of_a_set_that_was_broken_before_the_release_is_lost,
    run_renews_and_works,
    run_releases_all,
    the_release_says_that_a_key_was_lost,
    a_set_without_keys_is_refused,
    a_bad_key_is_refused_before_anything_is_sent,
    an_owner_is_the_owner_of_all,
    a_refused_set_does_not_keep_its_keys_for_min_hold,
    a_set_is_kept_for_min_hold_after_all_were_taken,
    a_set_of_max_hold_ends_as_one,
    a_set_can_be_awaited_and_taken_apart,
);

on_servers!(a_set_is_renewed_in_one_piece, a_waiting_set_that_extends_too_late_begins_anew);

const KEYS: [&str; 3] = ["a", "b", "c"];

async fn all_keys_are_locked_and_released(site: Site) {
    let set = site.manager().lock_all(KEYS).acquire().await.unwrap();
    for key in KEYS {
        assert!(site.holder(key).await.is_some());
    }
    assert!(set.is_valid() && set.remaining() > secs(300));
    set.release().await.unwrap();
    are_empty(&site).await;
}

async fn a_dropped_set_releases_all(site: Site) {
    drop(site.manager().lock_all(KEYS).try_acquire().await.unwrap());
    are_empty(&site).await;
}

async fn each_key_has_a_token_that_grows(site: Site) {
    let manager = site.manager();
    let before = manager.lock("b").await.unwrap();
    let token = before.fencing_token();
    before.release().await.unwrap();
    let set = manager.lock_all(KEYS).acquire().await.unwrap();
    assert!(set.fencing_token("b").unwrap() > token);
    assert_eq!(set.fencing_token("d"), None);
    let status = manager.inspect("c").await.unwrap();
    assert_eq!(set.fencing_token("c"), status.fencing_token());
}

async fn keys_are_sorted_and_locked_once(site: Site) {
    let set = site.manager().lock_all(["c", "a", "b", "a"]).acquire().await.unwrap();
    assert!(set.keys().eq(KEYS));
    assert!(set.fencing_tokens().map(|(key, _)| key).eq(KEYS));
}

async fn one_held_key_refuses_the_set_and_leaves_nothing(site: Site) {
    let manager = site.manager();
    let other = site.manager().lock("b").await.unwrap();
    let request = manager.lock_all(KEYS);
    let error = request.try_acquire().await.unwrap_err();
    assert!(error.is_contended() && error.key() == Some("b"), "{error:?}");
    eventually("what was taken is given back", async || site.holder("a").await.is_none()).await;
    let request = manager.lock_all(KEYS).retry(Retry::never());
    let error = request.acquire().await.unwrap_err();
    assert!(error.is_contended() && error.key() == Some("b"), "{error:?}");
    other.release().await.unwrap();
    are_empty(&site).await;
}

async fn a_set_waits_for_the_last_of_its_keys(site: Site) {
    let other = site.manager().lock("c").await.unwrap();
    let request = site.manager().lock_all(KEYS);
    let waiting = tokio::spawn(request.acquire());
    eventually("it has the first", async || site.holder("a").await.is_some()).await;
    let token = other.fencing_token();
    other.release().await.unwrap();
    let set = within(waiting).await.unwrap().unwrap();
    assert!(set.fencing_token("c").unwrap() > token);
}

async fn what_was_taken_is_kept_while_the_set_waits(site: Site) {
    let other = site.manager().lock("c").ttl(secs(600)).await.unwrap();
    let ttl = secs(1);
    let waiting = tokio::spawn(site.manager().lock_all(KEYS).ttl(ttl).acquire());
    eventually("it has the first", async || site.holder("b").await.is_some()).await;
    let (first, start) = (site.holder("a").await, tokio::time::Instant::now());
    assert!(first.is_some());
    eventually("three TTLs pass", async || {
        assert_eq!(site.holder("a").await, first);
        start.elapsed() > ttl * 3
    })
    .await;
    other.release().await.unwrap();
    let set = within(waiting).await.unwrap().unwrap();
    assert!(set.is_valid());
    assert_eq!(site.holder("a").await, first);
}

/// Every node has answered, if too late: that is a loss, after which it goes on, and no outage, which would end it.
async fn a_waiting_set_that_extends_too_late_begins_anew(site: Site) {
    let other = site.manager().lock("c").ttl(secs(600)).await.unwrap();
    let proxies: Vec<_> = site.all().iter().map(Proxy::start).collect();
    let builder = LockManager::quorum(proxies.iter().map(Proxy::url));
    let manager = builder.node_timeout(secs(10)).build().unwrap();
    let (ttl, start) = (secs(1), tokio::time::Instant::now());
    let waiting = tokio::spawn(manager.lock_all(["a", "c"]).ttl(ttl).acquire());
    eventually("it has extended the first", async || {
        start.elapsed() > ttl && site.holder("a").await.is_some()
    })
    .await;
    proxies.iter().for_each(Proxy::hold_replies);
    site.empties_of("a").await;
    proxies.iter().for_each(Proxy::heal);
    eventually("it has the first again", async || site.holder("a").await.is_some()).await;
    other.release().await.unwrap();
    let set = within(waiting).await.unwrap().unwrap();
    assert!(set.keys().eq(["a", "c"]));
}

async fn the_wait_timeout_is_that_of_the_whole_set(site: Site) {
    let _other = site.manager().lock("c").await.unwrap();
    let request = site.manager().lock_all(KEYS).wait_timeout(millis(50));
    let error = within(request.acquire()).await.unwrap_err();
    let Error::WaitTimeout { key, waited, .. } = error else { panic!("{error:?}") };
    assert!(key == "c" && waited >= millis(50), "{waited:?}");
}

async fn sets_in_opposite_order_do_not_deadlock(site: Site) {
    let transfer = |keys: [&'static str; 2]| {
        let manager = site.manager();
        tokio::spawn(async move {
            for _ in 0..20 {
                let set = manager.lock_all(keys).acquire().await.unwrap();
                set.release().await.unwrap();
            }
        })
    };
    for transfer in [transfer(["a", "b"]), transfer(["b", "a"])] {
        within(transfer).await.unwrap();
    }
    are_empty(&site).await;
}

async fn a_set_that_is_dropped_while_it_waits_leaves_nothing(site: Site) {
    for polls in 1..12 {
        let other = site.manager().lock("c").await.unwrap();
        let request = site.manager().lock_all(KEYS);
        let done = within(poll_times(polls, request.acquire()));
        // Without a wake there is no more to poll.
        let _ended = tokio::time::timeout(millis(100), done).await;
        other.release().await.unwrap();
        are_empty(&site).await;
    }
}

async fn the_loss_of_one_is_the_loss_of_the_set(site: Site) {
    let owner = OwnerToken::new("us").unwrap();
    let request = site.manager().lock_all(KEYS).ttl(secs(600)).owner(owner.clone());
    let set = request.auto_renew_every(millis(50)).acquire().await.unwrap();
    site.delete("b", &owner).await;
    assert_eq!(within(set.lost()).await, LossReason::Taken);
    assert!(!set.is_valid() && set.remaining().is_zero());
    within(set.warn_before(millis(1))).await;
    let error = within(set.while_held(std::future::pending::<()>())).await.unwrap_err();
    assert!(error.is_lost() && error.key() == Some("b"), "{error:?}");
}

async fn extend_extends_all(site: Site) {
    let set = site.manager().lock_all(KEYS).ttl(secs(30)).acquire().await.unwrap();
    set.extend(secs(600)).await.unwrap();
    assert!(set.remaining() > secs(300));
    set.try_extend(secs(1_200)).await.unwrap();
    assert!(set.remaining() > secs(600));
}

async fn run_renews_and_works(site: Site) {
    let request = site.manager().lock_all(KEYS).ttl(secs(1));
    let held = async |set: &redlatch::LockSet| {
        let start = tokio::time::Instant::now();
        eventually("two TTLs are covered", async || set.valid_until() > start + secs(2)).await;
        set.keys().count()
    };
    assert_eq!(within(request.run(held)).await.unwrap(), 3);
}

async fn run_releases_all(site: Site) {
    let run = site.manager().lock_all(KEYS).run(async |set| set.keys().count());
    assert_eq!(within(run).await.unwrap(), 3);
    are_empty(&site).await;
}

async fn work_that_blocks_until_another_had_one_of_the_locks_is_lost(site: Site) {
    let set = site.manager().lock_all(KEYS).ttl(secs(1)).auto_renew().acquire().await.unwrap();
    let error = set.while_held(async { site.blocks_until_anothers_turn("b") }).await.unwrap_err();
    assert!(error.is_lost(), "{error:?}");
    drop(set);
    let request = site.manager().lock_all(KEYS).ttl(secs(1));
    let error = request.run(async |_| site.blocks_until_anothers_turn("c")).await.unwrap_err();
    assert!(error.is_lost(), "{error:?}");
    are_empty(&site).await;
}

async fn work_of_a_set_that_was_broken_before_the_release_is_lost(site: Site) {
    let owner = OwnerToken::new("us").unwrap();
    let request = site.manager().lock_all(KEYS).ttl(secs(600)).owner(owner.clone());
    let error = request.run(async |_| site.delete("b", &owner).await).await.unwrap_err();
    assert!(error.is_lost() && error.key() == Some("b"), "{error:?}");
    are_empty(&site).await;
}

async fn the_release_says_that_a_key_was_lost(site: Site) {
    let owner = OwnerToken::new("us").unwrap();
    let set = site.manager().lock_all(KEYS).owner(owner.clone()).acquire().await.unwrap();
    site.delete("b", &owner).await;
    let error = set.release().await.unwrap_err();
    assert!(error.is_not_held() && error.key() == Some("b"), "{error:?}");
    are_empty(&site).await;
}

async fn a_set_without_keys_is_refused(site: Site) {
    let none: [&str; 0] = [];
    assert!(site.manager().lock_all(none).acquire().await.unwrap_err().is_config());
    assert!(site.manager().lock_all(none).try_acquire().await.unwrap_err().is_config());
}

async fn a_bad_key_is_refused_before_anything_is_sent(site: Site) {
    let monitors: Vec<Monitor> = site.all().iter().map(Monitor::start).collect();
    let request = || site.manager().lock_all(["a", &"k".repeat(513)]);
    assert!(request().acquire().await.unwrap_err().is_config());
    assert!(request().try_acquire().await.unwrap_err().is_config());
    let request = site.manager().lock_all(KEYS).ttl(secs(30)).auto_renew_every(secs(60));
    assert!(request.acquire().await.unwrap_err().is_config());
    assert!(monitors.iter().all(|monitor| monitor.commands().is_empty()));
}

async fn an_owner_is_the_owner_of_all(site: Site) {
    let owner = OwnerToken::new("us").unwrap();
    let _set = site.manager().lock_all(KEYS).owner(owner).acquire().await.unwrap();
    for key in KEYS {
        assert_eq!(site.holder(key).await.as_deref(), Some("us"));
    }
}

/// All its locks are renewed together, each time.
async fn a_set_is_renewed_in_one_piece(site: Site) {
    let (events, manager) = (Events::default(), site.manager());
    let request = manager.lock_all(KEYS).ttl(secs(600)).on_renewal(events.listener());
    let set = request.auto_renew_every(millis(500)).acquire().await.unwrap();
    events.more_renewals(9).await;
    let renewed = events.all().into_iter().filter_map(|event| match event {
        Seen::Renewed { key, valid_until } => Some((key, valid_until)),
        _ => None,
    });
    let renewed: Vec<_> = renewed.collect();
    for piece in renewed.chunks_exact(3) {
        let keys: BTreeSet<_> = piece.iter().map(|(key, _)| &**key).collect();
        assert_eq!(keys, BTreeSet::from(KEYS), "{renewed:?}");
        assert!(piece.iter().all(|(_, until)| *until == piece[0].1), "{renewed:?}");
    }
    assert!(set.is_valid());
}

async fn a_refused_set_does_not_keep_its_keys_for_min_hold(site: Site) {
    let other = site.manager().lock("b").await.unwrap();
    let manager = site.manager();
    let request = || manager.lock_all(KEYS).min_hold(secs(600));
    assert!(request().try_acquire().await.unwrap_err().is_contended());
    let waited = within(request().wait_timeout(millis(50)).acquire()).await;
    assert!(waited.unwrap_err().is_timeout());
    other.release().await.unwrap();
    are_empty(&site).await;
}

async fn a_set_is_kept_for_min_hold_after_all_were_taken(site: Site) {
    let set = site.manager().lock_all(KEYS).ttl(secs(6_000)).min_hold(secs(600)).await.unwrap();
    set.release().await.unwrap();
    for key in KEYS {
        let left = site.manager().inspect(key).await.unwrap().expires_in().unwrap();
        assert!(left > secs(300) && left <= secs(600), "{left:?}");
    }
}

/// Its longest hold begins when all its locks are taken, however long that took.
async fn a_set_of_max_hold_ends_as_one(site: Site) {
    let other = site.manager().lock("c").ttl(secs(2)).await.unwrap();
    let request = site.manager().lock_all(KEYS).ttl(secs(1)).max_hold(millis(1_500));
    let set = within(request.auto_renew().acquire()).await.unwrap();
    assert!(!other.is_valid());
    let latest = tokio::time::Instant::now() + millis(1_500);
    within(set.lost()).await;
    for guard in set.into_guards() {
        assert!(guard.valid_until() <= latest);
        assert!(guard.valid_until() + millis(1_000) > latest, "it was renewed until then");
    }
}

async fn a_set_can_be_awaited_and_taken_apart(site: Site) {
    let manager = site.manager();
    let guards = manager.lock_all(KEYS).await.unwrap().into_guards();
    let [a, b, c] = <[_; 3]>::try_from(guards).unwrap();
    let adopted = manager.adopt(b.into_ticket()).await.unwrap();
    assert!(a.is_valid() && adopted.is_valid() && adopted.key() == "b");
    c.release().await.unwrap();
    assert!(site.holder("c").await.is_none() && site.holder("a").await.is_some());
}

/// However many keys it waits for, each for less than an upkeep takes to come round.
#[tokio::test(start_paused = true)]
async fn what_was_taken_is_kept_over_several_waits() {
    let site = Site::memory(3);
    let manager = site.manager();
    for (place, key) in ["b", "c", "d", "e"].into_iter().enumerate() {
        let ttl = secs(9) * (u32::try_from(place).unwrap() + 1);
        manager.lock(key).ttl(ttl).await.unwrap().forget();
    }
    let keys = ["a", "b", "c", "d", "e"];
    let set = site.manager().lock_all(keys).ttl(secs(30)).acquire().await.unwrap();
    assert!(set.is_valid() && set.remaining() > secs(28));
}

async fn are_empty(site: &Site) {
    for key in KEYS {
        site.empties(key).await;
    }
}
