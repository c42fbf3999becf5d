//! Connections that die without a word, as those do that a proxy or NAT has forgotten: what comes after an idle
//! time works in the same call, and in the same order as ever.

use std::{future::Future, time::Duration};

use redlatch::{LockManager, LockManagerBuilder};

use crate::support::{
    Events, Proxy, Server, eventually, let_pass, millis, poll_times, secs, within,
};

/// Longer than a line is trusted without a sign.
const IDLE: Duration = secs(300);

/// Servers behind proxies that can forget.
struct Site {
    servers: Vec<Server>,
    proxies: Vec<Proxy>,
}

impl Site {
    fn of(nodes: usize) -> Self {
        let servers = Server::group(nodes);
        let proxies = servers.iter().map(Proxy::start).collect();
        Self { servers, proxies }
    }

    fn builder(&self) -> LockManagerBuilder {
        LockManager::quorum(self.proxies.iter().map(Proxy::url))
    }

    /// A manager whose connections stand, patient enough for a loaded machine.
    async fn manager(&self) -> LockManager {
        let manager = self.builder().node_timeout(secs(10)).build().unwrap();
        connected(&manager).await;
        manager
    }

    /// An idle time goes by, in which all connections are forgotten.
    async fn is_forgotten(&self, manager: &LockManager) {
        comes_to_rest(manager).await;
        self.proxies.iter().for_each(Proxy::forget);
        let_pass(IDLE).await;
    }

    fn connections(&self) -> usize {
        self.proxies.iter().map(Proxy::accepted).sum()
    }

    /// Waits until all have the lock: a round is over once its vote is certain.
    async fn all_have_it(&self) {
        eventually("all have the lock", async || {
            self.servers.iter().all(|server| !server.lock_keys().is_empty())
        })
        .await;
    }

    async fn empties(&self) {
        eventually("no lock is left", async || {
            self.servers.iter().all(|server| server.lock_keys().is_empty())
        })
        .await;
    }
}

/// Waits until the slowest server has answered too, or will not: what it says after the idle time would make its
/// line look alive, and a proof of life that the idle time cuts short fails.
async fn comes_to_rest(manager: &LockManager) {
    let _answers = manager.ping().await;
}

/// Waits until all connections stand and all servers know the scripts.
async fn connected(manager: &LockManager) {
    eventually("all connections stand", async || {
        manager.ping().await.iter().all(|node| node.round_trip().is_ok())
    })
    .await;
    eventually("a lock can be had", async || match manager.lock("k").try_acquire().await {
        Ok(guard) => guard.release().await.is_ok(),
        Err(_) => false,
    })
    .await;
}

/// Tests each fact on one server and on three.
macro_rules! behind_proxies {
    ($($fact:ident),+ $(,)?) => {$(
        mod $fact {
            #[tokio::test]
            async fn on_one_server() {
                super::$fact(super::Site::of(1)).await;
            }

            #[tokio::test]
            async fn on_three_servers() {
                super::$fact(super::Site::of(3)).await;
            }
        }
    )+};
}

behind_proxies!(
    a_lock_tried_for_now_and_then_is_taken_each_time,
    acquire_needs_one_attempt_after_an_idle_time,
    an_extend_works_after_an_idle_time,
    a_release_works_after_an_idle_time,
    a_drop_works_after_an_idle_time,
    a_lock_dropped_after_an_idle_time_can_be_taken_at_once,
    a_release_that_nobody_polls_holds_nobody_up_for_long,
    renewals_go_on_over_forgotten_connections,
    what_was_under_way_on_a_forgotten_connection_is_undone,
    a_connection_that_answers_is_kept,
    many_calls_at_once_replace_a_forgotten_connection_once,
    a_silent_server_is_unavailable_after_an_idle_time,
);

async fn a_lock_tried_for_now_and_then_is_taken_each_time(site: Site) {
    let manager = site.manager().await;
    for _ in 0..3 {
        site.is_forgotten(&manager).await;
        let guard = within(manager.lock("k").ttl(secs(3600)).try_acquire()).await.unwrap();
        within(guard.release()).await.unwrap();
        site.empties().await;
    }
}

