//! Auto-renewal: keeps a lock alive, reports, and ends with the lock.

use std::time::Duration;

use redlatch::{ClockDrift, LockManager, LossReason};
use tokio::time::Instant;

use crate::support::{
    BOUND, Events, Monitor, Proxy, Seen, Server, Site, Trace, eventually, everywhere, millis,
    on_servers, secs, within,
};

everywhere!(
    a_renewed_lock_outlives_its_ttl,
    renewals_are_reported,
    a_lock_found_gone_is_lost_at_once,
    a_lock_found_anothers_is_lost_at_once,
    a_loss_is_reported_once_and_ends_renewal,
    a_panic_in_the_callback_leaves_other_guards_alone,
    a_panic_in_the_callback_leaves_its_own_lock_renewed,
    renewal_never_shortens_an_extended_lock,
    many_locks_are_renewed_side_by_side,
);

on_servers!(
    a_transient_failure_is_survived,
    a_failure_names_the_silent_nodes,
    validity_that_runs_out_is_a_loss,
    failures_are_told_now_and_then_and_once_before_the_end,
    nothing_is_sent_after_release,
    nothing_is_sent_after_a_loss,
    a_dropped_lock_is_not_put_back_by_a_renewal,
    renewal_survives_a_broken_connection,
    renewal_survives_flushed_scripts,
    a_renewal_counts_from_before_it_was_sent,
    a_loss_is_told_at_the_deadline_while_the_nodes_may_still_answer,
);

async fn a_renewed_lock_outlives_its_ttl(site: Site) {
    let ttl = secs(2);
    let start = Instant::now();
    let guard = site.manager().lock("k").ttl(ttl).auto_renew().await.unwrap();
    eventually("three TTLs are covered", async || {
        assert!(guard.is_valid());
        guard.valid_until() > start + ttl * 3
    })
    .await;
    let holder = site.holder("k").await;
    assert_eq!(holder.as_deref(), Some(guard.owner_token().as_str()));
}

async fn renewals_are_reported(site: Site) {
    let events = Events::default();
    let start = Instant::now();
    let request = site.manager().lock("k").on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    events.more_renewals(3).await;
    let mut deadline = start;
    for event in events.all() {
        let Seen::Renewed { key, valid_until } = event else {
            panic!("{event:?}");
        };
        assert!(key == "k" && valid_until > deadline);
        deadline = valid_until;
    }
    assert!(guard.valid_until() >= deadline);
}

async fn a_lock_found_gone_is_lost_at_once(site: Site) {
    let request = site.manager().lock("k").ttl(secs(600));
    let guard = request.auto_renew_every(millis(200)).await.unwrap();
    site.delete("k", guard.owner_token()).await;
    assert_eq!(within(guard.lost()).await, LossReason::Taken);
    assert!(!guard.is_valid());
    assert_eq!(site.holder("k").await, None);
}

async fn a_lock_found_anothers_is_lost_at_once(site: Site) {
    let request = site.manager().lock("k").ttl(secs(600));
    let guard = request.auto_renew_every(millis(200)).await.unwrap();
    site.seize("k", guard.owner_token()).await;
    assert_eq!(within(guard.lost()).await, LossReason::Taken);
    assert_eq!(site.holder("k").await.as_deref(), Some("another-owner"));
}

async fn a_loss_is_reported_once_and_ends_renewal(site: Site) {
    let manager = site.manager();
    let (events, (_clock, ticks)) = (Events::default(), ticking(&manager).await);
    let request = manager.lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(200)).await.unwrap();
    site.delete("k", guard.owner_token()).await;
    eventually("the loss is reported", async || !events.losses().is_empty()).await;
    let reported = events.all().len();
    ticks.more_renewals(10).await;
    assert_eq!(events.all().len(), reported, "silence after the loss");
    assert_eq!(events.losses(), [LossReason::Taken]);
}

async fn a_panic_in_the_callback_leaves_other_guards_alone(site: Site) {
    let manager = site.manager();
    let bad = manager.lock("bad").on_renewal(|_| panic!("the callback fails"));
    let _bad = bad.auto_renew_every(millis(20)).await.unwrap();
    let (guard, ticks) = ticking(&manager).await;
    ticks.more_renewals(10).await;
    guard.release().await.unwrap();
    manager.lock("other").await.unwrap().release().await.unwrap();
}

