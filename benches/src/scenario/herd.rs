//! Two hundred tasks of one process that want the same lock at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::poll_immediate;
use tokio::{
    task::{JoinSet, yield_now},
    time::{Instant, sleep, timeout},
};

use super::turns::turns;
use crate::{
    Outcome,
    calls::Calls,
    contender::{Contender, Kind},
    measure::{median, on_worker},
    stage::Stage,
    table::{Bound, Row},
};

pub async fn run(stage: &Stage) -> Outcome<Vec<Row>> {
    let kinds = stage.pick(Kind::ALL, Kind::QUORUM); // the last of all takes too long for a quick run
    let contenders = Contender::connect_all(kinds, &stage.one.urls()).await?;
    let mut herds: Vec<_> = contenders.into_iter().map(Herd::new).collect();
    for round in 0..stage.pick(5, 2) {
        let is_slow = |kind| matches!(kind, Kind::Rslock | Kind::AsyncRedisLock);
        let with_slow = round < stage.pick(2, 1);
        for place in turns(round, herds.len()) {
            let herd = &mut herds[place];
            if with_slow || !is_slow(herd.contender.kind) {
                herd.measure(stage, round).await?;
            }
        }
    }
    Ok(herds.iter().map(Herd::row).collect())
}

struct Herd {
    contender: Contender,
    /// Wall time over the sum of the holds, round by round.
    rounds: Vec<f64>,
    /// The mean hold of each round, in seconds.
    holds: Vec<f64>,
    /// Pairs that were served in another order than they came.
    inversions: usize,
    handed_over: usize,
    calls: Calls,
    unfinished: Option<String>,
}

impl Herd {
    fn new(contender: Contender) -> Self {
        let (rounds, holds, calls) = Default::default();
        Self { contender, rounds, holds, inversions: 0, handed_over: 0, calls, unfinished: None }
    }

    async fn measure(&mut self, stage: &Stage, round: usize) -> Outcome<()> {
        let patience = stage.pick(Duration::from_secs(20), Duration::from_secs(2));
        let key = format!("herd:{}:{round}", self.contender.kind.name());
        let served = Arc::new(AtomicUsize::new(0));
        let before = stage.one.calls().await?;
        let begin = Instant::now();
        let herd = on_worker(stampede(self.contender.clone(), key, served.clone()));
        if let Ok(turns) = timeout(patience, herd).await {
            self.add(turns?, begin.elapsed())?;
        } else {
            let served = served.load(Ordering::SeqCst);
            self.unfinished = Some(format!("{served} of {TASKS} served in {patience:?}"));
        }
        self.handed_over += served.load(Ordering::SeqCst);
        self.calls.add(&stage.one.calls().await?.since(&before));
        Ok(())
    }

    /// Adds up a round; it is an error if two held the lock at the same time.
    fn add(&mut self, mut turns: Vec<Turn>, wall: Duration) -> Outcome<()> {
        turns.sort_unstable_by_key(|turn| turn.begin);
        if turns.windows(2).any(|pair| pair[0].begin + pair[0].held > pair[1].begin) {
            return Err("two held the lock at once".into());
        }
        let ideal: Duration = turns.iter().map(|turn| turn.held).sum();
        self.rounds.push(wall.as_secs_f64() / ideal.as_secs_f64());
        self.holds.push(ideal.as_secs_f64() / turns.len() as f64);
        self.inversions += inversions(&turns);
        Ok(())
    }

    fn row(&self) -> Row {
        let kind = self.contender.kind;
        let (ratio, hold) =
            (median(self.rounds.iter().copied()), median(self.holds.iter().copied()));
        let worst = self.rounds.iter().copied().fold(0.0, f64::max);
        let per_turn = self.calls.sent(kind) as f64 / self.handed_over.max(1) as f64;
        let figure = format!(
            "wall {ratio:.2} x ideal (worst round {worst:.2}, holds of {:.2} ms), {per_turn:.1} commands a hand-over, {} inversions",
            hold * 1e3,
            self.inversions
        );
        let figure = self.unfinished.clone().unwrap_or(figure);
        let row = Row::new("herd: 200 tasks, one key, 1 ms each, one node", kind, figure);
        let row = row.calls(&self.calls, self.handed_over as u64, kind);
        if !kind.is_redlatch() {
            return row;
        }
        row.bound(Bound::at_most(1.2, "x ideal", ratio))
            .bound(Bound::at_most(10.0, "commands a hand-over", per_turn))
            .bound(Bound::at_most(0.0, "inversions", self.inversions as f64))
    }
}

/// How it went for one of the herd.
struct Turn {
    /// Its place by the order of arrival.
    arrival: usize,
    /// Its place by the order of service.
    service: usize,
    begin: Instant,
    held: Duration,
}

async fn stampede(
    contender: Contender,
    key: String,
    served: Arc<AtomicUsize>,
) -> Outcome<Vec<Turn>> {
    let mut tasks = JoinSet::new();
    for arrival in 0..TASKS {
        let (contender, key, served) = (contender.clone(), key.clone(), served.clone());
        let mut acquire = Box::pin(async move { contender.acquire(&key).await });
        // It arrives when it is polled first: here, so that the order is certain.
        let early = poll_immediate(&mut acquire).await;
        tasks.spawn(async move {
            let lock = match early {
                Some(lock) => lock?,
                None => acquire.await?,
            };
            let (begin, service) = (Instant::now(), served.fetch_add(1, Ordering::SeqCst));
            sleep(HOLD).await;
            let held = begin.elapsed();
            lock.release().await?;
            Outcome::Ok(Turn { arrival, service, begin, held })
        });
        yield_now().await;
    }
    let mut turns = Vec::with_capacity(TASKS);
    while let Some(turn) = tasks.join_next().await {
        turns.push(turn??);
    }
    Ok(turns)
}

fn inversions(turns: &[Turn]) -> usize {
    let behind = |first: &Turn| {
        let later = turns.iter().filter(|turn| turn.arrival > first.arrival);
        later.filter(|turn| turn.service < first.service).count()
    };
    turns.iter().map(behind).sum()
}

const TASKS: usize = 200;
const HOLD: Duration = Duration::from_millis(1);
