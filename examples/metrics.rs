//! Metrics: what a busy manager records, as Prometheus would scrape it.
//!
//! ```text
//! cargo run --features metrics --example metrics
//! ./scripts/with-redis 5 cargo run --features metrics --example metrics
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

mod shared;

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use redlatch::{LockManager, Result};
use shared::{Log, manager, nodes};
use tokio::{task::JoinSet, time::sleep};

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // Once in a program. A service would serve what `render` returns over HTTP.
    let scrape = PrometheusBuilder::new().install_recorder()?;
    redlatch::describe_metrics();

    let nodes = nodes(3)?;
    let log = Log::start("A manager with metrics", &nodes);
    let manager = manager(nodes)?;
    let key = format!("metrics:{}", std::process::id());

    let mut workers = JoinSet::new();
    for _ in 0..8 {
        workers.spawn(work(manager.clone(), key.clone()));
    }
    workers.join_all().await.into_iter().collect::<Result<Vec<()>>>()?;
    let guard = manager.lock(&key).ttl(Duration::from_millis(300)).await?;
    guard.lost().await;
    drop(guard);
    log.say("manager", "eight workers took turns, and one lock was lost:\n");
    manager.close().await;

    let text = scrape.render();
    let is_value = |line: &&str| line.starts_with("redlatch_") && !line.contains("quantile");
    text.lines().filter(is_value).for_each(|line| println!("{line}"));
    Ok(())
}

async fn work(manager: LockManager, key: String) -> Result<()> {
    let job = async |_: &_| sleep(Duration::from_millis(40)).await;
    manager.lock(key).auto_renew_every(Duration::from_millis(15)).run(job).await
}
