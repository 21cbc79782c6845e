//! Selects the jobs that the runner starts or stops, and the time of the next one. Queries only,
//! worded so that indexes serve them: the runner asks often, and the queue may be long.

use std::collections::HashSet;
use std::time::Duration;

use rusqlite::types::FromSqlError;
use rusqlite::{Row, params};
use url::Url;

use super::super::Error;
use super::super::columns::{read_content, read_key};
use super::super::{Reader, Tx};
use crate::datafile::{AppId, Content, DataFile, Key, SourceUrl};
use crate::job::{Job, JobId};

/// Longest delay of a retry. A stored delay beyond it dates from before a jump of the clock; such a
/// job is due.
pub(super) const LONGEST_WAIT_MS: i64 = 3_600_000;

/// Jobs that may be waiting in the database and not yet gone from the running ones.
const JUST_PUT_BACK: usize = 8;

/// An application and an origin, with host and port: what takes turns.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Turn {
    pub app: AppId,
    pub origin: String,
}

/// Returns up to `limit` turns with waiting jobs, in their order, beginning after `after`.
pub fn turns(reader: &Reader<'_>, after: Option<&Turn>, limit: usize) -> Result<Vec<Turn>, Error> {
    let mut turns: Vec<Turn> = Vec::new();
    while turns.len() < limit {
        let (app, origin) = match turns.last().or(after) {
            Some(last) => (last.app.as_str(), last.origin.as_str()),
            None => ("", ""),
        };
        let next = reader.one(
            "find the next turn",
            "SELECT app, origin FROM jobs WHERE state IN ('queued', 'retrying') AND (app, origin) > (?1, ?2)
             ORDER BY app, origin LIMIT 1",
            [app, origin],
            |r| {
                Ok(Turn {
                    app: r.get("app")?,
                    origin: r.get("origin")?,
                })
            },
        )?;
        match next {
            Some(turn) => turns.push(turn),
            None => break,
        }
    }
    Ok(turns)
}

/// Returns up to `limit` jobs of a turn that may start now, except those in `running`: first those
/// that were never put off, in order of acceptance.
pub fn due(
    reader: &Reader<'_>,
    turn: &Turn,
    now_ms: i64,
    limit: usize,
    running: &HashSet<JobId>,
) -> Result<Vec<Job>, Error> {
    waiting(reader, turn, OLDEST_FIRST, now_ms, i64::MAX, limit, running)
}

/// Like [`due`], but only jobs whose push states at most `most` bytes, smallest first.
pub fn due_small(
    reader: &Reader<'_>,
    turn: &Turn,
    most: u64,
    now_ms: i64,
    limit: usize,
    running: &HashSet<JobId>,
) -> Result<Vec<Job>, Error> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    waiting(reader, turn, SMALL_FIRST, now_ms, most, limit, running)
}

