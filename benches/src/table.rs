//! The table that comes out.

use std::fmt;

use crate::{calls::Calls, contender::Kind, cost::Cost, ratio::Ratio};

#[derive(Default)]
pub struct Table {
    pub rows: Vec<Row>,
    /// When the machine had other work to do.
    pub warnings: Vec<String>,
}

impl Table {
    /// Whether every scenario has come to its end.
    pub fn is_whole(&self) -> bool {
        !self.rows.iter().any(|row| row.has_failed)
    }

    /// A second table, if there is anything to show in it.
    fn write_costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut costs =
            self.rows.iter().filter_map(|row| Some((row, row.cost.as_ref()?))).peekable();
        if costs.peek().is_none() {
            return Ok(());
        }
        writeln!(
            f,
            "\n| per cycle | contender | client's CPU | servers' CPU | allocations | bytes allocated |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for (Row { scenario, contender, .. }, cost) in costs {
            let [client, servers, allocations, bytes] = cost.cells();
            writeln!(
                f,
                "| {scenario} | {contender} | {client} | {servers} | {allocations} | {bytes} |"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| scenario | contender | figure | ratio | commands per operation | reached |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for row in &self.rows {
            let [scenario, contender, figure, ratio, calls, reached] = row.cells();
            writeln!(f, "| {scenario} | {contender} | {figure} | {ratio} | {calls} | {reached} |")?;
        }
        self.write_costs(f)?;
        write!(f, "\n{NOTES}")?;
        if self.warnings.is_empty() {
            return Ok(());
        }
        write!(f, "\n- **Other work ran on the machine, so do not rely on these figures**: ")?;
        write!(f, "{}.", self.warnings.join("; "))
    }
}

/// What one contender did in one scenario.
#[derive(Default)]
pub struct Row {
    scenario: String,
    contender: String,
    figure: String,
    ratio: String,
    calls: String,
    cost: Option<Cost>,
    bounds: Vec<Bound>,
    has_failed: bool,
}

impl Row {
    pub fn new(scenario: &str, kind: Kind, figure: String) -> Self {
        let (scenario, contender) = (scenario.to_owned(), kind.name().to_owned());
        Self { scenario, contender, figure, ..Self::default() }
    }

    pub fn failed(scenario: &str, why: &str) -> Self {
        let figure = format!("**failed**: {why}");
        Self { scenario: scenario.to_owned(), figure, has_failed: true, ..Self::default() }
    }

    /// A figure relative to what `to` names.
    pub fn ratio(mut self, ratio: &Ratio, to: &str) -> Self {
        let more = ratio.describe(to);
        self.ratio = if self.ratio.is_empty() { more } else { format!("{}, {more}", self.ratio) };
        self
    }

    pub fn calls(mut self, calls: &Calls, operations: u64, kind: Kind) -> Self {
        self.calls = calls.per(operations, kind);
        self
    }

    pub fn cost(mut self, cost: &Cost) -> Self {
        self.cost = Some(cost.clone());
        self
    }

    pub fn bound(mut self, bound: Bound) -> Self {
        self.bounds.push(bound);
        self
    }

    fn cells(&self) -> [String; 6] {
        let bounds: Vec<_> = self.bounds.iter().map(Bound::to_string).collect();
        let (scenario, contender) = (self.scenario.clone(), self.contender.clone());
        let (figure, ratio, calls) = (self.figure.clone(), self.ratio.clone(), self.calls.clone());
        [scenario, contender, figure, ratio, calls, bounds.join("; ")]
    }
}

/// What a figure is to reach, and what it is.
pub struct Bound {
    figure: f64,
    limit: Limit,
    what: &'static str,
}

enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    /// `what` follows the limit: "x bare".
    pub fn at_most(limit: f64, what: &'static str, figure: f64) -> Self {
        Self { figure, limit: Limit::AtMost(limit), what }
    }

    pub fn at_least(limit: f64, what: &'static str, figure: f64) -> Self {
        Self { figure, limit: Limit::AtLeast(limit), what }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { figure, what, .. } = self;
        let (sign, limit, is_reached) = match self.limit {
            Limit::AtMost(limit) => ('≤', limit, *figure <= limit),
            Limit::AtLeast(limit) => ('≥', limit, *figure >= limit),
        };
        let verdict = if is_reached { "yes" } else { "**no**" };
        write!(f, "{verdict} ({sign} {limit} {what}")?;
        if is_reached { write!(f, ")") } else { write!(f, ", is {figure:.2})") }
    }
}

const NOTES: &str = "\
- Contenders take turns, round after round, and each is first in its turn. Figures are medians over the rounds; a
  ratio is the median of the ratios within a round, so that it need not be the quotient of the figures. In brackets:
  from the 10th to the 90th percentile, which is from the least to the greatest of fewer than ten rounds.
- One task takes and gives back the same key again and again, as does each of many. Its p50 is what the caller waits
  for from acquire to the end of release or drop; `cycle` is the time of a whole lap over the cycles in it, until
  nothing is locked any more, so that work in the background counts. So does a throughput.
- CPU time, allocations and bytes are those of this whole process, background work included, and for the servers those
  of all of them together. Allocations are counted in a lap that is not timed.
- `bare`: `SET key token NX PX` and `EVALSHA` of a compare-and-delete on one shared multiplexed connection; on a quorum
  to all at once, going on at a majority. Where it waits, it asks without a pause. All contenders have `TCP_NODELAY`.
- `redlatch (drop)`: the guard is dropped instead of released.
- Commands are what the servers executed according to `INFO commandstats`, divided by the operations: first what
  clients sent, then in brackets what scripts called, summed over all nodes that do not hang. Where commands are
  counted per hand-over, per guard or in all, only what clients sent is counted.
- A herd's ideal is the sum of the times that the lock was really held, since a timer of 1 ms takes longer than that.";
