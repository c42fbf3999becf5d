//! One task, on one node and on a quorum: how long a lock takes that nobody else wants.

use std::time::Duration;

use super::laps::{Lap, Runner};
use crate::{
    Outcome,
    contender::Kind,
    measure::{ratio, show},
    stage::{Group, Stage},
    table::{Bound, Row},
};

pub async fn one_node(stage: &Stage) -> Outcome<Vec<Row>> {
    let runners = race(stage, &stage.one, &Kind::ALL, stage.pick(40, 15)).await?;
    Ok(rows("one task, one node", &runners, Some(0.75)))
}

pub async fn quorum(stage: &Stage) -> Outcome<Vec<Row>> {
    let runners = race(stage, &stage.five, &Kind::QUORUM, stage.pick(40, 15)).await?;
    Ok(rows("one task, quorum of five", &runners, None))
}

async fn race(stage: &Stage, group: &Group, kinds: &[Kind], rounds: usize) -> Outcome<Vec<Runner>> {
    let lap = Lap { operations: stage.pick(500, 150), time: Duration::from_secs(2) };
    let mut runners = Runner::connect_all(kinds, group).await?;
    for runner in &runners {
        runner.warm_up(group, lap).await?;
    }
    for _ in 0..rounds {
        for runner in &mut runners {
            runner.measure(group, lap).await?;
        }
    }
    Ok(runners)
}

fn rows(scenario: &str, runners: &[Runner], drop_limit: Option<f64>) -> Vec<Row> {
    let bare = &runners[0].rounds;
    let row = |runner: &Runner| {
        let (kind, ratio) = (runner.kind(), ratio(&runner.rounds, bare));
        let row = Row::new(scenario, kind, figure(runner)).ratio(ratio, "bare");
        let row = row.calls(&runner.calls, runner.operations(), kind);
        match (kind, drop_limit) {
            (Kind::Redlatch, _) => row.bound(Bound::at_most(1.15, "x bare", ratio)),
            (Kind::RedlatchDrop, Some(limit)) => row.bound(Bound::at_most(limit, "x bare", ratio)),
            _ => row,
        }
    };
    runners.iter().map(row).collect()
}

/// The times of a runner, and what it forgot.
pub fn figure(runner: &Runner) -> String {
    let times = format!("p50 {}, p99 {}", show(runner.p50()), show(runner.samples.p99()));
    match runner.left_behind {
        0 => times,
        left => format!("{times}, {left} keys stayed locked"),
    }
}
