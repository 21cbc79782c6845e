//! Times, durations, states and counts as people read them.

use std::time::Duration;

use super::out::Paint;
use crate::job::{JobState, Snapshot};
use crate::shown::File;
use crate::sys::units::show_bytes;
use crate::wire::time::stamp;

/// Shown where there is no value.
pub(super) const NOTHING: &str = "-";

/// Returns a time stamp, or a dash.
pub(super) fn time(ms: Option<i64>) -> String {
    ms.map_or_else(|| NOTHING.to_owned(), stamp)
}

/// Returns a duration in at most two parts: `0.3 s`, `2 min 3 s`, `4 d 5 h`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", span.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// Returns the time between two moments, or none if it is negative: the clock may have been set.
pub(super) fn between(from_ms: Option<i64>, to_ms: Option<i64>) -> Option<Duration> {
    let ms = to_ms?.checked_sub(from_ms?)?;
    u64::try_from(ms).ok().map(Duration::from_millis)
}

/// Returns how long ago a moment was.
pub(super) fn ago(ms: i64, now_ms: i64) -> String {
    match between(Some(ms), Some(now_ms)) {
        Some(past) => format!("{} ago", span(past)),
        None => stamp(ms),
    }
}

/// Returns the state of a file in a word or two.
pub(super) fn state(file: &File) -> (String, Paint) {
    match file.state {
        JobState::Retrying => ("retrying".to_owned(), Paint::Busy),
        JobState::Queued => ("queued".to_owned(), Paint::Busy),
        JobState::Running => {
            let stage = file.stage.map_or("running", |stage| stage.as_str());
            let text = match percent(file.received, file.total) {
                Some(percent) => format!("{stage} {percent} %"),
                None => stage.to_owned(),
            };
            (text, Paint::Busy)
        }
        JobState::Succeeded => ("published".to_owned(), Paint::Good),
        JobState::Failed => ("failed".to_owned(), Paint::Bad),
        JobState::Canceled => ("canceled".to_owned(), Paint::Bad),
    }
}

/// Returns how much of the archive is here, if its size is known.
pub(super) fn percent(received: u64, total: u64) -> Option<u64> {
    let part = u128::from(received.min(total)) * 100;
    part.checked_div(u128::from(total))
        .and_then(|p| u64::try_from(p).ok())
}

/// Returns received bytes against the size of the archive: `1.0 MiB of 2.0 MiB`.
pub(super) fn received(received: u64, total: u64) -> String {
    match total {
        0 => show_bytes(received),
        total if received >= total => show_bytes(total),
        total => format!("{} of {}", show_bytes(received), show_bytes(total)),
    }
}

/// Returns the progress of a file as the agent reports it.
pub(super) fn snapshot(file: &File) -> Option<Snapshot> {
    Some(Snapshot {
        stage: file.stage?,
        attempt: file.attempts,
        received: file.received,
        total: file.total,
        fetched: file.fetched,
        files: file.files,
        written: file.written,
        spent_ms: 0,
    })
}

/// Returns the noun with its number: `1 file`, `2 files`.
pub(super) fn count(n: u64, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_parts_at_most() {
        for (ms, want) in [
            (0, "0.0 s"),
            (340, "0.3 s"),
            (12_400, "12 s"),
            (123_000, "2 min 3 s"),
            (3_900_000, "1 h 5 min"),
            (180_000_000, "2 d 2 h"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), want);
        }
        assert_eq!(between(Some(5), Some(4)), None);
    }

    #[test]
    fn percents_need_a_length_and_never_pass_the_end() {
        assert_eq!(percent(1, 0), None);
        assert_eq!(percent(1, 3), Some(33));
        assert_eq!(percent(5, 3), Some(100));
        assert_eq!(percent(u64::MAX, u64::MAX), Some(100));
    }
}