async fn acquire_needs_one_attempt_after_an_idle_time(site: Site) {
    let manager = site.manager().await;
    site.is_forgotten(&manager).await;
    let retry = redlatch::Retry::never();
    within(manager.lock("k").retry(retry).acquire()).await.unwrap().release().await.unwrap();
}

async fn an_extend_works_after_an_idle_time(site: Site) {
    let manager = site.manager().await;
    let guard = manager.lock("k").ttl(secs(3600)).await.unwrap();
    site.all_have_it().await;
    site.is_forgotten(&manager).await;
    within(guard.try_extend(secs(7200))).await.unwrap();
    eventually("all have it extended", async || {
        site.servers.iter().all(|server| server.pttl("k") > Some(secs(7000)))
    })
    .await;
    guard.release().await.unwrap();
    site.empties().await;
}

async fn a_release_works_after_an_idle_time(site: Site) {
    let manager = site.builder().node_timeout(secs(10)).release_timeout(secs(20)).build().unwrap();
    connected(&manager).await;
    let guard = manager.lock("k").ttl(secs(3600)).await.unwrap();
    site.is_forgotten(&manager).await;
    within(guard.release()).await.unwrap();
    site.empties().await;
}

async fn a_drop_works_after_an_idle_time(site: Site) {
    let manager = site.manager().await;
    let guard = manager.lock("k").ttl(secs(3600)).await.unwrap();
    site.is_forgotten(&manager).await;
    drop(guard);
    site.empties().await;
}

/// Its release waits for the proof that the connection is alive, and what is asked meanwhile does not overtake it.
async fn a_lock_dropped_after_an_idle_time_can_be_taken_at_once(site: Site) {
    let manager = site.manager().await;
    for _ in 0..20 {
        let guard = within(manager.lock("k").ttl(secs(3600)).try_acquire()).await.unwrap();
        comes_to_rest(&manager).await;
        let_pass(IDLE).await;
        drop(guard);
        drop(within(manager.lock("k").ttl(secs(3600)).try_acquire()).await.unwrap());
    }
}

/// It takes its place before others that come after it, but it may be left unpolled.
async fn a_release_that_nobody_polls_holds_nobody_up_for_long(site: Site) {
    let manager = site.builder().node_timeout(secs(4)).build().unwrap();
    connected(&manager).await;
    let guard = within(manager.lock("k").ttl(secs(3600)).try_acquire()).await.unwrap();
    comes_to_rest(&manager).await;
    let_pass(IDLE).await;
    let mut release = std::pin::pin!(guard.release());
    let once = std::future::poll_fn(|cx| std::task::Poll::Ready(release.as_mut().poll(cx))).await;
    assert!(once.is_pending());
    let other = within(manager.lock("other").ttl(secs(3600)).try_acquire()).await.unwrap();
    within(other.extend(secs(7200))).await.unwrap();
    within(release).await.unwrap();
}

async fn renewals_go_on_over_forgotten_connections(site: Site) {
    let (manager, events) = (site.manager().await, Events::default());
    let request = manager.lock("k").ttl(secs(600)).auto_renew_every(secs(20));
    let guard = request.on_renewal(events.listener()).await.unwrap();
    for _ in 0..3 {
        let renewals = events.renewals();
        site.proxies.iter().for_each(Proxy::forget);
        let_pass(secs(20)).await;
        eventually("it is renewed", async || events.renewals() > renewals).await;
    }
    assert_eq!(events.failures(), 0);
    within(guard.release()).await.unwrap();
    site.empties().await;
}

/// An acquire whose answer was forgotten on the way is given up; the locks that it took are released by way of
/// new connections.
async fn what_was_under_way_on_a_forgotten_connection_is_undone(site: Site) {
    let manager = site.manager().await;
    site.proxies.iter().for_each(Proxy::hold_replies);
    let acquire = manager.lock("k").ttl(secs(3600)).acquire();
    poll_times(1, async {
        tokio::pin!(acquire);
        tokio::select! {
            biased;
            _ = &mut acquire => unreachable!("no answer came"),
            () = site.all_have_it() => {}
        }
    })
    .await;
    site.proxies.iter().for_each(Proxy::forget);
    let_pass(IDLE).await;
    site.proxies.iter().for_each(Proxy::heal);
    site.empties().await;
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
}

