//! Servers that fall silent, die, come back or turn unfit: bounded, named, and survived.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redlatch::{Error, LockGuard, LockManager, LockManagerBuilder, Node, Retry};
use tokio::time::Instant;

use crate::support::{Server, Site, chain, eventually, millis, on_servers, secs, within};

on_servers!(
    what_was_never_sent_needs_no_release,
    acquire_says_unavailable_while_the_servers_are_silent,
    acquire_says_unavailable_while_the_servers_are_down,
    a_manager_works_again_once_its_servers_speak_again,
    a_manager_works_again_once_its_servers_are_back,
    a_manager_built_before_its_servers_works_once_they_are_there,
    acquire_waits_for_servers_that_come_back_in_time,
    acquire_survives_broken_connections,
    a_wait_timeout_in_an_outage_tells_of_the_outage,
    retries_used_up_in_an_outage_are_told_as_such,
    one_attempt_in_an_outage_is_told_as_such,
    the_answer_of_a_majority_ends_an_outage,
    without_patience_one_round_is_made,
    what_waiting_does_not_mend_is_told_at_once,
    an_outage_is_over_for_all_who_wait_at_one_time,
    a_lock_survives_its_servers_turning_read_only,
    a_lock_survives_its_servers_running_out_of_memory,
    a_lock_survives_its_user_losing_the_right_to_extend,
    a_release_tells_why_its_servers_refuse,
);

/// Longer than [`within`] waits: whoever waits for a silent server fails the test.
const ENDLESS: Duration = secs(3600);

/// A quorum of five of which so many are silent, and a manager that must not wait for them.
fn partly_silent(silent: usize) -> (Site, LockManager) {
    let site = Site::servers(5);
    site.all()[..silent].iter().for_each(Server::pause);
    let builder = site.builder().node_timeout(ENDLESS).release_timeout(ENDLESS);
    (site, builder.build().unwrap())
}

#[tokio::test]
async fn one_silent_server_of_five_is_not_waited_for() {
    let (_site, manager) = partly_silent(1);
    assert_whole_life(&manager).await;
}

#[tokio::test]
async fn two_silent_servers_of_five_are_not_waited_for() {
    let (_site, manager) = partly_silent(2);
    assert_whole_life(&manager).await;
}

#[tokio::test]
async fn one_silent_server_of_three_is_not_waited_for() {
    let site = Site::servers(3);
    site.all()[2].pause();
    let builder = site.builder().node_timeout(ENDLESS).release_timeout(ENDLESS);
    assert_whole_life(&builder.build().unwrap()).await;
}

#[tokio::test]
async fn servers_that_fall_silent_under_a_lock_are_not_waited_for() {
    for silent in 1..=2 {
        let (site, manager) = partly_silent(0);
        let guard = within(manager.lock("k").ttl(secs(60)).acquire()).await.unwrap();
        site.all()[..silent].iter().for_each(Server::pause);
        within(guard.extend(secs(600))).await.unwrap();
        within(guard.release()).await.unwrap();
        assert_whole_life(&manager).await;
    }
}

#[tokio::test]
async fn two_dead_servers_of_five_do_no_harm() {
    let (site, manager) = partly_silent(0);
    assert_whole_life(&manager).await;
    site.all()[3..].iter().for_each(Server::kill);
    assert_whole_life(&manager).await;
}

#[tokio::test]
async fn three_silent_servers_of_five_are_an_outage() {
    let site = Site::servers(5);
    let manager = warm(&site, secs(1)).await;
    site.all()[..3].iter().for_each(Server::pause);
    let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
    let Error::Unavailable { key, needed: 3, reached: 2, nodes, .. } = &error else {
        panic!("{error:?}");
    };
    let mut blamed: Vec<_> = nodes.iter().map(|node| node.node().to_owned()).collect();
    let mut silent: Vec<_> = site.all()[..3].iter().map(Server::name).collect();
    blamed.sort();
    silent.sort();
    assert_eq!((key.as_str(), blamed), ("k", silent));
    assert!(error.is_unavailable() && !error.is_contended() && !error.is_timeout());
}

#[tokio::test]
async fn three_silent_servers_of_five_leave_nothing_behind() {
    let site = Site::servers(5);
    let manager = warm(&site, millis(500)).await;
    site.all()[..3].iter().for_each(Server::pause);
    within(manager.lock("k").ttl(secs(600)).try_acquire()).await.unwrap_err();
    eventually("what the others gave is given back", async || {
        site.all()[3..].iter().all(|server| server.lock_keys().is_empty())
    })
    .await;
    site.all()[..3].iter().for_each(Server::resume);
    site.empties("k").await;
}

