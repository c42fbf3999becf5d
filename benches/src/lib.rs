//! What the benchmark, the soak and the tests with other libraries share.

pub mod servers;

/// What may go wrong in a run; the messages are for people.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
