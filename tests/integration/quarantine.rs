//! A node that has restarted does not vote before all it had granted has ended.

use std::time::Duration;

use redlatch::{OwnerToken, Retry};

use crate::support::{Events, Server, Site, eventually, millis, on_servers, secs, within};

on_servers!(
    fresh_servers_do_not_vote,
    they_vote_when_the_quarantine_is_over,
    a_lock_of_before_can_be_inspected_extended_and_released,
    a_longer_ttl_is_refused,
);

async fn fresh_servers_do_not_vote(site: Site) {
    let manager = site.builder().restart_quarantine(secs(86_400)).build().unwrap();
    let error = manager.lock("k").try_acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.to_string().contains("restarted too lately to vote"), "{error}");
    assert!(site.lock_keys().is_empty());
}

async fn they_vote_when_the_quarantine_is_over(site: Site) {
    let builder = site.builder().ttl(secs(2)).restart_quarantine(secs(2));
    let manager = builder.outage_patience(Duration::MAX).build().unwrap();
    let retry = Retry::jittered(millis(20), millis(20));
    let _guard = within(manager.lock("k").retry(retry).acquire()).await.unwrap();
    let uptime = |server: &Server| {
        let info: String = server.query(&["INFO", "server"]);
        let line = info.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:"));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert!(site.all().iter().map(uptime).filter(|up| *up >= 2).count() > site.all().len() / 2);
}

async fn a_lock_of_before_can_be_inspected_extended_and_released(site: Site) {
    let ticket = site.manager().lock("k").ttl(secs(600)).await.unwrap().into_ticket();
    let manager = site.builder().restart_quarantine(secs(86_400)).build().unwrap();
    let guard = manager.adopt(ticket).await.unwrap();
    assert!(manager.inspect("k").await.unwrap().is_held());
    guard.extend(secs(700)).await.unwrap();
    guard.release().await.unwrap();
    site.empties("k").await;
}

async fn a_longer_ttl_is_refused(site: Site) {
    let builder = || site.builder().ttl(secs(60)).restart_quarantine(secs(60));
    assert!(builder().ttl(secs(61)).build().unwrap_err().is_config());
    let request = builder().build().unwrap().lock("k").ttl(secs(61));
    assert!(request.try_acquire().await.unwrap_err().is_config());
}

#[tokio::test]
async fn a_restarted_minority_is_not_healed_before_its_time() {
    let (site, events) = (Site::servers(3), Events::default());
    let owner = OwnerToken::new("us").unwrap();
    let request = site.manager().lock("k").owner(owner.clone()).ttl(secs(600));
    let held = request.await.unwrap();
    // What is forgotten before it is marked as held nobody joins.
    let is_marked = |server: &Server| server.get("{k}:fence").is_some_and(|it| it.ends_with('h'));
    eventually("all have it", async || site.all().iter().all(is_marked)).await;
    held.forget();
    let quarantined = site.builder().restart_quarantine(secs(86_400)).build().unwrap();
    let request = quarantined.lock("k").owner(owner).ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(20)).acquire_or_extend().await.unwrap();
    site.all()[0].restart();
    events.more_renewals(20).await;
    assert_eq!(site.all()[0].get("k"), None);
    assert!(guard.is_valid());
}

/// Tries that a node in quarantine turns away are not counted among those that one lock has.
#[tokio::test]
async fn a_restarted_minority_is_healed_when_its_time_is_over() {
    let (site, events) = (Site::servers(3), Events::default());
    let builder = site.builder().ttl(secs(3)).restart_quarantine(secs(3));
    let manager = builder.outage_patience(Duration::MAX).build().unwrap();
    let retry = Retry::jittered(millis(20), millis(20));
    let request = manager.lock("k").retry(retry).on_renewal(events.listener());
    let _guard = within(request.auto_renew_every(millis(20)).acquire()).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    site.all()[0].restart();
    // More than one lock has of them.
    events.more_renewals(20).await;
    eventually("it is put back", async || site.all()[0].get("k").is_some()).await;
}
