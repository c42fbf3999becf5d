//! What lies in Redis, and how other libraries' locks and ours meet.

use redlatch::{Error, OwnerToken};

use crate::support::{Site, eventually, everywhere, millis, on_servers, secs, within};

on_servers!(
    the_key_holds_the_owner_token_as_a_plain_string,
    the_key_expires_after_the_ttl,
    the_counter_lies_beside_the_key,
    a_valid_hash_tag_is_kept,
    an_empty_hash_tag_is_not_one,
    every_key_has_an_expiry,
    the_counter_outlives_any_lock,
    the_prefix_precedes_the_key,
    a_foreign_lock_keeps_us_out,
    our_lock_keeps_a_foreign_one_out,
    an_expired_foreign_lock_lets_us_in,
    an_odd_key_is_the_redis_key,
    a_foreign_key_without_expiry_is_held,
);

everywhere!(
    an_odd_key_can_be_locked,
    a_key_of_512_bytes_can_be_locked,
    an_empty_key_is_refused,
    a_key_of_513_bytes_is_refused,
    a_prefix_keeps_managers_apart,
    an_owner_token_of_256_bytes_is_fine,
    odd_owner_tokens_are_fine,
);

async fn the_key_holds_the_owner_token_as_a_plain_string(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    everywhere_set(&site, "k").await;
    for server in site.all() {
        assert_eq!(server.query::<String>(&["TYPE", "k"]), "string");
        assert_eq!(server.get("k").unwrap(), guard.owner_token().as_str());
    }
}

async fn the_key_expires_after_the_ttl(site: Site) {
    let _guard = site.manager().lock("k").ttl(secs(50)).await.unwrap();
    everywhere_set(&site, "k").await;
    for server in site.all() {
        let left = server.pttl("k").expect("it expires");
        assert!(left <= secs(50), "{left:?}");
    }
}

async fn the_counter_lies_beside_the_key(site: Site) {
    let _guard = site.manager().lock("k").await.unwrap();
    everywhere_set(&site, "{k}:fence").await;
}

async fn a_valid_hash_tag_is_kept(site: Site) {
    let _guard = site.manager().lock("orders:{42}:x").await.unwrap();
    everywhere_set(&site, "orders:{42}:x:fence").await;
}

async fn an_empty_hash_tag_is_not_one(site: Site) {
    let _guard = site.manager().lock("a{b").await.unwrap();
    everywhere_set(&site, "{a{b}:fence").await;
}

async fn every_key_has_an_expiry(site: Site) {
    let manager = site.manager();
    let _guards = [
        manager.lock("k").auto_renew_every(millis(20)).await.unwrap(),
        manager.lock("tag{x}").await.unwrap(),
        manager.lock("brace}").await.unwrap(),
    ];
    manager.lock("gone").await.unwrap().release().await.unwrap();
    _guards[0].extend(secs(90)).await.unwrap();
    for server in site.all() {
        for key in server.query::<Vec<String>>(&["KEYS", "*"]) {
            assert!(server.pttl(&key).is_some(), "{key} never expires");
        }
    }
}

async fn the_counter_outlives_any_lock(site: Site) {
    let _guard = site.manager().lock("k").ttl(secs(86_400)).await.unwrap();
    everywhere_set(&site, "{k}:fence").await;
    for server in site.all() {
        assert!(server.pttl("{k}:fence") > Some(secs(86_400)));
    }
}

async fn the_prefix_precedes_the_key(site: Site) {
    let manager = site.builder().key_prefix("app:").build().unwrap();
    let guard = manager.lock("k").await.unwrap();
    assert_eq!(guard.key(), "k");
    everywhere_set(&site, "app:k").await;
    everywhere_set(&site, "{app:k}:fence").await;
}

async fn a_foreign_lock_keeps_us_out(site: Site) {
    for server in site.all() {
        assert!(server.foreign_lock("k", "foreign", secs(600)));
    }
    let error = site.manager().lock("k").try_acquire().await.unwrap_err();
    let Error::AlreadyHeld { retry_after, .. } = error else {
        panic!("{error:?}");
    };
    assert!(retry_after > Some(secs(300)) && retry_after <= Some(secs(600)));
    for server in site.all() {
        assert_eq!(server.get("k").as_deref(), Some("foreign"));
    }
}

