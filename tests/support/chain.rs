//! An error with all its causes.

use std::error::Error;

/// The messages of an error and of every cause behind it, from the outside in.
pub(crate) fn chain(error: &dyn Error) -> Vec<String> {
    causes(error).iter().map(ToString::to_string).collect()
}

/// All that an error and its causes can be made to say, in `Display` and in `Debug`.
pub(crate) fn everything_said(error: &dyn Error) -> String {
    causes(error).iter().map(|error| format!("{error}\n{error:?}\n{error:#?}\n")).collect()
}

fn causes(error: &dyn Error) -> Vec<&dyn Error> {
    let mut all = vec![error];
    while let Some(cause) = all.last().and_then(|error| (**error).source()) {
        all.push(cause);
    }
    all
}
