//! What preflight finds on real servers, and what it does not.

use redlatch::{Finding, LockManager, LockManagerBuilder, Node, Preflight, Severity};

use crate::support::{Monitor, Server, eventually, millis, outside_of_a_runtime, secs, within};

/// What a server must be started with to have nothing found.
const SOUND: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

#[tokio::test]
async fn nothing_is_found_on_sound_servers() {
    let servers = sound_group(3);
    let preflight = asked(quorum(&servers)).await;
    assert!(preflight.findings().is_empty(), "{preflight}");
    assert!(preflight.is_ok() && preflight.worst().is_none());
    assert!(preflight.to_string().starts_with("nothing found"), "{preflight}");
    let notes = if servers[0].version() < (7, 0) { 3 } else { 0 };
    assert_eq!(preflight.notes().len(), notes, "{preflight}");
    let preflight = asked(LockManager::single(servers[0].url())).await;
    assert!(preflight.findings().is_empty(), "{preflight}");
}

#[tokio::test]
async fn nothing_is_found_in_memory() {
    assert!(LockManager::in_memory().preflight().await.findings().is_empty());
    let nodes = (0..3).map(|_| Node::in_memory());
    assert!(asked(LockManager::quorum(nodes)).await.findings().is_empty());
}

#[tokio::test]
async fn nothing_is_found_on_a_connection_of_resp3() {
    let servers = sound_group(1);
    let url = format!("{}?protocol=resp3", servers[0].url());
    let preflight = asked(LockManager::single(url)).await;
    assert!(preflight.findings().is_empty(), "{preflight}");
}

#[tokio::test]
async fn keys_are_left_alone() {
    let server = Server::start();
    server.command(&["SET", "redlatch-preflight", "mine"]);
    server.command(&["SET", "redlatch-preflight:none", "mine"]);
    server.command(&["SET", "{redlatch-preflight}:fence", "7"]);
    let before = server.contents();
    asked(LockManager::single(server.url())).await;
    let rules = ["~*", "+eval"];
    asked(LockManager::single(server.user("limited", "secret", &rules))).await;
    assert_eq!(server.contents(), before);
}

#[tokio::test]
async fn each_node_is_asked_in_one_piece() {
    let server = Server::start();
    let manager = LockManager::single(server.url()).node_timeout(secs(10)).build().unwrap();
    within(manager.ping()).await;
    let monitor = Monitor::start(&server);
    within(manager.preflight()).await;
    let commands = monitor.commands();
    assert_eq!(commands.len(), 3, "{commands:?}");
}

/// Some services refuse a script that names none.
#[tokio::test]
async fn keys_are_named_as_those_of_a_lock_are() {
    let server = Server::start();
    let asks = async |builder: LockManagerBuilder| {
        let manager = builder.node_timeout(secs(10)).build().unwrap();
        within(manager.ping()).await;
        let monitor = Monitor::start(&server);
        within(manager.preflight()).await;
        let mut commands = monitor.commands().into_iter();
        commands.find(|line| line.contains("\"EVAL\"")).unwrap()
    };
    let fenced = asks(LockManager::single(server.url())).await;
    let keys = "\"2\" \"redlatch-preflight\" \"{redlatch-preflight}:fence\" ";
    assert!(fenced.contains(keys), "{fenced}");
    let unfenced = asks(LockManager::single(server.url()).unfenced()).await;
    assert!(unfenced.contains("\"1\" \"redlatch-preflight\" "), "{unfenced}");
}

#[tokio::test]
async fn two_names_of_one_server_are_found() {
    let servers = sound_group(2);
    let alias = format!("redis://localhost:{}", servers[0].port());
    let urls = [servers[0].url(), servers[1].url(), alias];
    let preflight = asked(LockManager::quorum(urls)).await;
    let found = the_only(&preflight, "same-server");
    assert_eq!(found.severity(), Severity::Critical);
    assert_eq!(found.node(), Some(&*format!("localhost:{}", servers[0].port())));
    assert!(found.problem().contains(&servers[0].name()), "{found}");
    assert!(!preflight.is_ok());
}

