//! Extending a lock one holds, and only that.

use std::time::Duration;

use futures_util::future::join;
use redlatch::{ClockDrift, Error, LockGuard, LockManager};
use tokio::time::Instant;

use crate::support::{
    Proxy, Server, Site, Trace, eventually, everywhere, millis, on_servers, secs, within,
};

everywhere!(
    extend_moves_the_deadline,
    a_shorter_extend_never_moves_the_deadline_back,
    extend_of_a_vanished_key_is_refused,
    extend_of_anothers_lock_is_refused,
    try_extend_moves_the_deadline,
    try_extend_of_a_vanished_key_is_refused,
    try_extend_of_anothers_lock_is_refused,
    an_extend_out_of_range_changes_nothing,
    a_lock_can_be_extended_often,
);

on_servers!(
    extend_moves_the_keys_expiry,
    a_shorter_extend_never_shortens_the_keys_expiry,
    extend_never_creates_a_key,
    extend_leaves_anothers_key_alone,
    extend_survives_a_broken_connection,
    extend_survives_flushed_scripts,
    extend_retries_while_the_lock_is_valid,
    try_extend_tells_what_is_down,
    a_failed_extend_leaves_the_deadline_where_it_was,
    extend_gives_up_when_validity_ends,
    extend_asks_servers_that_are_gone_more_and_more_rarely,
    try_extend_that_nobody_answers_before_the_end_tells_of_the_outage,
    an_extend_that_is_answered_too_late_is_a_loss_and_no_outage,
    a_lock_once_lost_cannot_be_extended,
    extend_is_refused_by_restarted_servers,
    an_extend_counts_from_before_it_was_sent,
    extend_in_an_outage_is_unavailable,
);

async fn extend_moves_the_deadline(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(30)).await.unwrap();
    let before = guard.valid_until();
    guard.extend(secs(300)).await.unwrap();
    assert_eq!(guard.ttl(), secs(300));
    assert!(guard.valid_until() > before + secs(200));
}

async fn try_extend_moves_the_deadline(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(30)).await.unwrap();
    let before = guard.valid_until();
    guard.try_extend(secs(300)).await.unwrap();
    assert!(guard.valid_until() > before + secs(200));
}

async fn a_shorter_extend_never_moves_the_deadline_back(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(300)).await.unwrap();
    let before = guard.valid_until();
    guard.extend(secs(1)).await.unwrap();
    guard.try_extend(secs(1)).await.unwrap();
    assert!(guard.valid_until() >= before);
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.expires_in() > Some(secs(150)), "{status:?}");
}

async fn extend_of_a_vanished_key_is_refused(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    site.delete("k", guard.owner_token()).await;
    let error = guard.extend(secs(30)).await.unwrap_err();
    assert!(matches!(&error, Error::NotHeld { key, .. } if key == "k"), "{error:?}");
    assert!(error.is_not_held() && !guard.is_valid());
    assert_eq!(site.holder("k").await, None);
}

async fn try_extend_of_a_vanished_key_is_refused(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    site.delete("k", guard.owner_token()).await;
    let error = guard.try_extend(secs(30)).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
    assert_eq!(site.holder("k").await, None);
}

async fn extend_of_anothers_lock_is_refused(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    site.seize("k", guard.owner_token()).await;
    let error = guard.extend(secs(30)).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
    assert_eq!(site.holder("k").await.as_deref(), Some("another-owner"));
}

async fn try_extend_of_anothers_lock_is_refused(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    site.seize("k", guard.owner_token()).await;
    let error = guard.try_extend(secs(30)).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
    assert_eq!(site.holder("k").await.as_deref(), Some("another-owner"));
}

async fn an_extend_out_of_range_changes_nothing(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    let before = guard.valid_until();
    for ttl in [secs(0), Duration::from_micros(500), secs(86_401)] {
        let error = guard.extend(ttl).await.unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{ttl:?}: {error:?}");
        assert!(guard.try_extend(ttl).await.unwrap_err().is_config());
    }
    assert_eq!(guard.valid_until(), before);
    assert!(guard.is_valid());
}

async fn a_lock_can_be_extended_often(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    let mut deadline = guard.valid_until();
    for _ in 0..20 {
        guard.extend(secs(30)).await.unwrap();
        assert!(guard.valid_until() >= deadline);
        deadline = guard.valid_until();
    }
    guard.release().await.unwrap();
}

async fn extend_moves_the_keys_expiry(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(30)).await.unwrap();
    eventually("every server has it", async || site.lock_keys().len() == site.all().len()).await;
    guard.extend(secs(300)).await.unwrap();
    eventually("every key lives longer", async || {
        site.all().iter().all(|server| server.pttl("k") > Some(secs(100)))
    })
    .await;
}

