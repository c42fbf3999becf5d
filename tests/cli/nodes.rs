//! Which servers, and that their passwords stay secret.

use crate::scene::Scene;
use crate::support::Server;
use crate::tool::{bare, on, redlatch, run};

#[tokio::test]
async fn servers_are_named_by_option_or_environment() {
    let servers = Server::group(3);
    let urls: Vec<_> = servers.iter().map(Server::url).collect();
    let all = urls.join(",");
    for args in [&["ping", "--nodes", &all][..], &["--nodes", &all, "ping"]] {
        assert_eq!(on(&[], args).await.is(0).out.lines().count(), 3);
    }
    let apart = ["ping", "--nodes", &urls[0], "--nodes", &urls[1]];
    assert_eq!(on(&[], &apart).await.is(0).out.lines().count(), 2);
    let mut command = redlatch(&[], &["ping"]);
    command.env("REDLATCH_NODES", format!(" {}, {},", urls[0], urls[1]));
    assert_eq!(run(command).await.is(0).out.lines().count(), 2);
    let mut command = redlatch(&[], &["ping", "--nodes", &urls[0]]);
    command.env("REDLATCH_NODES", &all);
    assert_eq!(run(command).await.is(0).out.lines().count(), 1, "the option goes before");
}

#[tokio::test]
async fn without_servers_it_says_what_to_set() {
    for nodes in [None, Some(""), Some(" ,")] {
        let mut command = bare(&["run", "k", "--", "true"]);
        nodes.map(|nodes| command.env("REDLATCH_NODES", nodes));
        run(command).await.is(64).says("REDLATCH_NODES").says("--nodes");
    }
}

