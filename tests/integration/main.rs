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

#[allow(dead_code, reason = "shared with the tests on other kinds of Redis")]
#[path = "../support/mod.rs"]
mod support;

mod acl;
mod acquire;
mod any_of;
mod attempts;
mod blips;
mod bounds;

mod cancel;
mod chosen_owner;
mod close;
mod config;
mod contract;
mod counts;
mod dedicated;
mod drop_order;
mod drops;
mod elections;
mod examples;
mod extend;
mod faults;
mod fencing;
mod guide;
mod harness;
mod holders;
mod logins;
mod loss;
mod loss_signal;
mod memory;
#[cfg(feature = "metrics")]
mod metrics;
mod nodes;
mod oddities;
mod once;
mod outage;
mod policies;
mod preflight;
mod properties;
mod quarantine;
mod refuted;
mod release;
mod run;
mod runtimes;
mod sets;
mod shared_owner;
mod short_of_memory;
mod silent_lines;
mod status;
#[cfg(feature = "test-util")]
mod switched;
mod tickets;
mod tracing;
mod unfenced;
mod verdicts;
mod waiting;
mod watchdog;
mod wire;