async fn a_shorter_extend_never_shortens_the_keys_expiry(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(300)).await.unwrap();
    for _ in 0..5 {
        guard.extend(secs(1)).await.unwrap();
    }
    // The slowest server may have been asked for nothing yet; a shortened expiry would stay short.
    eventually("all keep it", async || site.live_longer("k", secs(150))).await;
}

async fn extend_never_creates_a_key(site: Site) {
    let manager = site.manager();
    let guard = manager.lock("k").await.unwrap();
    site.delete("k", guard.owner_token()).await;
    guard.extend(secs(30)).await.unwrap_err();
    guard.try_extend(secs(30)).await.unwrap_err();
    drop(guard);
    manager.close().await;
    assert!(site.lock_keys().is_empty());
}

async fn extend_leaves_anothers_key_alone(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    for server in site.all() {
        server.command(&["SET", "k", "foreign", "PX", "5000000"]);
    }
    guard.extend(secs(30)).await.unwrap_err();
    guard.extend(secs(20_000)).await.unwrap_err();
    for server in site.all() {
        assert_eq!(server.get("k").as_deref(), Some("foreign"));
        let left = server.pttl("k").unwrap();
        assert!(left > secs(4000) && left <= secs(5000), "{left:?}");
    }
}

async fn extend_survives_a_broken_connection(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    for server in site.all() {
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
    within(guard.extend(secs(60))).await.unwrap();
}

async fn extend_survives_flushed_scripts(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    for server in site.all() {
        server.command(&["SCRIPT", "FLUSH"]);
    }
    guard.try_extend(secs(60)).await.unwrap();
}

async fn extend_retries_while_the_lock_is_valid(site: Site) {
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    let extend = guard.extend(secs(900));
    let resume = async {
        tokio::time::sleep(millis(400)).await;
        site.all().iter().for_each(Server::resume);
    };
    let (extended, ()) = within(join(extend, resume)).await;
    extended.expect("the servers came back in time");
    assert!(guard.remaining() > secs(600));
}

async fn try_extend_tells_what_is_down(site: Site) {
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    let error = within(guard.try_extend(secs(900))).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { reached: 0, .. }), "{error:?}");
    assert!(guard.is_valid(), "unknown is not lost");
    site.all().iter().for_each(Server::resume);
}

async fn a_failed_extend_leaves_the_deadline_where_it_was(site: Site) {
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    let (before, acquired) = (guard.valid_until(), Instant::now());
    site.all().iter().for_each(Server::pause);
    within(guard.try_extend(secs(900))).await.unwrap_err();
    // A vote for the lock that comes late may move it, but not beyond what the lock was taken for.
    let after = guard.valid_until();
    assert!(before <= after && after <= acquired + secs(600), "{:?}", after - before);
    site.all().iter().for_each(Server::resume);
}

async fn extend_gives_up_when_validity_ends(site: Site) {
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(1)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    within(guard.extend(secs(600))).await.unwrap_err();
    assert!(!guard.is_valid());
    site.all().iter().for_each(Server::resume);
}

/// Pauses of 10, 20, 40, 80 and 160 ms and then of 250 ms, or longer ones, leave room for so many in two seconds.
async fn extend_asks_servers_that_are_gone_more_and_more_rarely(site: Site) {
    let trace = Trace::start();
    let guard = site.manager().lock("k").ttl(secs(2)).await.unwrap();
    site.all().iter().for_each(Server::kill);
    within(guard.extend(secs(600))).await.unwrap_err();
    let times = trace.text().matches("extend failed").count();
    assert!((1..=13).contains(&times), "{times} times");
}

async fn try_extend_that_nobody_answers_before_the_end_tells_of_the_outage(site: Site) {
    let manager = site.builder().node_timeout(secs(3)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(2)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    let error = within(guard.try_extend(secs(600))).await.unwrap_err();
    site.all().iter().for_each(Server::resume);
    assert!(!guard.is_valid());
    assert!(matches!(error, Error::Unavailable { reached: 0, .. }), "{error:?}");
}

async fn an_extend_that_is_answered_too_late_is_a_loss_and_no_outage(site: Site) {
    let proxies: Vec<_> = site.all().iter().map(Proxy::start).collect();
    let builder = LockManager::quorum(proxies.iter().map(Proxy::url));
    let manager = builder.node_timeout(secs(10)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(1)).await.unwrap();
    proxies.iter().for_each(Proxy::hold_replies);
    let answer = async {
        guard.lost().await;
        proxies.iter().for_each(Proxy::heal);
    };
    let (extended, ()) = within(join(guard.extend(secs(600)), answer)).await;
    let error = extended.unwrap_err();
    assert!(error.is_not_held(), "all nodes have answered: {error:?}");
}

async fn a_lock_once_lost_cannot_be_extended(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(1)).await.unwrap();
    for server in site.all() {
        server.command(&["PEXPIRE", "k", "600000"]);
    }
    within(guard.lost()).await;
    let error = guard.extend(secs(600)).await.unwrap_err();
    assert!(error.is_not_held() || error.is_lost(), "{error:?}");
    guard.try_extend(secs(600)).await.unwrap_err();
    assert!(!guard.is_valid() && guard.remaining().is_zero());
}

