//! Settings that cannot work are refused, by name, before anything is sent.

use std::time::Duration;

use redlatch::deadpool_redis::{Config, Pool, Runtime, redis::Value};
use redlatch::{
    ClockDrift, Error, FencingToken, LockManager, LockManagerBuilder, LockRequest, LockTicket,
    Node, OwnerToken,
};

use crate::support::{Server, Site, everything_said, everywhere, millis, secs};

everywhere!(
    a_request_with_a_ttl_out_of_range_is_refused,
    a_request_with_a_ttl_that_drift_eats_up_is_refused,
    a_request_with_a_renewal_interval_out_of_range_is_refused,
    a_request_renewed_at_four_fifths_of_its_ttl_is_accepted,
    a_request_refused_can_be_made_again_rightly,
    an_owner_of_an_unfenced_lock_is_refused,
    the_name_of_a_counter_is_refused_wherever_a_key_is_named,
    an_extend_by_a_ttl_that_drift_eats_up_is_refused,
    a_refused_extend_leaves_the_lock_alone,
    a_lock_of_the_longest_ttl_can_be_taken,
);

#[test]
fn no_node_is_refused() {
    let message = refusal(LockManager::quorum(Vec::<Node>::new()));
    assert!(message.contains("node"), "{message}");
}

#[test]
fn a_node_named_twice_is_refused() {
    let message = refusal(quorum(&["redis://a:7001", "redis://b:7001", "redis://a:7001"]));
    assert!(message.contains("a:7001"), "{message}");
    assert!(!message.contains("b:7001"), "{message}");
}

#[test]
fn the_default_port_is_the_same_node_as_6379() {
    let message = refusal(quorum(&["redis://a:6379", "redis://a"]));
    assert!(message.contains("a:6379"), "{message}");
}

#[test]
fn another_database_of_one_server_is_the_same_node() {
    refusal(quorum(&["redis://a:7001/0", "redis://a:7001/1"]));
    refusal(quorum(&["redis://a:7001", "redis://a:7001/9"]));
}

#[test]
fn other_credentials_to_one_server_are_the_same_node() {
    refusal(quorum(&["redis://a:7001", "redis://ann:secret@a:7001"]));
    refusal(quorum(&["redis://ann:one@a:7001", "redis://ben:two@a:7001"]));
    refusal(quorum(&["redis://:one@a:7001", "redis://:two@a:7001"]));
}

#[test]
fn a_host_in_another_case_is_the_same_node() {
    refusal(quorum(&["redis://Example.org:7001", "redis://example.ORG:7001"]));
    refusal(quorum(&["redis://example.org:7001", "redis://example.org.:7001"]));
}

#[test]
fn another_scheme_or_protocol_is_the_same_node() {
    refusal(quorum(&["redis://a:7001", "valkey://a:7001"]));
    refusal(quorum(&["redis://a:7001", "redis://a:7001?protocol=resp3"]));
}

#[test]
fn an_ipv6_address_is_the_same_node_with_its_default_port() {
    refusal(quorum(&["redis://[::1]", "redis://[::1]:6379"]));
    refusal(quorum(&["redis://[::1]", "redis://[0:0::0:1]"]));
    refusal(quorum(&["redis://[::ffff:127.0.0.1]", "redis://127.0.0.1"]));
}

#[test]
fn one_socket_is_the_same_node() {
    refusal(quorum(&["redis+unix:///run/a.sock", "redis+unix:///run/a.sock"]));
    refusal(quorum(&["redis+unix:///run/a.sock", "unix:///run/a.sock"]));
    refusal(quorum(&["redis+unix:///run/a.sock?db=1", "redis+unix:///run/a.sock?pass=secret"]));
}

#[test]
fn a_pool_is_the_same_node_as_its_servers_url() {
    for url in ["redis://a:7001", "redis://ann:secret@a:7001/3", "redis://A:7001"] {
        let pooled = Node::from(pool(url));
        let message = refusal(LockManager::quorum([pooled, Node::open("redis://a:7001").unwrap()]));
        assert!(message.contains("7001"), "{message}");
    }
}

