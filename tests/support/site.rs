//! The nodes a fact is tested on: one or several, real servers or in memory.

use std::time::Duration;

use redlatch::{LockManager, LockManagerBuilder, Node, OwnerToken};
use tokio::runtime::Builder;

use super::drive::{BOUND, LASTING, eventually, within};
use super::proxy::Proxy;
use super::server::Server;

#[derive(Debug)]
pub(crate) enum Site {
    Servers(Vec<Server>),
    Memory(Vec<Node>),
}

impl Site {
    pub(crate) fn servers(n: usize) -> Self {
        Self::Servers(Server::group(n))
    }

    pub(crate) fn memory(n: usize) -> Self {
        Self::Memory((0..n).map(|_| Node::in_memory()).collect())
    }

    /// A builder over all nodes, patient enough for a loaded machine, of locks that no test sees expire unawares.
    pub(crate) fn builder(&self) -> LockManagerBuilder {
        let builder = match self {
            Self::Servers(servers) => match servers.as_slice() {
                [only] => LockManager::single(only.url()),
                several => LockManager::quorum(several.iter().map(Server::url)),
            },
            Self::Memory(nodes) => match nodes.as_slice() {
                [only] => LockManager::single(only.clone()),
                several => LockManager::quorum(several.to_vec()),
            },
        };
        patient(builder)
    }

    /// A faulty network in front of each server, and a builder over them.
    pub(crate) fn proxied(&self) -> (Vec<Proxy>, LockManagerBuilder) {
        let proxies: Vec<_> = self.all().iter().map(Proxy::start).collect();
        let builder = patient(LockManager::quorum(proxies.iter().map(Proxy::url)));
        (proxies, builder)
    }

    /// A manager of its own over all nodes.
    pub(crate) fn manager(&self) -> LockManager {
        self.builder().build().expect("the settings are valid")
    }

    /// The real servers; none for nodes in memory.
    pub(crate) fn all(&self) -> &[Server] {
        match self {
            Self::Servers(servers) => servers,
            Self::Memory(_) => &[],
        }
    }

    pub(crate) fn is_memory(&self) -> bool {
        matches!(self, Self::Memory(_))
    }

    /// The owner token that holds `key` on a majority of nodes.
    pub(crate) async fn holder(&self, key: &str) -> Option<String> {
        let status = self.manager().inspect(key).await.expect("the nodes answer");
        status.owner_token().map(|owner| owner.as_str().to_owned())
    }

    /// Deletes `key` on all nodes behind its holder's back.
    pub(crate) async fn delete(&self, key: &str, owner: &OwnerToken) {
        match self {
            Self::Servers(servers) => servers.iter().for_each(|server| server.del(key)),
            Self::Memory(_) => {
                let thief = self.manager();
                let request = thief.lock(key).owner(owner.clone());
                let held = request.acquire_or_extend().await.expect("the owner may take it over");
                held.release().await.expect("the owner may release it");
            }
        }
    }

    /// Gives `key` to another owner, behind its holder's back, on all nodes.
    pub(crate) async fn seize(&self, key: &str, owner: &OwnerToken) {
        self.delete(key, owner).await;
        let other = OwnerToken::new(ANOTHER).expect("the token is valid");
        let request = self.manager().lock(key).owner(other).ttl(Duration::from_secs(600));
        request.try_acquire().await.expect("the key is free").forget();
    }

    /// Holds this thread, and all that runs on it, until another owner has had `key`.
    pub(crate) fn blocks_until_anothers_turn(&self, key: &str) {
        let turn = async {
            // Its runtime ends once a majority has released it: what a slow server still has, the TTL ends.
            let request = self.manager().lock(key).ttl(Duration::from_secs(5));
            within(request.acquire()).await.expect("it ends some time").release().await
        };
        let runtime = || Builder::new_current_thread().enable_all().build();
        let other = || runtime().expect("a runtime can be made").block_on(turn);
        let released = std::thread::scope(|scope| scope.spawn(other).join());
        released.expect("the other does not panic").expect("it is the other's");
    }

    /// Lock keys on every node; empty for nodes in memory.
    pub(crate) fn lock_keys(&self) -> Vec<String> {
        self.all().iter().flat_map(Server::lock_keys).collect()
    }

    /// Has every real server know the scripts: a lost answer that says it does not would cost the command as well.
    pub(crate) async fn learns_the_scripts(&self) {
        let (manager, key) = (self.manager(), "warm");
        let guard = manager.lock(key).await.expect("the key is free");
        self.fills(key).await;
        guard.extend(2 * LASTING).await.expect("it is held");
        eventually("every server has extended it", async || self.live_longer(key, LASTING)).await;
        manager.inspect(key).await.expect("the nodes answer");
        guard.release().await.expect("it is held");
        self.empties_of(key).await;
    }

    /// Whether `key` lives longer than `least` on every real server.
    pub(crate) fn live_longer(&self, key: &str, least: Duration) -> bool {
        self.all().iter().all(|server| server.pttl(key) > Some(least))
    }

    /// Waits until every real server holds `key`.
    pub(crate) async fn fills(&self, key: &str) {
        eventually("every server has the key", async || {
            self.all().iter().all(|server| server.get(key).is_some())
        })
        .await;
    }

    /// Waits until no real server holds `key`.
    pub(crate) async fn empties_of(&self, key: &str) {
        eventually("the key is gone", async || {
            self.all().iter().all(|server| server.get(key).is_none())
        })
        .await;
    }

    /// Waits until no node holds `key`, and no real server any lock key.
    pub(crate) async fn empties(&self, key: &str) {
        eventually("no node holds a lock key", async || self.lock_keys().is_empty()).await;
        let watcher = self.manager();
        eventually("the key is free", async || {
            !watcher.inspect(key).await.expect("the nodes answer").is_held()
        })
        .await;
    }
}

fn patient(builder: LockManagerBuilder) -> LockManagerBuilder {
    let patience = Duration::from_secs(10);
    builder.node_timeout(patience).release_timeout(patience).ttl(LASTING)
}

/// The owner token that [`Site::seize`] leaves.
const ANOTHER: &str = "another-owner";

/// A manager whose connections stand, over three servers of which the third answers late.
pub(crate) async fn over_a_slow_third(site: &Site, delay: Duration) -> (LockManager, Proxy) {
    let slow = Proxy::start(&site.all()[2]);
    let urls = [site.all()[0].url(), site.all()[1].url(), slow.url()];
    let builder = LockManager::quorum(urls).node_timeout(BOUND).release_timeout(BOUND * 2);
    let manager = builder.build().unwrap();
    drop(manager.ping().await);
    slow.delay_replies(delay);
    (manager, slow)
}
