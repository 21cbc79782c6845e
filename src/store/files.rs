//! Files: every key that was ever pushed. Also the one sequence of numbers that jobs and operators'
//! requests share.

use rusqlite::{Row, params};

use super::Error;
use super::columns::read_key;
use super::{Reader, Tx};
use crate::datafile::Key;
use crate::job::{JobId, JobState};
use crate::wire::push::Via;

/// The file of a job, and the job's turn.
pub(super) struct Subject {
    pub(super) file: i64,
    pub(super) key: Key,
    pub(super) via: Via,
    /// The job's turn to go live; see [`super::activations::may_activate`].
    pub(super) seq: i64,
}

/// Returns the file of a job, or `None` once the job is forgotten.
pub(super) fn of_job(reader: &Reader<'_>, job: JobId) -> Result<Option<Subject>, Error> {
    reader.one(
        "find the file of a job",
        "SELECT f.id, f.app, f.name, f.version, j.via, j.seq
         FROM jobs j JOIN files f ON f.id = j.file WHERE j.id = ?1",
        [job],
        |r| {
            Ok(Subject {
                file: r.get("id")?,
                key: read_key(r)?,
                via: r.get("via")?,
                seq: r.get("seq")?,
            })
        },
    )
}

/// Returns the row id of a file, if it was ever pushed.
pub(super) fn id(reader: &Reader<'_>, key: &Key) -> Result<Option<i64>, Error> {
    reader.one(
        "find a file",
        "SELECT id FROM files WHERE app = ?1 AND name = ?2 AND version = ?3",
        params![key.app, key.name, key.version],
        |r| r.get(0),
    )
}

/// Inserts a file in `state` unless it exists, and returns its row id.
pub(super) fn enter(tx: &Tx<'_>, key: &Key, state: JobState) -> Result<i64, Error> {
    tx.number(
        "enter a file",
        "INSERT INTO files (app, name, version, state) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (app, name, version) DO UPDATE SET state = excluded.state RETURNING id",
        params![key.app, key.name, key.version, state],
    )
}

/// Makes a job the latest of its file.
pub(super) fn link(tx: &Tx<'_>, file: i64, job: JobId) -> Result<(), Error> {
    tx.run(
        "link a file to its job",
        "UPDATE files SET job = ?2 WHERE id = ?1",
        params![file, job],
    )
    .map(drop)
}

/// Copies the state of a file's latest job to the file's row, where lists filtered by state read
/// it.
pub(super) fn mirror_state(tx: &Tx<'_>, job: JobId, state: JobState) -> Result<(), Error> {
    tx.run(
        "record the state of a file",
        "UPDATE files SET state = ?2 WHERE job = ?1 AND id = (SELECT file FROM jobs WHERE id = ?1)",
        params![job, state],
    )
    .map(drop)
}

/// Returns a job's turn to go live; see [`super::activations::may_activate`].
pub(super) fn seq(reader: &Reader<'_>, job: JobId) -> Result<i64, Error> {
    reader.number(
        "read a job's turn",
        "SELECT seq FROM jobs WHERE id = ?1",
        [job],
    )
}

/// Gives a job that was pushed again a later turn to go live.
pub(super) fn set_seq(tx: &Tx<'_>, job: JobId, seq: i64) -> Result<(), Error> {
    tx.run(
        "set a job's turn",
        "UPDATE jobs SET seq = ?2 WHERE id = ?1",
        params![job, seq],
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
