//! A command that is to run once over all hosts.

use rustix::process::Signal;

use crate::scene::Scene;
use crate::support::{Server, within};
use crate::tool::{Running, on, redlatch};

#[tokio::test]
async fn a_command_that_has_succeeded_does_not_run_again() {
    let servers = Server::group(3);
    let args = ["run", "--once", "24h", "k", "--", "echo", "ran"];
    on(&servers, &args).await.is(0).prints("ran\n");
    let again = on(&servers, &args).await;
    again.is(0).says("k is done already, and that is remembered for another 23h");
    assert_eq!(again.out, "");
    on(&servers, &["inspect", "k"]).await.is(0).prints("(done) for another 23h");
    on(&servers, &["break", "--yes", "k"]).await.is(0).prints("(done)");
    on(&servers, &args).await.is(0).prints("ran\n");
}

#[tokio::test]
async fn that_it_is_done_is_told_in_json_and_not_to_the_quiet() {
    let servers = [Server::start()];
    on(&servers, &["run", "--once", "1h", "k", "--", "true"]).await.is(0);
    on(&servers, &["run", "-q", "--once", "1h", "k", "--", "true"]).await.is(0).is_silent();
    let args = ["--json", "run", "--once", "1h", "k", "--", "true"];
    let mut told = Running::start(&mut redlatch(&servers, &args));
    let done = told.tells("done").await;
    assert!(done["forgotten_in_ms"].as_u64().is_some_and(|left| left > 3_000_000), "{done}");
}

#[tokio::test]
async fn a_command_that_fails_may_run_again() {
    let servers = Server::group(3);
    let args = ["run", "--once", "24h", "k", "--", "sh", "-c", "exit 3"];
    on(&servers, &args).await.is(3);
    on(&servers, &args).await.is(3);
    on(&servers, &["run", "--once", "24h", "k", "--", "/nowhere/to/be/found"]).await.is(127);
    on(&servers, &["run", "--once", "24h", "k", "--", "true"]).await.is(0).is_silent();
}

#[tokio::test]
async fn a_command_that_runs_elsewhere_is_waited_for_on_demand() {
    let (servers, scene) = (Server::group(3), Scene::new());
    let script = "echo up > up; while ! test -e stop; do sleep 0.02; done";
    let mut command = redlatch(&servers, &["run", "--once", "24h", "k", "--", "sh", "-c", script]);
    let running = Running::start(scene.of(&mut command));
    scene.comes_to_have("up").await;
    on(&servers, &["run", "--once", "24h", "k", "--", "true"]).await.is(75).says("k, held by ");
    let args = ["run", "--once", "24h", "--wait", "10m", "k", "--", "echo", "ran"];
    let mut waiting = Running::start(&mut redlatch(&servers, &args));
    waiting.says("waiting for k").await;
    std::fs::write(scene.path("stop"), "").unwrap();
    running.end().await.is(0);
    let waited = waiting.end().await;
    waited.is(0).says("k is done already");
    assert_eq!(waited.out, "", "it has not run");
}

#[tokio::test]
async fn what_cannot_be_remembered_for_so_long_is_refused() {
    let servers = [Server::start()];
    on(&servers, &["run", "--once", "31days", "k", "--", "true"]).await.is(64).says("`keep`");
    let both = ["run", "--once", "1h", "--min-hold", "1m", "k", "--", "true"];
    on(&servers, &both).await.is(64);
}

/// Five processes start the same job at the same moment; two are killed in its middle, and one run of it fails.
#[tokio::test]
async fn of_five_processes_two_of_which_die_and_one_fails_one_succeeds() {
    let servers = Server::group(3);
    for round in 0..rounds() {
        let (scene, key) = (Scene::new(), format!("job{round}"));
        within(a_round(&servers, &scene, &key)).await;
        let successes = scene.read("succeeded").lines().count();
        assert_eq!(successes, 1, "round {round}");
    }
}

async fn a_round(servers: &[Server], scene: &Scene, key: &str) {
    // The first two to run it kill the process that holds the lock, the third fails, the next succeeds.
    let script = "n=$(ls -d turn* 2>/dev/null | wc -l); mkdir turn$n || exit 9
                  case $n in 0|1) kill -KILL $PPID; exit 8;; 2) exit 7;; *) echo $n >> succeeded;; esac";
    let args =
        ["run", "--ttl", "1s", "--once", "24h", "--wait", "1h", key, "--", "sh", "-c", script];
    let mut processes: Vec<_> = (0..5)
        .map(|_| {
            let mut command = redlatch(servers, &args);
            let piped = scene.of(&mut command).stdout(std::process::Stdio::null());
            piped.stderr(std::process::Stdio::null()).spawn().expect("it starts")
        })
        .collect();
    let (mut killed, mut codes) = (0, Vec::new());
    for process in &mut processes {
        match process.wait().await.expect("it ends").code() {
            Some(code) => codes.push(code),
            None => killed += 1,
        }
    }
    codes.sort_unstable();
    assert_eq!((killed, codes), (2, vec![0, 0, 7]), "one ran it, and one found it done");
}

/// How many rounds: few, unless `REDLATCH_ONCE_ROUNDS` asks for more.
fn rounds() -> usize {
    let asked = std::env::var("REDLATCH_ONCE_ROUNDS").ok();
    asked.map_or(20, |asked| asked.parse().expect("it is a number"))
}

#[tokio::test]
async fn a_signal_to_a_command_that_is_to_run_once_is_a_failure() {
    let (servers, scene) = ([Server::start()], Scene::new());
    let args = ["run", "--once", "24h", "k", "--", "sh", "-c", "echo up > up; exec sleep 600"];
    let mut command = redlatch(&servers, &args);
    let running = Running::start(scene.of(&mut command));
    scene.comes_to_have("up").await;
    running.signal(Signal::TERM);
    running.end().await.is(143);
    on(&servers, &["run", "--once", "24h", "k", "--", "echo", "ran"]).await.is(0).prints("ran\n");
}
