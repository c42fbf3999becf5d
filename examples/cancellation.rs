//! The loss of a lock as a `CancellationToken`, for code that knows such tokens and no locks.
//!
//! ```text
//! cargo run --example cancellation
//! ./scripts/with-redis 5 cargo run --example cancellation
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]
#![allow(clippy::disallowed_methods, reason = "an example spawns tasks as its readers do")]

mod shared;

use std::time::Duration;

use redlatch::LockGuard;
use shared::{Log, manager, nodes};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nodes = nodes(1)?;
    let log = Log::start("A lock that cancels its workers", &nodes);
    let manager = manager(nodes)?;
    let key = format!("cancellation:{}", std::process::id());

    // Not renewed, so that it is lost while the workers are at it.
    let guard = manager.lock(key).ttl(Duration::from_millis(300)).acquire().await?;
    let token = cancelled_with(log, &guard);
    let workers: Vec<_> = (0..3).map(|_| tokio::spawn(work(token.child_token()))).collect();
    let mut stopped = 0;
    for worker in workers {
        worker.await?;
        stopped += 1;
    }
    log.say("holder", format!("{stopped} of 3 workers have stopped"));
    drop(guard);
    manager.close().await;
    Ok(())
}

/// A token that is cancelled when the lock is lost, or its guard goes.
fn cancelled_with(log: Log, guard: &LockGuard) -> CancellationToken {
    let (token, loss) = (CancellationToken::new(), guard.loss());
    let cancels = token.clone();
    tokio::spawn(async move {
        let reason = loss.await;
        log.say("token", format!("is cancelled: {reason}"));
        cancels.cancel();
    });
    token
}

/// Work that knows of no lock.
async fn work(token: CancellationToken) {
    let endless = async {
        loop {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let _cancelled: Option<()> = token.run_until_cancelled(endless).await;
}
