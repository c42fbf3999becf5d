//! What the contenders go through. One file a scenario, or a few that belong together.

mod hand_off;
mod herd;
mod herd_child;
mod herd_processes;
mod hung;
mod idle;
mod laps;
mod many_tasks;
mod one_task;
mod renewed;
mod turns;
mod waiting;

use std::{future::Future, pin::Pin, time::Duration};

pub use self::herd_child::{HERD, Herd, herd_child};
use crate::{Outcome, stage::Stage, table::Row};

pub struct Scenario {
    /// What `--only` calls it.
    pub name: &'static str,
    /// The longest that a full run may take.
    pub limit: Duration,
    pub run: Run,
}

type Run = for<'a> fn(&'a Stage) -> Pin<Box<dyn Future<Output = Outcome<Vec<Row>>> + 'a>>;

/// All of them, in the order of the table.
pub const SCENARIOS: [Scenario; 10] = [
    scenario("one-task", 60, |stage| Box::pin(one_task::one_node(stage))),
    scenario("many-tasks", 120, |stage| Box::pin(many_tasks::run(stage))),
    scenario("quorum", 60, |stage| Box::pin(one_task::quorum(stage))),
    scenario("hung", 120, |stage| Box::pin(hung::run(stage))),
    scenario("hand-off", 120, |stage| Box::pin(hand_off::run(stage))),
    scenario("idle", 80, |stage| Box::pin(idle::run(stage))),
    scenario("herd", 120, |stage| Box::pin(herd::run(stage))),
    scenario("herd-processes", 180, |stage| Box::pin(herd_processes::run(stage))),
    scenario("renewed", 100, |stage| Box::pin(renewed::run(stage))),
    scenario("waiting", 60, |stage| Box::pin(waiting::run(stage))),
];

const fn scenario(name: &'static str, seconds: u64, run: Run) -> Scenario {
    Scenario { name, limit: Duration::from_secs(seconds), run }
}
