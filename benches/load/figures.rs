//! Figures: percentiles of what was timed, and what a process has taken of the machine.

use std::time::Duration;

/// Times in order.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time that `part` of a hundred do not exceed.
    pub(crate) fn percentile(&self, part: f64) -> Duration {
        let last = self.0.len() - 1;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = (last as f64 * part / 100.0).ceil() as usize;
        self.0[index.min(last)]
    }

    pub(crate) fn median(&self) -> Duration {
        self.percentile(50.0)
    }

    /// `p50 p99 max` in milliseconds.
    pub(crate) fn row(&self) -> String {
        let [a, b, c] = [50.0, 99.0, 100.0].map(|part| ms(self.percentile(part)));
        format!("{a} | {b} | {c}")
    }
}

/// Milliseconds with as many digits as mean something.
pub(crate) fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ..10.0 => format!("{ms:.2}"),
        ..100.0 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

/// The processor time that a process has taken so far, all its threads together.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Linux has told times in hundredths of a second since ever.
    Duration::from_millis(ticks * 10)
}

/// A line of `/proc/PID/status`, in MiB.
pub(crate) fn memory(pid: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with(line)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib >> 10
}
