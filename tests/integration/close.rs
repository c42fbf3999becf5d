//! Closing a manager: nothing new, everything pending finished, live locks left alone.

use futures_util::FutureExt;
use futures_util::future::join;
use redlatch::{Error, LockGuard, LockManager, LossReason, OwnerToken, Result};

use crate::support::{
    BOUND, Events, Proxy, Server, Site, eventually, everywhere, millis, on_servers,
    over_a_slow_third, secs, within,
};

everywhere!(
    closing_an_idle_manager_leaves_nothing_unreleased,
    closing_an_unused_manager_is_fine,
    closing_twice_is_fine,
    a_closed_manager_takes_no_locks,
    a_closed_manager_adopts_nothing,
    a_clone_is_closed_too,
    close_finishes_the_releases_of_dropped_guards,
    close_keeps_a_live_guards_key,
    close_counts_live_guards,
    close_waits_for_live_guards_to_go,
    a_live_guard_can_be_released_after_close,
    a_live_guard_dropped_after_close_is_released,
    a_live_guard_cannot_be_extended_after_close,
    a_live_guard_is_lost_by_close,
    close_ends_renewal,
    close_ends_the_waiting,
    another_manager_is_not_closed,
);

on_servers!(
    close_reports_what_stayed_unreleased,
    close_closes_the_connections_for_notices,
    notices_end_with_the_last_of_their_manager,
    an_acquire_that_is_answered_after_close_gets_nothing,
    an_adoption_that_is_answered_after_close_gets_nothing,
    an_acquire_or_extend_that_is_answered_after_close_gets_nothing,
);

/// A manager that waits only briefly in `close`.
fn hasty(site: &Site) -> LockManager {
    let builder = site.builder().release_timeout(millis(200));
    builder.build().unwrap()
}

async fn closing_an_idle_manager_leaves_nothing_unreleased(site: Site) {
    let manager = site.manager();
    manager.lock("k").await.unwrap().release().await.unwrap();
    assert_eq!(within(manager.close()).await, 0);
}

async fn closing_an_unused_manager_is_fine(site: Site) {
    assert_eq!(within(site.manager().close()).await, 0);
}

async fn closing_twice_is_fine(site: Site) {
    let manager = site.manager();
    manager.lock("k").await.unwrap().release().await.unwrap();
    assert_eq!(within(manager.close()).await, 0);
    assert_eq!(within(manager.close()).await, 0);
}

async fn a_closed_manager_takes_no_locks(site: Site) {
    let manager = site.manager();
    manager.close().await;
    let errors = [
        manager.lock("k").acquire().await.unwrap_err(),
        manager.lock("k").try_acquire().await.unwrap_err(),
        manager.lock("k").acquire_or_extend().await.unwrap_err(),
        manager.lock("k").run(async |_| ()).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Closed), "{error:?}");
    }
    assert_eq!(site.holder("k").await, None);
}