#[tokio::test]
async fn a_replica_and_its_master_are_found() {
    let servers = sound_group(2);
    let port = servers[0].port().to_string();
    servers[1].command(&["REPLICAOF", "127.0.0.1", &port]);
    eventually("the replica is attached", async || {
        let info: String = servers[0].query(&["INFO", "replication"]);
        info.contains("connected_slaves:1")
    })
    .await;
    let preflight = asked(quorum(&servers)).await;
    let [replica, master] = preflight.findings() else { panic!("{preflight}") };
    assert_eq!((replica.check(), replica.severity()), ("not-master", Severity::Critical));
    assert_eq!(replica.node(), Some(&*servers[1].name()));
    assert!(replica.problem().contains(&servers[0].name()), "{replica}");
    assert_eq!((master.check(), master.severity()), ("replicas", Severity::Warning));
    assert_eq!(master.node(), Some(&*servers[0].name()));
    let lone = asked(LockManager::single(servers[0].url())).await;
    assert_eq!(the_only(&lone, "replicas").severity(), Severity::Warning);
}

#[tokio::test]
async fn what_is_critical_at_a_minority_is_a_warning() {
    let servers = sound_group(3);
    let urls = || {
        let limited =
            servers[0].user("limited", "secret", &["~*", "&*", "+info", "+time", "+ping"]);
        let others = servers[1..].iter().map(Server::url);
        LockManager::quorum([limited].into_iter().chain(others)).restart_quarantine(secs(60))
    };
    let preflight = asked(urls()).await;
    assert_eq!(the_only(&preflight, "rights").severity(), Severity::Warning);
    servers[1].command(&["REPLICAOF", "127.0.0.1", "1"]);
    let preflight = asked(urls()).await;
    assert_eq!(checks(&preflight), ["rights", "not-master"], "{preflight}");
    let critical = |finding: &Finding| finding.severity() == Severity::Critical;
    assert!(preflight.findings().iter().all(critical), "{preflight}");
}

#[tokio::test]
async fn a_policy_that_evicts_locks_is_found_once_memory_is_bounded() {
    let servers = sound_group(1);
    for (policy, is_found) in [
        ("allkeys-lru", true),
        ("volatile-ttl", true),
        ("volatile-random", true),
        ("noeviction", false),
    ] {
        servers[0].command(&["CONFIG", "SET", "maxmemory-policy", policy]);
        servers[0].command(&["CONFIG", "SET", "maxmemory", "0"]);
        let unbounded = asked(LockManager::single(servers[0].url())).await;
        assert!(unbounded.findings().is_empty(), "{policy}: {unbounded}");
        servers[0].command(&["CONFIG", "SET", "maxmemory", "100mb"]);
        let bounded = asked(LockManager::single(servers[0].url())).await;
        assert_eq!(checks(&bounded) == ["eviction"], is_found, "{policy}: {bounded}");
        assert_eq!(bounded.is_ok(), !is_found);
    }
}

#[tokio::test]
async fn nodes_that_forget_are_found_unless_they_are_quarantined() {
    let servers = Server::group(3);
    let preflight = asked(quorum(&servers)).await;
    assert_eq!(checks(&preflight), ["persistence"; 3], "{preflight}");
    assert_eq!(preflight.worst(), Some(Severity::Warning));
    let quarantined = asked(quorum(&servers).restart_quarantine(secs(60))).await;
    assert!(quarantined.findings().is_empty(), "{quarantined}");
    let single = asked(LockManager::single(servers[0].url())).await;
    assert_eq!(the_only(&single, "persistence").severity(), Severity::Advice);
    assert!(single.is_ok(), "{single}");
}

#[tokio::test]
async fn a_file_that_is_written_late_is_pointed_out_on_a_quorum() {
    let servers = sound_group(3);
    servers[1].command(&["CONFIG", "SET", "appendfsync", "everysec"]);
    let preflight = asked(quorum(&servers)).await;
    let found = the_only(&preflight, "fsync");
    assert_eq!((found.severity(), found.node()), (Severity::Advice, Some(&*servers[1].name())));
    assert!(found.problem().contains("everysec") && preflight.is_ok(), "{preflight}");
    let quarantined = asked(quorum(&servers).restart_quarantine(secs(60))).await;
    assert!(quarantined.findings().is_empty(), "{quarantined}");
}

