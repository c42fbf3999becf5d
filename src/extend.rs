//! Extending: one round that gives a held lock more time, and its repetition while the lock is valid.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    claim::Claim,
    clock,
    error::{Error, LossReason, Result},
    keeper::Keeper,
    node::Touch,
    retry::below,
    round::{Reply, Round},
    terms::see_through,
};

/// Extends, and tries again after transient failures, as long as the lock is valid.
pub(crate) async fn extend(keeper: &Arc<Keeper>, claim: &Arc<Claim>, ttl: Duration) -> Result<()> {
    let mut pause = FIRST_PAUSE;
    loop {
        match extend_once(keeper, claim, ttl).await {
            Err(error) if error.is_unavailable() => {
                let Ok(until) = claim.judge() else { return Err(error) };
                tracing::debug!(key = claim.key(), %error, "extend failed");
                let left = until.saturating_duration_since(clock::now());
                sleep((pause + below(pause)).min(left)).await;
                if claim.judge().is_err() {
                    return Err(error);
                }
                pause = LONGEST_PAUSE.min(pause * 2);
            }
            result => return result,
        }
    }
}

/// Extends in one round.
pub(crate) async fn extend_once(
    keeper: &Arc<Keeper>,
    claim: &Arc<Claim>,
    ttl: Duration,
) -> Result<()> {
    keeper.settings.check_ttl(ttl)?;
    Keeper::check_runtime()?;
    keeper.check_open()?;
    keeper.start();
    check_held(claim)?;
    let (ledger, quorum) = (&keeper.ledger, keeper.ledger.quorum());
    let touch = claim.touch(ttl, Touch::Keep);
    let (mut round, sent) = (Round::new(), clock::now());
    for node in 0..ledger.links.len() {
        round.push(node, sent, ledger.ask(node, claim, touch));
    }
    let (asked, mut confirmed, mut errors) = (ledger.links.len(), 0, Vec::new());
    while let Some(Reply { node, sent, answer }) = round.next().await {
        match answer {
            Ok(answer) => confirmed += usize::from(claim.note(node, sent, ttl, &answer)),
            Err(error) => errors.push(error),
        }
        let answers = asked - round.len() - errors.len();
        match check_held(claim) {
            // Too late, but nobody has said that the lock is gone.
            Err(Error::NotHeld { .. }) if answers < quorum && !claim.is_taken() => break,
            held => held?,
        }
        if confirmed >= quorum {
            claim.set_ttl(ttl);
            if !round.is_over() {
                keeper.finish(see_through(round, claim.clone(), ttl));
            }
            return Ok(());
        }
    }
    let (key, reached) = (claim.key().to_owned(), asked - round.len() - errors.len());
    Err(Error::Unavailable { key, needed: quorum, reached, nodes: errors, unheard: round.len() })
}

fn check_held(claim: &Claim) -> Result<()> {
    match claim.judge() {
        Ok(_) => Ok(()),
        Err(LossReason::Closed) => Err(Error::Closed),
        Err(LossReason::Expired | LossReason::Taken) => {
            Err(Error::NotHeld { key: claim.key().to_owned() })
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
