//! Progress of the files that a command waits for: bars on a terminal, a line per step elsewhere.
//! It goes to standard error, so that standard output has only the result.

use std::collections::HashMap;
use std::hash::Hash;
use std::io::{IsTerminal, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::out::printable;
use super::show::{percent, received};
use crate::job::{JobState, Snapshot, Stage};

/// Most bars at a time: no more than a screen shows.
const MAX_BARS: usize = 24;

/// The progress of one file at one moment.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    pub(super) label: String,
    pub(super) state: JobState,
    /// None before it has started.
    pub(super) snapshot: Option<Snapshot>,
    pub(super) failure: Option<String>,
}

/// The files that are shown.
pub(super) struct Progress<Id> {
    style: Style,
    seen: HashMap<Id, Seen>,
}

enum Style {
    Bars(MultiProgress),
    Lines(Box<dyn Write>),
    Silent,
}

/// What was last shown of a file.
struct Seen {
    step: String,
    bar: Option<ProgressBar>,
}

impl<Id: Eq + Hash + Clone> Progress<Id> {
    /// Shows progress from now on: as bars if standard error is a terminal.
    pub(super) fn start(quiet: bool) -> Self {
        let style = if quiet {
            Style::Silent
        } else if std::io::stderr().is_terminal() {
            Style::Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
        } else {
            Style::Lines(Box::new(std::io::stderr()))
        };
        Self {
            style,
            seen: HashMap::new(),
        }
    }

    /// Shows the progress of a file, if it has changed.
    pub(super) fn update(&mut self, id: &Id, now: &Moment) {
        let step = step(now);
        if let Style::Bars(_) = self.style {
            self.draw(id, now, &step);
        }
        let seen = self.seen.entry(id.clone()).or_insert(Seen {
            step: String::new(),
            bar: None,
        });
        if seen.step == step {
            return;
        }
        if let Style::Lines(sink) = &mut self.style {
            // The reader may be gone; the result is what counts.
            let _ = writeln!(sink, "{}: {step}", printable(&now.label));
        }
        seen.step = step;
    }

    /// Writes a line above the bars, or as the next line.
    pub(super) fn say(&mut self, line: &str) {
        let line = printable(line);
        match &mut self.style {
            Style::Bars(bars) => above(bars, &line),
            Style::Lines(sink) => drop(writeln!(sink, "{line}")),
            Style::Silent => {}
        }
    }

    /// Removes the bars of files that are not among `ids`.
    pub(super) fn keep(&mut self, ids: &[Id]) {
        let Style::Bars(bars) = &self.style else {
            return;
        };
        self.seen.retain(|id, seen| {
            let keep = ids.contains(id);
            if let (false, Some(bar)) = (keep, seen.bar.take_if(|_| !keep)) {
                bar.finish_and_clear();
                bars.remove(&bar);
            }
            keep
        });
    }

    fn draw(&mut self, id: &Id, now: &Moment, step: &str) {
        let Style::Bars(bars) = &self.style else {
            return;
        };
        let ended = now.state.is_final();
        let drawn = self.seen.values().filter(|seen| seen.bar.is_some()).count();
        let seen = self.seen.entry(id.clone()).or_insert(Seen {
            step: String::new(),
            bar: None,
        });
        if ended {
            if let Some(bar) = seen.bar.take() {
                bar.finish_and_clear();
                bars.remove(&bar);
            }
            if seen.step != step {
                above(bars, &format!("{}: {step}", printable(&now.label)));
            }
            return;
        }
        if seen.bar.is_none() && now.state == JobState::Running && drawn < MAX_BARS {
            let bar = bars.add(ProgressBar::new(0).with_style(style()));
            bar.set_prefix(printable(&now.label).into_owned());
            seen.bar = Some(bar);
        }
        if let (Some(bar), Some(snapshot)) = (&seen.bar, now.snapshot) {
            bar.set_length(snapshot.total);
            bar.set_position(snapshot.received);
            bar.set_message(step.to_owned());
        }
    }
}

impl<Id> Drop for Progress<Id> {
    fn drop(&mut self) {
        if let Style::Bars(bars) = &self.style {
            let _ = bars.clear();
        }
    }
}

/// Writes a line above the bars. `MultiProgress::println` would leave the cursor behind the text
/// when no bar is drawn.
fn above(bars: &MultiProgress, line: &str) {
    bars.suspend(|| {
        let _ = writeln!(std::io::stderr(), "{line}");
    });
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{prefix:20!} {wide_bar} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} {msg:14!}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Returns what a file is doing, in words that change with each step and not with each byte.
fn step(now: &Moment) -> String {
    match (now.state, now.snapshot) {
        (JobState::Retrying, snapshot) => {
            let attempt = snapshot.map_or(0, |s| s.attempt);
            let why = now
                .failure
                .as_deref()
                .map_or_else(String::new, |why| printable(why).into_owned());
            format!("retrying after attempt {attempt}: {why}")
        }
        (JobState::Queued, _) => "queued".to_owned(),
        (JobState::Running, None) => "starting".to_owned(),
        (JobState::Running, Some(s)) => running(&s),
        (JobState::Succeeded, _) => "published".to_owned(),
        (JobState::Canceled, _) => "canceled".to_owned(),
        (JobState::Failed, _) => match &now.failure {
            Some(why) => format!("failed: {}", printable(why)),
            None => "failed".to_owned(),
        },
    }
}

fn running(s: &Snapshot) -> String {
    let again = match s.attempt {
        0 | 1 => String::new(),
        n => format!(", attempt {n}"),
    };
    match s.stage {
        // A tenth at a time: often enough to see that it moves.
        Stage::Fetch => match percent(s.received, s.total) {
            Some(percent) => format!("fetch {} %{again}", percent / 10 * 10),
            None => format!("fetch{again}"),
        },
        Stage::Verify => format!("verify {}{again}", received(s.received, s.total)),
        Stage::Unpack => format!("unpack{again}"),
        Stage::Publish => format!("publish{again}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::out::testing::Written;
    use super::*;

    fn moment(state: JobState, received: u64, stage: Stage) -> Moment {
        Moment {
            label: "a@1".into(),
            state,
            snapshot: Some(Snapshot {
                stage,
                attempt: 1,
                received,
                total: 100,
                fetched: received,
                files: 0,
                written: 0,
                spent_ms: 0,
            }),
            failure: Some("why".into()),
        }
    }

    #[test]
    fn says_one_line_per_step() {
        let written = Written::default();
        let mut progress = Progress {
            style: Style::Lines(Box::new(written.clone())),
            seen: HashMap::new(),
        };
        for (state, received, stage) in [
            (JobState::Running, 1, Stage::Fetch),
            (JobState::Running, 2, Stage::Fetch),
            (JobState::Running, 55, Stage::Fetch),
            (JobState::Running, 100, Stage::Publish),
            (JobState::Failed, 100, Stage::Publish),
            (JobState::Failed, 100, Stage::Publish),
        ] {
            progress.update(&1, &moment(state, received, stage));
        }
        let want = "a@1: fetch 0 %\na@1: fetch 50 %\na@1: publish\na@1: failed: why\n";
        assert_eq!(written.text(), want);
    }
}
