//! Removing a release from the database, before its tree goes.

use serde::Serialize;
use serde_json::json;

use super::Error;
use super::Tx;
use super::activations;
use super::events::{self, Note};
use super::files;
use super::releases;
use crate::datafile::Key;
use crate::db::outbox;
use crate::job::EventKind;
use crate::shown::callbacks;
use crate::sys::clock::stamp;

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

/// Removes the row of a release, tells the timeline and the callbacks. Those that are live, about
/// to be, or pinned are refused. Commit this before the tree is deleted: a tree without a row is
/// swept at the next start, a row without a tree would be a lie.
pub fn release(tx: &Tx<'_>, key: &Key, why: &str, actor: &str) -> Result<Removal, Error> {
    let Some(row) = releases::get(tx, key)? else {
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
    let Some(file) = files::id(tx, key)? else {
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
        "removed_at": stamp(tx.now_ms()),
    });
    outbox::enqueue(tx, callbacks::REMOVED, Some(file), &data)?;
    Ok(Removal::Done)
}
