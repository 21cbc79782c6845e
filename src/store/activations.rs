//! Which version is live, and why: requests that the runner carries out, and the audit log of every
//! change.
//!
//! Each change has a turn, `seq`, from the sequence that numbers jobs, so pushes and operators
//! share one order: that of acceptance. A change is obsolete once a change with a later turn has
//! happened or is pending ([`may_activate`]): an older push that ends later never overtakes a newer
//! one.

use std::collections::HashMap;

use rusqlite::{Row, params, params_from_iter};
use serde::Serialize;
use serde_json::json;

use super::Error;
use super::columns;
use super::events::{self, Note};
use super::releases;
use super::{ACTIVATIONS, files};
use super::{Reader, Tx};
use crate::datafile::{AppId, DataName, DataVersion, Key};
use crate::db::outbox;
use crate::job::{EventKind, JobId, Reason};
use crate::shown::callbacks;
use crate::shown::{Activation, Release};
use crate::wire::time::stamp;

/// A request to make a version live.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub key: &'a Key,
    pub reason: Reason,
    /// Who asked.
    pub actor: &'a str,
    /// The push it belongs to, if any.
    pub job: Option<JobId>,
}

/// Result of a request to make a version live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Requested {
    /// Pending, under this number; the runner will carry it out.
    Waiting(i64, DataVersion),
    /// It is live, or the latest request already asks for it.
    AlreadyLive(DataVersion),
    /// Not on disk.
    Unknown,
    /// On disk, but damaged.
    Damaged,
    /// There is no version to roll back to.
    NothingBefore,
}

/// Asks the runner to make a version live.
pub fn request(tx: &Tx<'_>, request: &Request<'_>) -> Result<Requested, Error> {
    let Some(release) = releases::get(tx, request.key)? else {
        return Ok(Requested::Unknown);
    };
    if release.damage.is_some() {
        return Ok(Requested::Damaged);
    }
    let version = release.key.version.clone();
    if wanted(tx, &release.key.app, &release.key.name)?.as_ref() == Some(&version) {
        // It still takes a new turn if an open job of an older push would overtake it.
        if has_open_job(tx, &release.key)? {
            claim(tx, &release, request)?;
        }
        return Ok(Requested::AlreadyLive(version));
    }
    let id = insert(tx, request, files::next_seq(tx)?)?;
    tx.touch(ACTIVATIONS);
    Ok(Requested::Waiting(id, version))
}

/// Asks the runner to make `current` lead to the live version, which it does not, unless that is
/// requested already.
pub fn request_link(tx: &Tx<'_>, request: &Request<'_>) -> Result<(), Error> {
    if !is_pending(tx, request.key)? {
        insert(tx, request, files::next_seq(tx)?)?;
        tx.touch(ACTIVATIONS);
    }
    Ok(())
}

/// Asks the runner to roll a name back to its previous good version, as seen once all pending
/// requests are carried out.
pub fn request_rollback(
    tx: &Tx<'_>,
    app: &AppId,
    name: &DataName,
    actor: &str,
) -> Result<Requested, Error> {
    let Some(version) = wanted(tx, app, name)? else {
        return Ok(Requested::Unknown);
    };
    let from = Key {
        app: app.clone(),
        name: name.clone(),
        version,
    };
    let Some(previous) = releases::previous_of(tx, &from)? else {
        return Ok(Requested::NothingBefore);
    };
    request(
        tx,
        &Request {
            key: &previous.key,
            reason: Reason::Rollback,
            actor,
            job: None,
        },
    )
}

/// Returns the pending requests, in order. A `superseded` one must be ended with an error, not
/// carried out.
pub fn pending(reader: &Reader<'_>) -> Result<Vec<Activation>, Error> {
    let sql = format!("{SHOWN} WHERE a.done IS NULL ORDER BY a.seq");
    reader.many("find waiting activations", &sql, [], read)
}

