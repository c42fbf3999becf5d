//! One task, on one node and on a quorum: how long a lock takes that nobody else wants.

use std::time::Duration;

use super::{
    laps::{Lap, Runner},
    turns::turns,
};
use crate::{
    Outcome,
    contender::Kind,
    stage::{Group, Stage},
    table::{Bound, Row},
};

pub async fn one_node(stage: &Stage) -> Outcome<Vec<Row>> {
    let runners = race(stage, &stage.one, Kind::ALL).await?;
    let row = |runner: &Runner| {
        let row = row("one task, one node", runner, &runners[0]);
        if runner.kind() != Kind::RedlatchDrop {
            return row;
        }
        let cycle = runner.cycle_to(&runners[0]).median();
        row.bound(Bound::at_most(0.65, "x bare cycle", cycle))
    };
    Ok(runners.iter().map(row).collect())
}

pub async fn quorum(stage: &Stage) -> Outcome<Vec<Row>> {
    let runners = race(stage, &stage.five, Kind::QUORUM).await?;
    let row = |runner| row("one task, quorum of five", runner, &runners[0]);
    Ok(runners.iter().map(row).collect())
}

async fn race(stage: &Stage, group: &Group, kinds: &[Kind]) -> Outcome<Vec<Runner>> {
    let lap = |operations| Lap { operations, time: Duration::from_secs(2) };
    let operations = stage.pick(500, 120);
    let mut runners = Runner::connect_all(kinds, group).await?;
    for runner in &runners {
        runner.warm_up(group, lap(operations)).await?;
    }
    for round in 0..stage.pick(40, 20) {
        for place in turns(round, runners.len()) {
            runners[place].measure(group, lap(operations)).await?;
        }
    }
    for runner in &mut runners {
        runner.weigh(group, lap(WEIGHED)).await?;
    }
    Ok(runners)
}

fn row(scenario: &str, runner: &Runner, bare: &Runner) -> Row {
    let row = runner.row(scenario, bare, "bare").cost(&runner.cost);
    if !runner.kind().is_redlatch() {
        return row;
    }
    row.bound(Bound::at_most(1.05, "x bare p50", runner.p50_to(bare).median()))
}

/// So many that what surrounds a lap does not count among the allocations of a cycle.
const WEIGHED: usize = 1_000;
