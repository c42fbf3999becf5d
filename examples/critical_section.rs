//! Work that ends with the lock: `run` renews while it works, `while_held` stops it when the lock is lost.
//!
//! ```text
//! cargo run --example critical_section
//! ./scripts/with-redis 5 cargo run --example critical_section
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

mod shared;

use std::time::Duration;

use redlatch::{Error, Result};
use shared::{Log, manager, nodes};
use tokio::time::sleep;

const TTL: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Result<()> {
    let nodes = nodes(1)?;
    let log = Log::start("Critical sections", &nodes);
    let manager = manager(nodes)?;
    let key = format!("critical_section:{}", std::process::id());

    // Acquire, renew, work, release, in one call. The work may take longer than the TTL.
    let pages = manager
        .lock(&key)
        .ttl(TTL)
        .run(async |guard| {
            log.say("run", format!("works for 800 ms under a TTL of {:?}", guard.ttl()));
            sleep(Duration::from_millis(800)).await;
            42
        })
        .await?;
    log.say("run", format!("returned {pages}; the lock is released\n"));

    // The same work under a lock that nobody renews: it is cut off when the lock can no longer be relied on.
    let guard = manager.lock(&key).ttl(TTL).acquire().await?;
    log.say("while_held", format!("works under a lock that ends in {:.0?}", guard.remaining()));
    match guard.while_held(print_pages(log)).await {
        Err(Error::Lost { reason, .. }) => log.say("while_held", format!("stopped: {reason}")),
        other => log.say("while_held", format!("did not expect this: {other:?}")),
    }
    // Dropping the guard deletes the key where it still is: Redis keeps it a little longer than the guard trusts it.
    drop(guard);
    manager.close().await;
    Ok(())
}

/// Prints a page every 100 ms; too slow for its lock.
async fn print_pages(log: Log) {
    let _tidy = Tidy(log);
    for page in 1..=42 {
        log.say("work", format!("page {page}"));
        sleep(Duration::from_millis(100)).await;
    }
}

/// Shows the moment at which the work is dropped. Real work would close a file or roll back here.
struct Tidy(Log);

impl Drop for Tidy {
    fn drop(&mut self) {
        self.0.say("work", "dropped at its last await, not a page further");
    }
}