async fn extend_is_refused_by_restarted_servers(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == site.all().len()).await;
    site.all().iter().for_each(Server::restart);
    let error = within(guard.extend(secs(600))).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
    assert!(site.lock_keys().is_empty());
}

/// Redis 6 may have replicas run the scripts, and is strict about what those do then. Later servers ignore the setting.
#[tokio::test]
async fn a_lock_is_extended_where_replicas_run_the_scripts() {
    let server = Server::start_with(&["--lua-replicate-commands", "no"]);
    let manager = LockManager::single(server.url()).node_timeout(secs(10)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(30)).await.unwrap();
    guard.try_extend(secs(600)).await.unwrap();
    assert!(server.pttl("k") > Some(secs(300)));
    assert!(manager.lock("k").try_acquire().await.unwrap_err().is_contended());
    let guard = manager.adopt(guard.into_ticket()).await.unwrap();
    guard.release().await.unwrap();
    assert!(server.lock_keys().is_empty());
}

/// However long its answer takes.
async fn an_extend_counts_from_before_it_was_sent(site: Site) {
    site.learns_the_scripts().await;
    let (proxies, builder) = site.proxied();
    let manager = builder.clock_drift(ClockDrift::new(0.0, Duration::ZERO)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    site.fills("k").await;
    proxies.iter().for_each(Proxy::hold_replies);
    let answer_late = async {
        eventually("every server has extended it", async || site.live_longer("k", secs(650))).await;
        let asked = Instant::now();
        tokio::time::sleep(millis(300)).await;
        proxies.iter().for_each(Proxy::heal);
        asked
    };
    let (extended, asked) = within(join(guard.extend(secs(700)), answer_late)).await;
    extended.unwrap();
    assert!(guard.valid_until() <= asked + secs(700), "{:?}", guard.valid_until() - asked);
}

#[tokio::test]
async fn extend_holds_while_a_majority_does() {
    let site = Site::servers(3);
    let guard = site.manager().lock("k").ttl(secs(30)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    site.all()[0].del("k");
    guard.extend(secs(300)).await.unwrap();
    assert!(guard.remaining() > secs(200));
    assert_eq!(site.all()[0].get("k"), None, "extend never creates a key");
}

#[tokio::test]
async fn extend_is_refused_once_a_majority_has_lost_the_key() {
    let site = Site::servers(3);
    let guard = site.manager().lock("k").ttl(secs(30)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    site.all()[..2].iter().for_each(|server| server.del("k"));
    let error = guard.extend(secs(300)).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
    assert!(!guard.is_valid());
}

#[tokio::test]
async fn a_minority_that_was_extended_does_not_move_the_deadline() {
    let site = Site::servers(3);
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(30)).await.unwrap();
    let (before, acquired) = (guard.valid_until(), Instant::now());
    site.all()[..2].iter().for_each(Server::pause);
    let error = within(guard.try_extend(secs(300))).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { needed: 2, reached: 1, .. }), "{error:?}");
    let after = guard.valid_until();
    assert!(before <= after && after <= acquired + secs(30), "{:?}", after - before);
    site.all()[..2].iter().for_each(Server::resume);
}

/// What it stood on there is gone, though the others have it for longer than the rest.
#[tokio::test]
async fn a_deadline_that_rests_on_a_lost_vote_moves_back() {
    let site = Site::servers(3);
    let (proxies, builder) = site.proxied();
    let manager = builder.node_timeout(millis(500)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    site.fills("k").await;
    proxies[2].cut();
    proxies[2].swallow_requests();
    let first = guard.valid_until();
    guard.extend(secs(900)).await.unwrap();
    assert!(guard.valid_until() > first, "two servers have it for longer");
    proxies[2].heal();
    site.all()[0].del("k");
    // Too short to move the deadline forward anywhere.
    eventually("the first server's vote is lost", async || {
        guard.extend(secs(1)).await.unwrap();
        guard.valid_until() <= first
    })
    .await;
    assert!(guard.is_valid(), "two servers have it for as long");
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
