//! Once: workers whose work is to run once, and what the oracle makes of it.

use std::{collections::BTreeSet, sync::Mutex, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    client::Worker,
    oracle::{Lock, Oracle},
    plan::Plan,
    process::now,
};
use crate::{LockGuard, LockRequest, Once, OwnerToken, host::sync::lock};

/// What is known of work that was to run once.
#[derive(Default)]
pub(super) struct Completions {
    /// Keys of which it was confirmed that they are done.
    done: Vec<Done>,
    /// On which key it has succeeded, and by whose lock.
    succeeded: BTreeSet<(String, String)>,
}

/// A key that is nobody's.
struct Done {
    key: String,
    /// From when everybody must know.
    confirmed: Instant,
    /// From when some node may have forgotten it.
    until: Instant,
}

impl Worker {
    /// Does work that is to run once, and may fail.
    pub(super) async fn run_once(&self, key: &String, request: LockRequest, cancelled: Duration) {
        let (setting, dice) = (&self.setting, &self.setting.dice);
        let (keep, fails, began) = (Plan::keep(dice), dice.chance(30), now());
        let waits = dice.chance(50);
        let request = if waits { request.wait_timeout(dice.millis(0..2_000)) } else { request };
        let held = Mutex::new(None);
        let work = async |guard: &LockGuard| {
            *lock(&held) = Some((Lock::of(guard), guard.claim().clone(), now()));
            setting.oracle.acquired(&self.me().process, guard, began, false);
            sleep(dice.millis(0..200)).await;
            setting.oracle.ends(guard);
            if fails {
                return Err("as planned");
            }
            *lock(&held) = Some((Lock::of(guard), guard.claim().clone(), now()));
            setting.oracle.succeeded(guard);
            Ok(())
        };
        let outcome =
            self.within(std::slice::from_ref(key), cancelled, request.run_once(keep, work)).await;
        if let Some((held, claim, ended)) = lock(&held).take() {
            setting.oracle.gives_up(held);
            let verdict = claim.with_release(|release| release.verdict(key)).flatten();
            let is_confirmed = matches!(verdict, Some(Ok(())));
            if matches!(outcome, Some(Ok(Once::Ran(())))) && is_confirmed {
                setting.oracle.done(key, ended, keep);
            }
        }
        if let Some(Ok(Once::Done { .. })) = outcome {
            setting.oracle.told_done(key);
        }
        self.note(format_args!("once {key} for {keep:?}: {outcome:?}"));
        self.tell(outcome.map(|outcome| outcome.map(drop)));
    }
}

impl Oracle {
    /// Work that is to run once has succeeded, and is about to be marked as done.
    pub(super) fn succeeded(&self, guard: &LockGuard) {
        let entry = (guard.key().to_owned(), guard.owner_token().as_str().to_owned());
        lock(&self.state).completions.succeeded.insert(entry);
    }

    /// It was confirmed that a key is done for so long from then on.
    pub(super) fn done(&self, key: &str, from: Instant, keep: Duration) {
        // The nodes' clocks run fast by a hundredth at most.
        let (key, until) = (key.to_owned(), from + keep.mul_f64(0.98));
        lock(&self.state).completions.done.push(Done { key, confirmed: now(), until });
    }

    /// Somebody was told that a key is done.
    pub(super) fn told_done(&self, key: &str) {
        let has_succeeded = lock(&self.state).completions.succeeded.iter().any(|(of, _)| of == key);
        self.check(has_succeeded, || format!("{key}: done by nobody"));
    }

    /// Nobody gets a key that was known to be done when he asked.
    pub(super) fn is_not_done(&self, key: &str, began: Instant) {
        let is_in_the_way =
            |done: &Done| done.key == key && done.confirmed < began && now() < done.until;
        let is_done = lock(&self.state).completions.done.iter().any(is_in_the_way);
        self.check(!is_done, || format!("{key}: got although it is done"));
    }

    /// A mark is left behind only by work that has succeeded.
    pub(super) fn left_done(&self, server: &str, key: &str, mark: &OwnerToken) {
        let by = mark.left_by().map(|by| (key.to_owned(), by.as_str().to_owned()));
        let is_known = by.is_some_and(|by| lock(&self.state).completions.succeeded.contains(&by));
        self.check(is_known, || format!("{server}: {key} done by nobody"));
    }
}