#[test]
fn two_pools_of_one_server_are_the_same_node() {
    refusal(LockManager::quorum([pool("redis://a"), pool("redis://a:6379/2")]));
    let one = pool("redis://a:7001");
    refusal(LockManager::quorum([one.clone(), one]));
}

#[test]
fn a_pool_over_a_socket_is_the_same_node_as_its_url() {
    let pooled = Node::from(pool("redis+unix:///run/a.sock"));
    let opened = Node::open("redis+unix:///run/a.sock").unwrap();
    refusal(LockManager::quorum([pooled, opened]));
}

#[test]
fn clones_of_a_node_are_the_same_node() {
    for node in [Node::in_memory(), Node::open("redis://a:7001").unwrap()] {
        refusal(LockManager::quorum([node.clone(), Node::in_memory(), node]));
    }
}

#[test]
fn a_node_with_notices_is_the_same_node() {
    let node = Node::open("redis://a:7001").unwrap();
    let hearing = node.clone().with_notices("redis://b:7001").unwrap();
    refusal(LockManager::quorum([node, hearing]));
}

#[test]
fn different_servers_are_different_nodes() {
    let urls = [
        "redis://a:7001",
        "redis://a:7002",
        "redis://b:7001",
        "redis://a.b:7001",
        "redis://[::1]:7001",
        "redis+unix:///run/a.sock",
        "redis+unix:///run/A.sock",
    ];
    quorum(&urls).build().unwrap();
    LockManager::quorum([Node::in_memory(), Node::in_memory()]).build().unwrap();
}

#[test]
fn a_drift_factor_out_of_range_is_refused() {
    for factor in [-0.01, -1.0, 1.0, 1.5, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let drift = ClockDrift::new(factor, Duration::ZERO);
        let message = refusal(single().clock_drift(drift));
        assert!(message.contains("drift"), "{factor}: {message}");
    }
}

#[test]
fn a_drift_factor_in_range_is_accepted() {
    for factor in [0.0, -0.0, 0.01, 0.5, 0.99, f64::MIN_POSITIVE] {
        single().clock_drift(ClockDrift::new(factor, Duration::ZERO)).build().unwrap();
    }
}

#[test]
fn a_drift_floor_of_any_length_is_no_panic() {
    for floor in [secs(30), secs(31), Duration::MAX] {
        let message = refusal(single().clock_drift(ClockDrift::new(0.0, floor)));
        assert!(message.contains("drift"), "{floor:?}: {message}");
    }
}

#[test]
fn a_zero_node_timeout_is_refused() {
    let message = refusal(single().node_timeout(Duration::ZERO));
    assert!(message.contains("node timeout"), "{message}");
}

#[test]
fn a_zero_release_timeout_is_refused() {
    let message = refusal(single().release_timeout(Duration::ZERO));
    assert!(message.contains("release timeout"), "{message}");
}

#[test]
fn timeouts_of_any_other_length_are_accepted() {
    for timeout in [Duration::from_nanos(1), secs(1), Duration::MAX] {
        single().node_timeout(timeout).release_timeout(timeout).build().unwrap();
    }
}

#[test]
fn a_retention_out_of_range_is_refused() {
    let day = secs(24 * 60 * 60);
    for retention in
        [Duration::ZERO, secs(59), 30 * day + Duration::from_nanos(1), 31 * day, Duration::MAX]
    {
        let message = refusal(single().fencing_retention(retention));
        assert!(message.contains("`fencing_retention`"), "{message}");
    }
}

#[test]
fn a_retention_in_range_is_accepted() {
    let day = secs(24 * 60 * 60);
    for retention in [secs(60), day, 30 * day] {
        single().fencing_retention(retention).build().unwrap();
    }
}

#[test]
fn a_default_ttl_out_of_range_is_refused() {
    for ttl in out_of_range() {
        let message = refusal(single().ttl(ttl).clock_drift(no_drift()));
        assert!(message.contains("TTL"), "{ttl:?}: {message}");
    }
}

#[test]
fn a_default_ttl_that_drift_eats_up_is_refused() {
    for (ttl, drift) in eaten_up() {
        let message = refusal(single().ttl(ttl).clock_drift(drift));
        assert!(message.contains("TTL") && message.contains("drift"), "{ttl:?}: {message}");
    }
}

