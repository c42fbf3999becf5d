//! Learning that a lock is lost, in time and for good.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use futures_util::future::join;
use redlatch::{Error, LossReason};
use tokio::time::Instant;

use crate::support::{
    Proxy, Server, Site, eventually, everywhere, millis, on_servers, secs, within,
};

everywhere!(
    a_held_lock_is_not_lost,
    a_lock_is_lost_when_its_validity_ends,
    a_lock_is_lost_when_an_extend_finds_it_gone,
    a_lock_is_lost_when_an_extend_finds_anothers,
    a_lost_lock_stays_lost,
    many_tasks_hear_of_the_loss,
    while_held_returns_the_works_output,
    while_held_drops_the_work_on_loss,
    while_held_of_a_lost_lock_does_not_start_the_work,
    while_held_is_lost_if_the_work_blocks_until_another_had_the_lock,
    extending_moves_the_loss_as_well,
);

on_servers!(
    a_lock_is_lost_by_its_deadline_while_the_servers_are_silent,
    a_lock_is_lost_by_its_deadline_while_the_servers_are_down,
    a_lock_is_lost_by_its_deadline_even_if_the_key_lives_on,
    an_answer_after_the_loss_does_not_revive_the_lock,
);

async fn a_held_lock_is_not_lost(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    assert_eq!(guard.lost().now_or_never(), None);
}

async fn a_lock_is_lost_when_its_validity_ends(site: Site) {
    let guard = site.manager().lock("k").ttl(millis(500)).await.unwrap();
    assert_eq!(within(guard.lost()).await, LossReason::Expired);
    assert!(Instant::now() >= guard.valid_until());
    assert!(!guard.is_valid() && guard.remaining().is_zero());
}

async fn a_lock_is_lost_when_an_extend_finds_it_gone(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    site.delete("k", guard.owner_token()).await;
    guard.extend(secs(600)).await.unwrap_err();
    assert_eq!(guard.lost().now_or_never(), Some(LossReason::Taken));
    assert!(!guard.is_valid() && guard.remaining().is_zero());
}

async fn a_lock_is_lost_when_an_extend_finds_anothers(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    site.seize("k", guard.owner_token()).await;
    guard.try_extend(secs(600)).await.unwrap_err();
    assert_eq!(guard.lost().now_or_never(), Some(LossReason::Taken));
}

async fn a_lost_lock_stays_lost(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let owner = guard.owner_token().clone();
    site.delete("k", &owner).await;
    guard.extend(secs(600)).await.unwrap_err();
    let again = site.manager().lock("k").owner(owner).ttl(secs(600));
    let _again = again.try_acquire().await.unwrap();
    guard.extend(secs(600)).await.unwrap_err();
    assert!(!guard.is_valid(), "another lock of the same owner does not revive it");
    assert_eq!(within(guard.lost()).await, LossReason::Taken);
}

async fn many_tasks_hear_of_the_loss(site: Site) {
    let guard = Arc::new(site.manager().lock("k").ttl(secs(1)).await.unwrap());
    let listen = |guard: Arc<redlatch::LockGuard>| async move { guard.lost().await };
    let listeners: Vec<_> = (0..20).map(|_| tokio::spawn(listen(Arc::clone(&guard)))).collect();
    for listener in listeners {
        assert_eq!(within(listener).await.unwrap(), LossReason::Expired);
    }
}

async fn while_held_returns_the_works_output(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    let output = guard.while_held(async { "done" }).await.unwrap();
    assert_eq!(output, "done");
}

async fn while_held_drops_the_work_on_loss(site: Site) {
    let guard = site.manager().lock("k").ttl(millis(500)).await.unwrap();
    let held = Arc::new(());
    let dropped = Arc::downgrade(&held);
    let work = async move {
        let _held = held;
        std::future::pending::<()>().await;
    };
    let mut working = pin!(guard.while_held(work));
    let error = within(&mut working).await.unwrap_err();
    assert!(dropped.upgrade().is_none(), "the work is gone, though its future is not");
    let Error::Lost { key, reason: LossReason::Expired, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(key == "k" && error.is_lost());
}

async fn while_held_of_a_lost_lock_does_not_start_the_work(site: Site) {
    let guard = site.manager().lock("k").ttl(millis(300)).await.unwrap();
    within(guard.lost()).await;
    let started = AtomicBool::new(false);
    let work = async { started.store(true, Ordering::SeqCst) };
    let error = within(guard.while_held(work)).await.unwrap_err();
    assert!(error.is_lost() && !started.load(Ordering::SeqCst), "{error:?}");
}

async fn while_held_is_lost_if_the_work_blocks_until_another_had_the_lock(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(1)).auto_renew().await.unwrap();
    let error = guard.while_held(async { site.blocks_until_anothers_turn("k") }).await.unwrap_err();
    let expired = matches!(error, Error::Lost { reason: LossReason::Expired, .. });
    assert!(expired && error.key() == Some("k"), "{error:?}");
}

