//! What a schedule is made of: its kind, and what follows from kind and seed.

use std::{ops::Range, time::Duration};

use super::dice::Dice;

/// What may happen in a schedule, and so what must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Contention and slow nodes, but nothing breaks.
    Calm,
    /// Everything breaks but the nodes' memory; TTLs are short.
    Leases,
    /// The same with long TTLs: only releases free a key.
    Leftovers,
    /// Nodes restart without memory.
    Amnesia,
    /// The same, and nodes that have restarted do not vote before all that they had granted has ended.
    Restarts,
    /// The nodes' clocks drift farther than allowed for.
    Drift,
    /// As with short leases, and most locks are those of one owner, whom all the processes share.
    Sharing,
    /// As with short leases, and the keys are the slots of a semaphore: most who come take any of them.
    Slots,
    /// As with short leases, and most work is to run once.
    Once,
}

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) nodes: usize,
    pub(super) processes: usize,
    pub(super) workers: usize,
    pub(super) rounds: u64,
    pub(super) keys: Vec<String>,
    /// How far the processes' wall clocks may differ, in microseconds.
    pub(super) skew: u64,
    /// How slow the network is at most, in general.
    pub(super) slowness: u64,
    pub(super) suspends: bool,
    /// Whether callers choose owner tokens, and use them again.
    pub(super) owners: bool,
    /// Whether locks have no fencing counters.
    pub(super) unfenced: bool,
    /// How long counters outlive the last use of their key.
    pub(super) retention: Duration,
    /// Whether the fencing counters are ahead of all wall clocks, and differ from node to node.
    pub(super) counters_ahead: bool,
}

impl Kind {
    pub(super) const fn breaks(self) -> bool {
        !matches!(self, Self::Calm)
    }

    /// Whether no two guards may be valid at once.
    pub(super) const fn excludes(self) -> bool {
        !matches!(self, Self::Amnesia | Self::Drift)
    }

    /// Whether the nodes keep their locks and fencing counters.
    pub(super) const fn remembers(self) -> bool {
        !matches!(self, Self::Amnesia | Self::Restarts)
    }

    /// Whether most work is to run once.
    pub(super) const fn completes(self) -> bool {
        matches!(self, Self::Once)
    }

    /// Whether one owner is shared by all processes.
    pub(super) const fn shares(self) -> bool {
        matches!(self, Self::Sharing)
    }

    /// How long a node that has restarted must not vote.
    pub(super) fn quarantine(self) -> Option<Duration> {
        (self == Self::Restarts).then_some(LONGEST_LEASE)
    }
}

impl Plan {
    pub(super) fn new(kind: Kind, dice: &Dice) -> Self {
        let owners = dice.chance(40) || kind.shares();
        let forgets_soon = kind.remembers() && dice.chance(25);
        let retention = dice.millis(if forgets_soon { 2_000..4_000 } else { A_DAY });
        Self {
            kind,
            nodes: *dice.pick(&[1, 3, 3, 3, 4, 5, 5]),
            processes: match *dice.pick(&[2, 2, 3, 4]) {
                4 if kind.shares() => 3,
                processes => processes,
            },
            workers: *dice.pick(&[1, 1, 2, 3]),
            rounds: dice.from(2..6),
            keys: match kind {
                Kind::Slots => {
                    (0..dice.from(1..5)).map(|slot| format!("{SEMAPHORE}#{slot}")).collect()
                }
                _ => (0..*dice.pick(&[1, 1, 2])).map(|key| format!("k{key}")).collect(),
            },
            skew: match kind {
                // What a quarantine can make up for: less than its length.
                Kind::Restarts => *dice.pick(&[0, 5_000, 300_000]),
                // What the retention makes up for: less than its length.
                _ if forgets_soon => *dice.pick(&[0, 5_000, 400_000]),
                _ => *dice.pick(&[0, 5_000, 10_000_000]),
            },
            slowness: *dice.pick(&[2, 8, 40, 40]),
            owners,
            unfenced: !owners && dice.chance(25),
            retention,
            suspends: kind.breaks() && dice.chance(25),
            counters_ahead: kind.remembers() && !forgets_soon && dice.chance(30),
        }
    }

    pub(super) fn ttl(&self, dice: &Dice) -> Duration {
        match self.kind {
            Kind::Leftovers => dice.millis(600_000..900_000),
            Kind::Calm if dice.chance(50) => dice.millis(600_000..900_000),
            Kind::Restarts if dice.chance(50) => LONGEST_LEASE,
            _ => dice.millis(60..1_500),
        }
    }

    /// For how long it is remembered that something is done: past the end of the schedule, or not.
    pub(super) fn keep(dice: &Dice) -> Duration {
        if dice.chance(50) { dice.millis(600..3_000) } else { Duration::from_secs(3_600) }
    }

    /// The rate of a node's clock.
    pub(super) fn rate(&self, dice: &Dice) -> f64 {
        // Clocks may run so fast that a key ends after its TTL less 1 %; in steps of a ten-thousandth.
        let fast = u32::try_from(dice.from(0..101)).expect("small");
        let far = u32::try_from(dice.from(5_000..20_000)).expect("small");
        match self.kind {
            Kind::Drift => f64::from(far) / 10_000.0,
            _ if dice.chance(50) => 1.0 + f64::from(fast) / 10_000.0,
            _ => 1.0 - f64::from(fast) / 10_000.0,
        }
    }
}

/// What the semaphore is called whose slots are the keys.
pub(super) const SEMAPHORE: &str = "s";
/// In milliseconds.
const A_DAY: Range<u64> = 86_400_000..86_400_001;
/// The longest TTL of those that time may end.
const LONGEST_LEASE: Duration = Duration::from_millis(1_500);