/// Ends a request: the link was flipped, or `error` says why not. Returns false if it had already
/// ended.
pub fn done(tx: &Tx<'_>, id: i64, error: Option<&str>) -> Result<bool, Error> {
    let sql = format!("{SHOWN} WHERE a.id = ?1 AND a.done IS NULL");
    let Some(row) = tx.one("find an activation", &sql, [id], read)? else {
        return Ok(false);
    };
    let from = match error {
        None => releases::set_live(tx, &row.key, row.reason)?,
        Some(_) => releases::live(tx, &row.key.app, &row.key.name)?.map(|r| r.key.version),
    };
    tx.run(
        "end an activation",
        "UPDATE activations SET done = ?2, error = ?3, from_version = ?4 WHERE id = ?1",
        params![id, tx.now_ms(), error, from],
    )?;
    // Whoever made the request is waiting for its end.
    tx.touch(ACTIVATIONS);
    let flip = Flip {
        key: &row.key,
        reason: row.reason,
        actor: &row.actor,
        job: row.job,
        seq: row.seq,
    };
    match error {
        None => tell(tx, &flip, from.as_ref(), row.requested_ms)?,
        Some(error) => {
            let message = format!("not made live: {error}");
            events::add_for_file(tx, &row.key, Note::new(EventKind::NotActivated, &message))?;
        }
    }
    Ok(true)
}

/// A change of the live version that has happened.
#[derive(Debug, Clone, Copy)]
pub struct Flip<'a> {
    /// The version that is now live.
    pub key: &'a Key,
    pub reason: Reason,
    /// Who asked.
    pub actor: &'a str,
    /// The push it belongs to, if any.
    pub job: Option<JobId>,
    /// Its turn.
    pub seq: i64,
}

/// Records a change that happened without a request: updates the release, the audit log, the
/// timeline and the callbacks.
pub fn record(tx: &Tx<'_>, flip: &Flip<'_>) -> Result<(), Error> {
    let from = releases::set_live(tx, flip.key, flip.reason)?;
    let request = Request {
        key: flip.key,
        reason: flip.reason,
        actor: flip.actor,
        job: flip.job,
    };
    let id = insert(tx, &request, flip.seq)?;
    tx.run(
        "end an activation",
        "UPDATE activations SET done = requested, from_version = ?2 WHERE id = ?1",
        params![id, from],
    )?;
    tell(tx, flip, from.as_ref(), tx.now_ms())
}

/// Returns the live version of a name, unless an open job or a pending request would make another
/// one live.
pub fn settled_live(
    reader: &Reader<'_>,
    app: &AppId,
    name: &DataName,
) -> Result<Option<Key>, Error> {
    let Some(live) = releases::live(reader, app, name)?.map(|row| row.key) else {
        return Ok(None);
    };
    let settled =
        wanted(reader, app, name)?.as_ref() == Some(&live.version) && !has_open_job(reader, &live)?;
    Ok(settled.then_some(live))
}

/// Returns the versions of a name that another one has replaced as the live one, each with when it
/// last was.
pub fn taken_down(
    reader: &Reader<'_>,
    app: &AppId,
    name: &DataName,
) -> Result<HashMap<DataVersion, i64>, Error> {
    let rows = reader.many(
        "find what was live",
        "SELECT from_version, max(done) AS done FROM activations
         WHERE app = ?1 AND name = ?2 AND done IS NOT NULL AND error IS NULL
           AND from_version IS NOT NULL AND from_version <> to_version GROUP BY from_version",
        params![app, name],
        |r| Ok((r.get("from_version")?, r.get("done")?)),
    )?;
    Ok(rows.into_iter().collect())
}

/// Makes this version live because `current` points to it while the table says otherwise: the disk
/// decides. Returns whether the version is known and was not live.
pub fn trust_link(tx: &Tx<'_>, key: &Key) -> Result<bool, Error> {
    let Some(release) = releases::get(tx, key)? else {
        return Ok(false);
    };
    if release.live {
        return Ok(false);
    }
    let flip = Flip {
        key,
        reason: Reason::Recover,
        actor: "recover",
        job: Some(release.job),
        seq: files::seq(tx, release.job)?,
    };
    record(tx, &flip)?;
    Ok(true)
}

