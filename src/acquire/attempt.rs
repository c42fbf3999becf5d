//! One attempt: joins the lock that the owner holds, if that will do, or has the nodes elect it.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    acquire::{
        election::Election,
        spec::{AskOrder, LockSpec, Refusal},
        take_over::join,
    },
    claim::origin::{Offer, Origin},
    keeper::{Keeper, claim_guard::ClaimGuard, outage::Health},
    types::{attempt_id::AttemptId, error::Result, token::OwnerToken},
};

/// Makes one attempt, and waits for its answers until then at the most. Dropping the future at any moment leaves no
/// lock behind.
pub(crate) async fn attempt(
    keeper: &Arc<Keeper>,
    spec: &LockSpec,
    ask_order: AskOrder,
    until: Option<Instant>,
) -> Result<ClaimGuard, Refusal> {
    let began = Instant::now();
    let mut outcome = attempt_by(keeper, spec, ask_order, until).await;
    if let Err(Refusal { health, .. }) = &mut outcome
        && health.is_out()
        && until.is_some_and(|until| until <= Instant::now())
    {
        // Whoever does not wait for the nodes learns nothing of them.
        *health = Health::Unknown;
    }
    let answering = &Health::Answering;
    let health = outcome.as_ref().map_or_else(|refusal| &refusal.health, |_| answering);
    keeper.queues.note(&spec.key, began, health);
    outcome
}

async fn attempt_by(
    keeper: &Arc<Keeper>,
    spec: &LockSpec,
    ask_order: AskOrder,
    until: Option<Instant>,
) -> Result<ClaimGuard, Refusal> {
    let (owner, id) = match &spec.owner {
        None => {
            let named = spec.holder.as_deref().map(OwnerToken::named);
            (named.unwrap_or_else(OwnerToken::random), AttemptId::EMPTY)
        }
        Some(owner) => {
            if spec.joins
                && let Some(armed) = join(keeper, spec, owner, until).await?
            {
                return Ok(armed);
            }
            // Fresh for each attempt: a late undo of the one before must not fit this one.
            (owner.clone(), AttemptId::random())
        }
    };
    let offer = Offer::new(Origin::Own, spec.renewal.clone(), spec.label);
    let armed = keeper.arm(spec.key.clone(), owner, id, offer)?;
    Election::new(spec, armed, until).run(ask_order).await
}