async fn a_panic_in_the_callback_leaves_its_own_lock_renewed(site: Site) {
    let request = site.manager().lock("k").on_renewal(|_| panic!("the callback fails"));
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    let first = guard.valid_until();
    eventually("it is renewed", async || guard.valid_until() > first).await;
    let second = guard.valid_until();
    eventually("it is renewed again", async || guard.valid_until() > second).await;
}

async fn renewal_never_shortens_an_extended_lock(site: Site) {
    let events = Events::default();
    let request = site.manager().lock("k").ttl(secs(5)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    guard.extend(secs(600)).await.unwrap();
    let deadline = guard.valid_until();
    events.more_renewals(3).await;
    assert!(guard.valid_until() >= deadline);
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.expires_in() > Some(secs(300)), "{status:?}");
}

async fn many_locks_are_renewed_side_by_side(site: Site) {
    let (manager, start, ttl) = (site.manager(), Instant::now(), secs(4));
    let mut guards = Vec::new();
    for n in 0..200 {
        let request = manager.lock(format!("k{n}")).ttl(ttl);
        guards.push(request.auto_renew_every(millis(500)).await.unwrap());
    }
    eventually("all outlive their first TTL", async || {
        guards.iter().all(|guard| guard.valid_until() > start + ttl * 3 / 2)
    })
    .await;
    assert!(guards.iter().all(redlatch::LockGuard::is_valid));
}

async fn a_transient_failure_is_survived(site: Site) {
    let events = Events::default();
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let request = manager.lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(50)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    eventually("a renewal fails", async || events.failures() > 0).await;
    site.all().iter().for_each(Server::resume);
    events.more_renewals(2).await;
    assert!(guard.is_valid() && events.losses().is_empty());
}

