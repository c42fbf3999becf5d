//! What a manager was built with.

use std::time::Duration;

use crate::{retry::Retry, validity::ClockDrift};

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) key_prefix: String,
    pub(crate) ttl: Duration,
    pub(crate) retry: Retry,
    pub(crate) clock_drift: ClockDrift,
    pub(crate) node_timeout: Duration,
    pub(crate) release_timeout: Duration,
    pub(crate) outage_retries: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            key_prefix: String::new(),
            ttl: Duration::from_secs(30),
            retry: Retry::default(),
            clock_drift: ClockDrift::default(),
            node_timeout: Duration::from_millis(500),
            release_timeout: Duration::from_secs(5),
            outage_retries: 3,
        }
    }
}
