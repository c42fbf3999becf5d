//! Signals: to the command and all that it has started, or to one who waits.

use rustix::process::Signal;

use crate::scene::Scene;
use crate::support::{Server, secs};
use crate::tool::{Running, redlatch};

const ALL: [(Signal, &str); 6] = [
    (Signal::TERM, "TERM"),
    (Signal::INT, "INT"),
    (Signal::HUP, "HUP"),
    (Signal::QUIT, "QUIT"),
    (Signal::USR1, "USR1"),
    (Signal::USR2, "USR2"),
];

#[tokio::test]
async fn every_signal_reaches_the_command_and_its_children() {
    let servers = [Server::start()];
    for (signal, name) in ALL {
        let scene = Scene::new();
        let script = format!(
            "listen() {{ trap \"echo {name} > $1.heard; exit $2\" {name}; echo up > $1.up
               while :; do sleep 0.02; done; }}
             listen child 0 & trap 'wait; echo {name} > parent.heard; exit 5' {name}; echo up > parent.up
             while :; do sleep 0.02; done"
        );
        let mut command = redlatch(&servers, &["run", "k", "--", "bash", "-c", &script]);
        let running = Running::start(scene.of(&mut command));
        scene.comes_to_have("child.up").await;
        scene.comes_to_have("parent.up").await;
        running.signal(signal);
        running.end().await.is(5);
        assert!(scene.has("child.heard") && scene.has("parent.heard"), "{name}");
        assert!(servers[0].lock_keys().is_empty(), "it is released");
    }
}

#[tokio::test]
async fn who_watches_over_a_command_cannot_be_suspended() {
    let servers = [Server::start()];
    let scene = Scene::new();
    let script = "echo up > up; while ! test -e stop; do sleep 0.02; done";
    let mut command = redlatch(&servers, &["run", "k", "--", "sh", "-c", script]);
    let mut running = Running::start(scene.of(&mut command));
    scene.comes_to_have("up").await;
    running.signal(Signal::TSTP);
    running.says("cannot be suspended").await;
    std::fs::write(scene.path("stop"), "").unwrap();
    running.end().await.is(0);
}

#[tokio::test]
async fn a_command_killed_by_a_signal_is_128_and_that() {
    let servers = [Server::start()];
    let scene = Scene::new();
    let script = "echo up > up; exec sleep 600";
    let mut command = redlatch(&servers, &["run", "k", "--", "sh", "-c", script]);
    let running = Running::start(scene.of(&mut command));
    scene.comes_to_have("up").await;
    running.signal(Signal::TERM);
    running.end().await.is(143);
    assert!(servers[0].lock_keys().is_empty(), "it is released");
}

#[tokio::test]
async fn a_signal_ends_the_waiting_and_leaves_nothing() {
    let servers = [Server::start()];
    assert!(servers[0].foreign_lock("k", "another", secs(600)));
    for (signal, _) in ALL {
        let scene = Scene::new();
        let mut command = redlatch(&servers, &["run", "k", "--", "touch", "ran"]);
        let mut waiter = Running::start(scene.of(&mut command));
        waiter.says("waiting for k").await;
        waiter.signal(signal);
        let ended = waiter.end().await;
        ended.is(128 + signal.as_raw()).says("gave up waiting for k");
        assert!(!scene.has("ran"));
    }
    assert_eq!(servers[0].get("k").as_deref(), Some("another"));
    assert_eq!(servers[0].lock_keys(), ["k"]);
}

#[tokio::test]
async fn what_was_ignored_stays_ignored() {
    let servers = [Server::start()];
    let scene = Scene::new();
    let script = "echo up > up; while ! test -e stop; do sleep 0.02; done";
    let inner = redlatch(&servers, &["run", "k", "--", "sh", "-c", script]);
    // As `nohup` does. The shell replaces itself, so that its process is the command's.
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", r#"trap "" HUP; exec "$0" "$@""#]).arg(inner.as_std().get_program());
    command.args(inner.as_std().get_args()).env("REDLATCH_NODES", servers[0].url());
    let running = Running::start(scene.of(&mut command).kill_on_drop(true));
    scene.comes_to_have("up").await;
    running.signal(Signal::HUP);
    std::fs::write(scene.path("stop"), "").unwrap();
    running.end().await.is(0);
}

#[tokio::test]
async fn what_the_command_leaves_running_is_ended_before_the_release() {
    let servers = [Server::start()];
    let scene = Scene::new();
    let script = "(trap 'redis-cli -u $URL get k > held; exit' TERM; echo up > up
                   while :; do sleep 0.02; done) &
                  until test -s up; do sleep 0.02; done; exit 6";
    let mut command = redlatch(&servers, &["run", "k", "--", "sh", "-c", script]);
    let running = Running::start(scene.of(&mut command).env("URL", servers[0].url()));
    running.end().await.is(6).says("ending what the command has left running");
    assert!(
        scene.read("held").trim().len() > 32,
        "the lock was still held: {:?}",
        scene.read("held")
    );
    assert!(servers[0].lock_keys().is_empty(), "it is released");
}

#[tokio::test]
async fn what_has_a_session_of_its_own_outlives_the_lock() {
    let servers = [Server::start()];
    let scene = Scene::new();
    let script = "setsid sh -c 'echo $$ > pid; exec sleep 600' > /dev/null 2>&1 &
                  until test -s pid; do sleep 0.02; done";
    let mut command = redlatch(&servers, &["run", "k", "--", "sh", "-c", script]);
    Running::start(scene.of(&mut command)).end().await.is(0).is_silent();
    assert!(servers[0].lock_keys().is_empty(), "it is released");
    let pid = scene.read("pid").trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).expect("it is there");
}
