//! What stands behind the `://` of a URL, cut apart.

use super::{ENCODE, Fault, cut};

/// What stands behind `://`, cut apart.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) authority: &'a str,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) fragment: Option<&'a str>,
}

impl<'a> Parts<'a> {
    pub(super) fn of(rest: &'a str) -> Self {
        let (rest, fragment) = cut(rest, '#');
        let (rest, query) = cut(rest, '?');
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Self { authority, path, query, fragment }
    }

    /// User and password, if there are any, and the address. An `@` elsewhere tells that a part of them was not
    /// encoded, and nobody knows which.
    pub(super) fn credentials(&self) -> Result<(Option<&'a str>, &'a str), Fault> {
        let behind = [Some(self.path), self.query, self.fragment];
        if behind.into_iter().flatten().any(|part| part.contains('@')) {
            return Err(Fault::new(ENCODE));
        }
        match self.authority.split_once('@') {
            Some((_, address)) if address.contains('@') => Err(Fault::new(ENCODE)),
            Some((credentials, address)) => Ok((Some(credentials), address)),
            None => Ok((None, self.authority)),
        }
    }

    /// The parameters, and what they are set to.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        let parts = self.query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
        parts.map(|part| cut(part, '='))
    }

    /// Whether what stands behind the `?` looks like parameters.
    pub(super) fn is_list(&self) -> bool {
        self.parameters().all(|(name, value)| value.is_some() && is_word(name))
    }
}

/// Whether this may stand in a message as the name of a parameter.
pub(super) fn is_word(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '-');
    !name.is_empty() && name.len() <= LONGEST_WORD && name.chars().all(is_letter)
}

const LONGEST_WORD: usize = 32;
