//! Ten thousand tasks that wait for one lock: what each takes beyond the task itself.

use std::{future::Future, sync::Arc, time::Duration};

use redlatch::LockManager;
use tokio::{sync::Notify, task::JoinSet, time::sleep};

use crate::{
    Outcome,
    alloc::Count,
    contender::{Contender, Held, Kind},
    measure::{median, on_worker},
    stage::Stage,
    table::{Bound, Row},
};

pub async fn run(stage: &Stage) -> Outcome<Vec<Row>> {
    let (kind, urls) = (Kind::Redlatch, stage.one.urls());
    let holder = Contender::connect(kind, &urls).await?.with_ttl(HOLD);
    let waiter = Contender::connect(kind, &urls).await?;
    let manager = waiter.manager().ok_or("only redlatch is weighed")?;
    let key = "waiting";
    let held = acquire(holder, key).await?;
    // The first waiter sets up what all of them need.
    let mut first = JoinSet::new();
    first.spawn(wait(manager.clone(), key));
    sleep(SETTLE).await;

    let bell = Arc::new(Notify::new());
    let task = weigh(|| listen(bell.clone())).await?;
    let before = stage.one.calls().await?;
    let waiting = weigh(|| wait(manager.clone(), key)).await?;
    let calls = stage.one.calls().await?.since(&before);
    first.shutdown().await;
    held.release().await?;

    let beyond = waiting.each - task.each;
    let figure = format!(
        "{beyond:.0} bytes a waiter ({:.0}, the future's {} included, less {:.0} of a task awaiting a `Notify`; \
         {:.0} once it has left)",
        waiting.each,
        size_of_val(&wait(manager.clone(), key)),
        task.each,
        waiting.left
    );
    let row = Row::new("10,000 tasks waiting for one key", kind, figure);
    let bound = Bound::at_most(2.0, "KiB a waiter", beyond / 1024.0);
    Ok(vec![row.calls(&calls, TASKS as u64, kind).bound(bound)])
}

/// Live bytes per task.
struct Weight {
    each: f64,
    /// What stays when the tasks are gone.
    left: f64,
}

/// Starts many tasks that wait, and ends them.
async fn weigh<F>(task: impl Fn() -> F) -> Outcome<Weight>
where
    F: Future<Output = Outcome<()>> + Send + 'static,
{
    let count = Count::begin();
    let mut tasks: JoinSet<_> = (0..TASKS).map(|_| task()).collect();
    sleep(SETTLE).await;
    let mut live = Vec::new();
    for _ in 0..20 {
        sleep(Duration::from_millis(20)).await;
        live.push(count.live() as f64 / TASKS as f64);
    }
    if let Some(early) = tasks.try_join_next() {
        early??;
        return Err("a waiter got a lock that was held".into());
    }
    tasks.shutdown().await;
    sleep(Duration::from_millis(200)).await;
    Ok(Weight { each: median(live), left: (count.live() as f64 / TASKS as f64).max(0.0) })
}

async fn acquire(holder: Contender, key: &'static str) -> Outcome<Held> {
    on_worker(async move { holder.acquire(key).await }).await
}

/// Asks redlatch directly: the future that stands for any contender is of the size of the largest.
async fn wait(manager: LockManager, key: &'static str) -> Outcome<()> {
    Ok(manager.lock(key).acquire().await?.release().await?)
}

async fn listen(bell: Arc<Notify>) -> Outcome<()> {
    bell.notified().await;
    Ok(())
}

const TASKS: usize = 10_000;
const SETTLE: Duration = Duration::from_secs(1);
/// The lock's TTL: it outlives the scenario without a renewal.
const HOLD: Duration = Duration::from_secs(60);