#[tokio::test]
async fn a_node_that_is_gone_is_a_warning_while_the_others_are_a_majority() {
    let servers = sound_group(3);
    servers[0].kill();
    let preflight = asked(quorum(&servers)).await;
    let found = the_only(&preflight, "no-answer");
    assert_eq!((found.severity(), found.node()), (Severity::Warning, Some(&*servers[0].name())));
    assert!(found.problem().contains("refused"), "{found}");
    servers[1].kill();
    let preflight = asked(quorum(&servers)).await;
    assert_eq!(checks(&preflight), ["no-answer"; 2], "{preflight}");
    assert_eq!(preflight.worst(), Some(Severity::Critical));
}

#[tokio::test]
async fn a_silent_node_is_found_after_the_node_timeout() {
    let servers = sound_group(1);
    servers[0].pause();
    let builder = LockManager::single(servers[0].url()).node_timeout(millis(50));
    let preflight = within(builder.build().unwrap().preflight()).await;
    let found = the_only(&preflight, "no-answer");
    assert_eq!(found.severity(), Severity::Critical);
    assert!(found.problem().contains("no answer within 50ms"), "{found}");
}

#[tokio::test]
async fn a_wrong_password_is_found_and_not_repeated() {
    let servers = sound_group(1);
    let url = format!("redis://nobody:topsecret@{}", servers[0].name());
    let preflight = asked(LockManager::single(url)).await;
    the_only(&preflight, "no-answer");
    assert!(!preflight.to_string().contains("topsecret"), "{preflight}");
    servers[0].command(&["CONFIG", "SET", "requirepass", "secret"]);
    let preflight = asked(LockManager::single(servers[0].url())).await;
    let found = the_only(&preflight, "no-answer");
    assert!(found.problem().to_lowercase().contains("auth"), "{found}");
}

#[tokio::test]
async fn a_server_of_a_cluster_is_found() {
    let args = [SOUND, &["--cluster-enabled", "yes"]].concat();
    let server = Server::start_with(&args);
    let preflight = asked(LockManager::single(server.url())).await;
    assert_eq!(the_only(&preflight, "cluster-server").severity(), Severity::Warning);
}

#[tokio::test]
async fn the_one_server_that_has_all_slots_of_a_cluster_is_well() {
    let args = [SOUND, &["--cluster-enabled", "yes"]].concat();
    let server = Server::start_with(&args);
    let slots: Vec<String> = (0..16_384).map(|slot: u32| slot.to_string()).collect();
    let add = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str));
    server.command(&add.collect::<Vec<_>>());
    eventually("the cluster is up", async || {
        server.query::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    })
    .await;
    let preflight = asked(LockManager::single(server.url())).await;
    assert!(preflight.findings().is_empty(), "{preflight}");
    let url = server.user("limited", "secret", &["~*", "&*", "+@all", "-cluster"]);
    let preflight = asked(LockManager::single(url)).await;
    let found = the_only(&preflight, "cluster-server");
    assert!(found.problem().contains("CLUSTER NODES"), "{found}");
}

#[tokio::test]
async fn a_sentinel_is_found() {
    let sentinel = Server::start_sentinel("");
    let preflight = asked(LockManager::single(sentinel.url())).await;
    let found = &preflight.findings()[0];
    assert_eq!((found.check(), found.severity()), ("not-master", Severity::Critical));
    assert!(found.problem().contains("Sentinel"), "{found}");
}

#[tokio::test]
async fn the_user_of_the_readme_lacks_nothing_but_what_preflight_asks_beyond() {
    let servers = sound_group(3);
    let urls = servers.iter().map(|server| server.user("locks", "secret", &readme_rules()));
    let preflight = asked(LockManager::quorum(urls).key_prefix("app:")).await;
    assert_eq!(preflight.worst(), Some(Severity::Unchecked), "{preflight}");
    let mut found = checks(&preflight);
    found.dedup();
    assert_eq!(found.len(), 6, "{preflight}");
    assert!(found.contains(&"server-unchecked") && found.contains(&"clock-unchecked"));
    let server = by_check(&preflight, "server-unchecked");
    assert!(server.problem().contains("info"), "{server}");
    assert!(server.problem().ends_with(
        "not checked: eviction, not-master, old-version, persistence, replicas, same-server"
    ));
    let more = ["+info", "+time", "+config|get"];
    let urls = servers
        .iter()
        .map(|server| server.user("curious", "secret", &[readme_rules(), more.to_vec()].concat()));
    let preflight = asked(LockManager::quorum(urls).key_prefix("app:")).await;
    assert!(preflight.findings().is_empty(), "{preflight}");
    let urls = servers
        .iter()
        .map(|server| server.user("curious", "secret", &[readme_rules(), vec!["+info"]].concat()));
    let preflight = asked(LockManager::quorum(urls).key_prefix("app:")).await;
    assert_eq!(checks(&preflight), ["fsync-unchecked"; 3], "{preflight}");
}

