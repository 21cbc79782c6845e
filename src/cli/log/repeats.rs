//! Repeated lines are logged once; after a while the log says how often they were repeated.
//!
//! Lines are the same if they come from the same place, in the same span, with the same fields; a
//! number, and digits in an error, make no difference. What stands for long is mentioned less and
//! less often: after 1 minute, after 2 more, after 4 more. Warnings of one place about many objects
//! are also counted together once there are more than a few, and a finished step (info) is only
//! counted then.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::{BuildHasher as _, DefaultHasher, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

use crate::sys::{failpoint, lossy};

/// Time after which the log says how often a line was repeated.
const FIRST: Duration = Duration::from_secs(60);
/// The longest such time.
const LONGEST: Duration = Duration::from_secs(3600);
/// Warnings from one place, each about another object, that are logged before they are counted
/// together; and repetitions of a step, as of a reload, that are logged before they are counted.
const FEW: u32 = 10;
/// Lines that are remembered.
const REMEMBERED: usize = 1024;
/// Bytes of a line that are shown again.
const SHOWN: usize = 400;

/// Drops repeated lines, and counts them.
#[derive(Clone)]
pub(super) struct Repeats(Arc<Inner>);

struct Inner {
    first: Duration,
    hashes: RandomState,
    lines: Mutex<HashMap<u64, Line>>,
}

/// A line that was logged, and its repetitions since.
struct Line {
    level: Level,
    text: String,
    since: Instant,
    /// When the repetitions are mentioned, or the line is forgotten if there were none.
    window: Duration,
    repeated: u64,
    /// How often it was logged; for the line that stands for a place, how many objects were.
    logged: u32,
}

impl Repeats {
    pub(super) fn new() -> Self {
        Self::with(failpoint::shortened("EDGEPUSH_LOG_WINDOW_MS", FIRST))
    }

    fn with(first: Duration) -> Self {
        Self(Arc::new(Inner {
            first,
            hashes: RandomState::new(),
            lines: Mutex::default(),
        }))
    }

    /// Mentions the repetitions whose time has come; with `all`, every one.
    pub(super) fn tell(&self, all: bool) {
        // Nothing is logged under the lock: that would ask for it again.
        for (level, text) in self.due(Instant::now(), all) {
            say(level, &text);
        }
    }

    fn due(&self, now: Instant, all: bool) -> Vec<(Level, String)> {
        let mut due = Vec::new();
        self.lock().retain(|_, line| {
            let passed = now.saturating_duration_since(line.since);
            if passed < line.window && !all {
                return true;
            }
            if line.repeated == 0 {
                return false;
            }
            due.push((line.level, line.summary(passed)));
            (line.since, line.repeated) = (now, 0);
            line.window = (line.window * 2).min(LONGEST);
            true
        });
        due
    }