#[test]
fn a_default_ttl_in_range_is_accepted() {
    for ttl in [millis(1), Duration::from_micros(1_001), secs(86_400)] {
        single().ttl(ttl).clock_drift(no_drift()).build().unwrap();
    }
    single().ttl(millis(3)).build().unwrap();
}

#[test]
fn the_order_of_the_setters_does_not_matter() {
    single().ttl(millis(1)).clock_drift(no_drift()).build().unwrap();
    single().clock_drift(no_drift()).ttl(millis(1)).build().unwrap();
}

#[test]
fn a_bad_url_is_refused() {
    for url in BAD_URLS {
        let error = Node::open(url).unwrap_err();
        assert!(error.is_config() && error.to_string().contains("URL"), "{url}: {error}");
        refusal(LockManager::single(*url));
        refusal(quorum(&["redis://a:7001", url, "redis://c:7001"]));
        let hearing = Node::in_memory().with_notices(url);
        assert!(hearing.unwrap_err().is_config(), "{url}");
    }
}

#[test]
fn a_bad_url_of_several_is_said_to_be_which() {
    let of = |url| refusal(quorum(&["redis://a:7001", url, "redis://c:7001"]));
    assert!(of("redis://b:7001?ssl=true").starts_with("node 2 of 3: the URL of node b:7001 "));
    let hint = of("localhost:6379");
    assert!(hint.starts_with("node 2 of 3: "), "{hint}");
    assert!(hint.contains("write redis://localhost:6379"), "{hint}");
}

#[test]
fn a_node_is_named_by_its_address_alone() {
    for (url, name) in [
        ("redis://ann:hunter2@a:7001/3?protocol=resp3", "a:7001"),
        ("redis://:hunter2@a?db=3", "a:6379"),
        ("redis://[0::1]", "[::1]:6379"),
        ("redis+unix:///run/a.sock?user=ann&pass=hunter2", "/run/a.sock"),
    ] {
        assert_eq!(Node::open(url).unwrap().name(), name);
        assert_eq!(Node::from(pool(url)).name(), name);
    }
}

#[test]
fn a_bad_url_is_not_repeated() {
    for url in BAD_URLS {
        let said = everything_said(&Node::open(url).unwrap_err());
        assert!(!said.contains("hunter2"), "{url}: {said}");
        let said = format!("{:?}", LockManager::single(*url));
        assert!(!said.contains("hunter2"), "{url}: {said}");
    }
}

#[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
#[test]
fn a_tls_url_without_a_tls_feature_is_refused() {
    for url in ["rediss://a", "rediss://ann:hunter2@a:7001/1", "valkeys://ann:hunter2@a"] {
        let message = refusal(LockManager::single(url));
        assert!(message.contains("TLS") && !message.contains("hunter2"), "{message}");
    }
}

#[test]
fn a_url_of_every_documented_kind_is_accepted() {
    for url in GOOD_URLS {
        Node::open(url).unwrap();
        LockManager::single(*url).build().unwrap();
    }
}

#[test]
fn credentials_do_not_show_in_what_is_built() {
    for url in SECRET_URLS {
        let node = Node::open(url).unwrap();
        assert_secret(&node);
        assert_secret(&node.clone().with_notices(url).unwrap());
        assert_secret(&Node::from(pool(url)));
        let builder = LockManager::single(*url);
        assert_secret(&builder);
        assert_secret(&builder.build().unwrap());
        assert_secret(&LockManager::quorum([pool(url)]));
        assert!(!node.name().contains("hunter2") && !node.name().contains("ann"));
    }
}

#[test]
fn credentials_do_not_show_in_a_refusal() {
    let twice = quorum(&["redis://ann:hunter2@a:7001", "redis://ann:hunter2@a:7001"]);
    let said = everything_said(&twice.build().unwrap_err());
    assert!(said.contains("a:7001") && !said.contains("hunter2") && !said.contains("ann"));
}

