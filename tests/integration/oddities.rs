//! What others may have left in Redis: never a panic, never taken for ours.

use redlatch::{Error, OwnerToken};

use crate::support::{Server, Site, eventually, millis, on_servers, secs, within};

on_servers!(
    a_value_that_is_no_text_is_anothers_lock,
    a_value_that_is_no_text_can_be_inspected,
    an_empty_value_is_anothers_lock,
    a_huge_value_is_anothers_lock,
    a_value_that_begins_like_ours_is_anothers_lock,
    a_value_that_is_a_number_is_anothers_lock,
    a_key_of_another_type_cannot_be_inspected,
    a_key_turned_into_another_type_is_not_extended,
    a_key_turned_into_another_type_is_not_deleted,
    a_key_without_expiry_of_ours_is_released,
    a_key_without_expiry_of_ours_gets_one_by_extending,
    a_counter_written_oddly_is_no_panic,
    a_counter_behind_the_clock_is_caught_up,
    a_counter_without_expiry_is_used,
);

async fn a_value_that_is_no_text_is_anothers_lock(site: Site) {
    binary_lock(&site);
    assert_held(&site).await;
}

async fn a_value_that_is_no_text_can_be_inspected(site: Site) {
    binary_lock(&site);
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.is_held() && status.owner_token().is_some());
    assert!(status.expires_in() > Some(secs(300)), "{status:?}");
}

async fn an_empty_value_is_anothers_lock(site: Site) {
    command(&site, &["SET", "k", "", "PX", "600000"]);
    assert_held(&site).await;
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.is_held());
}

async fn a_huge_value_is_anothers_lock(site: Site) {
    let huge = "x".repeat(1 << 20);
    command(&site, &["SET", "k", &huge, "PX", "600000"]);
    assert_held(&site).await;
    let status = site.manager().inspect("k").await.unwrap();
    assert_eq!(status.owner_token().unwrap().as_str(), huge);
    assert!(format!("{status:?}").len() < 10_000, "it is not shown in full");
}

async fn a_value_that_begins_like_ours_is_anothers_lock(site: Site) {
    let (owner, longer) = ("worker-7", "worker-70");
    command(&site, &["SET", "k", longer, "PX", "600000"]);
    let request = site.manager().lock("k").owner(OwnerToken::new(owner).unwrap());
    let error = request.try_acquire().await.unwrap_err();
    assert!(matches!(error, Error::AlreadyHeld { .. }), "{error:?}");
    assert_eq!(site.holder("k").await.as_deref(), Some(longer));
}

async fn a_value_that_is_a_number_is_anothers_lock(site: Site) {
    command(&site, &["INCR", "k"]);
    assert_held(&site).await;
    let request = site.manager().lock("k").owner(OwnerToken::new("1.0").unwrap());
    request.try_acquire().await.unwrap_err();
    assert_eq!(site.holder("k").await.as_deref(), Some("1"));
}

async fn a_key_of_another_type_cannot_be_inspected(site: Site) {
    command(&site, &["RPUSH", "k", "a list"]);
    let error = within(site.manager().inspect("k")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { reached: 0, .. }), "{error:?}");
}

async fn a_key_turned_into_another_type_is_not_extended(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    turn_into_a_list(&site).await;
    let error = within(guard.try_extend(secs(900))).await.unwrap_err();
    assert!(error.is_unavailable() || error.is_not_held(), "{error:?}");
    assert_still_a_list(&site);
}

async fn a_key_turned_into_another_type_is_not_deleted(site: Site) {
    let builder = site.builder().release_timeout(millis(300));
    let manager = builder.build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    turn_into_a_list(&site).await;
    let error = within(guard.release()).await.unwrap_err();
    assert!(error.is_unavailable() || error.is_not_held(), "{error:?}");
    assert_still_a_list(&site);
}