async fn a_failure_names_the_silent_nodes(site: Site) {
    let events = Events::default();
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let request = manager.lock("k").ttl(secs(600)).on_renewal(events.listener());
    let _guard = request.auto_renew_every(millis(50)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    eventually("a renewal fails", async || events.failures() > 0).await;
    site.all().iter().for_each(Server::resume);
    let failed = events.all().into_iter().find_map(|event| match event {
        Seen::Failed { key, nodes, remaining } => Some((key, nodes, remaining)),
        _ => None,
    });
    let (key, nodes, remaining) = failed.unwrap();
    assert!(key == "k" && !remaining.is_zero());
    let named = nodes.iter().filter(|node| site.all().iter().any(|s| s.name() == **node));
    assert!(named.count() > site.all().len() / 2, "{nodes:?}");
}

async fn validity_that_runs_out_is_a_loss(site: Site) {
    let events = Events::default();
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let request = manager.lock("k").ttl(secs(1)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(100)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    assert_eq!(within(guard.lost()).await, LossReason::Expired);
    eventually("the loss is reported", async || !events.losses().is_empty()).await;
    assert_eq!(events.losses(), [LossReason::Expired]);
    site.all().iter().for_each(Server::resume);
}

async fn failures_are_told_now_and_then_and_once_before_the_end(site: Site) {
    let (events, trace, ttl) = (Events::default(), Trace::start(), secs(4));
    let manager = site.builder().node_timeout(millis(50)).build().unwrap();
    let request = manager.lock("k").ttl(ttl).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(400)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    within(guard.lost()).await;
    eventually("the loss is reported", async || !events.losses().is_empty()).await;
    site.all().iter().for_each(Server::resume);
    let left = events.all().into_iter().filter_map(|event| match event {
        Seen::Failed { remaining, .. } => Some(remaining),
        _ => None,
    });
    let left: Vec<_> = left.collect();
    // At once, after 1 and 2 more seconds, near the end; a node that is asked anew may find other words.
    assert!((2..=8).contains(&left.len()), "{left:?}");
    let near_the_end = left.iter().filter(|left| **left <= ttl / 10);
    assert_eq!(near_the_end.count(), 1, "{left:?}");
    let said = trace.text().matches("renewal failed").count();
    assert_eq!(said, left.len(), "the log is told as often");
}

async fn nothing_is_sent_after_release(site: Site) {
    let manager = site.manager();
    let (_clock, ticks) = ticking(&manager).await;
    for n in 0..10 {
        let request = manager.lock(format!("lock{n}"));
        let guard = request.auto_renew_every(millis(2)).await.unwrap();
        tokio::time::sleep(millis(n)).await;
        guard.release().await.unwrap();
        site.empties_of(&format!("lock{n}")).await;
    }
    all_has_arrived(&site, &manager).await;
    assert_silence_about(&site, "\"lock", &ticks).await;
}

async fn nothing_is_sent_after_a_loss(site: Site) {
    let manager = site.manager();
    let (events, (_clock, ticks)) = (Events::default(), ticking(&manager).await);
    let request = manager.lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(200)).await.unwrap();
    // A majority is enough to hold it: the last server may be asked yet.
    eventually("all servers have it", async || {
        site.all().iter().all(|server| server.get("k").is_some())
    })
    .await;
    site.delete("k", guard.owner_token()).await;
    eventually("the loss is reported", async || !events.losses().is_empty()).await;
    all_has_arrived(&site, &manager).await;
    // A renewal between two of the deletions may have put the key back while a majority had it.
    let left: Vec<_> = site.all().iter().map(|server| server.get("k")).collect();
    assert_silence_about(&site, "\"k\"", &ticks).await;
    for (server, left) in site.all().iter().zip(left) {
        assert!(left.is_some() || server.get("k").is_none(), "nothing is put back");
    }
}

/// Waits until every server has run all that was sent: commands arrive in the order in which they are sent. A
/// majority is enough for all else that a test could wait for.
async fn all_has_arrived(site: &Site, manager: &LockManager) {
    let _last = manager.lock("last").ttl(secs(600)).await.unwrap();
    eventually("all servers have it", async || {
        site.all().iter().all(|server| server.get("last").is_some())
    })
    .await;
}

/// Watches every server for ten renewals of the ticking guard.
async fn assert_silence_about(site: &Site, word: &str, ticks: &Events) {
    let monitors: Vec<_> = site.all().iter().map(Monitor::start).collect();
    ticks.more_renewals(10).await;
    for monitor in monitors {
        let commands = monitor.commands();
        let about = commands.iter().filter(|line| line.contains(word));
        assert_eq!(about.collect::<Vec<_>>(), Vec::<&String>::new());
    }
}

async fn a_dropped_lock_is_not_put_back_by_a_renewal(site: Site) {
    let manager = site.manager();
    let (clock, ticks) = ticking(&manager).await;
    for n in 0..50 {
        let request = manager.lock(format!("k{n}")).ttl(secs(600));
        let guard = request.auto_renew_every(millis(1)).await.unwrap();
        tokio::time::sleep(millis(n % 7)).await;
        drop(guard);
    }
    ticks.more_renewals(5).await;
    clock.release().await.unwrap();
    site.empties("k0").await;
}

async fn renewal_survives_a_broken_connection(site: Site) {
    let events = Events::default();
    let request = site.manager().lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    for server in site.all() {
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
    events.more_renewals(5).await;
    assert!(guard.is_valid() && events.losses().is_empty());
}

async fn renewal_survives_flushed_scripts(site: Site) {
    let events = Events::default();
    let request = site.manager().lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    for server in site.all() {
        server.command(&["SCRIPT", "FLUSH"]);
    }
    events.more_renewals(5).await;
    assert!(guard.is_valid() && events.losses().is_empty());
}

/// However long its answer takes.
async fn a_renewal_counts_from_before_it_was_sent(site: Site) {
    let (events, (proxies, builder)) = (Events::default(), site.proxied());
    let manager = builder.clock_drift(ClockDrift::new(0.0, Duration::ZERO)).build().unwrap();
    let request = manager.lock("k").ttl(secs(600)).on_renewal(events.listener());
    let _guard = request.auto_renew_every(millis(50)).await.unwrap();
    events.more_renewals(1).await;
    proxies.iter().for_each(Proxy::hold_replies);
    let scripts: Vec<_> = site.all().iter().map(Server::scripts).collect();
    eventually("every server has renewed it", async || {
        site.all().iter().zip(&scripts).all(|(server, before)| server.scripts() > *before)
    })
    .await;
    let (asked, told) = (Instant::now(), events.renewals());
    tokio::time::sleep(millis(300)).await;
    proxies.iter().for_each(Proxy::heal);
    events.more_renewals(1).await;
    let Seen::Renewed { valid_until, .. } = events.all()[told] else { panic!("{events:?}") };
    assert!(valid_until <= asked + secs(600), "{:?}", valid_until - asked);
}

/// The deadline does not wait for a node, however long that may take; nor is anything told after the loss.
async fn a_loss_is_told_at_the_deadline_while_the_nodes_may_still_answer(site: Site) {
    let events = Events::default();
    let manager = site.builder().node_timeout(BOUND * 2).build().unwrap();
    let request = manager.lock("k").ttl(secs(1)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(100)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    eventually("the loss is told", async || !events.losses().is_empty()).await;
    assert!(Instant::now() >= guard.valid_until() && !guard.is_valid());
    let told = events.all().len();
    site.all().iter().for_each(Server::resume);
    ticking(&manager).await.1.more_renewals(3).await;
    assert_eq!(events.all().len(), told, "{events:?}");
    assert_eq!(events.losses(), [LossReason::Expired]);
}

/// Nor do its renewals, unanswered there, use up what may be under way.
#[tokio::test]
async fn a_node_that_may_still_answer_does_not_hinder_renewal() {
    let (site, events) = (Site::servers(3), Events::default());
    let manager = site.builder().node_timeout(BOUND * 2).build().unwrap();
    let request = manager.lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    site.all()[0].pause();
    events.more_renewals(20).await;
    assert!(guard.is_valid() && events.failures() == 0, "{events:?}");
    site.all()[0].resume();
    guard.release().await.unwrap();
    site.empties("k").await;
}

#[tokio::test]
async fn a_key_lost_on_a_minority_is_put_back() {
    let site = Site::servers(3);
    let request = site.manager().lock("k").ttl(secs(600));
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    site.all()[0].del("k");
    eventually("the key is back", async || {
        site.all()[0].get("k").as_deref() == Some(guard.owner_token().as_str())
    })
    .await;
    assert!(site.all()[0].pttl("k") > Some(secs(300)));
    assert_eq!(site.all()[0].counter("{k}:fence"), Some(guard.fencing_token().get()));
    guard.release().await.unwrap();
    site.empties("k").await;
}

#[tokio::test]
async fn a_restarted_minority_gets_key_and_counter_back_or_is_left_alone() {
    let site = Site::servers(3);
    let events = Events::default();
    let request = site.manager().lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    site.all()[0].restart();
    events.more_renewals(10).await;
    assert!(guard.is_valid() && events.losses().is_empty());
    let put_back = site.all()[0].get("k");
    assert!(put_back.is_none_or(|owner| owner == guard.owner_token().as_str()));
    guard.release().await.unwrap();
    site.empties("k").await;
}

#[tokio::test]
async fn anothers_key_on_a_minority_is_left_alone() {
    let site = Site::servers(3);
    let events = Events::default();
    let request = site.manager().lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    site.all()[0].command(&["SET", "k", "foreign", "PX", "600000"]);
    events.more_renewals(5).await;
    assert_eq!(site.all()[0].get("k").as_deref(), Some("foreign"));
    assert!(guard.is_valid() && events.losses().is_empty());
}

#[tokio::test]
async fn a_key_lost_on_a_majority_is_a_loss() {
    let site = Site::servers(3);
    let request = site.manager().lock("k").ttl(secs(600));
    let guard = request.auto_renew_every(millis(200)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    site.all()[..2].iter().for_each(|server| server.del("k"));
    assert_eq!(within(guard.lost()).await, LossReason::Taken);
    assert!(!guard.is_valid());
}

#[tokio::test]
async fn a_silent_minority_does_not_hinder_renewal() {
    let site = Site::servers(3);
    let events = Events::default();
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let request = manager.lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(50)).await.unwrap();
    site.all()[0].pause();
    events.more_renewals(10).await;
    assert!(guard.is_valid() && events.losses().is_empty());
    site.all()[0].resume();
    guard.release().await.unwrap();
    site.empties("k").await;
}

/// A guard whose renewals tell how time passes.
async fn ticking(manager: &LockManager) -> (redlatch::LockGuard, Events) {
    let ticks = Events::default();
    let request = manager.lock("clock").ttl(secs(600)).on_renewal(ticks.listener());
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    (guard, ticks)
}

/// A node that loses the key again and again, or somebody who deletes it there, has the last word.
#[tokio::test]
async fn a_lock_is_put_back_on_a_node_a_limited_number_of_times() {
    let (site, events) = (Site::servers(3), Events::default());
    let request = site.manager().lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(10)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    let forgetful = &site.all()[0];
    let mut put_back = 0;
    loop {
        forgetful.command(&["DEL", "k"]);
        let mut is_back = false;
        for _ in 0..20 {
            events.more_renewals(1).await;
            is_back |= forgetful.get("k").is_some();
        }
        if !is_back {
            break;
        }
        put_back += 1;
        assert!(put_back < 100, "it is put back for ever");
    }
    assert!(put_back >= 1, "a restart does not count against the lock");
    assert!(guard.is_valid(), "the majority has it");
}
