//! A thousand waiters for a lock that stays held: what they cost the server.

use std::time::Duration;

use tokio::{task::JoinSet, time::sleep};

use crate::{
    Outcome,
    calls::Calls,
    contender::{Contender, Held, Kind},
    measure::on_worker,
    stage::Stage,
    table::{Bound, Row},
};

pub async fn run(stage: &Stage) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in [Kind::Redlatch, Kind::Rslock, Kind::AsyncRedisLock] {
        let (long, short) = (stage.pick(10, 3), stage.pick(3, 1));
        let seconds = if kind.is_redlatch() { long } else { short };
        rows.push(row(kind, seconds, &watch(stage, kind, seconds).await?));
    }
    Ok(rows)
}

/// What the server executed within so many seconds.
async fn watch(stage: &Stage, kind: Kind, seconds: u64) -> Outcome<Calls> {
    let urls = stage.one.urls();
    let holder = Contender::connect(kind, &urls).await?.with_ttl(HOLD);
    let waiter = Contender::connect(kind, &urls).await?;
    let key = format!("idle:{}", kind.name());
    let held = acquire(holder, key.clone()).await?;
    let mut waiters: JoinSet<_> = (0..WAITERS).map(|_| wait(waiter.clone(), key.clone())).collect();
    sleep(stage.pick(SETTLE, SETTLE / 2)).await;
    let before = stage.one.calls().await?;
    sleep(Duration::from_secs(seconds)).await;
    let calls = stage.one.calls().await?.since(&before);
    if let Some(early) = waiters.try_join_next() {
        early??;
        return Err("a waiter got a lock that was held".into());
    }
    waiters.shutdown().await;
    held.release().await?;
    Ok(calls)
}

async fn acquire(holder: Contender, key: String) -> Outcome<Held> {
    on_worker(async move { holder.acquire(&key).await }).await
}

async fn wait(waiter: Contender, key: String) -> Outcome<()> {
    waiter.acquire(&key).await?.release().await
}

fn row(kind: Kind, seconds: u64, calls: &Calls) -> Row {
    let per_second = calls.sent(kind) as f64 / seconds as f64;
    let title = format!("1,000 waiters on one key held for {seconds} s");
    let figure = format!("{per_second:.1} commands/s");
    // An operation is a second here.
    let row = Row::new(&title, kind, figure).calls(calls, seconds, kind);
    if !kind.is_redlatch() {
        return row;
    }
    row.bound(Bound::at_most(5.0, "commands/s in all", per_second))
}

const WAITERS: usize = 1_000;
const SETTLE: Duration = Duration::from_secs(1);
/// The lock's TTL: it outlives the scenario without a renewal.
const HOLD: Duration = Duration::from_secs(60);
