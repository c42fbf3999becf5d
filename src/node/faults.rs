//! Faults of a node in memory, for the tests of those who hold locks.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    Kind, Node,
    memory::{Fault, Store},
};

/// The switch for the faults of a node in memory: made by [`Node::in_memory_with_faults`]. Clones are one switch.
///
/// A node has one fault at a time, the last that it was told, until [`up`](Self::up). Time is tokio's, so that a test on a
/// paused clock sees an outage of an hour at once.
///
/// ```
/// # use std::time::Duration;
/// # use redlatch::{LockManager, LossReason, Node};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> redlatch::Result<()> {
/// let (node, faults) = Node::in_memory_with_faults();
/// let manager = LockManager::single(node).ttl(Duration::from_secs(10)).build()?;
/// let guard = manager.lock("k").auto_renew().await?;
/// faults.down();
/// assert!(manager.lock("other").try_acquire().await.unwrap_err().is_unavailable());
/// assert_eq!(guard.lost().await, LossReason::Expired); // ten seconds later
/// faults.up();
/// assert!(manager.lock("other").try_acquire().await.is_ok());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Faults {
    store: Arc<Store>,
}

impl Node {
    /// Creates a node in this process' memory, and the switch for its faults: for tests of what a service does when its
    /// lock is lost, or when the nodes are away.
    ///
    /// The feature `test-util` adds it.
    #[must_use]
    pub fn in_memory_with_faults() -> (Self, Faults) {
        let store = Arc::new(Store::new());
        let (name, kind) = (store.name.clone(), Kind::Memory(store.clone()));
        (Self { name, kind, notices: None, fault: None }, Faults { store })
    }
}

impl Faults {
    /// Has the node refuse every command at once, as a server that is not there. Nothing is carried out.
    pub fn down(&self) {
        self.store.switch.set(Fault::Down);
    }

    /// Has the node answer nothing, as a server that hangs or is cut off. What waits for its answer waits for the node
    /// timeout, or until the fault ends; what it gave up before is never carried out.
    pub fn hang(&self) {
        self.store.switch.set(Fault::Hung);
    }

    /// Has each answer come so late. The node carries the commands out at once, also those whose answer comes later than
    /// the node timeout.
    pub fn delay(&self, by: Duration) {
        self.store.switch.set(Fault::Late(by));
    }

    /// Has the node forget a key, once: `{prefix}{key}`, its name as it lies in Redis. Whose lock it was learns of it at
    /// the next extend or renewal.
    pub fn lose(&self, key: &str) {
        self.store.lose(key);
    }

    /// Ends the fault. Whoever waits for the node tries again at once, as when a connection is back.
    pub fn up(&self) {
        self.store.switch.set(Fault::None);
        self.store.doubt();
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faults").field(&self.store.name).field(&self.store.switch.get()).finish()
    }
}
