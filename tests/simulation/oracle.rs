//! The oracle: sees everything, and says what must not be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    network::Conn,
    once::Completions,
    plan::{Kind, Plan},
    process::{Process, now},
    server::short,
    trace::Trace,
};
use crate::{
    LockGuard, LossReason, OwnerToken,
    claim::Claim,
    host::sync::lock,
    node::{Answer, Command, Released},
    types::{attempt_id::AttemptId, token::Mark},
};

pub(super) struct Oracle {
    plan: Plan,
    trace: Arc<Trace>,
    pub(super) state: Mutex<State>,
    pub(super) failed: Notify,
}

#[derive(Default)]
pub(super) struct State {
    guards: Vec<Held>,
    /// By key, in the order of acquisition.
    acquired: BTreeMap<String, Vec<Acquired>>,
    /// Releases that a server ran: server, connection, owner.
    released: BTreeSet<(String, u64, String)>,
    /// When the release of an owner's lock began.
    ended: BTreeMap<String, Instant>,
    /// Locks of chosen owners whose release one of their guards has begun: that ends them for all.
    given_up: Vec<Lock>,
    /// Those that were released for certain.
    over: Vec<Lock>,
    /// Whose vote each server has cast last, by server and key.
    votes: BTreeMap<(String, String), Attempt>,
    /// Owners whose locks are left to their TTL.
    exempt: BTreeSet<String>,
    processes: BTreeMap<String, Arc<Process>>,
    /// Work that was to run once.
    pub(super) completions: Completions,
    failure: Option<String>,
    checked: u64,
}

/// An owner, and which of its attempts.
type Attempt = (String, AttemptId);

/// What guards may share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    key: String,
    attempt: Attempt,
    token: u64,
}

impl Lock {
    pub(super) fn of(guard: &LockGuard) -> Self {
        let attempt = (guard.owner_token().as_str().to_owned(), guard.claim().send_log.id);
        Self { key: guard.key().to_owned(), attempt, token: guard.fencing_token().get() }
    }
}

/// A guard, as far as it still exists.
struct Held {
    process: Arc<Process>,
    lock: Lock,
    claim: Weak<Claim>,
    /// Its deadline when it was last seen valid.
    deadline: Instant,
}

struct Acquired {
    attempt: Attempt,
    token: u64,
    at: Instant,
    /// Its lock may have been another guard's.
    is_shared: bool,
}

impl Oracle {
    pub(super) fn new(plan: Plan, trace: Arc<Trace>) -> Self {
        Self { plan, trace, state: Mutex::default(), failed: Notify::new() }
    }

    pub(super) fn failure(&self) -> Option<String> {
        lock(&self.state).failure.clone()
    }

    /// How many judgements were made.
    pub(super) fn checked(&self) -> u64 {
        lock(&self.state).checked
    }

    pub(super) fn fail(&self, what: impl Display) {
        self.trace.note("ORACLE", &what);
        lock(&self.state).failure.get_or_insert_with(|| what.to_string());
        self.failed.notify_one();
    }

