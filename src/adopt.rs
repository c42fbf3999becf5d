//! Taking over a lock that its owner token holds already: by a ticket, or by `acquire_or_extend`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    armed::Armed,
    attempt::{Refusal, Wish},
    claim::Claim,
    clock,
    error::{Error, NodeError, Result},
    keeper::Keeper,
    key::Key,
    node::{Answer, Command, Sighting, Touch, Trail},
    offer::{Offer, Undo},
    outage::Health,
    round::{Reply, Round},
    terms::{Terms, hold},
    token::OwnerToken,
};

/// What the nodes say of a chosen owner token.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The highest fencing counter.
    pub(crate) highest: u64,
    /// The fencing token under which a majority has the owner.
    pub(crate) held: Option<u64>,
}

/// Looks what an owner token holds, until a majority has answered. `joins`: until it is clear whether a
/// majority agrees. Fails if it is not by `until`.
pub(crate) async fn look(
    keeper: &Keeper,
    key: &Arc<Key>,
    owner: &OwnerToken,
    joins: bool,
    until: Option<Instant>,
) -> Result<Seen, Refusal> {
    let (ledger, quorum) = (&keeper.ledger, keeper.ledger.quorum());
    let trail = Arc::new(Trail::new(key.clone(), owner.clone(), ledger.links.len()));
    let (mut round, sent) = (Round::until(until), clock::now());
    for node in 0..ledger.links.len() {
        let (ledger, trail) = (ledger.clone(), trail.clone());
        round.push(
            node,
            sent,
            async move { ledger.links[node].ask(&trail, Command::Inspect).await },
        );
    }
    let (mut seen, mut ours, mut answers) = (Seen::default(), Vec::new(), 0);
    let mut silent = Silent::all(keeper);
    while let Some(Reply { node, answer, .. }) = round.next().await {
        silent.has_spoken(node, answer.as_ref().err());
        let Ok(Answer::Seen(Sighting { value: holder, token, .. })) = answer else { continue };
        answers += 1;
        seen.highest = seen.highest.max(token);
        if joins && holder.as_ref() == Some(owner) {
            ours.push(token);
        }
        let alike = ours.iter().filter(|other| **other == token).count();
        if alike >= quorum {
            seen.held = Some(token);
            break;
        }
        let may_agree = ours.len() + ledger.links.len() - answers >= quorum;
        if answers >= quorum && !(joins && may_agree) {
            break;
        }
    }
    if !round.is_cut() {
        return Ok(seen);
    }
    let (key, nodes) = (key.name.to_string(), silent.errors(keeper, sent));
    let error = Error::Unavailable { key, needed: quorum, reached: answers, nodes, unheard: 0 };
    Err(Refusal { error, is_split: false, health: Health::Unknown })
}

/// The nodes of a round that have not answered yet, and the errors of those that have failed.
struct Silent {
    nodes: Vec<usize>,
    errors: Vec<NodeError>,
}

impl Silent {
    fn all(keeper: &Keeper) -> Self {
        Self { nodes: (0..keeper.ledger.links.len()).collect(), errors: Vec::new() }
    }

    fn has_spoken(&mut self, node: usize, error: Option<&NodeError>) {
        self.nodes.retain(|silent| *silent != node);
        self.errors.extend(error.cloned());
    }

    /// What went wrong at the nodes, if none that is silent is waited for any longer.
    fn errors(self, keeper: &Keeper, since: Instant) -> Vec<NodeError> {
        let waited = clock::now() - since;
        let silent = self.nodes.iter().map(|&node| keeper.ledger.nodes[node].no_answer(waited));
        self.errors.into_iter().chain(silent).collect()
    }
}