#[tokio::test]
async fn passwords_are_never_shown() {
    let server = Server::start();
    let good = server.user("tool", "hunter2", &["~*", "&*", "+@all"]);
    let wrong = good.replace("hunter2", "hunter2x");
    let down = "redis://tool:hunter2@127.0.0.1:1";
    let twice = format!("{good},{good}");
    let bad = "http://tool:hunter2@127.0.0.1:1";
    for nodes in [&*good, &wrong, down, &twice, bad] {
        for args in [
            &["ping"][..],
            &["inspect", "k", "--json"],
            &["run", "--json", "k", "--", "true"],
            &["run", "--help"],
            &["run", "--frob"],
            &["break", "k"],
        ] {
            let mut command = bare(args);
            command.env("REDLATCH_NODES", nodes);
            let by_environment = run(command).await;
            let by_option = run(bare(&[&["--nodes", nodes], args].concat())).await;
            for ended in [by_environment, by_option] {
                assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_servers_are_handed_on_to_the_command_only_if_wished() {
    let server = Server::start();
    let url = server.user("tool", "hunter2", &["~*", "&*", "+@all"]);
    let script = ["k", "--", "sh", "-c", r#"echo "[$REDLATCH_NODES]""#];
    let of = async |nodes_by: &[&str], options: &[&str]| {
        let mut command = redlatch(&[], &[nodes_by, &["run"], options, &script].concat());
        command.env("REDLATCH_NODES", &url);
        run(command).await.is(0).out.clone()
    };
    assert_eq!(of(&[], &[]).await, "[]\n");
    assert_eq!(of(&["--nodes", &url], &[]).await, "[]\n");
    assert_eq!(of(&[], &["--pass-nodes"]).await, format!("[{url}]\n"));
    let plain = format!("{url}?protocol=resp3");
    assert_eq!(of(&["--nodes", &plain], &["--pass-nodes"]).await, format!("[{plain}]\n"));
}

#[tokio::test]
async fn a_command_that_is_not_handed_the_servers_is_told_how_to_get_them() {
    let inner = env!("CARGO_BIN_EXE_redlatch");
    let ended = on(&[Server::start()], &["run", "k", "--", inner, "ping"]).await;
    ended.is(64).says("--pass-nodes");
}

#[tokio::test]
async fn a_wrong_password_is_said_to_be_wrong() {
    let server = Server::start();
    let url = server.user("tool", "right", &["~*", "&*", "+@all"]).replace("right", "left");
    let ended = on(&[], &["--nodes", &url, "run", "k", "--", "true"]).await;
    ended.is(69).says("Password authentication failed");
}

#[tokio::test]
async fn ping_tells_of_every_server_and_needs_a_majority() {
    let servers = Server::group(3);
    servers[2].kill();
    let ended = on(&servers, &["ping"]).await;
    ended.is(0).prints(&format!("{}  ", servers[0].name())).prints(" ms").prints("refused");
    let pings = on(&servers, &["ping", "--json"]).await.json();
    assert_eq!(pings[1]["node"], servers[1].name());
    assert!(pings[1]["round_trip_ms"].is_f64() && pings[1]["error"].is_null(), "{pings:?}");
    assert!(pings[2]["round_trip_ms"].is_null() && pings[2]["error"].is_string(), "{pings:?}");
    servers[1].kill();
    on(&servers, &["ping"]).await.is(69).prints("refused");
}

#[tokio::test]
async fn a_cause_is_told_once() {
    let servers = Server::group(3);
    servers[2].kill();
    for args in [&["ping"][..], &["inspect", "k"]] {
        let out = on(&servers, args).await.out;
        let line = out.lines().find(|line| line.contains(&servers[2].name())).unwrap();
        assert_eq!(line.matches("refused").count(), 1, "{line}");
    }
}

#[tokio::test]
async fn a_url_that_cannot_work_is_said_to_be_which_and_why() {
    for (nodes, words) in [
        ("localhost:6379", &["write redis://localhost:6379"][..]),
        ("redis://a,redis://b?ssl=true", &["node 2 of 2", "b:6379", "`ssl`", "rediss://"]),
        ("redis://ann:57#hunter2@a", &["%23"]),
        ("http://a:6379", &["a:6379", "redis://"]),
        ("redis://a,b", &["redis-cluster://host1:7000,host2:7000"]),
        ("redis-cluster://ann:hunter2@a,b/x", &["a:6379,b:6379", "database"]),
        ("redis-sentinel://ann:hunter2@a,b", &["redis-sentinel://host1:26379"]),
    ] {
        let mut command = bare(&["ping"]);
        command.env("REDLATCH_NODES", nodes);
        let ended = run(command).await;
        for words in words {
            ended.is(64).says(words);
        }
        assert!(!ended.err.contains("hunter2") && !ended.err.contains("57"), "{ended:?}");
    }
}

#[tokio::test]
async fn servers_are_read_from_a_file() {
    let servers = Server::group(3);
    let scene = Scene::new();
    let [one, two, three] = [0, 1, 2].map(|at| servers[at].url());
    std::fs::write(scene.path("nodes"), format!("# ours\n{one}, {two}\n\n  {three}\n")).unwrap();
    let file = scene.path("nodes").display().to_string();
    let command = redlatch(&servers[..1], &["--nodes-file", &file, "ping"]);
    assert_eq!(run(command).await.is(0).out.lines().count(), 3);
    let script = ["run", "--pass-nodes", "k", "--", "sh", "-c", "echo $REDLATCH_NODES"];
    let ended = run(bare(&[&["--nodes-file", &file], &script[..]].concat())).await;
    ended.is(0).prints(&format!("{one},{two},{three}\n"));
    run(bare(&["--nodes-file", "/there/is/none", "ping"])).await.is(64).says("--nodes-file");
}

#[tokio::test]
async fn the_password_is_what_a_command_prints() {
    let server = Server::start();
    server.user("tool", "right", &["~*", "&*", "+@all"]);
    let scene = Scene::new();
    std::fs::write(scene.path("password"), "right\n").unwrap();
    let url = format!("redis://tool:@{}", server.name());
    let with = async |how: &str, code: i32| {
        let args = ["--node-timeout", "10s", "--nodes", &url, "run", "k", "--", "echo", "ran"];
        let mut command = bare(&args);
        command.env("REDLATCH_PASSWORD_COMMAND", how).env("REDLATCH_OUTAGE_PATIENCE", "0s");
        scene.of(&mut command);
        let ended = run(command).await;
        ended.is(code);
        ended
    };
    with("cat password", 0).await.prints("ran\n");
    with("echo left", 69).await.says("Password authentication failed");
    with("echo oh >&2; exit 3", 69).await.says("exit status: 3").says("oh");
}

#[tokio::test]
async fn a_prefix_goes_before_every_key() {
    let servers = [Server::start()];
    let script = "redis-cli -u $URL keys '*'; echo $REDLATCH_KEY";
    let mut command =
        redlatch(&servers, &["--key-prefix", "app:", "run", "k", "--", "sh", "-c", script]);
    command.env("URL", servers[0].url());
    run(command).await.is(0).prints("app:k\n").prints("\nk\n");
}

#[tokio::test]
async fn what_processes_must_agree_on_can_be_set_by_variable() {
    let help = run(bare(&["--help"])).await;
    for variable in ["NODES", "KEY_PREFIX", "RESTART_QUARANTINE", "NODE_TIMEOUT"] {
        help.is(0).prints(&format!("REDLATCH_{variable}"));
        assert!(include_str!("../../README.md").contains(&format!("| `REDLATCH_{variable}` |")));
    }
    let mut command = bare(&["ping"]);
    command.env("REDLATCH_NODES", "redis://a").env("REDLATCH_NODE_TIMEOUT", "0s");
    run(command).await.is(64).says("node timeout");
}

#[tokio::test]
async fn a_server_that_has_just_restarted_can_be_kept_from_voting() {
    let servers = [Server::start()];
    let args = ["--restart-quarantine", "1h", "run", "k", "--", "echo", "ran"];
    let ended = on(&servers, &args).await;
    ended.is(69).says(&servers[0].name());
    assert_eq!(ended.out, "");
    let mut command = redlatch(&servers, &["run", "k", "--", "true"]);
    command.env("REDLATCH_RESTART_QUARANTINE", "1h");
    run(command).await.is(69).says(&servers[0].name());
    // A TTL that is longer than the quarantine would defeat it.
    let args = ["--restart-quarantine", "1s", "run", "--ttl", "2s", "k", "--", "true"];
    on(&servers, &args).await.is(64).says("TTL");
}
