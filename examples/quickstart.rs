//! Two contenders for one lock, and a watchdog that keeps it alive while its holder works.
//!
//! ```text
//! cargo run --example quickstart
//! REDLATCH_NODES=redis://127.0.0.1:6379 cargo run --example quickstart
//! ./scripts/with-redis 5 cargo run --example quickstart
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

mod shared;

use std::time::Duration;

use redlatch::{Error, FencingToken, LockManager, RenewalEvent, Result};
use shared::{Log, manager, nodes};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<()> {
    let nodes = nodes(1)?;
    let log = Log::start("Two contenders, one lock", &nodes);
    let manager = manager(nodes)?;
    // A key of this run's own, so that two runs on the same servers do not wait for each other.
    let key = format!("quickstart:{}", std::process::id());

    let (first, second) = tokio::try_join!(alice(&manager, &key, log), bob(&manager, &key, log))?;
    assert!(second > first, "fencing tokens grow from holder to holder");
    log.say("", format!("done: the second token is higher by {}", second.get() - first.get()));
    // Releases that still run in the background get their time before the runtime ends.
    manager.close().await;
    Ok(())
}

/// Works for longer than the lock's TTL; the watchdog renews the lock meanwhile.
async fn alice(manager: &LockManager, key: &str, log: Log) -> Result<FencingToken> {
    let guard = manager
        .lock(key)
        .ttl(Duration::from_secs(1))
        .auto_renew()
        .on_renewal(move |event| match event {
            RenewalEvent::Renewed { .. } => log.say("watchdog", "renewed Alice's lock"),
            event => log.say("watchdog", format!("{event:?}")),
        })
        .acquire()
        .await?;
    let token = guard.fencing_token();
    log.say("Alice", format!("has the lock for 1 s, fencing token {token}; works for 2 s"));
    sleep(Duration::from_secs(2)).await;
    log.say("Alice", format!("is done, the lock is still valid for {:.0?}", guard.remaining()));
    guard.release().await?;
    log.say("Alice", "released the lock");
    Ok(token)
}

/// Comes second: asks once, then waits.
async fn bob(manager: &LockManager, key: &str, log: Log) -> Result<FencingToken> {
    sleep(Duration::from_millis(200)).await;
    match manager.lock(key).try_acquire().await {
        Err(Error::AlreadyHeld { .. }) => log.say("Bob", "finds the lock held, and waits for it"),
        other => log.say("Bob", format!("did not expect this: {other:?}")),
    }
    let guard = manager.lock(key).acquire().await?;
    let token = guard.fencing_token();
    log.say("Bob", format!("has the lock, fencing token {token}"));
    guard.release().await?;
    log.say("Bob", "released the lock");
    Ok(token)
}
