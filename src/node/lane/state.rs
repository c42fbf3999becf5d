//! How a lane stands: with a line, without one, or opening one.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::line::Line;
use crate::node::failure::Failure;
use crate::types::retry::below;

/// Whether there is a connection.
pub(super) enum State {
    /// There is a connection.
    Up(Arc<Line>),
    /// There is none, and none is being opened. `failures` counts the lines in a row that came to nothing.
    Down { failures: u32, since: Instant, cause: Failure },
    /// One is being opened; after a failure nobody waits for it but the call that began it.
    Connecting { failures: u32, cause: Failure },
    /// There is one that has been silent for long. It is being proved or replaced, and everybody waits for that.
    Proving,
}

impl State {
    /// What a caller does next, or why there is nothing to be done.
    ///
    /// Whoever finds the lane down opens a new line and waits for it. The others wait too, unless the node has
    /// failed us before: then they fail fast, so that a dead node costs one caller per back-off.
    pub(super) fn step(&mut self, began_connecting: bool) -> Result<Step, Failure> {
        match self {
            // Once: where a runtime is ending, the proof does too before it has begun.
            Self::Up(line) if line.is_doubtful() && !began_connecting => {
                let line = line.clone();
                *self = Self::Proving;
                Ok(Step::Connect(line.failures(), Some(line)))
            }
            Self::Up(line) => Ok(Step::Use(line.clone())),
            Self::Proving | Self::Connecting { failures: 0, .. } => Ok(Step::Wait),
            Self::Connecting { .. } if began_connecting => Ok(Step::Wait),
            Self::Down { failures, since, cause }
                if !began_connecting && since.elapsed() >= back_off(*failures) =>
            {
                let (failures, cause) = (*failures, cause.clone());
                *self = Self::Connecting { failures, cause };
                Ok(Step::Connect(failures, None))
            }
            Self::Down { cause, .. } | Self::Connecting { cause, .. } => Err(cause.clone()),
        }
    }

    /// When a new line is to be opened, if there is none: a little late, so that not all processes come at once.
    pub(super) fn opens_at(&self) -> Option<Instant> {
        let Self::Down { failures, since, .. } = self else { return None };
        let pause = back_off(*failures);
        Some(*since + pause + below(pause / 4))
    }
}

/// What a caller does about the state of the lane.
pub(super) enum Step {
    Use(Arc<Line>),
    /// Wait for the lane to change.
    Wait,
    /// Open a line, after so many that came to nothing, unless this one proves alive.
    Connect(u32, Option<Arc<Line>>),
}

/// The pause after so many failures in a row: none at first, then doubling from 50 ms to 1 s.
fn back_off(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        failures => {
            LONGEST_BACK_OFF.min(FIRST_BACK_OFF.saturating_mul(2_u32.saturating_pow(failures - 1)))
        }
    }
}

const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);
