//! `edgepush ls` and `edgepush show`: the files that the node knows, and one of them in detail.

use clap::Parser;
use serde::Serialize;

use super::exit::{self, Error, Exit};
use super::out::{Out, Paint, Table, printable};
use super::show::{self, NOTHING};
use super::{Global, WhichVersion, reach};
use crate::client::FilesQuery;
use crate::datafile::{AppId, Content, DataName};
use crate::shown::model::Releases;
use crate::shown::{Event, File, Files, Release};
use crate::sys::units::show_bytes;
use crate::wire::time::stamp;

#[derive(Debug, Parser)]
pub(super) struct Ls {
    /// Only of this application
    app: Option<AppId>,
    /// Only with this name
    name: Option<DataName>,
    /// Only in this state, or several separated by commas: queued, retrying, running, succeeded,
    /// failed, canceled
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Newest first, instead of in the order of their first pushes
    #[arg(long)]
    newest: bool,
    /// List at most N files
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u64,
    /// Skip the first N files
    #[arg(long, value_name = "N", default_value_t = 0)]
    offset: u64,
    /// List the versions on the disk instead of what was pushed
    #[arg(long, conflicts_with_all = ["state", "newest", "limit", "offset"])]
    versions: bool,
}

impl Ls {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let app = self.app.map(String::from);
        let name = self.name.map(String::from);
        if self.versions {
            let found = reach::ask(global, |client| async move {
                Ok(client.releases(app.as_deref(), name.as_deref()).await?)
            })?;
            show_releases(&found, out)?;
            return Ok(exit::DONE);
        }
        let query = FilesQuery {
            app,
            name,
            version: None,
            state: self.state,
            limit: Some(self.limit),
            offset: Some(self.offset),
            newest: self.newest,
        };
        let found = reach::ask(
            global,
            |client| async move { Ok(client.files(&query).await?) },
        )?;
        show_files(&found, self.offset, out)?;
        Ok(exit::DONE)
    }
}

fn show_files(found: &Files, offset: u64, out: &mut Out) -> Result<(), Error> {
    if out.json {
        return Ok(out.json(found)?);
    }
    let heads = [
        "APP", "NAME", "VERSION", "STATE", "LIVE", ">SIZE", ">FILES", "UPDATED",
    ];
    let mut table = Table::new(&heads);
    for file in &found.files {
        table.row(file_row(file));
    }
    table.print(out)?;
    let shown = found.files.len() as u64;
    if offset + shown < found.total {
        let text = format!("{} to {} of {}", offset + 1, offset + shown, found.total);
        out.line(out.paint(Paint::Dim, &text))?;
    }
    Ok(())
}

fn file_row(file: &File) -> Vec<(String, Paint)> {
    let release = file.release.as_ref();
    let live = match release {
        Some(r) if r.damage.is_some() => ("damaged", Paint::Bad),
        Some(r) if r.live => ("live", Paint::Good),
        Some(r) if r.pinned => ("pinned", Paint::Plain),
        Some(_) => ("retained", Paint::Dim),
        None => (NOTHING, Paint::Dim),
    };
    let published = file.published.as_ref();
    let size = published.and_then(|p| p.content.size).or(file.stated.size);
    let files = published.map(|p| p.files.to_string());
    vec![
        (file.key.app.to_string(), Paint::Plain),
        (file.key.name.to_string(), Paint::Plain),
        (file.key.version.to_string(), Paint::Plain),
        show::state(file),
        (live.0.to_owned(), live.1),
        (size.map_or(NOTHING.into(), show_bytes), Paint::Plain),
        (files.unwrap_or(NOTHING.into()), Paint::Plain),
        (stamp(file.updated_ms), Paint::Dim),
    ]
}

/// Shows versions on the disk.
pub(super) fn show_releases(found: &Releases, out: &mut Out) -> Result<(), Error> {
    if out.json {
        return Ok(out.json(found)?);
    }
    let heads = [
        "APP",
        "NAME",
        "VERSION",
        "STATE",
        ">TREE",
        ">FILES",
        "PUBLISHED",
        "PATH",
    ];
    let mut table = Table::new(&heads);
    for release in &found.releases {
        table.row(release_row(release));
    }
    Ok(table.print(out)?)
}

fn release_row(release: &Release) -> Vec<(String, Paint)> {
    let mut state: Vec<&str> = Vec::new();
    state.extend(release.live.then_some("live"));
    state.extend(release.pinned.then_some("pinned"));
    state.extend(release.damage.is_some().then_some("damaged"));
    let paint = if release.damage.is_some() {
        Paint::Bad
    } else if release.live {
        Paint::Good
    } else {
        Paint::Dim
    };
    if state.is_empty() {
        state.push("retained");
    }
    let state = state.join(", ");
    vec![
        (release.key.app.to_string(), Paint::Plain),
        (release.key.name.to_string(), Paint::Plain),
        (release.key.version.to_string(), Paint::Plain),
        (state, paint),
        (show_bytes(release.bytes), Paint::Plain),
        (release.files.to_string(), Paint::Plain),
        (stamp(release.published_ms), Paint::Dim),
        (release.path.clone().unwrap_or(NOTHING.into()), Paint::Plain),
    ]
}

