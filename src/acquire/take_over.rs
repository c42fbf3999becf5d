//! Taking over a lock that its owner token holds already: by a ticket, or by `acquire_or_extend`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::Span;

use crate::{
    acquire::spec::{LockSpec, Refusal},
    claim::{
        Claim,
        origin::{Offer, Origin},
    },
    host::clock,
    keeper::{
        Keeper,
        claim_guard::ClaimGuard,
        grant::{Grant, hold},
    },
    node::{
        Answer, Command, KeyState, SendLog, Touch,
        round::{Reply, Round},
        tally::Tally,
    },
    types::{
        attempt_id::AttemptId,
        error::{Error, NodeError, Result},
        key::Key,
        ticket::LockTicket,
        token::OwnerToken,
    },
};

/// An owner's lock, as a majority has it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    token: u64,
    id: AttemptId,
    /// Whether some guard holds it, and has this very token.
    is_held: bool,
}

impl Seen {
    fn is_same_as(self, other: &Self) -> bool {
        (self.token, self.id) == (other.token, other.id)
    }
}

/// Looks which lock an owner has, until it is clear whether a majority tells one and the same. Fails if too few have
/// answered by `until`.
///
/// The owner on a majority proves nothing: different attempts of the owner may have the nodes, and may even have been
/// granted the same counter there. Only one attempt can have a majority beside one id.
async fn look(
    keeper: &Keeper,
    key: &Arc<Key>,
    owner: &OwnerToken,
    until: Option<Instant>,
) -> Result<Option<Seen>> {
    let (ask, quorum, nodes) = (&keeper.quorum, keeper.quorum.needed(), keeper.quorum.len());
    let send_log = Arc::new(SendLog::new(key.clone(), owner.clone(), AttemptId::EMPTY, nodes));
    let (mut round, sent) = (Round::until(until), clock::now());
    for node in 0..nodes {
        let (ask, send_log) = (ask.clone(), send_log.clone());
        let look = async move { ask.client(node).ask(&send_log, Command::Inspect).await };
        round.push(node, sent, look);
    }
    let (mut ours, mut tally) = (Vec::new(), Tally::new(nodes));
    while let Some(Reply { node, answer, .. }) = round.next().await {
        let Some(Answer::Seen(KeyState { value, token, id, is_held, .. })) =
            tally.note(node, answer)
        else {
            continue;
        };
        if value.as_ref() == Some(owner) {
            ours.push(Seen { token, id, is_held });
        }
        let alike = most_alike(&ours);
        if alike.len() >= quorum {
            let is_held = alike.iter().any(|seen| seen.is_held);
            return Ok(Some(Seen { is_held, ..alike[0] }));
        }
        if tally.reached() - alike.len() > nodes - quorum {
            return Ok(None);
        }
    }
    Err(unavailable(keeper, tally, &key.name, sent))
}

fn most_alike(seen: &[Seen]) -> Vec<Seen> {
    let alike = |one: &Seen| -> Vec<Seen> {
        seen.iter().copied().filter(|other| other.is_same_as(one)).collect()
    };
    seen.iter().map(alike).max_by_key(Vec::len).unwrap_or_default()
}

/// Which attempt of the owner's has this fencing token, for a ticket that does not say.
async fn attempt_of(
    keeper: &Keeper,
    key: &Arc<Key>,
    owner: &OwnerToken,
    token: u64,
) -> Result<AttemptId> {
    let seen = look(keeper, key, owner, None).await?.filter(|seen| seen.token == token);
    seen.map(|seen| seen.id).ok_or_else(|| Error::NotHeld { key: key.name.to_string() })
}

/// That too few nodes were heard, if none that is silent is waited for any longer.
fn unavailable(keeper: &Keeper, mut tally: Tally, key: &str, since: Instant) -> Error {
    let waited = clock::now() - since;
    tally.blame_silent(|node| keeper.quorum.node(node).no_answer(waited));
    tally.shortage().error(key)
}

/// Whether an owner's lock can be shared.
///
/// - A counter that is gone took the id along: nobody knows whose lock it is, and its token would be none.
/// - An attempt without the mark of a held lock may still fail: its election may raise the token, or be undone under
///   whoever had joined it. The mark is written only beside the token of a guard, so that one node is enough to tell.
///   A random owner's attempt has no id and no mark: whoever uses its text knows what they do.
/// - A lock that is being released here is about to end for everybody who shares it.
fn may_be_joined(keeper: &Keeper, key: &Key, owner: &OwnerToken, seen: &Seen) -> bool {
    let Seen { token, id, is_held } = *seen;
    token > 0 && (is_held || id.is_empty()) && !keeper.ledger.is_being_released(key, owner, id)
}

