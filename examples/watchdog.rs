//! The watchdog: a lock that is renewed until it is released, and says so.
//!
//! ```text
//! cargo run --example watchdog
//! ./scripts/with-redis 5 cargo run --example watchdog
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

mod shared;

use std::time::Duration;

use redlatch::{RenewalEvent, Result};
use shared::{Log, manager, nodes};
use tokio::time::{Instant, sleep};

#[tokio::main]
async fn main() -> Result<()> {
    let nodes = nodes(1)?;
    let log = Log::start("A lock with a watchdog", &nodes);
    let manager = manager(nodes)?;
    let key = format!("watchdog:{}", std::process::id());

    let guard = manager
        .lock(&key)
        .ttl(Duration::from_millis(1200))
        .auto_renew_every(Duration::from_millis(400)) // `.auto_renew()` would choose a third of the TTL: the same
        .on_renewal(move |event| tell(log, event))
        .acquire()
        .await?;
    log.say("holder", format!("has the lock, valid for {:.2?}", guard.remaining()));

    // Work that takes longer than the TTL, and stops by itself if the lock is lost.
    tokio::select! {
        reason = guard.lost() => log.say("holder", format!("stops working: {reason}")),
        () = sleep(Duration::from_millis(2500)) => log.say("holder", "is done after twice the TTL"),
    }

    // Release ends the renewal first: no renewal can bring the key back.
    guard.release().await?;
    log.say("holder", "released the lock");
    sleep(Duration::from_millis(600)).await;
    let status = manager.inspect(&key).await?;
    log.say(
        "holder",
        format!("600 ms later: no more renewals, held by anybody: {}", status.is_held()),
    );
    manager.close().await;
    Ok(())
}

/// Called by the watchdog after each renewal; it must be quick and must not block.
fn tell(log: Log, event: &RenewalEvent) {
    match event {
        RenewalEvent::Renewed { valid_until, .. } => {
            let left = valid_until.saturating_duration_since(Instant::now());
            log.say("watchdog", format!("renewed, valid for {left:.2?}"));
        }
        RenewalEvent::Failed { error, remaining, .. } => {
            log.say("watchdog", format!("failed, tries again for {remaining:.0?}: {error}"));
        }
        RenewalEvent::Lost { reason, .. } => log.say("watchdog", format!("lost: {reason}")),
        event => log.say("watchdog", format!("{event:?}")),
    }
}
