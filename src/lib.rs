//! Distributed locks on Redis: on a single node, or on a majority of several independent nodes (Redlock), with fencing
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
//! guard.release().await?; // or just drop it
//!
//! // Acquire, renew, work, release, in one call; the work is dropped if the lock is lost.
//! let report = manager.lock("report").run(async |guard| guard.fencing_token()).await?;
//!
//! manager.close().await; // last: what was dropped is released before the runtime ends
//! # Ok(()) }
//! ```
//!
//! # What a lock here is, and is not
//!
//! It is a **lease**: Redis ends it when its time to live (TTL) is over, whether its holder has finished or not. For
//! efficiency - to spare work that would be done twice - that is all you need. For correctness, the resource
//! must check the [fencing token](LockGuard::fencing_token) of every write, because a holder can be paused at any
//! point and wake up after its lock has gone to another (Kleppmann, "How to do distributed locking", 2016).
//!
//! # The guide
//!
//! | chapter | read it |
//! |---|---|
//! | [How it works](guide::how_it_works) | to know what happens between an acquire and a release, with pictures |
//! | [Choosing](guide::choosing) | before you set a TTL, or decide on one node or several |
//! | [Correctness](guide::correctness) | before you protect something that two writers would break |
//! | [Recipes](guide::recipes) | for cron jobs, long jobs, deployments, transfers |
//! | [Operations](guide::operations) | before it goes live, before an upgrade, and when a node is lost |
//! | [Moving](guide::moving) | if you come from rslock, redsync, redlock or Redisson |
//! | [Testing](guide::testing) | to see in a unit test that your service stops when its lock is lost |
//! | [FAQ](guide::faq) | |
//!
//! # The types, in the order in which you meet them
//!
//! 1. [`LockManager`] knows the nodes. Make one, with [`single`](LockManager::single) or
//!    [`quorum`](LockManager::quorum), and clone it. [`Node`] is what it is made of, if a URL does not do.
//! 2. [`LockRequest`], from [`lock`](LockManager::lock), says how long to hold and to wait, and ends with
//!    [`acquire`](LockRequest::acquire), [`try_acquire`](LockRequest::try_acquire) or [`run`](LockRequest::run).
//!    [`LockSetRequest`], from [`lock_all`](LockManager::lock_all), does so for several keys, and
//!    [`LockAnyRequest`], from [`lock_any`](LockManager::lock_any) or [`semaphore`](LockManager::semaphore), for any of
//!    several. [`Retry`] is when to try again.
//! 3. [`LockGuard`] is the lock: [`is_valid`](LockGuard::is_valid), [`extend`](LockGuard::extend),
//!    [`lost`](LockGuard::lost), [`while_held`](LockGuard::while_held), [`release`](LockGuard::release).
//!    [`LockSet`] is several of them, all or none. [`FencingToken`] is for the resource.
//! 4. [`LockTicket`] moves a lock to another process.
//! 5. [`Error`] keeps held, unreachable, too late, lost and misconfigured apart.
//!
//! # Features
//!
//! `deadpool` is on by default.
//!
//! | feature | adds |
//! |---|---|
//! | `deadpool` | nodes from `deadpool_redis` pools and a `redis::Client`, and these two crates, to be had here in the versions that fit. This one part follows their versions: a new major version of theirs is no breaking release of the rest |
//! | `serde` | `Serialize` and `Deserialize` for [`LockTicket`], [`OwnerToken`] and [`FencingToken`] |
//! | `metrics` | counters, gauges and histograms through the `metrics` facade |
//! | `cluster` | [nodes](Node::cluster) that are a Redis Cluster |
//! | `sentinel` | [nodes](Node::sentinel) whose master is found through Redis Sentinel |
//! | `cli` | the command `redlatch`, on Unix, which puts other commands under a lock; with all kinds of servers, and TLS |
//! | `test-util` | in-memory nodes that [fail on demand](guide::testing), for your own tests |
//! | `tls-rustls` | `rediss://` with rustls; the application chooses [its crypto provider](guide::operations#tls) |
//! | `tls-native-tls` | `rediss://` with the system's TLS library |
//!
//! It needs tokio, and Redis 6.2 or later, or Valkey.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod acquire;
mod claim;
mod election;
#[cfg(any(doc, doctest))]
pub mod guide;
mod host;
mod inspect;
mod keeper;
mod lock;
mod manager;
mod metrics;
mod node;
mod preflight;
mod types;

#[cfg(test)]
#[path = "../tests/simulation/mod.rs"]
mod simulation;

#[cfg(feature = "deadpool")]
pub use {deadpool_redis, redis};

pub use crate::{
    election::{Election, Leader, LeaderWatch},
    inspect::{LockStatus, NodeHealth, NodeVote},
    lock::{
        any_request::LockAnyRequest,
        guard::LockGuard,
        loss::Loss,
        once::Once,
        request::LockRequest,
        set::LockSet,
        set_request::LockSetRequest,
        watch::{Lost, WarnBefore, WhileHeld},
    },
    manager::{LockManager, LockManagerBuilder},
    node::{Credentials, IntoNode, Node},
    preflight::{Finding, Preflight, Severity},
    types::{
        error::{Error, LossReason, NodeError, Result},
        event::RenewalEvent,
        retry::Retry,
        ticket::LockTicket,
        token::{FencingToken, OwnerToken},
        validity::ClockDrift,
    },
};

#[cfg(feature = "test-util")]
pub use crate::node::Faults;

#[cfg(feature = "metrics")]
pub use crate::metrics::describe_metrics;

/// The examples in the README are tested with the crate's own.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
