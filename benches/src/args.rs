//! The command line.

use crate::{contender::Kind, scenario::SCENARIOS};

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

/// What a process of a herd is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Herd {
    pub kind: Kind,
    pub key: String,
    pub tasks: usize,
    pub urls: Vec<String>,
}

impl Herd {
    /// The arguments that [`parse`] reads this from.
    pub fn to_args(&self) -> Vec<String> {
        let (name, tasks) = (self.kind.name().to_owned(), self.tasks.to_string());
        let mut args = vec![HERD.to_owned(), name, self.key.clone(), tasks];
        args.extend(self.urls.iter().cloned());
        args
    }

    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let (name, key, tasks) = (args.next()?, args.next()?, args.next()?);
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name)?;
        Some(Self { kind, key, tasks: tasks.parse().ok()?, urls: args.collect() })
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

/// The subcommand of a herd's processes.
const HERD: &str = "herd-child";
