//! Any of several: an attempt at whichever lock of a group is free.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tracing::Instrument;

use crate::{
    acquire::{
        attempt::attempt,
        attempt_span,
        spec::{AskOrder, LockSpec, Refusal},
    },
    host::{clock, random},
    keeper::{Keeper, claim_guard::ClaimGuard, outage::Health},
    node::{
        Answer, Command, KeyState, SendLog,
        round::{Reply, Round},
    },
    types::{
        attempt_id::AttemptId,
        error::Error,
        key::Key,
        token::{Mark, OwnerToken},
    },
};

/// The keys of a group, sorted. Each is a lock of its own, and any of them will do.
#[derive(Clone, Debug)]
pub(crate) struct AnyOf(Arc<[Arc<Key>]>);

/// How to make an attempt.
#[derive(Debug)]
pub(crate) struct Tactics {
    /// The attempt's number, for its span.
    pub(crate) number: u32,
    pub(crate) ask_order: AskOrder,
    pub(crate) until: Option<Instant>,
    /// The key that was released last.
    pub(crate) freed: Option<Arc<str>>,
}

/// What the nodes say of a lock that nobody has tried to take.
enum Look {
    Free,
    /// Held, until it ends by itself, by the owner in this value, as a majority says or one node alone.
    Held(Option<Duration>, OwnerToken, Health),
    Unknown,
}

impl AnyOf {
    pub(crate) fn new(sorted: Vec<Arc<Key>>) -> Self {
        Self(sorted.into())
    }

    pub(crate) fn keys(&self) -> &[Arc<Key>] {
        &self.0
    }

    /// Takes one of the locks that are free. Tries the one that was released last, or else a random one that nobody
    /// holds here. If that one is another's, it looks at all the others at once, and tries those that look free.
    ///
    /// The spec has the key of the guard afterwards; if there is none, that of the lock that ends first.
    pub(crate) async fn attempt(
        &self,
        keeper: &Arc<Keeper>,
        spec: &mut LockSpec,
        tactics: Tactics,
    ) -> Result<ClaimGuard, Refusal> {
        let mut missed = Missed::default();
        let guess = self.guess(keeper, tactics.freed.as_deref());
        if let Some(index) = guess
            && let Some(armed) = self.try_one(index, keeper, spec, &tactics, &mut missed).await?
        {
            return Ok(armed);
        }
        let mut tries = 0;
        for (index, look) in self.look_beside(guess, keeper, &tactics).await {
            match look {
                Look::Held(expires_in, value, health) => {
                    missed.add(self.held(index, expires_in, &value, health));
                }
                Look::Free | Look::Unknown if tries == MOST_TRIES => missed.is_brief = true,
                Look::Free | Look::Unknown => {
                    tries += 1;
                    let armed = self.try_one(index, keeper, spec, &tactics, &mut missed).await?;
                    if let Some(armed) = armed {
                        return Ok(armed);
                    }
                    // Somebody was faster, and may come to nothing.
                    missed.is_brief |= matches!(look, Look::Free);
                }
            }
        }
        let refusal = missed.into_refusal();
        if let Some(key) = self.0.iter().find(|key| refusal.error.key() == Some(&*key.name)) {
            spec.key = key.clone();
        }
        Err(refusal)
    }

    /// The lock to try first, if one may be free.
    fn guess(&self, keeper: &Keeper, freed: Option<&str>) -> Option<usize> {
        let held = keeper.ledger.held_here(&self.0);
        let freed = freed.and_then(|freed| self.0.iter().position(|key| &*key.name == freed));
        freed.filter(|&index| !held[index]).or_else(|| {
            let others: Vec<usize> = (0..held.len()).filter(|&index| !held[index]).collect();
            others.get(random::index(others.len())).copied()
        })
    }

