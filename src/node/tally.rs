//! The tally of a round: which nodes have answered, and why the others have not.

use smallvec::smallvec;

use crate::types::{
    error::{Error, NodeError},
    few::Few,
    validity::quorum,
};

/// What each node has said to the last thing that it was asked. A node is *reached* if it gave an answer of use,
/// whether that was a yes or a no.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    heard: Few<Heard>,
}

#[derive(Clone, Debug)]
enum Heard {
    Nothing,
    Answer,
    Failure(NodeError),
}

/// That no majority of the nodes was reached, and why not.
#[derive(Clone, Debug)]
pub(crate) struct Shortage {
    pub(crate) needed: usize,
    pub(crate) reached: usize,
    pub(crate) errors: Vec<NodeError>,
    pub(crate) unheard: usize,
}

impl Tally {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { heard: smallvec![Heard::Nothing; nodes] }
    }

    /// Notes what a node has said, and passes the answer on if it is one.
    pub(crate) fn note<T>(&mut self, node: usize, answer: Result<T, NodeError>) -> Option<T> {
        let (heard, answer) = match answer {
            Ok(answer) => (Heard::Answer, Some(answer)),
            Err(error) => (Heard::Failure(error), None),
        };
        self.heard[node] = heard;
        answer
    }

    /// Takes back what a node has said.
    pub(crate) fn forget(&mut self, node: usize) {
        self.heard[node] = Heard::Nothing;
    }

    /// Notes that the nodes which have said nothing did not do so in time.
    pub(crate) fn blame_silent(&mut self, blame: impl Fn(usize) -> NodeError) {
        for (node, heard) in self.heard.iter_mut().enumerate() {
            if matches!(heard, Heard::Nothing) {
                *heard = Heard::Failure(blame(node));
            }
        }
    }

    pub(crate) fn quorum(&self) -> usize {
        quorum(self.heard.len())
    }

    pub(crate) fn reached(&self) -> usize {
        self.heard.iter().filter(|heard| matches!(heard, Heard::Answer)).count()
    }

    /// How many nodes have failed.
    pub(crate) fn failed(&self) -> usize {
        self.heard.iter().filter_map(Heard::error).count()
    }

    pub(crate) fn shortage(&self) -> Shortage {
        let errors: Vec<_> = self.heard.iter().filter_map(Heard::error).cloned().collect();
        let reached = self.reached();
        let unheard = self.heard.len() - reached - errors.len();
        Shortage { needed: self.quorum(), reached, errors, unheard }
    }
}

impl Heard {
    const fn error(&self) -> Option<&NodeError> {
        match self {
            Self::Failure(error) => Some(error),
            Self::Nothing | Self::Answer => None,
        }
    }
}

impl Shortage {
    /// What a round for this lock has failed with.
    pub(crate) fn error(self, key: &str) -> Error {
        let Self { needed, reached, errors, unheard } = self;
        Error::Unavailable { key: key.to_owned(), needed, reached, nodes: errors, unheard }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_last_word_of_a_node_counts() {
        let mut tally = Tally::new(3);
        let error = || NodeError::new(&"a:1".into(), io::Error::other("no"));
        assert_eq!(tally.note(0, Ok(7)), Some(7));
        assert_eq!(tally.note::<u8>(1, Err(error())), None);
        let Shortage { needed, reached, errors, unheard } = tally.shortage();
        assert_eq!((needed, reached, errors.len(), unheard), (2, 1, 1, 1));
        tally.note(1, Ok(()));
        tally.note::<()>(0, Err(error()));
        assert_eq!((tally.reached(), tally.shortage().errors.len()), (1, 1));
    }
}
