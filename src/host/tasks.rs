//! Where tasks begin. A simulation has each of them live and die with the process that it simulates.

use std::future::Future;

use tokio::{runtime::Handle, task::yield_now};

use crate::claim::origin::Renewal;

pub(crate) fn spawn(runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
    #[cfg(test)]
    let task = crate::simulation::in_this_process(task);
    // Nobody waits for a task: what it does is told to those who do by other ways.
    drop(runtime.spawn(task));
}

/// Lets the background see the lock that it is to renew, before the caller goes on and may block its thread: what a task
/// wakes waits in a slot of its own worker, where no other worker looks for something to do.
pub(crate) async fn let_renewal_begin(renewal: Option<&Renewal>) {
    if renewal.is_some() {
        yield_now().await;
    }
}
