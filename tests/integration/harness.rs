//! The harness does what the other tests rely on.

use std::time::Duration;

use crate::support::{Monitor, Proxy, Server, eventually, poll_times};

#[test]
fn a_started_server_answers_and_is_empty() {
    let server = Server::start();
    assert!(server.lock_keys().is_empty());
}

#[test]
fn a_dropped_server_is_gone() {
    let server = Server::start();
    let address = ("127.0.0.1", server.port());
    drop(server);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn servers_of_a_group_are_different_ones() {
    let mut ports: Vec<_> = Server::group(5).iter().map(Server::port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 5);
}

#[test]
fn a_restarted_server_keeps_its_port_and_forgets_its_keys() {
    let server = Server::start();
    server.command(&["SET", "k", "v"]);
    server.restart();
    assert_eq!(server.get("k"), None);
}

#[test]
fn a_paused_server_answers_again_after_resume() {
    let server = Server::start();
    server.command(&["SET", "k", "v"]);
    server.pause();
    server.resume();
    assert_eq!(server.get("k").as_deref(), Some("v"));
}

#[test]
fn calls_are_counted_by_command() {
    let server = Server::start();
    server.reset_calls();
    server.command(&["SET", "k", "v"]);
    server.command(&["SET", "k", "v"]);
    assert_eq!(server.calls("set"), 2);
}

#[test]
fn a_monitor_sees_commands_but_not_those_of_scripts() {
    let server = Server::start();
    let monitor = Monitor::start(&server);
    server.command(&["EVAL", "return redis.call('GET', 'k')", "0"]);
    let commands = monitor.commands();
    assert_eq!(commands.len(), 1, "{commands:?}");
}

#[test]
fn a_proxy_loses_replies_but_not_requests() {
    use redlatch::deadpool_redis::redis::{Client, cmd};
    let server = Server::start();
    let proxy = Proxy::start(&server);
    let client = Client::open(proxy.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    connection.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    proxy.swallow_replies();
    let reply = cmd("SET").arg("k").arg("v").query::<()>(&mut connection);
    assert!(reply.is_err() && server.get("k").is_some());
}

#[tokio::test]
async fn eventually_waits_for_its_condition() {
    let mut looks = 0;
    eventually("three looks", async || {
        looks += 1;
        looks == 3
    })
    .await;
    assert_eq!(looks, 3);
}

#[tokio::test]
async fn a_future_polled_no_times_does_nothing() {
    let mut touched = false;
    poll_times(0, async { touched = true }).await;
    assert!(!touched);
}
