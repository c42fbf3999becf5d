//! Ending a lock: by release, by forgetting it.

use futures_util::future::join3;
use redlatch::{Error, LockManager, LockRequest, Result};
use tokio::task::JoinHandle;

use crate::support::{
    Proxy, Server, Site, eventually, everywhere, millis, on_servers, secs, within,
};

everywhere!(
    release_frees_the_lock,
    release_of_a_vanished_key_is_not_held,
    release_keeps_a_lock_taken_by_another_owner,
    a_forgotten_lock_stays_until_its_ttl_is_over,
    a_forgotten_lock_is_no_longer_renewed,
);

on_servers!(
    release_deletes_the_key_on_every_server,
    release_keeps_a_key_taken_by_another_owner,
    release_of_an_expired_lock_is_not_held,
    release_is_unavailable_in_bounded_time,
    release_goes_on_in_the_background,
    release_survives_a_broken_connection,
    release_survives_flushed_scripts,
    release_reaches_a_server_that_was_away_for_a_while,
    release_of_restarted_servers_is_not_held,
    release_asks_again_where_refusals_overlapped,
    release_whose_answer_came_too_late_is_confirmed,
    release_of_an_unfenced_lock_whose_answer_came_too_late_is_confirmed,
    release_of_an_unfenced_lock_whose_answer_was_lost_with_its_connection_is_not_held,
    a_release_whose_answer_was_lost_with_its_connection_is_confirmed,
);

async fn release_frees_the_lock(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    guard.release().await.unwrap();
    let _guard = site.manager().lock("k").try_acquire().await.unwrap();
}

async fn release_of_a_vanished_key_is_not_held(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    site.delete("k", guard.owner_token()).await;
    let error = guard.release().await.unwrap_err();
    assert!(matches!(&error, Error::NotHeld { key, .. } if key == "k"), "{error:?}");
    assert!(error.is_not_held());
}

async fn release_keeps_a_lock_taken_by_another_owner(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    site.seize("k", guard.owner_token()).await;
    let error = guard.release().await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
    assert_eq!(site.holder("k").await.as_deref(), Some("another-owner"));
}

async fn a_forgotten_lock_stays_until_its_ttl_is_over(site: Site) {
    let manager = site.manager();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    let owner = guard.owner_token().as_str().to_owned();
    guard.forget();
    manager.close().await;
    assert_eq!(site.holder("k").await, Some(owner));
}

async fn a_forgotten_lock_is_no_longer_renewed(site: Site) {
    let request = site.manager().lock("k").ttl(secs(1));
    request.auto_renew_every(millis(20)).await.unwrap().forget();
    site.empties("k").await;
}

async fn release_deletes_the_key_on_every_server(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    guard.release().await.unwrap();
    site.empties("k").await;
}

async fn release_keeps_a_key_taken_by_another_owner(site: Site) {
    let manager = site.manager();
    let guard = manager.lock("k").await.unwrap();
    for server in site.all() {
        server.command(&["SET", "k", "foreign", "PX", "600000"]);
    }
    assert!(guard.release().await.unwrap_err().is_not_held());
    manager.close().await;
    for server in site.all() {
        assert_eq!(server.get("k").as_deref(), Some("foreign"));
        assert!(server.pttl("k") > Some(secs(300)));
    }
}

async fn release_of_an_expired_lock_is_not_held(site: Site) {
    let guard = site.manager().lock("k").ttl(millis(300)).await.unwrap();
    eventually("the key expires", async || site.lock_keys().is_empty()).await;
    let error = guard.release().await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
}

