//! Four processes of fifty tasks each that want the same lock at once.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::{
    herd_child::{Herd, READY, Turn},
    turns::turns,
};
use crate::{
    Outcome,
    calls::Calls,
    contender::Kind,
    measure::{machine_time, median, show},
    stage::{Group, Stage},
    table::{Bound, Row},
};

pub async fn run(stage: &Stage) -> Outcome<Vec<Row>> {
    let one = stage.pick(Kind::ALL, Kind::QUORUM); // the last of all takes too long for a quick run
    let five = [Kind::Redlatch, Kind::RedlatchDrop, Kind::Rslock];
    let mut rows = race(stage, &stage.one, one, "one node").await?;
    rows.extend(race(stage, &stage.five, &five, "quorum of five").await?);
    Ok(rows)
}

async fn race(stage: &Stage, group: &Group, kinds: &[Kind], nodes: &str) -> Outcome<Vec<Row>> {
    let mut herds: Vec<_> = kinds.iter().map(|&kind| Processes::new(kind)).collect();
    for round in 0..stage.pick(5, 2) {
        let with_slow = round < stage.pick(2, 1);
        for place in turns(round, herds.len()) {
            let herd = &mut herds[place];
            if with_slow || !matches!(herd.kind, Kind::Rslock | Kind::AsyncRedisLock) {
                herd.measure(stage, group, round).await?;
            }
        }
    }
    let title = format!("herd: 4 processes x 50 tasks, 1 ms each, {nodes}");
    Ok(herds.iter().map(|herd| herd.row(&title)).collect())
}

struct Processes {
    kind: Kind,
    rounds: Vec<Round>,
    handed_over: u64,
    calls: Calls,
    unfinished: Option<String>,
}

impl Processes {
    fn new(kind: Kind) -> Self {
        Self { kind, rounds: Vec::new(), handed_over: 0, calls: Calls::default(), unfinished: None }
    }

    async fn measure(&mut self, stage: &Stage, group: &Group, round: usize) -> Outcome<()> {
        let key = format!("{OWNER}:{}:{round}", self.kind.name());
        let mut members = Vec::new();
        for _ in 0..PROCESSES {
            members.push(Member::start(self.kind, &key, group).await?);
        }
        let before = group.calls().await?;
        let begin = machine_time();
        for member in &mut members {
            member.tell("go\n").await?;
        }
        let patience = stage.pick(Duration::from_secs(20), Duration::from_secs(3));
        match timeout(patience, all_turns(&mut members)).await {
            Ok(turns) => {
                self.rounds.push(Round::new(&turns?, begin)?);
                group.settle(OWNER).await?;
                self.calls.add(&group.calls().await?.since(&before));
                self.handed_over += (PROCESSES * TASKS) as u64;
            }
            Err(_elapsed) => self.unfinished = Some(format!("not served within {patience:?}")),
        }
        Ok(())
    }

    fn row(&self, title: &str) -> Row {
        let of_all = |figure: fn(&Round) -> f64| self.rounds.iter().map(figure);
        let ratio = median(of_all(|round| round.to_ideal));
        let unfair = of_all(|round| round.unfair).fold(0.0, f64::max);
        let per_turn = self.calls.sent(self.kind) as f64 / self.handed_over.max(1) as f64;
        let figure = format!(
            "wall {ratio:.2} x ideal (worst round {:.2}), {per_turn:.1} commands a hand-over, slowest process \
             {unfair:.2} x the mean wait, longest time that nobody held it {}",
            of_all(|round| round.to_ideal).fold(0.0, f64::max),
            show(self.rounds.iter().map(|round| round.longest_gap).max().unwrap_or_default()),
        );
        let row = Row::new(title, self.kind, self.unfinished.clone().unwrap_or(figure));
        let row = row.calls(&self.calls, self.handed_over, self.kind);
        if !self.kind.is_redlatch() {
            return row;
        }
        row.bound(Bound::at_most(1.4, "x ideal", ratio)).bound(Bound::at_most(
            3.0,
            "x the mean wait",
            unfair,
        ))
    }
}

/// How it went once.
struct Round {
    /// Wall time over the sum of the holds.
    to_ideal: f64,
    /// The longest mean wait of a process over the mean of all.
    unfair: f64,
    /// The longest time between two holds.
    longest_gap: Duration,
}

impl Round {
    /// Adds up the turns of each process; it is an error if two of them held the lock at the same time.
    fn new(turns: &[Vec<Turn>], begin: Duration) -> Outcome<Self> {
        let mut in_order: Vec<Turn> = turns.iter().flatten().copied().collect();
        in_order.sort_unstable_by_key(|turn| turn.got);
        let ideal: Duration = in_order.iter().map(Turn::held).sum();
        let wall = in_order.iter().map(|turn| turn.end).max().unwrap_or_default() - begin;
        let mut longest_gap = Duration::ZERO;
        for pair in in_order.windows(2) {
            let gap =
                pair[1].got.checked_sub(pair[0].gave_up).ok_or("two held the lock at once")?;
            longest_gap = longest_gap.max(gap);
        }
        let mean = |turns: &[Turn]| {
            turns.iter().map(Turn::waited).sum::<Duration>().as_secs_f64() / turns.len() as f64
        };
        let slowest = turns.iter().map(|turns| mean(turns)).fold(0.0, f64::max);
        let to_ideal = wall.as_secs_f64() / ideal.as_secs_f64();
        Ok(Self { to_ideal, unfair: slowest / mean(&in_order), longest_gap })
    }
}

/// One process of the herd. It is killed when dropped, and ends by itself when this process is gone.
struct Member {
    _child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Member {
    async fn start(kind: Kind, key: &str, group: &Group) -> Outcome<Self> {
        let herd = Herd { kind, key: key.to_owned(), tasks: TASKS, urls: group.urls() };
        let mut child = Command::new(std::env::current_exe()?)
            .args(herd.to_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().ok_or("no pipe to the process")?;
        let stdout = child.stdout.take().ok_or("no pipe from the process")?;
        let mut member = Self { _child: child, stdin, lines: BufReader::new(stdout).lines() };
        match member.hear().await?.as_str() {
            READY => Ok(member),
            other => Err(format!("a process of the herd said {other:?}").into()),
        }
    }

    async fn tell(&mut self, word: &str) -> Outcome<()> {
        Ok(self.stdin.write_all(word.as_bytes()).await?)
    }

    async fn hear(&mut self) -> Outcome<String> {
        self.lines.next_line().await?.ok_or_else(|| "a process of the herd is gone".into())
    }
}

/// The turns of each process.
async fn all_turns(members: &mut [Member]) -> Outcome<Vec<Vec<Turn>>> {
    let mut turns = Vec::new();
    for member in members {
        let mut of_member = Vec::new();
        for _ in 0..TASKS {
            let line = member.hear().await?;
            of_member.push(Turn::parse(&line).ok_or("a process of the herd talks nonsense")?);
        }
        turns.push(of_member);
    }
    Ok(turns)
}

/// What the keys begin with.
const OWNER: &str = "herd";
const PROCESSES: usize = 4;
const TASKS: usize = 50;
