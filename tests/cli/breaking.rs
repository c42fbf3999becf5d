//! `redlatch break`.

use crate::scene::Scene;
use crate::support::{Server, secs};
use crate::tool::{Running, on, redlatch};

#[tokio::test]
async fn a_broken_lock_is_free_and_its_command_ends() {
    let (scene, servers) = (Scene::new(), Server::group(3));
    let script = "echo up > up; exec sleep 600";
    // Renewed, and so found gone, every 1.5 seconds.
    let args = ["run", "--ttl", "30s", "--grace", "27s", "k", "--", "sh", "-c", script];
    let running = Running::start(scene.of(&mut redlatch(&servers, &args)));
    scene.comes_to_have("up").await;
    let holder = format!("-{}", running.pid());
    let broken = on(&servers, &["break", "--yes", "k"]).await;
    broken.is(0).prints("broke k, held by ").prints(&holder);
    on(&servers, &["run", "--no-wait", "k", "--", "true"]).await.is(0);
    running.end().await.is(70).says("k was taken away");
}

#[tokio::test]
async fn without_a_terminal_somebody_has_to_be_sure() {
    let servers = [Server::start()];
    assert!(servers[0].foreign_lock("k", "another", secs(60)));
    on(&servers, &["break", "k"]).await.is(64).says("--yes");
    assert_eq!(servers[0].get("k").as_deref(), Some("another"));
}

#[tokio::test]
async fn what_nobody_holds_cannot_be_broken() {
    let servers = Server::group(3);
    assert!(servers[0].foreign_lock("k", "another", secs(60)), "on a minority");
    on(&servers, &["break", "--yes", "k"]).await.is(1).prints("k is held by nobody");
    let broken = on(&servers, &["break", "--yes", "k", "--json"]).await;
    assert_eq!(broken.is(1).json()[0]["outcome"], "not-held");
}

#[tokio::test]
async fn locks_of_other_libraries_are_broken_too() {
    let servers = Server::group(3);
    for with_counter in [false, true] {
        servers.iter().for_each(|server| assert!(server.foreign_lock("k", "another", secs(60))));
        on(&servers, &["break", "--yes", "k"]).await.is(0).prints("broke k, held by another");
        assert!(servers.iter().all(|server| server.get("k").is_none()), "{with_counter}");
        // Next time beside a counter.
        on(&servers, &["run", "k", "--", "true"]).await.is(0);
    }
}

#[tokio::test]
async fn a_key_without_an_end_is_broken_too() {
    let servers = [Server::start()];
    servers[0].command(&["SET", "k", "for-ever-and-ever"]);
    on(&servers, &["inspect", "k"]).await.is(0).prints("k is held by for-ever… without an end");
    let broken = on(&servers, &["break", "--yes", "k", "--json"]).await;
    let report = &broken.is(0).json()[0];
    assert_eq!(report["outcome"], "broken");
    assert_eq!(report["held_by"], "for-ever…");
    assert_eq!(servers[0].get("k"), None);
}

#[tokio::test]
async fn what_is_kept_for_nobody_is_broken_too() {
    let servers = Server::group(3);
    let args = ["run", "--no-wait", "--min-hold", "60s", "k", "--", "true"];
    on(&servers, &args).await.is(0);
    let broken = on(&servers, &["break", "--yes", "k"]).await;
    broken.is(0).prints("broke k, held by ").prints("(released)");
    on(&servers, &args).await.is(0);
}

#[tokio::test]
async fn a_lock_on_which_the_counters_disagree_is_said_to_be_unbreakable() {
    let servers = Server::group(3);
    for (server, counter) in servers.iter().zip(["7", "8", "9"]) {
        assert!(server.foreign_lock("k", "another", secs(60)));
        server.command(&["SET", "{k}:fence", counter, "EX", "60"]);
    }
    let ended = on(&servers, &["break", "--yes", "k"]).await;
    ended.is(75).prints("k cannot be broken").prints("delete the key on each node");
    assert!(servers.iter().all(|server| server.get("k").is_some()));
}
