//! The versions that are on the disk, whole: exactly one of a name is live, and each remembers what was live before it,
//! so that a rollback goes where it should.

use rusqlite::types::Value as Sql;
use rusqlite::{Row, params, params_from_iter};
use serde::Serialize;
use serde_json::json;

use super::activations::{self, Flip, Reason};
use super::error::Error;
use super::events::{self, Note};
use super::jobs;
use super::outbox;
use super::sql::{self, Reader, Tx, read_content, read_key};
use crate::datafile::{AppId, ArchiveType, Content, DataName, DataVersion, Key, Sha256};
use crate::job::{EventKind, JobId, Published};

/// How far back a rollback looks for a good version.
const CHAIN: usize = 64;

/// A version on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReleaseRow {
    /// The file.
    #[serde(flatten)]
    pub key: Key,
    /// The job that published it.
    pub job: JobId,
    /// Size and digests of its archive.
    #[serde(flatten)]
    pub content: Content,
    /// Files in the tree.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// When it was published.
    pub published_ms: i64,
    /// When it last became live.
    pub activated_ms: Option<i64>,
    /// Whether it is `current`.
    pub live: bool,
    /// Whether retention must leave it alone.
    pub pinned: bool,
    /// What `verify` found wrong with it.
    pub damage: Option<String>,
}

const SHOWN: &str = "SELECT * FROM releases r";

/// Returns the release of a key.
pub fn get(reader: &Reader<'_>, key: &Key) -> Result<Option<ReleaseRow>, Error> {
    let sql = format!("{SHOWN} WHERE app = ?1 AND name = ?2 AND version = ?3");
    let params = params![key.app.as_str(), key.name.as_str(), key.version.as_str()];
    reader.one("read a release", &sql, params, read)
}

/// Returns the live release of a name.
pub fn live(
    reader: &Reader<'_>,
    app: &AppId,
    name: &DataName,
) -> Result<Option<ReleaseRow>, Error> {
    let sql = format!("{SHOWN} WHERE app = ?1 AND name = ?2 AND live = 1");
    reader.one(
        "read the live release",
        &sql,
        params![app.as_str(), name.as_str()],
        read,
    )
}

/// Returns the releases of a name, newest first.
pub fn of_name(
    reader: &Reader<'_>,
    app: &AppId,
    name: &DataName,
) -> Result<Vec<ReleaseRow>, Error> {
    let sql = format!("{SHOWN} WHERE app = ?1 AND name = ?2 ORDER BY published DESC, file DESC");
    reader.many(
        "list releases",
        &sql,
        params![app.as_str(), name.as_str()],
        read,
    )
}

/// Returns releases in the order of application, name and age (newest first), after the first `offset` of them.
pub fn list(
    reader: &Reader<'_>,
    app: Option<&str>,
    name: Option<&str>,
    offset: u32,
    limit: u32,
) -> Result<Vec<ReleaseRow>, Error> {
    // No clause that says "or not given": an index is only used for what is.
    let (condition, mut params) = sql::of_name(app, name);
    params.extend([Sql::from(limit), Sql::from(offset)]);
    let sql = format!(
        "{SHOWN} WHERE {condition} ORDER BY app, name, published DESC, file DESC LIMIT ? OFFSET ?"
    );
    reader.many("list releases", &sql, params_from_iter(params), read)
}

/// How much there is of everything.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Names with releases.
    pub names: u64,
    /// Releases.
    pub versions: u64,
    /// Bytes in their trees.
    pub bytes: u64,
}

/// Returns how many names and releases there are, and how much they take.
pub fn totals(reader: &Reader<'_>) -> Result<Totals, Error> {
    let totals = reader.one(
        "read how many releases there are",
        "SELECT sum(names) AS names, sum(versions) AS versions, sum(bytes) AS bytes FROM release_counts",
        [],
        |r| {
            let number = |column| r.get::<_, Option<u64>>(column).map(Option::unwrap_or_default);
            Ok(Totals {
                names: number("names")?,
                versions: number("versions")?,
                bytes: number("bytes")?,
            })
        },
    )?;
    Ok(totals.unwrap_or_default())
}

