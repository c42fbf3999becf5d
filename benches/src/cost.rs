//! What a cycle of taking a lock and giving it back costs beside time.

use std::time::Duration;

use crate::{
    Outcome,
    alloc::Allocations,
    measure::{cpu_time, median},
    stage::Group,
};

/// The costs of a cycle of one contender.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// Microseconds of CPU time in this process, round by round.
    client: Vec<f64>,
    /// Those of all servers together.
    servers: Vec<f64>,
    allocations: f64,
    allocated: f64,
}

impl Cost {
    /// Sets what was counted in a round of its own, which is not timed.
    pub fn weigh(&mut self, allocations: &Allocations, cycles: u64) {
        self.allocations = allocations.number() as f64 / cycles as f64;
        self.allocated = allocations.bytes() as f64 / cycles as f64;
    }

    /// For the table: CPU time of the client and of the servers, allocations, bytes allocated.
    pub fn cells(&self) -> [String; 4] {
        let micros = |rounds: &[f64]| format!("{:.1} us", median(rounds.iter().copied()));
        let (allocations, allocated) =
            (format!("{:.1}", self.allocations), format!("{:.0}", self.allocated));
        [micros(&self.client), micros(&self.servers), allocations, allocated]
    }
}

/// Reads the CPU clocks at the beginning and at the end of a round.
pub struct Meter {
    client: Duration,
    servers: Duration,
}

impl Meter {
    pub async fn begin(group: &Group) -> Outcome<Self> {
        let servers = group.cpu_time().await?;
        Ok(Self { client: cpu_time(), servers })
    }

    pub async fn end(self, group: &Group, cycles: u64, cost: &mut Cost) -> Outcome<()> {
        let each = |spent: Duration| spent.as_secs_f64() * 1e6 / cycles as f64;
        cost.client.push(each(cpu_time() - self.client));
        cost.servers.push(each(group.cpu_time().await?.saturating_sub(self.servers)));
        Ok(())
    }
}
