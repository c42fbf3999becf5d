//! Short outages: whoever waits outlasts them, wherever it stands.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redlatch::{
    Error, LockGuard, LockManager, LockRequest, Node, OwnerToken, Result, deadpool_redis,
};
use tokio::task::JoinHandle;

use crate::support::{
    Proxy, Record, Server, Site, Trace, eventually, millis, on_servers, secs, within,
};

on_servers!(
    waiters_outlast_50_ms,
    waiters_outlast_200_ms,
    waiters_outlast_2_s,
    waiters_outlast_4_s,
    a_waiter_outlasts_silence,
    a_waiter_outlasts_a_missing_master,
    a_waiter_outlasts_a_lack_of_memory,
    a_waiter_outlasts_the_loading_of_data,
    a_waiter_outlasts_a_cluster_that_is_down,
    a_set_that_loses_one_of_its_locks_in_an_outage_begins_anew,
    waiters_cost_the_nodes_no_more_in_an_outage,
    a_wait_timeout_bounds_the_first_attempt,
    a_wait_timeout_of_zero_is_one_attempt,
);

async fn waiters_outlast_50_ms(site: Site) {
    assert_waiters_outlast(site, millis(50)).await;
}

async fn waiters_outlast_200_ms(site: Site) {
    assert_waiters_outlast(site, millis(200)).await;
}

async fn waiters_outlast_2_s(site: Site) {
    assert_waiters_outlast(site, secs(2)).await;
}

async fn waiters_outlast_4_s(site: Site) {
    assert_waiters_outlast(site, secs(4)).await;
}

/// Heads of queues and those behind them, sets, owners who extend, and users of a pool.
async fn assert_waiters_outlast(site: Site, length: Duration) {
    let (manager, served) = (site.manager(), Served::default());
    let pools = site.all().iter().map(pooled);
    let pooled = LockManager::quorum(pools).node_timeout(secs(10)).build().unwrap();
    hold(&site, &["a", "b"]);
    let mut waiters = queue(&manager, "a", 0..20, &served).await;
    waiters.extend(queue(&manager, "b", 100..105, &served).await);
    waiters.extend(queue(&pooled, "a", 200..205, &served).await);
    let set = manager.lock_all(["a", "b"]).wait_timeout(LONG).acquire();
    waiters.push(tokio::spawn(async { set.await.unwrap().release().await.unwrap() }));
    let owner = OwnerToken::new("worker").unwrap();
    let owned = manager.lock("b").owner(owner).wait_timeout(LONG).acquire_or_extend();
    waiters.push(tokio::spawn(async { owned.await.unwrap().release().await.unwrap() }));
    tokio::time::sleep(millis(100)).await;
    site.all().iter().for_each(Server::kill);
    tokio::time::sleep(length).await;
    site.all().iter().for_each(Server::restart);
    for waiter in waiters {
        within(waiter).await.unwrap();
    }
    let served = served.lock().unwrap();
    for first in [0, 100, 200] {
        let queue = served.iter().filter(|number| (first..first + 100).contains(*number));
        assert!(queue.is_sorted(), "out of order: {served:?}");
    }
}

#[tokio::test]
async fn waiters_outlast_two_of_three_servers() {
    let (site, served) = (Site::servers(3), Served::default());
    let manager = site.manager();
    hold(&site, &["k"]);
    let waiters = queue(&manager, "k", 0..20, &served).await;
    tokio::time::sleep(millis(100)).await;
    site.all()[1..].iter().for_each(Server::kill);
    tokio::time::sleep(secs(1)).await;
    site.all()[1..].iter().for_each(Server::restart);
    for waiter in waiters {
        within(waiter).await.unwrap();
    }
    assert!(served.lock().unwrap().is_sorted());
}

async fn a_waiter_outlasts_silence(site: Site) {
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    hold(&site, &["k"]);
    let waiter = tokio::spawn(waiting(&manager, "k").acquire());
    tokio::time::sleep(millis(50)).await;
    site.all().iter().for_each(|server| server.del("k"));
    site.all().iter().for_each(Server::pause);
    tokio::time::sleep(secs(1)).await;
    site.all().iter().for_each(Server::resume);
    within(waiter).await.unwrap().unwrap().release().await.unwrap();
}

