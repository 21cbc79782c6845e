//! Removes a release from the database. This is committed before the tree is deleted: a crash in
//! between leaves a tree without a row, never the reverse.

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
use crate::wire::time::stamp;

/// Result of a request to remove a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removal {
    /// The row is gone; the tree may be deleted.
    Done,
    Unknown,
    /// It is live: another version must go live first.
    Live,
    /// It is about to go live: a request for it is pending.
    Wanted,
    Pinned,
}

/// Removes the row of a release and reports that in the timeline and in callbacks. Refuses releases
/// that are live, about to be, or pinned. Commit this before deleting the tree: a tree without a
/// row is cleaned up at the next start, while a row without a tree would claim a version that is
/// not there.
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
    if activations::is_pending(tx, key)? {
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