async fn extending_moves_the_loss_as_well(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(1)).await.unwrap();
    let old = guard.valid_until();
    let lost = guard.lost();
    guard.extend(secs(2)).await.unwrap();
    assert_eq!(within(lost).await, LossReason::Expired);
    assert!(Instant::now() >= guard.valid_until() && guard.valid_until() > old);
}

async fn a_lock_is_lost_by_its_deadline_while_the_servers_are_silent(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(1)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    assert_eq!(within(guard.lost()).await, LossReason::Expired);
    assert!(Instant::now() >= guard.valid_until());
    site.all().iter().for_each(Server::resume);
}

async fn a_lock_is_lost_by_its_deadline_while_the_servers_are_down(site: Site) {
    let request = site.manager().lock("k").ttl(secs(1));
    let guard = request.auto_renew_every(millis(50)).await.unwrap();
    site.all().iter().for_each(Server::kill);
    assert_eq!(within(guard.lost()).await, LossReason::Expired);
}

async fn a_lock_is_lost_by_its_deadline_even_if_the_key_lives_on(site: Site) {
    let guard = site.manager().lock("k").ttl(millis(500)).await.unwrap();
    for server in site.all() {
        server.command(&["PEXPIRE", "k", "600000"]);
    }
    assert_eq!(within(guard.lost()).await, LossReason::Expired);
    assert!(!guard.is_valid());
}

async fn an_answer_after_the_loss_does_not_revive_the_lock(site: Site) {
    site.learns_the_scripts().await;
    let (proxies, builder) = site.proxied();
    let guard = builder.build().unwrap().lock("k").ttl(secs(2)).await.unwrap();
    // The slowest connection must stand before its replies are held.
    site.fills("k").await;
    proxies.iter().for_each(Proxy::hold_replies);
    let answer_late = async {
        eventually("every server has extended it", async || site.live_longer("k", secs(300))).await;
        assert_eq!(within(guard.lost()).await, LossReason::Expired);
        proxies.iter().for_each(Proxy::heal);
    };
    let (extended, ()) = within(join(guard.extend(secs(600)), answer_late)).await;
    extended.unwrap_err();
    assert!(!guard.is_valid() && guard.remaining().is_zero());
    assert_eq!(guard.lost().now_or_never(), Some(LossReason::Expired));
}

#[tokio::test]
async fn losing_a_minority_of_the_keys_is_no_loss() {
    let site = Site::servers(3);
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    site.all()[0].command(&["SET", "k", "foreign", "PX", "600000"]);
    guard.extend(secs(600)).await.unwrap();
    assert!(guard.is_valid());
    assert_eq!(guard.lost().now_or_never(), None);
}

#[tokio::test]
async fn losing_the_last_vote_that_made_a_majority_is_a_loss() {
    let site = Site::servers(3);
    site.all()[2].kill();
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    site.all()[0].del("k");
    guard.try_extend(secs(600)).await.unwrap_err();
    assert_eq!(guard.lost().now_or_never(), Some(LossReason::Taken));
}

#[tokio::test]
async fn a_silent_majority_is_no_loss_before_the_deadline() {
    let site = Site::servers(3);
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    site.all()[..2].iter().for_each(Server::pause);
    within(guard.try_extend(secs(600))).await.unwrap_err();
    assert!(guard.is_valid());
    assert_eq!(guard.lost().now_or_never(), None);
    site.all()[..2].iter().for_each(Server::resume);
}

#[tokio::test]
async fn a_lock_that_one_of_three_nodes_supports_is_lost() {
    let site = Site::servers(3);
    let manager = site.builder().node_timeout(millis(200)).build().unwrap();
    drop(manager.ping().await);
    site.all()[2].pause();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    site.all()[1].del("k");
    within(guard.try_extend(secs(600))).await.unwrap_err();
    assert_eq!(within(guard.lost()).await, LossReason::Taken);
    site.all()[2].resume();
}