async fn a_key_without_expiry_of_ours_is_released(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    command(&site, &["PERSIST", "k"]);
    guard.release().await.unwrap();
    site.empties("k").await;
}

async fn a_key_without_expiry_of_ours_gets_one_by_extending(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    command(&site, &["PERSIST", "k"]);
    guard.extend(secs(600)).await.unwrap();
    let extended = site.all().iter().filter(|server| server.pttl("k") > Some(secs(300)));
    assert!(extended.count() > site.all().len() / 2);
}

async fn a_counter_written_oddly_is_no_panic(site: Site) {
    for counter in ODD_COUNTERS {
        command(&site, &["SET", "{k}:fence", counter]);
        let manager = site.manager();
        match within(manager.lock("k").ttl(secs(600)).try_acquire()).await {
            Ok(guard) => {
                assert!(guard.fencing_token().get() > 0, "{counter:?}");
                within(guard.release()).await.unwrap();
            }
            Err(error) => assert!(error.is_unavailable(), "{counter:?}: {error:?}"),
        }
        within(manager.close()).await;
        site.empties_of("k").await;
        drop(within(manager.inspect("k")).await);
    }
}

async fn a_counter_behind_the_clock_is_caught_up(site: Site) {
    command(&site, &["SET", "{k}:fence", "7"]);
    let guard = site.manager().lock("k").await.unwrap();
    assert!(guard.fencing_token().get() > 1_600_000_000_000_000, "microseconds since 1970");
}

async fn a_counter_without_expiry_is_used(site: Site) {
    command(&site, &["SET", "{k}:fence", "4000000000000000"]);
    let guard = site.manager().lock("k").await.unwrap();
    assert_eq!(guard.fencing_token().get(), 4_000_000_000_000_001);
    let expiring = site.all().iter().filter(|server| server.pttl("{k}:fence").is_some());
    assert!(expiring.count() > site.all().len() / 2, "it expires from now on");
}

#[tokio::test]
async fn a_key_of_another_type_on_a_minority_shows_in_the_votes() {
    let site = Site::servers(3);
    let guard = site.manager().lock("k").await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    site.all()[1].del("k");
    site.all()[1].command(&["RPUSH", "k", "a list"]);
    let status = site.manager().inspect("k").await.unwrap();
    assert_eq!(status.owner_token(), Some(guard.owner_token()));
    let vote = &status.votes()[1];
    assert_eq!((vote.node(), vote.owner_token()), (site.all()[1].name().as_str(), None));
    assert!(vote.error().is_some_and(|error| error.node() == vote.node()));
    assert!(status.votes()[0].error().is_none());
}

async fn assert_held(site: &Site) {
    let before: Vec<_> = site.all().iter().map(Server::contents).collect();
    let manager = site.manager();
    let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyHeld { .. }), "{error:?}");
    assert_eq!(site.all().iter().map(Server::contents).collect::<Vec<_>>(), before);
}

/// Another owner's lock whose value is not UTF-8.
fn binary_lock(site: &Site) {
    let set = r"return redis.call('SET', 'k', '\255\254\0\128', 'PX', 600000)";
    command(site, &["EVAL", set, "1", "k"]);
}

async fn turn_into_a_list(site: &Site) {
    eventually("all have it", async || site.lock_keys().len() == site.all().len()).await;
    command(site, &["DEL", "k"]);
    command(site, &["RPUSH", "k", "a list"]);
}

fn assert_still_a_list(site: &Site) {
    for server in site.all() {
        assert_eq!(server.query::<String>(&["TYPE", "k"]), "list");
    }
}

fn command(site: &Site, args: &[&str]) {
    site.all().iter().for_each(|server| drop(server.command(args)));
}

const ODD_COUNTERS: &[&str] = &[
    "", " ", "0", "-5", "1.5", " 7 ", "0x10", "1e3", "1e15", "1e16", "1e300", "inf", "-inf", "nan",
    "-nan", "many", "1 2", "９",
];
