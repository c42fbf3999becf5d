//! What a subscriber is told, and what it is never told.

use std::time::Duration;

use redlatch::deadpool_redis::{Config, Runtime};
use redlatch::{LockGuard, LockManager, LockRequest, OwnerToken, Retry};

use crate::support::{
    Events, Proxy, Record, Server, Site, Trace, eventually, everywhere, millis, on_servers, secs,
    within,
};

everywhere!(
    acquiring_is_a_span_with_key_and_attempt,
    trying_once_is_a_span_with_key_and_attempt,
    holding_is_a_span_with_key_and_fencing_token,
    releasing_is_a_span_with_key_and_fencing_token,
    renewing_is_a_span_with_the_key,
    retries_are_spans_that_count_the_attempts,
    a_label_is_on_every_span_of_its_locks,
    the_prefix_is_no_part_of_the_key_shown,
    an_owner_token_is_never_shown_in_full,
    a_lost_lock_is_warned_of,
    a_lock_that_ran_out_is_warned_of,
    a_life_without_trouble_warns_of_nothing,
    an_error_that_is_returned_is_not_logged_as_well,
    a_closed_manager_is_no_loss_to_warn_of,
    a_panic_in_the_callback_is_an_error,
);

on_servers!(
    passwords_are_never_shown,
    passwords_of_failed_logins_are_never_shown,
    a_drop_that_cannot_release_is_warned_of,
    a_run_that_cannot_release_is_warned_of,
    a_server_that_goes_and_comes_back_is_told_of_once,
    a_server_that_was_never_there_is_told_of_once,
    a_silent_server_is_told_of_once,
    a_read_only_server_is_told_of_once,
    broken_connections_alone_are_not_told_of,
    a_loss_is_warned_of_with_the_error_of_the_last_renewal,
    every_event_names_what_it_is_about,
);

async fn acquiring_is_a_span_with_key_and_attempt(site: Site) {
    let trace = Trace::start();
    let _guard = site.manager().lock("orders:42").await.unwrap();
    assert_fields(&trace, "acquire", &[("key", "orders:42"), ("attempt", "1")]);
}

async fn trying_once_is_a_span_with_key_and_attempt(site: Site) {
    let trace = Trace::start();
    let _guard = site.manager().lock("orders:42").try_acquire().await.unwrap();
    assert_fields(&trace, "acquire", &[("key", "orders:42"), ("attempt", "1")]);
}

async fn holding_is_a_span_with_key_and_fencing_token(site: Site) {
    let trace = Trace::start();
    let guard = site.manager().lock("orders:42").await.unwrap();
    let token = guard.fencing_token().to_string();
    assert_fields(&trace, "hold", &[("key", "orders:42"), ("fencing_token", &token)]);
}

async fn releasing_is_a_span_with_key_and_fencing_token(site: Site) {
    let trace = Trace::start();
    let guard = site.manager().lock("orders:42").await.unwrap();
    let token = guard.fencing_token().to_string();
    assert!(trace.spans_named("release").is_empty());
    guard.release().await.unwrap();
    assert_fields(&trace, "release", &[("key", "orders:42"), ("fencing_token", &token)]);
}

async fn renewing_is_a_span_with_the_key(site: Site) {
    let (trace, events) = (Trace::start(), Events::default());
    let request = site.manager().lock("orders:42").on_renewal(events.listener());
    let _guard = request.auto_renew_every(millis(5)).await.unwrap();
    events.more_renewals(1).await;
    assert_fields(&trace, "renew", &[("key", "orders:42")]);
}

async fn retries_are_spans_that_count_the_attempts(site: Site) {
    let _guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let trace = Trace::start();
    let retry = Retry::jittered(millis(1), millis(1)).max_retries(3);
    within(site.manager().lock("k").retry(retry).acquire()).await.unwrap_err();
    let mut attempts: Vec<_> = trace.spans_named("acquire").iter().map(attempt).collect();
    attempts.dedup();
    assert_eq!(attempts, ["1", "2", "3", "4"]);
}

async fn a_label_is_on_every_span_of_its_locks(site: Site) {
    for label in [Some("nightly"), None] {
        let (trace, events) = (Trace::start(), Events::default());
        let request = site.manager().lock("k").on_renewal(events.listener());
        let request = label.into_iter().fold(request, |request, label| request.label(label));
        let guard = request.auto_renew_every(millis(5)).await.unwrap();
        events.more_renewals(1).await;
        guard.release().await.unwrap();
        for name in ["acquire", "hold", "renew", "release"] {
            let spans = trace.spans_named(name);
            let shown = |span: &Record| span.fields.get("label").map(|text| text.replace('"', ""));
            assert!(!spans.is_empty(), "{name}");
            assert!(spans.iter().all(|span| shown(span).as_deref() == label), "{spans:?}");
        }
    }
}