#[tokio::test]
async fn three_silent_servers_of_five_work_again_once_they_speak() {
    let site = Site::servers(5);
    let manager = warm(&site, millis(500)).await;
    site.all()[..3].iter().for_each(Server::pause);
    let error = within(manager.lock("k").acquire()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    site.all()[..3].iter().for_each(Server::resume);
    drop(taken_at_last(&manager).await);
    site.empties("k").await;
}

#[tokio::test]
async fn silent_servers_are_told_by_their_silence() {
    let site = Site::servers(1);
    let manager = warm(&site, millis(200)).await;
    site.all()[0].pause();
    let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
    let causes = chain(&error.node_errors()[0]).split_off(1).join(": ");
    assert!(causes.contains("no answer within 200ms"), "{causes}");
}

async fn acquire_says_unavailable_while_the_servers_are_silent(site: Site) {
    let manager = warm(&site, millis(200)).await;
    site.all().iter().for_each(Server::pause);
    let error = within(manager.lock("k").acquire()).await.unwrap_err();
    assert_all_blamed(&site, &error);
}

async fn acquire_says_unavailable_while_the_servers_are_down(site: Site) {
    let manager = warm(&site, secs(10)).await;
    site.all().iter().for_each(Server::kill);
    let error = within(manager.lock("k").acquire()).await.unwrap_err();
    assert_all_blamed(&site, &error);
}

async fn a_manager_works_again_once_its_servers_speak_again(site: Site) {
    let manager = warm(&site, millis(200)).await;
    site.all().iter().for_each(Server::pause);
    within(manager.lock("k").acquire()).await.unwrap_err();
    site.all().iter().for_each(Server::resume);
    drop(taken_at_last(&manager).await);
    site.empties("k").await;
}

async fn a_manager_works_again_once_its_servers_are_back(site: Site) {
    let manager = warm(&site, secs(10)).await;
    site.all().iter().for_each(Server::kill);
    within(manager.lock("k").acquire()).await.unwrap_err();
    site.all().iter().for_each(Server::restart);
    drop(taken_at_last(&manager).await);
    site.empties("k").await;
}

async fn a_manager_built_before_its_servers_works_once_they_are_there(site: Site) {
    site.all().iter().for_each(Server::kill);
    let manager = site.manager();
    within(manager.lock("k").try_acquire()).await.unwrap_err();
    site.all().iter().for_each(Server::restart);
    drop(taken_at_last(&manager).await);
}

async fn acquire_waits_for_servers_that_come_back_in_time(site: Site) {
    let manager = site.builder().outage_patience(secs(600)).build().unwrap();
    site.all().iter().for_each(Server::kill);
    let (rounds, retry) = counted(millis(10));
    let waiting = tokio::spawn(manager.lock("k").retry(retry).acquire());
    eventually("it fails some rounds", async || rounds.load(Ordering::SeqCst) > 4).await;
    site.all().iter().for_each(Server::restart);
    drop(within(waiting).await.unwrap().expect("the servers are back"));
}

async fn acquire_survives_broken_connections(site: Site) {
    let manager = site.manager();
    for _ in 0..20 {
        let guard = within(manager.lock("k").acquire()).await.unwrap();
        break_connections(&site);
        within(guard.release()).await.unwrap();
        break_connections(&site);
    }
}

async fn a_wait_timeout_in_an_outage_tells_of_the_outage(site: Site) {
    let manager = site.manager();
    site.all().iter().for_each(Server::kill);
    let request = manager.lock("k").wait_timeout(millis(50));
    let error = within(request.acquire()).await.unwrap_err();
    assert!(matches!(error, Error::WaitTimeout { .. }), "{error:?}");
    assert!(error.is_timeout() && error.is_unavailable() && !error.is_contended());
    assert_all_named(&site, &error);
}

async fn retries_used_up_in_an_outage_are_told_as_such(site: Site) {
    let manager = site.builder().outage_patience(secs(600)).build().unwrap();
    assert_exhausted(&site, &manager, 5).await;
}

async fn one_attempt_in_an_outage_is_told_as_such(site: Site) {
    let manager = site.builder().outage_patience(Duration::ZERO).build().unwrap();
    assert_exhausted(&site, &manager, 1).await;
}

async fn the_answer_of_a_majority_ends_an_outage(site: Site) {
    let manager = site.builder().outage_patience(secs(2)).build().unwrap();
    let site = Arc::new(site);
    command(&site, &["SET", "k", "another"]);
    let toggled = Arc::clone(&site);
    // It fails for most of twice the patience, but never for long.
    let retry = Retry::from_fn(move |n| {
        let memory = if n % 3 == 2 { "0" } else { "1" };
        command(&toggled, &["CONFIG", "SET", "maxmemory", memory]);
        millis(20)
    });
    let request = manager.lock("k").retry(retry.max_retries(200));
    let error = within(request.acquire()).await.unwrap_err();
    assert!(matches!(error, Error::RetriesExhausted { attempts: 201, .. }), "{error:?}");
}

async fn without_patience_one_round_is_made(site: Site) {
    let manager = site.builder().outage_patience(Duration::ZERO).build().unwrap();
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    site.all().iter().for_each(Server::kill);
    let error = within(manager.lock("k").acquire()).await.unwrap_err();
    assert_all_blamed(&site, &error);
}

async fn what_waiting_does_not_mend_is_told_at_once(site: Site) {
    // Longer than a test may take.
    let patient = |builder: LockManagerBuilder| builder.outage_patience(ENDLESS).build().unwrap();
    command(&site, &["RPUSH", "k", "a list"]);
    let error = within(patient(site.builder()).lock("k").acquire()).await.unwrap_err();
    assert_all_blamed(&site, &error);

    let users = site.all().iter().map(|server| server.user("u", "p", &["~*", "+@all", "-set"]));
    let as_user = LockManager::quorum(users).node_timeout(secs(10));
    let error = within(patient(as_user).lock("free").acquire()).await.unwrap_err();
    assert_all_blamed(&site, &error);

    let urls = site.all().iter().map(|server| format!("redis://u:wrong@{}", server.name()));
    let as_nobody = LockManager::quorum(urls).node_timeout(secs(10));
    let error = within(patient(as_nobody).lock("free").acquire()).await.unwrap_err();
    assert_all_blamed(&site, &error);
}

/// Also those who stand behind others, on whatever key: else the last of them would wait for the patience of all.
async fn an_outage_is_over_for_all_who_wait_at_one_time(site: Site) {
    let manager = site.builder().outage_patience(secs(1)).build().unwrap();
    for key in 0..4 {
        command(&site, &["SET", &format!("k{key}"), "another"]);
    }
    let began = Instant::now();
    let request = |n: usize| manager.lock(format!("k{}", n % 4)).acquire();
    let waiters: Vec<_> = (0..200).map(|n| tokio::spawn(request(n))).collect();
    tokio::time::sleep(millis(100)).await;
    site.all().iter().for_each(Server::kill);
    for waiter in waiters {
        let error = within(waiter).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    }
    assert!(began.elapsed() < secs(15), "one after the other: {:?}", began.elapsed());
}

async fn a_lock_survives_its_servers_turning_read_only(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let until = guard.valid_until();
    command(&site, &["REPLICAOF", "127.0.0.1", "1"]);
    let error = within(guard.try_extend(secs(900))).await.unwrap_err();
    assert!(error.is_unavailable() && guard.is_valid(), "{error:?}");
    assert_eq!(guard.valid_until(), until);
    command(&site, &["REPLICAOF", "NO", "ONE"]);
    within(guard.extend(secs(900))).await.unwrap();
    within(guard.release()).await.unwrap();
    site.empties("k").await;
}

async fn a_lock_survives_its_servers_running_out_of_memory(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    command(&site, &["CONFIG", "SET", "maxmemory", "1"]);
    assert!(within(site.manager().lock("other").try_acquire()).await.is_err());
    assert!(guard.is_valid());
    within(guard.release()).await.expect("a release needs no memory");
    command(&site, &["CONFIG", "SET", "maxmemory", "0"]);
    site.empties("k").await;
}

async fn a_lock_survives_its_user_losing_the_right_to_extend(site: Site) {
    let urls = site.all().iter().map(|server| server.user("u", "p", &["~*", "&*", "+@all"]));
    let manager = LockManager::quorum(urls).node_timeout(secs(10)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    command(&site, &["ACL", "SETUSER", "u", "-evalsha", "-eval"]);
    let error = within(guard.try_extend(secs(900))).await.unwrap_err();
    assert!(error.is_unavailable() && guard.is_valid(), "{error:?}");
    command(&site, &["ACL", "SETUSER", "u", "+evalsha", "+eval"]);
    within(guard.extend(secs(900))).await.unwrap();
    within(guard.release()).await.unwrap();
}

async fn a_release_tells_why_its_servers_refuse(site: Site) {
    let manager = site.builder().release_timeout(millis(500)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    eventually("every server has it", async || site.lock_keys().len() == site.all().len()).await;
    command(&site, &["REPLICAOF", "127.0.0.1", "1"]);
    let error = within(guard.release()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { reached: 0, .. }), "{error:?}");
    for node in error.node_errors() {
        let causes = chain(node).join(": ");
        assert!(causes.contains("read only"), "{causes}");
    }
    command(&site, &["REPLICAOF", "NO", "ONE"]);
    site.empties("k").await;
}

/// A manager whose connections stand.
async fn warm(site: &Site, node_timeout: Duration) -> LockManager {
    let builder = site.builder().node_timeout(node_timeout);
    let manager = builder.outage_patience(millis(300)).build().unwrap();
    eventually("all connections stand", async || {
        manager.ping().await.iter().all(|node| node.round_trip().is_ok())
    })
    .await;
    manager
}

/// Takes, extends, and releases a lock, none of which may wait for silent servers.
async fn assert_whole_life(manager: &LockManager) {
    let guard = within(manager.lock("k").ttl(secs(60)).acquire()).await.unwrap();
    within(guard.extend(secs(600))).await.unwrap();
    within(guard.release()).await.unwrap();
}

/// Tries until the lock is taken.
async fn taken_at_last(manager: &LockManager) -> LockGuard {
    let mut taken = None;
    eventually("the lock can be taken again", async || {
        taken = manager.lock("k").ttl(secs(600)).try_acquire().await.ok();
        taken.is_some()
    })
    .await;
    taken.expect("it was just taken")
}

/// Kills the servers and lets the retries run out.
async fn assert_exhausted(site: &Site, manager: &LockManager, attempts: u32) {
    site.all().iter().for_each(Server::kill);
    let retry = Retry::jittered(millis(1), millis(1)).max_retries(attempts - 1);
    let error = within(manager.lock("k").retry(retry).acquire()).await.unwrap_err();
    let Error::RetriesExhausted { key, attempts: made, source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((key.as_str(), *made), ("k", attempts));
    assert!(matches!(**source, Error::Unavailable { .. }), "{source:?}");
    assert!(error.is_unavailable() && !error.is_timeout() && !error.is_contended());
    assert_all_named(site, &error);
}

/// `Unavailable`, because of these servers.
fn assert_all_blamed(site: &Site, error: &Error) {
    assert!(matches!(error, Error::Unavailable { reached: 0, .. }), "{error:?}");
    assert_all_named(site, error);
}

/// So many of these servers are named that no majority can be left, and no others.
fn assert_all_named(site: &Site, error: &Error) {
    let nodes = error.node_errors();
    assert!(nodes.len() > site.all().len() / 2, "{nodes:?}");
    for node in nodes {
        assert!(site.all().iter().any(|server| server.name() == node.node()), "{node:?}");
    }
}

/// A policy that pauses so long, and the number of its pauses.
fn counted(pause: Duration) -> (Arc<AtomicU32>, Retry) {
    let pauses = Arc::new(AtomicU32::new(0));
    let counting = Arc::clone(&pauses);
    let retry = Retry::from_fn(move |_| {
        counting.fetch_add(1, Ordering::SeqCst);
        pause
    });
    (pauses, retry.max_retries(u32::MAX))
}

fn break_connections(site: &Site) {
    command(site, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
}

fn command(site: &Site, args: &[&str]) {
    site.all().iter().for_each(|server| drop(server.command(args)));
}

/// It was taken back from a connection that had ended before, and no other could be made.
async fn what_was_never_sent_needs_no_release(site: Site) {
    let manager = site.builder().release_timeout(millis(300)).build().unwrap();
    assert!(manager.ping().await.iter().all(|node| node.round_trip().is_ok()));
    site.all().iter().for_each(Server::kill);
    // The connections learn of their ends as soon as the runtime looks.
    tokio::time::sleep(millis(20)).await;
    assert!(within(manager.lock("k").try_acquire()).await.unwrap_err().is_unavailable());
    assert_eq!(within(manager.close()).await, 0);
}

#[tokio::test]
async fn an_outage_is_told_although_the_one_node_left_refuses() {
    let node = Node::in_memory();
    let other = LockManager::single(node.clone()).build().unwrap();
    let _held = other.lock("k").ttl(secs(600)).await.unwrap();
    let down = |port| Node::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let builder = LockManager::quorum([node, down(1), down(2)]).node_timeout(millis(50));
    let manager = builder.retry(Retry::jittered(millis(1), millis(5))).build().unwrap();
    let error = within(manager.lock("k").acquire()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
}