#[tokio::test]
async fn each_missing_command_is_found() {
    let servers = sound_group(1);
    if servers[0].lacks("redis.acl_check_cmd", (7, 0)) {
        return;
    }
    for (command, check) in [
        ("eval", "rights"),
        ("evalsha", "rights"),
        ("get", "rights"),
        ("set", "rights"),
        ("pttl", "rights"),
        ("pexpire", "rights"),
        ("del", "rights"),
        ("publish", "notice-rights"),
        ("subscribe", "notice-rights"),
        ("unsubscribe", "notice-rights"),
        ("ping", "ping-right"),
    ] {
        let without = format!("-{command}");
        let rules = [readme_rules(), vec!["+info", &without]].concat();
        let url = servers[0].user("limited", "secret", &rules);
        let preflight = asked(LockManager::single(url).key_prefix("app:")).await;
        let found = the_only(&preflight, check);
        assert!(found.problem().contains(&command.to_uppercase()), "{preflight}");
        assert!(found.advice().contains(&format!("+{command}")), "{preflight}");
    }
}

#[tokio::test]
async fn keys_and_channels_out_of_bounds_are_found() {
    let servers = sound_group(1);
    if servers[0].lacks("redis.acl_check_cmd", (7, 0)) {
        return;
    }
    let commands =
        "+info +eval +evalsha +ping +get +set +pttl +pexpire +del +publish +subscribe +unsubscribe";
    for (bounds, expected) in [
        ("~app:* ~{app:*}:fence &app:*:released &{app:*}:released", None),
        ("~app:* &{app:*}:released", Some(("rights", "~app:* ~{app:*}:fence"))),
        ("~other:* &{app:*}:released", Some(("rights", "~app:* ~{app:*}:fence"))),
        ("%R~app:* %R~{app:*}:fence &{app:*}:released", Some(("rights", "~app:*"))),
        ("~*", Some(("notice-rights", "&app:*:released &{app:*}:released"))),
    ] {
        let rules = ["resetkeys", "resetchannels"].into_iter();
        let rules: Vec<&str> = rules.chain(bounds.split(' ')).chain(commands.split(' ')).collect();
        let url = servers[0].user("limited", "secret", &rules);
        let preflight = asked(LockManager::single(url).key_prefix("app:")).await;
        match expected {
            None => assert!(preflight.findings().is_empty(), "{bounds}: {preflight}"),
            Some((check, advice)) => {
                assert!(the_only(&preflight, check).advice().contains(advice), "{preflight}");
            }
        }
    }
}

/// On every version: the server refuses them where they are named.
#[tokio::test]
async fn keys_out_of_bounds_are_found() {
    let servers = sound_group(1);
    for bounds in ["~app:*", "~other:*", "~{app:*}:fence"] {
        let url = servers[0].user("limited", "secret", &[bounds, "&*", "+@all"]);
        let preflight = asked(LockManager::single(url).key_prefix("app:")).await;
        let found = the_only(&preflight, "rights");
        assert!(found.advice().ends_with(": ~app:* ~{app:*}:fence"), "{found}");
    }
}

#[tokio::test]
async fn an_unfenced_manager_needs_no_rights_to_counters() {
    let servers = sound_group(1);
    if servers[0].lacks("redis.acl_check_cmd", (7, 0)) {
        return;
    }
    let commands = ["+info", "+eval", "+evalsha", "+ping", "+get", "+set", "+pttl", "+pexpire"];
    let more = ["+del", "+publish", "+subscribe", "+unsubscribe"];
    let unfenced = async |bounds: &[&str]| {
        let rules = [&["resetchannels"], bounds, &commands, &more].concat();
        let url = servers[0].user("limited", "secret", &rules);
        asked(LockManager::single(url).key_prefix("app:").unfenced()).await
    };
    let preflight = unfenced(&["~app:*", "&{app:*}:released"]).await;
    assert!(preflight.findings().is_empty(), "{preflight}");
    let preflight = unfenced(&["~{app:*}:fence", "&{app:*}:released"]).await;
    assert!(the_only(&preflight, "rights").advice().ends_with(": ~app:*"), "{preflight}");
}

