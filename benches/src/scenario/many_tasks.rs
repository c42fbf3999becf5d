//! Many tasks at once, each with a key of its own that it takes again and again: how many locks a second.

use std::time::Duration;

use tokio::time::Instant;

use super::turns::turns;
use crate::{
    Outcome,
    alloc::Allocations,
    calls::Calls,
    contender::{Contender, Kind},
    cost::{Cost, Meter},
    measure::{all, median, on_worker},
    ratio::Ratio,
    stage::{Group, Stage},
    table::{Bound, Row},
};

pub async fn run(stage: &Stage) -> Outcome<Vec<Row>> {
    let (group, cycles) = (&stage.one, stage.pick(50, 20));
    let contenders = Contender::connect_all(Kind::ALL, &group.urls()).await?;
    let mut crowds: Vec<_> = contenders.into_iter().map(Crowd::new).collect();
    for crowd in &crowds {
        crowd.work(group, cycles / 2).await?;
    }
    for round in 0..stage.pick(10, 5) {
        for place in turns(round, crowds.len()) {
            crowds[place].measure(group, cycles).await?;
        }
    }
    for crowd in &mut crowds {
        crowd.weigh(group, cycles).await?;
    }
    Ok(rows(&crowds))
}

struct Crowd {
    contender: Contender,
    /// Operations per second, round by round.
    rounds: Vec<f64>,
    operations: u64,
    calls: Calls,
    cost: Cost,
}

impl Crowd {
    fn new(contender: Contender) -> Self {
        let (rounds, calls, cost) = Default::default();
        Self { contender, rounds, operations: 0, calls, cost }
    }

    async fn measure(&mut self, group: &Group, cycles: usize) -> Outcome<()> {
        let before = group.calls().await?;
        let meter = Meter::begin(group).await?;
        let wall = self.work(group, cycles).await?;
        let operations = (TASKS * cycles) as u64;
        meter.end(group, operations, &mut self.cost).await?;
        self.calls.add(&group.calls().await?.since(&before));
        self.rounds.push(operations as f64 / wall.as_secs_f64());
        self.operations += operations;
        Ok(())
    }

    /// Works without being timed, but with its allocations counted.
    async fn weigh(&mut self, group: &Group, cycles: usize) -> Outcome<()> {
        let allocations = Allocations::begin();
        self.work(group, cycles).await?;
        self.cost.weigh(&allocations, (TASKS * cycles) as u64);
        Ok(())
    }

    /// Returns how long it takes until all locks were taken and are released.
    async fn work(&self, group: &Group, cycles: usize) -> Outcome<Duration> {
        let begin = Instant::now();
        let tasks = (0..TASKS).map(|task| cycle(self.contender.clone(), task, cycles));
        on_worker(all(tasks.collect::<Vec<_>>())).await?;
        group.settle(self.contender.kind.name()).await?;
        Ok(begin.elapsed())
    }

    fn row(&self, bare: &[f64], rslock: &[f64]) -> Row {
        let kind = self.contender.kind;
        let figure = format!("{:.1}k locks/s", median(self.rounds.iter().copied()) / 1e3);
        let (to_bare, to_rslock) =
            (Ratio::new(&self.rounds, bare), Ratio::new(&self.rounds, rslock));
        let row = Row::new("256 tasks, a key each, one node", kind, figure).ratio(&to_bare, "bare");
        let row = row.calls(&self.calls, self.operations, kind).cost(&self.cost);
        if kind == Kind::RedlatchUnfenced {
            return row.bound(Bound::at_least(0.9, "x bare", to_bare.median()));
        }
        if !kind.is_redlatch() {
            return row;
        }
        row.ratio(&to_rslock, "rslock")
            .bound(Bound::at_least(0.7, "x bare", to_bare.median()))
            .bound(Bound::at_least(1.2, "x rslock", to_rslock.median()))
    }
}

async fn cycle(contender: Contender, task: usize, cycles: usize) -> Outcome<()> {
    let key = format!("{}:{task}", contender.kind.name());
    for _ in 0..cycles {
        contender.acquire(&key).await?.release().await?;
    }
    Ok(())
}

fn rows(crowds: &[Crowd]) -> Vec<Row> {
    let rounds_of = |kind| {
        let crowd = crowds.iter().find(|crowd| crowd.contender.kind == kind);
        crowd.map_or(&[][..], |crowd| &crowd.rounds)
    };
    let (bare, rslock) = (rounds_of(Kind::Bare), rounds_of(Kind::Rslock));
    crowds.iter().map(|crowd| crowd.row(bare, rslock)).collect()
}

const TASKS: usize = 256;
