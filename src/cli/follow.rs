//! `edgepush watch`, `events` and `wait`: events as they happen.

use std::time::Duration;

use clap::Parser;

use super::exit::{self, Error, Exit};
use super::out::{Out, printable};
use super::progress::Progress;
use super::push::moment;
use super::{Global, WhichVersion, reach, show};
use crate::client::{self, Client, EventsQuery};
use crate::datafile::{AppId, DataName, DataVersion};
use crate::job::{JobId, JobState};
use crate::shown::{Event, File};
use crate::sys::units::show_bytes;
use crate::wire::time::stamp;

/// Time between two updates of the bars of running files.
const REDRAW: Duration = Duration::from_millis(250);
/// How long `wait` keeps asking while the agent restarts.
const RESTART: Duration = Duration::from_secs(10);

/// Which events: all, or those of what is named.
#[derive(Debug, Clone, Parser)]
pub(super) struct Which {
    /// Only of this application
    app: Option<AppId>,
    /// Only with this name
    name: Option<DataName>,
    /// Only this version
    version: Option<DataVersion>,
}

impl Which {
    fn query(&self, after: Option<i64>) -> EventsQuery {
        EventsQuery {
            after,
            app: self.app.clone().map(String::from),
            name: self.name.clone().map(String::from),
            version: self.version.clone().map(String::from),
            job: None,
        }
    }

    fn matches(&self, file: &File) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|w| w == is);
        let wanted = self.query(None);
        same(&wanted.app, file.key.app.as_str())
            && same(&wanted.name, file.key.name.as_str())
            && same(&wanted.version, file.key.version.as_str())
    }
}

#[derive(Debug, Parser)]
pub(super) struct Watch {
    #[command(flatten)]
    which: Which,
}

impl Watch {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let bars = out.terminal && !out.json;
        reach::ask(global, |client| async move {
            let mut follow = client.follow(&self.which.query(None)).await?;
            let mut progress = Progress::start(!bars);
            let mut redraw = tokio::time::interval(REDRAW);
            loop {
                tokio::select! {
                    event = follow.next() => match event? {
                        Some(event) if bars => progress.say(&line(&event)),
                        Some(event) => print(&event, out)?,
                        None => return Ok(exit::DONE),
                    },
                    _ = redraw.tick(), if bars => {
                        let running = client.status().await?.running;
                        draw(&mut progress, running.iter().filter(|f| self.which.matches(f)));
                    }
                }
                if out.is_closed() {
                    return Ok(exit::DONE);
                }
            }
        })
    }
}

/// Draws the files in progress, and removes the bars of those that have ended.
fn draw<'a>(progress: &mut Progress<JobId>, running: impl Iterator<Item = &'a File>) {
    let mut seen = Vec::new();
    for file in running {
        progress.update(&file.id, &moment(&file.key.to_string(), file));
        seen.push(file.id);
    }
    progress.keep(&seen);
}

#[derive(Debug, Parser)]
pub(super) struct Events {
    #[command(flatten)]
    which: Which,
    /// Start after the event with this number; 0 starts with the oldest that is stored
    #[arg(long, value_name = "ID", default_value_t = 0)]
    after: i64,
    /// Continue with new events
    #[arg(long, short)]
    follow: bool,
}

/// Silence after which every stored event has been sent.
const SILENCE: Duration = Duration::from_millis(700);

impl Events {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        reach::ask(global, |client| async move {
            let mut follow = client.follow(&self.which.query(Some(self.after))).await?;
            loop {
                let next = follow.next();
                let event = if self.follow {
                    next.await?
                } else {
                    match tokio::time::timeout(SILENCE, next).await {
                        Ok(event) => event?,
                        Err(_) => None,
                    }
                };
                match event {
                    Some(event) if !out.is_closed() => print(&event, out)?,
                    _ => return Ok(exit::DONE),
                }
            }
        })
    }
}

fn print(event: &Event, out: &mut Out) -> Result<(), Error> {
    if out.json {
        out.json_line(event)?;
    } else {
        out.line(printable(&line(event)))?;
    }
    Ok(())
}

