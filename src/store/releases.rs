//! The complete versions on disk. Exactly one version of a name is live, and each remembers which
//! one was live before it, so that a rollback goes to the right version.

use rusqlite::types::Value as Sql;
use rusqlite::{Row, params, params_from_iter};
use serde::Serialize;
use serde_json::json;

use super::Error;
use super::columns::{self, read_content, read_key};
use super::events::{self, Note};
use super::files;
use super::{Reader, Tx};
use crate::datafile::{AppId, DataName, DataVersion, Key, Sha256};
use crate::db::outbox;
use crate::job::{EventKind, JobId, Published, Reason};
use crate::shown::Release;
use crate::shown::callbacks;
use crate::wire::download;

/// Maximum steps a rollback follows to find a good version.
const CHAIN: usize = 64;

const SHOWN: &str = "SELECT * FROM releases r";

/// Returns the release of a key.
pub fn get(reader: &Reader<'_>, key: &Key) -> Result<Option<Release>, Error> {
    let sql = format!("{SHOWN} WHERE app = ?1 AND name = ?2 AND version = ?3");
    let params = params![key.app, key.name, key.version];
    reader.one("read a release", &sql, params, read)
}

/// Returns the release whose archive has the download path `path`.
pub fn by_download(reader: &Reader<'_>, path: &str) -> Result<Option<Release>, Error> {
    let sql = format!("{SHOWN} WHERE download = ?1");
    reader.one("find an archive", &sql, params![path], read)
}

/// Returns the live release of a name.
pub fn live(reader: &Reader<'_>, app: &AppId, name: &DataName) -> Result<Option<Release>, Error> {
    let sql = format!("{SHOWN} WHERE app = ?1 AND name = ?2 AND live = 1");
    reader.one("read the live release", &sql, params![app, name], read)
}

/// Returns the releases of a name, newest first.
pub fn of_name(reader: &Reader<'_>, app: &AppId, name: &DataName) -> Result<Vec<Release>, Error> {
    let sql = format!("{SHOWN} WHERE app = ?1 AND name = ?2 ORDER BY published DESC, file DESC");
    reader.many("list releases", &sql, params![app, name], read)
}

/// Returns releases ordered by application, name and age (newest first), skipping `offset` of them.
pub fn list(
    reader: &Reader<'_>,
    app: Option<&str>,
    name: Option<&str>,
    offset: u32,
    limit: u32,
) -> Result<Vec<Release>, Error> {
    // No "or not given" clause: SQLite would not use an index for it.
    let (condition, mut params) = columns::of_name(app, name);
    params.extend([Sql::from(limit), Sql::from(offset)]);
    let sql = format!(
        "{SHOWN} WHERE {condition} ORDER BY app, name, published DESC, file DESC LIMIT ? OFFSET ?"
    );
    reader.many("list releases", &sql, params_from_iter(params), read)
}

/// Totals over all releases.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Names with releases.
    pub names: u64,
    pub versions: u64,
    /// In their trees.
    pub bytes: u64,
}