async fn a_waiter_outlasts_a_missing_master(site: Site) {
    command(&site, &["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    command(&site, &["REPLICAOF", "127.0.0.1", "1"]);
    let manager = site.manager();
    assert!(manager.lock("k").try_acquire().await.unwrap_err().is_unavailable());
    let waiter = tokio::spawn(waiting(&manager, "k").acquire());
    tokio::time::sleep(secs(1)).await;
    command(&site, &["REPLICAOF", "NO", "ONE"]);
    within(waiter).await.unwrap().unwrap().release().await.unwrap();
}

async fn a_waiter_outlasts_a_lack_of_memory(site: Site) {
    command(&site, &["CONFIG", "SET", "maxmemory", "1"]);
    let manager = site.manager();
    assert!(manager.lock("k").try_acquire().await.unwrap_err().is_unavailable());
    let waiter = tokio::spawn(waiting(&manager, "k").acquire());
    tokio::time::sleep(secs(1)).await;
    command(&site, &["CONFIG", "SET", "maxmemory", "0"]);
    within(waiter).await.unwrap().unwrap().release().await.unwrap();
}

async fn a_waiter_outlasts_the_loading_of_data(site: Site) {
    assert_outlasts_refusals(&site, "LOADING Redis is loading the dataset in memory").await;
}

async fn a_waiter_outlasts_a_cluster_that_is_down(site: Site) {
    assert_outlasts_refusals(&site, "CLUSTERDOWN The cluster is down").await;
}

async fn assert_outlasts_refusals(site: &Site, error: &'static str) {
    let (proxies, builder) = site.proxied();
    let manager = builder.build().unwrap();
    drop(manager.ping().await);
    proxies.iter().for_each(|proxy| proxy.refuse_scripts(error));
    let waiter = waits_for_nodes(&manager).await;
    proxies.iter().for_each(Proxy::heal);
    within(waiter).await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_waiter_outlasts_a_failure_to_save() {
    let server = Server::start_unable_to_save();
    let manager = LockManager::single(server.url()).node_timeout(secs(10)).build().unwrap();
    let waiter = waits_for_nodes(&manager).await;
    server.command(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    within(waiter).await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_waiter_outlasts_a_script_that_does_not_end() {
    let server = Server::start_with(&["--lua-time-limit", "1"]);
    let manager = LockManager::single(server.url()).node_timeout(secs(10)).build().unwrap();
    drop(manager.ping().await);
    let mut other = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    other.write_all(b"EVAL \"while true do end\" 0\r\n").unwrap();
    eventually("it is busy", async || {
        server.try_query::<()>(&["EXISTS", "k"]).is_err_and(|error| error.code() == Some("BUSY"))
    })
    .await;
    let waiter = waits_for_nodes(&manager).await;
    server.command(&["SCRIPT", "KILL"]);
    within(waiter).await.unwrap().unwrap().release().await.unwrap();
}

/// A waiter that has met an outage several times.
async fn waits_for_nodes(manager: &LockManager) -> JoinHandle<Result<LockGuard>> {
    let trace = Trace::start();
    let waiter = tokio::spawn(waiting(manager, "k").acquire());
    let has_failed = |event: &Record| event.fields["message"] == "attempt failed";
    eventually("it has tried several times", async || {
        let events = trace.events().into_iter();
        let failed = events.filter(|event| event.name.starts_with("redlatch") && has_failed(event));
        waiter.is_finished() || failed.count() >= 3
    })
    .await;
    assert!(!waiter.is_finished(), "it waits for the nodes to come back");
    waiter
}

async fn a_set_that_loses_one_of_its_locks_in_an_outage_begins_anew(site: Site) {
    let manager = site.manager();
    hold(&site, &["held"]);
    let set = manager.lock_all(["free", "held"]).ttl(secs(10)).wait_timeout(LONG).acquire();
    let set = tokio::spawn(set);
    eventually("it has the first", async || {
        site.all().iter().all(|server| server.get("free").is_some())
    })
    .await;
    site.all().iter().for_each(Server::kill);
    // So that the first is worth an extend once the second is taken.
    tokio::time::sleep(secs(1)).await;
    site.all().iter().for_each(Server::restart);
    let set = within(set).await.unwrap().unwrap();
    for key in ["free", "held"] {
        assert!(manager.lock(key).try_acquire().await.unwrap_err().is_contended());
    }
    set.release().await.unwrap();
}

async fn waiters_cost_the_nodes_no_more_in_an_outage(site: Site) {
    let manager = site.manager();
    hold(&site, &["k"]);
    let waiters: Vec<_> =
        (0..100).map(|_| tokio::spawn(waiting(&manager, "k").acquire())).collect();
    tokio::time::sleep(millis(100)).await;
    command(&site, &["CONFIG", "SET", "maxmemory", "1"]);
    site.all().iter().for_each(|server| server.del("k"));
    site.all().iter().for_each(Server::reset_calls);
    tokio::time::sleep(secs(2)).await;
    for server in site.all() {
        let looks = server.scripts();
        assert!(looks < 40, "{looks} looks of 100 waiters in two seconds");
    }
    waiters.iter().for_each(JoinHandle::abort);
}

async fn a_wait_timeout_bounds_the_first_attempt(site: Site) {
    let manager = site.manager();
    manager.ping().await;
    site.all().iter().for_each(Server::pause);
    let request = || manager.lock("k").ttl(secs(600)).wait_timeout(millis(150));
    let set = manager.lock_all(["k", "l"]).ttl(secs(600)).wait_timeout(millis(150));
    let owner = OwnerToken::new("worker").unwrap();
    // The second stands behind the first. None may take as long as a node may, which is ten seconds.
    let ended = tokio::time::timeout(secs(5), async {
        tokio::join!(
            request().acquire(),
            request().acquire(),
            request().owner(owner).acquire_or_extend(),
            set.acquire(),
        )
    });
    let (first, second, joined, set) = ended.await.expect("they end in time");
    for ended in [first.map(drop), second.map(drop), joined.map(drop), set.map(drop)] {
        let error = ended.unwrap_err();
        let Error::WaitTimeout { attempts: 1, source, .. } = &error else { panic!("{error:?}") };
        assert!(matches!(**source, Error::Unavailable { reached: 0, .. }), "{source:?}");
        assert!(error.is_timeout() && error.is_unavailable());
    }
    site.all().iter().for_each(Server::resume);
    site.empties("k").await;
    site.empties("l").await;
}

async fn a_wait_timeout_of_zero_is_one_attempt(site: Site) {
    let manager = site.manager();
    manager.ping().await;
    site.all().iter().for_each(Server::pause);
    let waiter = tokio::spawn(manager.lock("k").wait_timeout(Duration::ZERO).acquire());
    tokio::time::sleep(millis(300)).await;
    assert!(!waiter.is_finished(), "it may take as long as a node may");
    site.all().iter().for_each(Server::resume);
    drop(within(waiter).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_node_that_is_well_is_not_counted_out() {
    let site = Site::servers(3);
    let manager = site.manager();
    manager.ping().await;
    site.all()[1..].iter().for_each(Server::kill);
    for _ in 0..5 {
        let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        assert!(!error.to_string().contains("0 answered usefully"), "{error}");
    }
}

#[tokio::test]
async fn one_of_two_nodes_that_has_it_held_does_not_hide_the_others_silence() {
    let site = Site::servers(2);
    let builder = site.builder().node_timeout(millis(100)).outage_patience(millis(200));
    let manager = builder.build().unwrap();
    hold(&site, &["k"]);
    site.all()[1].pause();
    let error = within(manager.lock("k").acquire()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { needed: 2, reached: 1, .. }), "{error:?}");
    assert!(manager.lock("k").try_acquire().await.unwrap_err().is_contended());
    site.all()[1].resume();
}

fn waiting(manager: &LockManager, key: &str) -> LockRequest {
    manager.lock(key).ttl(secs(600)).wait_timeout(LONG)
}

type Served = Arc<Mutex<Vec<usize>>>;

/// Starts waiters one after the other, which note their numbers when they are served.
async fn queue(
    manager: &LockManager,
    key: &str,
    numbers: std::ops::Range<usize>,
    served: &Served,
) -> Vec<JoinHandle<()>> {
    let mut waiters = Vec::new();
    for number in numbers {
        let (request, served) = (waiting(manager, key), Arc::clone(served));
        waiters.push(tokio::spawn(async move {
            let guard = request.acquire().await.unwrap();
            served.lock().unwrap().push(number);
            guard.release().await.unwrap();
        }));
        tokio::task::yield_now().await;
    }
    waiters
}

/// Has another hold the keys until the servers forget them.
fn hold(site: &Site, keys: &[&str]) {
    for key in keys {
        site.all().iter().for_each(|server| assert!(server.foreign_lock(key, "other", secs(600))));
    }
}

fn pooled(server: &Server) -> Node {
    let config = deadpool_redis::Config::from_url(server.url());
    config.create_pool(None).expect("the URL is valid").into()
}

fn command(site: &Site, args: &[&str]) {
    site.all().iter().for_each(|server| drop(server.command(args)));
}

/// Longer than any of these outages.
const LONG: Duration = secs(25);