/// Returns the applications that have releases, and the bytes in the trees of each.
pub fn apps(reader: &Reader<'_>) -> Result<Vec<(AppId, u64)>, Error> {
    reader.many(
        "list applications",
        "SELECT app, bytes FROM release_counts ORDER BY app",
        [],
        |r| Ok((sql::typed(r, "app")?, r.get("bytes")?)),
    )
}

/// Returns the names that have more than `most` releases, and how many.
pub fn crowded(reader: &Reader<'_>, most: u32) -> Result<Vec<(AppId, DataName, u64)>, Error> {
    reader.many(
        "look for names with many releases",
        "SELECT app, name, count(*) AS versions FROM releases INDEXED BY releases_by_key
         GROUP BY app, name HAVING versions > ?1",
        [most],
        |r| {
            let (app, name) = (sql::typed(r, "app")?, sql::typed(r, "name")?);
            Ok((app, name, r.get("versions")?))
        },
    )
}

/// Returns up to `limit` live versions, in the order of application and name.
pub fn all_live(reader: &Reader<'_>, limit: usize) -> Result<Vec<Key>, Error> {
    reader.many(
        "list what is live",
        "SELECT app, name, version FROM releases WHERE live = 1 ORDER BY app, name LIMIT ?1",
        [i64::try_from(limit).unwrap_or(i64::MAX)],
        read_key,
    )
}

/// Returns the version that a rollback of a name goes to: the nearest one that was live before the present one, is still
/// on the disk and is not known to be damaged; failing that, the newest good one published before it.
pub fn previous(
    reader: &Reader<'_>,
    app: &AppId,
    name: &DataName,
) -> Result<Option<ReleaseRow>, Error> {
    match live(reader, app, name)? {
        Some(live) => previous_of(reader, &live.key),
        None => Ok(None),
    }
}

/// As [`previous`], as if `key` were live.
pub(super) fn previous_of(reader: &Reader<'_>, key: &Key) -> Result<Option<ReleaseRow>, Error> {
    let Some(start) = jobs::file_id(reader, key)? else {
        return Ok(None);
    };
    let mut seen = vec![start];
    while let Some(before) = before(reader, seen[seen.len() - 1])? {
        if seen.contains(&before) || seen.len() > CHAIN {
            break;
        }
        seen.push(before);
        let good = format!("{SHOWN} WHERE file = ?1 AND damage IS NULL");
        if let Some(row) = reader.one("read a release", &good, [before], read)? {
            return Ok(Some(row));
        }
    }
    let older = format!(
        "{SHOWN} WHERE app = ?1 AND name = ?2 AND damage IS NULL AND file <> ?3
         AND (published, file) < (SELECT published, file FROM releases WHERE file = ?3)
         ORDER BY published DESC, file DESC LIMIT 1"
    );
    let params = params![key.app.as_str(), key.name.as_str(), start];
    reader.one("find an older release", &older, params, read)
}

fn before(reader: &Reader<'_>, file: i64) -> Result<Option<i64>, Error> {
    let found = reader.one(
        "find what was live before",
        "SELECT before FROM releases WHERE file = ?1",
        [file],
        |r| r.get::<_, Option<i64>>(0),
    )?;
    Ok(found.flatten())
}

/// Writes the release that a job has published, or heals the one that is there.
pub(super) fn publish(
    tx: &Tx<'_>,
    key: &Key,
    job: JobId,
    published: &Published,
) -> Result<(), Error> {
    let Some(file) = jobs::file_id(tx, key)? else {
        return Ok(());
    };
    write(tx, file, key, job, published, tx.now_ms())
}