async fn a_closed_manager_adopts_nothing(site: Site) {
    let ticket = site.manager().lock("k").await.unwrap().into_ticket();
    let manager = site.manager();
    manager.close().await;
    let error = manager.adopt(ticket.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
    let _guard = site.manager().adopt(ticket).await.expect("the ticket is still good");
}

async fn a_clone_is_closed_too(site: Site) {
    let manager = site.manager();
    let clone = manager.clone();
    manager.close().await;
    let error = clone.lock("k").acquire().await.unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
}

async fn close_finishes_the_releases_of_dropped_guards(site: Site) {
    let manager = site.manager();
    for n in 0..100 {
        drop(manager.lock(format!("k{n}")).ttl(secs(600)).await.unwrap());
    }
    assert_eq!(within(manager.close()).await, 0);
    for n in 0..100 {
        assert_eq!(site.holder(&format!("k{n}")).await, None);
    }
    site.empties("k0").await;
}

async fn close_keeps_a_live_guards_key(site: Site) {
    let manager = hasty(&site);
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    within(manager.close()).await;
    let holder = site.holder("k").await;
    assert_eq!(holder.as_deref(), Some(guard.owner_token().as_str()));
}

async fn close_counts_live_guards(site: Site) {
    let manager = hasty(&site);
    let _a = manager.lock("a").ttl(secs(600)).await.unwrap();
    let _b = manager.lock("b").ttl(secs(600)).await.unwrap();
    assert_eq!(within(manager.close()).await, 2);
}

async fn close_waits_for_live_guards_to_go(site: Site) {
    let manager = site.builder().release_timeout(secs(25)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    let closing = tokio::spawn({
        let manager = manager.clone();
        async move { manager.close().await }
    });
    within(guard.lost()).await;
    tokio::time::sleep(millis(20)).await;
    assert!(!closing.is_finished(), "a guard is alive");
    drop(guard);
    assert_eq!(within(closing).await.unwrap(), 0);
    assert_eq!(site.holder("k").await, None);
}

async fn a_live_guard_can_be_released_after_close(site: Site) {
    let manager = hasty(&site);
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    within(manager.close()).await;
    within(guard.release()).await.unwrap();
    site.empties("k").await;
}

async fn a_live_guard_dropped_after_close_is_released(site: Site) {
    let manager = hasty(&site);
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    within(manager.close()).await;
    drop(guard);
    site.empties("k").await;
}

async fn a_live_guard_cannot_be_extended_after_close(site: Site) {
    let manager = hasty(&site);
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    within(manager.close()).await;
    for error in
        [guard.extend(secs(60)).await.unwrap_err(), guard.try_extend(secs(60)).await.unwrap_err()]
    {
        assert!(matches!(error, Error::Closed), "{error:?}");
    }
}

async fn a_live_guard_is_lost_by_close(site: Site) {
    let manager = hasty(&site);
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    let (work, _) =
        within(join(guard.while_held(std::future::pending::<()>()), manager.close())).await;
    let closed = matches!(work, Err(Error::Lost { reason: LossReason::Closed, .. }));
    assert!(closed, "{work:?}");
    assert_eq!(guard.lost().now_or_never(), Some(LossReason::Closed));
}

async fn close_ends_renewal(site: Site) {
    let (events, ticks) = (Events::default(), Events::default());
    let (manager, other) = (hasty(&site), site.manager());
    let request = manager.lock("k").ttl(secs(600)).on_renewal(events.listener());
    let _guard = request.auto_renew_every(millis(20)).await.unwrap();
    events.more_renewals(1).await;
    within(manager.close()).await;
    let renewals = events.renewals();
    let request = other.lock("clock").on_renewal(ticks.listener());
    let _clock = request.auto_renew_every(millis(20)).await.unwrap();
    ticks.more_renewals(5).await;
    assert_eq!(events.renewals(), renewals);
}

async fn close_ends_the_waiting(site: Site) {
    let _guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let manager = site.manager();
    let waiter = tokio::spawn(manager.lock("k").acquire());
    tokio::time::sleep(millis(50)).await;
    assert_eq!(within(manager.close()).await, 0);
    let error = within(waiter).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
}

async fn another_manager_is_not_closed(site: Site) {
    let (one, other) = (site.manager(), site.manager());
    let owner = OwnerToken::random();
    let guard = other.lock("k").owner(owner).ttl(secs(600)).await.unwrap();
    within(one.close()).await;
    guard.extend(secs(700)).await.unwrap();
    guard.release().await.unwrap();
}

async fn close_reports_what_stayed_unreleased(site: Site) {
    let builder = site.builder().node_timeout(millis(100));
    let manager = builder.release_timeout(millis(300)).build().unwrap();
    let a = manager.lock("a").ttl(secs(600)).await.unwrap();
    let b = manager.lock("b").ttl(secs(600)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    drop((a, b));
    let unreleased = within(manager.close()).await;
    site.all().iter().for_each(Server::resume);
    assert_eq!(unreleased, 2);
}

async fn close_closes_the_connections_for_notices(site: Site) {
    let (holder, manager) = (site.manager(), site.manager());
    let _guard = holder.lock("k").ttl(secs(600)).await.unwrap();
    let waiter = tokio::spawn(manager.lock("k").acquire());
    eventually("it listens", async || listeners(&site) == site.all().len()).await;
    assert_eq!(within(manager.close()).await, 0);
    assert!(matches!(within(waiter).await.unwrap(), Err(Error::Closed)));
    at_once("the connections are closed", || listeners(&site) == 0).await;
}

async fn notices_end_with_the_last_of_their_manager(site: Site) {
    let (holder, manager) = (site.manager(), site.manager());
    let _guard = holder.lock("k").ttl(secs(600)).await.unwrap();
    let other = manager.lock("other").ttl(secs(600)).await.unwrap();
    let waiter = tokio::spawn(manager.lock("k").acquire());
    eventually("it listens", async || listeners(&site) == site.all().len()).await;
    drop(manager);
    other.release().await.unwrap();
    assert_eq!(listeners(&site), site.all().len(), "it still waits");
    waiter.abort();
    assert!(within(waiter).await.unwrap_err().is_cancelled());
    at_once("the connections are closed", || listeners(&site) == 0).await;
}

/// The connections on which somebody listens.
fn listeners(site: &Site) -> usize {
    let list = |server: &Server| server.query::<String>(&["CLIENT", "LIST", "TYPE", "pubsub"]);
    site.all().iter().map(|server| list(server).lines().count()).sum()
}

/// Waits until `condition` is true while tokio's clock stands still, so that no timer brings it about.
async fn at_once(what: &str, mut condition: impl FnMut() -> bool) {
    tokio::time::pause();
    let start = std::time::Instant::now();
    // The clock moves on by itself only where there is nothing to do.
    while !condition() {
        assert!(start.elapsed() < BOUND, "not without a timer: {what}");
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
}

async fn an_acquire_that_is_answered_after_close_gets_nothing(site: Site) {
    let (proxies, manager) = warm(&site).await;
    let acquire = manager.lock("k").acquire();
    let is_taken = async || site.lock_keys().len() == site.all().len();
    assert_closed(&close_before_the_answer(&proxies, &manager, acquire, is_taken).await);
    site.empties("k").await;
}

/// Its ticket is as good as before.
async fn an_adoption_that_is_answered_after_close_gets_nothing(site: Site) {
    let (proxies, manager) = warm(&site).await;
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    site.fills("k").await;
    let ticket = guard.into_ticket();
    for server in site.all() {
        server.command(&["PEXPIRE", "k", "60000"]);
    }
    let is_extended = async || site.live_longer("k", secs(60));
    let adopt = manager.adopt(ticket.clone());
    assert_closed(&close_before_the_answer(&proxies, &manager, adopt, is_extended).await);
    let _guard = site.manager().adopt(ticket).await.expect("it is still held");
}

/// The lock is the other guard's, as before.
async fn an_acquire_or_extend_that_is_answered_after_close_gets_nothing(site: Site) {
    let owner = OwnerToken::new("us").unwrap();
    let (proxies, manager) = warm(&site).await;
    let guard = held_for_a_minute(&site, &owner).await;
    let (request, is_asked) = (manager.lock("k").owner(owner), async || all_are_asked(&site));
    site.all().iter().for_each(Server::reset_calls);
    let join = request.acquire_or_extend();
    assert_closed(&close_before_the_answer(&proxies, &manager, join, is_asked).await);
    guard.extend(secs(700)).await.expect("it is still held");
}

/// A manager whose connections stand.
async fn warm(site: &Site) -> (Vec<Proxy>, LockManager) {
    site.learns_the_scripts().await;
    let (proxies, builder) = site.proxied();
    let manager = builder.build().unwrap();
    assert!(manager.ping().await.iter().all(|node| node.round_trip().is_ok()));
    (proxies, manager)
}

async fn held_for_a_minute(site: &Site, owner: &OwnerToken) -> LockGuard {
    let request = site.manager().lock("k").owner(owner.clone());
    let guard = request.ttl(secs(60)).await.unwrap();
    site.fills("k").await;
    guard
}

fn all_are_asked(site: &Site) -> bool {
    site.all().iter().all(|server| server.scripts() > 0)
}

/// Closes the manager while the answers that `work` waits for are on their way; `is_asked`: once the nodes have
/// done what it asks.
async fn close_before_the_answer(
    proxies: &[Proxy],
    manager: &LockManager,
    work: impl Future<Output = Result<LockGuard>>,
    is_asked: impl AsyncFnMut() -> bool,
) -> Result<LockGuard> {
    proxies.iter().for_each(Proxy::hold_replies);
    let close = async {
        eventually("the nodes are asked", is_asked).await;
        // It is closed before they are healed, since it is polled first.
        let heal = async { proxies.iter().for_each(Proxy::heal) };
        join(manager.close(), heal).await.0
    };
    let (result, unreleased) = within(join(work, close)).await;
    assert_eq!(unreleased, 0);
    result
}

fn assert_closed(result: &Result<LockGuard>) {
    assert!(matches!(result, Err(Error::Closed)), "{result:?}");
}

#[tokio::test]
async fn close_does_not_wait_for_a_key_that_is_no_lock() {
    let site = Site::servers(3);
    for server in site.all() {
        server.command(&["RPUSH", "k", "a list"]);
    }
    let (manager, _slow) = over_a_slow_third(&site, millis(200)).await;
    within(manager.lock("k").try_acquire()).await.unwrap_err();
    assert_eq!(within(manager.close()).await, 0);
}
