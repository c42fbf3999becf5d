//! Extending: one round that gives a held lock more time, and its repetition while the lock is valid.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    claim::Claim,
    host::clock,
    keeper::{Keeper, grant::see_through},
    node::{
        Touch,
        round::{Reply, Round},
        tally::Tally,
    },
    types::{
        error::{Error, LossReason, Result},
        retry::below,
    },
};

/// Extends, and tries again after transient failures, as long as the lock is valid.
pub(crate) async fn extend(keeper: &Arc<Keeper>, claim: &Arc<Claim>, ttl: Duration) -> Result<()> {
    let (mut pause, mut outage) = (FIRST_PAUSE, None);
    loop {
        match extend_once(keeper, claim, ttl).await {
            Err(error) if error.is_unavailable() => {
                let Ok(until) = claim.judge() else { return Err(error) };
                tracing::debug!(key = claim.key(), %error, "extend failed");
                outage = Some(error);
                let left = until.saturating_duration_since(clock::now());
                sleep((pause + below(pause)).min(left)).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
            // The validity ran out in the outage, before the next round or in it: the outage is what to tell.
            Err(error) if error.is_not_held() && !claim.is_taken() => {
                return Err(outage.unwrap_or(error));
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
    keeper.check_runtime()?;
    keeper.check_open()?;
    keeper.start();
    check_held(claim)?;
    let (nodes, quorum) = (&keeper.quorum, keeper.quorum.needed());
    // Rule 5: the claim's end is moved and the clock is read before anything is sent. An extend creates no key, and only a
    // majority of yeses is a success: a minority's cannot move the deadline.
    let touch = claim.touch(ttl, Touch::Extend);
    let (mut round, sent) = (Round::new(), clock::now());
    for node in 0..nodes.len() {
        round.push(node, sent, nodes.ask(node, claim, touch));
    }
    let (mut tally, mut confirmed) = (Tally::new(nodes.len()), 0);
    while let Some(Reply { node, sent, answer }) = round.next().await {
        if let Some(answer) = tally.note(node, answer) {
            confirmed += usize::from(claim.note(node, sent, ttl, &answer));
        }
        match check_held(claim) {
            // Too late. Whether the nodes were slow or out of reach, the rest of the round tells.
            Err(Error::NotHeld { .. }) if tally.reached() < quorum && !claim.is_taken() => {}
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
    Err(tally.shortage().error(claim.key()))
}

fn check_held(claim: &Claim) -> Result<()> {
    match claim.judge() {
        Ok(_) => Ok(()),
        Err(LossReason::Closed) => Err(Error::Closed),
        Err(LossReason::Expired | LossReason::Taken | LossReason::Released) => {
            Err(Error::NotHeld { key: claim.key().to_owned() })
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
