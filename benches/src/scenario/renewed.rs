//! Ten thousand locks that are held and renewed: whether they stay, and what that costs.

use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::time::sleep;

use crate::{
    Outcome,
    alloc::Count,
    calls::Calls,
    contender::{Contender, Held, Kind},
    measure::{cpu_time, median, on_worker},
    stage::{Group, Stage},
    table::{Bound, Row},
};

pub async fn run(stage: &Stage) -> Outcome<Vec<Row>> {
    let kinds = stage.pick(&[Kind::Redlatch, Kind::AsyncRedisLock][..], &[Kind::Redlatch][..]);
    let mut rows = Vec::new();
    for &kind in kinds {
        rows.push(hold(&stage.one, kind, stage.pick(20, 5)).await?);
    }
    Ok(rows)
}

async fn hold(group: &Group, kind: Kind, seconds: u64) -> Outcome<Row> {
    let contender = Contender::connect(kind, &group.urls()).await?.with_ttl(TTL);
    // The first lock that is renewed sets up what all of them need.
    let first = acquire_all(contender.clone(), FIRST).await?;
    let count = Count::begin();
    let guards = acquire_all(contender.clone(), FIRST.end..FIRST.end + GUARDS).await?;
    sleep(SETTLE).await;
    let (before, cpu) = (group.calls().await?, cpu_time());
    let bytes = watch(&count, seconds).await;
    let (cpu, calls) = (cpu_time() - cpu, group.calls().await?.since(&before));
    let wrapper = size_of::<Held>() - guards.first().map_or(0, Held::guard_size);
    let lost = guards.iter().chain(&first).filter(|guard| guard.is_lost()).count();
    let lost = lost.max(release_all(guards.into_iter().chain(first).collect()).await?);
    sleep(SETTLE / 2).await;
    let left = (count.live() as f64 / GUARDS as f64).max(0.0);
    let cpu = cpu.as_secs_f64() * 10.0 / seconds as f64;
    let each = bytes / GUARDS as f64 - wrapper as f64;
    let figure = format!(
        "{lost} lost, {cpu:.2} CPU s per 10 s, {each:.0} bytes a guard ({left:.0} after its release)"
    );
    Ok(row(kind, seconds, figure, &calls, [lost as f64, cpu, each / 1024.0]))
}

fn row(kind: Kind, seconds: u64, figure: String, calls: &Calls, reached: [f64; 3]) -> Row {
    let title = format!("10,000 renewed guards, TTL 3 s, {seconds} s");
    // An operation is a guard held for a second here.
    let row = Row::new(&title, kind, figure).calls(calls, GUARDS as u64 * seconds, kind);
    if !kind.is_redlatch() {
        return row;
    }
    let [lost, cpu, kib] = reached;
    row.bound(Bound::at_most(0.0, "lost", lost))
        .bound(Bound::at_most(0.35, "CPU s per 10 s", cpu))
        .bound(Bound::at_most(1.5, "KiB a guard", kib))
}

async fn acquire_all(contender: Contender, numbers: std::ops::Range<usize>) -> Outcome<Vec<Held>> {
    on_worker(async move {
        let acquire = |number: usize| {
            let contender = contender.clone();
            async move { contender.acquire_renewed(&format!("renewed:{number:05}")).await }
        };
        let mut guards = Vec::with_capacity(numbers.len());
        let mut acquires = stream::iter(numbers).map(acquire).buffer_unordered(AT_ONCE);
        while let Some(guard) = acquires.try_next().await? {
            guards.push(guard);
        }
        Ok(guards)
    })
    .await
}

/// Waits so many seconds. Returns the median of the bytes that were live meanwhile.
async fn watch(count: &Count, seconds: u64) -> f64 {
    let mut live = Vec::new();
    for _ in 0..seconds * 10 {
        sleep(Duration::from_millis(100)).await;
        live.push(count.live() as f64);
    }
    median(live)
}

/// Releases all. Returns how many could not be.
async fn release_all(guards: Vec<Held>) -> Outcome<usize> {
    on_worker(async move {
        let releases = stream::iter(guards).map(Held::release).buffer_unordered(AT_ONCE);
        Ok(releases.filter(|released| std::future::ready(released.is_err())).count().await)
    })
    .await
}

const GUARDS: usize = 10_000;
const FIRST: std::ops::Range<usize> = 0..1;
const AT_ONCE: usize = 64;
const TTL: Duration = Duration::from_secs(3);
const SETTLE: Duration = Duration::from_secs(1);