/// Returns whether a change with this turn may still happen: none with a later turn has happened or
/// is pending.
pub fn may_activate(
    reader: &Reader<'_>,
    app: &AppId,
    name: &DataName,
    seq: i64,
) -> Result<bool, Error> {
    let newer = reader.number(
        "find a newer activation",
        "SELECT EXISTS (SELECT 1 FROM activations WHERE app = ?1 AND name = ?2 AND seq > ?3 AND error IS NULL)",
        params![app, name, seq],
    )?;
    Ok(newer == 0)
}

/// Returns whether the version of a job may go live when it is published; see [`may_activate`]. A
/// job that was pushed again while it ran has the turn of the later push.
pub fn job_may_activate(reader: &Reader<'_>, key: &Key, job: JobId) -> Result<bool, Error> {
    may_activate(reader, &key.app, &key.name, files::seq(reader, job)?)
}

/// Gives a job that is pushed again while it runs a new turn, if a later turn has been taken in the
/// meantime.
pub fn renew_turn(tx: &Tx<'_>, key: &Key, job: JobId) -> Result<(), Error> {
    if job_may_activate(tx, key, job)? {
        return Ok(());
    }
    let seq = files::next_seq(tx)?;
    files::set_seq(tx, job, seq)
}

/// Returns the audit log, newest first, skipping `offset` rows; optionally only of an application
/// or a name.
pub fn log(
    reader: &Reader<'_>,
    app: Option<&str>,
    name: Option<&str>,
    offset: u32,
    limit: u32,
) -> Result<Vec<Activation>, Error> {
    let (condition, mut params) = columns::of_name(app, name);
    params.extend([limit.into(), offset.into()]);
    // With a name given, its few rows are found by index and sorted. The plus keeps SQLite from
    // scanning all rows in order instead.
    let order = if name.is_some() { "+a.id" } else { "a.id" };
    let sql = format!("{SHOWN} WHERE {condition} ORDER BY {order} DESC LIMIT ? OFFSET ?");
    reader.many("read the audit log", &sql, params_from_iter(params), read)
}

/// Returns one row of the audit log.
pub fn get(reader: &Reader<'_>, id: i64) -> Result<Option<Activation>, Error> {
    let sql = format!("{SHOWN} WHERE a.id = ?1");
    reader.one("read an activation", &sql, [id], read)
}

/// Returns whether a request to make a version live is pending.
pub(super) fn is_pending(reader: &Reader<'_>, key: &Key) -> Result<bool, Error> {
    let waiting = reader.number(
        "find a pending activation",
        "SELECT EXISTS (SELECT 1 FROM activations WHERE app = ?1 AND name = ?2 AND to_version = ?3 AND done IS NULL)",
        params![key.app, key.name, key.version],
    )?;
    Ok(waiting == 1)
}

/// Returns the version that is live once all pending requests are carried out.
fn wanted(reader: &Reader<'_>, app: &AppId, name: &DataName) -> Result<Option<DataVersion>, Error> {
    let waiting = reader.one(
        "find the latest request",
        "SELECT to_version FROM activations WHERE app = ?1 AND name = ?2 AND done IS NULL ORDER BY seq DESC LIMIT 1",
        params![app, name],
        |r| r.get("to_version"),
    )?;
    match waiting {
        Some(version) => Ok(Some(version)),
        None => Ok(releases::live(reader, app, name)?.map(|r| r.key.version)),
    }
}

