//! What can be written on the command line.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::exit;

/// Runs commands under distributed locks on Redis.
///
/// A lock is a lease on one Redis server, or on a majority of several independent ones (Redlock). It ends by itself
/// when its TTL is over, so that a machine that crashes is in nobody's way for long.
///
/// All processes that share locks must have the same servers, key prefix and restart quarantine. Set the variables
/// that are named beside these options for all of them; the TTL and the other options are each process' own.
#[derive(Debug, Parser)]
#[command(name = "redlatch", version, after_long_help = exit::help())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Servers and output")]
pub(crate) struct Options {
    /// Redis servers to lock on: one, or several independent ones, of which more than half must agree
    ///
    /// Separated by commas, or given several times: redis://[user:password@]host:port[/database], rediss:// for TLS;
    /// redis-cluster://[user:password@]host:port,host:port for a cluster; and for a master that Sentinels watch, with
    /// the master's password, redis-sentinel://[user:password@]host:port,host:port/master-name[/database]. A part without
    /// :// belongs to the node before it. Everybody on the machine can read the command line of a process: put passwords
    /// into REDLATCH_NODES or a file instead. In user and password, write # as %23, / as %2F, ? as %3F, @ as %40.
    #[arg(long, global = true, value_name = "URL,...")]
    #[arg(env = "REDLATCH_NODES", hide_env_values = true)]
    pub(crate) nodes: Vec<String>,

    /// Read the servers from a file, instead of --nodes and REDLATCH_NODES: one or several a line, # begins a comment
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) nodes_file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) access: Access,

    /// What is put before every key in Redis, for all processes that share locks
    #[arg(long, global = true, value_name = "PREFIX", default_value = "")]
    #[arg(env = "REDLATCH_KEY_PREFIX", hide_default_value = true, hide_env_values = true)]
    pub(crate) key_prefix: String,

    /// The longest that one server may take over one answer, connecting included [default: 500ms]
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[arg(env = "REDLATCH_NODE_TIMEOUT", hide_env_values = true)]
    node_timeout: Option<Duration>,

    /// Put up with it for so long that too few servers answer [default: as long as --wait, or 5s]
    ///
    /// It counts from when an outage began, or from the start of `run` if that was later. After that the exit code is 69.
    /// `run --no-wait` asks the servers once. A wrong password and missing rights are told at once.
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[arg(env = "REDLATCH_OUTAGE_PATIENCE")]
    pub(crate) outage_patience: Option<Duration>,

    /// Do not let a server vote that has restarted within this time, and may have forgotten its locks [default: off]
    ///
    /// Name the longest TTL that anybody uses, the same in all processes that share locks. It asks servers for their
    /// uptime, with INFO.
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[arg(env = "REDLATCH_RESTART_QUARANTINE", hide_env_values = true)]
    pub(crate) restart_quarantine: Option<Duration>,

    /// Write JSON, one object a line
    ///
    /// Answers go to the standard output; what happens during `run`, whose standard output is the command's, and
    /// errors go to the standard error. Times are in milliseconds and end in `_ms`. What is not known is null.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Say nothing of waiting and of a lock that was not acquired; the exit code does
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// How the servers let us in, where a URL cannot say it.
#[derive(Args, Debug)]
pub(crate) struct Access {
    /// Run this shell command for each connection to a server: what it prints is the password
    ///
    /// For tokens that last minutes, and passwords that change. The user is the URL's, as in redis://USER:@host, or the
    /// default one; behind Sentinels it is the master's. It may take 5 seconds, and gets no input. What goes wrong is an
    /// outage, which --wait and --outage-patience bound.
    #[arg(long, global = true, value_name = "COMMAND")]
    #[arg(env = "REDLATCH_PASSWORD_COMMAND", hide_env_values = true)]
    pub(crate) password_command: Option<String>,

    /// Trust the certificates in this PEM file, and none of the system's, where servers have TLS
    #[arg(long, global = true, value_name = "FILE", env = "REDLATCH_TLS_CA")]
    pub(crate) tls_ca: Option<PathBuf>,

    /// Show the certificate in this PEM file to TLS servers
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "REDLATCH_TLS_CERT",
        requires = "tls_key"
    )]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The key of that certificate, in a PEM file
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "REDLATCH_TLS_KEY",
        requires = "tls_cert"
    )]
    pub(crate) tls_key: Option<PathBuf>,
}

