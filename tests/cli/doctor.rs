//! `redlatch doctor`.

use crate::support::Server;
use crate::tool::on;

#[tokio::test]
async fn sound_servers_are_exit_code_0() {
    let server = [Server::start_with(&["--appendonly", "yes", "--appendfsync", "always"])];
    on(&server, &["doctor"]).await.is(0).prints("nothing found");
    if server[0].version() < (7, 0) {
        on(&server, &["doctor"]).await.is(0).prints("note: ");
    }
    let ended = on(&server, &["doctor", "--json"]).await;
    assert_eq!(ended.is(0).out, "");
}

#[tokio::test]
async fn what_is_critical_is_exit_code_78() {
    let servers = Server::group(3);
    for replica in &servers[1..] {
        replica.command(&["REPLICAOF", "127.0.0.1", &servers[0].port().to_string()]);
    }
    let ended = on(&servers, &["doctor"]).await;
    let words = format!("critical: {}: ", servers[1].name());
    ended.is(78).prints(&words).prints("[not-master]").prints("what to do: ");
    let found = on(&servers, &["doctor", "--json"]).await.json();
    assert_eq!(found[0]["severity"], "critical");
    assert_eq!(
        (&found[0]["check"], &found[0]["node"]),
        (&"not-master".into(), &servers[1].name().into())
    );
    for field in ["problem", "consequence", "advice"] {
        assert!(found[0][field].as_str().is_some_and(|text| !text.is_empty()), "{found:?}");
    }
}

#[tokio::test]
async fn too_few_servers_are_exit_code_69() {
    let servers = Server::group(3);
    servers[0].kill();
    on(&servers, &["doctor"]).await.is(0).prints("[no-answer]");
    servers[1].kill();
    on(&servers, &["doctor"]).await.is(69).prints("[no-answer]");
}

#[tokio::test]
async fn missing_rights_are_found() {
    let server = Server::start();
    if server.lacks("redis.acl_check_cmd", (7, 0)) {
        return;
    }
    let url = server.user("tool", "hunter2", &["~*", "&*", "+@all", "-evalsha"]);
    let ended = on(&[], &["--nodes", &url, "doctor"]).await;
    ended.is(78).prints("[rights]").prints("evalsha");
    assert!(!ended.out.contains("hunter2"), "{ended:?}");
}
