//! The rights that a user needs, and no more.

use std::collections::HashMap;

use redlatch::deadpool_redis::redis::{Client, Connection, PubSub, Value, from_redis_value};
use redlatch::{LockGuard, LockManager, LockManagerBuilder};

use crate::support::{
    BOUND, Events, LASTING, Server, Site, eventually, millis, on_servers, poll_times, secs, within,
};

on_servers!(
    the_least_rights_suffice_for_a_whole_life,
    the_least_rights_suffice_for_waiting,
    the_least_rights_suffice_for_waiting_in_another_process,
    the_least_rights_suffice_for_a_dropped_attempt,
    the_least_rights_suffice_after_flushed_scripts,
    the_least_rights_suffice_after_a_broken_connection,
    rights_to_the_prefix_suffice,
    rights_to_a_hash_tagged_prefix_suffice,
    keys_beyond_the_rights_are_unavailable,
    without_the_right_to_publish_a_lock_is_released,
    without_a_right_to_the_channel_a_lock_is_released,
    a_refusal_to_announce_is_logged_once_for_each_connection,
    a_new_connection_announces_again,
    with_the_right_to_publish_a_release_is_announced,
    with_the_right_to_publish_a_drop_is_announced,
    a_database_needs_the_right_to_select,
    resp3_needs_no_more_rights,
    an_unfenced_manager_needs_no_rights_to_counters,
    a_counter_that_may_only_be_read_leaves_no_lock,
    a_counter_that_may_not_be_set_leaves_no_lock,
);

/// What every user needs to take, extend, release and look.
const LEAST: &[&str] = &["+eval", "+evalsha", "+get", "+set", "+pttl", "+pexpire", "+del"];

async fn the_least_rights_suffice_for_a_whole_life(site: Site) {
    let manager = built(limited(&site, &with_ping(&["~*"])));
    assert_whole_life(&manager, "k").await;
    assert!(manager.ping().await.iter().all(|node| node.round_trip().is_ok()));
    site.empties("k").await;
}

async fn the_least_rights_suffice_for_waiting(site: Site) {
    let manager = built(limited(&site, &with_ping(&["~*"])));
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    let waiter = tokio::spawn(manager.lock("k").acquire());
    tokio::time::sleep(millis(20)).await;
    guard.release().await.unwrap();
    drop(within(waiter).await.unwrap().unwrap());
}

async fn the_least_rights_suffice_for_waiting_in_another_process(site: Site) {
    let urls = limited(&site, &with_ping(&["~*"]));
    let (holder, waiter) = (built(urls.clone()), built(urls));
    let guard = holder.lock("k").ttl(secs(600)).await.unwrap();
    let waiting = tokio::spawn(waiter.lock("k").acquire());
    tokio::time::sleep(millis(20)).await;
    guard.release().await.unwrap();
    drop(within(waiting).await.unwrap().unwrap());
}

async fn the_least_rights_suffice_for_a_dropped_attempt(site: Site) {
    let manager = built(limited(&site, &with_ping(&["~*"])));
    for polls in 1..5 {
        poll_times(polls, manager.lock("k").ttl(secs(600)).acquire()).await;
    }
    assert_eq!(within(manager.close()).await, 0);
    site.empties("k").await;
}

async fn the_least_rights_suffice_after_flushed_scripts(site: Site) {
    let manager = built(limited(&site, &with_ping(&["~*"])));
    for _ in 0..3 {
        assert_whole_life(&manager, "k").await;
        site.all().iter().for_each(|server| drop(server.command(&["SCRIPT", "FLUSH"])));
    }
}

async fn the_least_rights_suffice_after_a_broken_connection(site: Site) {
    let manager = built(limited(&site, &with_ping(&["~*"])));
    for _ in 0..3 {
        assert_whole_life(&manager, "k").await;
        let kill = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
        site.all().iter().for_each(|server| drop(server.command(&kill)));
    }
}

async fn rights_to_the_prefix_suffice(site: Site) {
    let rights = with_ping(&["~app:*", "~{app:*}:fence"]);
    let builder = patient(limited(&site, &rights)).key_prefix("app:");
    let manager = builder.build().unwrap();
    for key in ["k", "with space", "käse", "a{b", "{tag}x"] {
        assert_whole_life(&manager, key).await;
    }
}