async fn the_prefix_is_no_part_of_the_key_shown(site: Site) {
    let trace = Trace::start();
    let manager = site.builder().key_prefix("app:").build().unwrap();
    manager.lock("k").await.unwrap().release().await.unwrap();
    for name in ["acquire", "hold", "release"] {
        assert_fields(&trace, name, &[("key", "k")]);
    }
}

async fn an_owner_token_is_never_shown_in_full(site: Site) {
    let trace = Trace::start();
    let mut tokens = Vec::new();
    for owner in [OwnerToken::random(), OwnerToken::new("a-chosen-owner-token").unwrap()] {
        tokens.push(owner.as_str().to_owned());
        tokens.extend(whole_life(&site, owner).await);
    }
    let text = trace.text();
    assert!(text.len() > 1000, "there is something to look at: {text}");
    for token in tokens {
        assert!(!text.contains(&token[..9]), "{token} in {text}");
    }
}

/// Everything that may happen to a lock. Returns the owner tokens of those who met it.
async fn whole_life(site: &Site, owner: OwnerToken) -> Vec<String> {
    let (manager, other, events) = (site.manager(), site.manager(), Events::default());
    let request = || manager.lock("k").ttl(secs(600)).owner(owner.clone());
    let guard = request().await.unwrap();
    other.lock("k").wait_timeout(millis(20)).acquire().await.unwrap_err();
    guard.extend(secs(600)).await.unwrap();
    let again = request().acquire_or_extend().await.unwrap();
    again.forget();
    let ticket = guard.into_ticket();
    manager.adopt(ticket).await.unwrap().release().await.unwrap();
    let renewed = request().auto_renew_every(millis(5)).on_renewal(events.listener());
    let renewed = renewed.await.unwrap();
    events.more_renewals(1).await;
    site.seize("k", &owner).await;
    eventually("it is lost", async || !events.losses().is_empty()).await;
    drop(renewed);
    manager.inspect("k").await.unwrap();
    site.delete("k", &OwnerToken::new("another-owner").unwrap()).await;
    let fresh = other.lock("k").await.unwrap();
    let token = fresh.owner_token().as_str().to_owned();
    drop(fresh);
    manager.close().await;
    other.close().await;
    vec![token]
}

async fn a_lost_lock_is_warned_of(site: Site) {
    let (trace, events) = (Trace::start(), Events::default());
    let guard = watched(&site, &events, millis(200)).await;
    site.delete("k", guard.owner_token()).await;
    eventually("it is lost", async || !events.losses().is_empty()).await;
    assert_loss_is_warned_of(&trace, &guard);
}

async fn a_lock_that_ran_out_is_warned_of(site: Site) {
    let (trace, events) = (Trace::start(), Events::default());
    let request = renewed(site.manager().lock("k"), &events, millis(800));
    let guard = request.ttl(secs(1)).await.unwrap();
    // A blocked thread renews nothing.
    std::thread::sleep(secs(1));
    eventually("it is lost", async || !events.losses().is_empty()).await;
    assert_loss_is_warned_of(&trace, &guard);
    let cause = &losses(&trace)[0].fields["cause"];
    assert!(cause.contains("its runtime may be blocked"), "{cause}");
}

/// Nothing went wrong.
#[tokio::test(start_paused = true)]
async fn a_lock_that_was_held_as_long_as_it_may_be_is_lost_without_a_cause_in_memory() {
    let (trace, events) = (Trace::start(), Events::default());
    let request = renewed(Site::memory(3).manager().lock("k"), &events, secs(20));
    let guard = request.ttl(secs(60)).max_hold(secs(60)).await.unwrap();
    guard.lost().await;
    eventually("its loss is told", async || !events.losses().is_empty()).await;
    assert_loss_is_warned_of(&trace, &guard);
    assert_eq!(losses(&trace)[0].fields.get("cause"), None);
}

async fn a_life_without_trouble_warns_of_nothing(site: Site) {
    let (trace, events) = (Trace::start(), Events::default());
    let guard = watched(&site, &events, millis(5)).await;
    events.more_renewals(2).await;
    guard.extend(secs(900)).await.unwrap();
    guard.release().await.unwrap();
    let manager = site.manager();
    drop(manager.lock("k").await.unwrap());
    assert_eq!(manager.close().await, 0);
    assert_eq!(loud(&trace), Vec::<String>::new());
}

