//! The life of a job: accepted, started, requeued, ended. A job is one accepted push of a file, and
//! the state of a file's latest job is what the contract calls the file's status. A file has at
//! most one open job, and an ended job never changes; the database enforces both.

use rusqlite::params;
use serde::Serialize;

use super::Error;
use super::Tx;
use super::activations::{self, Flip};
use super::events::{self, Note};
use super::files::{self, Subject};
use super::{JOBS, forget, releases};
use crate::datafile::DataFile;
use crate::db;
use crate::db::outbox;
use crate::job::{EventKind, Failure, Job, JobId, JobState, Outcome, Published, Reason, Stage};
use crate::shown::callbacks;
use crate::sys::units::show_bytes;
use crate::wire::push::Via;
use crate::wire::status::ResultCode;

mod callback;
mod due;
mod progress;
mod rows;

pub use due::{
    Turn, any_waiting, due, due_small, forget_clock_jump, is_lost, next_delayed_ms, open_content,
    open_keys, to_cancel, turns,
};
pub use progress::{note_spent, progress_event};
pub use rows::{Filter, Page, counts, get, history, known, latest, list, of_push, open_counts};

/// An accepted file, to be inserted.
#[derive(Debug, Clone, Copy)]
pub struct NewJob<'a> {
    pub file: &'a DataFile,
    /// The id of the push that contained it.
    pub push: &'a str,
    /// The interface it came in through.
    pub via: Via,
    /// Whether the version becomes `current` when published.
    pub activate: bool,
}

/// Accepts a file: writes its job, the timeline's `accepted` and the callback. The caller has
/// checked that no job of this key is open.
pub fn insert(tx: &Tx<'_>, new: &NewJob<'_>) -> Result<JobId, Error> {
    let (file, key, now) = (new.file, &new.file.key, tx.now_ms());
    let file_id = files::enter(tx, key, JobState::Queued)?;
    let id = tx.insert(
        "enter a job",
        "INSERT INTO jobs (id, seq, file, app, origin, push, via, archive_type, size, md5, sha256, url, source, timeout_ms, activate,
                           state, accepted, updated)
         SELECT n, n, ?1, ?13, ?14, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 'queued', ?12, ?12
         FROM (SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'jobs'), 0) + 1 AS n)",
        params![
            file_id,
            new.push,
            new.via,
            file.archive_type,
            file.size,
            file.md5,
            file.sha256,
            file.url.expose(),
            file.url.to_string(),
            file.timeout.as_millis().try_into().unwrap_or(i64::MAX),
            new.activate,
            now,
            key.app,
            file.url.origin(),
        ],
    )?;
    let id = JobId(id);
    files::link(tx, file_id, id)?;
    let message = format!("accepted, to be fetched from {}", file.url);
    let note = Note::new(EventKind::Accepted, &message);
    events::write(tx, Some((file_id, key.clone())), Some(id), note)?;
    callback::report(tx, file_id, id, callbacks::ACCEPTED, ResultCode::Accepted)?;
    forget::trim(tx, file_id)?;
    tx.touch(JOBS);
    Ok(id)
}

/// Starts a job and returns its number of starts, including this one; `None` if it has ended in the
/// meantime.
pub fn start(tx: &Tx<'_>, id: JobId, now_ms: i64) -> Result<Option<u32>, Error> {
    let changed = tx.run(
        "start a job",
        "UPDATE jobs SET state = 'running', stage = 'fetch', starts = starts + 1, started = coalesce(started, ?2),
                         updated = ?2, not_before = 0
         WHERE id = ?1 AND state IN ('queued', 'retrying')",
        params![id, now_ms],
    )?;
    if changed == 0 {
        return Ok(None);
    }
    files::mirror_state(tx, id, JobState::Running)?;
    let starts = tx.number(
        "count starts",
        "SELECT starts FROM jobs WHERE id = ?1",
        [id],
    )?;
    let starts = u32::try_from(starts).unwrap_or(u32::MAX);
    let again: bool = tx.number(
        "find earlier attempts",
        "SELECT failure IS NOT NULL FROM jobs WHERE id = ?1",
        [id],
    )? == 1;
    // The timeline has each failed attempt already.
    if !again {
        let message = match starts {
            1 => "started".to_owned(),
            n => format!("started (attempt {n})"),
        };
        events::add(tx, id, Note::new(EventKind::Started, &message))?;
    }
    Ok(Some(starts))
}

