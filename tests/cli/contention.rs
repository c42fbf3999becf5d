//! The lock is another's: to wait for it, or not to.

use serde_json::Value;

use crate::scene::Scene;
use crate::support::{Server, millis, secs, within};
use crate::tool::{Running, on, redlatch, run};

#[tokio::test]
async fn a_held_lock_is_not_acquired_without_waiting() {
    let servers = Server::group(3);
    servers.iter().for_each(|server| assert!(server.foreign_lock("k", "another", secs(60))));
    let ended = on(&servers, &["run", "--no-wait", "k", "--", "echo", "ran"]).await;
    ended.is(75).says("did not acquire k, held by another for another ");
    assert_eq!(ended.out, "");
}

#[tokio::test]
async fn a_held_lock_is_not_acquired_when_the_wait_is_over() {
    let servers = [Server::start()];
    assert!(servers[0].foreign_lock("k", "another", secs(60)));
    let ended = on(&servers, &["run", "--wait", "3s", "k", "--", "echo", "ran"]).await;
    ended.is(75).says("did not acquire k, held by another for another ");
    assert_eq!(ended.out, "");
}

#[tokio::test]
async fn quiet_leaves_it_to_the_exit_code() {
    let servers = [Server::start()];
    assert!(servers[0].foreign_lock("k", "another", secs(60)));
    on(&servers, &["run", "-q", "--wait", "1s", "k", "--", "true"]).await.is(75).is_silent();
}

#[tokio::test]
async fn a_waiter_tells_for_whom_and_gets_the_lock() {
    let servers = Server::group(3);
    let scene = Scene::new();
    let script = "echo up > up; while ! test -e stop; do sleep 0.02; done";
    let mut command = redlatch(&servers, &["run", "k", "--", "sh", "-c", script]);
    let holder = Running::start(scene.of(&mut command));
    scene.comes_to_have("up").await;

    let mut waiter = Running::start(&mut redlatch(&servers, &["run", "k", "--", "echo", "ran"]));
    let waiting = waiter.says("waiting for k").await;
    assert!(waiting.contains(&format!("-{} for another ", holder.pid())), "{waiting}");
    std::fs::write(scene.path("stop"), "").unwrap();
    holder.end().await.is(0).is_silent();
    waiter.end().await.is(0).says("acquired k, fencing token ").prints("ran\n");
}

#[tokio::test]
async fn waiting_is_told_in_json_too() {
    let servers = [Server::start()];
    assert!(servers[0].foreign_lock("k", "another", secs(60)));
    let mut command = redlatch(&servers, &["--json", "run", "k", "--", "sh", "-c", "exit 3"]);
    let mut waiter = Running::start(&mut command);
    let waiting = waiter.tells("waiting").await;
    assert_eq!((&waiting["key"], &waiting["held_by"]), (&"k".into(), &"another".into()));
    assert!(waiting["expires_in_ms"].as_u64().is_some_and(|left| left <= 60_000), "{waiting}");
    servers[0].del("k");
    let acquired = waiter.tells("acquired").await;
    let owner = acquired["owner"].as_str().unwrap();
    assert!(owner.ends_with(&format!("-{}", waiter.pid())), "{acquired}");
    assert_eq!(acquired["fencing_token"].as_u64(), servers[0].counter("{k}:fence"));
    let released = waiter.tells("released").await;
    assert_eq!((&released["key"], &released["exit_code"]), (&"k".into(), &Value::from(3)));
    waiter.end().await.is(3);
}

#[tokio::test]
async fn two_commands_never_run_at_once() {
    let servers = Server::group(3);
    let scene = Scene::new();
    // Fails if the directory is there, that is, while another one runs.
    let script = "mkdir busy && echo $REDLATCH_FENCING_TOKEN >> tokens && rmdir busy";
    let one = async || {
        let mut command = redlatch(&servers, &["run", "k", "--", "sh", "-c", script]);
        scene.of(&mut command);
        run(command).await.is(0);
    };
    within(async { tokio::join!(one(), one(), one(), one()) }).await;
    let tokens: Vec<u64> =
        scene.read("tokens").lines().map(|token| token.parse().unwrap()).collect();
    assert!(tokens.len() == 4 && tokens.is_sorted(), "{tokens:?}");
}

