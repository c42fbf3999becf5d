//! A worker: takes locks in all ways, one after the other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redlatch::{Error, LockGuard, LockManager, LockRequest, Result};
use tokio::time::{sleep, timeout};

use crate::{
    dice::Dice,
    tally::Tally,
    witness::{Stay, Witness},
};

pub struct Worker {
    dice: Dice,
    manager: LockManager,
    witness: Arc<Witness>,
    tally: Arc<Tally>,
}

impl Worker {
    pub fn new(
        number: usize,
        manager: LockManager,
        witness: Arc<Witness>,
        tally: Arc<Tally>,
    ) -> Self {
        Self { dice: Dice::new(number), manager, witness, tally }
    }

    pub async fn work(mut self, until: Instant) {
        while Instant::now() < until {
            if let Err(error) = self.lock_once().await
                && !self.tally.count(&error)
            {
                self.witness.object(&format!("an error without reason: {error:?}"));
            }
            sleep(self.dice.millis(0, 60)).await;
        }
    }

    async fn lock_once(&mut self) -> Result<()> {
        match self.dice.below(100) {
            0..30 => self.acquire_and_release().await,
            30..45 => self.try_and_drop().await,
            45..60 => self.renew_and_release().await,
            60..70 => self.extend_and_release().await,
            70..80 => self.run().await,
            80..90 => self.forget().await,
            _ => self.cancel().await,
        }
    }

    async fn acquire_and_release(&mut self) -> Result<()> {
        let guard = self.request(ORDINARY).acquire().await?;
        let (guard, stay) = self.enter(guard);
        self.hold(&guard, stay, 40).await;
        self.release(guard, stay).await
    }

    async fn try_and_drop(&mut self) -> Result<()> {
        let guard = self.request(ORDINARY).try_acquire().await?;
        let (guard, stay) = self.enter(guard);
        self.hold(&guard, stay, 40).await;
        self.count_loss(&guard);
        drop(self.witness.leave(guard, stay));
        Ok(())
    }

    /// Holds the lock for longer than its TTL.
    async fn renew_and_release(&mut self) -> Result<()> {
        let guard = self.request(SHORT).auto_renew().acquire().await?;
        let (guard, stay) = self.enter(guard);
        self.hold(&guard, stay, 1_500).await;
        self.release(guard, stay).await
    }

    async fn extend_and_release(&mut self) -> Result<()> {
        let guard = self.request(SHORT).acquire().await?;
        let (guard, stay) = self.enter(guard);
        for ttl in [SHORT, ORDINARY] {
            self.hold(&guard, stay, 100).await;
            if let Err(error) = guard.extend(ttl).await {
                drop(self.witness.leave(guard, stay));
                return Err(error);
            }
        }
        self.release(guard, stay).await
    }

    async fn run(&mut self) -> Result<()> {
        let request = self.request(SHORT);
        let length = self.dice.millis(0, 400);
        let (witness, tally) = (&self.witness, &self.tally);
        let work = async |guard: &LockGuard| {
            tally.acquisitions.add();
            let (began, stay) = (Instant::now(), witness.enter_unseen(guard));
            while began.elapsed() < length {
                sleep(TICK).await;
                witness.look(guard, stay);
            }
            witness.leave_unseen(guard, stay);
        };
        request.run(work).await
    }

    async fn forget(&mut self) -> Result<()> {
        let ttl = self.dice.millis(100, 400).min(LONGEST_FORGOTTEN);
        let guard = self.request(ttl).acquire().await?;
        let (guard, stay) = self.enter(guard);
        self.witness.leave_behind(guard, stay).forget();
        Ok(())
    }

    /// Gives up at any moment, often in the middle of a round.
    async fn cancel(&mut self) -> Result<()> {
        let patience = self.dice.millis(0, 8);
        let request = self.request(ORDINARY);
        match timeout(patience, request.acquire()).await {
            Ok(guard) => {
                let (guard, stay) = self.enter(guard?);
                self.release(guard, stay).await
            }
            Err(_elapsed) => {
                self.tally.cancelled.add();
                Ok(())
            }
        }
    }

    fn request(&mut self, ttl: Duration) -> LockRequest {
        let key = format!("key-{}", self.dice.below(KEYS));
        let patience = self.dice.millis(0, 3_000);
        self.manager.lock(key).ttl(ttl).wait_timeout(patience)
    }

    fn enter(&self, guard: LockGuard) -> (Arc<LockGuard>, Stay) {
        self.tally.acquisitions.add();
        let guard = Arc::new(guard);
        let stay = self.witness.enter(&guard);
        (guard, stay)
    }

    /// Keeps the lock for up to `most` ms, or until it is lost.
    async fn hold(&mut self, guard: &LockGuard, stay: Stay, most: u64) {
        let (began, length) = (Instant::now(), self.dice.millis(0, most));
        while began.elapsed() < length && guard.is_valid() {
            sleep(TICK.min(length)).await;
            self.witness.look(guard, stay);
        }
    }

    async fn release(&self, guard: Arc<LockGuard>, stay: Stay) -> Result<()> {
        let was_valid = guard.is_valid();
        match self.witness.leave(guard, stay).release().await {
            // That it was lost is one loss, whether the nodes still had it or not.
            Ok(()) | Err(Error::Unavailable { .. }) if !was_valid => self.tally.losses.add(),
            released => return released,
        }
        Ok(())
    }

    fn count_loss(&self, guard: &LockGuard) {
        if !guard.is_valid() {
            self.tally.losses.add();
        }
    }
}

const KEYS: usize = 32;
const TICK: Duration = Duration::from_millis(5);
/// Long enough that a key left behind is still there when the soak looks for it.
const ORDINARY: Duration = LONGEST_TTL;
const SHORT: Duration = Duration::from_millis(700);
/// No lock lives longer without an extend: so long a server that lost its memory has to stay away.
pub const LONGEST_TTL: Duration = Duration::from_secs(10);
/// The longest TTL of a lock that is left to it.
pub const LONGEST_FORGOTTEN: Duration = Duration::from_millis(400);