/// Returns an event as one line.
fn line(event: &Event) -> String {
    let mut text = format!("{}  ", stamp(event.ts_ms));
    if let Some(key) = &event.key {
        text.push_str(&format!("{key}  "));
    }
    // Most messages begin with the kind already.
    let kind = event.kind.to_string();
    let told = event.message.starts_with(&kind);
    if !told {
        text.push_str(&kind);
    }
    if let Some(attempt) = event.attempt.filter(|n| *n > 1 && !told) {
        text.push_str(&format!(" (attempt {attempt})"));
    }
    if let Some(bytes) = event.bytes.filter(|_| !told) {
        text.push_str(&format!(" {}", show_bytes(bytes)));
    }
    match event.message.as_str() {
        "" => {}
        message if told => text.push_str(message),
        message => text.push_str(&format!(": {message}")),
    }
    text
}

#[derive(Debug, Parser)]
pub(super) struct Wait {
    #[command(flatten)]
    which: WhichVersion,
    /// Give up after this time, such as 10m
    #[arg(long, value_name = "SPAN", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Also wait for a file that has not been pushed yet
    #[arg(long)]
    expect: bool,
}

impl Wait {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let key = self.which.key();
        let quiet = global.json;
        let limit = self.timeout.unwrap_or(Duration::MAX);
        let file = reach::ask(global, |client| async move {
            let mut progress = Progress::start(quiet);
            let end = self.end(&client, &mut progress);
            match tokio::time::timeout(limit, end).await {
                Ok(file) => file,
                Err(_) => {
                    let text = format!("{key} has not ended within {}", show::span(limit));
                    Err(Error::new(exit::FAILED, text))
                }
            }
        })?;
        let (state, paint) = show::state(&file);
        if out.json {
            out.json(&file)?;
        } else {
            let state = out.paint(paint, &state);
            let path = file.path.clone().unwrap_or_default();
            let text = format!(
                "{}  {state}  {}",
                printable(&file.key.to_string()),
                printable(&path)
            );
            out.line(text.trim_end())?;
            if let Some(failure) = &file.failure {
                out.line(printable(&failure.to_string()))?;
            }
        }
        Ok(match file.state {
            JobState::Succeeded => exit::DONE,
            _ => exit::FAILED,
        })
    }

    /// Asks until the file has ended, through a restart of the agent.
    async fn end(&self, client: &Client, progress: &mut Progress<()>) -> Result<File, Error> {
        let key = self.which.key();
        let label = key.to_string();
        let mut away = Duration::ZERO;
        let mut seen = false;
        loop {
            match client.latest(&key).await {
                Ok(file) => {
                    (away, seen) = (Duration::ZERO, true);
                    progress.update(&(), &moment(&label, &file));
                    if file.state.is_final() {
                        return Ok(file);
                    }
                }
                Err(client::Error::NotFound(_)) if self.expect => {}
                Err(client::Error::Unreachable { .. }) if seen && away < RESTART => away += REDRAW,
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(REDRAW).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::EventKind;

    #[test]
    fn an_event_is_one_line() {
        let mut event: Event = serde_json::from_value(serde_json::json!({
            "id": 7, "ts_ms": 1_767_323_045_000_i64, "job": 3, "app": "a", "name": "n", "version": "1",
            "type": EventKind::Retrying, "stage": "fetch", "attempt": 2, "bytes": 2048, "message": "connection reset"
        }))
        .unwrap();
        assert_eq!(
            line(&event),
            "2026-01-02T03:04:05Z  a/n@1  retrying (attempt 2) 2.0 KiB: connection reset"
        );
        event.message = "retrying: reset by peer".into();
        assert_eq!(
            line(&event),
            "2026-01-02T03:04:05Z  a/n@1  retrying: reset by peer"
        );
        (event.key, event.bytes, event.attempt) = (None, None, None);
        event.message.clear();
        assert_eq!(line(&event), "2026-01-02T03:04:05Z  retrying");
    }
}
