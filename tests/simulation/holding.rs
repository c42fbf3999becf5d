//! What clients do with the locks that they hold, and how they end them.

use std::pin::{Pin, pin};

use tokio::time::{sleep, timeout};

use super::{
    client::{FOREVER, Worker},
    oracle::Lock,
    process::now,
};
use crate::{LockGuard, Lost};

impl Worker {
    /// Holds a lock for a while, and ends it.
    pub(super) async fn hold(&self, guard: LockGuard) {
        let dice = &self.setting.dice;
        {
            let mut lost = pin!(guard.lost());
            let mut is_lost = false;
            for _ in 0..dice.from(0..4) {
                is_lost = is_lost || self.act(&guard, lost.as_mut()).await;
            }
        }
        let deadline = guard.claim().valid_until();
        let (owner, lock) = (guard.owner_token().clone(), Lock::of(&guard));
        match dice.from(0..20) {
            0 if dice.chance(40) => {
                self.note(format_args!("forgets {owner}"));
                self.setting.oracle.exempt(&owner);
                guard.forget();
            }
            1 | 2 => self.hand_over(guard),
            3..=9 => {
                self.note(format_args!("drops {owner}"));
                self.setting.oracle.ends(&guard);
                drop(guard);
            }
            _ => {
                self.setting.oracle.ends(&guard);
                let patience = if dice.chance(20) { dice.millis(0..60) } else { FOREVER };
                self.note(format_args!("releases {owner}"));
                let result = timeout(patience, guard.release()).await;
                self.note(format_args!("released {owner}: {result:?}"));
                if matches!(result, Ok(Ok(()))) {
                    self.setting.oracle.is_over(lock);
                }
                // A release whose reply was lost cannot tell whether it deleted the key.
                if let (Ok(Err(error)), false) = (result, self.setting.plan.kind.breaks()) {
                    self.setting.oracle.refused(&owner, deadline, error.is_not_held());
                }
            }
        }
    }

    /// Does something with a guard. Returns whether the lock was lost.
    async fn act(&self, guard: &LockGuard, mut lost: Pin<&mut Lost<'_>>) -> bool {
        let (dice, setting) = (&self.setting.dice, &self.setting);
        let short = dice.millis(0..400);
        let ttl = setting.plan.ttl(dice);
        let patience = if dice.chance(20) { dice.millis(0..40) } else { FOREVER };
        let choice = dice.from(0..10);
        let action = async {
            match choice {
                0..=3 => sleep(short).await,
                4 if setting.can_wait_for_loss() => sleep(FOREVER).await,
                _ => {
                    let deadline = guard.claim().valid_until();
                    let once = choice % 2 == 0;
                    let was_over = setting.oracle.was_over(&Lock::of(guard));
                    let extend = async {
                        if once { guard.try_extend(ttl).await } else { guard.extend(ttl).await }
                    };
                    let result = timeout(patience, extend).await;
                    self.note(format_args!(
                        "extends {} by {ttl:?}: {result:?}",
                        guard.owner_token()
                    ));
                    setting.oracle.check(!was_over || !matches!(result, Ok(Ok(()))), || {
                        format!("{}: extended after its release", guard.owner_token())
                    });
                    if let Ok(Err(error)) = result {
                        let owner = guard.owner_token();
                        setting.oracle.refused(owner, deadline, error.is_not_held());
                    }
                    setting.oracle.exclusion();
                }
            }
        };
        tokio::select! {
            biased;
            reason = &mut lost => {
                setting.oracle.lost(&self.me().process, guard, reason);
                true
            }
            () = action => false,
            () = setting.gives_up() => false,
        }
    }

    /// Gives the lock to another process.
    fn hand_over(&self, guard: LockGuard) {
        let (setting, dice) = (&self.setting, &self.setting.dice);
        let owner = guard.owner_token().clone();
        let send_log = &guard.claim().send_log;
        let is_settled = (0..setting.plan.nodes).all(|node| send_log.is_answered(node));
        let ticket = guard.into_ticket();
        setting.oracle.exempt(&owner);
        let other = dice.pick(&self.clients).clone();
        let process = other.process.clone();
        self.note(format_args!("hands {owner} to {}", process.name));
        let began = now();
        let patience = if dice.chance(20) { dice.millis(0..60) } else { FOREVER };
        let (setting, receiver) = (setting.clone(), other.process.clone());
        // It belongs to the other process, whatever becomes of this one.
        let adoption = async move {
            let adopted = timeout(patience, other.manager().adopt(ticket)).await;
            let (trace, name) = (&setting.trace, &receiver.name);
            let Ok(Ok(guard)) = adopted else {
                return trace.note(name, format_args!("{owner} not adopted: {adopted:?}"));
            };
            setting.oracle.acquired(&receiver, &guard, began, true);
            if is_settled {
                setting.oracle.adopted(&owner, &receiver);
            }
            sleep(setting.dice.millis(0..100)).await;
            setting.oracle.ends(&guard);
            let result = guard.release().await;
            trace.note(name, format_args!("released adopted {owner}: {result:?}"));
        };
        self.setting.starts(process.run(adoption));
    }
}
