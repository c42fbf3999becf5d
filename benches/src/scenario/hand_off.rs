//! Two clients with connections of their own: how long until the one has what the other releases.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::turns::turns;
use crate::{
    Outcome,
    calls::Calls,
    contender::{Contender, Held, Kind},
    measure::{Samples, median, on_worker, show},
    ratio::Ratio,
    stage::{Group, Stage},
    table::{Bound, Row},
};

pub async fn run(stage: &Stage) -> Outcome<Vec<Row>> {
    let mut pairs = Vec::new();
    for kind in KINDS {
        pairs.push(Pair::connect(kind, &stage.one).await?);
    }
    for round in 0..ROUNDS {
        for place in turns(round, pairs.len()) {
            let pair = &mut pairs[place];
            let is_quick = matches!(pair.kind(), Kind::Bare | Kind::Redlatch);
            let count = if is_quick { stage.pick(100, 50) } else { stage.pick(20, 2) };
            pair.measure(&stage.one, count, settled).await?;
        }
    }
    let mut rows = rows(&pairs);
    let mut pair = Pair::connect(Kind::Redlatch, &stage.one).await?;
    pair.measure(&stage.one, stage.pick(2_000, 1_000), at_any_moment).await?;
    rows.push(row_of_sleepers(&pair));
    Ok(rows)
}

/// One that holds and one that waits.
struct Pair {
    holder: Contender,
    waiter: Contender,
    /// The p50 of each round, in seconds.
    rounds: Vec<f64>,
    samples: Samples,
    calls: Calls,
}

impl Pair {
    async fn connect(kind: Kind, group: &Group) -> Outcome<Self> {
        let holder = Contender::connect(kind, &group.urls()).await?;
        let waiter = Contender::connect(kind, &group.urls()).await?;
        let (rounds, samples, calls) = Default::default();
        Ok(Self { holder, waiter, rounds, samples, calls })
    }

    fn kind(&self) -> Kind {
        self.holder.kind
    }

    async fn measure(
        &mut self,
        group: &Group,
        count: usize,
        pause: fn(usize) -> Duration,
    ) -> Outcome<()> {
        let before = group.calls().await?;
        let (holder, waiter) = (self.holder.clone(), self.waiter.clone());
        let samples = on_worker(async move {
            let mut samples = Samples::default();
            for number in 0..count {
                samples.push(hand_off(&holder, &waiter, pause(number)).await?);
            }
            Ok(samples)
        });
        let samples = samples.await?;
        self.calls.add(&group.calls().await?.since(&before));
        self.rounds.push(samples.p50().as_secs_f64());
        self.samples.extend(&samples);
        Ok(())
    }
}

/// The time from the beginning of the release until the waiter holds the lock.
async fn hand_off(holder: &Contender, waiter: &Contender, pause: Duration) -> Outcome<Duration> {
    let key = format!("hand-off:{}", holder.kind.name());
    let held = holder.acquire(&key).await?;
    let waits = on_worker(wait(waiter.clone(), key));
    let releases = async {
        sleep(pause).await;
        let begin = Instant::now();
        held.release().await?;
        Ok(begin)
    };
    let handed_over = async { tokio::try_join!(waits, releases) };
    let ((theirs, end), begin) = timeout(GIVE_UP, handed_over)
        .await
        .map_err(|_elapsed| format!("{}: a waiter slept over {GIVE_UP:?}", holder.kind.name()))??;
    theirs.release().await?;
    Ok(end.saturating_duration_since(begin))
}

async fn wait(waiter: Contender, key: String) -> Outcome<(Held, Instant)> {
    let held = waiter.acquire(&key).await?;
    Ok((held, Instant::now()))
}

/// Long enough for the waiter to be waiting.
fn settled(number: usize) -> Duration {
    Duration::from_micros(2_500) + scattered(number, 1_000)
}

/// Also while the waiter is about to begin to wait.
fn at_any_moment(number: usize) -> Duration {
    if number.is_multiple_of(2) { Duration::ZERO } else { scattered(number, 2_000) }
}

/// Some time below so many microseconds.
fn scattered(number: usize, below: u64) -> Duration {
    Duration::from_micros(number as u64 * 7_919 % below)
}

fn rows(pairs: &[Pair]) -> Vec<Row> {
    let row = |pair: &Pair| {
        let (kind, ratio) = (pair.kind(), Ratio::new(&pair.rounds, &pairs[0].rounds));
        let p50 = Duration::from_secs_f64(median(pair.rounds.iter().copied()));
        let (p99, count) = (pair.samples.p99(), pair.samples.len());
        let figure = format!("p50 {}, p99 {} of {count}", show(p50), show(p99));
        let row = Row::new("hand-off, two clients, one node", kind, figure);
        let row = row.ratio(&ratio, "bare").calls(&pair.calls, count as u64, kind);
        if !kind.is_redlatch() {
            return row;
        }
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        row.bound(Bound::at_most(0.4, "ms p50", millis(p50))).bound(Bound::at_most(
            15.0,
            "ms p99",
            millis(p99),
        ))
    };
    pairs.iter().map(row).collect()
}

fn row_of_sleepers(pair: &Pair) -> Row {
    let (asleep, late) = (pair.samples.above(ASLEEP), pair.samples.above(LATE));
    let (count, worst) = (pair.samples.len(), show(pair.samples.worst()));
    let figure = format!("{asleep} asleep, {late} over {LATE:?}, worst {worst}");
    Row::new(&format!("hand-off at any moment, {count} rounds"), pair.kind(), figure)
        .calls(&pair.calls, count as u64, pair.kind())
        .bound(Bound::at_most(0.0, "asleep", asleep as f64))
}

const KINDS: [Kind; 4] = [Kind::Bare, Kind::Redlatch, Kind::Rslock, Kind::AsyncRedisLock];
const ROUNDS: usize = 5;
/// Whoever waits longer than this was left asleep.
const ASLEEP: Duration = Duration::from_secs(5);
/// Whoever waits longer than this has missed a notice, and looked again by itself.
const LATE: Duration = Duration::from_millis(500);
const GIVE_UP: Duration = Duration::from_secs(20);
