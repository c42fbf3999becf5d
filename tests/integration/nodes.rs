//! Nodes: what they are made from, what they are called, and how they reach their servers.

use redlatch::deadpool_redis::redis::cmd;
use redlatch::deadpool_redis::{Config, Connection, Pool, PoolConfig, Runtime};
use redlatch::{Error, LockManager, LockManagerBuilder, Node};

use crate::support::{LASTING, Proxy, Server, Site, chain, eventually, on_servers, secs, within};

on_servers!(
    a_pool_of_one_connection_serves_a_manager,
    a_pool_stays_usable_beside_a_manager,
    a_manager_does_not_notice_its_pools_other_users,
    a_drained_pool_does_no_harm,
    a_closed_pool_does_no_harm,
    a_manager_takes_nothing_out_of_its_pool,
    managers_over_one_pool_exclude_each_other,
    pools_and_urls_exclude_each_other,
    a_pool_reconnects,
    a_pools_login_is_used,
    a_pools_database_is_used,
    a_pool_with_a_wrong_login_is_told,
    resp3_is_spoken,
    resp3_is_spoken_by_a_pool,
    the_valkey_scheme_is_understood,
    the_database_of_the_url_is_used,
    databases_are_apart,
    the_login_of_the_url_is_used,
    a_password_without_a_user_is_used,
    odd_characters_of_a_login_are_decoded,
    a_pools_borrower_cannot_move_the_lane_to_another_database,
    a_pool_in_full_use_still_locks,
);

async fn a_pool_of_one_connection_serves_a_manager(site: Site) {
    let manager = pooled(&site).build().unwrap();
    assert_works(&manager).await;
    let (one, other) = (manager.lock("one"), manager.lock("other"));
    let (one, other) = within(async { tokio::join!(one.acquire(), other.acquire()) }).await;
    drop((one.unwrap(), other.unwrap()));
    site.empties("one").await;
}

async fn a_pool_stays_usable_beside_a_manager(site: Site) {
    let pools: Vec<_> = site.all().iter().map(pool).collect();
    let manager = patient(LockManager::quorum(pools.clone())).build().unwrap();
    for _ in 0..3 {
        assert_works(&manager).await;
        for pool in &pools {
            assert_eq!(ping(pool).await, "PONG");
        }
    }
}

async fn a_manager_does_not_notice_its_pools_other_users(site: Site) {
    let pools: Vec<_> = site.all().iter().map(pool).collect();
    let manager = patient(LockManager::quorum(pools.clone())).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    for pool in &pools {
        let mut connection = within(pool.get()).await.unwrap();
        let moved: String = query(&mut connection, &["SELECT", "5"]).await;
        assert_eq!(moved, "OK");
        // A transaction left open would swallow every command that follows on the same connection.
        let opened: String = query(&mut connection, &["MULTI"]).await;
        assert_eq!(opened, "OK");
    }
    guard.extend(secs(900)).await.unwrap();
    let extended = site.all().iter().filter(|server| server.pttl("k") > Some(secs(700)));
    assert!(extended.count() > site.all().len() / 2, "the lock is where it was");
    guard.release().await.unwrap();
}

async fn a_drained_pool_does_no_harm(site: Site) {
    let pools: Vec<_> = site.all().iter().map(pool).collect();
    let manager = patient(LockManager::quorum(pools.clone())).build().unwrap();
    let mut borrowed = Vec::new();
    for pool in &pools {
        borrowed.push(within(pool.get()).await.unwrap());
    }
    assert_works(&manager).await;
    drop(borrowed);
}

async fn a_manager_takes_nothing_out_of_its_pool(site: Site) {
    let pools: Vec<_> = site.all().iter().map(pool).collect();
    let manager = patient(LockManager::quorum(pools.clone())).build().unwrap();
    assert_works(&manager).await;
    for pool in &pools {
        let status = pool.status();
        assert_eq!((status.max_size, status.size, status.waiting), (1, 0, 0), "{status:?}");
    }
}

async fn a_closed_pool_does_no_harm(site: Site) {
    let pools: Vec<_> = site.all().iter().map(pool).collect();
    let manager = patient(LockManager::quorum(pools.clone())).build().unwrap();
    pools.iter().for_each(Pool::close);
    assert_works(&manager).await;
}