/// Extends the lock that an owner holds under this fencing token. `None`: it does not hold it any more.
pub(crate) async fn join(
    keeper: &Arc<Keeper>,
    wish: &Wish,
    owner: &OwnerToken,
    token: u64,
    until: Option<Instant>,
) -> Result<Option<Armed>, Refusal> {
    let offer = Offer { undo: Undo::Nothing, renewal: wish.renewal.clone() };
    let armed = keeper.arm(wish.key.clone(), owner.clone(), offer)?;
    let terms = Terms { token, ttl: wish.ttl, began: clock::now() };
    match adopt(armed, terms, &wish.caller, until).await {
        Ok(armed) => Ok(Some(armed)),
        Err(Error::NotHeld { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Proves that a majority has the claim's owner under this very fencing token, extends the lock there, and
/// holds it. An owner match alone proves nothing: the owner may have lost the lock and taken it anew.
///
/// Whatever happens before, nothing is undone: the lock may be another guard's.
pub(crate) async fn adopt(
    armed: Armed,
    terms: Terms,
    caller: &tracing::Span,
    until: Option<Instant>,
) -> Result<Armed> {
    let (keeper, claim) = (armed.keeper().clone(), armed.claim().clone());
    let (token, ttl) = (terms.token, terms.ttl);
    let mut proof = Proof::begin(&keeper, &claim, token, ttl, until);
    proof.wait(&keeper).await?;
    if let Err(error) = hold(&keeper, &claim, terms, caller) {
        armed.disarm();
        return Err(error);
    }
    keeper.finish(proof.see_through());
    Ok(armed)
}

/// A round of adopting touches.
struct Proof {
    claim: Arc<Claim>,
    token: u64,
    ttl: Duration,
    quorum: usize,
    nodes: usize,
    round: Round<Result<Answer, NodeError>>,
    proven: usize,
    refused: usize,
    silent: Silent,
    sent: Instant,
}

impl Proof {
    fn begin(
        keeper: &Keeper,
        claim: &Arc<Claim>,
        token: u64,
        ttl: Duration,
        until: Option<Instant>,
    ) -> Self {
        let (ledger, nodes) = (&keeper.ledger, keeper.ledger.links.len());
        claim.expect_until(ttl);
        let (mut round, sent) = (Round::until(until), clock::now());
        for node in 0..nodes {
            let adopt = Command::Touch { ttl: Some(ttl), token, mode: Touch::Adopt };
            round.push(node, sent, ledger.ask(node, claim, adopt));
        }
        let (claim, quorum, silent) = (claim.clone(), ledger.quorum(), Silent::all(keeper));
        Self { claim, token, ttl, quorum, nodes, round, proven: 0, refused: 0, silent, sent }
    }

    async fn wait(&mut self, keeper: &Keeper) -> Result<()> {
        while self.proven < self.quorum {
            if self.refused > self.nodes - self.quorum {
                return Err(Error::NotHeld { key: self.claim.key().to_owned() });
            }
            let Some(reply) = self.round.next().await else {
                let key = self.claim.key().to_owned();
                let reached = self.proven + self.refused;
                let silent = std::mem::replace(&mut self.silent, Silent::all(keeper));
                let nodes = silent.errors(keeper, self.sent);
                return Err(Error::Unavailable {
                    key,
                    needed: self.quorum,
                    reached,
                    nodes,
                    unheard: 0,
                });
            };
            self.note(reply);
        }
        Ok(())
    }

    fn note(&mut self, Reply { node, sent, answer }: Reply<Result<Answer, NodeError>>) {
        self.silent.has_spoken(node, answer.as_ref().err());
        match answer {
            // Ours, but not under this token: it is no proof, but it is to be released with the rest.
            Ok(Answer::Ours { token, .. }) if token != self.token => {
                self.claim.note_counter(node, token);
                self.refused += 1;
            }
            Ok(answer) if self.claim.note(node, sent, self.ttl, &answer) => self.proven += 1,
            Ok(_) => self.refused += 1,
            Err(_) => {}
        }
    }

    async fn see_through(mut self) {
        self.round = self.round.unbound();
        while let Some(reply) = self.round.next().await {
            self.note(reply);
        }
    }
}
