//! What URLs may say, and what their refusals must not.

use deadpool_redis::redis::{ProtocolVersion, RedisConnectionInfo};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

use crate::Node;

fn settings(url: &str) -> RedisConnectionInfo {
    read(url).unwrap().redis_settings().clone()
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
fn blanks_around_a_url_are_no_part_of_it() {
    assert_eq!(name(read(" redis://:pw@a:7001\n").unwrap().addr()), "a:7001");
}

#[test]
fn an_ipv6_address_has_brackets() {
    assert_eq!(name(read("redis://[0:0::1]").unwrap().addr()), "[::1]:6379");
    assert_eq!(
        read("redis://[::1]:7001").unwrap().addr(),
        &ConnectionAddr::Tcp("::1".into(), 7001)
    );
    assert!(refusal("redis://::1").contains("redis://[::1]:6379"));
}

#[test]
fn spellings_of_one_address_are_one_place() {
    for (one, other) in [
        ("A.example:1", "a.Example:1"),
        ("a.example.:1", "a.example:1"),
        ("[::1]:1", "[0:0:0:0:0:0:0:1]:1"),
        ("[::ffff:127.0.0.1]:1", "127.0.0.1:1"),
    ] {
        assert!(is_same_place(one, other), "{one} {other}");
    }
    for (one, other) in
        [("/run/a", "/run/A"), ("a:1", "a:2"), ("a:1", "a.b:1"), ("[::1]:1", "127.0.0.1:1")]
    {
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