async fn managers_over_one_pool_exclude_each_other(site: Site) {
    let pools: Vec<_> = site.all().iter().map(pool).collect();
    let manager = || patient(LockManager::quorum(pools.clone())).build().unwrap();
    let (one, other) = (manager(), manager());
    let guard = one.lock("k").await.unwrap();
    let error = other.lock("k").try_acquire().await.unwrap_err();
    assert!(error.is_contended(), "{error:?}");
    guard.release().await.unwrap();
    drop(other.lock("k").try_acquire().await.unwrap());
}

async fn pools_and_urls_exclude_each_other(site: Site) {
    let pooled = pooled(&site).build().unwrap();
    let guard = pooled.lock("k").await.unwrap();
    assert!(site.manager().lock("k").try_acquire().await.unwrap_err().is_contended());
    guard.release().await.unwrap();
    let _guard = site.manager().lock("k").try_acquire().await.unwrap();
    assert!(pooled.lock("k").try_acquire().await.unwrap_err().is_contended());
}

async fn a_pool_reconnects(site: Site) {
    let manager = pooled(&site).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    for server in site.all() {
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
    within(guard.extend(secs(900))).await.unwrap();
    within(guard.release()).await.unwrap();
    site.empties("k").await;
}

async fn a_pools_login_is_used(site: Site) {
    let pools = site.all().iter().map(|server| pool_of(&login(server, "right")));
    assert_works(&patient(LockManager::quorum(pools)).build().unwrap()).await;
}

async fn a_pools_database_is_used(site: Site) {
    let pools = site.all().iter().map(|server| pool_of(&format!("{}/3", server.url())));
    let manager = patient(LockManager::quorum(pools)).build().unwrap();
    assert_in_database_3(&site, &manager).await;
}

async fn a_pool_with_a_wrong_login_is_told(site: Site) {
    let pools =
        site.all().iter().map(|server| pool_of(&login(server, "right").replace("right", "wrong")));
    let manager = patient(LockManager::quorum(pools)).build().unwrap();
    let error = within(manager.lock("k").acquire()).await.unwrap_err();
    assert_named(&site, &error);
    let causes = chain(&error.node_errors()[0]).join(": ");
    assert!(causes.contains("authentication failed"), "{causes}");
}

async fn resp3_is_spoken(site: Site) {
    let urls = site.all().iter().map(|server| format!("{}?protocol=resp3", server.url()));
    let manager = patient(LockManager::quorum(urls)).build().unwrap();
    assert_works(&manager).await;
    assert_resp3(&site);
}

async fn resp3_is_spoken_by_a_pool(site: Site) {
    let pools =
        site.all().iter().map(|server| pool_of(&format!("{}?protocol=resp3", server.url())));
    assert_works(&patient(LockManager::quorum(pools)).build().unwrap()).await;
    assert_resp3(&site);
}

async fn the_valkey_scheme_is_understood(site: Site) {
    let urls = site.all().iter().map(|server| server.url().replace("redis:", "valkey:"));
    assert_works(&patient(LockManager::quorum(urls)).build().unwrap()).await;
}

async fn the_database_of_the_url_is_used(site: Site) {
    let urls = site.all().iter().map(|server| format!("{}/3", server.url()));
    let manager = patient(LockManager::quorum(urls)).build().unwrap();
    assert_in_database_3(&site, &manager).await;
}

async fn databases_are_apart(site: Site) {
    let urls = site.all().iter().map(|server| format!("{}/3", server.url()));
    let manager = patient(LockManager::quorum(urls)).build().unwrap();
    let _there = manager.lock("k").try_acquire().await.unwrap();
    let _here = site.manager().lock("k").try_acquire().await.unwrap();
}

async fn the_login_of_the_url_is_used(site: Site) {
    let urls: Vec<_> = site.all().iter().map(|server| login(server, "right")).collect();
    let manager = patient(LockManager::quorum(&urls)).build().unwrap();
    assert_works(&manager).await;
    for server in site.all() {
        let clients: String = server.query(&["CLIENT", "LIST"]);
        assert!(clients.contains("user=ann"), "{clients}");
    }
}

async fn a_password_without_a_user_is_used(site: Site) {
    for server in site.all() {
        server.command(&["CONFIG", "SET", "requirepass", "right"]);
    }
    let urls = site.all().iter().map(|server| format!("redis://:right@{}", server.name()));
    assert_works(&patient(LockManager::quorum(urls)).build().unwrap()).await;
}

async fn odd_characters_of_a_login_are_decoded(site: Site) {
    let urls = site.all().iter().map(|server| {
        login(server, "p@ss:/#%?ü").replace("p@ss:/#%?ü", "p%40ss%3A%2F%23%25%3F%C3%BC")
    });
    assert_works(&patient(LockManager::quorum(urls)).build().unwrap()).await;
}

#[tokio::test]
async fn a_quorum_may_be_mixed_of_pools_urls_and_memory() {
    let servers = Server::group(3);
    let nodes = || {
        [
            Node::from(pool(&servers[0])),
            Node::open(servers[1].url()).unwrap(),
            Node::open(format!("{}/2", servers[2].url())).unwrap(),
        ]
    };
    let with_memory = nodes().into_iter().chain([Node::in_memory(), Node::in_memory()]);
    assert_works(&patient(LockManager::quorum(nodes())).build().unwrap()).await;
    assert_works(&patient(LockManager::quorum(with_memory)).build().unwrap()).await;
}

#[tokio::test]
async fn a_socket_reaches_its_server() {
    let server = with_socket();
    let url = format!("redis+unix://{}", server.path("s"));
    for url in [url.clone(), url.replace("redis+unix", "unix"), format!("{url}?db=3")] {
        assert_works(&patient(LockManager::single(&url)).build().unwrap()).await;
    }
    assert_works(&patient(LockManager::single(pool_of(&url))).build().unwrap()).await;
    let clients: String = server.query(&["CLIENT", "LIST"]);
    assert!(clients.contains(&server.path("s")), "they came by the socket: {clients}");
}

#[tokio::test]
async fn a_socket_is_named_by_its_path() {
    let server = with_socket();
    let path = server.path("s");
    let url = format!("redis+unix://{path}?user=ann&pass=hunter2");
    assert_eq!(Node::open(&url).unwrap().name(), path);
    assert_eq!(Node::from(pool_of(&url)).name(), path);
    let manager = patient(LockManager::single(&url)).build().unwrap();
    let error = within(manager.lock("k").acquire()).await.unwrap_err();
    assert_eq!(error.node_errors()[0].node(), path, "the login is wrong there");
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_told() {
    let server = with_socket();
    let path = server.path("nothing");
    let manager = LockManager::single(format!("redis+unix://{path}")).build().unwrap();
    let error = within(manager.lock("k").acquire()).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains(&path), "{error}");
}

#[test]
fn a_node_is_named_by_host_and_port() {
    for (url, name) in [
        ("redis://example.org:7001", "example.org:7001"),
        ("redis://example.org", "example.org:6379"),
        ("redis://example.org/3", "example.org:6379"),
        ("redis://ann:hunter2@example.org:7001/3", "example.org:7001"),
        ("redis://:hunter2@127.0.0.1", "127.0.0.1:6379"),
        ("valkey://127.0.0.1:7001?protocol=resp3", "127.0.0.1:7001"),
    ] {
        assert_eq!(Node::open(url).unwrap().name(), name);
        assert_eq!(Node::from(pool_of(url)).name(), name);
    }
}

#[test]
fn notices_do_not_change_the_name() {
    let node = Node::open("redis://a:7001").unwrap();
    assert_eq!(node.with_notices("redis://b:7002").unwrap().name(), "a:7001");
}

#[test]
fn nodes_in_memory_have_names_of_their_own() {
    let (one, other) = (Node::in_memory(), Node::in_memory());
    assert_ne!(one.name(), other.name());
    assert_eq!(one.clone().name(), one.name());
}

#[tokio::test]
async fn anything_that_makes_a_node_makes_a_manager() {
    let server = Server::start();
    let url = server.url();
    for builder in [
        LockManager::single(url.as_str()),
        LockManager::single(url.clone()),
        LockManager::single(&url),
        LockManager::single(Node::open(&url).unwrap()),
        LockManager::single(pool(&server)),
        LockManager::single(Node::from(pool(&server))),
        LockManager::quorum([url.as_str()]),
        LockManager::quorum([&url]),
        LockManager::quorum(vec![url.clone()]),
        LockManager::quorum(Some(pool(&server))),
    ] {
        assert_works(&patient(builder).build().unwrap()).await;
    }
}

#[tokio::test]
async fn clones_of_a_node_in_memory_share_one_store() {
    let node = Node::in_memory();
    let (one, other) = (manager_of(node.clone()), manager_of(node));
    let guard = one.lock("k").await.unwrap();
    assert!(other.lock("k").try_acquire().await.unwrap_err().is_contended());
    guard.release().await.unwrap();
    drop(other.lock("k").try_acquire().await.unwrap());
}

#[tokio::test]
async fn separate_nodes_in_memory_share_nothing() {
    let _one = manager_of(Node::in_memory()).lock("k").await.unwrap();
    let _other = manager_of(Node::in_memory()).lock("k").try_acquire().await.unwrap();
    let _third = LockManager::in_memory().lock("k").try_acquire().await.unwrap();
}

#[tokio::test]
async fn a_store_in_memory_outlives_its_managers() {
    let node = Node::in_memory();
    let manager = manager_of(node.clone());
    manager.lock("k").ttl(secs(600)).await.unwrap().forget();
    drop(manager);
    assert!(manager_of(node).lock("k").try_acquire().await.unwrap_err().is_contended());
}

#[tokio::test]
async fn a_quorum_of_clones_in_memory_decides_by_its_majority() {
    let nodes = [Node::in_memory(), Node::in_memory(), Node::in_memory()];
    let all = LockManager::quorum(nodes.to_vec()).build().unwrap();
    let _minority = manager_of(nodes[0].clone()).lock("k").await.unwrap();
    let guard = all.lock("k").try_acquire().await.unwrap();
    guard.release().await.unwrap();
    let _majority = manager_of(nodes[1].clone()).lock("k").await.unwrap();
    assert!(all.lock("k").try_acquire().await.unwrap_err().is_contended());
}

/// Takes, looks at, extends and releases a lock.
async fn assert_works(manager: &LockManager) {
    let guard = within(manager.lock("k").ttl(secs(60)).acquire()).await.unwrap();
    let status = within(manager.inspect("k")).await.unwrap();
    assert_eq!(status.owner_token(), Some(guard.owner_token()));
    assert_eq!(status.fencing_token(), Some(guard.fencing_token()));
    let error: Error = within(manager.lock("k").try_acquire()).await.unwrap_err();
    assert!(error.is_contended(), "{error:?}");
    within(guard.extend(secs(600))).await.unwrap();
    within(guard.release()).await.unwrap();
    assert!(manager.ping().await.iter().all(|node| node.round_trip().is_ok()));
}

async fn assert_in_database_3(site: &Site, manager: &LockManager) {
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    for server in site.all() {
        assert_eq!(server.get("k"), None, "nothing lies in database 0");
        server.command(&["SELECT", "3"]);
    }
    eventually("every server has it in database 3", async || {
        site.all().iter().all(|server| server.get("k").is_some())
    })
    .await;
    guard.release().await.unwrap();
}

/// Every server was greeted as RESP3 demands.
fn assert_resp3(site: &Site) {
    for server in site.all() {
        assert!(server.calls("hello") >= 1);
    }
}

/// Only these servers are blamed.
fn assert_named(site: &Site, error: &Error) {
    assert!(matches!(error, Error::Unavailable { reached: 0, .. }), "{error:?}");
    assert!(error.node_errors().len() > site.all().len() / 2);
    for node in error.node_errors() {
        assert!(site.all().iter().any(|server| server.name() == node.node()), "{node:?}");
    }
}

fn manager_of(node: Node) -> LockManager {
    LockManager::single(node).build().unwrap()
}

fn patient(builder: LockManagerBuilder) -> LockManagerBuilder {
    builder.node_timeout(secs(10)).release_timeout(secs(10)).ttl(LASTING)
}

/// A builder over pools of one connection each.
#[tokio::test]
async fn a_proxy_that_hangs_up_at_client_is_used_without_client_info() {
    let server = Server::start();
    let proxy = Proxy::start(&server);
    proxy.hang_up_at_client();
    let as_usual = LockManager::single(proxy.url()).node_timeout(secs(10)).build().unwrap();
    assert!(within(as_usual.lock("k").try_acquire()).await.unwrap_err().is_unavailable());
    let by_url = LockManager::single(format!("{}?client_info=no", proxy.url()));
    let by_url = by_url.node_timeout(secs(10)).build().unwrap();
    within(by_url.lock("k").try_acquire()).await.unwrap().release().await.unwrap();
    let node = Node::open(proxy.url()).unwrap().without_client_info();
    let manager = LockManager::single(node).node_timeout(secs(10)).build().unwrap();
    let guard = within(manager.lock("k").ttl(secs(600)).try_acquire()).await.unwrap();
    // A waiter hears by a connection of its own.
    let waiter = tokio::spawn(manager.lock("k").acquire());
    eventually("it listens", async || server.calls("subscribe") > 0).await;
    guard.release().await.unwrap();
    within(waiter).await.unwrap().unwrap().release().await.unwrap();
}

/// Where the system tells of its connections, those of a manager are seen to wait for a sign of their peers.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn connections_find_out_when_their_peer_is_gone() {
    let server = Server::start();
    let manager = LockManager::single(server.url()).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    let waiter = tokio::spawn(manager.lock("k").acquire());
    eventually("the lane's and the waiter's connection are probed", async || {
        probed_within_a_minute(server.port()) >= 2
    })
    .await;
    drop(guard);
    drop(within(waiter).await.unwrap().unwrap());
}