#[tokio::test]
async fn credentials_do_not_show_in_what_comes_of_a_login() {
    let server = Server::start();
    let url = server.user("ann", "hunter2", &["~*", "&*", "+@all"]);
    let manager = LockManager::single(url).node_timeout(secs(10)).build().unwrap();
    assert_secret(&manager.lock("k"));
    let guard = manager.lock("k").acquire().await.unwrap();
    assert_secret(&guard);
    assert_secret(&guard.lost());
    assert_secret(&manager.inspect("k").await.unwrap());
    assert_secret(&manager.ping().await);
    assert_secret(&manager);
    let held = manager.lock("k").try_acquire().await.unwrap_err();
    assert!(!everything_said(&held).contains("hunter2"));
}

#[tokio::test]
async fn the_database_of_a_url_is_the_one_that_is_locked_in() {
    let server = Server::start();
    for (url, database) in [("redis://{}/3", "3"), ("redis://{}?db=4", "4"), ("redis://{}", "0")] {
        let url = url.replace("{}", &server.name());
        let manager = LockManager::single(url).node_timeout(secs(10)).build().unwrap();
        let guard = manager.lock("k").try_acquire().await.unwrap();
        let look = "redis.call('SELECT', ARGV[1]) return redis.call('EXISTS', 'k')";
        assert_eq!(server.command(&["EVAL", look, "0", database]), Value::Int(1), "{database}");
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn credentials_do_not_show_in_what_comes_of_a_refused_login() {
    let server = Server::start();
    server.user("ann", "another", &["~*", "+@all"]);
    for url in [
        format!("redis://ann:hunter2@{}", server.name()),
        format!("redis://:hunter2@{}", server.name()),
        "redis://ann:hunter2@127.0.0.1:1".to_owned(),
        "redis+unix:///no/such/socket?user=ann&pass=hunter2".to_owned(),
    ] {
        for node in [Node::open(&url).unwrap(), Node::from(pool(&url))] {
            let manager = LockManager::single(node).node_timeout(secs(10)).build().unwrap();
            let error = manager.lock("k").try_acquire().await.unwrap_err();
            assert!(error.is_unavailable(), "{error:?}");
            assert!(!everything_said(&error).contains("hunter2"), "{error:?}");
            assert_secret(&manager.ping().await);
            assert_secret(&manager);
        }
    }
}

async fn a_request_with_a_ttl_out_of_range_is_refused(site: Site) {
    let manager = site.builder().clock_drift(no_drift()).build().unwrap();
    for ttl in out_of_range() {
        assert_refused_unsent(&site, "TTL", || manager.lock("k").ttl(ttl)).await;
    }
}

async fn a_request_with_a_ttl_that_drift_eats_up_is_refused(site: Site) {
    for (ttl, drift) in eaten_up() {
        let manager = site.builder().ttl(secs(3600)).clock_drift(drift).build().unwrap();
        assert_refused_unsent(&site, "drift", || manager.lock("k").ttl(ttl)).await;
    }
}

async fn a_request_with_a_renewal_interval_out_of_range_is_refused(site: Site) {
    let manager = site.manager();
    for interval in [Duration::ZERO, millis(8_001), millis(9_999), secs(10), Duration::MAX] {
        let request = || manager.lock("k").ttl(secs(10)).auto_renew_every(interval);
        assert_refused_unsent(&site, "interval", request).await;
        let set = || manager.lock_all(["k", "l"]).ttl(secs(10)).auto_renew_every(interval);
        for refused in [set().acquire().await, set().try_acquire().await] {
            assert!(refused.unwrap_err().to_string().contains("interval"), "{interval:?}");
        }
    }
    assert!(site.all().iter().all(|server| server.scripts() == 0), "nothing was sent");
}

async fn a_request_renewed_at_four_fifths_of_its_ttl_is_accepted(site: Site) {
    let manager = site.manager();
    for interval in [Duration::from_nanos(1), secs(8)] {
        let request = manager.lock("k").ttl(secs(10)).auto_renew_every(interval);
        request.try_acquire().await.unwrap().release().await.unwrap();
    }
}

async fn a_request_refused_can_be_made_again_rightly(site: Site) {
    let manager = site.manager();
    manager.lock("k").ttl(Duration::ZERO).acquire().await.unwrap_err();
    manager.lock("k").acquire().await.unwrap().release().await.unwrap();
}

/// What would tell the locks of one owner apart lies beside the counter.
async fn an_owner_of_an_unfenced_lock_is_refused(site: Site) {
    let (fenced, unfenced) = (site.manager(), site.builder().unfenced().build().unwrap());
    let owner = OwnerToken::new("worker-7").unwrap();
    for request in [
        fenced.lock("k").unfenced().owner(owner.clone()),
        fenced.lock("k").owner(owner.clone()).unfenced(),
        unfenced.lock("k").owner(owner.clone()),
    ] {
        for word in ["unfenced", "owner token"] {
            assert_refused_unsent(&site, word, || request.clone()).await;
        }
    }
    let set = || unfenced.lock_all(["k", "l"]).owner(owner.clone());
    for refused in [set().acquire().await, set().try_acquire().await] {
        let error = refused.unwrap_err();
        assert!(error.is_config() && error.to_string().contains("unfenced"), "{error:?}");
    }
    assert_unsent(&site);
}

async fn the_name_of_a_counter_is_refused_wherever_a_key_is_named(site: Site) {
    let manager = site.builder().key_prefix("app:").build().unwrap();
    let (owner, ttl) = (OwnerToken::random(), secs(60));
    for key in ["{k}:fence", "a{b}c:fence"] {
        let ticket = LockTicket::new(key, owner.clone(), FencingToken::new(1), ttl);
        let errors = [
            manager.lock(key).acquire().await.unwrap_err(),
            manager.lock(key).try_acquire().await.unwrap_err(),
            manager.lock(key).owner(owner.clone()).acquire_or_extend().await.unwrap_err(),
            manager.lock_all(["k", key]).acquire().await.unwrap_err(),
            manager.lock_all([key]).try_acquire().await.unwrap_err(),
            manager.adopt(ticket).await.unwrap_err(),
            manager.inspect(key).await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.is_config() && error.to_string().contains(key), "{error:?}");
        }
    }
    assert!(site.lock_keys().is_empty());
    drop(manager.lock("k:fence").await.unwrap());
}

async fn an_extend_by_a_ttl_that_drift_eats_up_is_refused(site: Site) {
    let manager = site.builder().clock_drift(ClockDrift::new(0.0, secs(10))).build().unwrap();
    let guard = manager.lock("k").ttl(secs(60)).await.unwrap();
    for refused in [guard.extend(secs(10)).await, guard.try_extend(secs(10)).await] {
        let error = refused.unwrap_err();
        assert!(error.is_config() && error.to_string().contains("drift"), "{error:?}");
    }
}

async fn a_refused_extend_leaves_the_lock_alone(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(60)).await.unwrap();
    let (ttl, until) = (guard.ttl(), guard.valid_until());
    guard.extend(Duration::ZERO).await.unwrap_err();
    guard.try_extend(Duration::MAX).await.unwrap_err();
    assert_eq!((guard.ttl(), guard.valid_until()), (ttl, until));
    guard.release().await.expect("it is still ours");
}

