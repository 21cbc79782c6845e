//! Keeps the database bounded: forgets old jobs of a file, and files that are no longer on disk.
//! Files on disk or with an open job are never forgotten.

use rusqlite::{Row, params};

use super::Config;
use super::Error;
use super::releases;
use super::{Reader, Tx};

/// Maximum files forgotten per housekeeping run.
const AT_ONCE: u32 = 500;

/// Returns the files to forget: not on disk, no open job, and either not pushed for a long time or
/// beyond the number of files remembered. It reads every file, so run it outside the writer.
pub(super) fn forgettable(
    reader: &Reader<'_>,
    config: &Config,
    now_ms: i64,
) -> Result<Vec<i64>, Error> {
    let known = reader.number("count files", "SELECT sum(n) FROM file_counts", [])?;
    if u64::try_from(known).unwrap_or_default() <= releases::totals(reader)?.versions {
        return Ok(Vec::new());
    }
    let before =
        now_ms.saturating_sub(i64::try_from(config.forget_after.as_millis()).unwrap_or(i64::MAX));
    let read = |r: &Row<'_>| r.get(0);
    let mut found = reader.many(
        "find old files",
        "SELECT f.id FROM files f JOIN jobs j ON j.id = f.job
         WHERE j.state NOT IN ('queued', 'retrying', 'running') AND j.updated < ?1
           AND NOT EXISTS (SELECT 1 FROM releases r WHERE r.file = f.id)
         LIMIT ?2",
        params![before, AT_ONCE],
        read,
    )?;
    found.extend(reader.many(
        "find files beyond the limit",
        "SELECT f.id FROM files f JOIN jobs j ON j.id = f.job
         WHERE j.state NOT IN ('queued', 'retrying', 'running') AND NOT EXISTS (SELECT 1 FROM releases r WHERE r.file = f.id)
         ORDER BY j.id DESC LIMIT ?2 OFFSET ?1",
        params![config.gone_files, AT_ONCE],
        read,
    )?);
    Ok(found)
}

/// Forgets these files, except those that came back in the meantime.
pub(super) fn forget(tx: &Tx<'_>, files: &[i64]) -> Result<usize, Error> {
    let mut forgotten = 0;
    for file in files {
        forgotten += tx.run(
            "forget a file",
            "DELETE FROM files WHERE id = ?1 AND state NOT IN ('queued', 'retrying', 'running')
             AND NOT EXISTS (SELECT 1 FROM releases r WHERE r.file = ?1)",
            [file],
        )?;
    }
    Ok(forgotten)
}

/// Forgets the oldest jobs of a file beyond the limit.
pub(super) fn trim(tx: &Tx<'_>, file: i64) -> Result<(), Error> {
    tx.run(
        "forget old jobs",
        "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE file = ?1 ORDER BY id DESC LIMIT -1 OFFSET ?2)
         AND state NOT IN ('queued', 'retrying', 'running')",
        params![file, tx.config().history_per_file.max(1)],
    )
    .map(drop)
}
