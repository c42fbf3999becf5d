//! Holder names: told to whoever asks, with nothing of the secret beside them.

use redlatch::{Error, FencingToken, LockTicket, OwnerToken};

use crate::support::{Monitor, Site, everywhere, millis, on_servers, secs, within};

everywhere!(
    a_refusal_and_a_look_name_the_holder,
    an_unfenced_locks_holder_is_named,
    who_gives_up_learns_whom_they_waited_for,
    a_lock_without_a_name_has_none,
    the_requests_name_comes_before_the_managers,
    a_set_is_held_under_its_name,
    a_kept_key_names_who_left_it,
    a_named_lock_is_renewed_handed_over_and_released,
    a_named_unfenced_lock_is_adopted_by_a_rebuilt_ticket,
    another_token_is_never_taken_apart,
    names_out_of_range_are_refused,
    a_name_beside_a_chosen_owner_is_refused,
);

on_servers!(a_refusal_says_nothing_of_the_secret, foreign_values_of_our_form_are_harmless);

async fn a_refusal_and_a_look_name_the_holder(site: Site) {
    let guard = site.manager().lock("k").holder("db1-4711").await.unwrap();
    let error = site.manager().lock("k").try_acquire().await.unwrap_err();
    assert_eq!(error.to_string(), "lock \"k\" is held by \"db1-4711\"");
    assert_eq!(holder_of(error).as_deref(), Some("db1-4711"));
    let status = site.manager().inspect("k").await.unwrap();
    assert_eq!(status.holder(), Some("db1-4711"));
    assert!(status.votes().iter().any(|vote| vote.holder() == Some("db1-4711")));
    assert_eq!(status.owner_token(), Some(guard.owner_token()));
}

async fn an_unfenced_locks_holder_is_named(site: Site) {
    let _guard = site.manager().lock("k").unfenced().holder("db1").await.unwrap();
    for request in [site.manager().lock("k").unfenced(), site.manager().lock("k")] {
        let error = request.try_acquire().await.unwrap_err();
        assert_eq!(holder_of(error).as_deref(), Some("db1"));
    }
}

async fn who_gives_up_learns_whom_they_waited_for(site: Site) {
    let _guard = site.manager().lock("k").ttl(secs(600)).holder("db1").await.unwrap();
    let request = site.manager().lock("k").wait_timeout(millis(50));
    let error = within(request.acquire()).await.unwrap_err();
    let Error::WaitTimeout { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(holder_of(*source).as_deref(), Some("db1"));
}

async fn a_lock_without_a_name_has_none(site: Site) {
    let _guard = site.manager().lock("k").await.unwrap();
    let error = site.manager().lock("k").try_acquire().await.unwrap_err();
    assert_eq!(error.to_string(), "lock \"k\" is held by another owner");
    assert_eq!(holder_of(error), None);
    assert_eq!(site.manager().inspect("k").await.unwrap().holder(), None);
}

async fn the_requests_name_comes_before_the_managers(site: Site) {
    let manager = site.builder().holder("web-7").build().unwrap();
    let _guards = (manager.lock("a").await.unwrap(), manager.lock("b").holder("x").await.unwrap());
    for (key, holder) in [("a", "web-7"), ("b", "x")] {
        assert_eq!(site.manager().inspect(key).await.unwrap().holder(), Some(holder));
    }
}

async fn a_set_is_held_under_its_name(site: Site) {
    let _set = site.manager().lock_all(["a", "b"]).holder("db1").await.unwrap();
    let error = site.manager().lock_all(["b", "c"]).try_acquire().await.unwrap_err();
    assert_eq!(error.key(), Some("b"));
    assert_eq!(holder_of(error).as_deref(), Some("db1"));
}

async fn a_kept_key_names_who_left_it(site: Site) {
    let request = site.manager().lock("k").holder("db1").min_hold(secs(600));
    request.await.unwrap().release().await.unwrap();
    let error = site.manager().lock("k").try_acquire().await.unwrap_err();
    assert_eq!(holder_of(error).as_deref(), Some("db1"));
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.is_kept() && status.holder() == Some("db1"), "{status:?}");
}

async fn a_named_lock_is_renewed_handed_over_and_released(site: Site) {
    let request = site.manager().lock("k").ttl(secs(600)).holder("Zürich 1");
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    guard.extend(secs(900)).await.unwrap();
    let ticket = guard.into_ticket();
    let owner = OwnerToken::new(ticket.owner_token().as_str()).unwrap();
    let rebuilt = LockTicket::new("k", owner, ticket.fencing_token(), secs(600));
    let adopted = site.manager().adopt(rebuilt).await.unwrap();
    assert_eq!(site.manager().inspect("k").await.unwrap().holder(), Some("Zürich 1"));
    adopted.release().await.unwrap();
    site.empties("k").await;
}

async fn a_named_unfenced_lock_is_adopted_by_a_rebuilt_ticket(site: Site) {
    // A counter beside it, by which no attempt of the owner's could be found.
    site.manager().lock("k").await.unwrap().release().await.unwrap();
    site.empties("k").await;
    let guard = site.manager().lock("k").unfenced().ttl(secs(600)).holder("db1").await.unwrap();
    let owner = guard.into_ticket().owner_token().clone();
    let ticket = LockTicket::new("k", owner, FencingToken::NONE, secs(600));
    site.manager().adopt(ticket).await.unwrap().release().await.unwrap();
}