/// Extends the lock that an owner holds already. `None`: it holds none that can be shared.
pub(crate) async fn join(
    keeper: &Arc<Keeper>,
    spec: &LockSpec,
    owner: &OwnerToken,
    until: Option<Instant>,
) -> Result<Option<ClaimGuard>, Refusal> {
    let seen = match look(keeper, &spec.key, owner, until).await {
        Ok(seen) => seen.filter(|seen| may_be_joined(keeper, &spec.key, owner, seen)),
        Err(error) if until.is_some_and(|until| until <= Instant::now()) => {
            return Err(error.into());
        }
        // The attempt that follows tells what is wrong with the nodes.
        Err(_) => None,
    };
    let Some(Seen { token, id, .. }) = seen else { return Ok(None) };
    let offer = Offer::new(Origin::Adopted, spec.renewal.clone(), spec.label);
    let armed = keeper.arm(spec.key.clone(), owner.clone(), id, offer)?;
    let terms = Grant { token, ttl: spec.ttl, began: clock::now() };
    match adopt(armed, terms, &spec.caller, until).await {
        Ok(armed) => Ok(Some(armed)),
        Err(Error::NotHeld { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Takes a ticket's lock over.
pub(crate) async fn redeem(keeper: &Arc<Keeper>, ticket: LockTicket) -> Result<ClaimGuard> {
    let LockTicket { key, owner_token, fencing_token, ttl, attempt } = ticket;
    let fencing = keeper.settings.fencing(fencing_token.is_none());
    let key = Arc::new(keeper.key(key, fencing)?);
    keeper.settings.check_ttl(ttl)?;
    keeper.check_runtime()?;
    keeper.check_open()?;
    keeper.start();
    let token = fencing_token.get();
    let attempt = match attempt {
        Some(attempt) => attempt,
        // What would tell lies beside a counter, and a random owner has one lock only.
        None if fencing_token.is_none() && owner_token.looks_random() => AttemptId::EMPTY,
        None => {
            let fenced = keeper.key(key.name.to_string(), keeper.settings.fencing(false))?;
            attempt_of(keeper, &Arc::new(fenced), &owner_token, token).await?
        }
    };
    let terms = Grant { token, ttl, began: clock::now() };
    let offer = Offer::new(Origin::Adopted, None, None);
    let armed = keeper.arm(key, owner_token, attempt, offer)?;
    adopt(armed, terms, &Span::current(), None).await
}

/// Proves that a majority has the claim's owner and attempt under this very fencing token, extends the lock there, and
/// holds it. Owner and attempt alone prove nothing: another may have held the lock since.
///
/// Whatever happens before, nothing is undone: the lock may be another guard's.
async fn adopt(
    armed: ClaimGuard,
    terms: Grant,
    caller: &Span,
    until: Option<Instant>,
) -> Result<ClaimGuard> {
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
    tally: Tally,
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
        let nodes = &keeper.quorum;
        claim.expect_until(ttl);
        let (mut round, sent) = (Round::until(until), clock::now());
        for node in 0..nodes.len() {
            let adopt = Command::Touch { ttl: Some(ttl), token, mode: Touch::Adopt };
            round.push(node, sent, nodes.ask(node, claim, adopt));
        }
        let (claim, quorum, tally) = (claim.clone(), nodes.needed(), Tally::new(nodes.len()));
        let nodes = nodes.len();
        Self { claim, token, ttl, quorum, nodes, round, proven: 0, refused: 0, tally, sent }
    }

    async fn wait(&mut self, keeper: &Keeper) -> Result<()> {
        while self.proven < self.quorum {
            if self.refused > self.nodes - self.quorum {
                return Err(Error::NotHeld { key: self.claim.key().to_owned() });
            }
            let Some(reply) = self.round.next().await else {
                let (tally, key) = (self.tally.clone(), self.claim.key());
                return Err(unavailable(keeper, tally, key, self.sent));
            };
            self.note(reply);
        }
        Ok(())
    }

    fn note(&mut self, Reply { node, sent, answer }: Reply<Result<Answer, NodeError>>) {
        let Some(answer) = self.tally.note(node, answer) else { return };
        match answer {
            // Ours, but not beside this token: it is no proof, but it is to be released with the rest.
            Answer::Ours { token, .. } if token != self.token => self.refused += 1,
            // Whoever shares it has released it, so that it ends on the others too, and for this guard if there is one.
            Answer::Ended => {
                self.claim.note(node, sent, self.ttl, &Answer::Ended);
                self.refused = self.nodes;
            }
            answer if self.claim.note(node, sent, self.ttl, &answer) => self.proven += 1,
            _ => self.refused += 1,
        }
    }

    async fn see_through(mut self) {
        self.round = self.round.unbound();
        while let Some(reply) = self.round.next().await {
            self.note(reply);
        }
    }
}
