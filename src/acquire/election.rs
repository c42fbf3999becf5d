//! An election: asks the nodes for the lock, has them agree on a fencing token, and holds what a majority gave.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use smallvec::smallvec;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    acquire::{
        fencing::{Choice, Report, choose},
        spec::{AskOrder, LockSpec, Refusal},
    },
    claim::Claim,
    host::clock,
    keeper::{
        claim_guard::ClaimGuard,
        grant::{Grant, VoteRound, hold},
        outage::Health,
        quorum::Quorum,
    },
    node::{Answer, Command, Touch, Whose, round::Reply, tally::Tally},
    types::{
        error::{Error, NodeError, Result},
        few::Few,
    },
};

/// The votes of one attempt.
pub(super) struct Election<'a> {
    spec: &'a LockSpec,
    /// Before the claim, so that its late answers are heard when its release is.
    answers: VoteRound,
    armed: ClaimGuard,
    claim: Arc<Claim>,
    nodes: Arc<Quorum>,
    quorum: usize,
    proposal: u64,
    began: Instant,
    ask_order: AskOrder,
    asked: Few<bool>,
    reports: Few<Report>,
    refusals: Vec<Refused>,
    tally: Tally,
}

/// A node's refusal.
struct Refused {
    expires_in: Option<Duration>,
    holder: String,
    name: Option<String>,
    whose: Whose,
}

impl<'a> Election<'a> {
    pub(super) fn new(spec: &'a LockSpec, armed: ClaimGuard, until: Option<Instant>) -> Self {
        let (claim, nodes) = (armed.claim().clone(), armed.keeper().quorum.clone());
        let answers = VoteRound::new(armed.keeper().clone(), claim.clone(), spec.ttl, until);
        let count = nodes.len();
        Self {
            quorum: nodes.needed(),
            spec,
            answers,
            armed,
            claim,
            nodes,
            // In this order: the age of the proposal is counted from here.
            began: clock::now(),
            proposal: clock::proposal(),
            ask_order: AskOrder::AllAtOnce,
            asked: smallvec![false; count],
            reports: smallvec![Report::Awaited; count],
            refusals: Vec::new(),
            tally: Tally::new(count),
        }
    }

    pub(super) async fn run(mut self, ask_order: AskOrder) -> Result<ClaimGuard, Refusal> {
        self.ask_order = ask_order;
        self.open().await?;
        let token = self.agree().await?;
        self.hold(token)
    }

    /// Asks the nodes, all of them unless the first refuses.
    async fn open(&mut self) -> Result<(), Refusal> {
        let order = match self.ask_order {
            AskOrder::AllAtOnce | AskOrder::Census => Vec::new(),
            AskOrder::OneFirst => self.nodes.order_of(&self.spec.key),
        };
        for node in order {
            self.ask(&[node]);
            // A node that is slow may vote with the others.
            let Ok(Some(reply)) = timeout(CANVASS_PATIENCE, self.answers.round.next()).await else {
                break;
            };
            self.note(reply);
            if !self.refusals.is_empty() && !self.may_be_done() {
                return Err(if self.health().is_out() { self.refused() } else { self.contended() });
            }
            if self.reports[node].told().is_some() {
                break;
            }
        }
        let rest: Few<usize> = (0..self.asked.len()).filter(|&node| !self.asked[node]).collect();
        self.ask(&rest);
        Ok(())
    }

    fn ask(&mut self, nodes: &[usize]) {
        // Rule 5: the clock is read before there is a command, and a node starts the TTL later, so that the guard ends first.
        let (ttl, sent) = (self.spec.ttl, clock::now());
        self.claim.expect_until(ttl);
        let acquire = Command::Acquire { ttl, proposal: self.proposal };
        for &node in nodes {
            self.asked[node] = true;
            self.answers.round.push(node, sent, self.nodes.ask(node, &self.claim, acquire));
        }
    }

