//! What goes down a lane: parcels, and what became of them.

use std::{sync::Arc, time::Duration};

use deadpool_redis::redis::Cmd;

use super::{connection::Line, wire::Replies};
use crate::node::{failure::Failure, trail::Trail};

/// One command, and the trail that may forbid it.
pub(super) struct Parcel<'a> {
    pub(super) cmd: Cmd,
    pub(super) claim: Option<&'a Trail>,
    /// It is a vote that a node in quarantine must not give.
    pub(super) grants: bool,
}

/// Parcels on their way down a line.
pub(super) struct Mail<'a> {
    pub(super) line: Arc<Line>,
    /// The replies, if queueing brought them already.
    pub(super) early: Option<Replies>,
    pub(super) slots: Vec<Slot<'a>>,
}

/// What became of a parcel.
#[derive(Clone, Copy)]
pub(super) enum Slot<'a> {
    Queued(Option<&'a Trail>),
    /// Its trail forbade it.
    Withheld,
    /// The node must not vote for so long.
    Quarantined(Duration),
}

impl<'a> Slot<'a> {
    pub(super) const fn claim(&self) -> Option<&'a Trail> {
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
