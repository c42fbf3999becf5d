//! Who a node logs in as, where its URL does not say it.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use redlatch::deadpool_redis::{Config, redis};
use redlatch::{Credentials, LockManager, Node};

use crate::support::{Server, Site, eventually, everything_said, on_servers, secs, within};

on_servers!(a_password_beside_the_url_is_used, a_client_that_is_set_up_is_used);

async fn a_password_beside_the_url_is_used(site: Site) {
    let nodes = site.all().iter().map(|server| {
        let url = server.user("ann", "p@ss/word", &["~*", "&*", "+@all"]);
        assert!(url.contains("ann"));
        // What it says is taken back.
        let url = format!("redis://bob:wrong@{}", server.name());
        Node::open(url).unwrap().with_password("ann", "p@ss/word")
    });
    locks_as("ann", &site, nodes).await;
}

async fn a_client_that_is_set_up_is_used(site: Site) {
    let nodes = site.all().iter().map(|server| {
        let url = server.user("ann", "right", &["~*", "&*", "+@all"]);
        let client = redis::Client::open(url).unwrap();
        let node = Node::from(client);
        assert_eq!(node.name(), server.name());
        node
    });
    locks_as("ann", &site, nodes).await;
}

#[tokio::test]
async fn without_a_user_the_password_is_the_default_users() {
    let server = Server::start();
    server.command(&["CONFIG", "SET", "requirepass", "right"]);
    let node = Node::open(server.url()).unwrap().with_password("", "right");
    let manager = LockManager::single(node).node_timeout(secs(10)).build().unwrap();
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
}

#[test]
fn a_password_for_who_logs_nobody_in_is_refused() {
    let pool = Config::from_url("redis://h").create_pool(None).unwrap();
    let with_password = |node: Node| node.with_password("ann", "hunter");
    let asking = |node: Node| node.with_credentials(ask("hunter"));
    let nodes = [Node::in_memory(), Node::from(pool)];
    for node in nodes.iter().cloned().flat_map(|node| [with_password(node.clone()), asking(node)]) {
        let error = LockManager::single(node.clone()).build().unwrap_err();
        assert!(error.is_config() && error.to_string().contains(node.name()), "{error}");
        assert!(!format!("{error:?} {node:?}").contains("hunter"));
    }
}

#[tokio::test]
async fn a_provider_is_asked_for_each_connection() {
    let server = Server::start();
    server.command(&["CONFIG", "SET", "requirepass", "one"]);
    let (password, asked) = (Arc::new(Mutex::new("one")), Arc::new(AtomicUsize::new(0)));
    let node = Node::open(server.url()).unwrap().with_credentials({
        let (password, asked) = (password.clone(), asked.clone());
        move || {
            asked.fetch_add(1, Ordering::SeqCst);
            let password = *password.lock().unwrap();
            async move { Ok::<_, io::Error>(Credentials::new("", password)) }
        }
    });
    let manager = LockManager::single(node).node_timeout(secs(10)).build().unwrap();
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 1, "once, though the library asks twice");
    server.command(&["CONFIG", "SET", "requirepass", "two"]);
    *password.lock().unwrap() = "two";
    // Who is logged in stays so.
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connection_logs_in_anew_before_its_credentials_end() {
    let server = Server::start();
    server.user("ann", "right", &["~*", "&*", "+@all"]);
    let node = Node::open(server.url()).unwrap().with_credentials(|| async {
        Ok::<_, io::Error>(Credentials::new("ann", "right").valid_for(secs(1)))
    });
    let manager = LockManager::single(node).node_timeout(secs(10)).build().unwrap();
    let guard = within(manager.lock("k").ttl(secs(600)).acquire()).await.unwrap();
    let at_first = server.calls("auth");
    eventually("it logs in anew", async || server.calls("auth") >= at_first + 2).await;
    within(guard.release()).await.unwrap();
}

#[tokio::test]
async fn a_provider_that_fails_is_an_outage_that_says_why() {
    let server = Server::start();
    let down = || async { Err::<Credentials, _>(io::Error::other("the vault is sealed")) };
    let node = Node::open(server.url()).unwrap().with_credentials(down);
    let manager = LockManager::single(node).node_timeout(secs(10)).build().unwrap();
    let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(everything_said(&error.node_errors()[0]).contains("the vault is sealed"), "{error:?}");
}

/// A provider that always gives this password.
fn ask(password: &'static str) -> impl Fn() -> std::future::Ready<io::Result<Credentials>> {
    move || std::future::ready(Ok(Credentials::new("", password)))
}

async fn locks_as(user: &str, site: &Site, nodes: impl Iterator<Item = Node>) {
    let manager = LockManager::quorum(nodes).node_timeout(secs(10)).build().unwrap();
    let guard = within(manager.lock("k").ttl(secs(60)).acquire()).await.unwrap();
    let waiter = tokio::spawn(manager.lock("k").acquire());
    within(guard.release()).await.unwrap();
    within(within(waiter).await.unwrap().unwrap().release()).await.unwrap();
    for server in site.all() {
        let clients: String = server.query(&["CLIENT", "LIST"]);
        assert!(clients.contains(&format!("user={user}")), "{clients}");
    }
}
