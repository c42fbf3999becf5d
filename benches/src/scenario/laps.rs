//! One task that takes and releases the same lock, again and again.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    Outcome,
    alloc::Allocations,
    calls::Calls,
    contender::{Contender, Kind},
    cost::{Cost, Meter},
    measure::{Samples, median, on_worker, show},
    ratio::Ratio,
    stage::Group,
    table::Row,
};

/// A contender and what was measured of it.
pub struct Runner {
    contender: Contender,
    /// The p50 of each round, in seconds.
    p50s: Vec<f64>,
    /// The mean time of a cycle in each round, in seconds, until all is settled that a cycle leaves to the background.
    cycles: Vec<f64>,
    samples: Samples,
    calls: Calls,
    pub cost: Cost,
    /// Keys that stayed locked after a round.
    pub left_behind: usize,
}

/// When a lap ends: after so many operations or so much time, but not before the first operation.
#[derive(Clone, Copy)]
pub struct Lap {
    pub operations: usize,
    pub time: Duration,
}

impl Runner {
    pub fn new(contender: Contender) -> Self {
        let (p50s, cycles, samples, calls, cost) = Default::default();
        Self { contender, p50s, cycles, samples, calls, cost, left_behind: 0 }
    }

    pub async fn connect_all(kinds: &[Kind], group: &Group) -> Outcome<Vec<Self>> {
        let contenders = Contender::connect_all(kinds, &group.urls()).await?;
        Ok(contenders.into_iter().map(Self::new).collect())
    }

    pub fn kind(&self) -> Kind {
        self.contender.kind
    }

    /// The same contender with nothing measured yet.
    pub fn again(&self) -> Self {
        Self::new(self.contender.clone())
    }

    /// Runs a lap and adds it up.
    pub async fn measure(&mut self, group: &Group, lap: Lap) -> Outcome<()> {
        let before = group.calls().await?;
        let (meter, begin) = (Meter::begin(group).await?, Instant::now());
        let samples = self.run(lap).await?;
        self.left_behind += group.settle(self.kind().name()).await?;
        let wall = begin.elapsed();
        meter.end(group, samples.len() as u64, &mut self.cost).await?;
        self.calls.add(&group.calls().await?.since(&before));
        self.p50s.push(samples.p50().as_secs_f64());
        self.cycles.push(wall.as_secs_f64() / samples.len() as f64);
        self.samples.extend(&samples);
        Ok(())
    }

    /// Runs a lap that does not count.
    pub async fn warm_up(&self, group: &Group, lap: Lap) -> Outcome<()> {
        self.run(lap).await?;
        group.settle(self.kind().name()).await?;
        Ok(())
    }

    /// Runs a lap of which only the allocations count.
    pub async fn weigh(&mut self, group: &Group, lap: Lap) -> Outcome<()> {
        let allocations = Allocations::begin();
        let samples = self.run(lap).await?;
        group.settle(self.kind().name()).await?;
        self.cost.weigh(&allocations, samples.len() as u64);
        Ok(())
    }

    /// How the p50 compares with another's.
    pub fn p50_to(&self, other: &Self) -> Ratio {
        Ratio::new(&self.p50s, &other.p50s)
    }

    /// How the time of a cycle compares with another's.
    pub fn cycle_to(&self, other: &Self) -> Ratio {
        Ratio::new(&self.cycles, &other.cycles)
    }

    /// The times, next to another's, and what it forgot.
    pub fn row(&self, scenario: &str, other: &Self, name: &str) -> Row {
        let of_all = |rounds: &[f64]| show(Duration::from_secs_f64(median(rounds.iter().copied())));
        let (p50, cycle) = (of_all(&self.p50s), of_all(&self.cycles));
        let mut figure = format!("p50 {p50}, cycle {cycle}, p99 {}", show(self.samples.p99()));
        if self.left_behind > 0 {
            figure = format!("{figure}, {} keys stayed locked", self.left_behind);
        }
        Row::new(scenario, self.kind(), figure)
            .ratio(&self.p50_to(other), &format!("{name} p50"))
            .ratio(&self.cycle_to(other), &format!("{name} cycle"))
            .calls(&self.calls, self.samples.len() as u64, self.kind())
    }

    async fn run(&self, lap: Lap) -> Outcome<Samples> {
        let contender = self.contender.clone();
        on_worker(async move {
            let key = format!("{}:lap", contender.kind.name());
            let (mut samples, begin) = (Samples::default(), Instant::now());
            for _ in 0..lap.operations {
                let start = Instant::now();
                contender.acquire(&key).await?.release().await?;
                samples.push(start.elapsed());
                if begin.elapsed() >= lap.time {
                    break;
                }
            }
            Ok(samples)
        })
        .await
    }
}