async fn a_lock_of_the_longest_ttl_can_be_taken(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(86_400)).await.unwrap();
    guard.extend(secs(86_400)).await.unwrap();
    assert!(guard.remaining() > secs(80_000));
}

/// Every end of the request is refused, with this word, and no server hears of it.
async fn assert_refused_unsent(site: &Site, word: &str, request: impl Fn() -> LockRequest) {
    site.all().iter().for_each(Server::reset_calls);
    let ends = [
        request().acquire().await.unwrap_err(),
        request().await.unwrap_err(),
        request().try_acquire().await.unwrap_err(),
        request().acquire_or_extend().await.unwrap_err(),
        request().run(async |_| ()).await.unwrap_err(),
    ];
    for error in ends {
        assert!(matches!(error, Error::Config { .. }) && error.is_config(), "{error:?}");
        assert!(error.to_string().contains(word), "{error}");
    }
    assert_unsent(site);
}

/// No server has heard of a lock.
fn assert_unsent(site: &Site) {
    for server in site.all() {
        assert_eq!((server.scripts(), server.calls("set")), (0, 0));
    }
}

/// The message with which a builder is refused; outside of any runtime.
fn refusal(builder: LockManagerBuilder) -> String {
    match builder.build() {
        Err(Error::Config { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

fn single() -> LockManagerBuilder {
    LockManager::single("redis://a:7001")
}

fn quorum(urls: &[&str]) -> LockManagerBuilder {
    LockManager::quorum(urls.iter().copied())
}

fn pool(url: &str) -> Pool {
    Config::from_url(url).create_pool(Some(Runtime::Tokio1)).expect("the URL is good")
}

fn no_drift() -> ClockDrift {
    ClockDrift::new(0.0, Duration::ZERO)
}

fn out_of_range() -> [Duration; 6] {
    let (less, more) = (Duration::from_micros(999), Duration::from_nanos(1));
    [Duration::ZERO, more, less, secs(86_400) + more, secs(86_401), Duration::MAX]
}

/// TTLs of which nothing is left, each under its drift.
fn eaten_up() -> [(Duration, ClockDrift); 5] {
    [
        (millis(1), ClockDrift::default()),
        (millis(2), ClockDrift::default()),
        (secs(10), ClockDrift::new(0.0, secs(10))),
        (secs(10), ClockDrift::new(0.5, secs(5))),
        (millis(100), ClockDrift::new(0.99, millis(1))),
    ]
}

fn assert_secret(shown: &impl std::fmt::Debug) {
    let said = format!("{shown:?}{shown:#?}");
    assert!(!said.contains("hunter2") && !said.contains("ann"), "{said}");
}

const BAD_URLS: &[&str] = &[
    "",
    " ",
    "hunter2",
    "127.0.0.1:6379",
    "a:hunter2@b",
    "http://ann:hunter2@a",
    "rediss-hunter2://a",
    "redis:",
    "redis://",
    "redis:///",
    "redis://:hunter2@",
    "redis://ann:hunter2@/1",
    "redis://ann:hunter2@a:99999",
    "redis://ann:hunter2@a:port",
    "redis://ann:hunter2@a:-1",
    "redis://ann:hunter2@a/one",
    "redis://ann:hunter2@a/0/1",
    "redis://ann:hunter2@a/99999999999999999999",
    "redis://ann:hunter2%ff@a",
    "redis://ann%ff:hunter2@a",
    "redis://ann:hunter2@0.0.0.0",
    "redis://ann:hunter2@[::]",
    "redis://ann:hunter2@[::1",
    "redis://ann:hunter2@a b",
    "redis://ann:hunter2@a?protocol=hunter2",
    "redis+unix://hunter2/run/a.sock",
    "redis+unix:///run/a.sock?db=one&pass=hunter2",
    "redis+unix:///run/a.sock?pass=57&hunter2=1",
    "redis+unix:///run/a.sock?password=hunter2",
    "redis://ann:57#hunter2@a",
    "redis://ann:57/hunter2@a",
    "redis://ann:57?hunter2@a",
    "redis://ann:57@hunter2@a",
    "redis://ann:57#hunter2",
    "redis://ann:57?hunter2",
    "redis://ann:%hunter2@a",
    "redis://hunter2@a",
    "redis://a:0",
    "redis://a?password=hunter2",
    "redis://a?ssl=hunter2",
    "redis://a?db=hunter2",
    "redis://a/3?db=4",
    "redis://a#3",
    "redis://ann:hunter2@a#insecure",
];

const GOOD_URLS: &[&str] = &[
    "redis://a",
    "redis://a/",
    "redis://a:7001",
    "redis://a:7001/15",
    "redis://a/0?protocol=resp3",
    "redis://a?db=3&protocol=resp2",
    "redis://:hunter2@a",
    "redis://ann:hunter2@a",
    "redis://ann:hunter%32%40%3a%2f@a",
    "redis://127.0.0.1",
    "redis://[::1]:7001",
    "valkey://a:7001",
    "redis+unix:///run/a.sock",
    "redis+unix:///run/a.sock?db=3&user=ann&pass=hunter2",
];

const SECRET_URLS: &[&str] = &[
    "redis://ann:hunter2@a:7001/3",
    "redis://:hunter2@a",
    "redis://ann:hunter2@[::1]:7001",
    "redis+unix:///run/a.sock?user=ann&pass=hunter2",
];
