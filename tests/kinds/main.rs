//! All kinds of Redis: a cluster, a master behind Sentinel, sockets, and servers that know less.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests are callers: they spawn tasks and read clocks as callers do"
)]
#![allow(
    clippy::future_not_send,
    clippy::large_futures,
    reason = "tests await on the thread they run on"
)]
#![allow(dead_code, unused_imports, unused_macros, reason = "the support serves other suites too")]

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod cluster_of;
mod crowd;
mod failover;
mod logins;
mod notices;
mod plain;
mod pools;
mod preflight;
mod resharding;
mod sentinel;
mod sentinels;