/// Returns the number of names and releases, and their size.
pub fn totals(reader: &Reader<'_>) -> Result<Totals, Error> {
    let totals = reader.one(
        "count releases",
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

/// Returns the applications that have releases, with the size of their trees.
pub fn apps(reader: &Reader<'_>) -> Result<Vec<(AppId, u64)>, Error> {
    reader.many(
        "list applications",
        "SELECT app, bytes FROM release_counts ORDER BY app",
        [],
        |r| Ok((r.get("app")?, r.get("bytes")?)),
    )
}

/// Returns the names with more than `most` releases, and how many they have.
pub fn crowded(reader: &Reader<'_>, most: u32) -> Result<Vec<(AppId, DataName, u64)>, Error> {
    reader.many(
        "find names with many releases",
        "SELECT app, name, count(*) AS versions FROM releases INDEXED BY releases_by_key
         GROUP BY app, name HAVING versions > ?1",
        [most],
        |r| {
            let (app, name) = (r.get("app")?, r.get("name")?);
            Ok((app, name, r.get("versions")?))
        },
    )
}

/// Returns up to `limit` live versions, ordered by application and name.
pub fn all_live(reader: &Reader<'_>, limit: usize) -> Result<Vec<Key>, Error> {
    reader.many(
        "list what is live",
        "SELECT app, name, version FROM releases WHERE live = 1 ORDER BY app, name LIMIT ?1",
        [i64::try_from(limit).unwrap_or(i64::MAX)],
        read_key,
    )
}

/// A release in brief.
#[derive(Debug, Clone)]
pub struct Outline {
    pub key: Key,
    pub live: bool,
}

/// Returns every release in brief.
pub fn outline(reader: &Reader<'_>) -> Result<Vec<Outline>, Error> {
    reader.many(
        "list what is published",
        "SELECT app, name, version, live FROM releases",
        [],
        |row| {
            Ok(Outline {
                key: read_key(row)?,
                live: row.get("live")?,
            })
        },
    )
}

/// Returns up to `limit` damaged releases.
pub fn damaged(reader: &Reader<'_>, limit: usize) -> Result<Vec<Release>, Error> {
    let sql = format!("{SHOWN} WHERE damage IS NOT NULL ORDER BY live DESC, app, name LIMIT ?1");
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    reader.many("list damaged releases", &sql, [limit], read)
}

/// Returns the version that a rollback of a name goes to: the nearest one that was live before the
/// current one, is still on disk and is not known to be damaged; otherwise the newest good one
/// published before it.
pub fn previous(
    reader: &Reader<'_>,
    app: &AppId,
    name: &DataName,
) -> Result<Option<Release>, Error> {
    match live(reader, app, name)? {
        Some(live) => previous_of(reader, &live.key),
        None => Ok(None),
    }
}

/// Like [`previous`], as if `key` were live.
pub(super) fn previous_of(reader: &Reader<'_>, key: &Key) -> Result<Option<Release>, Error> {
    let Some(start) = files::id(reader, key)? else {
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
    let params = params![key.app, key.name, start];
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

/// Writes the release that a job has published, or marks an existing one as undamaged.
pub(super) fn publish(
    tx: &Tx<'_>,
    file: i64,
    key: &Key,
    job: JobId,
    published: &Published,
    published_ms: i64,
) -> Result<(), Error> {
    tx.run(
        "write a release",
        "INSERT INTO releases (file, app, name, version, job, size, md5, sha256, files, bytes, published, download)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (file) DO UPDATE SET job = excluded.job, size = excluded.size, md5 = excluded.md5,
             sha256 = excluded.sha256, files = excluded.files, bytes = excluded.bytes, published = excluded.published,
             damage = NULL",
        params![
            file,
            key.app,
            key.name,
            key.version,
            job,
            published.content.size,
            published.content.md5,
            published.content.sha256,
            published.files,
            published.bytes,
            published_ms,
            download::path(&key.app, key.name.as_str(), key.version.as_str()),
        ],
    )
    .map(drop)
}

/// Makes a release the live one of its name and returns the previously live version. Nothing else
/// does this. A rollback does not change the chain of earlier live versions, so that a second
/// rollback goes further back.
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
        Some(from) if reason != Reason::Rollback => files::id(tx, &from.key)?,
        _ => None,
    };
    tx.run(
        "take down the live release",
        "UPDATE releases SET live = 0 WHERE app = ?1 AND name = ?2 AND live = 1",
        params![key.app, key.name],
    )?;
    tx.run(
        "make a release live",
        "UPDATE releases SET live = 1, activated = ?4, before = coalesce(?5, before)
         WHERE app = ?1 AND name = ?2 AND version = ?3",
        params![key.app, key.name, key.version, now, before],
    )?;
    Ok(from.map(|f| f.key.version))
}

/// Protects a release from retention, or ends the protection. False if there is no such release.
pub fn set_pinned(tx: &Tx<'_>, key: &Key, pinned: bool, actor: &str) -> Result<bool, Error> {
    let changed = tx.run(
        "pin a release",
        "UPDATE releases SET pinned = ?4 WHERE app = ?1 AND name = ?2 AND version = ?3",
        params![key.app, key.name, key.version, pinned],
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

/// Records what `verify` found wrong with a release, or that it is undamaged, and reports a change.
/// A damaged release can be pushed again. False if nothing changed.
pub fn mark_damaged(tx: &Tx<'_>, key: &Key, damage: Option<&str>) -> Result<bool, Error> {
    let changed = tx.run(
        "mark a release",
        "UPDATE releases SET damage = ?4
         WHERE app = ?1 AND name = ?2 AND version = ?3 AND damage IS NOT ?4",
        params![key.app, key.name, key.version, damage],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    let (kind, note) = match damage {
        Some(what) => (callbacks::DAMAGED, Note::new(EventKind::Damaged, what)),
        None => (
            callbacks::HEALED,
            Note::new(EventKind::Healed, "matches its manifest again"),
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
        "found_at": crate::wire::time::stamp(tx.now_ms()),
    });
    outbox::enqueue(tx, kind, files::id(tx, key)?, &data)?;
    Ok(true)
}

/// Adds the SHA-256 of a release's archive, which was not computed when the archive arrived.
pub fn learn_sha256(tx: &Tx<'_>, key: &Key, sha256: Sha256) -> Result<(), Error> {
    tx.run(
        "record the SHA-256 of a release",
        "UPDATE releases SET sha256 = ?4 WHERE app = ?1 AND name = ?2 AND version = ?3 AND sha256 IS NULL",
        params![
            key.app,
            key.name,
            key.version,
            sha256
        ],
    )
    .map(drop)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Release> {
    Ok(Release {
        key: read_key(row)?,
        job: row.get("job")?,
        content: read_content(row)?,
        files: row.get("files")?,
        bytes: row.get("bytes")?,
        published_ms: row.get("published")?,
        activated_ms: row.get("activated")?,
        live: row.get("live")?,
        pinned: row.get("pinned")?,
        damage: row.get("damage")?,
        path: None,
    })
}

#[cfg(test)]
mod tests;
