//! The crate's promises, tested through its public API against real servers and in-memory nodes.

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
#![allow(dead_code, reason = "while the suite grows")]

#[path = "../support/mod.rs"]
mod support;

mod acquire;
mod cancel;
mod close;
mod config;
mod drops;
mod extend;
mod faults;
mod fencing;
mod harness;
mod loss;
mod outage;
mod properties;
mod release;
mod run;
mod shared_owner;
mod tickets;
mod verdicts;
mod waiting;
mod watchdog;
mod wire;