async fn rights_to_a_hash_tagged_prefix_suffice(site: Site) {
    let builder = patient(limited(&site, &with_ping(&["~{app}:*"]))).key_prefix("{app}:");
    assert_whole_life(&builder.build().unwrap(), "k").await;
}

async fn keys_beyond_the_rights_are_unavailable(site: Site) {
    let manager = built(limited(&site, &with_ping(&["~app:*", "~{app:*}:fence"])));
    assert_whole_life(&manager, "app:k").await;
    let error = within(manager.lock("k").acquire()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(within(manager.inspect("k")).await.unwrap_err().is_unavailable());
}

async fn without_the_right_to_publish_a_lock_is_released(site: Site) {
    let manager = built(limited(&site, &with_ping(&["~*", "allchannels"])));
    assert_released_silently(&site, &manager).await;
}

async fn without_a_right_to_the_channel_a_lock_is_released(site: Site) {
    let manager = built(limited(&site, &with_ping(&["~*", "resetchannels", "+publish"])));
    assert_released_silently(&site, &manager).await;
}

async fn a_refusal_to_announce_is_logged_once_for_each_connection(site: Site) {
    for rights in [&["~*", "allchannels"][..], &["~*", "resetchannels", "+publish"]] {
        site.all().iter().for_each(|server| drop(server.command(&["ACL", "LOG", "RESET"])));
        let manager = built(limited(&site, &with_ping(rights)));
        for connections in 1..=2 {
            for key in ["one", "two", "three"] {
                manager.lock(key).ttl(secs(600)).await.unwrap().release().await.unwrap();
                site.empties(key).await;
                drop(manager.lock(key).ttl(secs(600)).await.unwrap());
                site.empties(key).await;
            }
            for server in site.all() {
                assert_eq!(refusals(server), connections, "{rights:?}");
                server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            }
            // What a broken connection is first used for may fail with it.
            eventually("the manager is connected again", async || {
                manager.ping().await.iter().all(|node| node.round_trip().is_ok())
            })
            .await;
        }
    }
}

async fn a_new_connection_announces_again(site: Site) {
    let manager = built(limited(&site, &with_ping(&["~*", "allchannels"])));
    assert_released_silently(&site, &manager).await;
    for server in site.all() {
        server.command(&["ACL", "SETUSER", "limited", "+publish"]);
        server.command(&["CLIENT", "KILL", "USER", "limited"]);
    }
    let mut ears: Vec<_> = site.all().iter().map(ear).collect();
    let mut ears: Vec<_> = ears.iter_mut().map(|ear| subscribed(ear, "{k}:released")).collect();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    eventually("every server has it", async || site.lock_keys().len() == site.all().len()).await;
    guard.release().await.unwrap();
    for ear in &mut ears {
        assert_eq!(ear.get_message().unwrap().get_channel_name(), "{k}:released");
    }
}

async fn with_the_right_to_publish_a_release_is_announced(site: Site) {
    assert_announced(&site, async |guard| guard.release().await.unwrap()).await;
}

async fn with_the_right_to_publish_a_drop_is_announced(site: Site) {
    assert_announced(&site, async |guard| drop(guard)).await;
}

/// What ends a lock is heard from every server that had it.
async fn assert_announced(site: &Site, end: impl AsyncFnOnce(LockGuard)) {
    let manager = built(limited(site, &announcing()));
    let mut ears: Vec<_> = site.all().iter().map(ear).collect();
    let mut ears: Vec<_> = ears.iter_mut().map(|ear| subscribed(ear, "{k}:released")).collect();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    eventually("every server has it", async || site.lock_keys().len() == site.all().len()).await;
    end(guard).await;
    // Blocking here earlier would keep what is left of the round from being sent.
    site.empties("k").await;
    for ear in &mut ears {
        assert_eq!(ear.get_message().unwrap().get_channel_name(), "{k}:released");
    }
}

async fn a_database_needs_the_right_to_select(site: Site) {
    let urls = limited(&site, &with_ping(&["~*"]));
    let there = |urls: &[String]| urls.iter().map(|url| format!("{url}/3")).collect();
    let error = within(built(there(&urls)).lock("k").acquire()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let urls = limited(&site, &with_ping(&["~*", "+select"]));
    assert_whole_life(&built(there(&urls)), "k").await;
}

async fn resp3_needs_no_more_rights(site: Site) {
    let urls = limited(&site, &with_ping(&["~*"])).into_iter();
    let manager = built(urls.map(|url| format!("{url}?protocol=resp3")).collect());
    assert_whole_life(&manager, "k").await;
}

async fn an_unfenced_manager_needs_no_rights_to_counters(site: Site) {
    let builder = patient(limited(&site, &with_ping(&["~app:*"]))).key_prefix("app:");
    let manager = builder.unfenced().build().unwrap();
    for key in ["k", "with space", "{tag}x"] {
        assert_whole_life(&manager, key).await;
    }
}

async fn a_counter_that_may_only_be_read_leaves_no_lock(site: Site) {
    if site.all()[0].lacks("rights to read a key and no more", (7, 0)) {
        return;
    }
    let manager = built(limited(&site, &with_ping(&["~k", "%R~{k}:fence"])));
    assert_leaves_no_lock(&site, &manager).await;
}

/// Here the script runs, and is refused half-way.
async fn a_counter_that_may_not_be_set_leaves_no_lock(site: Site) {
    if site.all()[0].lacks("ACL selectors", (7, 0)) {
        return;
    }
    let manager = built(limited(&site, &no_set_of_counters()));
    assert_leaves_no_lock(&site, &manager).await;
    for server in site.all() {
        server.command(&["SET", "{k}:fence", "7", "PX", "600000"]);
    }
    assert_leaves_no_lock(&site, &manager).await;
    assert!(site.all().iter().all(|server| server.counter("{k}:fence") == Some(7)));
}

async fn assert_leaves_no_lock(site: &Site, manager: &LockManager) {
    // A script that fails is not undone, so that nobody else takes the lock back.
    let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    for server in site.all() {
        eventually("it was refused", async || refusals_of(server, "{k}:fence") > 0).await;
        assert_eq!(server.lock_keys(), Vec::<String>::new());
    }
}

/// A lock cannot be put back without its counter.
#[tokio::test]
async fn a_counter_that_may_not_be_set_leaves_no_healed_lock() {
    let site = Site::servers(3);
    if site.all()[0].lacks("ACL selectors", (7, 0)) {
        return;
    }
    let manager = built(limited(&site, &with_ping(&["~*"])));
    let (events, request) = (Events::default(), manager.lock("k").ttl(secs(600)));
    let request = request.on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(10)).await.unwrap();
    site.fills("k").await;
    let server = &site.all()[1];
    server.user("limited", "secret", &no_set_of_counters());
    server.command(&["DEL", "k", "{k}:fence"]);
    eventually("it could not be put back", async || refusals_of(server, "{k}:fence") > 0).await;
    events.more_renewals(3).await;
    assert!(guard.is_valid());
    assert_eq!(server.get("k"), None);
}

#[tokio::test]
async fn each_of_the_least_rights_is_needed() {
    for missing in LEAST {
        let site = Site::servers(1);
        let rights = ["~*"].iter().chain(LEAST.iter().filter(|right| *right != missing));
        let builder = patient(limited(&site, &rights.copied().collect::<Vec<_>>()));
        let manager = builder.release_timeout(millis(100)).build().unwrap();
        assert!(within(whole_life(&manager, "k")).await.is_err(), "{missing} is not needed");
    }
}

#[tokio::test]
async fn a_ping_needs_its_right() {
    let site = Site::servers(1);
    let rights: Vec<_> = ["~*"].iter().chain(LEAST).copied().collect();
    let manager = built(limited(&site, &rights));
    assert_whole_life(&manager, "k").await;
    let health = within(manager.ping()).await;
    assert!(health[0].round_trip().is_err());
}

async fn assert_whole_life(manager: &LockManager, key: &str) {
    within(whole_life(manager, key)).await.unwrap();
}

/// Takes, extends, renews, hands over, looks at and releases a lock.
async fn whole_life(manager: &LockManager, key: &str) -> redlatch::Result<()> {
    let guard = manager.lock(key).ttl(secs(60)).acquire().await?;
    guard.try_extend(secs(600)).await?;
    assert!(manager.lock(key).try_acquire().await.is_err_and(|error| error.is_contended()));
    let guard = manager.adopt(guard.into_ticket()).await?;
    assert!(manager.inspect(key).await?.is_held());
    guard.release().await?;
    let events = Events::default();
    let request = manager.lock(key).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(5)).await?;
    events.more_renewals(1).await;
    guard.release().await
}

