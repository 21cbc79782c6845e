//! Files and their jobs. A file is a key that was ever pushed; a job is one accepted push of it, and its latest job is
//! what the contract calls its status. At most one job of a file is open, and a job that has ended never changes again:
//! the database itself refuses both otherwise.

use std::collections::HashSet;
use std::time::Duration;

use rusqlite::{Row, params};
use serde::Serialize;
use serde_json::json;
use url::Url;

use super::activations::{self, Flip, Reason};
use super::error::Error;
use super::events::{self, Note};
use super::outbox;
use super::releases;
use super::sql::{self, Reader, Tx, read_content, read_key};
use super::{Config, Topic};
use crate::datafile::{ArchiveType, Content, DataFile, Key, SourceUrl};
use crate::job::{EventKind, Job, JobId, JobState, Outcome, Published, Snapshot, Stage};
use crate::sys::units::show_bytes;
use crate::wire::push::Via;
use crate::wire::status::ResultCode;

mod rows;

pub use rows::{
    Filter, JobRow, Listed, OnDisk, Page, counts, get, history, known, latest, list, of_push,
};

/// No retry is put off longer than this; what claims to be is from before a jump of the clock, and is due.
const LONGEST_WAIT_MS: i64 = 3_600_000;
/// Above this a number in a manifest is not one of ours: the sequence would be used up.
const LARGEST_NUMBER: i64 = 1 << 52;
/// Progress of a job is reported at most this often, by the uptime clock.
const PROGRESS_EVERY_MS: i64 = 10_000;
/// Files forgotten by one call of housekeeping at most.
const FORGET_AT_ONCE: u32 = 500;

/// A file that is accepted.
#[derive(Debug, Clone, Copy)]
pub struct NewJob<'a> {
    /// What to publish, and from where.
    pub file: &'a DataFile,
    /// The id of the push it came with.
    pub push: &'a str,
    /// By which way it came in.
    pub via: Via,
    /// Whether its version becomes `current` when it is published.
    pub activate: bool,
}

/// Accepts a file: writes its job, the timeline's `accepted` and the callback. The caller has made sure that no job of
/// this key is open.
pub fn insert(tx: &Tx<'_>, new: &NewJob<'_>) -> Result<JobId, Error> {
    let (file, key, now) = (new.file, &new.file.key, tx.now_ms());
    let file_id = tx.number(
        "enter a file",
        "INSERT INTO files (app, name, version, state) VALUES (?1, ?2, ?3, 'queued')
         ON CONFLICT (app, name, version) DO UPDATE SET state = 'queued' RETURNING id",
        params![key.app.as_str(), key.name.as_str(), key.version.as_str()],
    )?;
    let id = tx.insert(
        "enter a job",
        "INSERT INTO jobs (id, seq, file, push, via, archive_type, size, md5, sha256, url, source, timeout_ms, activate,
                           state, accepted, updated)
         SELECT n, n, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 'queued', ?12, ?12
         FROM (SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'jobs'), 0) + 1 AS n)",
        params![
            file_id,
            new.push,
            new.via.as_str(),
            file.archive_type.as_str(),
            file.size,
            file.md5.map(|d| d.to_string()),
            file.sha256.map(|d| d.to_string()),
            file.url.expose(),
            file.url.to_string(),
            millis(file.timeout),
            new.activate,
            now,
        ],
    )?;
    tx.run(
        "link a file to its job",
        "UPDATE files SET job = ?2 WHERE id = ?1",
        params![file_id, id],
    )?;
    let message = format!("accepted, to be fetched from {}", file.url);
    let id = JobId(id);
    let note = Note::new(EventKind::Accepted, &message);
    events::write(tx, Some((file_id, key.clone())), Some(id), note)?;
    report(tx, id, outbox::ACCEPTED, ResultCode::Accepted)?;
    trim(tx, file_id)?;
    tx.touch(Topic::Jobs);
    Ok(id)
}

/// Returns up to `limit` jobs that may be started now, in the order of acceptance, without those of `running`.
pub fn due(
    reader: &Reader<'_>,
    now_ms: i64,
    limit: usize,
    running: &HashSet<JobId>,
) -> Result<Vec<Job>, Error> {
    waiting(reader, OLDEST_FIRST, 0, now_ms, limit, running)
}

