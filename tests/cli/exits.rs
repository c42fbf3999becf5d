//! Exit codes: the command's own, and those of `redlatch`.

use std::collections::BTreeSet;

use tokio::process::Command;

use crate::scene::Scene;
use crate::support::{Server, eventually, secs};
use crate::tool::{Ended, Running, bare, on, redlatch, redlatch_within, run};

#[tokio::test]
async fn the_exit_code_of_the_command_is_passed_on() {
    let servers = [Server::start()];
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137)] {
        on(&servers, &["run", "k", "--", "sh", "-c", script]).await.is(code).is_silent();
        assert!(servers[0].lock_keys().is_empty(), "it is released");
    }
}

#[tokio::test]
async fn the_command_has_its_input_output_and_environment() {
    let servers = Server::group(3);
    let script = r#"cat in; echo "$1 $REDLATCH_KEY $REDLATCH_FENCING_TOKEN"; echo oops >&2"#;
    let scene = Scene::new();
    std::fs::write(scene.path("in"), "given\n").unwrap();
    let args = ["run", "nightly report", "--", "sh", "-c", script, "name", "an arg"];
    let mut command = redlatch(&servers, &args);
    scene.of(&mut command).env("REDLATCH_KEY", "of an outer one");
    let ended = run(command).await;
    // Nobody waits for the slowest of them.
    let token = servers.iter().find_map(|server| server.counter("{nightly report}:fence")).unwrap();
    assert_eq!(ended.out, format!("given\nan arg nightly report {token}\n"));
    assert_eq!((ended.code, ended.err.as_str()), (0, "oops"));
}