#[tokio::test]
async fn a_short_command_runs_once_within_its_shortest_hold() {
    let servers = Server::group(3);
    let args = ["run", "--no-wait", "--min-hold", "60s", "k", "--", "echo", "ran"];
    on(&servers, &args).await.is(0).prints("ran\n");
    let late = on(&servers, &args).await;
    late.is(75).says("(released) for another ");
    assert_eq!(late.out, "");
    let too_long = ["run", "--min-hold", "25h", "k", "--", "true"];
    on(&servers, &too_long).await.is(64).says("min_hold");
}

#[tokio::test]
async fn a_command_that_cannot_start_keeps_nobody_out() {
    let servers = Server::group(3);
    let args = ["run", "--no-wait", "--min-hold", "60s", "k", "--", "/nowhere/to/be/found"];
    on(&servers, &args).await.is(127);
    let kept = servers.iter().filter(|server| server.get("k").is_some()).count();
    assert!(kept <= 1, "a majority is free again");
}

#[tokio::test]
async fn the_wait_goes_on_through_an_outage() {
    let servers = [Server::start()];
    assert!(servers[0].foreign_lock("k", "another", secs(600)));
    let args = ["run", "--wait", "60s", "k", "--", "echo", "ran"];
    let mut waiter = Running::start(&mut redlatch(&servers, &args));
    waiter.says("waiting for k").await;
    servers[0].kill();
    tokio::time::sleep(millis(300)).await;
    servers[0].restart();
    waiter.end().await.is(0).prints("ran\n");
}

#[tokio::test]
async fn the_patience_with_an_outage_can_be_set() {
    let servers = [Server::start()];
    servers[0].kill();
    let args = ["run", "--wait", "60s", "--outage-patience", "0s", "k", "--", "echo", "ran"];
    assert_eq!(within(on(&servers, &args)).await.is(69).out, "");
    let mut command = redlatch(&servers, &["run", "--wait", "60s", "k", "--", "echo", "ran"]);
    command.env("REDLATCH_OUTAGE_PATIENCE", "10ms");
    assert_eq!(within(run(command)).await.is(69).out, "");
}

#[tokio::test]
async fn as_many_run_at_a_time_as_there_are_permits() {
    let servers = Server::group(3);
    let scenes = [Scene::new(), Scene::new()];
    let script = "echo $REDLATCH_KEY > up; while ! test -e stop; do sleep 0.02; done";
    let args = ["run", "k", "--permits", "2", "--", "sh", "-c", script];
    let mut holders = Vec::new();
    for scene in &scenes {
        holders.push(Running::start(scene.of(&mut redlatch(&servers, &args))));
    }
    for scene in &scenes {
        scene.comes_to_have("up").await;
    }
    let mut slots = scenes.each_ref().map(|scene| scene.read("up").trim().to_owned());
    slots.sort();
    assert_eq!(slots, ["k#0", "k#1"]);
    let third = ["run", "--no-wait", "--permits", "2", "k", "--", "true"];
    on(&servers, &third).await.is(75).says("did not acquire k#");

    let third = ["run", "--permits", "2", "k", "--", "echo", "ran"];
    let mut waiter = Running::start(&mut redlatch(&servers, &third));
    assert!(waiter.says("waiting for k#").await.contains(", held by "));
    std::fs::write(scenes[1].path("stop"), "").unwrap();
    waiter.end().await.is(0).prints("ran\n");
    std::fs::write(scenes[0].path("stop"), "").unwrap();
    for holder in holders {
        holder.end().await.is(0);
    }
}

#[tokio::test]
async fn a_semaphore_without_permits_is_refused() {
    let servers = [Server::start()];
    let ended = on(&servers, &["run", "--permits", "0", "k", "--", "echo", "ran"]).await;
    ended.is(64).says("a semaphore has 1 to 1024 permits, not 0");
    assert_eq!(ended.out, "");
}