#[tokio::test]
async fn without_a_prefix_bounds_cannot_be_judged() {
    let servers = sound_group(1);
    let url = servers[0].user("limited", "secret", &[readme_rules(), vec!["+info"]].concat());
    let preflight = asked(LockManager::single(url)).await;
    assert_eq!(the_only(&preflight, "keys-unchecked").severity(), Severity::Unchecked);
    if servers[0].lacks("redis.acl_check_cmd", (7, 0)) {
        return;
    }
    let rules = [readme_rules(), vec!["+info", "-del", "-publish"]].concat();
    let url = servers[0].user("limited", "secret", &rules);
    let preflight = asked(LockManager::single(url)).await;
    assert!(by_check(&preflight, "rights").problem().contains("DEL"), "{preflight}");
}

#[tokio::test]
async fn a_refused_quarantine_is_found() {
    let servers = sound_group(1);
    let url = servers[0].user("locks", "secret", &readme_rules());
    let builder = LockManager::single(url).key_prefix("app:").restart_quarantine(secs(60));
    let preflight = asked(builder).await;
    let found = the_only(&preflight, "no-answer");
    assert!(found.problem().contains("info"), "{found}");
}

#[tokio::test]
async fn a_closed_manager_can_be_looked_at() {
    let servers = sound_group(1);
    let manager = LockManager::single(servers[0].url()).node_timeout(secs(10)).build().unwrap();
    within(manager.close()).await;
    assert!(within(manager.preflight()).await.findings().is_empty());
}

#[test]
fn preflight_outside_of_a_runtime_says_so() {
    let manager = LockManager::single("redis://127.0.0.1:1").build().unwrap();
    let preflight = outside_of_a_runtime(manager.preflight());
    assert!(the_only(&preflight, "no-answer").problem().contains("runtime"), "{preflight}");
}

#[tokio::test]
async fn a_report_says_what_can_happen_and_what_to_do() {
    let server = Server::start();
    let preflight = asked(LockManager::single(server.url())).await;
    let [found] = preflight.findings() else { panic!("{preflight}") };
    let report = preflight.to_string();
    for part in
        [found.problem(), found.consequence(), found.advice(), found.check(), &server.name()]
    {
        assert!(!part.is_empty() && report.contains(part), "{part:?} in {report}");
    }
    assert!(report.starts_with("advice: "), "{report}");
}

/// What is found by a manager that is patient enough for a loaded machine.
async fn asked(builder: LockManagerBuilder) -> Preflight {
    within(builder.node_timeout(secs(10)).build().unwrap().preflight()).await
}

fn quorum(servers: &[Server]) -> LockManagerBuilder {
    LockManager::quorum(servers.iter().map(Server::url))
}

fn sound_group(n: usize) -> Vec<Server> {
    (0..n).map(|_| Server::start_with(SOUND)).collect()
}

fn checks(preflight: &Preflight) -> Vec<&str> {
    preflight.findings().iter().map(Finding::check).collect()
}

fn by_check<'a>(preflight: &'a Preflight, check: &str) -> &'a Finding {
    let mut found = preflight.findings().iter().filter(|finding| finding.check() == check);
    found.next().unwrap_or_else(|| panic!("no {check}: {preflight}"))
}

fn the_only<'a>(preflight: &'a Preflight, check: &str) -> &'a Finding {
    assert_eq!(checks(preflight), [check], "{preflight}");
    &preflight.findings()[0]
}

/// The rights that the README gives, for the prefix `app:`.
fn readme_rules() -> Vec<&'static str> {
    let readme = include_str!("../../README.md");
    let (_, rules) = readme.split_once("ACL SETUSER locks on >password ").unwrap();
    rules.lines().next().unwrap().split(' ').collect()
}