async fn a_connection_that_answers_is_kept(site: Site) {
    let manager = site.manager().await;
    let connections = site.connections();
    for _ in 0..3 {
        comes_to_rest(&manager).await;
        let_pass(IDLE).await;
        within(manager.lock("k").try_acquire()).await.unwrap().release().await.unwrap();
    }
    assert_eq!(site.connections(), connections);
}

async fn many_calls_at_once_replace_a_forgotten_connection_once(site: Site) {
    let manager = site.manager().await;
    let connections = site.connections();
    site.is_forgotten(&manager).await;
    let tries: Vec<_> = (0..50)
        .map(|n| tokio::spawn(manager.lock(format!("k{n}")).ttl(secs(600)).try_acquire()))
        .collect();
    for tried in tries {
        within(tried).await.unwrap().unwrap().release().await.unwrap();
    }
    site.empties().await;
    let replaced = connections + site.proxies.len();
    // Nobody waits for the slowest of three servers.
    eventually("each is replaced, and once", async || site.connections() == replaced).await;
}

async fn a_silent_server_is_unavailable_after_an_idle_time(site: Site) {
    let manager = site.builder().node_timeout(millis(200)).build().unwrap();
    connected(&manager).await;
    comes_to_rest(&manager).await;
    let_pass(IDLE).await;
    let connections = site.connections();
    site.servers.iter().for_each(Server::pause);
    let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
    site.servers.iter().for_each(Server::resume);
    assert!(error.is_unavailable(), "{error}");
    assert!(site.connections() <= connections + site.proxies.len(), "one each is tried");
    eventually("it works again", async || manager.lock("k").try_acquire().await.is_ok()).await;
}

#[tokio::test]
async fn a_short_node_timeout_is_time_enough() {
    assert_replaced_within(millis(50), millis(0)).await;
}

#[tokio::test]
async fn a_distant_server_is_reached_within_the_node_timeout() {
    assert_replaced_within(millis(500), millis(100)).await;
}

/// A forgotten connection is replaced within the node timeout, from a server so far away. On a busy machine no
/// timeout is time enough each time, so that it is tried until it has succeeded three times in a row: now and then a
/// connection is replaced because calls have timed out.
async fn assert_replaced_within(node_timeout: Duration, distance: Duration) {
    let site = Site::of(1);
    let manager = site.builder().node_timeout(node_timeout).build().unwrap();
    connected(&manager).await;
    site.proxies[0].delay_replies(distance);
    let mut in_a_row = 0;
    for _ in 0..200 {
        site.is_forgotten(&manager).await;
        let tried = within(manager.lock("k").ttl(secs(3600)).try_acquire()).await;
        in_a_row = if tried.is_ok() { in_a_row + 1 } else { 0 };
        drop(tried);
        site.empties().await;
        if in_a_row == 3 {
            return;
        }
    }
    panic!("never three in a row in time");
}

/// A server that takes longer over its answers than a line is given to prove alive keeps its line.
#[tokio::test]
async fn a_slow_server_keeps_its_connection() {
    let site = Site::of(1);
    let manager = site.builder().node_timeout(secs(20)).build().unwrap();
    connected(&manager).await;
    comes_to_rest(&manager).await;
    let line = who_sent_last(&site.servers[0], "ping");
    assert_eq!(line.len(), 1, "{line:?}");
    site.proxies[0].delay_replies(millis(1500));
    let_pass(IDLE).await;
    let guard = within(manager.lock("k").ttl(secs(3600)).try_acquire()).await.unwrap();
    assert_eq!(who_sent_last(&site.servers[0], "evalsha"), line);
    drop(guard);
}

/// The connections whose last command was this.
fn who_sent_last(server: &Server, command: &str) -> Vec<String> {
    let clients: String = server.query(&["CLIENT", "LIST", "TYPE", "normal"]);
    let sent = format!(" cmd={command} ");
    let ids = clients.lines().filter(|client| client.contains(&sent));
    ids.filter_map(|client| client.split(' ').next()).map(str::to_owned).collect()
}
