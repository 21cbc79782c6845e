//! `edgepush status`: the state of the node.

use super::exit::{self, Error, Exit};
use super::out::{Out, Paint, Table, printable};
use super::show::{self, NOTHING};
use super::{Global, reach};
use crate::shown::File;
use crate::shown::model::{Inbox, NodeStatus};
use crate::sys::units::show_bytes;

/// Runs the command.
pub(super) fn run(global: &Global, out: &mut Out) -> Result<Exit, Error> {
    let status = reach::ask(global, |client| async move { Ok(client.status().await?) })?;
    if out.json {
        out.json(&status)?;
    } else {
        render(&status, out)?;
    }
    Ok(exit::DONE)
}

fn render(status: &NodeStatus, out: &mut Out) -> Result<(), Error> {
    let s = status;
    let state = match s.state.as_str() {
        "ready" => out.paint(Paint::Good, "ready"),
        other => out.paint(Paint::Bad, &printable(other)),
    };
    let up = show::ago(s.started_ms, s.now_ms);
    out.line(format!(
        "edgepush {}, region {}, {state}, started {up}",
        printable(&s.version),
        printable(&s.region)
    ))?;
    line(out, "files", &counts(status))?;
    line(out, "published", &versions(status))?;
    if let Some(disk) = &s.disk {
        let inodes = disk.free_inodes.map(|n| format!(", {n} inodes free"));
        let (free, total) = (show_bytes(disk.free), show_bytes(disk.total));
        let text = format!("{free} of {total} free{}", inodes.unwrap_or_default());
        line(out, "disk", &text)?;
    }
    let (pending, dead) = (s.outbox_pending, s.outbox_dead);
    line(
        out,
        "callbacks",
        &format!("{pending} pending, {dead} given up"),
    )?;
    if let Some(text) = inbox(&s.inbox) {
        line(out, "inbox", &text)?;
    }
    if !s.restart_needed.is_empty() {
        let keys = s.restart_needed.join(", ");
        line(out, "restart", &format!("needed to apply {keys}"))?;
    }
    if s.panics > 0 {
        let panics = show::count(s.panics, "panic");
        let text = format!("{panics} since the start: see the log, and please report them");
        line(out, "defects", &text)?;
    }
    if s.log_lines_lost > 0 {
        let lines = show::count(s.log_lines_lost, "line");
        line(out, "log", &format!("{lines} lost since the start"))?;
    }
    for found in &s.findings {
        line(out, "found", &format!("{}: {}", found.on, found.text))?;
    }
    if !s.running.is_empty() {
        out.line("")?;
        in_progress(&s.running).print(out)?;
    }
    if !s.failures.is_empty() {
        out.line("")?;
        failures(s).print(out)?;
    }
    Ok(())
}

fn line(out: &mut Out, what: &str, text: &str) -> Result<(), Error> {
    Ok(out.line(format!("{what:<9}  {}", printable(text)))?)
}

/// Returns what is in the inbox, if anything is.
fn inbox(inbox: &Inbox) -> Option<String> {
    let mut parts = Vec::new();
    if inbox.in_progress > 0 {
        let documents = show::count(inbox.in_progress, "document");
        parts.push(format!("{documents} in progress"));
    }
    if inbox.stuck > 0 {
        parts.push(format!("{} whose result cannot be written", inbox.stuck));
    }
    if inbox.ignored > 0 {
        let first = inbox.ignored_first.join(", ");
        parts.push(format!("{} ignored: {first}", inbox.ignored));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn counts(status: &NodeStatus) -> String {
    let counts: Vec<String> = status
        .counts
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(state, n)| format!("{n} {state}"))
        .collect();
    if counts.is_empty() {
        return "no files yet".to_owned();
    }
    counts.join(", ")
}

fn versions(status: &NodeStatus) -> String {
    format!(
        "{} of {}, {} in {}",
        show::count(status.releases, "version"),
        show::count(status.names, "name"),
        show_bytes(status.bytes),
        status.data_dir
    )
}

fn in_progress(files: &[File]) -> Table {
    let mut table = Table::new(&["IN PROGRESS", "STATE", ">RECEIVED", ">FILES", ">ATTEMPT"]);
    for file in files {
        table.row(vec![
            (file.key.to_string(), Paint::Plain),
            show::state(file),
            (show::received(file.received, file.total), Paint::Plain),
            (file.files.to_string(), Paint::Plain),
            (file.attempts.to_string(), Paint::Plain),
        ]);
    }
    table
}

fn failures(status: &NodeStatus) -> Table {
    let mut table = Table::new(&["RECENT FAILURES", "WHEN", "KIND", "REASON"]);
    for file in &status.failures {
        let when = file.finished_ms.map(|ms| show::ago(ms, status.now_ms));
        let failure = file.failure.as_ref();
        let kind = failure.map_or(NOTHING.into(), |f| f.kind.clone());
        let why = failure.map_or(NOTHING.into(), |f| f.message.clone());
        table.row(vec![
            (file.key.to_string(), Paint::Plain),
            (when.unwrap_or(NOTHING.into()), Paint::Dim),
            (kind, Paint::Bad),
            (why, Paint::Plain),
        ]);
    }
    table
}
