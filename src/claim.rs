//! A claim: what may be locked where, and until when a majority supports it.
//!
//! It exists before the first byte is sent. An acquire, a guard and the keeper share it; whoever learns
//! something from a node notes it here, and every judgement is made here.

use std::{
    fmt,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tracing::Span;

use crate::{
    clock,
    error::{LossReason, NodeError, Result},
    metrics,
    node::{Answer, Command, Touch, Trail},
    offer::{Offer, Renewal, Undo},
    release::Release,
    sync::lock,
    token::FencingToken,
    validity::{ClockDrift, quorum, supported_by},
    vote::Vote,
};

/// Everything known about one attempt to lock, and about the lock it became.
pub(crate) struct Claim {
    /// The claim's place in the keeper's ledger.
    pub(crate) id: u64,
    pub(crate) trail: Trail,
    pub(crate) undo: Undo,
    /// There once the lock is to be renewed.
    renewal: OnceLock<Renewal>,
    quorum: usize,
    drift: ClockDrift,
    state: Mutex<State>,
    /// Notified when the lock is lost or its deadline moves.
    pub(crate) changed: Notify,
}

struct State {
    votes: Box<[Vote]>,
    held: Option<Held>,
    /// No node keeps the key longer than this.
    ends: Instant,
    release: Option<Release>,
    /// The release leaves the key in place until then.
    kept_until: Option<Instant>,
    /// Where a chosen owner's grant is not known, the release takes none above this for its own.
    highest: u64,
    /// From this proposal on, grants at a node are a later claim's of the same owner.
    spared_from: u64,
    /// The span of the lock's life; closed with it.
    span: Span,
}

struct Held {
    token: u64,
    ttl: Duration,
    since: Instant,
    /// For how long the key stays at least, though the lock may be released before.
    min_hold: Duration,
    /// It is not renewed any more.
    is_stopped: bool,
    valid_until: Instant,
    lost: Option<LossReason>,
    /// Whether the loss was told to `on_renewal` and the log.
    loss_told: bool,
}

impl Claim {
    pub(crate) fn new(id: u64, trail: Trail, drift: ClockDrift, offer: Offer) -> Self {
        let (nodes, Offer { undo, renewal }) = (trail.nodes(), offer);
        let state = State {
            votes: vec![Vote::default(); nodes].into(),
            held: None,
            ends: clock::now(),
            release: None,
            kept_until: None,
            highest: 0,
            spared_from: u64::MAX,
            span: Span::none(),
        };
        Self {
            id,
            trail,
            undo,
            renewal: renewal.map(OnceLock::from).unwrap_or_default(),
            quorum: quorum(nodes),
            drift,
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }

    pub(crate) fn key(&self) -> &str {
        &self.trail.key.name
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
        let yes = match *answer {
            Answer::Granted { token } => Some((token, ttl)),
            Answer::Ours { token, expires_in } => {
                Some((token, expires_in)).filter(|_| self.is_same_lock(&state, node, token))
            }
            _ => None,
        };
        match yes {
            Some((token, lives)) => {
                state.votes[node].grant(token, self.drift.deadline(sent, lives));
            }
            None => state.votes[node].refuse(answer),
        }
        let moved = state.recount(self.quorum);
        drop(state);
        if moved {
            self.changed.notify_waiters();
        }
        yes.is_some()
    }

    /// Whether a key with our owner token is the lock that is held. A chosen owner token may have been used
    /// for another lock since; then the fencing counter there has moved.
    fn is_same_lock(&self, state: &State, node: usize, token: u64) -> bool {
        match &state.held {
            Some(held) if self.undo != Undo::Everything => {
                token == held.token || Some(token) == state.votes[node].token
            }
            _ => true,
        }
    }

    /// Notes the fencing counter of a node that has our owner token but was not asked for its vote.
    pub(crate) fn note_counter(&self, node: usize, token: u64) {
        lock(&self.state).votes[node].token = Some(token);
    }

    /// Notes that a node is about to be told to raise its fencing counter.
    pub(crate) fn raising(&self, node: usize, to: u64) {
        lock(&self.state).votes[node].raised = to;
    }

    /// Takes back the votes of nodes whose connection broke since: they may have restarted without memory.
    pub(crate) fn void_cut_off(&self) -> Vec<usize> {
        let mut state = lock(&self.state);
        let is_void =
            |&node: &usize| state.votes[node].until.is_some() && self.trail.is_cut_off(node);
        let void: Vec<usize> = (0..state.votes.len()).filter(is_void).collect();
        void.iter().for_each(|&node| state.votes[node].until = None);
        void
    }

    /// Turns the claim into a held lock, if a majority supports it yet. Returns whether it does.
    pub(crate) fn hold(&self, token: u64, ttl: Duration, span: Span) -> bool {
        let mut state = lock(&self.state);
        let since = clock::now();
        let supported = state.supported(self.quorum).filter(|until| *until > since);
        let Some(valid_until) = supported else { return false };
        state.held = Some(Held {
            token,
            ttl,
            since,
            min_hold: Duration::ZERO,
            is_stopped: false,
            valid_until,
            lost: None,
            loss_told: false,
        });
        metrics::held();
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
        let mut state = lock(&self.state);
        let lost = state.judge(clock::now());
        match (lost, &state.held) {
            (None, Some(held)) => Ok(held.valid_until),
            (lost, _) => Err(lost.unwrap_or(LossReason::Expired)),
        }
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
        let reason = state.judge(clock::now())?;
        let held = state.held.as_mut()?;
        (!std::mem::replace(&mut held.loss_told, true)).then_some(reason)
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
        let ttl = self.ttl();
        let Some(max_hold) = self.renewal().and_then(|renewal| renewal.max_hold) else {
            return Some(Extension { ttl, is_last: false });
        };
        let held = self.held(|held| (held.since, held.valid_until, held.is_stopped));
        let (since, valid_until, _) = held.filter(|(.., is_stopped)| !is_stopped)?;
        let left = max_hold.saturating_sub(now.saturating_duration_since(since));
        let extension = Extension { ttl: ttl.min(left), is_last: left <= ttl };
        (self.drift.deadline(now, extension.ttl) > valid_until).then_some(extension)
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

    /// Ends everything but the release: from here on nothing else is sent.
    pub(crate) fn withdraw(&self) {
        self.trail.withdraw();
        let mut state = lock(&self.state);
        if state.release.is_none() {
            let was_held = state.held.is_some();
            let lost = state.judge(clock::now());
            // A closed manager does not shorten what its nodes have granted.
            let is_valid = was_held && matches!(lost, None | Some(LossReason::Closed));
            if let Undo::GrantedSince(proposal) = self.undo {
                // Later claims propose more, so that this release, however late it arrives, takes no lock of
                // theirs for its own.
                state.highest = proposal.max(clock::proposal());
            }
            let may_hold = |node| self.must_release(node, was_held, &state.votes[node]);
            let asked = (0..state.votes.len()).map(may_hold);
            let token = state.held.as_ref().map_or(0, |held| held.token);
            state.release = Some(Release::new(asked, is_valid, token));
            if let Some(Held { since, min_hold, .. }) = state.held {
                metrics::let_go(clock::now().saturating_duration_since(since));
                state.kept_until = is_valid.then(|| since + min_hold);
                state.ends = state.ends.max(state.kept_until.unwrap_or(state.ends));
            }
        }
        let span = std::mem::replace(&mut state.span, Span::none());
        drop(state);
        drop(span);
    }

    /// Whether a node may hold a key that this claim must delete.
    fn must_release(&self, node: usize, was_held: bool, vote: &Vote) -> bool {
        let is_ours = was_held || self.undo != Undo::Nothing;
        let is_clear = vote.is_refusal() && self.trail.is_answered(node);
        // A lock that was taken over may also lie where this claim never got through.
        let may_hold = self.trail.may_hold(node) || self.undo == Undo::Nothing;
        is_ours && !is_clear && may_hold
    }

    /// The command that releases the lock or undoes the attempt at a node. A failed attempt announces nothing,
    /// since nobody waits for it.
    pub(crate) fn release_command(&self, node: usize) -> Command {
        let state = lock(&self.state);
        let held = state.held.as_ref().map(|held| held.token);
        let kept = state.kept_until.map(|until| until.saturating_duration_since(clock::now()));
        let tokens = self.tokens_at(&state, node, held);
        Command::Release { held, tokens, keep: kept.filter(|kept| !kept.is_zero()) }
    }

    /// The fencing counters with which the key at a node is this claim's, if the owner token does not say it.
    fn tokens_at(&self, state: &State, node: usize, held: Option<u64>) -> Option<(u64, u64)> {
        let vote = &state.votes[node];
        match (self.undo, vote.token) {
            (Undo::Everything, _) => None,
            (_, Some(token)) => {
                let held = held.unwrap_or(token);
                Some((token.min(held), token.max(held).max(vote.raised)))
            }
            (Undo::GrantedSince(proposal), None) => {
                Some((proposal, state.highest.min(state.spared_from - 1)))
            }
            (Undo::Nothing, None) => {
                // A counter that is behind is that of a grant which was not raised. One that is ahead may be
                // another lock's of this owner, once this one has ended.
                let (token, until) =
                    state.held.as_ref().map(|held| (held.token, held.valid_until))?;
                Some((0, if clock::now() < until { u64::MAX } else { token }))
            }
        }
    }

    /// Spares what a later claim of the same owner is granted from `proposal` on. Returns the nodes that it
    /// must not ask at all, since an undo may reach them behind its back.
    pub(crate) fn spare_from(&self, proposal: u64) -> Vec<usize> {
        let mut state = lock(&self.state);
        state.spared_from = state.spared_from.min(proposal);
        let Some(release) = &mut state.release else { return Vec::new() };
        let open = release.open();
        let is_unsafe =
            |node: &usize| release.has_failed_at(*node) || self.trail.is_on_retired_line(*node);
        open.into_iter().filter(is_unsafe).collect()
    }

    /// No node keeps the key longer than this.
    pub(crate) fn ends(&self) -> Instant {
        lock(&self.state).ends
    }

    /// Whether its release leaves the key in place for now.
    pub(crate) fn is_kept(&self) -> bool {
        lock(&self.state).kept_until.is_some_and(|until| clock::now() < until)
    }

    /// The nodes that may still hold the key, once the claim is withdrawn.
    pub(crate) fn to_release(&self) -> Vec<usize> {
        self.with_release(Release::open).unwrap_or_default()
    }

    /// Notes a node's answer to the release. Returns whether it was an answer, with which the node is settled.
    pub(crate) fn note_release(&self, node: usize, answer: Result<Answer, NodeError>) -> bool {
        let mut state = lock(&self.state);
        // The grant was above all that could be foreseen, beside a counter that was ahead of our clock. Once it is
        // known, it is released by its very token.
        if let (Ok(Answer::Ours { token, .. }), Undo::GrantedSince(proposal)) = (&answer, self.undo)
        {
            let ours = proposal..state.spared_from;
            if state.votes[node].take_for_ours(*token, ours) {
                return false;
            }
        }
        let is_answer = answer.is_ok();
        if let Some(release) = &mut state.release {
            release.note(node, answer);
        }
        is_answer
    }

    /// Reads or changes how the release stands, if it has begun.
    pub(crate) fn with_release<T>(&self, act: impl FnOnce(&mut Release) -> T) -> Option<T> {
        lock(&self.state).release.as_mut().map(act)
    }

    fn held<T>(&self, read: impl FnOnce(&Held) -> T) -> Option<T> {
        lock(&self.state).held.as_ref().map(read)
    }
}

/// What the next renewal is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extension {
    pub(crate) ttl: Duration,
    /// The lock may be held no longer than that.
    pub(crate) is_last: bool,
}

impl Held {
    fn lose(&mut self, reason: LossReason) {
        self.lost = Some(reason);
        metrics::lost(reason);
    }
}

impl State {
    /// Whether the lock is lost by `now`; a loss is for ever.
    fn judge(&mut self, now: Instant) -> Option<LossReason> {
        let held = self.held.as_mut()?;
        if held.lost.is_none() && now >= held.valid_until {
            held.lose(LossReason::Expired);
        }
        held.lost
    }

    /// Counts the votes anew. Returns whether that changes anything for those who watch.
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
            .field("owner_token", &self.trail.owner)
            .finish_non_exhaustive()
    }
}
