//! What a caller holds in hand: requests before a lock is taken, guards while it is held, tickets to hand it over.

pub(crate) mod any_request;
pub(crate) mod guard;
pub(crate) mod loss;
pub(crate) mod once;
pub(crate) mod options;
pub(crate) mod request;
pub(crate) mod set;
pub(crate) mod set_request;
pub(crate) mod setters;
mod take;
pub(crate) mod watch;