    /// Counts a line, and returns whether it is logged.
    fn is_new(&self, place: u64, level: Level, seen: Seen, now: Instant) -> bool {
        let mut lines = self.lock();
        let object = seen.hash.finish();
        if let Some(line) = lines.get_mut(&object) {
            return line.logs_again(level > Level::WARN);
        }
        if lines.len() >= REMEMBERED {
            // Whatever is logged at this rate is new each time.
            return true;
        }
        if level <= Level::WARN {
            let text = format!("{} (various)", seen.message);
            let all = lines
                .entry(place)
                .or_insert_with(|| Line::new(level, text, now, self.0.first));
            if !all.logs_again(true) {
                return false;
            }
        }
        let text = format!("{}{}", seen.message, seen.fields);
        let line = Line::new(level, text, now, self.0.first);
        lines.entry(object).or_insert(line).logs_again(true)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Line>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn new(level: Level, text: String, now: Instant, window: Duration) -> Self {
        Self {
            level,
            text,
            since: now,
            window,
            repeated: 0,
            logged: 0,
        }
    }

    /// Counts the line once more, and returns whether it is logged, as `a_few` are.
    fn logs_again(&mut self, a_few: bool) -> bool {
        let logs = a_few && self.logged < FEW;
        self.logged += u32::from(logs);
        self.repeated += u64::from(!logs);
        logs
    }

    fn summary(&self, passed: Duration) -> String {
        let times = if self.repeated == 1 { "time" } else { "times" };
        let (n, seconds) = (self.repeated, passed.as_secs().max(1));
        format!("repeated {n} {times} in {seconds} s: {}", self.text)
    }
}

fn say(level: Level, text: &str) {
    match level {
        Level::ERROR => tracing::error!(target: lossy::TARGET, event = "repeated", "{text}"),
        Level::WARN => tracing::warn!(target: lossy::TARGET, event = "repeated", "{text}"),
        _ => tracing::info!(target: lossy::TARGET, event = "repeated", "{text}"),
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // Who asks for details gets them all, and what the log says of itself has numbers.
        if *metadata.level() > Level::INFO || metadata.target() == lossy::TARGET {
            return true;
        }
        let place = self.0.hashes.hash_one(metadata.callsite());
        let mut seen = Seen::new(self.0.hashes.build_hasher());
        seen.hash.write_u64(place);
        if let Some(span) = context.event_span(event) {
            seen.hash.write_u64(span.id().into_u64());
        }
        event.record(&mut seen);
        self.is_new(place, *metadata.level(), seen, Instant::now())
    }
}

/// What of an event makes it the same line as another.
struct Seen {
    hash: DefaultHasher,
    message: String,
    fields: String,
}

impl Seen {
    fn new(hash: DefaultHasher) -> Self {
        let (message, fields) = (String::new(), String::new());
        Self {
            hash,
            message,
            fields,
        }
    }
}

impl Visit for Seen {
    // Numbers measure, they do not name.
    fn record_f64(&mut self, _: &Field, _: f64) {}
    fn record_i64(&mut self, _: &Field, _: i64) {}
    fn record_u64(&mut self, _: &Field, _: u64) {}
    fn record_i128(&mut self, _: &Field, _: i128) {}
    fn record_u128(&mut self, _: &Field, _: u128) {}

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        let any_digits = matches!(field.name(), "error" | "message");
        for byte in text.bytes().filter(|b| !(any_digits && b.is_ascii_digit())) {
            self.hash.write_u8(byte);
        }
        self.hash.write_u8(0xff);
        let out = match field.name() {
            "message" => &mut self.message,
            "event" => return,
            _ => &mut self.fields,
        };
        if field.name() != "message" {
            let _ = write!(out, " {}=", field.name());
        }
        let room = SHOWN.saturating_sub(out.len());
        out.extend(text.chars().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn log(repeats: &Repeats, place: u64, level: Level, object: &str, now: Instant) -> bool {
        let mut seen = Seen::new(repeats.0.hashes.build_hasher());
        seen.hash.write_u64(place);
        seen.hash.write(object.as_bytes());
        (seen.message, seen.fields) = ("cannot".to_owned(), format!(" object={object}"));
        repeats.is_new(place, level, seen, now)
    }

    fn said(repeats: &Repeats, now: Instant) -> Vec<String> {
        repeats
            .due(now, false)
            .into_iter()
            .map(|(_, t)| t)
            .collect()
    }

    #[test]
    fn what_stands_is_logged_once_and_then_counted_less_and_less_often() {
        let repeats = Repeats::with(MINUTE);
        let start = Instant::now();
        let mut lines = Vec::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            if log(&repeats, 1, Level::WARN, "a", now) {
                lines.push("first".to_owned());
            }
            lines.extend(said(&repeats, now));
        }
        assert_eq!(
            lines,
            [
                "first",
                "repeated 60 times in 60 s: cannot object=a",
                "repeated 120 times in 120 s: cannot object=a",
                "repeated 240 times in 240 s: cannot object=a",
            ]
        );
    }

    #[test]
    fn a_line_that_was_not_repeated_is_new_again_later() {
        let repeats = Repeats::with(MINUTE);
        let start = Instant::now();
        assert!(log(&repeats, 1, Level::WARN, "a", start));
        assert!(said(&repeats, start + MINUTE).is_empty());
        assert!(log(&repeats, 1, Level::WARN, "a", start + MINUTE));
    }

    #[test]
    fn a_step_is_logged_each_time_until_it_floods() {
        let repeats = Repeats::with(MINUTE);
        let now = Instant::now();
        let logs = |_: &u32| log(&repeats, 1, Level::INFO, "reloaded", now);
        assert_eq!((0..100).filter(logs).count(), 10);
    }

    #[test]
    fn many_objects_of_one_place_are_counted_together_if_they_warn() {
        let repeats = Repeats::with(MINUTE);
        let start = Instant::now();
        let logged = |level, place| {
            let logs = |n: &u32| log(&repeats, place, level, &n.to_string(), start);
            (0..100).filter(logs).count()
        };
        assert_eq!(logged(Level::WARN, 1), 10);
        assert_eq!(logged(Level::INFO, 2), 100);
        let said = said(&repeats, start + MINUTE);
        assert_eq!(said, ["repeated 90 times in 60 s: cannot (various)"]);
    }

    #[test]
    fn memory_is_bounded() {
        let repeats = Repeats::with(MINUTE);
        let now = Instant::now();
        for n in 0..5000 {
            assert!(log(&repeats, 1, Level::INFO, &n.to_string(), now));
        }
        assert_eq!(repeats.lock().len(), REMEMBERED);
    }
}