    pub(super) fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        lock(&self.state).checked += 1;
        if !holds {
            self.fail(what());
        }
    }

    /// A client sends a command that may leave a lock behind.
    pub(super) fn sent(&self, owner: &OwnerToken, process: &Arc<Process>) {
        let mut state = lock(&self.state);
        state.processes.insert(owner.as_str().to_owned(), process.clone());
        let ended = state.ended.get(owner.as_str()).copied();
        drop(state);
        let is_late = ended.is_some_and(|at| now() > at && process.has_run_since(at));
        self.check(!is_late, || format!("{owner}: sent after its release began"));
    }

    /// A server ran a command.
    pub(super) fn ran(
        &self,
        server: &str,
        conn: &Conn,
        owner: &OwnerToken,
        command: Command,
        answer: &Answer,
    ) {
        if !is_chosen(owner.as_str()) {
            let entry = (server.to_owned(), conn.id, owner.as_str().to_owned());
            if command.claims() {
                let is_released = lock(&self.state).released.contains(&entry);
                let is_adopted = matches!(command, Command::Touch { .. }) && self.is_exempt(owner);
                self.check(!is_released || is_adopted, || {
                    format!("{owner}: {answer:?} after its release on the same connection")
                });
            } else if matches!(command, Command::Release { .. }) {
                lock(&self.state).released.insert(entry);
            }
        }
        self.exclusion();
    }

    /// A server ran a command of an attempt: whatever it does to a vote, it does to that of this attempt.
    pub(super) fn voted(
        &self,
        server: &str,
        key: &str,
        attempt: Attempt,
        command: Command,
        answer: &Answer,
    ) {
        let place = (server.to_owned(), key.to_owned());
        let mut state = lock(&self.state);
        let cast = state.votes.get(&place).cloned();
        match answer {
            Answer::Granted { .. } => drop(state.votes.insert(place, attempt.clone())),
            // What is kept is nobody's vote any more.
            Answer::Released(Released::Deleted) => drop(state.votes.remove(&place)),
            _ => {}
        }
        drop(state);
        let acts = matches!(answer, Answer::Ours { .. } | Answer::Released(Released::Deleted));
        let is_anothers = acts && cast.is_some_and(|cast| cast != attempt);
        self.check(!is_anothers, || {
            format!("{server}: {} of {key} acted on another attempt's vote: {command:?}", attempt.0)
        });
    }

    /// A guard was got. `began`: when its caller asked. `is_shared`: its lock may have been another guard's.
    pub(super) fn acquired(
        &self,
        process: &Arc<Process>,
        guard: &LockGuard,
        began: Instant,
        is_shared: bool,
    ) {
        let (now, got) = (now(), Lock::of(guard));
        let Lock { key, attempt, token } = got.clone();
        let is_unfenced = guard.fencing_token().is_none();
        self.check(is_unfenced == self.plan.unfenced, || format!("{key}: a token of {token}"));
        self.trace.note(
            &process.name,
            format_args!("got {key} {} T {}", guard.owner_token(), short(token)),
        );
        let claim = Arc::downgrade(guard.claim());
        let held = Held { process: process.clone(), lock: got, claim, deadline: now };
        lock(&self.state).guards.push(held);
        self.exclusion();
        self.is_not_done(&key, began);
        let mut state = lock(&self.state);
        let acquired = state.acquired.entry(key.clone()).or_default();
        if is_unfenced {
            return acquired.push(Acquired { attempt, token, at: now, is_shared });
        }
        let is_same = |other: &&Acquired| other.attempt == attempt && other.token == token;
        let is_known = acquired.iter().any(|other| is_same(&other));
        // Who shares it may be told so before the one who got it.
        let is_given = acquired.iter().any(|other| is_same(&other) && !other.is_shared);
        let others = acquired.iter().filter(|other| !is_same(other));
        // Whoever had it before must have a lower token.
        let before: Vec<u64> = others
            .clone()
            .filter(|other| match self.plan.kind {
                Kind::Drift => other.at < began,
                // Some node remembers, or has been in quarantine since; unless the process slept meanwhile, it
                // has read its clock hardly before the last grant.
                Kind::Restarts => {
                    other.at < began
                        && (process.has_run_since(began)
                            || other.at + Duration::from_micros(self.plan.skew) + A_TICK < began)
                }
                Kind::Amnesia => self.plan.skew == 0 && other.at + Duration::from_millis(1) < began,
                _ => true,
            })
            .map(|other| other.token)
            .collect();
        let is_taken =
            self.plan.kind.remembers() && others.clone().any(|other| other.token == token);
        let highest = before.into_iter().max();
        let is_other_token = attempt.1 != AttemptId::EMPTY
            && acquired.iter().any(|other| other.attempt == attempt && other.token != token);
        acquired.push(Acquired { attempt, token, at: now, is_shared });
        drop(state);
        self.check(!is_given || is_shared, || format!("{key}: token {} given twice", short(token)));
        self.check(!is_taken, || format!("{key}: token {} given to two attempts", short(token)));
        self.check(!is_other_token, || format!("{key}: joined under another token"));
        self.check(is_known || highest.is_none_or(|highest| highest < token), || {
            format!("{key}: token {} after {}", short(token), short(highest.unwrap_or(0)))
        });
    }

    /// How many guards of a key there have been.
    pub(super) fn acquisitions(&self, key: &str) -> usize {
        lock(&self.state).acquired.get(key).map_or(0, Vec::len)
    }

    /// No two guards are valid at once.
    pub(super) fn exclusion(&self) {
        let mut locked = lock(&self.state);
        let state = &mut *locked;
        let is_valid = |claim: &Arc<Claim>| !claim.send_log.is_withdrawn() && claim.judge().is_ok();
        state.guards.retain(|held| held.claim.strong_count() > 0);
        let mut valid: Vec<&Lock> = Vec::new();
        let given_up = &state.given_up;
        for held in state.guards.iter_mut().filter(|held| !held.process.is_dead()) {
            let Some(claim) = held.claim.upgrade().filter(is_valid) else { continue };
            held.deadline = claim.valid_until().unwrap_or(held.deadline);
            if !given_up.contains(&held.lock) {
                valid.push(&held.lock);
            }
        }
        let clash = valid.iter().enumerate().find_map(|(at, one)| {
            // Guards of one owner may share one lock, but no more than that.
            let mut others = valid[..at].iter().filter(|other| other.key == one.key);
            let other = others.find(|other| *other != one)?;
            let (key, tokens) = (&one.key, [one.token, other.token].map(short));
            Some(format!("{key}: {} and {} are valid at once", tokens[0], tokens[1]))
        });
        let (guards, permits) = (valid.len(), self.plan.keys.len());
        drop(locked);
        if self.plan.kind.excludes() {
            self.check(clash.is_none(), || clash.unwrap_or_default());
        }
        if self.plan.kind == Kind::Slots {
            self.check(guards <= permits, || format!("{guards} guards of {permits} permits"));
        }
    }

    /// A guard's release begins.
    pub(super) fn ends(&self, guard: &LockGuard) {
        let owner = guard.owner_token().as_str().to_owned();
        let mut state = lock(&self.state);
        if is_chosen(&owner) {
            state.given_up.push(Lock::of(guard));
        } else {
            state.ended.insert(owner, now());
        }
    }

    /// A guard that may share this lock is gone: it ends for all.
    pub(super) fn gives_up(&self, held: Lock) {
        lock(&self.state).given_up.push(held);
    }

    /// A release has told that the lock is released.
    pub(super) fn is_over(&self, released: Lock) {
        lock(&self.state).over.push(released);
    }

    /// Whether a lock was released for certain by now.
    pub(super) fn was_over(&self, held: &Lock) -> bool {
        lock(&self.state).over.contains(held)
    }

    /// A lost lock was told of.
    pub(super) fn lost(&self, process: &Arc<Process>, guard: &LockGuard, reason: LossReason) {
        let (now, owner) = (now(), guard.owner_token());
        self.trace.note(&process.name, format_args!("lost {} {owner}: {reason}", guard.key()));
        self.check(!guard.is_valid(), || format!("{owner}: valid after its loss"));
        // A node's no may move the deadline back to where it was before: what counts is what was known.
        let known = |held: &&Held| held.claim.as_ptr() == Arc::as_ptr(guard.claim());
        let known = lock(&self.state).guards.iter().find(known).map(|held| held.deadline);
        let deadline = guard.claim().valid_until().max(known).unwrap_or(now).max(process.changed());
        let slack = if self.plan.suspends { Duration::from_secs(1) } else { Duration::ZERO };
        let is_late = now > deadline + slack + A_TICK;
        self.check(!is_late, || format!("{owner}: loss told {:?} late", now - deadline));
        let is_whim = reason == LossReason::Taken && self.is_exclusive(owner);
        self.check(!is_whim, || format!("{owner}: taken by nobody"));
    }

    /// What a release or an extend of a guard came to.
    pub(super) fn refused(&self, owner: &OwnerToken, deadline: Option<Instant>, is_not_held: bool) {
        let is_valid = deadline.is_some_and(|deadline| now() < deadline);
        let is_wrong = is_not_held && is_valid && self.is_exclusive(owner);
        self.check(!is_wrong, || format!("{owner}: told not held before its deadline"));
    }

    /// Whether a server was told on another connection that an owner's lock is released.
    pub(super) fn is_released_beside(&self, server: &str, conn: &Conn, owner: &OwnerToken) -> bool {
        lock(&self.state).released.iter().any(|(released_at, by, released)| {
            released_at == server && *by != conn.id && released == owner.as_str()
        })
    }

    /// Whether an owner's lock can be lost by time alone.
    fn is_exclusive(&self, owner: &OwnerToken) -> bool {
        let kind = self.plan.kind;
        kind.excludes() && kind.remembers() && !is_chosen(owner.as_str()) && !self.is_exempt(owner)
    }

    /// The lock of this owner is left to its TTL.
    pub(super) fn exempt(&self, owner: &OwnerToken) {
        lock(&self.state).exempt.insert(owner.as_str().to_owned());
    }

    /// Another process has taken the lock over: now it has to be released.
    pub(super) fn adopted(&self, owner: &OwnerToken, process: &Arc<Process>) {
        let mut state = lock(&self.state);
        if !is_chosen(owner.as_str()) {
            // A chosen owner may have left others of its locks.
            state.exempt.remove(owner.as_str());
        }
        state.processes.insert(owner.as_str().to_owned(), process.clone());
    }

    pub(super) fn is_exempt(&self, owner: &OwnerToken) -> bool {
        let state = lock(&self.state);
        let process = state.processes.get(owner.as_str());
        state.exempt.contains(owner.as_str()) || process.is_some_and(|process| process.is_dead())
    }

    /// All is quiet: nobody may have left anything behind.
    pub(super) fn left_behind(&self, server: &str, locks: Vec<(String, OwnerToken)>) {
        for (key, owner) in locks {
            if owner.mark() == Some(Mark::Done) {
                self.left_done(server, &key, &owner);
                continue;
            }
            // What a stray acquire of a chosen owner was granted above its proposal is left to its TTL.
            let is_stray = is_chosen(owner.as_str()) && self.plan.kind.breaks();
            let is_excused = self.is_exempt(&owner) || is_stray;
            self.check(is_excused, || format!("{server}: {key} left behind by {owner}"));
        }
    }
}

/// Whether an owner token was chosen by the caller, so that many locks may have it.
fn is_chosen(owner: &str) -> bool {
    owner.starts_with("chosen")
}

/// Tokio's timers count in milliseconds.
const A_TICK: Duration = Duration::from_millis(1);
