//! A real Redis Cluster, made by the test that owns it.

use std::time::{Duration, Instant};

use redlatch::deadpool_redis::{cluster, redis::Value};
use redlatch::{LockManager, LockManagerBuilder, Node};

use crate::support::{BOUND, LASTING, Server};

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
}

impl Cluster {
    /// Starts `n` servers that share the slots evenly, and waits until all agree.
    pub(crate) fn of(n: usize) -> Self {
        Self::start(n, 0, &[])
    }

    /// Starts `n` masters and as many replicas, which take over soon after a master has died.
    pub(crate) fn with_replicas(n: usize) -> Self {
        let soon = ["--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"];
        let cluster = Self::start(n, n, &soon);
        let (masters, replicas) = cluster.servers.split_at(n);
        for (master, replica) in masters.iter().zip(replicas) {
            replica.command(&["CLUSTER", "REPLICATE", &id(master)]);
        }
        let is_linked = |replica: &Server| replication(replica, "master_link_status") == "up";
        wait("the replicas are up", || replicas.iter().all(is_linked));
        // A master that dies before its replica is known to all has none.
        let knows_all = |server: &Server| {
            let nodes: String = server.query(&["CLUSTER", "NODES"]);
            nodes.lines().filter(|node| node.contains("slave")).count() == n
        };
        wait("all know the replicas", || cluster.servers.iter().all(knows_all));
        cluster
    }

    fn start(masters: usize, replicas: usize, more: &[&str]) -> Self {
        let args = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"];
        let args = [&args, more].concat();
        let start = || Server::start_with(&args);
        let servers: Vec<Server> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..masters + replicas).map(|_| scope.spawn(start)).collect();
            starts.into_iter().map(|start| start.join().expect("the server starts")).collect()
        });
        let n = masters;
        for (at, server) in servers.iter().enumerate() {
            server.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
        }
        for (at, server) in servers[..n].iter().enumerate() {
            let slots = at * SLOTS / n..(at + 1) * SLOTS / n;
            let slots: Vec<String> = slots.map(|slot| slot.to_string()).collect();
            let mut add = vec!["CLUSTER", "ADDSLOTS"];
            add.extend(slots.iter().map(String::as_str));
            server.command(&add);
        }
        for server in &servers[1..] {
            servers[0].command(&["CLUSTER", "MEET", "127.0.0.1", &server.port().to_string()]);
        }
        let cluster = Self { servers };
        wait("all servers know the whole cluster", || cluster.is_whole());
        cluster
    }

    /// The addresses of all servers, as a URL has them.
    pub(crate) fn addresses(&self) -> String {
        let names: Vec<String> = self.servers.iter().map(Server::name).collect();
        names.join(",")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis-cluster://{}", self.addresses())
    }

    pub(crate) fn node(&self) -> Node {
        Node::open(self.url()).expect("the URL is valid")
    }

    pub(crate) fn pool(&self) -> cluster::Pool {
        let urls: Vec<String> = self.servers.iter().map(Server::url).collect();
        pool(urls)
    }

    /// A builder over the cluster, patient enough for a loaded machine.
    pub(crate) fn builder(&self) -> LockManagerBuilder {
        let patience = Duration::from_secs(10);
        LockManager::single(self.node())
            .node_timeout(patience)
            .release_timeout(patience)
            .ttl(LASTING)
    }

    pub(crate) fn manager(&self) -> LockManager {
        self.builder().build().expect("the settings are valid")
    }

    /// The server that answers for a key.
    pub(crate) fn server_of(&self, key: &str) -> &Server {
        let serves = |server: &&Server| server.try_query::<Value>(&["GET", key]).is_ok();
        self.servers.iter().find(serves).expect("some server has the slot")
    }

    /// The replica of a master, with which it was started.
    pub(crate) fn replica_of(&self, master: &Server) -> &Server {
        let at = self.servers.iter().position(|server| server.port() == master.port());
        &self.servers[at.expect("it is of this cluster") + self.servers.len() / 2]
    }

    /// What is stored under a key, wherever it lies.
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        self.server_of(key).get(key)
    }

    pub(crate) fn lock_keys(&self) -> Vec<String> {
        self.servers.iter().flat_map(Server::lock_keys).collect()
    }

    /// Keys enough that each server has some.
    pub(crate) fn keys(&self) -> Vec<String> {
        (0..40).map(|n| format!("job:{n}")).collect()
    }

    /// Begins to move a key's slot to another server; returns the slot, its old and its new server.
    pub(crate) fn begin_move(&self, key: &str) -> Move<'_> {
        let from = self.server_of(key);
        let is_other = |server: &&Server| {
            server.port() != from.port() && replication(server, "role") == "master"
        };
        let to = self.servers.iter().find(is_other);
        let to = to.expect("there is another server");
        let slot: u64 = from.query(&["CLUSTER", "KEYSLOT", key]);
        let slot = slot.to_string();
        to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
        from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
        Move { cluster: self, slot, from, to }
    }

    fn is_whole(&self) -> bool {
        self.servers.iter().all(|server| {
            let info: String = server.query(&["CLUSTER", "INFO"]);
            let known = format!("cluster_known_nodes:{}\r\n", self.servers.len());
            let lines = ["cluster_state:ok", "cluster_slots_assigned:16384", known.as_str()];
            let nodes: String = server.query(&["CLUSTER", "NODES"]);
            // What is published goes only to those with whom the handshake is over and the link stands.
            let is_linked = |node: &str| node.contains(" connected") && !node.contains("handshake");
            lines.iter().all(|line| info.contains(line)) && nodes.lines().all(is_linked)
        })
    }
}

