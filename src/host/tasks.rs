//! Where tasks begin. A simulation has each of them live and die with the process that it simulates.

use std::future::Future;

use tokio::runtime::Handle;

pub(crate) fn spawn(runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
    #[cfg(test)]
    let task = crate::simulation::in_this_process(task);
    // Nobody waits for a task: what it does is told to those who do by other ways.
    drop(runtime.spawn(task));
}