async fn an_error_that_is_returned_is_not_logged_as_well(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    let trace = Trace::start();
    site.manager().lock("k").try_acquire().await.unwrap_err();
    site.manager().lock("").acquire().await.unwrap_err();
    guard.extend(millis(0)).await.unwrap_err();
    site.delete("k", guard.owner_token()).await;
    guard.extend(secs(60)).await.unwrap_err();
    guard.release().await.unwrap_err();
    assert_eq!(loud(&trace), Vec::<String>::new());
}

async fn a_closed_manager_is_no_loss_to_warn_of(site: Site) {
    let (trace, events) = (Trace::start(), Events::default());
    let manager = site.builder().release_timeout(millis(50)).build().unwrap();
    let guard = renewed(manager.lock("k"), &events, secs(1)).await.unwrap();
    manager.close().await;
    eventually("it is told", async || !events.losses().is_empty()).await;
    assert_eq!(loud(&trace), Vec::<String>::new());
    drop(guard);
}

async fn a_panic_in_the_callback_is_an_error(site: Site) {
    let trace = Trace::start();
    let request = site.manager().lock("k").on_renewal(|_| panic!("the callback fails"));
    let _guard = request.auto_renew_every(millis(5)).await.unwrap();
    eventually("it is logged", async || {
        trace.events().iter().any(|event| event.level == "ERROR" && about(event, "k"))
    })
    .await;
}

async fn passwords_are_never_shown(site: Site) {
    let trace = Trace::start();
    let urls: Vec<_> = site.all().iter().map(|server| secret_url(server, "hunter2")).collect();
    let pools = urls.iter().map(|url| {
        Config::from_url(url).create_pool(Some(Runtime::Tokio1)).expect("the URL is good")
    });
    for manager in [LockManager::quorum(&urls), LockManager::quorum(pools)] {
        let manager = manager.node_timeout(secs(10)).build().unwrap();
        let guard = manager.lock("k").auto_renew_every(millis(5)).await.unwrap();
        guard.extend(secs(60)).await.unwrap();
        break_connections(&site);
        within(guard.release()).await.unwrap();
        manager.ping().await;
        manager.close().await;
    }
    assert!(!trace.text().contains("hunter2"), "{}", trace.text());
}

async fn passwords_of_failed_logins_are_never_shown(site: Site) {
    let trace = Trace::start();
    let wrong = |server| secret_url(server, "right").replace("right", "hunter2");
    let manager = LockManager::quorum(site.all().iter().map(wrong)).build().unwrap();
    within(manager.lock("k").acquire()).await.unwrap_err();
    within(manager.lock("k").try_acquire()).await.unwrap_err();
    manager.ping().await;
    assert!(!trace.text().contains("hunter2"), "{}", trace.text());
}

async fn a_drop_that_cannot_release_is_warned_of(site: Site) {
    let trace = Trace::start();
    let manager = hasty(&site);
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    drop(guard);
    eventually("it is warned of", async || warnings(&trace).iter().any(|w| about(w, "k"))).await;
    site.all().iter().for_each(Server::resume);
    site.empties("k").await;
}

async fn a_run_that_cannot_release_is_warned_of(site: Site) {
    let trace = Trace::start();
    let request = hasty(&site).lock("k").ttl(secs(600));
    let work = async |_: &_| site.all().iter().for_each(Server::pause);
    within(request.run(work)).await.unwrap();
    assert!(warnings(&trace).iter().any(|warning| about(warning, "k")));
    site.all().iter().for_each(Server::resume);
}

async fn a_server_that_goes_and_comes_back_is_told_of_once(site: Site) {
    let (trace, manager) = (Trace::start(), site.manager());
    site.all().iter().for_each(Server::kill);
    all_fail(&manager).await;
    assert_told_once(&site, &trace, "WARN", "node unreachable", "cause");
    site.all().iter().for_each(Server::restart);
    all_answer(&manager).await;
    assert_told_once(&site, &trace, "INFO", "node reachable again", "away");
    assert_eq!(loud(&trace).len(), site.all().len());
}

async fn a_server_that_was_never_there_is_told_of_once(site: Site) {
    let trace = Trace::start();
    site.all().iter().for_each(Server::kill);
    let manager = site.manager();
    all_fail(&manager).await;
    manager.close().await;
    assert_told_once(&site, &trace, "WARN", "node unreachable", "cause");
    assert_eq!(loud(&trace).len(), site.all().len());
}

