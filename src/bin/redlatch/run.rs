//! `redlatch run`: a command under a lock.

use std::{io, time::Duration};

use redlatch::{Error, LockGuard, LockManager};

use crate::{
    args::{Options, Run},
    child::Child,
    event::Event,
    exit,
    locking::{self, Stop},
    progress::holder,
    reporter::Reporter,
    signals::{PASSED_ON, SUSPENDING, Signals},
    terminal::Terminal,
    text,
    watch::{Outcome, Watch},
};

/// Runs the command, and returns the exit code.
pub(crate) async fn run(
    run: Run,
    manager: &LockManager,
    options: &Options,
    reporter: &Reporter,
) -> u8 {
    let mut signals = match Signals::catch(PASSED_ON) {
        Ok(signals) => signals,
        Err(error) => return os_error(&error, reporter),
    };
    let acquired = locking::acquire(&run, manager, &mut signals, reporter).await;
    match acquired {
        Ok(guard) => {
            let nodes = run.pass_nodes.then(|| options.nodes.join(","));
            hold(&run, guard, nodes, manager, &mut signals, reporter).await
        }
        Err(Stop::Failure(failure)) => {
            let (code, message) = (failure.code(), failure.to_string());
            // Of several, that which ends first.
            let key = failure.key().unwrap_or(&run.key);
            not_acquired(key, code, message, manager, reporter).await
        }
        Err(Stop::Running) => {
            let message = format!("{} runs elsewhere", text::printable(&run.key));
            not_acquired(&run.key, exit::HELD, message, manager, reporter).await
        }
        Err(Stop::Done { forgotten_in }) => {
            let forgotten_in_ms = forgotten_in.map(text::millis);
            reporter.say(&Event::Done { key: run.key, forgotten_in_ms });
            0
        }
        Err(Stop::Signal(signal)) => {
            reporter.say(&Event::Interrupted { key: run.key, signal: signal.as_raw() });
            exit::by_signal(signal)
        }
    }
}

/// Runs the command under the lock, and releases it.
async fn hold(
    run: &Run,
    guard: LockGuard,
    nodes: Option<String>,
    manager: &LockManager,
    signals: &mut Signals,
    reporter: &Reporter,
) -> u8 {
    // First, lest it comes while the command starts.
    let started = signals
        .also_catch(SUSPENDING)
        .and_then(|()| Child::start(&run.command, &guard, nodes.as_deref()));
    let child = match started {
        Ok(child) => child,
        Err(error) => {
            reporter.say(&not_started(run, &error));
            let guard =
                if run.min_hold.is_some() { unkept(guard, manager).await } else { Ok(guard) };
            return match guard {
                Ok(guard) => release(guard, None, exit::not_started(&error), reporter).await,
                // Its TTL ends it.
                Err(_) => exit::not_started(&error),
            };
        }
    };
    let terminal = Terminal::open();
    let (grace, needs_terminal) = (run.grace(), false);
    let watch = Watch { guard: &guard, child, grace, terminal, reporter, needs_terminal };
    match watch.over(signals).await {
        Outcome::Exited { code } => {
            let keep = run.once.filter(|_| code == 0);
            release(guard, keep, code, reporter).await
        }
        // What is left of the lock is dropped: the next one need not wait for its end.
        Outcome::Lost => exit::LOST,
    }
}

/// The lock without its shortest hold, which a command that was never started has not earned: a guard that is handed
/// over loses it.
async fn unkept(guard: LockGuard, manager: &LockManager) -> redlatch::Result<LockGuard> {
    manager.adopt(guard.into_ticket()).await
}

/// Releases the lock of a command that has ended by itself, and leaves it as done for `keep`.
async fn release(
    guard: LockGuard,
    keep: Option<Duration>,
    exit_code: u8,
    reporter: &Reporter,
) -> u8 {
    let (key, was_valid) = (guard.key().to_owned(), guard.is_valid());
    let released = match keep {
        Some(keep) => guard.complete(keep).await,
        None => guard.release().await,
    };
    if !was_valid || released.as_ref().is_err_and(Error::is_not_held) {
        reporter.say(&Event::Unprotected { key });
        return exit::LOST;
    }
    reporter.say(&match released {
        Ok(()) => Event::Released { key, exit_code },
        Err(error) => Event::NotReleased { key, message: text::chain(&error) },
    });
    exit_code
}

fn not_started(run: &Run, error: &io::Error) -> Event {
    let program = run.command.first().map(|program| program.to_string_lossy());
    let program = text::printable(&program.unwrap_or_default());
    Event::failed(format!("{program}: {error}"), exit::not_started(error))
}

/// Says why there is no lock: who has it, if it is another's.
async fn not_acquired(
    key: &str,
    code: u8,
    message: String,
    manager: &LockManager,
    reporter: &Reporter,
) -> u8 {
    if code != exit::HELD {
        reporter.say(&Event::failed(message, code));
        return code;
    }
    let status = manager.inspect(key).await.ok();
    let (held_by, expires_in_ms) = status.as_ref().and_then(holder).unzip();
    let (key, expires_in_ms) = (key.to_owned(), expires_in_ms.flatten());
    reporter.say(&Event::NotAcquired { key, held_by, expires_in_ms, message });
    code
}

fn os_error(error: &io::Error, reporter: &Reporter) -> u8 {
    reporter.say(&Event::failed(error.to_string(), exit::OS_ERROR));
    exit::OS_ERROR
}
