//! Whether other work runs on the machine, which makes figures unreliable.

use std::{fs::read_to_string, time::Duration};

use tokio::time::sleep;

/// Looks at the machine while this process has nothing to do. Returns a warning if others keep it busy.
pub async fn warning(before: &str) -> Option<String> {
    let begin = Ticks::read()?;
    sleep(LOOK).await;
    let percent = Ticks::read()?.busy_since(&begin)?;
    (percent > LIMIT)
        .then(|| format!("{percent:.0} % busy before {before} (load average {})", load_average()))
}

/// The time that all processors together have spent.
struct Ticks {
    idle: u64,
    all: u64,
}

impl Ticks {
    /// Nothing where the system does not tell.
    fn read() -> Option<Self> {
        Self::parse(&read_to_string("/proc/stat").ok()?)
    }

    /// `cpu user nice system idle iowait irq softirq steal ..`; what follows is in `user` and `nice` already.
    fn parse(stat: &str) -> Option<Self> {
        let ticks = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
        let ticks: Vec<u64> = ticks.map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Self { idle: ticks.get(3)? + ticks.get(4)?, all: ticks.iter().sum() })
    }

    /// In percent, if any time has passed.
    fn busy_since(&self, earlier: &Self) -> Option<f64> {
        let all = self.all.checked_sub(earlier.all).filter(|&all| all > 0)?;
        let idle = self.idle.saturating_sub(earlier.idle).min(all);
        Some((all - idle) as f64 * 100.0 / all as f64)
    }
}

/// Of the last minute.
fn load_average() -> String {
    let loads = read_to_string("/proc/loadavg").unwrap_or_default();
    loads.split_whitespace().next().unwrap_or("unknown").to_owned()
}

const LOOK: Duration = Duration::from_millis(300);
/// So many percent of a machine are busy without other work.
const LIMIT: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::Ticks;

    fn busy(before: &str, after: &str) -> Option<f64> {
        Ticks::parse(after)?.busy_since(&Ticks::parse(before)?)
    }

    #[test]
    fn what_is_neither_idle_nor_waiting_for_a_disk_is_busy() {
        let (before, after) =
            ("cpu  10 0 5 100 3 0 0 0 9 0\ncpu0 1", "cpu  25 0 10 160 13 0 0 10 9 0\ncpu0 2");
        assert_eq!(busy(before, after), Some(30.0));
    }

    #[test]
    fn no_time_is_no_answer() {
        assert_eq!(busy("cpu  1 2 3 4 5", "cpu  1 2 3 4 5"), None);
        assert_eq!(busy("nonsense", "nonsense"), None);
    }
}
