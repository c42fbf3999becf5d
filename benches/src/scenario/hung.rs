//! A quorum of five of which one or two servers hang: they are stopped, so that they take commands and do not answer.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    laps::{Lap, Runner},
    turns::turns,
};
use crate::{
    Outcome,
    contender::{Contender, Kind},
    stage::Stage,
    table::{Bound, Row},
};

pub async fn run(stage: &Stage) -> Outcome<Vec<Row>> {
    let group = &stage.five;
    // By the number of servers that hang.
    let contenders = Contender::connect_all(Kind::QUORUM, &group.urls()).await?;
    let runner = |contender: Contender| Runner::new(contender.with_ttl(TTL));
    let mut phases = vec![contenders.into_iter().map(runner).collect::<Vec<_>>()];
    for _ in 0..2 {
        phases.push(phases[0].iter().map(Runner::again).collect());
    }
    for round in 0..stage.pick(5, 2) {
        let mut stopped = Vec::new();
        for (hung, runners) in phases.iter_mut().enumerate() {
            if hung > 0 {
                stopped.push(group.servers[hung].stop()?);
            }
            lap_of_all(stage, runners, round, hung > 0).await?;
        }
        drop(stopped);
        recover(&mut phases, stage).await?;
    }
    Ok(rows(&phases))
}

async fn lap_of_all(
    stage: &Stage,
    runners: &mut [Runner],
    round: usize,
    is_hung: bool,
) -> Outcome<()> {
    let lap = Lap { operations: stage.pick(500, 200), time: Duration::from_secs(stage.pick(2, 1)) };
    let lap_before =
        Lap { operations: usize::MAX, time: Duration::from_millis(stage.pick(800, 200)) };
    for place in turns(round, runners.len()) {
        let runner = &mut runners[place];
        // A library that waits for each time-out takes seconds for a few locks.
        let is_slow = runner.kind() == Kind::Rslock;
        if is_slow && round >= stage.pick(2, 1) {
            continue;
        }
        if !(is_hung && is_slow) {
            runner.warm_up(&stage.five, lap_before).await?;
        }
        runner.measure(&stage.five, lap).await?;
    }
    Ok(())
}

/// Lets the servers that were stopped catch up, and sees what stays locked there.
async fn recover(phases: &mut [Vec<Runner>], stage: &Stage) -> Outcome<()> {
    // A release that could not be confirmed is tried again later, and must not count in the next round.
    sleep(RECOVERY).await;
    for runner in phases.last_mut().into_iter().flatten() {
        runner.left_behind += stage.five.settle(runner.kind().name()).await?;
    }
    Ok(())
}

fn rows(phases: &[Vec<Runner>]) -> Vec<Row> {
    let phase = |(hung, runners): (usize, &Vec<Runner>)| {
        let pairs = runners.iter().zip(&phases[0]);
        pairs.map(|(runner, healthy)| row(hung, runner, healthy)).collect::<Vec<_>>()
    };
    phases.iter().enumerate().flat_map(phase).collect()
}

fn row(hung: usize, runner: &Runner, healthy: &Runner) -> Row {
    let number = ["none", "one", "two"][hung];
    let row = runner.row(&format!("quorum of five, {number} hung"), healthy, "healthy");
    if hung == 0 || !runner.kind().is_redlatch() {
        return row;
    }
    let limit = if hung == 1 { 1.1 } else { 1.2 };
    row.bound(Bound::at_most(limit, "x healthy p50", runner.p50_to(healthy).median()))
}

/// Longer than the scenario, so that what is not released stays to be seen.
const TTL: Duration = Duration::from_secs(120);
const RECOVERY: Duration = Duration::from_millis(2_200);
