//! The log goes to standard error, as text or JSON. The journal gets levels instead of times and
//! colors.

use std::io::{self, IsTerminal, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config;

/// Starts the log at `level`, or at a more verbose one if `verbose` says so. Only the first call in
/// a process has an effect.
pub(super) fn start(level: config::Level, format: config::Format, verbose: u8) {
    let level = finer(level, verbose);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(level))
        .with_writer(io::stderr)
        .with_target(level >= Level::DEBUG);
    // A second subscriber is refused, and the first stays.
    let _ = match format {
        config::Format::Json => builder.json().try_init(),
        config::Format::Text if std::env::var_os("JOURNAL_STREAM").is_some() => builder
            .with_ansi(false)
            .without_time()
            .with_level(false)
            .with_writer(Journal)
            .try_init(),
        config::Format::Text => builder
            .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .try_init(),
    };
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

/// Writes for the journal, which adds the time itself and reads the level from the `<n>` of
/// `sd-daemon(3)`.
struct Journal;

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line("<6>")
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
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
    /// An event comes as one piece.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&[self.0.as_bytes(), event].concat())?;
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