#[derive(Debug, Parser)]
pub(super) struct Show {
    #[command(flatten)]
    which: WhichVersion,
    /// Show the events of every push of this version, not only of the latest
    #[arg(long)]
    all: bool,
}

/// What `show --json` prints.
#[derive(Serialize)]
struct Story {
    file: File,
    events: Vec<Event>,
}

impl Show {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let (key, all) = (self.which.key(), self.all);
        let (file, events) = reach::ask(global, |client| async move {
            let file = client.latest(&key).await?;
            let events = client.events_of(file.id, all).await?;
            Ok((file, events))
        })?;
        if out.json {
            out.json(&Story { file, events })?;
        } else {
            render(&file, &events, out)?;
        }
        Ok(exit::DONE)
    }
}

fn render(file: &File, events: &[Event], out: &mut Out) -> Result<(), Error> {
    let title = file.key.to_string();
    out.line(out.paint(Paint::Head, &printable(&title)))?;
    let (state, paint) = show::state(file);
    let state = out.paint(paint, &state);
    out.line(format!("state      {state}{}", on_disk(file)))?;
    for (what, text) in facts(file) {
        out.line(format!("{what:<9}  {}", printable(&text)))?;
    }
    if let Some(failure) = &file.failure {
        let text = out.paint(Paint::Bad, &printable(&failure.to_string()));
        out.line(format!("failure    {text}"))?;
        let values = [
            ("detail", &failure.detail),
            ("expected", &failure.expected),
            ("found", &failure.found),
            ("entry", &failure.entry),
            ("limit", &failure.limit),
            (
                "cause",
                &failure.cause.as_ref().map(|cause| cause.kind.clone()),
            ),
        ];
        for (what, value) in values {
            if let Some(value) = value {
                out.line(format!("  {what:<8} {}", printable(value)))?;
            }
        }
    }
    out.line("")?;
    timeline(events).print(out)?;
    Ok(())
}

fn on_disk(file: &File) -> String {
    let Some(release) = &file.release else {
        return String::new();
    };
    let mut text = String::from(if release.live { ", live" } else { ", retained" });
    if release.pinned {
        text.push_str(", pinned");
    }
    if let Some(damage) = &release.damage {
        text.push_str(&format!(", damaged: {}", printable(damage)));
    }
    text
}

fn facts(file: &File) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("source", file.source.clone()),
        ("archive", format!("{}{}", file.archive_type, content(file))),
    ];
    if let Some(p) = &file.published {
        let tree = format!("{}, {}", show::count(p.files, "file"), show_bytes(p.bytes));
        facts.push(("tree", tree));
    }
    facts.extend(file.path.clone().map(|path| ("path", path)));
    facts.push((
        "push",
        format!("{}, via {}, job {}", file.push, file.via.as_str(), file.id),
    ));
    facts.push(("accepted", stamp(file.accepted_ms)));
    facts.push(("started", show::time(file.started_ms)));
    let took = show::between(file.started_ms, file.finished_ms);
    let took = took.map_or(String::new(), |t| format!(", after {}", show::span(t)));
    facts.push((
        "finished",
        format!("{}{took}", show::time(file.finished_ms)),
    ));
    if let Some(ms) = file.not_before_ms {
        facts.push(("retry at", stamp(ms)));
    }
    facts.extend(file.waits.clone().map(|why| ("waiting", why)));
    facts.push((
        "network",
        format!(
            "{} fetched in {}",
            show_bytes(file.fetched),
            show::count(file.attempts.into(), "attempt")
        ),
    ));
    facts
}

/// Returns what is known of the archive: what arrived, or else what was stated.
fn content(file: &File) -> String {
    let known: Content = file.published.as_ref().map_or(file.stated, |p| p.content);
    let mut text = String::new();
    if let Some(size) = known.size {
        text.push_str(&format!(", {} ({size} bytes)", show_bytes(size)));
    }
    if let Some(md5) = known.md5 {
        text.push_str(&format!(", md5 {md5}"));
    }
    if let Some(sha256) = known.sha256 {
        text.push_str(&format!(", sha256 {sha256}"));
    }
    text
}

fn timeline(events: &[Event]) -> Table {
    let mut table = Table::new(&["TIME", "EVENT", "STAGE", ">ATTEMPT", ">BYTES", "MESSAGE"]);
    for event in events {
        let or_dash = |text: Option<String>| (text.unwrap_or(NOTHING.into()), Paint::Plain);
        table.row(vec![
            (stamp(event.ts_ms), Paint::Dim),
            (event.kind.to_string(), Paint::Plain),
            or_dash(event.stage.map(|s| s.to_string())),
            or_dash(event.attempt.map(|n| n.to_string())),
            or_dash(event.bytes.map(|n| n.to_string())),
            (event.message.clone(), Paint::Plain),
        ]);
    }
    table
}
