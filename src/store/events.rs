//! The timeline: what happened to a job or a file, in order, for people and for `watch`. Its length
//! per job is limited; subscribers receive an event after its commit.

use rusqlite::{Row, params};
use serde_json::Value;

use super::Error;
use super::columns::read_key;
use super::files;
use super::{Reader, Tx};
use crate::datafile::Key;
use crate::db;
use crate::job::{EventKind, JobId, Stage};
use crate::shown::Event;

/// Progress events retained per job: the newest ones.
const PROGRESS: u32 = 20;

/// A timeline event to be written.
#[derive(Debug, Clone)]
pub struct Note<'a> {
    kind: EventKind,
    message: &'a str,
    stage: Option<Stage>,
    attempt: Option<u32>,
    bytes: Option<u64>,
    data: Option<Value>,
}

impl<'a> Note<'a> {
    /// Creates a note of type `kind`; `text` is a sentence for people.
    #[must_use]
    pub fn new(kind: EventKind, message: &'a str) -> Self {
        Self {
            kind,
            message,
            stage: None,
            attempt: None,
            bytes: None,
            data: None,
        }
    }

    /// Adds the stage in which it happened.
    #[must_use]
    pub fn stage(mut self, stage: Stage) -> Self {
        self.stage = Some(stage);
        self
    }

    /// Adds the number of the attempt.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = Some(attempt);
        self
    }

    /// Adds a number of bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Adds values for programs.
    #[must_use]
    pub fn data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }
}

/// Adds an event to the timeline of a job.
pub fn add(tx: &Tx<'_>, job: JobId, note: Note<'_>) -> Result<(), Error> {
    match files::of_job(tx, job)? {
        Some(of) => write(tx, Some((of.file, of.key)), Some(job), note),
        None => Ok(()),
    }
}

/// Adds an event to the timeline of a file that belongs to none of its jobs.
pub fn add_for_file(tx: &Tx<'_>, key: &Key, note: Note<'_>) -> Result<(), Error> {
    match files::id(tx, key)? {
        Some(file) => write(tx, Some((file, key.clone())), None, note),
        None => Ok(()),
    }
}

/// Returns the timeline of a job after event `after`, oldest first.
pub fn of_job(
    reader: &Reader<'_>,
    job: JobId,
    after: i64,
    limit: u32,
) -> Result<Vec<Event>, Error> {
    select(
        reader,
        "WHERE e.job = ?1 AND e.id > ?2 ORDER BY e.id LIMIT ?3",
        params![job, after, limit],
    )
}

/// Returns the timeline of a file, over all its jobs, after event `after`, oldest first.
pub fn of_file(
    reader: &Reader<'_>,
    key: &Key,
    after: i64,
    limit: u32,
) -> Result<Vec<Event>, Error> {
    let Some(file) = files::id(reader, key)? else {
        return Ok(Vec::new());
    };
    select(
        reader,
        "WHERE e.file = ?1 AND e.id > ?2 ORDER BY e.id LIMIT ?3",
        params![file, after, limit],
    )
}

/// Returns the events after event `after`, oldest first.
pub fn since(reader: &Reader<'_>, after: i64, limit: u32) -> Result<Vec<Event>, Error> {
    select(
        reader,
        "WHERE e.id > ?1 ORDER BY e.id LIMIT ?2",
        params![after, limit],
    )
}

/// Returns the newest `limit` events, oldest first.
pub fn newest(reader: &Reader<'_>, limit: u32) -> Result<Vec<Event>, Error> {
    let mut rows = select(reader, "ORDER BY e.id DESC LIMIT ?1", params![limit])?;
    rows.reverse();
    Ok(rows)
}

fn select(
    reader: &Reader<'_>,
    rest: &'static str,
    params: impl rusqlite::Params,
) -> Result<Vec<Event>, Error> {
    let sql = format!(
        "SELECT e.*, f.app, f.name, f.version FROM events e LEFT JOIN files f ON f.id = e.file {rest}"
    );
    reader.many("read the timeline", &sql, params, read)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Event> {
    let of_file = row.get::<_, Option<i64>>("file")?.is_some();
    Ok(Event {
        id: row.get("id")?,
        ts_ms: row.get("ts")?,
        job: row.get("job")?,
        key: if of_file { Some(read_key(row)?) } else { None },
        kind: row.get("type")?,
        stage: row.get("stage")?,
        attempt: row.get("attempt")?,
        bytes: row.get("bytes")?,
        message: row.get("message")?,
        data: db::json(row, "data")?,
    })
}

pub(super) fn write(
    tx: &Tx<'_>,
    file: Option<(i64, Key)>,
    job: Option<JobId>,
    note: Note<'_>,
) -> Result<(), Error> {
    let data = match &note.data {
        Some(data) => Some(db::to_json("event data", data)?),
        None => None,
    };
    let (file, key) = file.unzip();
    let id = tx.insert(
        "add to the timeline",
        "INSERT INTO events (ts, file, job, type, stage, attempt, bytes, message, data)
         VALUES (?1, ?2, (SELECT id FROM jobs WHERE id = ?3), ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            tx.now_ms(),
            file,
            job,
            note.kind,
            note.stage,
            note.attempt,
            note.bytes,
            note.message,
            data,
        ],
    )?;
    trim(tx, file, job, &note.kind)?;
    tx.emit(Event {
        id,
        ts_ms: tx.now_ms(),
        job,
        key,
        kind: note.kind,
        stage: note.stage,
        attempt: note.attempt,
        bytes: note.bytes,
        message: note.message.to_owned(),
        data: note.data,
    });
    Ok(())
}

/// Limits the length of the timeline: progress is dropped first, then whatever is oldest; the
/// events of beginning and end stay longest.
fn trim(tx: &Tx<'_>, file: Option<i64>, job: Option<JobId>, kind: &EventKind) -> Result<(), Error> {
    let most = tx.config().events_per_job;
    match (file, job) {
        // There is nothing older to trim.
        (_, Some(_)) if *kind == EventKind::Accepted => {}
        (_, Some(job)) => {
            if *kind == EventKind::Progress {
                tx.run(
                    "trim the timeline",
                    "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE job = ?1 AND type = 'progress'
                     ORDER BY id DESC LIMIT -1 OFFSET ?2)",
                    params![job, PROGRESS],
                )?;
            }
            tx.run(
                "trim the timeline",
                "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE job = ?1 AND type <> 'accepted'
                 ORDER BY id DESC LIMIT -1 OFFSET ?2)",
                params![job, most],
            )?;
        }
        (Some(file), None) => {
            tx.run(
                "trim the timeline",
                "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE file = ?1 AND job IS NULL
                 ORDER BY id DESC LIMIT -1 OFFSET ?2)",
                params![file, most],
            )?;
        }
        (None, None) => {
            tx.run(
                "trim the timeline",
                "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE file IS NULL
                 ORDER BY id DESC LIMIT -1 OFFSET ?1)",
                params![most],
            )?;
        }
    }
    Ok(())
}
