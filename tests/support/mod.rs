//! What the tests stand on: real servers, sites of nodes, a faulty network and ways to drive futures.

mod bare;
mod chain;
mod drive;
mod events;
mod monitor;
mod proxy;
mod seeds;
mod server;
mod site;
mod trace;

pub(crate) use bare::outside_of_a_runtime;
pub(crate) use chain::{chain, everything_said};
pub(crate) use drive::{
    BOUND, LASTING, eventually, let_pass, millis, poll_times, secs, spin, within,
};
pub(crate) use events::{Events, Seen};
pub(crate) use monitor::Monitor;
pub(crate) use proxy::Proxy;
pub(crate) use seeds::Seeds;
pub(crate) use server::Server;
pub(crate) use site::{Site, over_a_slow_third};
pub(crate) use trace::{Record, Trace};

/// Tests each fact on one server, on three, on one node in memory and on three of those.
macro_rules! everywhere {
    ($($fact:ident),+ $(,)?) => {$(
        mod $fact {
            use crate::support::Site;

            #[tokio::test]
            async fn on_one_server() {
                super::$fact(Site::servers(1)).await;
            }

            #[tokio::test]
            async fn on_three_servers() {
                super::$fact(Site::servers(3)).await;
            }

            #[tokio::test]
            async fn on_one_node_in_memory() {
                super::$fact(Site::memory(1)).await;
            }

            #[tokio::test]
            async fn on_three_nodes_in_memory() {
                super::$fact(Site::memory(3)).await;
            }
        }
    )+};
}

/// Tests each fact on one server, on three, on one node in memory and on three of those, outside of any runtime.
macro_rules! everywhere_outside {
    ($($fact:ident),+ $(,)?) => {$(
        mod $fact {
            use crate::support::Site;

            #[test]
            fn on_one_server() {
                super::$fact(Site::servers(1));
            }

            #[test]
            fn on_three_servers() {
                super::$fact(Site::servers(3));
            }

            #[test]
            fn on_one_node_in_memory() {
                super::$fact(Site::memory(1));
            }

            #[test]
            fn on_three_nodes_in_memory() {
                super::$fact(Site::memory(3));
            }
        }
    )+};
}

/// Tests each fact on one server and on three.
macro_rules! on_servers {
    ($($fact:ident),+ $(,)?) => {$(
        mod $fact {
            use crate::support::Site;

            #[tokio::test]
            async fn on_one_server() {
                super::$fact(Site::servers(1)).await;
            }

            #[tokio::test]
            async fn on_three_servers() {
                super::$fact(Site::servers(3)).await;
            }
        }
    )+};
}

pub(crate) use {everywhere, everywhere_outside, on_servers};