async fn assert_released_silently(site: &Site, manager: &LockManager) {
    let mut ears: Vec<_> = site.all().iter().map(ear).collect();
    let mut ears: Vec<_> = ears.iter_mut().map(|ear| subscribed(ear, "{k}:released")).collect();
    manager.lock("k").ttl(secs(600)).await.unwrap().release().await.unwrap();
    drop(manager.lock("k").ttl(secs(600)).await.unwrap());
    site.empties("k").await;
    for (server, ear) in site.all().iter().zip(&mut ears) {
        server.command(&["PUBLISH", "{k}:released", "the end"]);
        let heard: String = ear.get_message().unwrap().get_payload().unwrap();
        assert_eq!(heard, "the end", "nothing was heard before it");
    }
}

/// How often the server has refused the user something about a key, by its log.
fn refusals_of(server: &Server, key: &str) -> usize {
    let log: Vec<HashMap<String, Value>> = server.query(&["ACL", "LOG"]);
    let is_about = |entry: &&HashMap<String, Value>| {
        from_redis_value::<String>(entry["object"].clone()).is_ok_and(|object| object == key)
    };
    log.iter().filter(is_about).count()
}

/// How often the server has refused to announce a release, by its log. The client library leaves lines of its own there.
fn refusals(server: &Server) -> u64 {
    let log: Vec<HashMap<String, Value>> = server.query(&["ACL", "LOG"]);
    let text = |value: &Value| from_redis_value::<String>(value.clone()).expect("it is text");
    let refused = |entry: &&HashMap<String, Value>| {
        let object = text(&entry["object"]);
        object == "publish" || object.ends_with(":released")
    };
    let count = |entry: &HashMap<String, Value>| {
        from_redis_value::<u64>(entry["count"].clone()).expect("it is a number")
    };
    log.iter().filter(refused).map(count).sum()
}

