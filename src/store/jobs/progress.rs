//! Stores the progress of a running job from time to time: in its row, its timeline and its
//! callbacks.

use rusqlite::params;

use super::super::Error;
use super::super::Tx;
use super::super::events::{self, Note};
use super::super::files;
use super::callback;
use crate::db;
use crate::db::outbox;
use crate::job::{EventKind, JobId, Snapshot, Stage};
use crate::shown::callbacks;
use crate::sys::units::show_bytes;
use crate::wire::status::ResultCode;

/// Shortest interval between two reports of a job's progress, by the uptime clock.
const PROGRESS_EVERY_MS: i64 = 10_000;

/// Records the attempts and bytes of a running job before its state changes: what was stored on the
/// way may be seconds old, or missing.
pub fn note_spent(tx: &Tx<'_>, id: JobId, snapshot: Option<&Snapshot>) -> Result<(), Error> {
    let Some(snapshot) = snapshot else {
        return Ok(());
    };
    tx.run(
        "record the attempts of a job",
        "UPDATE jobs SET attempts = ?2, fetched = ?3, spent_ms = ?4, received = ?5, total = ?6 WHERE id = ?1 AND state = 'running'",
        params![
            id,
            snapshot.attempt,
            snapshot.fetched,
            snapshot.spent_ms,
            snapshot.received,
            snapshot.total,
        ],
    )
    .map(drop)
}

/// Records the progress of a running job in its row and in the timeline, and at most every 10 s in
/// a callback.
pub fn progress_event(
    tx: &Tx<'_>,
    id: JobId,
    snapshot: &Snapshot,
    now_ms: i64,
) -> Result<(), Error> {
    let changed = tx.run(
        "note progress",
        "UPDATE jobs SET stage = ?2, attempts = ?3, received = ?4, total = ?5, fetched = ?6, files = ?7, written = ?8,
                         updated = ?9, spent_ms = ?10
         WHERE id = ?1 AND state = 'running'",
        params![
            id,
            snapshot.stage,
            snapshot.attempt,
            snapshot.received,
            snapshot.total,
            snapshot.fetched,
            snapshot.files,
            snapshot.written,
            now_ms,
            snapshot.spent_ms,
        ],
    )?;
    if changed == 0 {
        return Ok(());
    }
    let message = describe_progress(snapshot);
    let note = Note::new(EventKind::Progress, &message)
        .stage(snapshot.stage)
        .attempt(snapshot.attempt)
        .bytes(snapshot.received)
        .data(db::to_value("progress", snapshot)?);
    let Some(of) = files::of_job(tx, id)? else {
        return Ok(());
    };
    events::write(tx, Some((of.file, of.key)), Some(id), note)?;
    let uptime = tx.uptime_ms();
    let report_now = tx.run(
        "record a progress report",
        "UPDATE jobs SET progress_at = ?2 WHERE id = ?1 AND (progress_at IS NULL OR progress_at <= ?2 - ?3)",
        params![id, uptime, PROGRESS_EVERY_MS],
    )?;
    if report_now == 1 {
        outbox::drop_pending(tx, of.file, callbacks::PROGRESS)?;
        callback::report(tx, of.file, id, callbacks::PROGRESS, ResultCode::InProgress)?;
    }
    Ok(())
}

fn describe_progress(s: &Snapshot) -> String {
    match s.stage {
        Stage::Fetch if s.total > 0 => format!(
            "fetching: {} of {}",
            show_bytes(s.received),
            show_bytes(s.total)
        ),
        Stage::Fetch => format!("fetching: {}", show_bytes(s.received)),
        Stage::Verify => "verifying".to_owned(),
        Stage::Unpack => format!("unpacking: {} files, {}", s.files, show_bytes(s.written)),
        Stage::Publish => "publishing".to_owned(),
    }
}
