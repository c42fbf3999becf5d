//! `run`: acquire, renew, work, release.

use std::sync::Arc;

use redlatch::{Error, LossReason, OwnerToken};

use crate::support::{Server, Site, everywhere, millis, secs, within};

everywhere!(
    run_returns_the_works_value,
    run_holds_the_lock_while_the_work_runs,
    run_releases_after_the_work,
    run_renews_while_the_work_runs,
    run_drops_the_work_once_the_lock_is_taken,
    run_releases_when_the_work_panics,
    run_waits_no_longer_than_allowed,
    work_that_blocks_until_another_had_the_lock_is_lost,
    the_value_of_lost_work_is_dropped,
    work_whose_lock_was_taken_before_the_release_is_lost,
);

async fn run_returns_the_works_value(site: Site) {
    let work = async |guard: &redlatch::LockGuard| guard.key().to_owned();
    let value = site.manager().lock("k").run(work).await.unwrap();
    assert_eq!(value, "k");
}

async fn run_holds_the_lock_while_the_work_runs(site: Site) {
    let run = site.manager().lock("k").run(async |guard| {
        assert!(guard.is_valid());
        (guard.owner_token().as_str().to_owned(), site.holder("k").await)
    });
    let (owner, holder) = run.await.unwrap();
    assert_eq!(holder, Some(owner));
}

async fn run_releases_after_the_work(site: Site) {
    site.manager().lock("k").ttl(secs(600)).run(async |_| ()).await.unwrap();
    let free = site.manager().lock("k").try_acquire().await;
    assert!(free.is_ok(), "it is free at once: {free:?}");
}

async fn run_renews_while_the_work_runs(site: Site) {
    let ttl = secs(2);
    let run = site.manager().lock("k").ttl(ttl).run(async |guard| {
        let start = tokio::time::Instant::now();
        while guard.valid_until() < start + ttl * 2 {
            tokio::time::sleep(millis(20)).await;
        }
    });
    within(run).await.expect("it was held throughout");
}

async fn run_drops_the_work_once_the_lock_is_taken(site: Site) {
    let owner = OwnerToken::random();
    let request = site.manager().lock("k").owner(owner.clone());
    let held = Arc::new(());
    let dropped = Arc::downgrade(&held);
    let run = request.auto_renew_every(millis(200)).run(async move |_| {
        let _held = held;
        site.seize("k", &owner).await;
        std::future::pending::<()>().await;
    });
    let error = within(run).await.unwrap_err();
    let taken = matches!(error, Error::Lost { reason: LossReason::Taken, .. });
    assert!(taken && error.is_lost(), "{error:?}");
    assert!(dropped.upgrade().is_none(), "the work is gone");
}

async fn run_releases_when_the_work_panics(site: Site) {
    let manager = site.manager();
    let request = manager.lock("k").ttl(secs(600));
    let run = async move { request.run(async |_| panic!("the work fails")).await };
    let panicked = tokio::spawn(run).await;
    assert!(panicked.is_err_and(|error| error.is_panic()));
    site.empties("k").await;
}

async fn run_waits_no_longer_than_allowed(site: Site) {
    let _guard = site.manager().lock("k").await.unwrap();
    let request = site.manager().lock("k").wait_timeout(millis(50));
    let error = within(request.run(async |_| panic!("never held"))).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
}

async fn work_that_blocks_until_another_had_the_lock_is_lost(site: Site) {
    let request = site.manager().lock("k").ttl(secs(1));
    let error = request.run(async |_| site.blocks_until_anothers_turn("k")).await.unwrap_err();
    let expired = matches!(error, Error::Lost { reason: LossReason::Expired, .. });
    assert!(expired && error.key() == Some("k"), "{error:?}");
    site.empties("k").await;
}

async fn the_value_of_lost_work_is_dropped(site: Site) {
    let value = Arc::new(());
    let dropped = Arc::downgrade(&value);
    let run = site.manager().lock("k").ttl(millis(200)).run(async move |guard| {
        while guard.is_valid() {
            std::thread::sleep(millis(5));
        }
        value
    });
    assert!(within(run).await.unwrap_err().is_lost());
    assert!(dropped.upgrade().is_none(), "the value is gone");
}

async fn work_whose_lock_was_taken_before_the_release_is_lost(site: Site) {
    let owner = OwnerToken::random();
    let request = site.manager().lock("k").owner(owner.clone()).ttl(secs(600));
    let run = request.run(async |guard| {
        site.seize("k", &owner).await;
        assert!(guard.is_valid(), "nobody has noticed yet");
    });
    let error = within(run).await.unwrap_err();
    let taken = matches!(error, Error::Lost { reason: LossReason::Taken, .. });
    assert!(taken && error.key() == Some("k"), "{error:?}");
}

#[tokio::test]
async fn run_returns_the_works_value_even_if_the_release_is_not_confirmed() {
    let site = Site::Servers(vec![Server::start()]);
    let builder = site.builder().node_timeout(millis(100));
    let manager = builder.release_timeout(millis(300)).build().unwrap();
    let run = manager.lock("k").ttl(secs(600)).run(async |_| {
        site.all()[0].pause();
        42
    });
    assert_eq!(within(run).await.unwrap(), 42);
    site.all()[0].resume();
    site.empties("k").await;
}

#[tokio::test]
async fn run_drops_the_work_when_validity_ends() {
    let server = Server::start();
    let site = Site::Servers(vec![server]);
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let run = manager.lock("k").ttl(secs(1)).run(async |_| {
        site.all()[0].pause();
        std::future::pending::<()>().await;
    });
    let error = within(run).await.unwrap_err();
    let expired = matches!(error, Error::Lost { reason: LossReason::Expired, .. });
    assert!(expired, "{error:?}");
    site.all()[0].resume();
}
