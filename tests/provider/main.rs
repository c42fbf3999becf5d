//! TLS in a program that has not chosen rustls' crypto provider: a process of its own, since the choice is made once
//! for all of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[cfg(not(feature = "cli"))]
use redlatch::Error;
use redlatch::deadpool_redis::Config;
use redlatch::{LockManager, LockManagerBuilder, Node};

fn over_tls() -> [LockManagerBuilder; 4] {
    let url = "rediss://ann:hunter2@a:7001";
    let pool = Config::from_url(url).create_pool(None).unwrap();
    let hears = Node::open("redis://a:7001").unwrap().with_notices(url).unwrap();
    [
        LockManager::single(url),
        LockManager::quorum(["redis://b:7001", url, "redis://c:7001"]),
        LockManager::single(pool),
        LockManager::single(hears),
    ]
}

#[cfg(not(feature = "cli"))]
#[test]
fn tls_without_a_provider_is_refused_when_the_manager_is_built() {
    for builder in over_tls() {
        let Err(Error::Config { message, .. }) = builder.build() else { panic!("it is built") };
        assert!(message.starts_with("node a:7001: "), "{message}");
        assert!(message.contains("install_default") && !message.contains("hunter2"), "{message}");
    }
    LockManager::single("redis://a:7001").build().unwrap();
}

/// The feature brings just one provider, which rustls takes unasked.
#[cfg(feature = "cli")]
#[test]
fn tls_with_the_only_provider_needs_no_choice() {
    for builder in over_tls() {
        builder.build().unwrap();
    }
}
