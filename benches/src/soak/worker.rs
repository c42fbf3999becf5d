//! A worker: takes locks in all ways, one after the other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redlatch::{Error, LockGuard, LockManager, LockRequest, OwnerToken, Result};
use tokio::time::{sleep, timeout};

use crate::{
    dice::Dice,
    tally::Tally,
    witness::{Stay, Witness},
};

pub struct Worker {
    dice: Dice,
    /// All managers: its own, and those that it hands locks over to.
    managers: Vec<LockManager>,
    manager: LockManager,
    owner: OwnerToken,
    witness: Arc<Witness>,
    tally: Arc<Tally>,
}

impl Worker {
    pub fn new(
        number: usize,
        managers: Vec<LockManager>,
        witness: Arc<Witness>,
        tally: Arc<Tally>,
    ) -> Self {
        let manager = managers[number % managers.len()].clone();
        let owner = OwnerToken::new(format!("worker-{number}")).expect("it is short");
        Self { dice: Dice::new(number), managers, manager, owner, witness, tally }
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
            0..20 => self.acquire_and_release().await,
            20..30 => self.hand_over().await,
            30..35 => self.take_twice().await,
            35..45 => self.try_and_drop().await,
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
        let guard = self.brief_request().acquire().await?;
        let (guard, stay) = self.enter(guard);
        self.witness.leave_behind(guard, stay).forget();
        Ok(())
    }

    /// Gives the lock to another manager, which may come too late.
    async fn hand_over(&mut self) -> Result<()> {
        let request = self.brief_request();
        let (guard, stay) = self.enter(request.acquire().await?);
        let ticket = self.witness.leave_behind(guard, stay).into_ticket();
        sleep(self.dice.millis(0, 30)).await;
        let other = &self.managers[self.dice.below(self.managers.len())];
        let guard = Arc::new(other.adopt(ticket).await?);
        self.witness.take_over(&guard, stay);
        self.hold(&guard, stay, 100).await;
        self.release(guard, stay).await
    }

    /// Takes the lock with an owner token of its own, and once more while it may still have it.
    async fn take_twice(&mut self) -> Result<()> {
        let request = self.brief_request().owner(self.owner.clone());
        let (first, mut stay) = self.enter(request.acquire_or_extend().await?);
        self.hold(&first, stay, 200).await;
        let again = self.manager.lock(first.key()).ttl(LONGEST_FORGOTTEN).owner(self.owner.clone());
        let again = again.wait_timeout(self.dice.millis(0, 1_000)).acquire_or_extend().await;
        let second = match again {
            Ok(second) => Arc::new(second),
            Err(error) => {
                drop(self.witness.leave(first, stay));
                return Err(error);
            }
        };
        // Guards of one lock: whichever is released first ends it for both.
        let first = if second.fencing_token() == first.fencing_token() {
            self.witness.take_over(&second, stay);
            Some(first)
        } else {
            drop(self.witness.leave(first, stay));
            self.tally.acquisitions.add();
            stay = self.witness.enter(&second);
            None
        };
        self.hold(&second, stay, 100).await;
        let released = self.release(second, stay).await;
        drop(first);
        released
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

    /// For a lock that may be left to its TTL.
    fn brief_request(&mut self) -> LockRequest {
        let ttl = self.dice.millis(100, 400).min(LONGEST_FORGOTTEN);
        self.request(ttl)
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