impl Options {
    pub(crate) fn node_timeout(&self) -> Duration {
        self.node_timeout.unwrap_or(Duration::from_millis(500))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Run a command while holding a lock
    ///
    /// The lock is acquired, renewed while the command runs, and released. Signals (TERM, INT, HUP, QUIT, USR1, USR2)
    /// are passed on to the command and what it has started. The exit code is the command's, or 128 + n if signal n
    /// killed it.
    ///
    /// The command finds the lock's name in the environment variable REDLATCH_KEY, and in REDLATCH_FENCING_TOKEN a
    /// number that grows from holder to holder: what the lock protects should refuse one that is lower than it has
    /// seen. REDLATCH_NODES, which may hold a password, is not in its environment, unless --pass-nodes is given.
    ///
    /// If the lock is lost, or cannot be renewed until the grace time before its end, the command and everything in
    /// its process group is sent TERM, and KILL if need be, so that it has ended before the lock has; the exit code is
    /// then 70, whatever the command's was. What the command leaves running in its process group is ended in the same
    /// way before the lock is released, since nothing protects it any longer. Only what has a session or process
    /// group of its own, as by setsid, outlives the lock.
    ///
    /// Ctrl-Z does not suspend a command that holds a lock. If redlatch itself is killed with SIGKILL or stopped with
    /// SIGSTOP, nobody is left to end the command in time, and only the fencing token protects.
    #[command(after_long_help = exit::help())]
    Run(Run),
    /// Tell who holds a lock, and for how long
    ///
    /// The exit code is 0 if somebody holds it, and 1 if nobody does. A holder is shown by its name, which is host and
    /// process id if `redlatch` holds the lock, else by the first characters of its owner token.
    Inspect {
        /// The lock's name
        key: String,
    },
    /// Take a lock away from its holder
    ///
    /// It breaks the very lock that it has shown, not one that has been acquired since. `redlatch run` notices at its
    /// next renewal and ends its command; any other holder goes on, and may not notice. It asks first, on the
    /// terminal. The exit code is 1 if nobody holds the lock, or not any more, 75 if it cannot be broken or you say
    /// no, and 64 if there is no terminal to ask on.
    Break {
        /// The lock's name
        key: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Ask every server for a sign of life
    ///
    /// The exit code is 0 if more than half of them answer, else 69.
    Ping,
    /// Look for what would let locks down: replicas, eviction, missing rights, clocks
    ///
    /// Each finding says what can happen and what to do. The exit code is 78 if one is critical, 69 if too few servers
    /// answer, else 0.
    Doctor,
}

#[derive(Args, Debug)]
pub(crate) struct Run {
    /// The lock's name
    pub(crate) key: String,

    /// Let so many hold the lock at a time, not one: all who use it must name the same number, 1 to 1024
    ///
    /// Each of them holds one of the locks KEY#0, KEY#1 and so on, whichever is free. REDLATCH_KEY says which.
    #[arg(long, value_name = "N", conflicts_with = "once")]
    pub(crate) permits: Option<usize>,

    /// How long servers keep the lock without a renewal (500ms, 30s, 5m): the longest that a crash is in the way
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Duration,

    /// Wait at most this long for the lock, outages of the servers included [default: for ever, but see --outage-patience]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) wait: Option<Duration>,

    /// Do not wait for the lock: exit with 75 if somebody holds it
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,

    /// How long before the end of a lock that is not renewed the command is told to end [default: a third of the TTL]
    ///
    /// KILL follows a quarter of it, and at most a second, before the lock's end. At most nine tenths of the TTL.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) grace: Option<Duration>,

    /// Keep the lock at least this long, even if the command takes less [default: not]
    ///
    /// For a job that several machines start at the same minute, and that takes less time than their clocks differ
    /// by: it runs once. Combine it with --no-wait.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) min_hold: Option<Duration>,

    /// Run the command only if it has not succeeded within this time, and remember for as long if it does [default: not]
    ///
    /// If it has, the exit code is 0 at once. If it runs elsewhere, the exit code is 75, unless --wait says how long to
    /// wait for it. A command that fails is not remembered, and its exit code is passed on. From 1ms to 30 days. A crash
    /// between the command's end and the mark runs it again.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "min_hold")]
    pub(crate) once: Option<Duration>,

    /// Hand the servers on to the command, with their passwords, in REDLATCH_NODES [default: not]
    ///
    /// For a command that uses `redlatch` itself. Without it the variable is taken out of the command's environment.
    #[arg(long)]
    pub(crate) pass_nodes: bool,

    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

impl Run {
    /// The locks of which one is wanted, as far as it is told who holds them.
    pub(crate) fn locks(&self) -> Vec<String> {
        let slots = |permits: usize| 0..permits.min(MOST_SHOWN);
        let slots = self.permits.map(|permits| slots(permits).map(|n| format!("{}#{n}", self.key)));
        slots.map_or_else(|| vec![self.key.clone()], Iterator::collect)
    }

    /// How long before the lock's end the command is told to end.
    pub(crate) fn grace(&self) -> Duration {
        self.grace.unwrap_or(self.ttl / 3)
    }
}

/// Of a semaphore no more slots than these are looked at to tell who is in the way.
const MOST_SHOWN: usize = 8;