/// The URLs of a user who has these rights only.
fn limited(site: &Site, rights: &[&str]) -> Vec<String> {
    site.all().iter().map(|server| server.user("limited", "secret", rights)).collect()
}

fn with_ping<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let channels = if more.contains(&"allchannels") { None } else { Some("resetchannels") };
    let rights = channels.into_iter().chain(LEAST.iter().copied()).chain(["+ping"]);
    rights.chain(more.iter().copied()).collect()
}

/// The rights of a user who may do all but set a counter.
fn no_set_of_counters() -> Vec<&'static str> {
    with_ping(&["~*", "-set", "(+set ~k)"])
}

/// The rights of a user who may also announce releases.
fn announcing() -> Vec<&'static str> {
    with_ping(&["~*", "&*:released", "+publish"])
}

fn built(urls: Vec<String>) -> LockManager {
    patient(urls).build().unwrap()
}

fn patient(urls: Vec<String>) -> LockManagerBuilder {
    LockManager::quorum(urls).node_timeout(secs(10)).release_timeout(secs(10)).ttl(LASTING)
}

fn ear(server: &Server) -> Connection {
    let client = Client::open(server.url()).expect("the URL is good");
    client.get_connection().expect("the server answers")
}

fn subscribed<'a>(ear: &'a mut Connection, channel: &str) -> PubSub<'a> {
    let mut ear = ear.as_pubsub();
    ear.set_read_timeout(Some(BOUND)).expect("the socket is open");
    ear.subscribe(channel).expect("everybody may subscribe");
    ear
}
