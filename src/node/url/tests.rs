//! What URLs may say, and what their refusals must not.

use proptest::{collection::vec, prelude::*, sample::select};
use redis::{ProtocolVersion, RedisConnectionInfo};

use super::*;

use crate::Node;

fn server(url: &str) -> ConnectionInfo {
    match read(url).unwrap() {
        Target::Server(info) => info,
        target => panic!("{url} is no server: {target:?}"),
    }
}

fn settings(url: &str) -> RedisConnectionInfo {
    server(url).redis_settings().clone()
}

fn refusal(url: &str) -> String {
    read(url).unwrap_err().to_string()
}

#[test]
fn everything_that_a_url_says_is_taken() {
    let said = settings("redis://ann:p%40s%3As@a:7001/3?protocol=resp3");
    assert_eq!((said.username(), said.password()), (Some("ann"), Some("p@s:s")));
    assert_eq!((said.db(), said.protocol()), (3, ProtocolVersion::RESP3));
    let said = settings("redis+unix:///run/a.sock?db=4&user=ann&pass=p%26s+&protocol=2");
    assert_eq!((said.username(), said.password()), (Some("ann"), Some("p&s+")));
    assert_eq!((said.db(), said.protocol()), (4, ProtocolVersion::RESP2));
}

#[test]
fn the_database_is_a_path_or_a_parameter() {
    for url in
        ["redis://a/3", "redis://a/3/", "redis://a?db=3", "redis://a/?db=3", "redis://a/3?db=3"]
    {
        assert_eq!(settings(url).db(), 3, "{url}");
    }
    for url in ["redis://a/0?db=3", "redis://a?db=3&db=4", "redis://a?db=", "redis://a?db=-1"] {
        assert!(refusal(url).contains("`db`"), "{url}");
    }
}

#[test]
fn a_password_may_stand_alone_or_be_empty() {
    let of = |url| {
        let said = settings(url);
        (said.username().map(str::to_owned), said.password().map(str::to_owned))
    };
    assert_eq!(of("redis://:pw@a"), (None, Some("pw".to_owned())));
    assert_eq!(of("redis://ann:@a"), (Some("ann".to_owned()), Some(String::new())));
    for url in ["redis://a", "redis://@a", "redis://:@a"] {
        assert_eq!(of(url), (None, None), "{url}");
    }
    assert!(refusal("redis://pw@a").contains("user without a password"));
}

#[test]
fn a_cluster_has_its_servers_and_one_user() {
    let Target::Cluster(servers) = read("redis-cluster://ann:p%2Cw@a,[::1]:7001/2").unwrap() else {
        panic!("it is a cluster")
    };
    assert_eq!(names(&servers), "a:6379,[::1]:7001");
    for server in &servers {
        let said = server.redis_settings();
        assert_eq!((said.username(), said.password()), (Some("ann"), Some("p,w")));
        assert_eq!(said.db(), 2);
    }
}

#[test]
fn the_user_in_a_sentinel_url_is_the_masters() {
    let url = "redis-sentinel://ann:pw@a:7001,b/my.master-1/4?protocol=resp3";
    let Target::Sentinel { sentinels, master_name, settings } = read(url).unwrap() else {
        panic!("they are Sentinels")
    };
    assert_eq!((names(&sentinels), &*master_name), ("a:7001,b:26379".to_owned(), "my.master-1"));
    assert_eq!((settings.username(), settings.password()), (Some("ann"), Some("pw")));
    assert_eq!((settings.db(), settings.protocol()), (4, ProtocolVersion::RESP3));
    for sentinel in &sentinels {
        let said = sentinel.redis_settings();
        assert_eq!((said.username(), said.password(), said.db()), (None, None, 0));
    }
}

#[test]
fn one_url_of_several_wants_a_server() {
    assert_eq!(names(&read_servers(["redis://a:1", "redis://b"]).unwrap()), "a:1,b:6379");
    for url in ["redis-cluster://a:1,b:1", "redis-sentinel://a/m", "redis+unix:///run/a"] {
        let said = read_servers([url]).unwrap_err().to_string();
        assert!(said.contains("the server's own URL"), "{said}");
    }
    let said = read_sentinels(["redis://:hunter@a:1/3"]).unwrap_err().to_string();
    assert!(said.contains("a:1") && !said.contains("hunter"), "{said}");
    assert!(read_sentinels([""; 0]).is_err());
}

