//! Values: what callers give and get, with their limits. They do nothing and send nothing.

pub(crate) mod attempt_id;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod fencing;
pub(crate) mod few;
pub(crate) mod holder;
pub(crate) mod key;
pub(crate) mod retry;
pub(crate) mod settings;
pub(crate) mod ticket;
pub(crate) mod token;
pub(crate) mod validity;