async fn release_is_unavailable_in_bounded_time(site: Site) {
    let builder = site.builder().node_timeout(millis(100));
    let manager = builder.release_timeout(millis(400)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    let error = within(guard.release()).await.unwrap_err();
    let Error::Unavailable { key, nodes, reached: 0, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(key, "k");
    assert!(error.is_unavailable() && !nodes.is_empty());
    site.all().iter().for_each(Server::resume);
}

async fn release_goes_on_in_the_background(site: Site) {
    let builder = site.builder().node_timeout(millis(100));
    let manager = builder.release_timeout(millis(200)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    within(guard.release()).await.unwrap_err();
    site.all().iter().for_each(Server::resume);
    site.empties("k").await;
}

async fn release_survives_a_broken_connection(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    for server in site.all() {
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
    within(guard.release()).await.unwrap();
    site.empties("k").await;
}

async fn release_survives_flushed_scripts(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    for server in site.all() {
        server.command(&["SCRIPT", "FLUSH"]);
    }
    within(guard.release()).await.unwrap();
    site.empties("k").await;
}

async fn release_reaches_a_server_that_was_away_for_a_while(site: Site) {
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    let release = guard.release();
    let resume = async {
        tokio::time::sleep(millis(600)).await;
        site.all().iter().for_each(Server::resume);
    };
    let (released, ()) = within(futures_util::future::join(release, resume)).await;
    released.expect("the servers came back within the release timeout");
    site.empties("k").await;
}

async fn release_of_restarted_servers_is_not_held(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    site.all().iter().for_each(Server::restart);
    let error = within(guard.release()).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
}

#[tokio::test]
async fn release_is_confirmed_by_a_majority_that_still_held_the_key() {
    let site = Site::servers(3);
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    site.all()[0].del("k");
    guard.release().await.unwrap();
    site.empties("k").await;
}

#[tokio::test]
async fn release_is_not_held_when_a_majority_had_lost_the_key() {
    let site = Site::servers(3);
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    site.all()[..2].iter().for_each(|server| server.del("k"));
    let error = guard.release().await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
    site.empties("k").await;
}

async fn release_whose_answer_came_too_late_is_confirmed(site: Site) {
    assert_confirmed_when_asked_again(&site, |request| request).await;
}

async fn release_of_an_unfenced_lock_whose_answer_came_too_late_is_confirmed(site: Site) {
    assert_confirmed_when_asked_again(&site, LockRequest::unfenced).await;
}

async fn assert_confirmed_when_asked_again(
    site: &Site,
    request: impl Fn(LockRequest) -> LockRequest,
) {
    let (proxies, release) = deleted_unheard(site, request, Proxy::hold_replies).await;
    eventually("it is asked again", async || site.all().iter().all(|s| s.scripts() >= 2)).await;
    proxies.iter().for_each(Proxy::heal);
    within(release).await.unwrap().expect("it was ours when it was deleted");
}

/// The servers may have restarted: there is no counter to tell that they have not.
async fn release_of_an_unfenced_lock_whose_answer_was_lost_with_its_connection_is_not_held(
    site: Site,
) {
    let unfenced = LockRequest::unfenced;
    let (proxies, release) = deleted_unheard(&site, unfenced, Proxy::swallow_replies).await;
    proxies.iter().for_each(Proxy::cut);
    proxies.iter().for_each(Proxy::heal);
    assert!(within(release).await.unwrap().unwrap_err().is_not_held());
}

/// A release that all servers have carried out, through a network that is `dark` since.
async fn deleted_unheard(
    site: &Site,
    request: impl Fn(LockRequest) -> LockRequest,
    dark: impl Fn(&Proxy),
) -> (Vec<Proxy>, JoinHandle<Result<()>>) {
    let (proxies, builder) = site.proxied();
    // A connection is given up after three timeouts: so long is the time to heal it.
    let manager = builder.node_timeout(secs(2)).build().unwrap();
    let guard = request(manager.lock("k").ttl(secs(600))).await.unwrap();
    site.fills("k").await;
    site.all().iter().for_each(Server::reset_calls);
    proxies.iter().for_each(dark);
    let release = tokio::spawn(guard.release());
    eventually("it is deleted", async || site.lock_keys().is_empty()).await;
    (proxies, release)
}

/// Of commands under way at the same time nobody knows which was carried out last: one whose script was unknown
/// goes again, behind the others.
async fn release_asks_again_where_refusals_overlapped(site: Site) {
    site.learns_the_scripts().await;
    let (proxies, builder) = site.proxied();
    let guard = builder.build().unwrap().lock("k").await.unwrap();
    site.fills("k").await;
    site.delete("k", guard.owner_token()).await;
    proxies.iter().for_each(Proxy::hold_replies);
    site.all().iter().for_each(Server::reset_calls);
    let are_asked = |times| site.all().iter().all(|server| server.scripts() >= times);
    let answer_both = async {
        eventually("the extends are under way", async || are_asked(2)).await;
        proxies.iter().for_each(Proxy::heal);
    };
    let extend = || guard.try_extend(secs(700));
    let (one, other, ()) = within(join3(extend(), extend(), answer_both)).await;
    assert!(one.unwrap_err().is_not_held() && other.unwrap_err().is_not_held());
    site.all().iter().for_each(Server::reset_calls);
    assert!(guard.release().await.unwrap_err().is_not_held());
    eventually("the release is asked", async || are_asked(1)).await;
}

async fn a_release_whose_answer_was_lost_with_its_connection_is_confirmed(site: Site) {
    let proxies: Vec<_> = site.all().iter().map(Proxy::start).collect();
    let builder = LockManager::quorum(proxies.iter().map(Proxy::url));
    let manager = builder.node_timeout(secs(10)).release_timeout(secs(10)).build().unwrap();
    let all_have_it = async || site.lock_keys().len() == site.all().len();
    // Every server knows the scripts by then.
    let warm = manager.lock("warm").await.unwrap();
    eventually("all have it", all_have_it).await;
    warm.release().await.unwrap();
    site.empties("warm").await;
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    eventually("all have it", all_have_it).await;
    proxies.iter().for_each(Proxy::swallow_replies);
    let release = tokio::spawn(guard.release());
    eventually("it is deleted", async || site.lock_keys().is_empty()).await;
    proxies.iter().for_each(Proxy::heal);
    proxies.iter().for_each(Proxy::cut);
    within(release).await.unwrap().expect("it was ours when it was deleted");
}

#[tokio::test]
async fn a_release_that_one_of_three_confirmed_is_unavailable() {
    let servers = Server::group(2);
    let nobody = "redis://127.0.0.1:1".to_owned();
    let builder = LockManager::quorum([servers[0].url(), servers[1].url(), nobody]);
    let builder = builder.node_timeout(millis(200)).release_timeout(secs(1));
    let guard = builder.build().unwrap().lock("k").await.unwrap();
    servers[1].pause();
    let error = within(guard.release()).await.unwrap_err();
    servers[1].resume();
    assert!(error.is_unavailable(), "{error:?}");
}
