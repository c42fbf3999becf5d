//! However long an outage lasts, it costs no more: pending undos end with their TTL, and nobody storms a dead node.
//!
//! What an outage can leave pending ends with its TTL, so that its length counts in TTLs: ten minutes are twenty of the
//! usual 30 s. With shorter ones twenty pass in seconds, and more would show no more. The pause between two connects
//! grows to its longest, a second, within the first two.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::spawn;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redlatch::{Error, LockManager, Retry};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::support::{Proxy, Server, Site, eventually, millis, on_servers, secs, within};

on_servers!(an_outage_of_silence_piles_nothing_up, an_outage_of_absence_piles_nothing_up);

/// Twenty of them pass in each outage here.
const TTL: Duration = millis(200);
const OUTAGE: Duration = secs(4);
/// How many call at a time.
const CALLERS: usize = 100;

async fn an_outage_of_silence_piles_nothing_up(site: Site) {
    assert_nothing_piles_up(&site, Server::pause).await;
}

async fn an_outage_of_absence_piles_nothing_up(site: Site) {
    assert_nothing_piles_up(&site, Server::kill).await;
}

/// What is pending stays below a bound that has nothing to do with the number of calls or the length of the outage,
/// and is over soon after the last of the TTLs, although no server has come back.
async fn assert_nothing_piles_up(site: &Site, take_away: impl Fn(&Server)) {
    let before = tasks();
    let manager = site.builder().node_timeout(millis(50)).build().unwrap();
    let names = (0..CALLERS).map(|place| format!("held-{place}"));
    let held = join_all(names.map(|name| manager.lock(name).ttl(secs(1)).acquire())).await;
    let held: Vec<_> = held.into_iter().flatten().collect();
    site.all().iter().for_each(take_away);
    let (began, mut most, mut calls) = (Instant::now(), 0, 0);
    while began.elapsed() < OUTAGE {
        within(join_all((0..CALLERS).map(|place| call(&manager, place)))).await;
        drop(join_all(held.iter().map(|guard| guard.try_extend(secs(1)))).await);
        (most, calls) = (most.max(tasks()), calls + 2 * CALLERS);
    }
    // The background task; and for each node a line, those before it that are undone on, and its notices.
    let bound = before + 1 + 6 * site.all().len();
    assert!(most <= bound, "{most} tasks after {calls} calls, {before} before");
    drop(held);
    drop(manager);
    eventually("nothing is pending any more", async || tasks() <= before).await;
}

/// What a caller may do in an outage.
async fn call(manager: &LockManager, place: usize) {
    let request = manager.lock(format!("k-{place}")).ttl(TTL);
    match place % 3 {
        0 => drop(request.try_acquire().await),
        1 => {
            let retry = Retry::jittered(millis(1), millis(5)).max_retries(2);
            drop(request.retry(retry).acquire().await);
        }
        _ => drop(timeout(millis(5), request.acquire()).await),
    }
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test]
async fn undos_owed_to_a_silent_minority_end_with_their_ttl() {
    let site = Site::servers(3);
    let before = tasks();
    let manager = site.builder().node_timeout(millis(50)).build().unwrap();
    eventually("all connections stand", async || {
        manager.ping().await.iter().all(|node| node.round_trip().is_ok())
    })
    .await;
    site.all()[2].pause();
    for _ in 0..10 {
        let names = (0..CALLERS).map(|place| format!("k-{place}"));
        let taken = join_all(names.map(|name| manager.lock(name).ttl(TTL).acquire())).await;
        drop(taken);
    }
    drop(manager);
    // The third server has not answered any of the releases, and is silent yet.
    eventually("nobody tries to tell it any more", async || tasks() <= before).await;
}

#[tokio::test]
async fn a_dead_node_is_not_stormed() {
    let (url, connections) = a_port_that_hangs_up();
    let manager = LockManager::single(url).build().unwrap();
    let (began, mut calls) = (Instant::now(), 0);
    while began.elapsed() < OUTAGE {
        within(join_all((0..CALLERS).map(|place| call(&manager, place)))).await;
        calls += CALLERS;
    }
    let made = connections.load(Ordering::SeqCst);
    assert!(made <= most_connections(began), "{made} connections for {calls} calls");
}

/// An address that accepts and hangs up, and how often it has.
fn a_port_that_hangs_up() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is found");
    let url = format!("redis://{}", listener.local_addr().expect("it is bound"));
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            counting.fetch_add(1, Ordering::SeqCst);
            drop(client);
        }
    });
    (url, count)
}

/// How many connections a manager may make to a node that is no use: after a pause that doubles up to a second.
fn most_connections(began: Instant) -> usize {
    let seconds = usize::try_from(began.elapsed().as_secs()).expect("it is short");
    // One at once, five in the first second and a half, and then one in each.
    seconds + 8
}

#[tokio::test]
async fn a_node_whose_handshake_takes_too_long_is_an_outage_until_it_does_not() {
    let server = Server::start();
    let proxy = Proxy::start(&server);
    proxy.delay_handshakes(secs(3600));
    let builder = LockManager::single(proxy.url()).node_timeout(millis(100));
    let manager = builder.outage_patience(millis(100)).build().unwrap();
    let began = Instant::now();
    for _ in 0..10 {
        let error = within(manager.lock("k").acquire()).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { reached: 0, .. }), "{error:?}");
    }
    while began.elapsed() < OUTAGE {
        within(join_all((0..CALLERS).map(|place| call(&manager, place)))).await;
    }
    let made = proxy.accepted();
    assert!(made <= most_connections(began), "{made} connections in {:?}", began.elapsed());
    proxy.heal();
    eventually("it is taken at last", async || {
        manager.lock("k").ttl(secs(600)).try_acquire().await.is_ok()
    })
    .await;
    let ours = || {
        let clients: String = server.query(&["CLIENT", "LIST", "TYPE", "normal"]);
        clients.lines().count() - 1
    };
    eventually("one connection is left, beside the test's own", async || ours() == 1).await;
}

#[tokio::test]
async fn a_slow_handshake_within_the_node_timeout_is_waited_for() {
    let server = Server::start();
    let proxy = Proxy::start(&server);
    proxy.delay_handshakes(secs(1));
    let manager = LockManager::single(proxy.url()).node_timeout(secs(20)).build().unwrap();
    let names = (0..CALLERS).map(|place| format!("k-{place}"));
    let taken = join_all(names.map(|name| manager.lock(name).try_acquire())).await;
    assert!(taken.iter().all(Result::is_ok), "{taken:?}");
    assert_eq!(proxy.accepted(), 1, "all wait for one connection");
}