#[test]
fn blanks_around_a_url_are_no_part_of_it() {
    assert_eq!(name(server(" redis://:pw@a:7001\n").addr()), "a:7001");
}

#[test]
fn an_ipv6_address_has_brackets() {
    assert_eq!(name(server("redis://[0:0::1]").addr()), "[::1]:6379");
    assert_eq!(server("redis://[::1]:7001").addr(), &ConnectionAddr::Tcp("::1".into(), 7001));
    assert!(refusal("redis://::1").contains("redis://[::1]:6379"));
}

#[test]
fn spellings_of_one_address_are_one_place() {
    for (one, other) in [
        ("A.example:1", "a.Example:1"),
        ("a.example.:1", "a.example:1"),
        ("[::1]:1", "[0:0:0:0:0:0:0:1]:1"),
        ("[::ffff:127.0.0.1]:1", "127.0.0.1:1"),
        ("a:1,b:1", "c:1,B:1"),
        ("a:1", "c:1,a:1"),
        ("a:1,b:1/locks", "b:1/locks"),
    ] {
        assert!(is_same_place(one, other), "{one} {other}");
    }
    for (one, other) in [
        ("/run/a", "/run/A"),
        ("/run/a,b:1", "b:1"),
        ("a:1", "a:2"),
        ("a:1", "a.b:1"),
        ("[::1]:1", "127.0.0.1:1"),
        ("a:1,b:1", "c:1,b:2"),
        ("a:1,b:1/locks", "a:1,b:1/other"),
    ] {
        assert!(!is_same_place(one, other), "{one} {other}");
    }
}

#[test]
fn an_unknown_parameter_is_named_and_not_its_value() {
    for (url, names) in [
        ("redis://b:7001?ssl=hunter", ["`ssl`", "rediss://"]),
        ("redis://b:7001/0?tls=hunter", ["`tls`", "rediss://"]),
        ("redis://b:7001?password=hunter", ["`password`", "before the host"]),
        ("redis://b:7001?client_name=hunter", ["`client_name`", "db, protocol, client_info"]),
        (
            "redis+unix:///b:7001?timeout=hunter",
            ["`timeout`", "db, protocol, client_info, user, pass"],
        ),
        ("redis://b:7001?protocol=hunter", ["`protocol`", "resp3"]),
        ("redis://b:7001?client_info=hunter", ["`client_info`", "yes or no"]),
    ] {
        let said = refusal(url);
        assert!(names.iter().all(|name| said.contains(name)), "{url}: {said}");
        assert!(said.contains("b:7001") && !said.contains("hunter"), "{url}: {said}");
    }
}

