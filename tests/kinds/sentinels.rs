//! A master, its replica and three Sentinels that watch them, made by the test that owns them.

use std::time::Duration;

use redlatch::deadpool_redis::sentinel;
use redlatch::{LockManager, LockManagerBuilder, Node};

use crate::cluster_of::{replication, wait};
use crate::support::{LASTING, Server};

#[derive(Debug)]
pub(crate) struct Sentinels {
    /// The master at first, and its replica.
    pub(crate) servers: [Server; 2],
    pub(crate) sentinels: Vec<Server>,
}

impl Sentinels {
    /// Starts them all, and waits until every Sentinel knows the replica and the other Sentinels.
    pub(crate) fn start() -> Self {
        let master = Server::start();
        let port = master.port().to_string();
        let replica = Server::start_with(&["--replicaof", "127.0.0.1", &port]);
        let config = format!(
            "sentinel monitor {MASTER} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {MASTER} 500\n\
             sentinel failover-timeout {MASTER} 3000\n"
        );
        let sentinels = (0..3).map(|_| Server::start_sentinel(&config)).collect();
        let site = Self { servers: [master, replica], sentinels };
        wait("the Sentinels know one another", || site.is_complete());
        site
    }

    /// The name of the node.
    pub(crate) fn name(&self) -> String {
        let names: Vec<String> = self.sentinels.iter().map(Server::name).collect();
        format!("{}/{MASTER}", names.join(","))
    }

    pub(crate) fn node(&self) -> Node {
        Node::open(format!("redis-sentinel://{}", self.name())).expect("the URL is valid")
    }

    pub(crate) fn pool(&self) -> sentinel::Pool {
        let urls: Vec<String> = self.sentinels.iter().map(Server::url).collect();
        let server_type = sentinel::SentinelServerType::Master;
        let config = sentinel::Config::from_urls(urls, MASTER.to_owned(), server_type);
        config.create_pool(None).expect("the URLs are valid")
    }

    pub(crate) fn builder(&self) -> LockManagerBuilder {
        let patience = Duration::from_secs(2);
        LockManager::single(self.node())
            .node_timeout(patience)
            .release_timeout(patience)
            .ttl(LASTING)
    }

    pub(crate) fn manager(&self) -> LockManager {
        self.builder().build().expect("the settings are valid")
    }

    /// Has the Sentinels promote the replica while the master is well.
    pub(crate) fn fail_over(&self) {
        self.sentinels[0].command(&["SENTINEL", "FAILOVER", MASTER]);
    }

    /// Waits until all Sentinels name this server as the master, and it is.
    pub(crate) fn wait_for_master(&self, server: &Server) {
        wait("the failover", || {
            let named = |sentinel: &Server| {
                let [_, port]: [String; 2] =
                    sentinel.query(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
                port == server.port().to_string()
            };
            self.sentinels.iter().all(named) && role(server) == "master"
        });
    }

    /// Waits until the replica has a key.
    pub(crate) fn wait_for_replication(&self, key: &str) {
        let replica = &self.servers[1];
        wait("the key is replicated", || replica.get(key).is_some());
    }

    fn is_complete(&self) -> bool {
        self.sentinels.iter().all(|sentinel| {
            let info: String = sentinel.query(&["INFO", "sentinel"]);
            info.contains("status=ok") && info.contains("slaves=1,sentinels=3")
        }) && link(&self.servers[1]) == "up"
    }
}

pub(crate) fn role(server: &Server) -> String {
    replication(server, "role")
}

fn link(replica: &Server) -> String {
    replication(replica, "master_link_status")
}

pub(crate) const MASTER: &str = "locks";
