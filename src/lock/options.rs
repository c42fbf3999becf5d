//! The options of a request, whatever it takes: one lock, or several at once.

use std::{sync::Arc, time::Duration};

use crate::{
    claim::origin::{Renewal, longest_interval},
    metrics::Label,
    types::{
        error::{Error, Result},
        holder,
        retry::Retry,
        settings::Settings,
        token::OwnerToken,
    },
};

/// What the caller wants of the lock, or of each of several.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) ttl: Duration,
    pub(crate) wait_timeout: Option<Duration>,
    pub(crate) retry: Retry,
    pub(crate) owner: Option<OwnerToken>,
    pub(crate) holder: Option<Arc<str>>,
    pub(crate) unfenced: bool,
    pub(crate) auto_renew: bool,
    pub(crate) renewal: Renewal,
    pub(crate) min_hold: Duration,
    pub(crate) label: Label,
}

impl Options {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            ttl: settings.ttl,
            wait_timeout: None,
            retry: settings.retry.clone(),
            owner: None,
            holder: settings.holder.clone(),
            unfenced: settings.unfenced,
            auto_renew: false,
            renewal: Renewal::new(),
            min_hold: Duration::ZERO,
            label: None,
        }
    }

    /// The options of one lock of a set, which is renewed and kept by the set once that is complete.
    pub(crate) fn of_one(&self) -> Self {
        Self { auto_renew: false, min_hold: Duration::ZERO, ..self.clone() }
    }

    /// How the lock is renewed, if it is.
    pub(crate) fn renewal(&self) -> Option<&Renewal> {
        self.auto_renew.then_some(&self.renewal)
    }

    /// Refuses what cannot work.
    pub(crate) fn check(&self, settings: &Settings) -> Result<()> {
        settings.check_ttl(self.ttl)?;
        settings.check_min_hold(self.min_hold)?;
        self.check_owner()?;
        let (ttl, Renewal { every, max_hold, .. }) = (self.ttl, &self.renewal);
        let longest = longest_interval(ttl);
        if let Some(every) = every.filter(|every| every.is_zero() || *every > longest) {
            return Err(Error::config(format!(
                "the renewal interval must be more than zero and at most four fifths of the TTL of {ttl:?}, \
                 which is {longest:?}, not {every:?}"
            )));
        }
        match max_hold.filter(|max_hold| *max_hold < ttl) {
            Some(max_hold) => Err(Error::config(format!(
                "`max_hold` must not be less than the TTL of {ttl:?}, as {max_hold:?} is"
            ))),
            None => Ok(()),
        }
    }

    fn check_owner(&self) -> Result<()> {
        self.holder.as_deref().map_or(Ok(()), holder::check)?;
        match self.owner {
            // Beside the counter lies what tells the locks of one owner apart.
            Some(_) if self.unfenced => Err(Error::config(
                "an unfenced lock cannot have an owner token of the caller's choice",
            )),
            Some(_) if self.holder.is_some() => Err(Error::config(
                "an owner token of the caller's choice cannot have a holder's name: that stands in random ones",
            )),
            _ => Ok(()),
        }
    }
}
