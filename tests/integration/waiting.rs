//! Waiting: in order, at no cost, and never for ever.

use std::sync::{Arc, Mutex};

use futures_util::future::join;
use redlatch::{LockManager, Node, Retry, deadpool_redis};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::{
    BOUND, Proxy, Server, Site, eventually, everywhere, millis, on_servers, secs, within,
};

everywhere!(
    waiters_of_one_manager_are_served_in_the_order_of_arrival,
    a_head_that_gives_up_hands_its_place_on,
    a_waiter_dropped_while_head_hands_its_place_on,
    a_waiter_dropped_in_the_middle_hinders_nobody,
    waiters_outlive_a_forgotten_guard,
    a_waiting_owner_does_not_stand_behind_those_who_wait_for_it,
    a_request_that_never_retries_does_not_queue,
    standing_in_the_queue_is_no_attempt,
    many_waiters_are_all_served_once,
    each_of_many_releases_of_unfenced_locks_wakes_a_waiter,
);

on_servers!(
    a_release_elsewhere_wakes_a_waiter_whose_retry_delay_is_long,
    a_waiter_costs_next_to_nothing,
    a_lost_notice_does_not_leave_a_waiter_asleep,
    a_foreign_release_is_found_out,
    a_user_without_push_rights_is_served,
    a_user_without_channel_rights_is_served,
    a_pool_without_notices_is_served,
    a_pool_with_notices_hears_them,
    the_push_connection_closes_when_idle,
    waiting_survives_a_restart_of_the_servers,
    a_look_that_hangs_ends_with_the_wait_timeout,
);

/// A retry delay that no test waits for: only a notice can be faster.
fn sleepy(manager: &LockManager) -> redlatch::LockRequest {
    manager.lock("k").ttl(secs(600)).retry(Retry::jittered(secs(500), millis(0)))
}

/// Starts waiters one after the other, each in its place before the next comes.
async fn queue(manager: &LockManager, n: usize, served: &Served) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    for position in 0..n {
        let (request, served) = (sleepy(manager), Arc::clone(served));
        tasks.push(tokio::spawn(async move {
            let guard = request.acquire().await.unwrap();
            served.lock().unwrap().push(position);
            guard.release().await.unwrap();
        }));
        tokio::task::yield_now().await;
    }
    tasks
}

type Served = Arc<Mutex<Vec<usize>>>;

async fn waiters_of_one_manager_are_served_in_the_order_of_arrival(site: Site) {
    let (manager, served) = (site.manager(), Served::default());
    let guard = sleepy(&manager).await.unwrap();
    let tasks = queue(&manager, 30, &served).await;
    guard.release().await.unwrap();
    for task in tasks {
        within(task).await.unwrap();
    }
    assert_eq!(*served.lock().unwrap(), (0..30).collect::<Vec<_>>());
}

async fn a_head_that_gives_up_hands_its_place_on(site: Site) {
    let (holder, manager) = (site.manager(), site.manager());
    let guard = sleepy(&holder).await.unwrap();
    let head = tokio::spawn(sleepy(&manager).wait_timeout(millis(100)).acquire());
    tokio::task::yield_now().await;
    let next = tokio::spawn(sleepy(&manager).acquire());
    assert!(within(head).await.unwrap().unwrap_err().is_timeout());
    guard.release().await.unwrap();
    within(next).await.unwrap().unwrap().release().await.unwrap();
}

async fn a_waiter_dropped_while_head_hands_its_place_on(site: Site) {
    let (holder, manager) = (site.manager(), site.manager());
    let guard = sleepy(&holder).await.unwrap();
    let head = tokio::spawn(sleepy(&manager).acquire());
    tokio::time::sleep(millis(50)).await;
    let next = tokio::spawn(sleepy(&manager).acquire());
    tokio::time::sleep(millis(10)).await;
    head.abort();
    guard.release().await.unwrap();
    within(next).await.unwrap().unwrap().release().await.unwrap();
}

async fn a_waiter_dropped_in_the_middle_hinders_nobody(site: Site) {
    let (manager, served) = (site.manager(), Served::default());
    let guard = sleepy(&manager).await.unwrap();
    let tasks = queue(&manager, 9, &served).await;
    tasks.iter().skip(1).step_by(2).for_each(JoinHandle::abort);
    tokio::task::yield_now().await;
    guard.release().await.unwrap();
    for (position, task) in tasks.into_iter().enumerate() {
        assert_eq!(within(task).await.is_ok(), position % 2 == 0);
    }
    assert_eq!(*served.lock().unwrap(), [0, 2, 4, 6, 8]);
}

