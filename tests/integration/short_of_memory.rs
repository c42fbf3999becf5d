//! Servers that are full and evict nothing: who holds a lock keeps it, and gives it back.

use redlatch::{Error, OwnerToken};

use crate::support::{Events, Server, Site, eventually, millis, on_servers, secs, within};

on_servers!(
    a_held_lock_is_extended,
    a_lock_is_extended_to_less_than_is_left,
    a_lock_is_renewed,
    a_lock_is_renewed_where_its_counter_is_behind,
    a_lock_is_shared_and_handed_over,
    a_lock_is_released,
    a_dropped_lock_is_released,
    a_lock_is_kept_for_its_min_hold,
    a_held_lock_is_known_to_be_held,
    a_held_lock_is_waited_for,
    an_unfenced_lock_is_extended_known_and_released,
);

async fn a_held_lock_is_extended(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(60)).await.unwrap();
    fill(&site).await;
    within(guard.try_extend(secs(600))).await.unwrap();
    assert!(guard.remaining() > secs(300));
}

async fn a_lock_is_extended_to_less_than_is_left(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    fill(&site).await;
    within(guard.try_extend(secs(60))).await.unwrap();
    let kept = site.all().iter().filter(|server| server.pttl("k") > Some(secs(300)));
    assert_eq!(kept.count(), site.all().len(), "nothing is shortened");
}

async fn a_lock_is_renewed(site: Site) {
    let events = Events::default();
    let request = site.manager().lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    fill(&site).await;
    events.more_renewals(3).await;
    within(guard.release()).await.unwrap();
    empty(&site);
    site.empties("k").await;
}

async fn a_lock_is_renewed_where_its_counter_is_behind(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    fill(&site).await;
    site.all().iter().for_each(|server| server.del("{k}:fence"));
    within(guard.try_extend(secs(60))).await.unwrap();
    // Reading what no majority has confirmed would be too early on the last of them.
    eventually("the counters are put back", async || {
        let token = guard.fencing_token().get();
        site.all().iter().all(|server| server.counter("{k}:fence") == Some(token))
    })
    .await;
}

async fn a_lock_is_shared_and_handed_over(site: Site) {
    let (manager, us) = (site.manager(), OwnerToken::new("us").unwrap());
    let request = || manager.lock("k").owner(us.clone());
    let guard = request().ttl(secs(600)).acquire_or_extend().await.unwrap();
    fill(&site).await;
    let joined = within(request().ttl(secs(60)).acquire_or_extend()).await.unwrap();
    assert_eq!(joined.fencing_token(), guard.fencing_token());
    guard.forget();
    let adopted = within(site.manager().adopt(joined.into_ticket())).await.unwrap();
    within(adopted.release()).await.unwrap();
    empty(&site);
    site.empties("k").await;
}

async fn a_lock_is_released(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    fill(&site).await;
    within(guard.release()).await.unwrap();
    empty(&site);
    site.empties("k").await;
}

async fn a_dropped_lock_is_released(site: Site) {
    let manager = site.manager();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    fill(&site).await;
    drop(guard);
    assert_eq!(within(manager.close()).await, 0);
    empty(&site);
    site.empties("k").await;
}

async fn a_lock_is_kept_for_its_min_hold(site: Site) {
    let request = site.manager().lock("k").ttl(secs(600)).min_hold(secs(60));
    let guard = request.await.unwrap();
    fill(&site).await;
    within(guard.release()).await.unwrap();
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.is_kept(), "{status:?}");
    let ended = site.all().iter().filter(|server| server.pttl("k") <= Some(secs(60)));
    assert!(ended.count() > site.all().len() / 2);
}

async fn a_held_lock_is_known_to_be_held(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    fill(&site).await;
    let error = within(site.manager().lock("k").try_acquire()).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyHeld { .. }), "{error:?}");
    let error = within(site.manager().lock("other").try_acquire()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    within(guard.release()).await.unwrap();
}

async fn a_held_lock_is_waited_for(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    fill(&site).await;
    let waiter = tokio::spawn(site.manager().lock("k").ttl(secs(600)).acquire());
    eventually("it waits", async || site.all().iter().all(is_listened_to)).await;
    empty(&site);
    within(guard.release()).await.unwrap();
    within(waiter).await.unwrap().unwrap().release().await.unwrap();
}

async fn an_unfenced_lock_is_extended_known_and_released(site: Site) {
    let manager = site.builder().unfenced().build().unwrap();
    let guard = manager.lock("k").ttl(secs(60)).await.unwrap();
    fill(&site).await;
    within(guard.try_extend(secs(600))).await.unwrap();
    let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
    assert!(
        matches!(error, Error::AlreadyHeld { retry_after: Some(left), .. } if left > secs(300)),
        "{error:?}"
    );
    let error = within(manager.lock("other").try_acquire()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    within(guard.release()).await.unwrap();
    empty(&site);
    site.empties("k").await;
}

fn is_listened_to(server: &Server) -> bool {
    !server.query::<Vec<String>>(&["PUBSUB", "CHANNELS"]).is_empty()
}

/// Leaves no room for anything new, once every server has the lock.
async fn fill(site: &Site) {
    eventually("all have it", async || site.lock_keys().len() == site.all().len()).await;
    for server in site.all() {
        server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
        server.command(&["CONFIG", "SET", "maxmemory", "1"]);
        let refused = server.try_query::<()>(&["SET", "more", ""]).unwrap_err();
        assert_eq!(refused.code(), Some("OOM"), "{refused}");
    }
}

fn empty(site: &Site) {
    site.all().iter().for_each(|server| drop(server.command(&["CONFIG", "SET", "maxmemory", "0"])));
}
