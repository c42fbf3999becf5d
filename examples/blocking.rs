//! A program that is not async: it takes a lock, works without any runtime, and is renewed and released meanwhile.
//!
//! ```text
//! cargo run --example blocking
//! ./scripts/with-redis 5 cargo run --example blocking
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

#[expect(dead_code, reason = "it sets its manager up itself")]
mod shared;

use std::{error::Error, thread, time::Duration};

use redlatch::LockManager;
use shared::{Log, nodes};
use tokio::runtime::Builder;

fn main() -> Result<(), Box<dyn Error>> {
    let nodes = nodes(1)?;
    let log = Log::start("A lock for work that is not async", &nodes);
    // Renewals and releases live on a thread of their own: here nobody drives a runtime for them.
    let manager = LockManager::quorum(nodes).dedicated_runtime().build()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let key = format!("blocking:{}", std::process::id());

    let request = manager.lock(&key).ttl(Duration::from_millis(600)).auto_renew();
    let guard = runtime.block_on(request.acquire())?;
    log.say("holder", "has the lock for 600 ms");

    for step in 1..=3 {
        thread::sleep(Duration::from_millis(600)); // a computation, a driver that blocks, a child process
        if !guard.is_valid() {
            log.say("holder", "stops: the lock is lost");
            return Ok(());
        }
        log.say(
            "holder",
            format!("step {step} is done, the lock is valid for {:.0?}", guard.remaining()),
        );
    }

    drop(guard); // no runtime runs here, and yet it is released
    let unreleased = runtime.block_on(manager.close());
    log.say("holder", format!("is done, locks left unreleased: {unreleased}"));
    Ok(())
}