async fn waiters_outlive_a_forgotten_guard(site: Site) {
    let (manager, served) = (site.manager(), Served::default());
    sleepy(&manager).ttl(millis(300)).await.unwrap().forget();
    for task in queue(&manager, 5, &served).await {
        within(task).await.unwrap();
    }
    assert_eq!(*served.lock().unwrap(), [0, 1, 2, 3, 4]);
}

async fn a_waiting_owner_does_not_stand_behind_those_who_wait_for_it(site: Site) {
    let manager = site.manager();
    let owner = redlatch::OwnerToken::new("worker-7").unwrap();
    let guard = sleepy(&manager).owner(owner.clone()).await.unwrap();
    let waiter = tokio::spawn(sleepy(&manager).acquire());
    tokio::time::sleep(millis(20)).await;
    let again = within(sleepy(&manager).owner(owner).acquire_or_extend()).await.unwrap();
    assert_eq!(again.fencing_token(), guard.fencing_token());
    waiter.abort();
}

async fn a_request_that_never_retries_does_not_queue(site: Site) {
    let manager = site.manager();
    let _guard = sleepy(&manager).await.unwrap();
    let waiter = tokio::spawn(sleepy(&manager).acquire());
    tokio::time::sleep(millis(20)).await;
    let error = within(sleepy(&manager).retry(Retry::never()).acquire()).await.unwrap_err();
    assert!(error.is_contended(), "{error:?}");
    waiter.abort();
}

async fn standing_in_the_queue_is_no_attempt(site: Site) {
    let (holder, manager) = (site.manager(), site.manager());
    let guard = sleepy(&holder).await.unwrap();
    let head = tokio::spawn(sleepy(&manager).acquire());
    tokio::time::sleep(millis(20)).await;
    let once = Retry::jittered(millis(1), millis(0)).max_retries(1);
    let queued = tokio::spawn(sleepy(&manager).retry(once).acquire());
    tokio::time::sleep(millis(50)).await;
    assert!(!queued.is_finished(), "it stands in the queue");
    guard.release().await.unwrap();
    within(head).await.unwrap().unwrap().release().await.unwrap();
    let _guard = within(queued).await.unwrap().unwrap();
}

async fn many_waiters_are_all_served_once(site: Site) {
    let (manager, served) = (site.manager(), Served::default());
    let guard = sleepy(&manager).await.unwrap();
    let tasks = queue(&manager, 300, &served).await;
    drop(guard);
    for task in tasks {
        within(task).await.unwrap();
    }
    assert_eq!(served.lock().unwrap().len(), 300);
}

/// Each is released by another manager than that of those who wait, so that a notice has to wake them. Twenty looks by
/// themselves would take too long.
async fn each_of_many_releases_of_unfenced_locks_wakes_a_waiter(site: Site) {
    let (holder, manager) = (site.manager(), site.manager());
    let guard = sleepy(&holder).unfenced().await.unwrap();
    let (served, mut tickets) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..20 {
        let (request, served) = (sleepy(&manager).unfenced(), served.clone());
        tokio::spawn(async move {
            let guard = request.acquire().await.unwrap();
            served.send(guard.into_ticket()).unwrap();
        });
    }
    drop(served);
    let hand_on = async {
        let (mut guard, mut times) = (guard, 0);
        loop {
            guard.release().await.unwrap();
            let Some(ticket) = tickets.recv().await else { break times };
            guard = holder.adopt(ticket).await.unwrap();
            times += 1;
        }
    };
    assert_eq!(within(hand_on).await, 20);
}

async fn a_release_elsewhere_wakes_a_waiter_whose_retry_delay_is_long(site: Site) {
    let (holder, manager) = (site.manager(), site.manager());
    for _ in 0..20 {
        let guard = sleepy(&holder).await.unwrap();
        let waiter = tokio::spawn(sleepy(&manager).acquire());
        tokio::time::sleep(millis(5)).await;
        guard.release().await.unwrap();
        within(waiter).await.unwrap().unwrap().release().await.unwrap();
    }
}

