//! Times, and what is made of them.

use std::{cmp::Ordering, future::Future, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

use crate::Outcome;

/// Durations of the same thing.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub fn extend(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn p50(&self) -> Duration {
        self.percentile(50)
    }

    pub fn p99(&self) -> Duration {
        self.percentile(99)
    }

    /// How many samples exceed this.
    pub fn above(&self, limit: Duration) -> usize {
        self.0.iter().filter(|sample| **sample > limit).count()
    }

    pub fn worst(&self) -> Duration {
        self.percentile(100)
    }

    fn percentile(&self, percent: usize) -> Duration {
        percentile(&self.0, percent, Ord::cmp).unwrap_or_default()
    }
}

/// The median, and the mean of the middle two of an even number.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// The smallest value that so many percent do not exceed.
pub fn percentile<T: Copy>(
    values: &[T],
    percent: usize,
    order: fn(&T, &T) -> Ordering,
) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(order);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// Runs a future on a worker thread of the runtime, where the tasks of a server would run. It ends with the caller.
pub async fn on_worker<T: Send + 'static>(
    work: impl Future<Output = Outcome<T>> + Send + 'static,
) -> Outcome<T> {
    let mut tasks = JoinSet::new();
    tasks.spawn(work);
    tasks.join_next().await.ok_or("a task is gone")??
}

/// Runs futures as tasks and collects what they return. They end with the caller.
pub async fn all<T: Send + 'static>(
    work: impl IntoIterator<Item = impl Future<Output = Outcome<T>> + Send + 'static>,
) -> Outcome<Vec<T>> {
    let mut tasks: JoinSet<Outcome<T>> = work.into_iter().collect();
    let mut results = Vec::with_capacity(tasks.len());
    while let Some(result) = tasks.join_next().await {
        results.push(result??);
    }
    Ok(results)
}

/// The CPU time of this process so far, in user and in kernel mode.
pub fn cpu_time() -> Duration {
    read(ClockId::ProcessCPUTime)
}

/// A clock that all processes share.
pub fn machine_time() -> Duration {
    read(ClockId::Monotonic)
}

fn read(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().unwrap_or_default()
}

/// A duration for people.
pub fn show(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds < 0.001 => format!("{:.1} us", seconds * 1e6),
        seconds if seconds < 1.0 => format!("{:.2} ms", seconds * 1e3),
        seconds => format!("{seconds:.2} s"),
    }
}
