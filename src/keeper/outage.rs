//! Outages: rounds that no majority of the nodes answers.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    node::tally::Shortage,
    types::{error::Error, retry::below},
};

/// What a round says of the nodes.
#[derive(Debug)]
pub(crate) enum Health {
    /// A majority answered.
    Answering,
    /// No majority can answer: so many failed.
    Out(Box<Shortage>),
    /// The same, but asking again would not help: what is wrong is not mended by waiting.
    Unfit,
    /// Too few were heard to tell.
    Unknown,
}

/// An outage that lasts.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    /// The start of the first round that no majority answered.
    pub(crate) began: Instant,
    /// What the last round came to.
    pub(crate) shortage: Shortage,
}

impl Health {
    /// Judges a round by whom it has reached so far.
    pub(crate) fn of(shortage: Shortage) -> Self {
        let Shortage { needed, reached, errors, unheard } = &shortage;
        let nodes = reached + errors.len() + unheard;
        let is_ruled_out = |failed: usize| failed > nodes - needed;
        let lasting = errors.iter().filter(|error| error.is_lasting()).count();
        if reached >= needed {
            Self::Answering
        } else if is_ruled_out(lasting) {
            Self::Unfit
        } else if is_ruled_out(errors.len()) {
            Self::Out(Box::new(shortage))
        } else {
            Self::Unknown
        }
    }

    pub(crate) const fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    pub(crate) const fn is_out(&self) -> bool {
        matches!(self, Self::Out(_))
    }
}

impl From<&Error> for Health {
    fn from(error: &Error) -> Self {
        match error {
            Error::Unavailable { needed, reached, nodes, unheard, .. } => {
                let (needed, reached, unheard) = (*needed, *reached, *unheard);
                Self::of(Shortage { needed, reached, errors: nodes.clone(), unheard })
            }
            // A majority granted it.
            Error::ValidityExpired { .. } => Self::Answering,
            _ => Self::Unknown,
        }
    }
}

/// The pause after so many rounds in a row that no majority answered: growing, with half of it jitter.
pub(crate) fn pause_after_rounds(rounds: u32) -> Duration {
    let growth = 2_u32.saturating_pow(rounds.saturating_sub(1));
    let half = FIRST_PAUSE.saturating_mul(growth).min(LONGEST_PAUSE) / 2;
    half + below(half)
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::types::{error::NodeError, validity::quorum};

    fn errors(passing: usize, lasting: usize) -> Vec<NodeError> {
        let error = || NodeError::new(&"a:1".into(), io::Error::other("no"));
        let passing = (0..passing).map(|_| error());
        passing.chain((0..lasting).map(|_| error().lasting())).collect()
    }

    fn health(nodes: usize, reached: usize, errors: &[NodeError]) -> Health {
        let (needed, unheard) = (quorum(nodes), nodes - reached - errors.len());
        Health::of(Shortage { needed, reached, errors: errors.to_vec(), unheard })
    }

    #[test]
    fn a_majority_of_answers_is_no_outage() {
        assert!(matches!(health(3, 2, &errors(1, 0)), Health::Answering));
        assert!(matches!(health(1, 1, &[]), Health::Answering));
    }

    #[test]
    fn one_answer_does_not_hide_that_the_others_fail() {
        let Health::Out(shortage) = health(3, 1, &errors(2, 0)) else { panic!("an outage") };
        assert_eq!((shortage.needed, shortage.reached, shortage.unheard), (2, 1, 0));
        assert!(health(2, 1, &errors(1, 0)).is_out());
    }

    #[test]
    fn one_answer_alone_tells_nothing() {
        assert!(!health(3, 1, &errors(1, 0)).is_known());
    }

    #[test]
    fn what_is_not_mended_by_waiting_is_no_outage_where_it_rules_a_majority_out() {
        assert!(matches!(health(3, 0, &errors(1, 2)), Health::Unfit));
        assert!(health(3, 0, &errors(2, 1)).is_out());
    }

    #[test]
    fn only_an_outage_is_out_and_only_too_few_tell_nothing() {
        let all = [(2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 1, 0)]
            .map(|(reached, passing, lasting)| health(3, reached, &errors(passing, lasting)));
        assert_eq!(all.each_ref().map(Health::is_out), [false, true, false, false]);
        assert_eq!(all.each_ref().map(Health::is_known), [true, true, true, false]);
    }

    #[test]
    fn an_error_says_of_the_nodes_what_its_round_did() {
        let unavailable = |reached, failed, unheard| {
            let (key, nodes) = ("k".to_owned(), errors(failed, 0));
            Health::from(&Error::Unavailable { key, needed: 2, reached, nodes, unheard })
        };
        let Health::Out(shortage) = unavailable(0, 2, 1) else { panic!("an outage") };
        assert_eq!((shortage.needed, shortage.reached, shortage.unheard), (2, 0, 1));
        assert!(!unavailable(1, 1, 1).is_known());
        let (key, ttl) = ("k".to_owned(), Duration::from_secs(1));
        let expired = Error::ValidityExpired { key, ttl, elapsed: ttl };
        assert!(matches!(Health::from(&expired), Health::Answering));
        assert!(!Health::from(&Error::Closed).is_known());
    }
}