fn write(
    tx: &Tx<'_>,
    file: i64,
    key: &Key,
    job: JobId,
    published: &Published,
    published_ms: i64,
) -> Result<(), Error> {
    tx.run(
        "write a release",
        "INSERT INTO releases (file, app, name, version, job, size, md5, sha256, files, bytes, published)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (file) DO UPDATE SET job = excluded.job, size = excluded.size, md5 = excluded.md5,
             sha256 = excluded.sha256, files = excluded.files, bytes = excluded.bytes, published = excluded.published,
             damage = NULL",
        params![
            file,
            key.app.as_str(),
            key.name.as_str(),
            key.version.as_str(),
            job.0,
            published.content.size,
            published.content.md5.map(|d| d.to_string()),
            published.content.sha256.map(|d| d.to_string()),
            published.files,
            published.bytes,
            published_ms,
        ],
    )
    .map(drop)
}

/// Makes a release the live one of its name and returns the version that was live before; the one place that does. A
/// rollback leaves the chain of what was live before as it is, so that a second rollback goes further back.
pub(super) fn set_live(
    tx: &Tx<'_>,
    key: &Key,
    reason: Reason,
) -> Result<Option<DataVersion>, Error> {
    let now = tx.now_ms();
    let from = live(tx, &key.app, &key.name)?;
    if from.as_ref().is_some_and(|f| f.key == *key) {
        return Ok(from.map(|f| f.key.version));
    }
    let before = match &from {
        Some(from) if reason != Reason::Rollback => jobs::file_id(tx, &from.key)?,
        _ => None,
    };
    tx.run(
        "take down the live release",
        "UPDATE releases SET live = 0 WHERE app = ?1 AND name = ?2 AND live = 1",
        params![key.app.as_str(), key.name.as_str()],
    )?;
    tx.run(
        "make a release live",
        "UPDATE releases SET live = 1, activated = ?4, before = coalesce(?5, before)
         WHERE app = ?1 AND name = ?2 AND version = ?3",
        params![
            key.app.as_str(),
            key.name.as_str(),
            key.version.as_str(),
            now,
            before
        ],
    )?;
    Ok(from.map(|f| f.key.version))
}

