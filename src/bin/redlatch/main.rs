//! `redlatch`: the command line of the crate, built on its public API only.

#[cfg(not(unix))]
compile_error!(
    "the command needs Unix: it works with process groups and signals; the library does not"
);

mod access;
mod args;
mod ask;
mod breaking;
mod child;
mod doctor;
mod event;
mod exit;
mod failure;
mod inspect;
mod locking;
mod nodes;
mod output;
mod owner;
mod ping;
mod progress;
mod reporter;
mod run;
mod signals;
mod terminal;
mod text;
mod watch;

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind};
use redlatch::LockManager;

use crate::{
    args::{Cli, Task},
    event::Event,
    failure::Failure,
    reporter::Reporter,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage(&error)),
    };
    let (reporter, flushed) = Reporter::start(cli.options.json, cli.options.quiet);
    let code = start(cli, &reporter);
    drop(reporter);
    flushed.wait();
    ExitCode::from(code)
}

/// One thread does it all: nothing here blocks it.
fn start(mut cli: Cli, reporter: &Reporter) -> u8 {
    let _chosen = rustls::crypto::ring::default_provider().install_default();
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(async {
                match nodes::manager(&mut cli.options) {
                    Ok(manager) => perform(cli, &manager, reporter).await,
                    Err(failure) => fail(&failure, reporter),
                }
            });
            // Not dropped: that would wait for a name server that does not answer.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            reporter.say(&Event::failed(error.to_string(), exit::OS_ERROR));
            exit::OS_ERROR
        }
    }
}

async fn perform(cli: Cli, manager: &LockManager, reporter: &Reporter) -> u8 {
    let options = cli.options;
    let code = match cli.task {
        Task::Run(run) => Ok(run::run(run, manager, &options, reporter).await),
        Task::Inspect { key } => inspect::inspect(&key, manager, &options).await,
        Task::Break { key, yes } => breaking::break_lock(&key, yes, manager, &options).await,
        Task::Ping => Ok(ping::ping(manager, &options).await),
        Task::Doctor => Ok(doctor::doctor(manager, &options).await),
    };
    let code = code.unwrap_or_else(|failure| fail(&failure, reporter));
    // What was dropped is released now, and slower nodes hear of what was released. No node may take longer.
    let _told = tokio::time::timeout(options.node_timeout(), manager.close()).await;
    code
}

fn fail(failure: &Failure, reporter: &Reporter) -> u8 {
    let code = failure.code();
    reporter.say(&Event::failed(failure.to_string(), code));
    code
}

/// Help goes to the standard output, what is wrong to the standard error.
fn usage(error: &clap::Error) -> u8 {
    let _shown = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
        _ => exit::USAGE,
    }
}