async fn a_waiter_costs_next_to_nothing(site: Site) {
    let (holder, manager) = (site.manager(), site.manager());
    let guard = sleepy(&holder).await.unwrap();
    let mut waiters = JoinSet::new();
    for _ in 0..100 {
        waiters.spawn(manager.lock("k").acquire());
    }
    eventually("the waiters listen", async || subscribers(&site) >= site.all().len()).await;
    site.all().iter().for_each(Server::reset_calls);
    tokio::time::sleep(secs(2)).await;
    let looks: u64 = site.all().iter().map(Server::scripts).sum();
    assert!(looks <= 4 * site.all().len() as u64, "{looks} looks in two seconds");
    waiters.shutdown().await;
    guard.release().await.unwrap();
}

/// The channels that somebody listens to, over all servers.
fn subscribers(site: &Site) -> usize {
    let channels = |server: &Server| server.query::<Vec<String>>(&["PUBSUB", "CHANNELS"]).len();
    site.all().iter().map(channels).sum()
}

async fn a_lost_notice_does_not_leave_a_waiter_asleep(site: Site) {
    let (holder, manager) = (site.manager(), site.manager());
    for _ in 0..3 {
        let guard = sleepy(&holder).await.unwrap();
        let waiter = tokio::spawn(sleepy(&manager).acquire());
        eventually("it listens", async || subscribers(&site) == site.all().len()).await;
        for server in site.all() {
            server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }
        guard.release().await.unwrap();
        within(waiter).await.unwrap().unwrap().release().await.unwrap();
    }
}

async fn a_foreign_release_is_found_out(site: Site) {
    for server in site.all() {
        assert!(server.foreign_lock("k", "foreign", secs(600)));
    }
    let waiter = tokio::spawn(sleepy(&site.manager()).acquire());
    eventually("it listens", async || subscribers(&site) == site.all().len()).await;
    site.all().iter().for_each(|server| server.del("k"));
    let _guard = within(waiter).await.unwrap().unwrap();
}

async fn a_user_without_push_rights_is_served(site: Site) {
    served_as_user(&site, &["~*", "+@all", "-hello", "-subscribe"]).await;
}

async fn a_user_without_channel_rights_is_served(site: Site) {
    served_as_user(&site, &["~*", "+@all", "resetchannels"]).await;
}

/// Holder and waiter are users of these rules.
async fn served_as_user(site: &Site, rules: &[&str]) {
    let urls: Vec<_> = site.all().iter().map(|server| server.user("u", "pw", rules)).collect();
    let manager = || LockManager::quorum(&urls).build().unwrap();
    let guard = manager().lock("k").ttl(secs(600)).await.unwrap();
    let waiter = tokio::spawn(manager().lock("k").acquire());
    tokio::time::sleep(millis(50)).await;
    guard.release().await.unwrap();
    within(waiter).await.unwrap().unwrap().release().await.unwrap();
}

async fn a_pool_without_notices_is_served(site: Site) {
    let manager = || LockManager::quorum(site.all().iter().map(pooled)).build().unwrap();
    let guard = manager().lock("k").ttl(secs(600)).await.unwrap();
    let waiter = tokio::spawn(manager().lock("k").acquire());
    tokio::time::sleep(millis(50)).await;
    guard.release().await.unwrap();
    within(waiter).await.unwrap().unwrap().release().await.unwrap();
    assert_eq!(subscribers(&site), 0);
}

