//! One task that takes and releases locks, one after the other.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    Outcome,
    calls::Calls,
    contender::{Contender, Kind},
    measure::{Samples, median, on_worker},
    stage::Group,
};

/// A contender and what was measured of it.
pub struct Runner {
    contender: Contender,
    /// They take turns, so that a release in the background is over before its key comes again.
    keys: Arc<[String]>,
    /// The p50 of each round, in seconds.
    pub rounds: Vec<f64>,
    pub samples: Samples,
    pub calls: Calls,
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
        let name = contender.kind.name();
        let keys = (0..KEYS).map(|number| format!("{name}:{number}")).collect();
        let (rounds, samples, calls) = Default::default();
        Self { contender, keys, rounds, samples, calls, left_behind: 0 }
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
        let samples = self.run(lap).await?;
        self.left_behind += group.settle(self.kind().name()).await?;
        self.calls.add(&group.calls().await?.since(&before));
        self.rounds.push(samples.p50().as_secs_f64());
        self.samples.extend(&samples);
        Ok(())
    }

    /// Runs a lap that does not count.
    pub async fn warm_up(&self, group: &Group, lap: Lap) -> Outcome<()> {
        self.run(lap).await?;
        group.settle(self.kind().name()).await?;
        Ok(())
    }

    /// The median of the rounds.
    pub fn p50(&self) -> Duration {
        Duration::from_secs_f64(median(self.rounds.iter().copied()))
    }

    pub fn operations(&self) -> u64 {
        self.samples.len() as u64
    }

    async fn run(&self, lap: Lap) -> Outcome<Samples> {
        let (contender, keys) = (self.contender.clone(), self.keys.clone());
        on_worker(async move {
            let (mut samples, begin) = (Samples::default(), Instant::now());
            for key in keys.iter().cycle().take(lap.operations) {
                let start = Instant::now();
                contender.acquire(key).await?.release().await?;
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

const KEYS: usize = 512;
