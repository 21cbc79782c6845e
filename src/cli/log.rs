//! The log goes to standard error, as text or JSON. The journal gets levels instead of times and
//! colors. In the agent, nothing that becomes of standard error blocks or fails anything, and
//! repeated lines are counted instead.

mod repeats;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config;
use crate::sys::{lossy, tasks};

use repeats::Repeats;

/// How long an exit waits for a slow reader of the log.
const FLUSH: Duration = Duration::from_secs(1);

/// The log of an agent.
pub(super) struct AgentLog(Repeats);

impl AgentLog {
    /// Makes standard error safe to log to.
    pub(super) fn open() -> io::Result<Self> {
        tasks::watch_panics();
        let repeats = Repeats::new();
        let told = repeats.clone();
        lossy::start(move || told.tell(false))?;
        Ok(Self(repeats))
    }

    /// Starts the log like [`start`].
    pub(super) fn start(&self, level: config::Level, format: config::Format, verbose: u8) {
        start_with(level, format, verbose, Some(self.0.clone()));
    }
}

impl Drop for AgentLog {
    fn drop(&mut self) {
        self.0.tell(true);
    }
}

/// Starts the log at `level`, or at a more verbose one if `verbose` says so. Only the first call in
/// a process has an effect.
pub(super) fn start(level: config::Level, format: config::Format, verbose: u8) {
    start_with(level, format, verbose, None);
}

fn start_with(level: config::Level, format: config::Format, verbose: u8, repeats: Option<Repeats>) {
    let level = finer(level, verbose);
    let journal = format == config::Format::Text && std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = fmt::layer()
        .log_internal_errors(false)
        .with_writer(Stderr { journal })
        .with_target(level >= Level::DEBUG);
    let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = match format {
        config::Format::Json => lines.json().boxed(),
        config::Format::Text if journal => lines
            .with_ansi(false)
            .without_time()
            .with_level(false)
            .boxed(),
        config::Format::Text => lines.with_ansi(color).boxed(),
    };
    let log = tracing_subscriber::registry()
        .with(filter(level))
        .with(lines.with_filter(repeats));
    // A second subscriber is refused, and the first stays.
    let _ = log.try_init();
}

/// Prints a line for people on standard error, as safely as the log.
pub(super) fn print(text: &str) {
    lossy::write(format!("{text}\n").into_bytes());
}

/// Writes what is still queued, unless that takes long.
pub(super) fn flush() {
    lossy::flush(FLUSH);
}

fn finer(level: config::Level, verbose: u8) -> Level {
    let configured = match level {
        config::Level::Error => Level::ERROR,
        config::Level::Warn => Level::WARN,
        config::Level::Info => Level::INFO,
        config::Level::Debug => Level::DEBUG,
        config::Level::Trace => Level::TRACE,
    };
    let asked = match verbose {
        0 => return configured,
        1 => Level::INFO,
        2 => Level::DEBUG,
        _ => Level::TRACE,
    };
    configured.max(asked)
}

/// The libraries below say a lot that is of use only to those who look for everything.
fn filter(level: Level) -> EnvFilter {
    EnvFilter::new(match level {
        Level::TRACE => "trace".to_owned(),
        Level::ERROR => "error".to_owned(),
        level => format!("warn,edgepush={level}"),
    })
}

/// Writes each event as one piece. The journal adds the time itself and reads the level from the
/// `<n>` of `sd-daemon(3)`.
struct Stderr {
    journal: bool,
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(if self.journal { "<6>" } else { "" })
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        if !self.journal {
            return Line("");
        }
        Line(match *meta.level() {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            Level::DEBUG | Level::TRACE => "<7>",
        })
    }
}

struct Line(&'static str);

impl Write for Line {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        lossy::write([self.0.as_bytes(), event].concat());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbose_never_logs_less_than_configured() {
        assert_eq!(finer(config::Level::Warn, 0), Level::WARN);
        assert_eq!(finer(config::Level::Warn, 1), Level::INFO);
        assert_eq!(finer(config::Level::Debug, 1), Level::DEBUG);
        assert_eq!(finer(config::Level::Info, 9), Level::TRACE);
    }
}