async fn a_silent_server_is_told_of_once(site: Site) {
    let manager = hasty(&site);
    all_answer(&manager).await;
    let trace = Trace::start();
    site.all().iter().for_each(Server::pause);
    eventually("all are told of", async || {
        manager.ping().await;
        told(&trace, "WARN", "node unreachable").len() == site.all().len()
    })
    .await;
    all_fail(&manager).await;
    assert_told_once(&site, &trace, "WARN", "node unreachable", "cause");
    site.all().iter().for_each(Server::resume);
    all_answer(&manager).await;
    assert_told_once(&site, &trace, "INFO", "node reachable again", "away");
}

async fn a_read_only_server_is_told_of_once(site: Site) {
    let (trace, manager) = (Trace::start(), site.manager());
    site.all().iter().for_each(|server| drop(server.command(&["REPLICAOF", "127.0.0.1", "1"])));
    for _ in 0..3 {
        within(manager.lock("k").try_acquire()).await.unwrap_err();
        // It answers, and yet does no work.
        all_answer(&manager).await;
    }
    // A round is over once its vote is certain.
    eventually("all are told of", async || {
        manager.lock("k").try_acquire().await.unwrap_err();
        told(&trace, "WARN", "node unreachable").len() == site.all().len()
    })
    .await;
    assert!(told(&trace, "INFO", "node reachable again").is_empty());
    site.all().iter().for_each(|server| drop(server.command(&["REPLICAOF", "NO", "ONE"])));
    eventually("all work again", async || {
        let _taken = manager.lock("k").try_acquire().await;
        told(&trace, "INFO", "node reachable again").len() == site.all().len()
    })
    .await;
    assert_told_once(&site, &trace, "WARN", "node unreachable", "cause");
    assert_told_once(&site, &trace, "INFO", "node reachable again", "away");
}

/// Whatever keeps it from its work.
#[tokio::test]
async fn a_server_that_cannot_work_is_told_of_until_it_works() {
    let server = Server::start();
    for error in UNFIT {
        let (trace, proxy) = (Trace::start(), Proxy::start(&server));
        let manager = LockManager::single(proxy.url()).node_timeout(secs(10)).build().unwrap();
        all_answer(&manager).await;
        proxy.refuse_scripts(error);
        for _ in 0..2 {
            within(manager.lock("k").try_acquire()).await.unwrap_err();
            // It answers, and yet does no work.
            all_answer(&manager).await;
        }
        let gone = told(&trace, "WARN", "node unreachable");
        let [gone] = gone.as_slice() else { panic!("{error}: {gone:?}") };
        let (_, words) = error.split_once(' ').unwrap();
        assert!(gone.fields["cause"].contains(words), "{gone:?}");
        assert!(told(&trace, "INFO", "node reachable again").is_empty(), "{error}");
        proxy.heal();
        within(manager.lock("k").try_acquire()).await.unwrap().release().await.unwrap();
        assert_eq!(told(&trace, "INFO", "node reachable again").len(), 1, "{error}");
    }
}

/// What servers say that cannot work at this time.
const UNFIT: [&str; 5] = [
    "LOADING Redis is loading the dataset in memory",
    "BUSY Redis is busy running a script",
    "CLUSTERDOWN The cluster is down",
    "MISCONF Redis is configured to save RDB snapshots",
    "OOM command not allowed when used memory > 'maxmemory'",
];

async fn broken_connections_alone_are_not_told_of(site: Site) {
    let (trace, manager) = (Trace::start(), site.manager());
    for _ in 0..3 {
        within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
        break_connections(&site);
    }
    manager.close().await;
    assert_eq!(loud(&trace), Vec::<String>::new());
}

/// Asks all nodes some times, each of which fails.
async fn all_fail(manager: &LockManager) {
    for _ in 0..3 {
        assert!(manager.ping().await.iter().all(|node| node.round_trip().is_err()));
        within(manager.lock("k").try_acquire()).await.unwrap_err();
    }
}

async fn all_answer(manager: &LockManager) {
    eventually("all nodes answer", async || {
        manager.ping().await.iter().all(|node| node.round_trip().is_ok())
    })
    .await;
}

/// The events of this level and message.
fn told(trace: &Trace, level: &str, message: &str) -> Vec<Record> {
    let events = trace.events().into_iter();
    let says = |event: &Record| event.fields.get("message").is_some_and(|said| said == message);
    events.filter(|event| event.level == level && says(event)).collect()
}