/// Requeues a running job until `not_before_ms`, at most an hour from now; `why` is a sentence for
/// the timeline.
pub fn requeue(tx: &Tx<'_>, id: JobId, not_before_ms: i64, why: &str) -> Result<bool, Error> {
    let changed = tx.run(
        "requeue a job",
        "UPDATE jobs SET state = 'queued', not_before = min(?2, ?3 + ?4), updated = ?3 WHERE id = ?1 AND state = 'running'",
        params![id, not_before_ms, tx.now_ms(), due::LONGEST_WAIT_MS],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    files::mirror_state(tx, id, JobState::Queued)?;
    events::add(tx, id, Note::new(EventKind::Requeued, why))?;
    tx.touch(JOBS);
    Ok(true)
}

/// Requeues a job that was stopped for a reason of this node's, at the end of its turn; `why` is a
/// sentence. This start is not counted: only starts during which the agent died are.
pub fn put_back(tx: &Tx<'_>, id: JobId, why: &str) -> Result<bool, Error> {
    Ok(requeue(tx, id, tx.now_ms(), why)? && take_back_start(tx, id)?)
}

/// Puts a running job off until `not_before_ms`, after an attempt that failed. The pause counts
/// towards the file's time limit. This start is not counted.
pub fn retry_later(
    tx: &Tx<'_>,
    id: JobId,
    not_before_ms: i64,
    failure: &Failure,
) -> Result<bool, Error> {
    let pause = (not_before_ms - tx.now_ms()).clamp(0, due::LONGEST_WAIT_MS);
    let changed = tx.run(
        "put a job off",
        "UPDATE jobs SET state = 'retrying', not_before = iif(cancel_requested, 0, ?2 + ?3), spent_ms = spent_ms + ?3, updated = ?2, failure = ?4
         WHERE id = ?1 AND state = 'running'",
        params![id, tx.now_ms(), pause, failure],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    files::mirror_state(tx, id, JobState::Retrying)?;
    tx.touch(JOBS);
    take_back_start(tx, id)
}

fn take_back_start(tx: &Tx<'_>, id: JobId) -> Result<bool, Error> {
    let sql = "UPDATE jobs SET starts = max(starts - 1, 0) WHERE id = ?1";
    tx.run("subtract a start", sql, [id]).map(|n| n == 1)
}

/// Makes a queued job due immediately, at an operator's request. False if it is not queued.
pub fn hurry(tx: &Tx<'_>, id: JobId, actor: &str) -> Result<bool, Error> {
    let changed = tx.run(
        "make a job due",
        "UPDATE jobs SET not_before = 0, updated = ?2 WHERE id = ?1 AND state IN ('queued', 'retrying')",
        params![id, tx.now_ms()],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    let message = format!("{actor} asked for an immediate retry");
    events::add(tx, id, Note::new(EventKind::Hurried, &message))?;
    tx.touch(JOBS);
    Ok(true)
}

/// Requeues every job recorded as running, when the agent starts, and returns them.
pub fn interrupted(tx: &Tx<'_>) -> Result<Vec<Job>, Error> {
    let rows = tx.many(
        "find interrupted jobs",
        "SELECT j.*, f.app, f.name, f.version FROM jobs j JOIN files f ON f.id = j.file
         WHERE j.state = 'running' ORDER BY j.id",
        [],
        |r| Ok(due::readable(r)),
    )?;
    let jobs: Vec<Job> = rows.into_iter().flatten().collect();
    for job in &jobs {
        requeue(
            tx,
            job.id,
            0,
            "the agent ended unexpectedly; the job is due again",
        )?;
    }
    Ok(jobs)
}

/// Ends a job: in one transaction, writes its final state, the timeline, the callback and, on
/// success, the release. Returns false and changes nothing if it has already ended.
pub fn finish(tx: &Tx<'_>, id: JobId, outcome: &Outcome, now_ms: i64) -> Result<bool, Error> {
    let (failure, published) = match outcome {
        Outcome::Published(p) => (None, Some(p)),
        Outcome::Failed(f) => (Some(f), None),
        Outcome::Canceled => (None, None),
    };
    let changed = tx.run(
        "end a job",
        "UPDATE jobs SET state = ?2, stage = coalesce(?3, stage), finished = ?4, updated = ?4, url = NULL, not_before = 0,
                         failure = ?5, published = ?6,
                         received = coalesce(?7, received), total = coalesce(?7, total),
                         fetched = max(fetched, coalesce(?8, 0)), files = coalesce(?9, files), written = coalesce(?10, written)
         WHERE id = ?1 AND state IN ('queued', 'retrying', 'running')",
        params![
            id,
            outcome.state(),
            failure.map(|f| f.stage),
            now_ms,
            failure,
            published,
            published.and_then(|p| p.content.size),
            published.map(|p| p.fetched),
            published.map(|p| p.files),
            published.map(|p| p.bytes),
        ],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    files::mirror_state(tx, id, outcome.state())?;
    if let Some(of) = files::of_job(tx, id)? {
        outbox::drop_pending(tx, of.file, callbacks::PROGRESS)?;
        tell_end(tx, id, &of, outcome)?;
    }
    tx.touch(JOBS);
    Ok(true)
}

fn tell_end(tx: &Tx<'_>, id: JobId, of: &Subject, outcome: &Outcome) -> Result<(), Error> {
    let write = |note| events::write(tx, Some((of.file, of.key.clone())), Some(id), note);
    let report = |kind, code| callback::report(tx, of.file, id, kind, code);
    match outcome {
        Outcome::Published(published) => {
            releases::publish(tx, of.file, &of.key, id, published, tx.now_ms())?;
            let message = describe_published(published);
            let note = Note::new(EventKind::Published, &message).stage(Stage::Publish);
            write(note.bytes(published.bytes))?;
            report(callbacks::PUBLISHED, ResultCode::Accepted)?;
            if published.activated {
                let flip = Flip {
                    key: &of.key,
                    reason: Reason::Push,
                    actor: of.via.as_str(),
                    job: Some(id),
                    seq: of.seq,
                };
                activations::record(tx, &flip)?;
            }
            Ok(())
        }
        Outcome::Failed(failure) => {
            let note = Note::new(EventKind::Failed, &failure.message).stage(failure.stage);
            write(note.data(db::to_value("failure", &failure.for_others())?))?;
            report(callbacks::FAILED, ResultCode::Refused)
        }
        Outcome::Canceled => {
            write(Note::new(EventKind::Canceled, "canceled by an operator"))?;
            report(callbacks::FAILED, ResultCode::Refused)
        }
    }
}

fn describe_published(published: &Published) -> String {
    let live = match published.activated {
        true => "and live",
        false => "but not live",
    };
    let (files, size) = (published.files, show_bytes(published.bytes));
    format!("published {live}: {files} files, {size}")
}

/// Result of a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cancel {
    Unknown,
    /// It has already ended.
    Ended,
    /// It had not started, and has now ended.
    Done,
    /// It is running and will be stopped.
    Requested,
}

/// Cancels a queued job, or asks the runner to stop a running one.
pub fn cancel_request(tx: &Tx<'_>, id: JobId, actor: &str) -> Result<Cancel, Error> {
    let state = tx.one(
        "find a job",
        "SELECT state FROM jobs WHERE id = ?1",
        [id],
        |r| r.get::<_, JobState>("state"),
    )?;
    match state {
        None => Ok(Cancel::Unknown),
        Some(JobState::Succeeded | JobState::Failed | JobState::Canceled) => Ok(Cancel::Ended),
        Some(JobState::Queued | JobState::Retrying) => {
            note_cancel(tx, id, actor)?;
            finish(tx, id, &Outcome::Canceled, tx.now_ms())?;
            Ok(Cancel::Done)
        }
        Some(JobState::Running) => {
            note_cancel(tx, id, actor)?;
            tx.touch(JOBS);
            Ok(Cancel::Requested)
        }
    }
}

fn note_cancel(tx: &Tx<'_>, id: JobId, actor: &str) -> Result<(), Error> {
    let changed = tx.run(
        "record a request to cancel",
        "UPDATE jobs SET cancel_requested = 1, updated = ?2 WHERE id = ?1 AND cancel_requested = 0",
        params![id, tx.now_ms()],
    )?;
    if changed == 1 {
        let message = format!("{actor} asked to cancel");
        events::add(tx, id, Note::new(EventKind::CancelRequested, &message))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
