//! The command line.

use crate::scenario::{HERD, Herd, SCENARIOS};

/// What the process is there for.
pub enum Task {
    Help,
    Bench(Args),
    /// Be one of several processes that want the same lock.
    Herd(Herd),
}

pub struct Args {
    pub quick: bool,
    /// The scenarios to run; all of them if empty.
    only: Vec<String>,
}

impl Args {
    pub fn wants(&self, scenario: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == scenario)
    }

    /// The command line that this came from.
    pub fn command(&self) -> String {
        let quick = if self.quick { " --quick" } else { "" };
        let only: String = self.only.iter().map(|name| format!(" --only {name}")).collect();
        format!("./scripts/bench{quick}{only}")
    }
}

pub fn parse(args: impl Iterator<Item = String>) -> Result<Task, String> {
    let (mut args, mut parsed) = (args, Args { quick: false, only: Vec::new() });
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" => return Ok(Task::Help),
            "--quick" => parsed.quick = true,
            "--only" => parsed.only.push(scenario(args.next())?),
            HERD => {
                return Herd::parse(args).map(Task::Herd).ok_or_else(|| "bad herd".to_owned());
            }
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(Task::Bench(parsed))
}

pub fn usage() -> String {
    let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    format!("usage: bench [--quick] [--only NAME]...\nscenarios: {}", names.join(", "))
}

fn scenario(name: Option<String>) -> Result<String, String> {
    let name = name.ok_or("--only needs the name of a scenario")?;
    let known = SCENARIOS.iter().any(|scenario| scenario.name == name);
    if known { Ok(name) } else { Err(format!("there is no scenario {name}")) }
}