/// A slot on its way from one server to another.
#[derive(Debug)]
pub(crate) struct Move<'a> {
    cluster: &'a Cluster,
    slot: String,
    from: &'a Server,
    to: &'a Server,
}

impl Move<'_> {
    /// Moves the keys; the slot still belongs to the old server, which points to the new one.
    pub(crate) fn carry(&self) {
        let keys: Vec<String> = self.from.query(&["CLUSTER", "GETKEYSINSLOT", &self.slot, "1000"]);
        assert!(!keys.is_empty(), "there is something to move");
        self.migrate(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Moves one key only.
    pub(crate) fn carry_one(&self, key: &str) {
        self.migrate(&[key]);
    }

    fn migrate(&self, keys: &[&str]) {
        let port = self.to.port().to_string();
        let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "10000", "KEYS"];
        migrate.extend(keys);
        self.from.command(&migrate);
    }

    /// Gives the slot to the new server.
    pub(crate) fn end(&self) {
        let id = id(self.to);
        for server in [self.to, self.from] {
            server.command(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &id]);
        }
        let first = self.slot.clone();
        wait("everybody knows of the move", || {
            let moved = |server: &Server| {
                let nodes: String = server.query(&["CLUSTER", "NODES"]);
                nodes.lines().any(|line| line.starts_with(&id) && has_slot(line, &first))
            };
            self.cluster.servers.iter().all(moved)
        });
    }

    pub(crate) fn to(&self) -> &Server {
        self.to
    }
}

/// A pool over the cluster that these URLs lead to.
pub(crate) fn pool(urls: Vec<String>) -> cluster::Pool {
    cluster::Config::from_urls(urls).create_pool(None).expect("the URLs are valid")
}

/// Waits until `condition` is true; fails the test when it is not within [`BOUND`].
pub(crate) fn wait(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < BOUND, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a server tells of its replication; nothing, while it does not answer.
pub(crate) fn replication(server: &Server, field: &str) -> String {
    // A Sentinel cuts all connections to a server whose role it changes.
    let info: String = server.try_query(&["INFO", "replication"]).unwrap_or_default();
    let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_default().trim().to_owned()
}

fn id(server: &Server) -> String {
    server.query(&["CLUSTER", "MYID"])
}

/// Whether a line of `CLUSTER NODES` names the slot, alone or within a range.
fn has_slot(line: &str, slot: &str) -> bool {
    let slot: u16 = slot.parse().expect("a slot is a number");
    line.split_whitespace().skip(8).any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let bounds = (first.parse::<u16>(), last.parse::<u16>());
        matches!(bounds, (Ok(first), Ok(last)) if (first..=last).contains(&slot))
    })
}

const SLOTS: usize = 16_384;