/// One such event was told of each node, and it has this field.
fn assert_told_once(site: &Site, trace: &Trace, level: &str, message: &str, field: &str) {
    let told = told(trace, level, message);
    for server in site.all() {
        let of_it: Vec<_> =
            told.iter().filter(|event| event.fields["node"] == server.name()).collect();
        assert_eq!(of_it.len(), 1, "{told:?}");
        assert!(of_it[0].fields.contains_key(field), "{of_it:?}");
    }
}

async fn a_loss_is_warned_of_with_the_error_of_the_last_renewal(site: Site) {
    let (trace, events) = (Trace::start(), Events::default());
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let request = renewed(manager.lock("k"), &events, millis(100));
    let guard = request.ttl(secs(2)).await.unwrap();
    site.all().iter().for_each(Server::pause);
    within(guard.lost()).await;
    eventually("it is told", async || !events.losses().is_empty()).await;
    site.all().iter().for_each(Server::resume);
    let warnings = losses(&trace);
    let [warning] = warnings.as_slice() else { panic!("one warning: {warnings:?}") };
    let cause = &warning.fields["cause"];
    assert!(site.all().iter().any(|server| cause.contains(&server.name())), "{cause}");
    assert!(cause.contains("no answer within 100ms"), "{cause}");
}

async fn every_event_names_what_it_is_about(site: Site) {
    let (trace, events) = (Trace::start(), Events::default());
    let guard = watched(&site, &events, millis(5)).await;
    events.more_renewals(1).await;
    break_connections(&site);
    site.manager().lock("k").wait_timeout(millis(20)).acquire().await.unwrap_err();
    drop(guard);
    site.empties("k").await;
    let own = trace.events().into_iter().filter(|event| event.name.starts_with("redlatch"));
    for event in own {
        let named = ["key", "node"].iter().any(|field| event.fields.contains_key(*field));
        assert!(named, "{event:?}");
        let message = &event.fields["message"];
        assert!(message.starts_with(char::is_lowercase) && !message.ends_with('.'), "{message}");
    }
}

/// A span of this name was opened, and all of them have these fields.
fn assert_fields(trace: &Trace, name: &str, fields: &[(&str, &str)]) {
    let spans: Vec<_> = trace.spans().into_iter().filter(|span| span.name == name).collect();
    assert!(!spans.is_empty(), "no span {name}: {}", trace.text());
    for span in spans {
        for (field, value) in fields {
            assert_eq!(span.fields.get(*field).map(String::as_str), Some(*value), "{span:?}");
        }
    }
}

fn attempt(span: &Record) -> String {
    span.fields["attempt"].clone()
}

/// A lock kept by a watchdog that reports to `events`.
async fn watched(site: &Site, events: &Events, every: Duration) -> LockGuard {
    renewed(site.manager().lock("k"), events, every).await.unwrap()
}

fn renewed(request: LockRequest, events: &Events, every: Duration) -> LockRequest {
    request.ttl(secs(600)).auto_renew_every(every).on_renewal(events.listener())
}

fn assert_loss_is_warned_of(trace: &Trace, guard: &LockGuard) {
    let warnings = warnings(trace);
    let [warning] = warnings.as_slice() else {
        panic!("one warning: {warnings:?}");
    };
    assert!(about(warning, "k"), "{warning:?}");
    let token = guard.fencing_token().to_string();
    assert_eq!(warning.fields.get("fencing_token"), Some(&token), "{warning:?}");
    assert!(warning.fields["message"].contains("lost"), "{warning:?}");
}

fn warnings(trace: &Trace) -> Vec<Record> {
    trace.events().into_iter().filter(|event| event.level == "WARN").collect()
}

/// The warnings of lost locks.
fn losses(trace: &Trace) -> Vec<Record> {
    let is_loss = |warning: &Record| warning.fields["message"].contains("lost");
    warnings(trace).into_iter().filter(is_loss).collect()
}

/// All warnings and errors.
fn loud(trace: &Trace) -> Vec<String> {
    let events = trace.events().into_iter();
    let loud = events.filter(|event| event.level == "WARN" || event.level == "ERROR");
    loud.map(|event| format!("{event:?}")).collect()
}

fn about(event: &Record, key: &str) -> bool {
    event.fields.get("key").is_some_and(|shown| shown.trim_matches('"') == key)
}

/// A manager that soon gives up on silent servers.
fn hasty(site: &Site) -> LockManager {
    let builder = site.builder().node_timeout(millis(500)).release_timeout(millis(500));
    builder.build().unwrap()
}

fn secret_url(server: &Server, password: &str) -> String {
    server.user("ann", password, &["~*", "&*", "+@all"])
}

fn break_connections(site: &Site) {
    for server in site.all() {
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
}
