//! Acquiring the lock that a command is to run under.

use std::sync::atomic::{AtomicBool, Ordering};

use redlatch::{LockAnyRequest, LockGuard, LockManager, RenewalEvent};
use rustix::process::Signal;
use tokio::select;

use crate::{
    args::Run, event::Event, failure::Failure, owner, progress::Progress, reporter::Reporter,
    signals::Signals, text,
};

/// Acquires the lock, and tells who is in the way meanwhile. `None`: a signal came first, and nothing is held.
pub(crate) async fn acquire(
    run: &Run,
    manager: &LockManager,
    signals: &mut Signals,
    reporter: &Reporter,
) -> Result<LockGuard, Stop> {
    let progress = Progress::new(manager, run.locks(), reporter);
    let guard = select! {
        biased;
        signal = signals.next() => return Err(Stop::Signal(signal)),
        guard = wait(run, request(run, manager, reporter)?) => guard?,
        never = progress.tell() => match never {},
    };
    let owner = owner::name();
    let (key, fencing_token) = (guard.key().to_owned(), guard.fencing_token().get());
    reporter.say(&Event::Acquired { key, owner, fencing_token, waited: progress.has_told() });
    Ok(guard)
}

/// Why there is no lock.
#[derive(Debug)]
pub(crate) enum Stop {
    Signal(Signal),
    Failure(Failure),
}

impl<T: Into<Failure>> From<T> for Stop {
    fn from(failure: T) -> Self {
        Self::Failure(failure.into())
    }
}

/// A lock that is renewed at least twice before its grace time.
fn request(
    run: &Run,
    manager: &LockManager,
    reporter: &Reporter,
) -> Result<LockAnyRequest, Failure> {
    let (grace, most) = (run.grace(), run.ttl / 10 * 9);
    if grace.is_zero() || grace > most {
        let message = format!(
            "--grace must be more than zero and at most nine tenths of the TTL, {most:?}, not {grace:?}"
        );
        return Err(Failure::Usage(message));
    }
    let interval = (run.ttl / 3).min(run.ttl.saturating_sub(grace) / 2);
    let request = match run.permits {
        None => manager.lock_any([&run.key]),
        Some(permits) => manager.semaphore(&run.key, permits),
    };
    let request = request.ttl(run.ttl).holder(owner::name());
    let request = request.min_hold(run.min_hold.unwrap_or_default());
    let (reporter, failing) = (reporter.clone(), AtomicBool::new(false));
    Ok(request.auto_renew_every(interval).on_renewal(move |event| {
        if let Some(event) = news(event, &failing) {
            reporter.say(&event);
        }
    }))
}

async fn wait(run: &Run, request: LockAnyRequest) -> redlatch::Result<LockGuard> {
    match run.wait {
        _ if run.no_wait => request.try_acquire().await,
        Some(longest) => request.wait_timeout(longest).acquire().await,
        None => request.acquire().await,
    }
}

/// What is new in a renewal: that renewals begin to fail, or to work again.
fn news(event: &RenewalEvent, failing: &AtomicBool) -> Option<Event> {
    match event {
        RenewalEvent::Renewed { key, .. } => {
            let was_failing = failing.swap(false, Ordering::Relaxed);
            was_failing.then(|| Event::Renewed { key: key.clone() })
        }
        RenewalEvent::Failed { key, error, remaining, .. } => {
            let was_failing = failing.swap(true, Ordering::Relaxed);
            let (remaining_ms, message) = (text::millis(*remaining), text::chain(error));
            (!was_failing).then(|| Event::RenewalFailed { key: key.clone(), remaining_ms, message })
        }
        _ => None,
    }
}
