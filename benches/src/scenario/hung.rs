//! A quorum of five of which one or two servers hang: they are stopped, so that they take commands and do not answer.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    laps::{Lap, Runner},
    one_task::figure,
};
use crate::{
    Outcome,
    contender::{Contender, Kind},
    measure::ratio,
    stage::Stage,
    table::{Bound, Row},
};

pub async fn run(stage: &Stage) -> Outcome<Vec<Row>> {
    let group = &stage.five;
    // By the number of servers that hang.
    let contenders = Contender::connect_all(&Kind::QUORUM, &group.urls()).await?;
    let runner = |contender: Contender| Runner::new(contender.with_ttl(TTL));
    let mut phases = vec![contenders.into_iter().map(runner).collect::<Vec<_>>()];
    for _ in 0..2 {
        phases.push(phases[0].iter().map(Runner::again).collect());
    }
    for round in 0..stage.pick(5, 2) {
        // A library that waits for each time-out takes seconds for a few locks.
        let with_slow = round < stage.pick(2, 1);
        let mut stopped = Vec::new();
        for (hung, runners) in phases.iter_mut().enumerate() {
            if hung > 0 {
                stopped.push(group.servers[hung].stop()?);
            }
            lap_of_all(stage, runners, with_slow, hung > 0).await?;
        }
        drop(stopped);
        recover(&mut phases, stage).await?;
    }
    Ok(rows(&phases))
}

async fn lap_of_all(
    stage: &Stage,
    runners: &mut [Runner],
    with_slow: bool,
    is_hung: bool,
) -> Outcome<()> {
    let lap = Lap { operations: stage.pick(500, 200), time: Duration::from_secs(stage.pick(2, 1)) };
    let lap_before =
        Lap { operations: usize::MAX, time: Duration::from_millis(stage.pick(800, 200)) };
    let is_slow = |runner: &Runner| runner.kind() == Kind::Rslock;
    for runner in runners.iter_mut().filter(|runner| with_slow || !is_slow(runner)) {
        if !(is_hung && is_slow(runner)) {
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
    let titles = ["none", "one", "two"].map(|hung| format!("quorum of five, {hung} hung"));
    let phase = |(title, runners): (&String, &Vec<Runner>)| {
        let pairs = runners.iter().zip(&phases[0]);
        let row = |(runner, healthy): (&Runner, &Runner)| {
            let (kind, ratio) = (runner.kind(), ratio(&runner.rounds, &healthy.rounds));
            let row = Row::new(title, kind, figure(runner)).ratio(ratio, "healthy");
            let row = row.calls(&runner.calls, runner.operations(), kind);
            let is_bound = kind.is_redlatch() && !std::ptr::eq(runner, healthy);
            if is_bound { row.bound(Bound::at_most(1.2, "x healthy", ratio)) } else { row }
        };
        pairs.map(row).collect::<Vec<_>>()
    };
    titles.iter().zip(phases).flat_map(phase).collect()
}

/// Longer than the scenario, so that what is not released stays to be seen.
const TTL: Duration = Duration::from_secs(120);
const RECOVERY: Duration = Duration::from_millis(2_200);
