//! One of the processes of a herd: it sets itself up, says so, waits for the word, tells how it went, and
//! waits for its end.

use std::{
    io::{BufRead, Read},
    process::ExitCode,
    time::Duration,
};

use tokio::{sync::oneshot, time::sleep};

use crate::{
    Outcome,
    contender::{Contender, Kind},
    measure::{all, machine_time},
};

/// The subcommand of a herd's processes.
pub const HERD: &str = "herd-child";

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

    pub fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let (name, key, tasks) = (args.next()?, args.next()?, args.next()?);
        let kind = Kind::ALL.iter().copied().find(|kind| kind.name() == name)?;
        Some(Self { kind, key, tasks: tasks.parse().ok()?, urls: args.collect() })
    }
}

/// How it went for one task, on the clock that all processes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub asked: Duration,
    pub got: Duration,
    pub gave_up: Duration,
    pub end: Duration,
}

impl Turn {
    pub fn waited(&self) -> Duration {
        self.got - self.asked
    }

    pub fn held(&self) -> Duration {
        self.gave_up - self.got
    }

    fn to_line(self) -> String {
        let times = [self.asked, self.got, self.gave_up, self.end];
        times.map(|time| time.as_nanos().to_string()).join(" ")
    }

    pub fn parse(line: &str) -> Option<Self> {
        let nanos = line.split_whitespace().map(|word| word.parse().ok());
        let times: Vec<_> = nanos.map(|nanos| nanos.map(Duration::from_nanos)).collect();
        match times[..] {
            [Some(asked), Some(got), Some(gave_up), Some(end)] => {
                Some(Self { asked, got, gave_up, end })
            }
            _ => None,
        }
    }
}

pub fn herd_child(herd: &Herd) -> Outcome<ExitCode> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let contender = Contender::connect(herd.kind, &herd.urls).await?;
        let go = word_from_parent();
        println!("{READY}");
        go.await?;
        let tasks: Vec<_> =
            (0..herd.tasks).map(|_| take_turn(contender.clone(), herd.key.clone())).collect();
        for turn in all(tasks).await? {
            println!("{}", turn.to_line());
        }
        // The parent ends this process when all have told: what it still does must not be cut off before.
        std::future::pending().await
    })
}

async fn take_turn(contender: Contender, key: String) -> Outcome<Turn> {
    let asked = machine_time();
    let lock = contender.acquire(&key).await?;
    let got = machine_time();
    sleep(HOLD).await;
    let gave_up = machine_time();
    lock.release().await?;
    Ok(Turn { asked, got, gave_up, end: machine_time() })
}

/// Resolves at the first line from the parent. When the parent closes the pipe, or is gone, this process ends.
fn word_from_parent() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let (mut stdin, mut line) = (std::io::stdin().lock(), String::new());
        if stdin.read_line(&mut line).is_ok_and(|length| length > 0) {
            // Nobody listens if setting up failed.
            let _ = sender.send(());
        }
        let _ = stdin.read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    receiver
}

/// What a process says once it is set up.
pub const READY: &str = "ready";
const HOLD: Duration = Duration::from_millis(1);
