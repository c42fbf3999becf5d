//! What `inspect` shows.

use crate::scene::Scene;
use crate::support::{Server, secs};
use crate::tool::{Running, on, redlatch};

#[tokio::test]
async fn inspect_shows_the_holder_and_every_vote() {
    let (scene, servers) = (Scene::new(), Server::group(3));
    let script = "echo $REDLATCH_FENCING_TOKEN > up; while ! test -e stop; do sleep 0.02; done";
    let mut command = redlatch(&servers, &["run", "k", "--", "sh", "-c", script]);
    let running = Running::start(scene.of(&mut command));
    scene.comes_to_have("up").await;
    servers[2].kill();
    let token = scene.read("up").trim().to_owned();
    let holder = format!("-{} for another ", running.pid());
    let ended = on(&servers, &["inspect", "k"]).await;
    ended.is(0).prints("k is held by ").prints(&holder);
    ended.prints(&format!(", fencing token {token}\n")).prints("refused");

    let lock = on(&servers, &["inspect", "--json", "k"]).await.is(0).json().remove(0);
    assert_eq!((&lock["key"], &lock["held"]), (&"k".into(), &true.into()));
    assert_eq!(lock["fencing_token"].to_string(), token);
    assert!(lock["expires_in_ms"].as_u64().is_some_and(|left| left <= 30_000), "{lock}");
    let votes = lock["votes"].as_array().unwrap();
    assert_eq!((votes.len(), &votes[1]["node"]), (3, &servers[1].name().into()));
    assert_eq!(votes[1]["held_by"], lock["held_by"]);
    assert!(votes[0]["error"].is_null() && votes[2]["error"].is_string(), "{lock}");
    std::fs::write(scene.path("stop"), "").unwrap();
    running.end().await.is(0);
}

#[tokio::test]
async fn a_free_lock_is_exit_code_1() {
    let servers = Server::group(3);
    on(&servers, &["inspect", "k"]).await.is(1).prints("k is held by nobody\n");
    assert!(servers[1].foreign_lock("k", "another", secs(60)));
    on(&servers, &["inspect", "k"]).await.is(1).prints("but not free on every node");
    let lock = on(&servers, &["inspect", "k", "--json"]).await.is(1).json().remove(0);
    assert!(lock["held"] == false && lock["held_by"].is_null(), "{lock}");
    assert_eq!(lock["votes"][1]["held_by"], "another");
}

#[tokio::test]
async fn owner_tokens_are_never_shown_whole() {
    let (scene, servers) = (Scene::new(), [Server::start()]);
    let script = "echo up > up; while ! test -e stop; do sleep 0.02; done; env";
    let mut command = redlatch(&servers, &["--json", "run", "k", "--", "sh", "-c", script]);
    let running = Running::start(scene.of(&mut command));
    scene.comes_to_have("up").await;
    let owner = servers[0].get("k").unwrap();
    let (name, secret) = owner.split_once("/\u{1}").unwrap();
    assert!(name.ends_with(&format!("-{}", running.pid())) && secret.len() == 32, "{owner}");
    let (secret, shown) = (&secret[8..], &format!("held by {name} for another "));
    let mut all = Vec::new();
    for args in
        [&["inspect", "k"][..], &["run", "--no-wait", "k", "--", "true"], &["break", "-y", "k"]]
    {
        all.push(on(&servers, args).await);
        all.push(on(&servers, &[&["--json"], args].concat()).await);
    }
    std::fs::write(scene.path("stop"), "").unwrap();
    all.push(running.end().await);
    let text = format!("{all:?}");
    assert!(text.contains(shown) && !text.contains(secret), "{text}");
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let servers = [Server::start()];
    let inner = redlatch(&servers, &["ping"]);
    let mut command = tokio::process::Command::new("bash");
    command.args(["-c", r#"sleep 0 | (exec 0<&-; "$0" "$@" | true); exit ${PIPESTATUS[0]}"#]);
    command.arg(inner.as_std().get_program()).args(inner.as_std().get_args());
    command.env("REDLATCH_NODES", servers[0].url()).kill_on_drop(true);
    Running::start(&mut command).end().await.is(0).is_silent();
}
