//! Who a node logs in as, where its URL does not say it.

use redlatch::deadpool_redis::{Config, redis};
use redlatch::{LockManager, Node};

use crate::support::{Server, Site, on_servers, secs, within};

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
    drop(within(LockManager::single(node).build().unwrap().lock("k").acquire()).await.unwrap());
}

#[test]
fn a_password_for_who_logs_nobody_in_is_refused() {
    let pool = Config::from_url("redis://h").create_pool(None).unwrap();
    for node in [Node::in_memory(), Node::from(pool)] {
        let node = node.with_password("ann", "hunter");
        let error = LockManager::single(node.clone()).build().unwrap_err();
        assert!(error.is_config() && error.to_string().contains(node.name()), "{error}");
        assert!(!format!("{error:?} {node:?}").contains("hunter"));
    }
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