async fn a_pool_with_notices_hears_them(site: Site) {
    let hearing = |server: &Server| pooled(server).with_notices(server.url()).unwrap();
    let manager = || LockManager::quorum(site.all().iter().map(hearing)).build().unwrap();
    let guard = sleepy(&manager()).await.unwrap();
    let waiter = tokio::spawn(sleepy(&manager()).acquire());
    eventually("it listens", async || subscribers(&site) == site.all().len()).await;
    guard.release().await.unwrap();
    let _guard = within(waiter).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_release_in_another_database_is_none() {
    let server = Server::start();
    let there = |database: u8| Node::open(format!("{}/{database}", server.url())).unwrap();
    assert_keep_to_themselves(&server, &there(0), &there(1)).await;
}

/// Where notices are heard says nothing of where the locks are.
#[tokio::test]
async fn a_release_in_another_database_is_none_to_pools_either() {
    let server = Server::start();
    let there = |database: u8| {
        let pool = pooled_at(&format!("{}/{database}", server.url()));
        pool.with_notices(format!("{}/5", server.url())).unwrap()
    };
    assert_keep_to_themselves(&server, &there(0), &there(1)).await;
}

/// Releases there use up no retry of who waits here, and one here wakes it.
async fn assert_keep_to_themselves(server: &Server, there: &Node, here: &Node) {
    let manager = |node: &Node| LockManager::single(node.clone()).build().unwrap();
    let guard = sleepy(&manager(here)).await.unwrap();
    let few = Retry::jittered(secs(500), millis(0)).max_retries(2);
    let waiter = tokio::spawn(sleepy(&manager(here)).retry(few).acquire());
    eventually("it listens", async || {
        !server.query::<Vec<String>>(&["PUBSUB", "CHANNELS"]).is_empty()
    })
    .await;
    let other = manager(there);
    for _ in 0..20 {
        sleepy(&other).await.unwrap().release().await.unwrap();
    }
    guard.release().await.unwrap();
    within(waiter).await.unwrap().unwrap().release().await.unwrap();
}

fn pooled(server: &Server) -> Node {
    pooled_at(&server.url())
}

fn pooled_at(url: &str) -> Node {
    let config = deadpool_redis::Config::from_url(url);
    config.create_pool(None).expect("the URL is valid").into()
}

async fn the_push_connection_closes_when_idle(site: Site) {
    let (holder, manager) = (site.manager(), site.manager());
    let guard = sleepy(&holder).await.unwrap();
    let waiter = tokio::spawn(sleepy(&manager).acquire());
    eventually("it listens", async || subscribers(&site) == site.all().len()).await;
    guard.release().await.unwrap();
    let guard = within(waiter).await.unwrap().unwrap();
    eventually("the channel is let go", async || subscribers(&site) == 0).await;
    let pushes = |server: &Server| {
        let list: String = server.query(&["CLIENT", "LIST"]);
        list.lines().filter(|client| client.contains("resp=3")).count()
    };
    eventually("the connection is closed", async || {
        site.all().iter().map(pushes).sum::<usize>() == 0
    })
    .await;
    guard.release().await.unwrap();
}

async fn waiting_survives_a_restart_of_the_servers(site: Site) {
    let (holder, manager) = (site.manager(), site.manager());
    let _guard = sleepy(&holder).await.unwrap();
    let waiter = tokio::spawn(manager.lock("k").ttl(secs(600)).acquire());
    eventually("it listens", async || subscribers(&site) == site.all().len()).await;
    site.all().iter().for_each(Server::restart);
    let _guard = within(waiter).await.unwrap().unwrap();
}

async fn a_look_that_hangs_ends_with_the_wait_timeout(site: Site) {
    let _held = site.manager().lock("k").await.unwrap();
    let (proxies, builder) = site.proxied();
    let manager = builder.node_timeout(BOUND * 2).build().unwrap();
    let often = Retry::jittered(millis(5), millis(5)).max_retries(u32::MAX);
    site.all().iter().for_each(Server::reset_calls);
    let request = manager.lock("k").retry(often).wait_timeout(secs(3));
    let hang = async {
        eventually("it has looked again", async || {
            site.all().iter().map(Server::scripts).sum::<u64>() > 2 * site.all().len() as u64
        })
        .await;
        proxies.iter().for_each(Proxy::swallow_requests);
    };
    let (acquired, ()) = within(join(request.acquire(), hang)).await;
    assert!(acquired.unwrap_err().is_timeout());
}

#[tokio::test]
async fn a_thousand_waiters_with_a_hung_node_are_all_served_once() {
    let (site, served) = (Site::servers(5), Served::default());
    let manager = site.builder().node_timeout(millis(100)).build().unwrap();
    let guard = sleepy(&manager).await.unwrap();
    let tasks = queue(&manager, 1000, &served).await;
    site.all()[2].pause();
    guard.release().await.unwrap();
    for task in tasks {
        within(task).await.unwrap();
    }
    assert_eq!(*served.lock().unwrap(), (0..1000).collect::<Vec<_>>());
    site.all()[2].resume();
}

#[tokio::test]
async fn processes_take_turns() {
    let site = Site::servers(1);
    let counts: Vec<_> = (0..4).map(|_| Arc::new(Mutex::new(0))).collect();
    let mut tasks = JoinSet::new();
    for count in &counts {
        let manager = site.manager();
        for _ in 0..5 {
            tasks.spawn(take_turns(manager.clone(), Arc::clone(count)));
        }
    }
    within(tasks.join_all()).await;
    for count in &counts {
        assert_eq!(*count.lock().unwrap(), 5 * 20);
    }
}

async fn take_turns(manager: LockManager, count: Arc<Mutex<u32>>) {
    for _ in 0..20 {
        let guard = sleepy(&manager).await.unwrap();
        *count.lock().unwrap() += 1;
        guard.release().await.unwrap();
    }
}
