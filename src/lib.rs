//! Distributed locks on Redis: single-node locks and Redlock quorum locks over independent nodes, with fencing
//! tokens, auto-renewal, cancel-safe acquires and a loss signal that is never late.
//!
//! ```
//! use std::time::Duration;
//! use redlatch::LockManager;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
//! let manager = LockManager::in_memory(); // or LockManager::single("redis://127.0.0.1:6379").build()?
//!
//! let guard = manager.lock("invoice:42").ttl(Duration::from_secs(10)).acquire().await?;
//! println!("write with fencing token {}", guard.fencing_token());
//! guard.extend(Duration::from_secs(10)).await?;
//! guard.release().await?; // or just drop it: released in the background
//!
//! let report = manager.lock("report").run(async |guard| guard.fencing_token()).await?;
//! # Ok(()) }
//! ```
//!
//! # What a lock here is, and is not
//!
//! It is a **lease**: Redis ends it when its time to live is over, whether its holder has finished or not. For
//! efficiency - to spare work that would be done twice - that is all you need. For correctness, the resource
//! must check the [fencing token](LockGuard::fencing_token) of every write, because a holder can be paused at any
//! point and wake up after its lock has gone to another (Kleppmann, "How to do distributed locking", 2016).
//!
//! # Where to go
//!
//! - [`LockManager`] and its builder: nodes and settings.
//! - [`LockRequest`]: how long to hold and to wait; [`acquire`](LockRequest::acquire),
//!   [`try_acquire`](LockRequest::try_acquire), [`run`](LockRequest::run).
//! - [`LockGuard`]: validity, [`extend`](LockGuard::extend), [`lost`](LockGuard::lost),
//!   [`while_held`](LockGuard::while_held), [`release`](LockGuard::release).
//! - [`LockSet`]: several locks at once, all or none.
//! - [`Error`]: held, unreachable, too late, lost and misconfigured are different things.
//!
//! # Features
//!
//! - `serde`: `Serialize` and `Deserialize` for [`LockTicket`], [`OwnerToken`] and [`FencingToken`].
//! - `metrics`: counters, gauges and histograms through the `metrics` facade.

mod acquire;
mod adopt;
mod armed;
mod attempt;
mod claim;
mod clock;
mod error;
mod event;
mod extend;
mod fencing;
mod guard;
#[cfg(any(doc, doctest))]
pub mod guide;
mod held;
mod keeper;
mod key;
mod ledger;
mod manager;
mod metrics;
mod node;
mod policy;
mod random;
mod release;
mod renewal;
mod request;
mod retry;
mod round;
mod set;
mod set_request;
mod settings;
mod status;
mod sync;
mod tasks;
mod terms;
mod ticket;
mod token;
mod validity;
mod vote;
mod waiting;

#[cfg(test)]
#[path = "../tests/simulation/mod.rs"]
mod simulation;

pub use deadpool_redis;

pub use crate::{
    error::{Error, LossReason, NodeError, Result},
    event::RenewalEvent,
    guard::LockGuard,
    held::{Lost, WarnBefore, WhileHeld},
    manager::{LockManager, LockManagerBuilder},
    node::{IntoNode, Node},
    request::LockRequest,
    retry::Retry,
    set::LockSet,
    set_request::LockSetRequest,
    status::{LockStatus, NodeHealth, NodeVote},
    ticket::LockTicket,
    token::{FencingToken, OwnerToken},
    validity::ClockDrift,
};

#[cfg(feature = "metrics")]
pub use crate::metrics::describe_metrics;

/// The examples in the README are tested with the crate's own.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
