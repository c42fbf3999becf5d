//! Single servers of other kinds: behind a socket, or without RESP3.

use redlatch::{LockManager, deadpool_redis};

use crate::support::{Server, eventually, secs, within};

/// A whole life of a lock, and a waiter that gets it.
async fn assert_locks(builder: redlatch::LockManagerBuilder, other: LockManager, server: &Server) {
    let manager = builder.node_timeout(secs(10)).build().unwrap();
    let guard = within(manager.lock("k").ttl(secs(60)).acquire()).await.unwrap();
    assert_eq!(server.get("k").as_deref(), Some(guard.owner_token().as_str()));
    within(guard.extend(secs(600))).await.unwrap();
    let waiter = tokio::spawn(other.lock("k").ttl(secs(600)).acquire());
    within(other.inspect("k")).await.unwrap();
    within(guard.release()).await.unwrap();
    drop(within(waiter).await.unwrap().unwrap());
    eventually("it is released", async || server.lock_keys().is_empty()).await;
}

#[tokio::test]
async fn a_unix_socket_is_as_good_as_a_port() {
    let server = Server::start_with(&["--unixsocket", "{dir}/s"]);
    let url = format!("redis+unix://{}", server.path("s"));
    let by_port = LockManager::single(server.url()).build().unwrap();
    assert_locks(LockManager::single(&url), by_port, &server).await;
    let by_socket = LockManager::single(&url).build().unwrap();
    assert_eq!(within(by_socket.ping()).await[0].name(), server.path("s"));
    let pool = deadpool_redis::Config::from_url(url).create_pool(None).unwrap();
    assert_locks(LockManager::single(pool), by_socket, &server).await;
}

#[tokio::test]
async fn a_server_without_resp3_all_served() {
    let server = Server::start_with(&["--rename-command", "HELLO", ""]);
    let other = LockManager::single(server.url()).build().unwrap();
    assert_locks(LockManager::single(server.url()), other, &server).await;
}