/// Returns whether an open job would make another version of the name live.
fn has_open_job(reader: &Reader<'_>, key: &Key) -> Result<bool, Error> {
    let open = reader.number(
        "find running pushes of a name",
        "SELECT EXISTS (SELECT 1 FROM jobs j JOIN files f ON f.id = j.file
             WHERE j.state IN ('queued', 'retrying', 'running') AND j.activate = 1
               AND f.app = ?1 AND f.name = ?2 AND f.version <> ?3)",
        params![key.app, key.name, key.version],
    )?;
    Ok(open == 1)
}

/// Takes a turn for a version that is already live or about to be.
fn claim(tx: &Tx<'_>, release: &Release, request: &Request<'_>) -> Result<(), Error> {
    let id = insert(tx, request, files::next_seq(tx)?)?;
    if release.live {
        tx.run(
            "end an activation",
            "UPDATE activations SET done = requested, from_version = to_version WHERE id = ?1",
            [id],
        )?;
    } else {
        tx.touch(ACTIVATIONS);
    }
    Ok(())
}

fn insert(tx: &Tx<'_>, request: &Request<'_>, seq: i64) -> Result<i64, Error> {
    let key = request.key;
    let id = tx.insert(
        "enter an activation",
        "INSERT INTO activations (app, name, to_version, reason, actor, job, seq, requested)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            key.app,
            key.name,
            key.version,
            request.reason,
            request.actor,
            request.job,
            seq,
            tx.now_ms(),
        ],
    )?;
    tx.run(
        "trim the audit log",
        "DELETE FROM activations WHERE done IS NOT NULL AND id IN (
             SELECT id FROM activations WHERE app = ?1 AND name = ?2 ORDER BY seq DESC LIMIT -1 OFFSET ?3)",
        params![
            key.app,
            key.name,
            tx.config().audit_per_name.max(1)
        ],
    )?;
    Ok(id)
}

fn tell(
    tx: &Tx<'_>,
    flip: &Flip<'_>,
    from: Option<&DataVersion>,
    requested_ms: i64,
) -> Result<(), Error> {
    let key = flip.key;
    let (kind, event) = match flip.reason {
        Reason::Rollback => (callbacks::ROLLED_BACK, EventKind::RolledBack),
        Reason::Push | Reason::Repush | Reason::Activate | Reason::Recover => {
            (callbacks::ACTIVATED, EventKind::Activated)
        }
    };
    let message = match from {
        Some(from) if *from != key.version => {
            format!(
                "live instead of {from} ({} by {})",
                flip.reason.as_str(),
                flip.actor
            )
        }
        _ => format!("live ({} by {})", flip.reason.as_str(), flip.actor),
    };
    let data = json!({
        "app": key.app,
        "name": key.name,
        "version": key.version,
        "from_version": from,
        "reason": flip.reason,
        "actor": flip.actor,
        "job": flip.job,
        "seq": flip.seq,
        "requested_at": stamp(requested_ms),
        "activated_at": stamp(tx.now_ms()),
    });
    let file = files::id(tx, key)?;
    if let Some(file) = file {
        let note = Note::new(event, &message).data(data.clone());
        events::write(tx, Some((file, key.clone())), flip.job, note)?;
    }
    outbox::enqueue(tx, kind, file, &data)
}

const SHOWN: &str = "SELECT a.*, EXISTS (SELECT 1 FROM activations b
         WHERE b.app = a.app AND b.name = a.name AND b.seq > a.seq AND b.error IS NULL AND a.done IS NULL) AS superseded
     FROM activations a";

fn read(row: &Row<'_>) -> rusqlite::Result<Activation> {
    Ok(Activation {
        id: row.get("id")?,
        key: Key {
            app: row.get("app")?,
            name: row.get("name")?,
            version: row.get("to_version")?,
        },
        from_version: row.get("from_version")?,
        reason: row.get("reason")?,
        actor: row.get("actor")?,
        job: row.get("job")?,
        seq: row.get("seq")?,
        requested_ms: row.get("requested")?,
        done_ms: row.get("done")?,
        error: row.get("error")?,
        superseded: row.get("superseded")?,
    })
}

#[cfg(test)]
mod tests;