#[tokio::test]
async fn a_command_that_cannot_be_started_leaves_no_lock() {
    let servers = [Server::start()];
    for (program, code) in [("/no/such/command", 127), ("no-such-command", 127), ("/", 126)] {
        let ended = on(&servers, &["run", "k", "--", program]).await;
        ended.is(code).says(&format!("redlatch: {program}: "));
        assert!(servers[0].lock_keys().is_empty(), "it is released");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn each_exit_code_of_the_help_comes_of_what_it_says() {
    let servers = [Server::start()];
    let (server, url) = (&servers[0], servers[0].url());
    let mut seen = BTreeSet::new();
    let mut is = |ended: Ended, code: i32| {
        ended.is(code);
        seen.insert(if code > 128 { "128+n".to_owned() } else { code.to_string() });
    };
    is(on(&servers, &["run", "k", "--", "true"]).await, 0);
    is(on(&servers, &["inspect", "k"]).await, 1);
    is(on(&servers, &["break", "--yes", "k"]).await, 1);
    is(on(&servers, &["run", "", "--", "true"]).await, 64);
    let script = format!("redis-cli -u {url} del k");
    is(on(&servers, &["run", "k", "--", "sh", "-c", &script]).await, 70);
    // It cannot wait for anything without a file to do so.
    let mut starved = Command::new("sh");
    starved.args([
        "-c",
        r#"exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; ulimit -n 4; exec "$0" ping"#,
        env!("CARGO_BIN_EXE_redlatch"),
    ]);
    is(run(starved).await, 71);
    assert!(server.foreign_lock("held", "another", secs(600)));
    is(on(&servers, &["run", "--no-wait", "held", "--", "true"]).await, 75);
    is(on(&servers, &["break", "held"]).await, 64);
    is(on(&servers, &["run", "k", "--", "/"]).await, 126);
    is(on(&servers, &["run", "k", "--", "/no/such/command"]).await, 127);
    is(on(&servers, &["run", "k", "--", "sh", "-c", "kill -9 $$"]).await, 137);
    server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    is(on(&servers, &["doctor"]).await, 78);
    server.kill();
    is(on(&servers, &["inspect", "k"]).await, 69);

    let help = run(bare(&["--help"])).await.out;
    let (_, table) = help.split_once("Exit codes:\n").unwrap();
    let told: BTreeSet<_> =
        table.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect();
    assert_eq!(told, seen, "{help}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_has_ended_already_is_not_taken_for_left_running() {
    let servers = [Server::start()];
    let scene = Scene::new();
    // The child ends when the shell has become `cat`, which does not know of it and never waits for it.
    let script = "mkfifo stop
                  (until grep -q cat /proc/$$/comm; do sleep 0.02; done) & echo $! > pid
                  exec cat stop";
    let mut command = redlatch(&servers, &["run", "k", "--", "sh", "-c", script]);
    let running = Running::start(scene.of(&mut command));
    scene.comes_to_have("pid").await;
    let stat = format!("/proc/{}/stat", scene.read("pid").trim());
    let is_zombie = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "));
    eventually("it has ended", async || is_zombie()).await;
    std::fs::write(scene.path("stop"), "").unwrap();
    running.end().await.is(0).is_silent();
}

#[tokio::test]
async fn what_cannot_work_is_a_usage_error() {
    let server = [Server::start()];
    for args in [
        &["run", "--ttl", "30", "k", "--", "true"][..],
        &["run", "{k}:fence", "--", "true"],
        &["inspect", "{k}:fence"],
        &["break", "--yes", "{k}:fence"],
        &["run", "--ttl", "25h", "k", "--", "true"],
        &["run", "--ttl", "0s", "k", "--", "true"],
        &["run", "--grace", "30s", "k", "--", "true"],
        &["run", "--grace", "0s", "k", "--", "true"],
        &["run", "--wait", "1s", "--no-wait", "k", "--", "true"],
        &["run", "", "--", "true"],
        &["run", "k"],
        &["run", "k", "true"],
        &["frob"],
        &[],
    ] {
        let ended = on(&server, args).await;
        assert!(ended.code == 64 && !ended.err.is_empty() && ended.out.is_empty(), "{ended:?}");
    }
    assert_eq!(server[0].scripts(), 0, "nothing was sent");
}

#[tokio::test]
async fn help_and_version_are_no_errors() {
    let help = run(bare(&["run", "--help"])).await;
    help.is(0).prints("REDLATCH_FENCING_TOKEN").prints("for ever").prints("setsid");
    run(bare(&["--version"])).await.is(0).prints(env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn too_few_servers_are_unavailable() {
    let servers = Server::group(3);
    servers[1..].iter().for_each(Server::kill);
    for args in [
        &["run", "k", "--", "echo", "ran"][..],
        &["run", "--no-wait", "k", "--", "echo", "ran"],
        &["inspect", "k"],
        &["break", "--yes", "k"],
    ] {
        let ended = on(&servers, args).await;
        ended.is(69).says(&servers[1].name()).says("refused");
        assert_eq!(ended.out, "");
    }
}

#[tokio::test]
async fn errors_are_told_in_json_too() {
    let servers = [Server::start()];
    servers[0].kill();
    let mut failed = Running::start(&mut redlatch(&servers, &["inspect", "k", "--json"]));
    let event = failed.tells("failed").await;
    assert_eq!(event["exit_code"], 69);
    assert!(event["message"].as_str().is_some_and(|text| text.contains("refused")), "{event}");
    failed.end().await.is(69);
}

#[tokio::test]
async fn an_unconfirmed_release_keeps_the_exit_code() {
    let servers = [Server::start()];
    let url = servers[0].user("tool", "pw", &["~*", "&*", "+@all"]);
    let scene = Scene::new();
    let script = "echo up > up; while ! test -e stop; do sleep 0.02; done; exit 4";
    let args = ["--nodes", &url, "run", "k", "--", "sh", "-c", script];
    let mut command = redlatch_within("1s", &[], &args);
    let running = Running::start(scene.of(&mut command));
    scene.comes_to_have("up").await;
    servers[0].command(&["ACL", "SETUSER", "tool", "-eval", "-evalsha"]);
    std::fs::write(scene.path("stop"), "").unwrap();
    let ended = running.end().await;
    ended.is(4).says("k may not be released before its TTL is over").says("NoPerm");
    eventually("the key is left to its TTL", async || servers[0].get("k").is_some()).await;
}
