//! The command `redlatch`, run as people run it, on real servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]
#![allow(clippy::disallowed_methods, reason = "tests are callers: they read clocks as callers do")]
#![allow(
    clippy::future_not_send,
    clippy::large_futures,
    reason = "tests await on the thread they run on"
)]
#![allow(dead_code, unused_imports, unused_macros, reason = "the support serves other suites too")]

#[path = "../support/mod.rs"]
mod support;

mod breaking;
mod contention;
mod doctor;
mod exits;
mod loss;
mod nodes;
mod once;
mod output;
mod scene;
mod signals;
#[cfg(target_os = "linux")]
mod terminal;
mod tls;
mod tool;
