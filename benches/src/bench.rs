//! The benchmark of redlatch. It starts its own servers, runs every contender through every scenario, and prints
//! tables. `scripts/bench` builds and runs it.

mod alloc;
mod args;
mod busy;
mod calls;
mod contender;
mod cost;
mod machine;
mod measure;
mod ratio;
mod scenario;
mod stage;
mod table;

use std::{process::ExitCode, time::Instant};

use redlatch_bench::{Outcome, servers};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{Args, Task},
    scenario::{SCENARIOS, Scenario},
    stage::Stage,
    table::{Row, Table},
};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

fn main() -> ExitCode {
    let done = match args::parse(std::env::args().skip(1)) {
        Ok(Task::Help) => {
            println!("{}", args::usage());
            return ExitCode::SUCCESS;
        }
        Ok(Task::Bench(args)) => bench(&args),
        Ok(Task::Herd(herd)) => scenario::herd_child(&herd),
        Err(message) => {
            eprintln!("bench: {message}\n{}", args::usage());
            return ExitCode::from(64);
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("bench: {error}");
        ExitCode::FAILURE
    })
}

/// Runs the benchmark. The servers belong to this thread: they end with it, however it ends.
fn bench(args: &Args) -> Outcome<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut stage = Stage::new(args.quick)?;
    runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            code = play(args, &mut stage) => code,
            _ = interrupted.recv() => Ok(ExitCode::from(130)),
            _ = terminated.recv() => Ok(ExitCode::from(143)),
        }
    })
}

async fn play(args: &Args, stage: &mut Stage) -> Outcome<ExitCode> {
    stage.connect().await?;
    let (began, mut table) = (Instant::now(), Table::default());
    let chosen = SCENARIOS.iter().filter(|scenario| args.wants(scenario.name));
    for scenario in chosen {
        eprintln!("{:4} s  {}", began.elapsed().as_secs(), scenario.name);
        stage.clear().await?;
        table.warnings.extend(warn(scenario).await);
        table.rows.extend(perform(scenario, stage).await?);
    }
    println!("{}\n", machine::describe(args));
    println!("{table}");
    Ok(if table.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says so when other work runs on the machine. Returns what goes with the table.
async fn warn(scenario: &Scenario) -> Option<String> {
    let warning = busy::warning(scenario.name).await?;
    eprintln!("bench: other work runs on the machine: {warning}");
    Some(warning)
}

/// Runs one scenario. One that fails or hangs takes a row of the table, and the others go on.
async fn perform(scenario: &Scenario, stage: &Stage) -> Outcome<Vec<Row>> {
    let limit = stage.pick(scenario.limit, scenario.limit / 4);
    Ok(match tokio::time::timeout(limit, (scenario.run)(stage)).await {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) => vec![Row::failed(scenario.name, &error.to_string())],
        Err(_elapsed) => vec![Row::failed(scenario.name, &format!("not over after {limit:?}"))],
    })
}