    /// Tries to take one of the locks. `None`: it was not to be had, for a reason that is not that of all the others.
    async fn try_one(
        &self,
        index: usize,
        keeper: &Arc<Keeper>,
        spec: &mut LockSpec,
        tactics: &Tactics,
        missed: &mut Missed,
    ) -> Result<Option<ClaimGuard>, Refusal> {
        spec.key = self.0[index].clone();
        let span = attempt_span(spec, tactics.number);
        let attempt = attempt(keeper, spec, tactics.ask_order, tactics.until).instrument(span);
        match attempt.await {
            Ok(armed) => Ok(Some(armed)),
            // Its key alone may be of no use, or out of reach where a cluster has lost some of them.
            Err(refusal)
                if refusal.error.is_contended()
                    || matches!(refusal.health, Health::Unfit)
                    || refusal.health.is_out() && keeper.quorum.has_cluster() =>
            {
                missed.add(refusal);
                Ok(None)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Looks at all locks but that one. What looks free comes first, from a random one on, so that
    /// those who look at the same time do not all try the same.
    async fn look_beside(
        &self,
        tried: Option<usize>,
        keeper: &Arc<Keeper>,
        tactics: &Tactics,
    ) -> Vec<(usize, Look)> {
        let start = random::index(self.0.len());
        let all = (0..self.0.len()).map(|index| (index + start) % self.0.len());
        let looks = all
            .filter(|&index| Some(index) != tried)
            .map(async |index| (index, look(keeper, &self.0[index], tactics).await));
        // Not all at a time: others have something to ask, too.
        let mut looks: Vec<_> = stream::iter(looks).buffered(LOOKS_AT_A_TIME).collect().await;
        looks.sort_by_key(|(_, look)| match look {
            Look::Free => 0,
            Look::Unknown => 1,
            Look::Held(..) => 2,
        });
        looks
    }

    fn held(
        &self,
        index: usize,
        retry_after: Option<Duration>,
        value: &OwnerToken,
        health: Health,
    ) -> Refusal {
        let holder = value.holder().map(str::to_owned);
        let is_done = value.mark() == Some(Mark::Done);
        let key = self.0[index].name.to_string();
        let error = Error::AlreadyHeld { key, retry_after, holder, is_done };
        Refusal { error, is_brief: false, is_split: false, health }
    }
}

/// Looks whether a lock is held: at its first node, or wherever a majority is needed to tell.
async fn look(keeper: &Arc<Keeper>, key: &Arc<Key>, tactics: &Tactics) -> Look {
    let (quorum, nodes) = (&keeper.quorum, keeper.quorum.len());
    let mut asked = quorum.order_of(key);
    asked.truncate(if tactics.ask_order == AskOrder::OneFirst { 1 } else { nodes });
    // So many must say that the key is there.
    let needed = if asked.len() == 1 { 1 } else { nodes - quorum.needed() + 1 };
    let nobody = OwnerToken::found(b"");
    let send_log = Arc::new(SendLog::new(key.clone(), nobody, AttemptId::EMPTY, nodes));
    let (mut round, sent) = (Round::until(tactics.until), clock::now());
    for &node in &asked {
        let (quorum, send_log) = (quorum.clone(), send_log.clone());
        let look = async move { quorum.client(node).ask(&send_log, Command::Inspect).await };
        round.push(node, sent, look);
    }
    let (mut free, mut taken, began) = (0, Vec::new(), Instant::now());
    while let Some(Reply { answer, .. }) = round.next().await {
        match answer {
            Ok(Answer::Seen(KeyState { value: Some(value), expires_in, .. })) => {
                taken.push((expires_in.unwrap_or(Duration::MAX), value));
            }
            Ok(Answer::Seen(_)) => free += 1,
            _ => {}
        }
        if taken.len() >= needed
            && let Some((end, value)) = taken.iter().min_by_key(|(end, _)| *end)
        {
            let expires_in = Some(*end).filter(|end| *end < Duration::MAX);
            let is_majority = taken.len() + free >= quorum.needed();
            let health = if is_majority { Health::Answering } else { Health::Unknown };
            keeper.queues.note(key, began, &health);
            return Look::Held(expires_in, value.clone(), health);
        }
        if free > asked.len() - needed {
            return Look::Free;
        }
    }
    Look::Unknown
}

/// Why none of the locks was to be had: the refusal of the one that ends first.
#[derive(Default)]
struct Missed {
    soonest: Option<Refusal>,
    is_brief: bool,
    /// What it says of the nodes that a majority answered for one of the locks, or that none did.
    health: Option<Health>,
}

impl Missed {
    fn add(&mut self, mut refusal: Refusal) {
        self.is_brief |= refusal.is_brief;
        if refusal.error.is_contended() {
            match std::mem::replace(&mut refusal.health, Health::Unknown) {
                Health::Answering => self.health = Some(Health::Answering),
                // One node's word that a lock is held does not hide that the others are silent.
                Health::Out(shortage) if self.health.is_none() => {
                    self.health = Some(Health::Out(shortage));
                }
                _ => {}
            }
        }
        if self.soonest.as_ref().is_none_or(|soonest| ends_in(&refusal) < ends_in(soonest)) {
            self.soonest = Some(refusal);
        }
    }

    #[expect(clippy::expect_used, reason = "a group has keys, and each was refused")]
    fn into_refusal(self) -> Refusal {
        let refusal = self.soonest.expect("some lock was refused");
        let is_contended = refusal.error.is_contended();
        let health = self.health.filter(|_| is_contended).unwrap_or(refusal.health);
        Refusal { is_brief: self.is_brief, health, ..refusal }
    }
}

/// What cannot be had for another reason than its holder counts last.
fn ends_in(refusal: &Refusal) -> (bool, Duration) {
    match refusal.error {
        Error::AlreadyHeld { retry_after, .. } => (false, retry_after.unwrap_or(Duration::MAX)),
        _ => (true, Duration::MAX),
    }
}

/// How many locks are looked at in one round trip.
const LOOKS_AT_A_TIME: usize = 16;
/// How many locks that look free are tried before others are given the time to make up their minds.
const MOST_TRIES: usize = 3;