async fn another_token_is_never_taken_apart(site: Site) {
    let secret = OwnerToken::random();
    let secret = secret.as_str();
    let others = [
        format!("db1/{secret}"),
        format!("db1\u{1}{secret}"),
        format!("db1/\u{1}{secret}{secret}"),
        format!("db1/\u{1}{}", &secret[..31]),
        format!("db1/x/\u{1}{secret}"),
        format!("{}/\u{1}{secret}", "x".repeat(65)),
        "db1/\u{1}".to_owned(),
    ];
    for (n, other) in others.into_iter().enumerate() {
        let (key, owner) = (n.to_string(), OwnerToken::new(other).unwrap());
        let _guard = site.manager().lock(&key).owner(owner).await.unwrap();
        let error = site.manager().lock(&key).try_acquire().await.unwrap_err();
        assert_eq!(holder_of(error), None, "{n}");
        assert_eq!(site.manager().inspect(&key).await.unwrap().holder(), None, "{n}");
    }
}

async fn names_out_of_range_are_refused(site: Site) {
    for name in ["", "a/b", "a\nb", "a\u{1}", &"x".repeat(65), &"€".repeat(43)] {
        let error = site.manager().lock("k").holder(name).await.unwrap_err();
        assert!(error.is_config() && error.to_string().contains("holder"), "{error}");
        assert!(site.manager().lock_all(["k"]).holder(name).await.unwrap_err().is_config());
        assert!(site.builder().holder(name).build().unwrap_err().is_config());
    }
}

async fn a_name_beside_a_chosen_owner_is_refused(site: Site) {
    let (owner, named) = (|| OwnerToken::new("us").unwrap(), site.builder().holder("db1").build());
    let (manager, named) = (site.manager(), named.unwrap());
    let both = [
        manager.lock("k").owner(owner()).holder("db1").await.unwrap_err(),
        manager.lock("k").owner(owner()).holder("db1").acquire_or_extend().await.unwrap_err(),
        manager.lock_all(["k"]).holder("db1").owner(owner()).await.unwrap_err(),
        named.lock("k").owner(owner()).await.unwrap_err(),
    ];
    for error in both {
        assert!(error.is_config() && error.to_string().contains("holder"), "{error}");
    }
}

/// Whichever nodes are heard: where they tell of several holders, name and time are one holder's, and never the last's,
/// whose end need not be waited for.
#[tokio::test]
async fn the_holder_told_is_the_one_that_retry_after_is_about() {
    let site = Site::servers(3);
    for (key, lives) in [("a", [100, 1000, 500]), ("b", [1000, 500, 100]), ("c", [500, 100, 1000])]
    {
        for (server, life) in site.all().iter().zip(lives) {
            let value = format!("{life}/\u{1}{}", OwnerToken::random().as_str());
            server.command(&["SET", key, &value, "EX", &life.to_string()]);
        }
        let error = within(site.manager().lock(key).try_acquire()).await.unwrap_err();
        let Error::AlreadyHeld { retry_after: Some(left), holder: Some(name), .. } = error else {
            panic!("{error:?}");
        };
        let life: u64 = name.parse().unwrap();
        assert!(life < 1000 && left > secs(life / 2) && left <= secs(life), "{name}: {left:?}");
    }
}

async fn a_refusal_says_nothing_of_the_secret(site: Site) {
    let manager = site.manager();
    let guard = manager.lock("k").ttl(secs(600)).holder("db1").await.unwrap();
    site.fills("k").await;
    let secret = guard.owner_token().as_str().rsplit('\u{1}').next().unwrap().to_owned();
    let script = std::fs::read_to_string("src/node/scripts/acquire.lua").unwrap();
    for server in site.all() {
        let args = ["EVAL", &script, "2", "k", "{k}:fence", "us", "9000", "1", "9000", ""];
        let (code, left, hash, name): (i64, i64, String, String) = server.query(&args);
        assert!(code == 0 && left > 0 && name == "db1", "{code} {left} {name}");
        assert!(hash.len() == 8 && !secret.contains(&hash), "{hash}");
    }
    // One look is all that a refusal costs.
    let monitors: Vec<_> = site.all().iter().map(Monitor::start).collect();
    let error = manager.lock("k").try_acquire().await.unwrap_err();
    assert!(!format!("{error:?} {error}").contains(&secret[..4]), "{error:?}");
    for monitor in monitors {
        assert!(monitor.commands().len() <= 1);
    }
}

async fn foreign_values_of_our_form_are_harmless(site: Site) {
    let secret = OwnerToken::random();
    let secret = secret.as_str();
    for server in site.all() {
        server.command(&["SET", "raw", &format!("a\u{85}b/\u{1}{secret}"), "EX", "600"]);
        server.command(&["SET", "long", &format!("{}/\u{1}{secret}", "x".repeat(1 << 20))]);
        server.command(&["EVAL", "redis.call('SET', 'b', '\\255/\\1' .. ARGV[1])", "0", secret]);
    }
    for key in ["raw", "long", "b"] {
        let error = site.manager().lock(key).try_acquire().await.unwrap_err();
        assert_eq!(holder_of(error), None, "{key}");
    }
    // A look shows a value whole, with what is no text replaced.
    let seen = site.manager().inspect("b").await.unwrap();
    assert_eq!(seen.holder(), Some("\u{fffd}"));
    for key in ["raw", "long"] {
        assert_eq!(site.manager().inspect(key).await.unwrap().holder(), None, "{key}");
    }
}

fn holder_of(error: Error) -> Option<String> {
    match error {
        Error::AlreadyHeld { holder, .. } => holder,
        other => panic!("{other:?}"),
    }
}