/// Protects a release from retention, or ends that. False if there is no such release.
pub fn set_pinned(tx: &Tx<'_>, key: &Key, pinned: bool, actor: &str) -> Result<bool, Error> {
    let changed = tx.run(
        "pin a release",
        "UPDATE releases SET pinned = ?4 WHERE app = ?1 AND name = ?2 AND version = ?3",
        params![
            key.app.as_str(),
            key.name.as_str(),
            key.version.as_str(),
            pinned
        ],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    let (kind, verb) = if pinned {
        (EventKind::Pinned, "pinned")
    } else {
        (EventKind::Unpinned, "no longer pinned")
    };
    let message = format!("{verb} by {actor}");
    events::add_for_file(tx, key, Note::new(kind, &message))?;
    Ok(true)
}

/// Notes what `verify` found wrong with a release, or that nothing is, and reports a change. A damaged release can be
/// pushed again. False if it was known already.
pub fn mark_damaged(tx: &Tx<'_>, key: &Key, damage: Option<&str>) -> Result<bool, Error> {
    let changed = tx.run(
        "mark a release",
        "UPDATE releases SET damage = ?4
         WHERE app = ?1 AND name = ?2 AND version = ?3 AND damage IS NOT ?4",
        params![
            key.app.as_str(),
            key.name.as_str(),
            key.version.as_str(),
            damage
        ],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    let (kind, note) = match damage {
        Some(what) => (outbox::DAMAGED, Note::new(EventKind::Damaged, what)),
        None => (
            outbox::HEALED,
            Note::new(EventKind::Healed, "found whole again"),
        ),
    };
    events::add_for_file(tx, key, note)?;
    let Some(row) = get(tx, key)? else {
        return Ok(true);
    };
    let data = json!({
        "app": key.app,
        "name": key.name,
        "version": key.version,
        "job": row.job,
        "live": row.live,
        "damage": damage,
        "found_at": crate::sys::clock::stamp(tx.now_ms()),
    });
    outbox::enqueue(tx, kind, jobs::file_id(tx, key)?, Some(row.job), &data)?;
    Ok(true)
}

/// Notes the SHA-256 of a release's archive, which nobody had asked for when it arrived.
pub fn learn_sha256(tx: &Tx<'_>, key: &Key, sha256: Sha256) -> Result<(), Error> {
    tx.run(
        "note the SHA-256 of a release",
        "UPDATE releases SET sha256 = ?4 WHERE app = ?1 AND name = ?2 AND version = ?3 AND sha256 IS NULL",
        params![
            key.app.as_str(),
            key.name.as_str(),
            key.version.as_str(),
            sha256.to_string()
        ],
    )
    .map(drop)
}

/// What became of a wish to remove a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removal {
    /// Its row is gone; the tree may go.
    Done,
    /// There is no such release.
    Unknown,
    /// It is live: something else must become live first.
    Live,
    /// It is about to become live: that was asked for, and waits.
    Wanted,
    /// It is pinned.
    Pinned,
}

/// Removes the row of a release, tells the timeline and the callbacks. Those that are live, about to be, or pinned are refused. Commit this
/// before the tree is deleted: a tree without a row is swept at the next start, a row without a tree would be a lie.
pub fn remove(tx: &Tx<'_>, key: &Key, why: &str, actor: &str) -> Result<Removal, Error> {
    let Some(row) = get(tx, key)? else {
        return Ok(Removal::Unknown);
    };
    if row.live {
        return Ok(Removal::Live);
    }
    if row.pinned {
        return Ok(Removal::Pinned);
    }
    if activations::waits(tx, key)? {
        return Ok(Removal::Wanted);
    }
    let Some(file) = jobs::file_id(tx, key)? else {
        return Ok(Removal::Unknown);
    };
    tx.run(
        "close the chain around a release",
        "UPDATE releases SET before = (SELECT gone.before FROM releases gone WHERE gone.file = ?1) WHERE before = ?1",
        [file],
    )?;
    tx.run(
        "remove a release",
        "DELETE FROM releases WHERE file = ?1",
        [file],
    )?;
    let message = format!("removed by {actor}: {why}");
    events::add_for_file(
        tx,
        key,
        Note::new(EventKind::Removed, &message).bytes(row.bytes),
    )?;
    let data = json!({
        "app": key.app,
        "name": key.name,
        "version": key.version,
        "job": row.job,
        "reason": why,
        "actor": actor,
        "bytes": row.bytes,
        "files": row.files,
        "removed_at": crate::sys::clock::stamp(tx.now_ms()),
    });
    outbox::enqueue(tx, outbox::REMOVED, Some(file), Some(row.job), &data)?;
    Ok(Removal::Done)
}

/// A version that was found on the disk with its manifest.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which version.
    pub key: Key,
    /// How its archive was packed.
    pub archive_type: ArchiveType,
    /// The job that published it, by its manifest.
    pub job: JobId,
    /// What it holds.
    pub published: Published,
    /// When it was published.
    pub published_ms: i64,
    /// Whether `current` points to it.
    pub live: bool,
}

/// Enters a version that was found on the disk, for a rebuilt database. Nothing happens where the key is known already.
pub fn restore(tx: &Tx<'_>, found: &Found) -> Result<bool, Error> {
    let (key, live) = (&found.key, found.live);
    if get(tx, key)?.is_some() {
        return Ok(false);
    }
    let (file, job) = jobs::insert_recovered(tx, found)?;
    write(tx, file, key, job, &found.published, found.published_ms)?;
    events::add_for_file(
        tx,
        key,
        Note::new(EventKind::Recovered, "found on the disk and entered again"),
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

fn read(row: &Row<'_>) -> rusqlite::Result<ReleaseRow> {
    Ok(ReleaseRow {
        key: read_key(row)?,
        job: JobId(row.get("job")?),
        content: read_content(row)?,
        files: row.get("files")?,
        bytes: row.get("bytes")?,
        published_ms: row.get("published")?,
        activated_ms: row.get("activated")?,
        live: row.get("live")?,
        pinned: row.get("pinned")?,
        damage: row.get("damage")?,
    })
}

#[cfg(test)]
mod tests;
