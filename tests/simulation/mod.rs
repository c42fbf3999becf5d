//! A deterministic simulation of managers, networks and nodes under faults, on a paused clock.
//!
//! It simulates at the level of the wire: servers that speak RESP, connections that delay, stall, swallow and
//! break, processes that pause and die, clocks that drift. What is tested is the crate's own code down to its
//! lanes. Chance is seeded: the same seed gives the same schedule, event by event. An oracle judges every step.
//!
//! `REDLATCH_SEEDS=100000` runs so many schedules of each kind, however long it takes; `REDLATCH_SEEDS=40000..60000`
//! runs a part of them. `REDLATCH_SEED=n` runs the one of this seed and prints its trace.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, in its helpers too"
)]
#![allow(clippy::disallowed_methods, reason = "servers and clients spawn as callers do")]

use std::{
    ops::Range,
    time::{Duration, Instant},
};

mod chaos;
mod client;
mod dice;
mod holding;
mod network;
mod once;
mod oracle;
mod plan;
mod process;
mod resp;
mod server;
mod trace;
mod world;

pub(crate) use self::{
    network::{LONGEST_SILENCE, Wire},
    process::{in_this_process, proposal, suspended},
    server::Server,
};
use self::{plan::Kind, trace::Tracing, world::run};

#[test]
fn nothing_goes_wrong_on_a_calm_day() {
    simulate(Kind::Calm);
}

#[test]
fn short_leases_exclude_each_other_whatever_breaks() {
    simulate(Kind::Leases);
}

#[test]
fn long_leases_leave_nothing_behind_whatever_breaks() {
    simulate(Kind::Leftovers);
}

#[test]
fn nodes_that_forget_do_no_other_harm() {
    simulate(Kind::Amnesia);
}

#[test]
fn nodes_that_forget_and_do_not_vote_for_a_while_do_no_harm() {
    simulate(Kind::Restarts);
}

#[test]
fn fencing_holds_whatever_the_nodes_clocks_do() {
    simulate(Kind::Drift);
}

#[test]
fn owners_that_share_locks_harm_none_of_each_other_whatever_breaks() {
    simulate(Kind::Sharing);
}

#[test]
fn no_more_guards_than_permits_are_valid_whatever_breaks() {
    simulate(Kind::Slots);
}

#[test]
fn what_is_done_is_nobodys_whatever_breaks() {
    simulate(Kind::Once);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    use Kind::{Amnesia, Calm, Drift, Leases, Leftovers, Once, Restarts, Sharing, Slots};
    for kind in [Calm, Leases, Leftovers, Amnesia, Restarts, Drift, Sharing, Slots, Once] {
        for seed in 0..8 {
            let (once, again) = (traced(kind, seed), traced(kind, seed));
            let differs = once.iter().zip(&again).position(|(one, other)| one != other);
            let at = differs.unwrap_or_else(|| once.len().min(again.len()));
            assert!(once == again, "{kind:?} {seed}: {:?} / {:?}", once.get(at), again.get(at));
        }
    }
}

/// Runs the schedules of a kind, from the first seed on: as many as were asked for, or else as many as there is
/// time for.
fn simulate(kind: Kind) {
    let one = asked("REDLATCH_SEED").map(|seed| number(&seed));
    let asked = one
        .map(|seed| seed..seed + 1)
        .or_else(|| asked("REDLATCH_SEEDS").map(|asked| range(&asked)));
    let is_bounded = asked.is_none();
    let (began, mut count, mut checked) = (Instant::now(), 0, 0);
    for seed in asked.unwrap_or(0..SEEDS) {
        if is_bounded && began.elapsed() > LONGEST {
            break;
        }
        let outcome = run(kind, seed, Tracing::Off);
        if let Some(failure) = &outcome.failure {
            // The seed gives the same schedule once more.
            let trace = traced(kind, seed).join("\n");
            panic!("{kind:?}, seed {seed}: {failure}\n{trace}\nREDLATCH_SEED={seed} replays it");
        }
        count += 1;
        checked += outcome.checked;
        if count % 10_000 == 0 {
            eprintln!("{kind:?}: {count} schedules so far, in {:.0?}", began.elapsed());
        }
    }
    if let Some(seed) = one {
        eprintln!("{}", traced(kind, seed).join("\n"));
    }
    let took = began.elapsed();
    eprintln!("{kind:?}: {count} schedules in {took:.1?}, {checked} judgements");
}

fn asked(variable: &str) -> Option<String> {
    std::env::var(variable).ok()
}

/// So many from the first on, or those from one seed up to another.
fn range(asked: &str) -> Range<u64> {
    match asked.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(asked),
    }
}

/// A number that is none would let a test pass that has run nothing.
fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("REDLATCH_SEED or REDLATCH_SEEDS: `{text}` is no number"))
}

/// The trace of the schedule that a seed gives.
fn traced(kind: Kind, seed: u64) -> Vec<String> {
    run(kind, seed, Tracing::On).trace
}

/// How many schedules of each kind are run unless told otherwise: half a minute of a quiet machine, unoptimized.
const SEEDS: u64 = 400;
/// How long a kind's schedules may take unless their number was asked for: a busy machine runs fewer.
const LONGEST: Duration = Duration::from_secs(90);