    /// Waits until a majority has reported one and the same fencing token: rule F.
    async fn agree(&mut self) -> Result<u64, Refusal> {
        loop {
            match choose(&self.reports, self.quorum) {
                Choice::Agreed(token) if self.are_connected() => return Ok(token),
                Choice::Agreed(_) => continue,
                Choice::Raise { to, nodes } => {
                    nodes.into_iter().for_each(|node| self.raise(node, to));
                }
                Choice::Impossible if self.is_classified() => return Err(self.lost().await),
                Choice::Impossible | Choice::Wait => {}
            }
            match self.answers.round.next().await {
                Some(reply) => self.note(reply),
                None => return Err(self.lost().await),
            }
        }
    }

    /// Why there is no majority. Nodes that are about to answer are heard out, so that it can be told of them.
    async fn lost(&mut self) -> Refusal {
        let until = Instant::now() + HEARING;
        while (!self.is_contended() || self.spec.once && self.is_split())
            && let Ok(Some(reply)) = timeout_at(until, self.answers.round.next()).await
        {
            self.note(reply);
        }
        if self.answers.round.is_cut() {
            self.blame_silent();
        }
        self.refused()
    }

    /// Notes that the nodes which have not answered did not do so in time.
    fn blame_silent(&mut self) {
        let awaited = |&node: &usize| self.reports[node] == Report::Awaited;
        let (silent, waited) =
            ((0..self.reports.len()).filter(awaited).collect::<Vec<_>>(), self.began.elapsed());
        for node in silent {
            self.reports[node] = Report::Out;
            self.tally.note::<Answer>(node, Err(self.nodes.node(node).no_answer(waited)));
        }
    }

    /// Whether all connections stand on which nodes have voted; the votes of the others are void, since a node
    /// may have restarted without memory.
    fn are_connected(&mut self) -> bool {
        let void = self.claim.void_cut_off();
        for &node in &void {
            self.reports[node] = Report::Out;
            self.tally.forget(node);
        }
        void.is_empty()
    }

    fn raise(&mut self, node: usize, to: u64) {
        let told = self.reports[node].told().unwrap_or_default();
        self.reports[node] = Report::Raising(told);
        let raise = Command::Touch { ttl: None, token: to, mode: Touch::Raise };
        self.answers.round.push(node, clock::now(), self.nodes.ask(node, &self.claim, raise));
    }

    fn note(&mut self, Reply { node, sent, answer }: Reply<Result<Answer, NodeError>>) {
        self.reports[node] = Report::Out;
        let Some(answer) = self.tally.note(node, answer) else { return };
        self.claim.note(node, sent, self.spec.ttl, &answer);
        match answer {
            Answer::Granted { token } | Answer::Ours { token, .. } => {
                self.reports[node] = Report::Told(token);
            }
            Answer::Refused { expires_in, holder, name, whose } => {
                self.refusals.push(Refused { expires_in, holder, name, whose });
            }
            _ => {
                let (expires_in, holder) = (Some(Duration::ZERO), String::new());
                let whose = Whose::Anothers;
                self.refusals.push(Refused { expires_in, holder, name: None, whose });
            }
        }
    }

    /// Turns the votes into a held lock, if there is something left of them.
    fn hold(mut self, token: u64) -> Result<ClaimGuard, Refusal> {
        let (key, ttl, elapsed) = (&self.spec.key, self.spec.ttl, clock::now() - self.began);
        if key.fence.as_ref().is_some_and(|fence| elapsed > fence.longest_attempt()) {
            return Err(Error::ValidityExpired { key: key.name.to_string(), ttl, elapsed }.into());
        }
        let terms = Grant { token, ttl, began: self.began };
        // Rules 3 and 5: if the votes came too late, or the manager is closed, this drops the claim guard, which gives the
        // votes back.
        hold(self.armed.keeper(), &self.claim, terms, &self.spec.caller)?;
        if !self.claim.send_log.id.is_empty() {
            self.mark_held(token);
        }
        Ok(self.armed)
    }