/// How many connections to a port have a keepalive probe due within a minute.
#[cfg(target_os = "linux")]
fn probed_within_a_minute(port: u16) -> usize {
    let connections = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let remote = format!(":{port:04X}");
    let timers = connections.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[2].ends_with(&remote).then(|| fields[5].to_owned())
    });
    let due = |timer: String| {
        let hundredths = u64::from_str_radix(timer.strip_prefix("02:")?, 16).ok()?;
        (hundredths <= 6_000).then_some(())
    };
    timers.filter_map(due).count()
}

fn pooled(site: &Site) -> LockManagerBuilder {
    patient(LockManager::quorum(site.all().iter().map(pool)))
}

fn pool(server: &Server) -> Pool {
    pool_of(&server.url())
}

/// A pool of one connection.
fn pool_of(url: &str) -> Pool {
    let mut config = Config::from_url(url);
    config.pool = Some(PoolConfig::new(1));
    config.create_pool(Some(Runtime::Tokio1)).expect("the URL is good")
}

fn login(server: &Server, password: &str) -> String {
    server.user("ann", password, &["~*", "&*", "+@all"])
}

fn with_socket() -> Server {
    Server::start_with(&["--unixsocket", "{dir}/s"])
}

async fn ping(pool: &Pool) -> String {
    let mut connection = within(pool.get()).await.unwrap();
    query(&mut connection, &["PING"]).await
}

async fn query(connection: &mut Connection, args: &[&str]) -> String {
    let mut command = cmd(args[0]);
    for arg in &args[1..] {
        command.arg(arg);
    }
    within(command.query_async(connection)).await.unwrap()
}

async fn a_pools_borrower_cannot_move_the_lane_to_another_database(site: Site) {
    let mut pools = Vec::new();
    for server in site.all() {
        let pool = pool(server);
        let mut borrowed = pool.get().await.unwrap();
        let () = cmd("SELECT").arg(5).query_async(&mut borrowed).await.unwrap();
        drop(borrowed);
        pools.push(pool);
    }
    let manager = LockManager::quorum(pools).build().unwrap();
    let _guard = manager.lock("k").try_acquire().await.unwrap();
    assert!(site.manager().lock("k").try_acquire().await.unwrap_err().is_contended());
}

async fn a_pool_in_full_use_still_locks(site: Site) {
    let pools: Vec<_> = site.all().iter().map(pool).collect();
    let mut in_use = Vec::new();
    for pool in &pools {
        in_use.push(pool.get().await.unwrap());
    }
    let manager = LockManager::quorum(pools).build().unwrap();
    manager.lock("k").try_acquire().await.unwrap().release().await.unwrap();
}
