//! Selects the jobs that the runner starts or stops, and the time of the next one. Queries only,
//! worded so that indexes serve them: the runner asks often, and the queue may be long.

use std::collections::HashSet;
use std::time::Duration;

use rusqlite::types::FromSqlError;
use rusqlite::{Row, params};
use url::Url;

use super::super::Error;
use super::super::Reader;
use super::super::columns::{read_content, read_key};
use crate::datafile::{Content, DataFile, Key, SourceUrl};
use crate::job::{Job, JobId};

/// Longest delay of a retry. A stored delay beyond it dates from before a jump of the clock; such a
/// job is due.
pub(super) const LONGEST_WAIT_MS: i64 = 3_600_000;

/// Returns up to `limit` jobs that may start now, in order of acceptance, except those in
/// `running`.
pub fn due(
    reader: &Reader<'_>,
    now_ms: i64,
    limit: usize,
    running: &HashSet<JobId>,
) -> Result<Vec<Job>, Error> {
    waiting(reader, OLDEST_FIRST, 0, now_ms, limit, running)
}

/// Like [`due`], but only jobs whose push states at most `most` bytes, smallest first.
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

/// SQL fragments, a condition and an order, chosen so that an index serves both.
pub(super) type Which = [&'static str; 2];
pub(super) const OLDEST_FIRST: Which = ["j.id > ?4", "j.id"];
pub(super) const SMALL_FIRST: Which = ["j.size <= ?4", "j.size, j.id"];

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

pub(super) fn waiting_sql([condition, order]: Which) -> String {
    format!(
        "SELECT j.*, f.app, f.name, f.version FROM jobs j JOIN files f ON f.id = j.file
         WHERE j.state = 'queued' AND {condition} AND (j.not_before <= ?1 OR j.not_before > ?1 + ?2)
         ORDER BY {order} LIMIT ?3"
    )
}

/// Returns the keys of all files with an open job.
pub fn open_keys(reader: &Reader<'_>) -> Result<Vec<Key>, Error> {
    reader.many(
        "find open files",
        "SELECT f.app, f.name, f.version FROM jobs j JOIN files f ON f.id = j.file WHERE j.state IN ('queued', 'running')",
        [],
        read_key,
    )
}

/// Returns when the next queued job is due, in milliseconds since the epoch.
pub fn next_due_ms(reader: &Reader<'_>) -> Result<Option<i64>, Error> {
    let read = |r: &Row<'_>| r.get::<_, i64>(0);
    // Most queued jobs are due at once, and the first of them settles it; only few are delayed.
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

/// Like [`next_due_ms`], for delayed jobs of at most `most` bytes.
pub fn next_small_ms(reader: &Reader<'_>, most: u64) -> Result<Option<i64>, Error> {
    reader.one(
        "find the next small job that is due",
        "SELECT not_before FROM jobs WHERE state = 'queued' AND not_before > 0 AND size <= ?1 ORDER BY not_before LIMIT 1",
        [i64::try_from(most).unwrap_or(i64::MAX)],
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
         WHERE f.app = ?1 AND f.name = ?2 AND f.version = ?3 AND j.state IN ('queued', 'running')",
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
    })
}

fn read_url(row: &Row<'_>) -> rusqlite::Result<SourceUrl> {
    let text: String = row.get("url")?;
    let url = Url::parse(&text);
    url.map(SourceUrl::from)
        .map_err(|error| FromSqlError::Other(Box::new(error)).into())
}
