//! Passwords that change, of clusters and of a master that Sentinels know.

use std::io;
use std::sync::{Arc, Mutex};

use redlatch::{Credentials, LockManager, Node};

use crate::cluster_of::{Cluster, wait};
use crate::sentinels::Sentinels;
use crate::support::{BOUND, Server, secs, within};

#[tokio::test]
async fn a_clusters_password_may_change() {
    let cluster = Cluster::of(3);
    let password = Password::of("one", &cluster.servers);
    let manager = LockManager::single(password.asked_by(cluster.node()));
    let manager = manager.node_timeout(secs(10)).build().unwrap();
    for word in ["one", "two", "three"] {
        password.becomes(word, &cluster.servers);
        for key in cluster.keys() {
            within(manager.lock(key).acquire()).await.unwrap().release().await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_password_of_a_master_may_change_before_it_dies() {
    let site = Sentinels::start();
    let password = Password::of("one", &site.servers);
    let manager = LockManager::single(password.asked_by(site.node()));
    let manager = manager.node_timeout(secs(2)).outage_patience(BOUND).build().unwrap();
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    password.becomes("two", &site.servers);
    within(manager.lock("k").acquire()).await.unwrap().release().await.unwrap();
    password.becomes("three", &site.servers);
    site.servers[0].kill();
    let guard = within(manager.lock("k").acquire()).await.unwrap();
    // A Sentinel cuts all connections to a server whose role it changes.
    let held = || site.servers[1].try_query::<Option<String>>(&["GET", "k"]).ok().flatten();
    wait("it is held on the new master", || {
        held().as_deref() == Some(guard.owner_token().as_str())
    });
    within(guard.release()).await.unwrap();
}

/// The password of the user `ann`.
struct Password(Arc<Mutex<&'static str>>);

impl Password {
    fn of(word: &'static str, servers: &[Server]) -> Self {
        let password = Self(Arc::new(Mutex::new(word)));
        password.becomes(word, servers);
        password
    }

    /// Changes it everywhere, and ends the connections of those who logged in before.
    fn becomes(&self, word: &'static str, servers: &[Server]) {
        *self.0.lock().unwrap() = word;
        for server in servers {
            server.user("ann", word, &["~*", "&*", "+@all"]);
            server.command(&["CLIENT", "KILL", "USER", "ann"]);
        }
    }

    fn asked_by(&self, node: Node) -> Node {
        let password = self.0.clone();
        node.with_credentials(move || {
            let word = *password.lock().unwrap();
            async move { Ok::<_, io::Error>(Credentials::new("ann", word)) }
        })
    }
}