    /// Marks a lock that may be shared as held, so that others of its owner may join it. The marks are queued at once,
    /// and nobody waits for their answers: who comes before looks again.
    fn mark_held(&mut self, token: u64) {
        let sent = clock::now();
        for node in 0..self.asked.len() {
            let mark = Command::Touch { ttl: None, token, mode: Touch::Extend };
            self.answers.round.push(node, sent, self.nodes.ask(node, &self.claim, mark));
        }
        if let Some(Some(Reply { node, sent, answer: Ok(answer) })) =
            self.answers.round.next().now_or_never()
        {
            self.claim.note(node, sent, self.spec.ttl, &answer);
        }
    }

    /// Whether the answers still awaited cannot turn contention into an outage or back.
    fn is_classified(&self) -> bool {
        let awaited = self.reports.iter().filter(|report| **report == Report::Awaited).count();
        let needed = self.reports.len() - self.quorum;
        if self.is_contended() {
            return self.ask_order != AskOrder::Census || self.health().is_known();
        }
        self.refusals.len() + awaited <= needed && self.health().is_known()
    }

    /// Whether the refusals alone rule a majority out.
    fn is_contended(&self) -> bool {
        self.refusals.len() > self.reports.len() - self.quorum
    }

    /// Whether the marks of keys that are done rule a majority out alone, whoever has left them.
    fn is_done(&self) -> bool {
        self.done() > self.reports.len() - self.quorum
    }

    fn done(&self) -> usize {
        self.refusals.iter().filter(|refused| refused.whose == Whose::Nobodys).count()
    }

    /// Whether more answers are worth hearing, for somebody whom it concerns that the key is done.
    fn may_be_done(&self) -> bool {
        self.spec.once && self.done() > 0 && !self.is_done()
    }

    /// Whether nobody is seen to have a majority, so that the votes may be given back soon.
    fn is_split(&self) -> bool {
        let is_same = |one: &Refused, other: &Refused| one.holder == other.holder;
        let count =
            |one: &Refused| self.refusals.iter().filter(|other| is_same(one, other)).count();
        let most = self.refusals.iter().map(count).max();
        self.tally.reached() >= self.quorum
            && !self.is_done()
            && most.unwrap_or_default() < self.quorum
    }

    fn health(&self) -> Health {
        Health::of(self.tally.shortage())
    }

    /// Why there is no majority: held, if the refusals alone rule it out, else unavailable.
    fn refused(&self) -> Refusal {
        if self.is_contended() {
            return self.contended();
        }
        let error = self.tally.shortage().error(self.claim.key());
        let is_split = !self.refusals.is_empty() && self.is_split();
        Refusal { error, is_brief: false, is_split, health: self.health() }
    }

    fn contended(&self) -> Refusal {
        let last = self.last_in_the_way();
        let retry_after = last.and_then(|refused| refused.expires_in);
        let holder = last.and_then(|refused| refused.name.clone());
        let first = &self.refusals[0].holder;
        let is_brief = self.refusals.iter().any(|refused| refused.holder != *first)
            || self.reports.iter().any(|report| report.told().is_some())
            || self.spec.joins
                && self.refusals.iter().any(|refused| refused.whose == Whose::Owners);
        let (key, is_done) = (self.claim.key().to_owned(), self.is_done());
        let error = Error::AlreadyHeld { key, retry_after, holder, is_done };
        Refusal { error, is_brief, is_split: self.is_split(), health: self.health() }
    }

    /// The last of the keys in the way that must have expired before there can be a majority, if the holders do nothing
    /// about it.
    fn last_in_the_way(&self) -> Option<&Refused> {
        let known = self.refusals.len() + self.tally.failed();
        let unknown = self.reports.len().saturating_sub(known);
        let missing = self.quorum.saturating_sub(unknown).max(1);
        let mut by_end: Vec<_> = self.refusals.iter().collect();
        by_end.sort_by_key(|refused| refused.expires_in.unwrap_or(Duration::MAX));
        by_end.get(missing - 1).copied()
    }
}

/// How long the first node alone may take over its vote.
const CANVASS_PATIENCE: Duration = Duration::from_millis(20);
/// How long the others are heard out once a round is lost.
const HEARING: Duration = Duration::from_millis(20);
