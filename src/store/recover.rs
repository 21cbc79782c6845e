//! Rebuilds a lost database from the versions on disk: each is entered as if a push of it had
//! succeeded. Keys that are already known are left as they are.

use rusqlite::params;

use super::Error;
use super::activations::{self, Flip};
use super::events::{self, Note};
use super::files;
use super::releases;
use super::{Reader, Tx};
use crate::datafile::{AppId, ArchiveType, DataName, DataVersion, Key};
use crate::job::{EventKind, JobId, JobState, Published, Reason};

/// Larger job numbers in a manifest are ignored: edgepush never wrote them, and they would exhaust
/// the sequence.
const LARGEST_NUMBER: i64 = 1 << 52;

/// A version found on disk, with its manifest.
#[derive(Debug, Clone)]
pub struct Found {
    pub key: Key,
    pub archive_type: ArchiveType,
    /// The job that published it, according to the manifest.
    pub job: JobId,
    pub published: Published,
    pub published_ms: i64,
    /// Whether `current` points to it.
    pub live: bool,
}

/// Returns the versions of a name that an open job or a pending request is about to publish or to
/// make live: the disk may be ahead of what is recorded of them.
pub fn unfinished(
    reader: &Reader<'_>,
    app: &AppId,
    name: &DataName,
) -> Result<Vec<DataVersion>, Error> {
    reader.many(
        "find what is unfinished of a name",
        "SELECT f.version FROM files f JOIN jobs j ON j.file = f.id
             WHERE f.app = ?1 AND f.name = ?2 AND j.state IN ('queued', 'retrying', 'running')
         UNION SELECT to_version FROM activations WHERE app = ?1 AND name = ?2 AND done IS NULL",
        params![app, name],
        |r| r.get(0),
    )
}

/// Adds a version found on disk. Does nothing if the key is already known, or if the job that wrote
/// it has failed afterwards, such as by a sync: then nobody knows whether it is whole. A version
/// that readers see is added all the same.
pub fn release(tx: &Tx<'_>, found: &Found) -> Result<bool, Error> {
    let (key, live) = (&found.key, found.live);
    if releases::get(tx, key)?.is_some() || (!live && has_failed(tx, found)?) {
        return Ok(false);
    }
    let (file, job) = enter(tx, found)?;
    releases::publish(tx, file, key, job, &found.published, found.published_ms)?;
    events::write(
        tx,
        Some((file, key.clone())),
        None,
        Note::new(
            EventKind::Recovered,
            "found on disk and added to the database",
        ),
    )?;
    if live {
        let flip = Flip {
            key,
            reason: Reason::Recover,
            actor: "recover",
            job: Some(job),
            seq: job.0,
        };
        activations::record(tx, &flip)?;
    }
    Ok(true)
}

fn has_failed(tx: &Tx<'_>, found: &Found) -> Result<bool, Error> {
    let key = &found.key;
    let failed = tx.number(
        "find a failed job",
        "SELECT EXISTS (SELECT 1 FROM files f JOIN jobs j ON j.file = f.id
             WHERE f.app = ?1 AND f.name = ?2 AND f.version = ?3 AND j.id = ?4
               AND j.state IN ('failed', 'canceled'))",
        params![key.app, key.name, key.version, found.job],
    )?;
    Ok(failed == 1)
}

/// Adds a file found on disk as if a push of it had succeeded. It keeps the number of the job that
/// published it, so that old versions stay older than new ones, unless another job already has that
/// number.
fn enter(tx: &Tx<'_>, found: &Found) -> Result<(i64, JobId), Error> {
    let (key, published) = (&found.key, &found.published);
    let file = files::enter(tx, key, JobState::Succeeded)?;
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
            files::link(tx, file, JobId(id))?;
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
            published.content.md5,
            published.content.sha256,
            found.published_ms,
            published.files,
            published.bytes,
            published,
            number,
            found.archive_type,
        ],
    )?;
    let job = JobId(id);
    files::set_seq(tx, job, id)?;
    files::link(tx, file, job)?;
    Ok((file, job))
}
