//! A claim: what may be locked where, and until when a majority supports it.
//!
//! It exists before the first byte is sent. An acquire, a guard and the keeper share it; whoever learns
//! something from a node notes it here, and every judgement is made here.

mod failing;
mod hold;
pub(crate) mod origin;
mod undo;
mod verdict;
mod vote;

use std::{
    fmt,
    sync::{Mutex, MutexGuard, OnceLock},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tracing::Span;

use self::{failing::Failing, hold::Held, vote::Vote};
pub(crate) use self::{hold::Extension, verdict::Release};
use crate::{
    claim::origin::{Offer, Origin, Renewal},
    host::{clock, sync::lock},
    metrics::Label,
    node::{Answer, Command, SendLog, Touch, tally::Shortage},
    types::{
        error::{LossReason, Result},
        few::Few,
        token::{FencingToken, Mark},
        validity::{ClockDrift, quorum, supported_by},
    },
};

/// Everything known about one attempt to lock, and about the lock it became.
pub(crate) struct Claim {
    /// The claim's place in the keeper's ledger.
    pub(crate) id: u64,
    pub(crate) send_log: SendLog,
    pub(crate) origin: Origin,
    /// What operators call locks of its kind.
    pub(crate) label: Label,
    /// There once the lock is to be renewed.
    renewal: OnceLock<Renewal>,
    quorum: usize,
    drift: ClockDrift,
    state: Mutex<State>,
    /// Notified when the lock is lost or let go, or its deadline moves.
    pub(crate) changed: Notify,
}

struct State {
    votes: Few<Vote>,
    held: Option<Held>,
    /// There while its renewals fail.
    failing: Option<Failing>,
    /// No node keeps the key longer than this.
    ends: Instant,
    release: Option<Release>,
    /// The release leaves the key in place until then, and as this.
    kept_until: Option<(Instant, Mark)>,
    /// The span of the lock's life; closed with it.
    span: Span,
}

impl Claim {
    pub(crate) fn new(id: u64, send_log: SendLog, drift: ClockDrift, offer: Offer) -> Self {
        let (nodes, Offer { origin, renewal, label }) = (send_log.nodes(), offer);
        let state = State {
            votes: (0..nodes).map(|_| Vote::default()).collect(),
            held: None,
            failing: None,
            ends: clock::now(),
            release: None,
            kept_until: None,
            span: Span::none(),
        };
        Self {
            id,
            send_log,
            origin,
            label,
            renewal: renewal.map(OnceLock::from).unwrap_or_default(),
            quorum: quorum(nodes),
            drift,
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }

    pub(crate) fn key(&self) -> &str {
        &self.send_log.key.name
    }

    /// Notes that a command which may give the key `ttl` to live is about to be sent.
    pub(crate) fn expect_until(&self, ttl: Duration) {
        let now = clock::now();
        // What Redis keeps for the TTL by its own clock, which may run slow, is gone by then.
        let slack = ttl.saturating_sub(self.drift.deadline(now, ttl) - now);
        let mut state = lock(&self.state);
        state.ends = state.ends.max(now + ttl + slack);
    }

    /// Notes what a node said of the lock; `sent` is when it was asked. Returns whether it was a yes.
    ///
    /// Late answers are as good as early ones, but nothing revives a lock once lost.
    pub(crate) fn note(&self, node: usize, sent: Instant, ttl: Duration, answer: &Answer) -> bool {
        let mut state = lock(&self.state);
        if state.held.is_some() && state.judge(clock::now()).is_some() {
            return false;
        }
        let ours = match *answer {
            Answer::Granted { token } => Some((token, ttl)),
            Answer::Ours { token, expires_in } => Some((token, expires_in)),
            _ => None,
        };
        let yes = ours.filter(|(token, _)| self.relies_on(&state, *token));
        match (yes, ours) {
            (Some((token, lives)), _) => {
                state.votes[node].grant(token, self.drift.deadline(sent, lives));
            }
            (None, Some(_)) => state.votes[node].discount(),
            (None, None) => state.votes[node].refuse(answer),
        }
        if *answer == Answer::Ended {
            // Whoever shares the lock has released it: it ends for all, wherever its key still is.
            state.votes.iter_mut().for_each(|vote| vote.until = None);
        }
        let moved = state.recount(self.quorum);
        drop(state);
        if moved {
            self.changed.notify_waiters();
        }
        yes.is_some()
    }

    /// Whether a node that has our lock beside this fencing counter counts for its validity.
    ///
    /// Guards that share a lock do not know of each other: one may release it, and a late acquire or heal of its attempt
    /// take a node again after another lock came and went. That other lock has moved the counters of a majority beyond
    /// our token, so that a majority beside the very token proves that it never was. A lock that is not shared is
    /// never released behind its guard's back, and a counter that moved then says nothing.
    fn relies_on(&self, state: &State, counter: u64) -> bool {
        let token = state.held.as_ref().map(|held| held.token);
        self.send_log.id.is_empty() || token.is_none_or(|token| token == counter)
    }

    /// Takes back the votes of nodes whose connection broke since: they may have restarted without memory.
    pub(crate) fn void_cut_off(&self) -> Vec<usize> {
        let mut state = lock(&self.state);
        let is_void =
            |&node: &usize| state.votes[node].until.is_some() && self.send_log.is_cut_off(node);
        let void: Vec<usize> = (0..state.votes.len()).filter(is_void).collect();
        void.iter().for_each(|&node| state.votes[node].until = None);
        void
    }

    /// Turns the claim into a held lock, if a majority supports it yet. Returns whether it does.
    pub(crate) fn hold(&self, token: u64, ttl: Duration, span: Span) -> bool {
        let mut state = lock(&self.state);
        // Rule 5: time has run since before the first byte, so that a majority must still last now. A vote for a chosen
        // owner counts only beside the token: another guard may have released the lock there.
        let since = clock::now();
        if !self.send_log.id.is_empty() {
            state.votes.iter_mut().for_each(|vote| vote.count_beside(token));
        }
        let supported = state.supported(self.quorum).filter(|until| *until > since);
        let Some(valid_until) = supported else { return false };
        state.held = Some(Held::new(self.label, token, ttl, since, valid_until));
        state.span = span;
        true
    }

    /// Whether the lock was ever held.
    pub(crate) fn was_held(&self) -> bool {
        lock(&self.state).held.is_some()
    }

    pub(crate) fn fencing_token(&self) -> FencingToken {
        FencingToken::new(self.held(|held| held.token).unwrap_or_default())
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.held(|held| held.ttl).unwrap_or_default()
    }

    /// The deadline, on the [clock]'s line.
    pub(crate) fn valid_until(&self) -> Option<Instant> {
        self.held(|held| held.valid_until)
    }

    /// The deadline, or why there is none any more.
    pub(crate) fn judge(&self) -> Result<Instant, LossReason> {
        Self::judged(lock(&self.state))
    }

    fn judged(mut state: MutexGuard<'_, State>) -> Result<Instant, LossReason> {
        let lost = state.judge(clock::now());
        match (lost, &state.held) {
            (None, Some(held)) => Ok(held.valid_until),
            (lost, _) => Err(lost.unwrap_or(LossReason::Expired)),
        }
    }

    /// The deadline, or why the lock is not its guard's any more: also that the guard has let go of it, which is no loss.
    pub(crate) fn fate(&self) -> Result<Instant, LossReason> {
        let state = lock(&self.state);
        if state.held.as_ref().is_some_and(|held| held.is_let_go) {
            return Err(LossReason::Released);
        }
        Self::judged(state)
    }

    /// Whether the lock was lost because the key is gone or another's.
    pub(crate) fn is_taken(&self) -> bool {
        self.held(|held| held.lost) == Some(Some(LossReason::Taken))
    }

    /// Marks the lock as lost, unless it was before.
    pub(crate) fn lose(&self, reason: LossReason) {
        let mut state = lock(&self.state);
        let already = state.judge(clock::now());
        if let (None, Some(held)) = (already, &mut state.held) {
            held.lose(reason);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// The loss, if there is one that nobody was told yet.
    pub(crate) fn take_untold_loss(&self) -> Option<LossReason> {
        let mut state = lock(&self.state);
        state.held.as_mut()?.take_untold_loss(clock::now())
    }

    /// Notes the TTL of an extend that a majority confirmed.
    pub(crate) fn set_ttl(&self, ttl: Duration) {
        if let Some(held) = &mut lock(&self.state).held {
            held.ttl = ttl;
        }
    }

    /// How the lock is renewed, if it is.
    pub(crate) fn renewal(&self) -> Option<&Renewal> {
        self.renewal.get()
    }

    /// Wishes the lock to be renewed, unless it is already.
    pub(crate) fn renew_by(&self, renewal: Renewal) {
        self.renewal.get_or_init(|| renewal);
    }

    /// For how long a renewal extends the lock from `now` on. `None`: it may be held no longer than it is.
    pub(crate) fn next_extension(&self, now: Instant) -> Option<Extension> {
        let Some(max_hold) = self.renewal().and_then(|renewal| renewal.max_hold) else {
            return Some(Extension { ttl: self.ttl(), is_last: false });
        };
        self.held(|held| held.last_extension(now, max_hold, self.drift))?
    }

    /// Counts the hold from now on.
    pub(crate) fn begin_hold(&self, now: Instant) {
        if let Some(held) = &mut lock(&self.state).held {
            held.since = now;
        }
    }

    /// Has an early release leave the key in place until it was held for so long.
    pub(crate) fn keep_for(&self, min_hold: Duration) {
        if let Some(held) = &mut lock(&self.state).held {
            held.min_hold = min_hold;
        }
    }

    /// Notes that a renewal succeeded.
    pub(crate) fn renewed(&self) {
        lock(&self.state).failing = None;
    }

    /// Notes that a renewal failed. Returns whether that is to be told.
    pub(crate) fn note_failed(&self, failed: Shortage) -> bool {
        let (mut state, now) = (lock(&self.state), clock::now());
        let is_near_end = state.held.as_ref().is_some_and(|held| held.alarm() <= now);
        let failing = state.failing.get_or_insert_with(|| Failing::new(failed.clone(), now));
        failing.note(failed, now, is_near_end)
    }

    /// The failure of the last renewal, if that is to be told again before the lock ends.
    pub(crate) fn last_warning(&self) -> Option<Shortage> {
        let mut state = lock(&self.state);
        let failing = state.failing.as_mut()?;
        failing.is_due(clock::now(), true).then(|| failing.last())
    }

    /// Why the last renewal failed, if it did.
    pub(crate) fn failed(&self) -> Option<Shortage> {
        lock(&self.state).failing.as_ref().map(Failing::last)
    }

    /// When it is told for the last time that the renewals fail.
    pub(crate) fn alarm(&self) -> Option<Instant> {
        self.held(Held::alarm)
    }

    /// Whether the lock is not renewed any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.held(|held| held.is_stopped) == Some(true)
    }

    /// Notes that the lock is not renewed any more. Returns whether that is new.
    pub(crate) fn stop(&self) -> bool {
        let mut state = lock(&self.state);
        state.held.as_mut().is_some_and(|held| !std::mem::replace(&mut held.is_stopped, true))
    }

    /// The command that extends the lock.
    pub(crate) fn touch(&self, ttl: Duration, mode: Touch) -> Command {
        self.expect_until(ttl);
        Command::Touch { ttl: Some(ttl), token: self.fencing_token().get(), mode }
    }

    /// The nodes from which the key is gone and where it may be put back. From here on they may hold it again.
    pub(crate) fn heal_where_gone(&self) -> Vec<usize> {
        let mut state = lock(&self.state);
        let votes = state.votes.iter_mut().enumerate();
        votes.filter_map(|(node, vote)| vote.heal().then_some(node)).collect()
    }

    /// Notes that the key was put back at a node.
    pub(crate) fn healed(&self, node: usize) {
        lock(&self.state).votes[node].healed();
    }

    /// The span of the lock's life.
    pub(crate) fn span(&self) -> Span {
        lock(&self.state).span.clone()
    }

    /// No node keeps the key longer than this.
    pub(crate) fn ends(&self) -> Instant {
        lock(&self.state).ends
    }

    /// Reads or changes how the release stands, if it has begun.
    pub(crate) fn with_release<T>(&self, act: impl FnOnce(&mut Release) -> T) -> Option<T> {
        lock(&self.state).release.as_mut().map(act)
    }

    fn held<T>(&self, read: impl FnOnce(&Held) -> T) -> Option<T> {
        lock(&self.state).held.as_ref().map(read)
    }
}

impl State {
    /// Whether the lock is lost by `now`; a loss is for ever.
    fn judge(&mut self, now: Instant) -> Option<LossReason> {
        self.held.as_mut()?.judge(now)
    }

    /// Counts the votes anew. Returns whether that changes anything for those who watch.
    ///
    /// Rules 4 and 6: the deadline is the last at which a majority of the configured nodes holds. Fewer votes than that
    /// are the loss, at once and for ever. Silence takes no vote away; only a no does.
    fn recount(&mut self, quorum: usize) -> bool {
        let supported = self.supported(quorum);
        let Some(held) = self.held.as_mut().filter(|held| held.lost.is_none()) else {
            return false;
        };
        // Without a majority of grants that are known, there is nothing to rely on: a node that has not
        // answered yet may never have granted.
        let until = supported.unwrap_or(held.valid_until);
        if supported.is_none() {
            held.lose(LossReason::Taken);
        }
        std::mem::replace(&mut held.valid_until, until) != until || supported.is_none()
    }

    fn supported(&self, quorum: usize) -> Option<Instant> {
        supported_by(quorum, self.votes.iter().filter_map(|vote| vote.until))
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("key", &self.key())
            .field("owner_token", &self.send_log.owner)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
