//! Rule F: choosing the fencing token from the votes.
//!
//! A lock is acquired with fencing token T when a majority of nodes have each reported exactly T to it, in
//! answer to its acquire or raise, while the lock there was its own. Reports other than T do not count.
//! Each node's counter only grows, and grows with every grant; any two majorities share a node. So tokens are
//! unique and grow in the order of acquisition, whatever clocks and networks do, while nodes keep their counters.

use crate::types::few::Few;

/// What one node has reported so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// No answer yet.
    Awaited,
    /// The counter's value while the lock there was ours.
    Told(u64),
    /// The same, and a raise is under way.
    Raising(u64),
    /// The lock there is not ours, or the node failed.
    Out,
}

/// What to do about the reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// A majority reported exactly this.
    Agreed(u64),
    /// These nodes reported less than the highest: raise them to it.
    Raise { to: u64, nodes: Vec<usize> },
    /// More answers are needed.
    Wait,
    /// There cannot be a majority any more.
    Impossible,
}

pub(crate) fn choose(reports: &[Report], quorum: usize) -> Choice {
    // A node that is being raised will soon not stand by what it told.
    let settled =
        |token: u64| reports.iter().filter(|report| **report == Report::Told(token)).count();
    let told: Few<u64> = reports.iter().filter_map(Report::told).collect();
    if let Some(token) = told.iter().find(|token| settled(**token) >= quorum) {
        return Choice::Agreed(*token);
    }
    let awaited = reports.iter().filter(|report| **report == Report::Awaited).count();
    if told.len() + awaited < quorum {
        return Choice::Impossible;
    }
    if told.len() < quorum {
        return Choice::Wait;
    }
    let to = told.into_iter().max().unwrap_or_default();
    // One raise at a time: a node that is being raised is looked at again when it has answered.
    let lower = |report: &Report| matches!(*report, Report::Told(told) if told < to);
    let nodes: Vec<usize> = (0..reports.len()).filter(|&node| lower(&reports[node])).collect();
    if nodes.is_empty() { Choice::Wait } else { Choice::Raise { to, nodes } }
}

impl Report {
    pub(crate) const fn told(&self) -> Option<u64> {
        match self {
            Self::Told(token) | Self::Raising(token) => Some(*token),
            Self::Awaited | Self::Out => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Choice::*, Report::*, *};

    #[test]
    fn equal_reports_of_a_majority_agree() {
        assert_eq!(choose(&[Told(7), Awaited, Told(7)], 2), Agreed(7));
        assert_eq!(choose(&[Told(9), Told(7), Told(7)], 2), Agreed(7));
    }

    #[test]
    fn unequal_reports_raise_the_lower_ones() {
        let raise = Raise { to: 9, nodes: vec![0, 2] };
        assert_eq!(choose(&[Told(7), Told(9), Told(8)], 2), raise);
    }

    #[test]
    fn a_raise_under_way_does_not_count_before_its_answer() {
        assert_eq!(choose(&[Raising(7), Told(9), Out], 2), Wait);
        assert_eq!(choose(&[Told(9), Told(9), Out], 2), Agreed(9));
    }

    #[test]
    fn a_raise_under_way_takes_back_what_was_told() {
        assert_eq!(choose(&[Raising(5), Told(7), Told(5)], 2), Raise { to: 7, nodes: vec![2] });
    }

    #[test]
    fn a_higher_report_never_counts_for_a_lower_token() {
        assert_eq!(choose(&[Told(12), Told(9), Out], 2), Raise { to: 12, nodes: vec![1] });
    }

    #[test]
    fn a_late_higher_report_raises_again() {
        let reports = [Raising(7), Told(9), Told(12), Awaited, Awaited];
        assert_eq!(choose(&reports, 3), Raise { to: 12, nodes: vec![1] });
        let reports = [Told(9), Raising(9), Told(12), Awaited, Awaited];
        assert_eq!(choose(&reports, 3), Raise { to: 12, nodes: vec![0] });
    }

    #[test]
    fn too_few_that_may_still_vote_are_no_majority() {
        assert_eq!(choose(&[Out, Out, Told(1)], 2), Impossible);
        assert_eq!(choose(&[Out, Awaited, Told(1)], 2), Wait);
    }
}