/// As [`due`], those of at most `most` bytes by what their push states, the smallest first.
pub fn due_small(
    reader: &Reader<'_>,
    most: u64,
    now_ms: i64,
    limit: usize,
    running: &HashSet<JobId>,
) -> Result<Vec<Job>, Error> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    waiting(reader, SMALL_FIRST, most, now_ms, limit, running)
}

/// Which jobs, by a bound, and their order: words that lead to an index.
type Which = [&'static str; 2];
const OLDEST_FIRST: Which = ["j.id > ?4", "j.id"];
const SMALL_FIRST: Which = ["j.size <= ?4", "j.size, j.id"];

fn waiting(
    reader: &Reader<'_>,
    which: Which,
    bound: i64,
    now_ms: i64,
    limit: usize,
    running: &HashSet<JobId>,
) -> Result<Vec<Job>, Error> {
    let most = i64::try_from(limit.saturating_add(running.len())).unwrap_or(i64::MAX);
    let params = params![now_ms, LONGEST_WAIT_MS, most, bound];
    let rows = reader.many("find due jobs", &waiting_sql(which), params, |r| {
        Ok(readable(r))
    })?;
    let due = rows
        .into_iter()
        .flatten()
        .filter(|j| !running.contains(&j.id));
    Ok(due.take(limit).collect())
}

fn waiting_sql([condition, order]: Which) -> String {
    format!(
        "SELECT j.*, f.app, f.name, f.version FROM jobs j JOIN files f ON f.id = j.file
         WHERE j.state = 'queued' AND {condition} AND (j.not_before <= ?1 OR j.not_before > ?1 + ?2)
         ORDER BY {order} LIMIT ?3"
    )
}

/// Returns the keys of the files that are waiting or at work.
pub fn open_keys(reader: &Reader<'_>) -> Result<Vec<Key>, Error> {
    reader.many(
        "find open files",
        "SELECT f.app, f.name, f.version FROM jobs j JOIN files f ON f.id = j.file WHERE j.state IN ('queued', 'running')",
        [],
        read_key,
    )
}

/// Returns when the next waiting job is due, in milliseconds since the epoch.
pub fn next_due_ms(reader: &Reader<'_>) -> Result<Option<i64>, Error> {
    let read = |r: &Row<'_>| r.get::<_, i64>(0);
    // Most are due at once, and the first of them says so; only few are ever put off.
    let at_once = "SELECT not_before FROM jobs WHERE state = 'queued' AND not_before <= 0 ORDER BY id LIMIT 1";
    if let Some(due) = reader.one("find a due job", at_once, [], read)? {
        return Ok(Some(due));
    }
    reader.one(
        "find the next due job",
        "SELECT not_before FROM jobs WHERE state = 'queued' AND not_before > 0 ORDER BY not_before LIMIT 1",
        [],
        read,
    )
}

/// As [`next_due_ms`], the next of those that were put off and have at most `most` bytes.
pub fn next_small_ms(reader: &Reader<'_>, most: u64) -> Result<Option<i64>, Error> {
    reader.one(
        "find the next small job that is due",
        "SELECT not_before FROM jobs WHERE state = 'queued' AND not_before > 0 AND size <= ?1 ORDER BY not_before LIMIT 1",
        [i64::try_from(most).unwrap_or(i64::MAX)],
        |r| r.get(0),
    )
}

/// Starts a job and returns how often it was started, this time included; none if it has ended meanwhile.
pub fn start(tx: &Tx<'_>, id: JobId, now_ms: i64) -> Result<Option<u32>, Error> {
    let changed = tx.run(
        "start a job",
        "UPDATE jobs SET state = 'running', stage = 'fetch', starts = starts + 1, started = coalesce(started, ?2),
                         updated = ?2, not_before = 0
         WHERE id = ?1 AND state = 'queued'",
        params![id.0, now_ms],
    )?;
    if changed == 0 {
        return Ok(None);
    }
    mirror_state(tx, id, JobState::Running)?;
    let starts = tx.number(
        "count starts",
        "SELECT starts FROM jobs WHERE id = ?1",
        [id.0],
    )?;
    let starts = u32::try_from(starts).unwrap_or(u32::MAX);
    let message = match starts {
        1 => "started".to_owned(),
        n => format!("started, for the {n}th time"),
    };
    events::add(tx, id, Note::new(EventKind::Started, &message))?;
    Ok(Some(starts))
}

/// Puts a running job back until `not_before_ms`, at most an hour from now; `why` is a sentence for the timeline.
pub fn requeue(tx: &Tx<'_>, id: JobId, not_before_ms: i64, why: &str) -> Result<bool, Error> {
    let changed = tx.run(
        "put a job back",
        "UPDATE jobs SET state = 'queued', not_before = min(?2, ?3 + ?4), updated = ?3 WHERE id = ?1 AND state = 'running'",
        params![id.0, not_before_ms, tx.now_ms(), LONGEST_WAIT_MS],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    mirror_state(tx, id, JobState::Queued)?;
    events::add(tx, id, Note::new(EventKind::Requeued, why))?;
    tx.touch(Topic::Jobs);
    Ok(true)
}

/// Puts a running job back that the agent's orderly end has stopped. Its start counts for nothing: only those that end
/// with the agent itself speak against the file.
pub fn put_back(tx: &Tx<'_>, id: JobId) -> Result<bool, Error> {
    if !requeue(tx, id, tx.now_ms(), "the agent was ended")? {
        return Ok(false);
    }
    tx.run(
        "take back a start",
        "UPDATE jobs SET starts = max(starts - 1, 0) WHERE id = ?1",
        [id.0],
    )?;
    Ok(true)
}

/// Makes a waiting job due at once, at an operator's wish. False if it does not wait.
pub fn hurry(tx: &Tx<'_>, id: JobId, actor: &str) -> Result<bool, Error> {
    let changed = tx.run(
        "make a job due",
        "UPDATE jobs SET not_before = 0, updated = ?2 WHERE id = ?1 AND state = 'queued'",
        params![id.0, tx.now_ms()],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    let message = format!("{actor} asked to try again at once");
    events::add(tx, id, Note::new(EventKind::Hurried, &message))?;
    tx.touch(Topic::Jobs);
    Ok(true)
}

/// Puts every running job back, at the start of the agent: nobody works at them. Returns them.
pub fn interrupted(tx: &Tx<'_>) -> Result<Vec<Job>, Error> {
    let rows = tx.many(
        "find interrupted jobs",
        "SELECT j.*, f.app, f.name, f.version FROM jobs j JOIN files f ON f.id = j.file
         WHERE j.state = 'running' ORDER BY j.id",
        [],
        |r| Ok(readable(r)),
    )?;
    let jobs: Vec<Job> = rows.into_iter().flatten().collect();
    for job in &jobs {
        requeue(
            tx,
            job.id,
            0,
            "interrupted by the end of the agent; it goes on from what is on the disk",
        )?;
    }
    Ok(jobs)
}

/// Ends a job: in one transaction its final state, the timeline, the callback, and on success the release. Returns false,
/// and changes nothing, if it has ended before: a job has exactly one end.
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
         WHERE id = ?1 AND state IN ('queued', 'running')",
        params![
            id.0,
            outcome.state().as_str(),
            failure.map(|f| f.stage.as_str()),
            now_ms,
            failure.map(|f| sql::to_json("failure", f)).transpose()?,
            published.map(|p| sql::to_json("published", p)).transpose()?,
            published.and_then(|p| p.content.size),
            published.map(|p| p.fetched),
            published.map(|p| p.files),
            published.map(|p| p.bytes),
        ],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    mirror_state(tx, id, outcome.state())?;
    outbox::drop_progress(tx, id)?;
    tell_end(tx, id, outcome)?;
    tx.touch(Topic::Jobs);
    Ok(true)
}

fn tell_end(tx: &Tx<'_>, id: JobId, outcome: &Outcome) -> Result<(), Error> {
    match outcome {
        Outcome::Published(published) => tell_published(tx, id, published),
        Outcome::Failed(failure) => {
            let note = Note::new(EventKind::Failed, &failure.message).stage(failure.stage);
            let data = sql::to_value("failure", failure)?;
            events::add(tx, id, note.data(data))?;
            report(tx, id, outbox::FAILED, ResultCode::Refused)
        }
        Outcome::Canceled => {
            events::add(
                tx,
                id,
                Note::new(EventKind::Canceled, "ended by an operator"),
            )?;
            report(tx, id, outbox::FAILED, ResultCode::Refused)
        }
    }
}

fn tell_published(tx: &Tx<'_>, id: JobId, published: &Published) -> Result<(), Error> {
    let Some((row, seq)) = with_seq(tx, id)? else {
        return Ok(());
    };
    releases::publish(tx, &row.key, id, published)?;
    let live = if published.activated {
        "and live"
    } else {
        "but not live"
    };
    let message = format!(
        "published {live}: {} files, {}",
        published.files,
        show_bytes(published.bytes)
    );
    let note = Note::new(EventKind::Published, &message).stage(Stage::Publish);
    events::add(tx, id, note.bytes(published.bytes))?;
    report(tx, id, outbox::PUBLISHED, ResultCode::Accepted)?;
    if published.activated {
        let actor = row.via.as_str();
        activations::record(
            tx,
            &Flip {
                key: &row.key,
                reason: Reason::Push,
                actor,
                job: Some(id),
                seq,
            },
        )?;
    }
    Ok(())
}

/// Notes what a running job has taken of the network, before its state changes: what was noted on the way may be seconds
/// old, or nothing.
pub fn note_spent(tx: &Tx<'_>, id: JobId, snapshot: Option<&Snapshot>) -> Result<(), Error> {
    let Some(snapshot) = snapshot else {
        return Ok(());
    };
    tx.run(
        "note what a job has taken",
        "UPDATE jobs SET attempts = ?2, fetched = ?3 WHERE id = ?1 AND state = 'running'",
        params![id.0, snapshot.attempt, snapshot.fetched],
    )
    .map(drop)
}

/// Notes how far a running job is, in its row, in the timeline, and at most every 10 s in a callback.
pub fn progress_event(
    tx: &Tx<'_>,
    id: JobId,
    snapshot: &Snapshot,
    now_ms: i64,
) -> Result<(), Error> {
    let changed = tx.run(
        "note progress",
        "UPDATE jobs SET stage = ?2, attempts = ?3, received = ?4, total = ?5, fetched = ?6, files = ?7, written = ?8,
                         updated = ?9
         WHERE id = ?1 AND state = 'running'",
        params![
            id.0,
            snapshot.stage.as_str(),
            snapshot.attempt,
            snapshot.received,
            snapshot.total,
            snapshot.fetched,
            snapshot.files,
            snapshot.written,
            now_ms,
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
        .data(sql::to_value("progress", snapshot)?);
    events::add(tx, id, note)?;
    let uptime = tx.uptime_ms();
    let report_now = tx.run(
        "note a report of progress",
        "UPDATE jobs SET progress_at = ?2 WHERE id = ?1 AND (progress_at IS NULL OR progress_at <= ?2 - ?3)",
        params![id.0, uptime, PROGRESS_EVERY_MS],
    )?;
    if report_now == 1 {
        outbox::drop_progress(tx, id)?;
        report(tx, id, outbox::PROGRESS, ResultCode::InProgress)?;
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

/// What became of a wish to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cancel {
    /// There is no such job.
    Unknown,
    /// It has ended already.
    Ended,
    /// It had not started, and has ended now.
    Done,
    /// It is running and will be stopped.
    Requested,
}

/// Ends a job that waits, or asks the runner to stop it.
pub fn cancel_request(tx: &Tx<'_>, id: JobId, actor: &str) -> Result<Cancel, Error> {
    let state = tx.one(
        "find a job",
        "SELECT state FROM jobs WHERE id = ?1",
        [id.0],
        |r| sql::parsed(r, "state", sql::word("state", JobState::parse)),
    )?;
    match state {
        None => Ok(Cancel::Unknown),
        Some(JobState::Succeeded | JobState::Failed | JobState::Canceled) => Ok(Cancel::Ended),
        Some(JobState::Queued) => {
            note_cancel(tx, id, actor)?;
            finish(tx, id, &Outcome::Canceled, tx.now_ms())?;
            Ok(Cancel::Done)
        }
        Some(JobState::Running) => {
            note_cancel(tx, id, actor)?;
            tx.touch(Topic::Jobs);
            Ok(Cancel::Requested)
        }
    }
}

fn note_cancel(tx: &Tx<'_>, id: JobId, actor: &str) -> Result<(), Error> {
    let changed = tx.run(
        "note a wish to cancel",
        "UPDATE jobs SET cancel_requested = 1, updated = ?2 WHERE id = ?1 AND cancel_requested = 0",
        params![id.0, tx.now_ms()],
    )?;
    if changed == 1 {
        let message = format!("{actor} asked to cancel it");
        events::add(tx, id, Note::new(EventKind::CancelRequested, &message))?;
    }
    Ok(())
}

/// Returns the running jobs that shall be stopped.
pub fn to_cancel(reader: &Reader<'_>) -> Result<Vec<JobId>, Error> {
    reader.many(
        "find jobs to cancel",
        "SELECT id FROM jobs WHERE state = 'running' AND cancel_requested = 1 ORDER BY id",
        [],
        |r| r.get(0).map(JobId),
    )
}

/// What a running push of a file states of its archive.
pub fn open_content(reader: &Reader<'_>, key: &Key) -> Result<Option<(JobId, Content)>, Error> {
    reader.one(
        "find the running push of a file",
        "SELECT j.id, j.size, j.md5, j.sha256 FROM files f JOIN jobs j ON j.id = f.job
         WHERE f.app = ?1 AND f.name = ?2 AND f.version = ?3 AND j.state IN ('queued', 'running')",
        params![key.app.as_str(), key.name.as_str(), key.version.as_str()],
        |r| Ok((JobId(r.get(0)?), read_content(r)?)),
    )
}

/// Returns when a job's turn to become live is; see [`activations::may_activate`].
pub fn seq(reader: &Reader<'_>, id: JobId) -> Result<i64, Error> {
    reader.number(
        "read a job's turn",
        "SELECT seq FROM jobs WHERE id = ?1",
        [id.0],
    )
}

/// Gives a job that was pushed again a later turn to become live.
pub fn set_seq(tx: &Tx<'_>, id: JobId, seq: i64) -> Result<(), Error> {
    tx.run(
        "set a job's turn",
        "UPDATE jobs SET seq = ?2 WHERE id = ?1",
        params![id.0, seq],
    )
    .map(drop)
}

/// Takes the next number of the sequence that also numbers jobs.
pub(super) fn next_seq(tx: &Tx<'_>) -> Result<i64, Error> {
    let bump = "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'jobs' RETURNING seq";
    let read = |r: &Row<'_>| r.get(0);
    if let Some(seq) = tx.one("take a number", bump, [], read)? {
        return Ok(seq);
    }
    tx.run(
        "begin the numbers",
        "INSERT INTO sqlite_sequence (name, seq) VALUES ('jobs', 1)",
        [],
    )?;
    Ok(1)
}

/// Returns the number of a file, if it was ever pushed.
pub(super) fn file_id(reader: &Reader<'_>, key: &Key) -> Result<Option<i64>, Error> {
    reader.one(
        "find a file",
        "SELECT id FROM files WHERE app = ?1 AND name = ?2 AND version = ?3",
        params![key.app.as_str(), key.name.as_str(), key.version.as_str()],
        |r| r.get(0),
    )
}

/// Enters a file that is on the disk as if a push of it had succeeded: for a rebuilt database. It keeps the number of the
/// job that published it, so that old versions stay older than new ones; only a number that another job has is not used.
pub(super) fn insert_recovered(
    tx: &Tx<'_>,
    found: &releases::Found,
) -> Result<(i64, JobId), Error> {
    let (key, published) = (&found.key, &found.published);
    let file = tx.number(
        "enter a file",
        "INSERT INTO files (app, name, version, state) VALUES (?1, ?2, ?3, 'succeeded')
         ON CONFLICT (app, name, version) DO UPDATE SET state = 'succeeded' RETURNING id",
        params![key.app.as_str(), key.name.as_str(), key.version.as_str()],
    )?;
    let number = (1..LARGEST_NUMBER)
        .contains(&found.job.0)
        .then_some(found.job.0);
    let owner = tx.one(
        "find who has a job's number",
        "SELECT file, state FROM jobs WHERE id = ?1",
        [number],
        |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?)),
    )?;
    let number = match (number, owner) {
        (Some(id), Some((same, state))) if same == file && state == "succeeded" => {
            link(tx, file, id)?;
            return Ok((file, JobId(id)));
        }
        (number, None) => number,
        _ => None,
    };
    let id = tx.insert(
        "enter a recovered job",
        "INSERT INTO jobs (id, file, push, via, archive_type, size, md5, sha256, source, timeout_ms, activate, state, stage,
                           accepted, started, updated, finished, received, total, files, written, published)
         VALUES (?9, ?1, 'recovered', 'recover', ?10, ?2, ?3, ?4, 'recovered from the disk', 0, 0, 'succeeded', 'publish',
                 ?5, ?5, ?5, ?5, coalesce(?2, 0), coalesce(?2, 0), ?6, ?7, ?8)",
        params![
            file,
            published.content.size,
            published.content.md5.map(|d| d.to_string()),
            published.content.sha256.map(|d| d.to_string()),
            found.published_ms,
            published.files,
            published.bytes,
            sql::to_json("published", published)?,
            number,
            found.archive_type.as_str(),
        ],
    )?;
    set_seq(tx, JobId(id), id)?;
    link(tx, file, id)?;
    Ok((file, JobId(id)))
}

fn link(tx: &Tx<'_>, file: i64, job: i64) -> Result<(), Error> {
    tx.run(
        "link a file to its job",
        "UPDATE files SET job = ?2 WHERE id = ?1",
        params![file, job],
    )
    .map(drop)
}

/// Returns files to be forgotten: not on the disk, not at work, and not pushed for a long time, or more than are remembered.
/// It looks at every file, so the writer should not wait for it.
pub(super) fn forgettable(
    reader: &Reader<'_>,
    config: &Config,
    now_ms: i64,
) -> Result<Vec<i64>, Error> {
    let known: u64 = rows::counts(reader)?.iter().map(|(_, n)| n).sum();
    if known <= releases::totals(reader)?.versions {
        return Ok(Vec::new());
    }
    let before = now_ms.saturating_sub(millis(config.forget_after));
    let read = |r: &Row<'_>| r.get(0);
    let mut found = reader.many(
        "look for old files",
        "SELECT f.id FROM files f JOIN jobs j ON j.id = f.job
         WHERE j.state NOT IN ('queued', 'running') AND j.updated < ?1
           AND NOT EXISTS (SELECT 1 FROM releases r WHERE r.file = f.id)
         LIMIT ?2",
        params![before, FORGET_AT_ONCE],
        read,
    )?;
    found.extend(reader.many(
        "look for more files than are remembered",
        "SELECT f.id FROM files f JOIN jobs j ON j.id = f.job
         WHERE j.state NOT IN ('queued', 'running') AND NOT EXISTS (SELECT 1 FROM releases r WHERE r.file = f.id)
         ORDER BY j.id DESC LIMIT ?2 OFFSET ?1",
        params![config.gone_files, FORGET_AT_ONCE],
        read,
    )?);
    Ok(found)
}

/// Forgets these files, but for those that came back meanwhile.
pub(super) fn forget(tx: &Tx<'_>, files: &[i64]) -> Result<usize, Error> {
    let mut forgotten = 0;
    for file in files {
        forgotten += tx.run(
            "forget a file",
            "DELETE FROM files WHERE id = ?1 AND state NOT IN ('queued', 'running')
             AND NOT EXISTS (SELECT 1 FROM releases r WHERE r.file = ?1)",
            [file],
        )?;
    }
    Ok(forgotten)
}

/// Forgets the oldest jobs of a file beyond the bound.
fn trim(tx: &Tx<'_>, file: i64) -> Result<(), Error> {
    tx.run(
        "forget old jobs",
        "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE file = ?1 ORDER BY id DESC LIMIT -1 OFFSET ?2)
         AND state NOT IN ('queued', 'running')",
        params![file, tx.config().history_per_file.max(1)],
    )
    .map(drop)
}

/// Keeps the state that lists by state look at the same as the latest job's.
fn mirror_state(tx: &Tx<'_>, id: JobId, state: JobState) -> Result<(), Error> {
    tx.run(
        "note the state of a file",
        "UPDATE files SET state = ?2 WHERE job = ?1 AND id = (SELECT file FROM jobs WHERE id = ?1)",
        params![id.0, state.as_str()],
    )
    .map(drop)
}

/// Writes the callback of a job's present state.
fn report(tx: &Tx<'_>, id: JobId, kind: &'static str, code: ResultCode) -> Result<(), Error> {
    if !outbox::is_wanted(tx, kind)? {
        return Ok(());
    }
    let Some(row) = get(tx, id)? else {
        return Ok(());
    };
    let file = file_id(tx, &row.key)?;
    outbox::enqueue(tx, kind, file, Some(id), &body(&row, code))
}

/// The `data` of a callback about a job; documented with the reporter.
fn body(row: &JobRow, code: ResultCode) -> serde_json::Value {
    let content = row.published.as_ref().map_or(row.stated, |p| p.content);
    json!({
        "app": row.key.app,
        "name": row.key.name,
        "version": row.key.version,
        "job": row.id,
        "push": row.push,
        "via": row.via,
        "state": row.state,
        "status": row.status,
        "result_code": code.code(),
        "archive_type": row.archive_type,
        "source": row.source,
        "size": content.size,
        "md5": content.md5,
        "sha256": content.sha256,
        "stage": row.stage,
        "starts": row.starts,
        "attempts": row.attempts,
        "received": row.received,
        "total": row.total,
        "fetched": row.fetched,
        "files": row.files,
        "bytes": row.written,
        "activated": row.published.as_ref().map(|p| p.activated),
        "failure": row.failure,
        "accepted_at": stamp(Some(row.accepted_ms)),
        "started_at": stamp(row.started_ms),
        "finished_at": stamp(row.finished_ms),
        "duration_ms": row.finished_ms.map(|end| (end - row.accepted_ms).max(0)),
    })
}

fn stamp(ms: Option<i64>) -> Option<String> {
    ms.map(crate::sys::clock::stamp)
}

fn with_seq(reader: &Reader<'_>, id: JobId) -> Result<Option<(JobRow, i64)>, Error> {
    let Some(row) = get(reader, id)? else {
        return Ok(None);
    };
    Ok(Some((row, seq(reader, id)?)))
}

/// Reads a job for the runner. A row that cannot be read is left out and complained about, so that it cannot hold up the
/// others for ever.
fn readable(row: &Row<'_>) -> Option<Job> {
    let id = row.get::<_, i64>("id").unwrap_or(-1);
    read_job(row)
        .inspect_err(
            |e| tracing::error!(job = id, error = %e, "a job cannot be read and is left alone"),
        )
        .ok()
}

fn read_job(row: &Row<'_>) -> rusqlite::Result<Job> {
    let content = read_content(row)?;
    let timeout: u64 = row.get("timeout_ms")?;
    Ok(Job {
        id: JobId(row.get("id")?),
        file: DataFile {
            key: read_key(row)?,
            archive_type: sql::parsed(row, "archive_type", ArchiveType::parse)?,
            size: content.size,
            md5: content.md5,
            sha256: content.sha256,
            url: SourceUrl::from(sql::parsed(row, "url", Url::parse)?),
            timeout: Duration::from_millis(timeout),
        },
        starts: row.get("starts")?,
        accepted_ms: row.get("accepted")?,
        activate: row.get("activate")?,
        attempts: row.get("attempts")?,
        fetched: row.get("fetched")?,
    })
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