/// SQL fragments, a condition and an order, chosen so that an index serves both.
pub(super) type Which = [&'static str; 2];
pub(super) const OLDEST_FIRST: Which = [
    "j.not_before <= ?3 AND coalesce(j.size, 0) <= ?4",
    "j.not_before, j.id",
];
pub(super) const SMALL_FIRST: Which = ["j.size <= ?4 AND j.not_before <= ?3", "j.size, j.id"];

fn waiting(
    reader: &Reader<'_>,
    turn: &Turn,
    which: Which,
    now_ms: i64,
    most: i64,
    limit: usize,
    running: &HashSet<JobId>,
) -> Result<Vec<Job>, Error> {
    // A job that was just put back may still be among the running ones. If there are more of them,
    // the next poll finds what is behind them.
    let rows = i64::try_from(limit.saturating_add(JUST_PUT_BACK)).unwrap_or(i64::MAX);
    let params = params![turn.app, turn.origin, now_ms, most, rows];
    let rows = reader.many("find due jobs", &waiting_sql(which), params, |r| {
        Ok(readable(r))
    })?;
    let due = rows
        .into_iter()
        .flatten()
        .filter(|j| !running.contains(&j.id));
    Ok(due.take(limit).collect())
}

pub(super) fn waiting_sql([condition, order]: Which) -> String {
    format!(
        "SELECT j.*, f.name, f.version FROM jobs j JOIN files f ON f.id = j.file
         WHERE j.state IN ('queued', 'retrying') AND j.app = ?1 AND j.origin = ?2 AND {condition}
         ORDER BY {order} LIMIT ?5"
    )
}

/// Returns whether a job is put off beyond [`LONGEST_WAIT_MS`].
pub fn is_lost(reader: &Reader<'_>, now_ms: i64) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM jobs WHERE state IN ('queued', 'retrying') AND not_before > 0 AND not_before > ?1)";
    Ok(reader.number(
        "find jobs of another clock",
        sql,
        [now_ms + LONGEST_WAIT_MS],
    )? == 1)
}

/// Makes jobs due that are put off beyond [`LONGEST_WAIT_MS`].
pub fn forget_clock_jump(tx: &Tx<'_>, now_ms: i64) -> Result<(), Error> {
    let sql = "UPDATE jobs SET not_before = 0 WHERE state IN ('queued', 'retrying') AND not_before > 0 AND not_before > ?1";
    tx.run(
        "make jobs of another clock due",
        sql,
        [now_ms + LONGEST_WAIT_MS],
    )
    .map(drop)
}

/// Returns the keys of all files with an open job.
pub fn open_keys(reader: &Reader<'_>) -> Result<Vec<Key>, Error> {
    reader.many(
        "find open files",
        "SELECT f.app, f.name, f.version FROM jobs j JOIN files f ON f.id = j.file WHERE j.state IN ('queued', 'retrying', 'running')",
        [],
        read_key,
    )
}

/// Returns whether a job waits, however long.
pub fn any_waiting(reader: &Reader<'_>) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM jobs WHERE state IN ('queued', 'retrying'))";
    Ok(reader.number("find a waiting job", sql, [])? == 1)
}

/// Returns when the next job that is put off beyond `now_ms` is due.
pub fn next_delayed_ms(reader: &Reader<'_>, now_ms: i64) -> Result<Option<i64>, Error> {
    reader.one(
        "find the next delayed job",
        "SELECT not_before FROM jobs WHERE state IN ('queued', 'retrying') AND not_before > 0 AND not_before > ?1
         ORDER BY not_before LIMIT 1",
        [now_ms],
        |r| r.get(0),
    )
}

/// Returns the running jobs that an operator asked to cancel.
pub fn to_cancel(reader: &Reader<'_>) -> Result<Vec<JobId>, Error> {
    reader.many(
        "find jobs to cancel",
        "SELECT id FROM jobs WHERE state = 'running' AND cancel_requested = 1 ORDER BY id",
        [],
        |r| r.get(0),
    )
}

/// Returns the open job of a file, and what its push states about the archive.
pub fn open_content(reader: &Reader<'_>, key: &Key) -> Result<Option<(JobId, Content)>, Error> {
    reader.one(
        "find the running push of a file",
        "SELECT j.id, j.size, j.md5, j.sha256 FROM files f JOIN jobs j ON j.id = f.job
         WHERE f.app = ?1 AND f.name = ?2 AND f.version = ?3 AND j.state IN ('queued', 'retrying', 'running')",
        params![key.app, key.name, key.version],
        |r| Ok((r.get(0)?, read_content(r)?)),
    )
}

/// Reads a job for the runner. An unreadable row is logged and skipped, so that it never blocks the
/// others.
pub(super) fn readable(row: &Row<'_>) -> Option<Job> {
    let id = row.get::<_, i64>("id").unwrap_or(-1);
    read_job(row)
        .inspect_err(|e| tracing::error!(job = id, error = %e, "a job cannot be read; skipping it"))
        .ok()
}

fn read_job(row: &Row<'_>) -> rusqlite::Result<Job> {
    let content = read_content(row)?;
    let timeout: u64 = row.get("timeout_ms")?;
    Ok(Job {
        id: row.get("id")?,
        file: DataFile {
            key: read_key(row)?,
            archive_type: row.get("archive_type")?,
            size: content.size,
            md5: content.md5,
            sha256: content.sha256,
            url: read_url(row)?,
            timeout: Duration::from_millis(timeout),
        },
        starts: row.get("starts")?,
        accepted_ms: row.get("accepted")?,
        activate: row.get("activate")?,
        attempts: row.get("attempts")?,
        fetched: row.get("fetched")?,
        spent: Duration::from_millis(row.get("spent_ms")?),
        failure: row.get("failure")?,
    })
}

fn read_url(row: &Row<'_>) -> rusqlite::Result<SourceUrl> {
    let text: String = row.get("url")?;
    let url = Url::parse(&text);
    url.map(SourceUrl::from)
        .map_err(|error| FromSqlError::Other(Box::new(error)).into())
}
