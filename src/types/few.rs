//! Few: a list that is of one in most cases.

use smallvec::SmallVec;

/// As many as there are nodes, or commands that go together. One of them takes no memory of its own.
pub(crate) type Few<T> = SmallVec<[T; 1]>;
