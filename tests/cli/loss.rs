//! The lock is lost, or about to be: everything has ended before it does.

use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::scene::{Scene, heart};
use crate::support::Server;
use crate::tool::{Ended, Running, redlatch, redlatch_within};

const TTL: Duration = Duration::from_secs(6);

const HEARTS: [&str; 3] = ["parent", "child", "grandchild"];

/// A command under a lock, whose process, child and grandchild all ignore TERM.
async fn stubborn(scene: &Scene, servers: &[Server], args: &[&str]) -> Running {
    let [parent, child, grandchild] = HEARTS.map(heart);
    let script = format!("trap '' TERM; ({grandchild} & {child}) & {parent}");
    let options = ["--json", "run", "--ttl", "6s", "--grace", "4s", "k"];
    // A short node timeout: what is left to do without any servers is soon given up.
    let mut command = redlatch_within("2s", servers, &options);
    let running =
        Running::start(scene.of(&mut command).args(args).args(["--", "sh", "-c", &script]));
    for name in HEARTS {
        scene.comes_to_have(name).await;
    }
    running
}

/// All have ended before `end`, the time since 1970 until which the lock can have been held.
async fn assert_ended_before(end: Duration, scene: &Scene) {
    for name in HEARTS {
        let beat = scene.last_beat(name);
        assert!(beat < end, "{name} was alive at {beat:?}, and the lock was over at {end:?}");
        scene.loses(&format!("{name}.pid")).await;
    }
}

/// No renewal has come after this, so that the lock is over a TTL later.
fn end_from_now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + TTL
}

/// When the server lets the key go, since 1970.
fn expiry(server: &Server) -> Duration {
    let script = "local t = redis.call('TIME')
                  return t[1] * 1000 + math.floor(t[2] / 1000) + redis.call('PTTL', KEYS[1])";
    Duration::from_millis(server.query(&["EVAL", script, "1", "k"]))
}

#[track_caller]
fn assert_lost(ended: &Ended, reason: &str) {
    ended.is(70).says(&format!("{{\"event\":\"ending\",\"key\":\"k\",\"reason\":\"{reason}\""));
}

#[tokio::test]
async fn all_has_ended_in_time_when_the_servers_are_killed() {
    let (scene, servers) = (Scene::new(), Server::group(3));
    let running = stubborn(&scene, &servers, &[]).await;
    servers.iter().for_each(Server::kill);
    let end = end_from_now();
    assert_lost(&running.end().await, "not-renewed");
    assert_ended_before(end, &scene).await;
}

#[tokio::test]
async fn all_has_ended_in_time_when_the_servers_are_silent() {
    let (scene, servers) = (Scene::new(), Server::group(3));
    let running = stubborn(&scene, &servers, &[]).await;
    servers[1..].iter().for_each(Server::pause);
    let end = end_from_now();
    assert_lost(&running.end().await, "not-renewed");
    assert_ended_before(end, &scene).await;
}

#[tokio::test]
async fn all_has_ended_before_the_key_has() {
    let (scene, server) = (Scene::new(), Server::start());
    let url = server.user("tool", "pw", &["~*", "&*", "+@all"]);
    let mut running = stubborn(&scene, &[], &["--nodes", &url]).await;
    server.command(&["ACL", "SETUSER", "tool", "-eval", "-evalsha"]);
    let end = expiry(&server); // nothing moves it any more
    let failed = running.tells("renewal-failed").await;
    assert!(failed["message"].as_str().is_some_and(|text| text.contains("NoPerm")), "{failed}");
    let ended = running.tells("ended").await;
    assert!(ended["remaining_ms"].as_u64().is_some_and(|left| left > 0), "{ended}");
    assert_lost(&running.end().await, "not-renewed");
    assert_ended_before(end, &scene).await;
}

#[tokio::test]
async fn all_is_ended_when_the_key_is_gone() {
    let (scene, servers) = (Scene::new(), Server::group(3));
    let running = stubborn(&scene, &servers, &[]).await;
    let end = expiry(&servers[0]) + TTL; // renewed at most once more
    servers[..2].iter().for_each(|server| server.del("k"));
    assert_lost(&running.end().await, "taken");
    assert_ended_before(end, &scene).await;
    assert!(servers.iter().all(|server| server.get("k").is_none()), "the rest is released");
}

/// A command that ends when `stop` is there, also when it is told to end.
async fn obliging(scene: &Scene, servers: &[Server], args: &[&str]) -> Running {
    let script = "trap 'echo TERM > heard' TERM; echo $$ > up
                  while ! test -e stop; do sleep 0.02; done; exit 4";
    let mut command = redlatch(servers, args);
    let running = Running::start(scene.of(&mut command).args(["k", "--", "sh", "-c", script]));
    scene.comes_to_have("up").await;
    running
}

#[tokio::test]
async fn a_command_whose_lock_was_taken_may_clean_up() {
    let (scene, servers) = (Scene::new(), [Server::start()]);
    let args = ["run", "--ttl", "30s", "--grace", "27s"]; // renewed every 1.5 seconds
    let running = obliging(&scene, &servers, &args).await;
    servers[0].command(&["SET", "k", "another", "PX", "600000"]);
    scene.comes_to_have("heard").await;
    std::fs::write(scene.path("stop"), "").unwrap();
    running.end().await.is(70).says("ending the command: k was taken away");
    assert_eq!(servers[0].get("k").as_deref(), Some("another"));
}

#[tokio::test]
async fn a_command_that_was_told_to_end_is_not_spared() {
    let (scene, server) = (Scene::new(), Server::start());
    let url = server.user("tool", "pw", &["~*", "&*", "+@all"]);
    let args = ["--nodes", &url, "--json", "run", "--ttl", "30s", "--grace", "26s"];
    let mut running = obliging(&scene, &[], &args).await;
    server.command(&["ACL", "SETUSER", "tool", "-eval", "-evalsha"]);
    running.tells("ending").await;
    server.command(&["ACL", "SETUSER", "tool", "+eval", "+evalsha"]);
    running.tells("renewed").await;
    scene.comes_to_have("heard").await;
    std::fs::write(scene.path("stop"), "").unwrap();
    running.tells("renewed-too-late").await;
    running.end().await.is(70);
    assert_eq!(server.lock_keys(), [] as [&str; 0], "it is released, so that others need not wait");
}

#[tokio::test]
async fn a_lock_that_was_gone_in_the_end_has_not_protected() {
    let (scene, servers) = (Scene::new(), [Server::start()]);
    let running = obliging(&scene, &servers, &["run", "--ttl", "1h"]).await;
    servers[0].del("k"); // long before the next renewal
    std::fs::write(scene.path("stop"), "").unwrap();
    running.end().await.is(70).says("k was lost before the command had ended");
}

#[tokio::test]
async fn a_stopped_command_hears_that_it_is_to_end() {
    let (scene, servers) = (Scene::new(), [Server::start()]);
    let args = ["run", "--ttl", "30s", "--grace", "27s"]; // renewed every 1.5 seconds
    let running = obliging(&scene, &servers, &args).await;
    let pid = scene.read("up").trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
    servers[0].del("k");
    scene.comes_to_have("heard").await;
    std::fs::write(scene.path("stop"), "").unwrap();
    running.end().await.is(70);
}
