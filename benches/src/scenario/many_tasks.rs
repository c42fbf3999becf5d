//! Many tasks at once, each with keys of its own: how many locks a second.

use tokio::time::Instant;

use crate::{
    Outcome,
    calls::Calls,
    contender::{Contender, Kind},
    measure::{all, median, on_worker, ratio},
    stage::{Group, Stage},
    table::{Bound, Row},
};

struct Crowd {
    contender: Contender,
    /// Operations per second, round by round.
    rounds: Vec<f64>,
    operations: u64,
    calls: Calls,
}

pub async fn run(stage: &Stage) -> Outcome<Vec<Row>> {
    let (group, cycles) = (&stage.one, stage.pick(100, 40));
    let contenders = Contender::connect_all(&Kind::ALL, &group.urls()).await?;
    let mut crowds: Vec<_> = contenders.into_iter().map(Crowd::new).collect();
    for crowd in &crowds {
        crowd.work(group, cycles / 2).await?;
    }
    for _ in 0..stage.pick(9, 3) {
        for crowd in &mut crowds {
            crowd.measure(group, cycles).await?;
        }
    }
    Ok(rows(&crowds))
}

impl Crowd {
    fn new(contender: Contender) -> Self {
        let (rounds, calls) = Default::default();
        Self { contender, rounds, operations: 0, calls }
    }

    async fn measure(&mut self, group: &Group, cycles: usize) -> Outcome<()> {
        let before = group.calls().await?;
        self.rounds.push(self.work(group, cycles).await?);
        group.settle(self.contender.kind.name()).await?;
        self.operations += (TASKS * cycles) as u64;
        self.calls.add(&group.calls().await?.since(&before));
        Ok(())
    }

    /// Returns how many locks a second were taken and released.
    async fn work(&self, group: &Group, cycles: usize) -> Outcome<f64> {
        let begin = Instant::now();
        let tasks = (0..TASKS).map(|task| cycle(self.contender.clone(), task, cycles));
        on_worker(all(tasks.collect::<Vec<_>>())).await?;
        if self.contender.kind == Kind::RedlatchDrop {
            group.settle(self.contender.kind.name()).await?;
        }
        Ok((TASKS * cycles) as f64 / begin.elapsed().as_secs_f64())
    }
}

async fn cycle(contender: Contender, task: usize, cycles: usize) -> Outcome<()> {
    let name = contender.kind.name();
    let key = |number| format!("{name}:{task}:{number}");
    let keys: Vec<_> = (0..KEYS_PER_TASK).map(key).collect();
    for key in keys.iter().cycle().take(cycles) {
        contender.acquire(key).await?.release().await?;
    }
    Ok(())
}

fn rows(crowds: &[Crowd]) -> Vec<Row> {
    let rounds_of = |kind| {
        let crowd = crowds.iter().find(|crowd| crowd.contender.kind == kind);
        crowd.map_or(&[][..], |crowd| &crowd.rounds)
    };
    let (bare, rslock) = (rounds_of(Kind::Bare), rounds_of(Kind::Rslock));
    let row = |crowd: &Crowd| {
        let kind = crowd.contender.kind;
        let figure = format!("{:.1}k locks/s", median(crowd.rounds.iter().copied()) / 1e3);
        let (to_bare, to_rslock) = (ratio(&crowd.rounds, bare), ratio(&crowd.rounds, rslock));
        let row = Row::new("256 tasks, distinct keys, one node", kind, figure);
        let row = row.ratio(to_bare, "bare").calls(&crowd.calls, crowd.operations, kind);
        if !kind.is_redlatch() {
            return row;
        }
        row.ratio(to_rslock, "rslock")
            .bound(Bound::at_least(0.75, "x bare", to_bare))
            .bound(Bound::at_least(1.2, "x rslock", to_rslock))
    };
    crowds.iter().map(row).collect()
}

const TASKS: usize = 256;
const KEYS_PER_TASK: usize = 8;