async fn a_foreign_key_without_expiry_is_held(site: Site) {
    for server in site.all() {
        server.command(&["SET", "k", "foreign"]);
    }
    let error = site.manager().lock("k").try_acquire().await.unwrap_err();
    assert!(matches!(error, Error::AlreadyHeld { .. }), "{error:?}");
    let request = site.manager().lock("k").wait_timeout(millis(100));
    assert!(within(request.acquire()).await.unwrap_err().is_contended());
}

async fn our_lock_keeps_a_foreign_one_out(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    everywhere_set(&site, "k").await;
    for server in site.all() {
        assert!(!server.foreign_lock("k", "foreign", secs(600)));
    }
    guard.release().await.unwrap();
    site.empties("k").await;
}

async fn an_expired_foreign_lock_lets_us_in(site: Site) {
    for server in site.all() {
        assert!(server.foreign_lock("k", "foreign", millis(300)));
    }
    let _guard = within(site.manager().lock("k").acquire()).await.unwrap();
}

async fn an_odd_key_is_the_redis_key(site: Site) {
    let manager = site.manager();
    for key in ODD_KEYS {
        let guard = manager.lock(*key).await.unwrap();
        everywhere_set(&site, key).await;
        guard.release().await.unwrap();
    }
    site.empties("k").await;
}

async fn an_odd_key_can_be_locked(site: Site) {
    let (one, other) = (site.manager(), site.manager());
    for key in ODD_KEYS {
        let guard = one.lock(*key).try_acquire().await.unwrap();
        assert_eq!(guard.key(), *key);
        assert!(other.lock(*key).try_acquire().await.is_err(), "{key:?}");
        guard.extend(secs(60)).await.unwrap();
        guard.release().await.unwrap();
        other.lock(*key).try_acquire().await.unwrap().release().await.unwrap();
    }
}

async fn a_key_of_512_bytes_can_be_locked(site: Site) {
    for key in ["x".repeat(512), "é".repeat(256)] {
        let guard = site.manager().lock(&key).await.unwrap();
        guard.release().await.unwrap();
    }
}

async fn an_empty_key_is_refused(site: Site) {
    let error = site.manager().lock("").acquire().await.unwrap_err();
    assert!(matches!(error, Error::Config { .. }) && error.is_config(), "{error:?}");
}

async fn a_key_of_513_bytes_is_refused(site: Site) {
    for key in ["x".repeat(513), "é".repeat(257)] {
        let error = site.manager().lock(key).try_acquire().await.unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error:?}");
    }
}

async fn a_prefix_keeps_managers_apart(site: Site) {
    let a = site.builder().key_prefix("a:").build().unwrap();
    let b = site.builder().key_prefix("b:").build().unwrap();
    let _a = a.lock("k").try_acquire().await.unwrap();
    let _b = b.lock("k").try_acquire().await.unwrap();
    let same = site.manager().lock("a:k").try_acquire().await.unwrap_err();
    assert!(matches!(same, Error::AlreadyHeld { .. }), "{same:?}");
}

async fn an_owner_token_of_256_bytes_is_fine(site: Site) {
    let owner = OwnerToken::new("o".repeat(256)).unwrap();
    let guard = site.manager().lock("k").owner(owner).await.unwrap();
    guard.extend(secs(60)).await.unwrap();
    guard.release().await.unwrap();
}

async fn odd_owner_tokens_are_fine(site: Site) {
    for owner in ["1", "0", "-1", "nil", " ", "ключ", "a\r\nb", "\0"] {
        let owner = OwnerToken::new(owner).unwrap();
        let guard = site.manager().lock("k").owner(owner).await.unwrap();
        assert!(site.manager().lock("k").try_acquire().await.is_err());
        guard.extend(secs(60)).await.unwrap();
        guard.release().await.unwrap();
    }
}

/// Waits until the key is on every server; a quorum may be won before the last vote is in.
async fn everywhere_set(site: &Site, key: &str) {
    eventually("the key is on every server", async || {
        site.all().iter().all(|server| server.query(&["EXISTS", key]))
    })
    .await;
}

const ODD_KEYS: &[&str] = &[
    "with space",
    "new\nline\r\n",
    "naïve-ключ-锁-🔒",
    "{tag}x",
    "{}",
    "{}{a}",
    "}{",
    "a}b",
    "{",
    "*",
    "k:fence",
    "{k}",
    "\0",
    "\"quoted\"",
    "%s",
];