#[test]
fn a_refusal_says_what_would_do() {
    for (url, hint) in [
        ("localhost:6379", "write redis://localhost:6379"),
        ("localhost", "redis://localhost:6379"),
        ("/run/redis.sock", "redis+unix://"),
        ("http://b:7001", "of node b:7001 is not usable: it must begin with redis://"),
        ("redis://b:99999", "of node b is not usable: its port"),
        ("redis://b:0", "from 1 to 65535"),
        ("redis://b:", "from 1 to 65535"),
        ("redis://ann:pw@b/x", "of node b:6379 is not usable: what follows the host"),
        ("redis://ann:p#w@b", "%23"),
        ("redis://ann:p/w@b", "%2F"),
        ("redis://ann:p?w@b", "%3F"),
        ("redis://ann:p@w@b", "%40"),
        ("redis://ann:p%w@b", "%25"),
        ("redis://b#3", "redis://host:6379/3"),
        ("redis://ann:pw@b#insecure", "certificates are always checked"),
        ("redis://b:1,redis://c:1", "each node"),
        ("redis://b:1,c:1", "redis-cluster://host1:7000,host2:7000"),
        ("redis-cluster://b,c,", "its host is missing"),
        ("redis-cluster://b:7000,c:99999", "of node b:7000,c is not usable: its port"),
        ("redis-cluster://ann@b,c", "user without a password"),
        ("redis-cluster://b,c/x", "no database number"),
        ("redis-cluster://b,c?client_info=no", "`client_info`"),
        ("redis-cluster+unix:///run/a.sock", "it must begin with redis://"),
        ("redis-sentinel://b,c", "follows the Sentinels, as in redis-sentinel://"),
        ("redis-sentinel://ann:pw@b,c/", "of node b:26379,c:26379 is not usable: the name"),
        ("redis-sentinel://b,c/my%2Fmaster", "letters, digits"),
        ("redis-sentinel://b,c/mymaster/x", "no database number"),
        ("redis-sentinel://b,c/mymaster?password=hunter", "`password`"),
        ("redis-sentinel://ann:p@w@b,c/mymaster", "%40"),
        ("redis-quorum://b,c", "it must begin with redis://"),
        ("redis://b,c", "each node"),
        ("redis+unix://ann:pw@/run/a.sock", "user=USER"),
    ] {
        let said = refusal(url);
        assert!(said.contains(hint), "{url}: {said}");
    }
}

/// All that can be seen of a URL: the node's name and text, or the error.
fn shown(url: &str) -> String {
    match Node::open(url) {
        Ok(node) => format!("{} {node:?}", node.name()),
        Err(error) => format!("{error} {error:?}"),
    }
}

/// A password of which nothing may be shown but digits that look like a port.
fn passwords() -> impl Strategy<Value = String> {
    let pieces = [
        "57", "Wc903z", "Qx7", "#", "?", "/", "@", ":", "[", "]", "%", "%2", "&", "=", "+", ",",
        "ü", " ", "\\", "\t", "//", "://",
    ];
    vec(select(pieces.to_vec()), 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_part_of_a_password_is_shown(password in passwords()) {
        let mut urls = vec![
            format!("redis://default:{password}@127.0.0.1:6379/0"),
            format!("redis://:{password}@[::1]"),
            format!("rediss://:{password}@host"),
            format!("redis://default:{password}@"),
            format!("redis://default:{password}@:6379"),
            format!("redis://default:{password}@host:0"),
            format!("redis://default:{password}@host:{password}"),
            format!("redis://host:6379/{password}"),
            format!("redis://host:6379?password={password}"),
            format!("redis://host:6379#{password}"),
            format!("redis+unix:///run/a.sock?pass={password}&db=1"),
            format!("redis+unix://:{password}@/run/a.sock"),
            format!("http://default:{password}@host"),
            format!("default:{password}@host:6379"),
            format!("{password}://host"),
            format!("redis-cluster://default:{password}@127.0.0.1:7000,127.0.0.1:7001"),
            format!("redis-cluster://default:{password}@host,host:0"),
            format!("redis-cluster://host,host#{password}"),
            format!("redis-sentinel://default:{password}@127.0.0.1,host:7001/mymaster/3"),
            format!("rediss-sentinel://:{password}@host/"),
            format!("redis-sentinel://host/mymaster?sentinel_pass={password}"),
        ];
        if !password.contains('@') {
            urls.push(format!("redis://default:{password}host:6379"));
            urls.push(format!("redis://:{password}"));
        }
        for url in urls {
            let shown = shown(&url);
            let parts = ["Wc903z", "Qx7", "default"];
            prop_assert!(!parts.iter().any(|part| shown.contains(part)), "{}: {}", url, shown);
        }
    }

    #[test]
    fn any_password_can_be_encoded(user in "\\PC{1,9}", password in any::<String>()) {
        let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        let (in_url, in_query) = (
            format!("redis://{}:{}@a", encoded(&user), encoded(&password)),
            format!("unix:///a?user={}&pass={}", encoded(&user), encoded(&password)),
        );
        for url in [in_url, in_query] {
            let said = settings(&url);
            prop_assert_eq!(said.username(), Some(&*user));
            prop_assert_eq!(said.password(), Some(&*password));
        }
    }
}
