//! What goes down a lane: commands, and what became of them.

use std::{sync::Arc, time::Duration};

use redis::Cmd;

use super::{line::Line, transport::Replies};
use crate::{
    node::{command::Command, failure::Failure, send_log::SendLog},
    types::few::Few,
};

/// One command, and the send log that may forbid it.
pub(super) struct Outgoing<'a> {
    pub(super) cmd: Cmd,
    /// For what claims: its send log, and what it is.
    pub(super) claim: Option<(&'a SendLog, Command)>,
}

/// Commands on their way down a line.
pub(super) struct Batch<'a> {
    pub(super) line: Arc<Line>,
    /// The replies, if queueing brought them already.
    pub(super) early: Option<Replies>,
    pub(super) fates: Few<Fate<'a>>,
}

/// What became of a command.
#[derive(Clone, Copy)]
pub(super) enum Fate<'a> {
    Queued(Option<&'a SendLog>),
    /// Its send log forbade it.
    Withheld,
    /// The node must not vote for so long.
    Quarantined(Duration),
}

impl<'a> Fate<'a> {
    pub(super) const fn claim(&self) -> Option<&'a SendLog> {
        match self {
            Self::Queued(claim) => *claim,
            Self::Withheld | Self::Quarantined(_) => None,
        }
    }

    pub(super) const fn failure(&self) -> Option<Failure> {
        match self {
            Self::Queued(_) => None,
            Self::Withheld => Some(Failure::Withdrawn),
            Self::Quarantined(left) => Some(Failure::Quarantined(*left)),
        }
    }
}
