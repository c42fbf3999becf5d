//! A worker in a task of its own, which stops when the lock is no longer its guard's.
//!
//! ```text
//! cargo run --example worker
//! ./scripts/with-redis 5 cargo run --example worker
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]
#![allow(clippy::disallowed_methods, reason = "an example spawns tasks as its readers do")]

mod shared;

use std::time::Duration;

use redlatch::{Loss, LossReason};
use shared::{Log, manager, nodes};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nodes = nodes(1)?;
    let log = Log::start("A worker that outlives the borrow of its guard", &nodes);
    let manager = manager(nodes)?;
    let key = format!("worker:{}", std::process::id());

    let guard = manager.lock(key).ttl(Duration::from_secs(2)).auto_renew().acquire().await?;
    // `guard.lost()` borrows the guard, which could not be released then.
    let worker = tokio::spawn(work(log, guard.loss()));

    sleep(Duration::from_millis(250)).await;
    guard.release().await?;
    log.say("holder", "released the lock");
    assert_eq!(worker.await?, LossReason::Released);
    manager.close().await;
    Ok(())
}

/// Works page by page, as long as the lock is held.
async fn work(log: Log, mut loss: Loss) -> LossReason {
    let mut page = 1;
    loop {
        log.say("worker", format!("works on page {page}"));
        tokio::select! {
            biased; // the loss first
            reason = &mut loss => {
                log.say("worker", format!("stops: {reason}"));
                return reason;
            }
            () = sleep(Duration::from_millis(100)) => page += 1,
        }
    }
}
