//! Partially received archives in the spool, one per key: opens them, and deletes those that no job
//! needs any more.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Road;
use super::Stop;
use super::threads::blocking;
use crate::datafile::{DataFile, Key};
use crate::fetch::{self, Identity, Spool};
use crate::sys::durable;

/// A younger file may be of a job that was accepted after the open ones were listed.
const JUST_NOW: Duration = Duration::from_secs(1);

impl Road {
    /// Returns where the archive of a file is received.
    pub(super) fn partial_path(&self, key: &Key) -> PathBuf {
        let spool = self.publisher.layout().spool();
        spool.join(format!("{}.partial", spool_name(key)))
    }

    /// Opens the partial archive of a file; with `fresh`, discards its content.
    pub(super) async fn open_spool(&self, file: &DataFile, fresh: bool) -> Result<Spool, Stop> {
        let dir = self.publisher.layout().spool();
        let (name, identity) = (
            spool_name(&file.key),
            Identity::new(&file.content(), &file.url),
        );
        blocking(move || {
            let mut spool = Spool::open(&dir, &name, &identity).map_err(Stop::spool)?;
            if fresh {
                spool.reset().map_err(Stop::spool)?;
            }
            Ok(spool)
        })
        .await
    }

    /// Deletes the spool files that belong to none of the `open` keys and are older than `keep` or of
    /// no use to a later push, and what an earlier process left half written. Returns how many.
    pub fn sweep_partials(&self, open: &HashSet<Key>, keep: Duration) -> u64 {
        let stale = |path: &Path| {
            age(path) > keep.max(JUST_NOW) || age(path) > JUST_NOW && !fetch::is_proven(path)
        };
        let names: HashSet<String> = open.iter().map(spool_name).collect();
        let entries = std::fs::read_dir(self.publisher.layout().spool());
        let paths = entries.into_iter().flatten().flatten().map(|e| e.path());
        let is_unneeded = |path: &PathBuf| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            let is_open = name.split('.').next().is_some_and(|n| names.contains(n));
            durable::is_left_over(name) || !is_open && stale(path)
        };
        let removed = paths
            .filter(is_unneeded)
            .filter(|path| std::fs::remove_file(path).is_ok());
        removed.count() as u64
    }

    /// Makes room: deletes the partial archives that belong to none of the `open` keys, oldest first,
    /// until `needed` bytes are freed. Returns how many.
    pub fn evict_partials(&self, open: &HashSet<Key>, needed: u64) -> u64 {
        let names: HashSet<String> = open.iter().map(spool_name).collect();
        let entries = std::fs::read_dir(self.publisher.layout().spool());
        let paths = entries.into_iter().flatten().flatten().map(|e| e.path());
        let is_ended = |path: &PathBuf| {
            let name = path.file_stem().and_then(|n| n.to_str()).unwrap_or("");
            path.extension().is_some_and(|e| e == "partial")
                && !names.contains(name)
                && age(path) > JUST_NOW
        };
        let mut ended: Vec<PathBuf> = paths.filter(is_ended).collect();
        ended.sort_by_key(|path| std::cmp::Reverse(age(path)));
        let (mut freed, mut removed) = (0, 0);
        for path in ended {
            if freed >= needed {
                break;
            }
            let length = std::fs::metadata(&path).map_or(0, |m| m.len());
            if std::fs::remove_file(&path).is_ok() {
                let _ = std::fs::remove_file(path.with_extension("meta"));
                (freed, removed) = (freed + length, removed + 1);
            }
        }
        removed
    }

    /// Deletes the partial archive of a key.
    pub async fn discard_partial(&self, key: &Key) {
        let name = spool_name(key);
        let dir = self.publisher.layout().spool();
        let _ = blocking(move || {
            for ending in ["partial", "meta"] {
                let _ = std::fs::remove_file(dir.join(format!("{name}.{ending}")));
            }
            Ok(())
        })
        .await;
    }
}

/// Returns how long ago a file was written. One that cannot be asked is old.
fn age(path: &Path) -> Duration {
    let modified = std::fs::metadata(path).and_then(|m| m.modified());
    let age = modified.map_or(Ok(Duration::MAX), |at| at.elapsed());
    age.unwrap_or_default()
}

/// Returns the spool name of a file: by key, so that a new push of a failed file resumes where it
/// stopped.
fn spool_name(key: &Key) -> String {
    use sha2::Digest as _;
    let text = format!("{}\0{}\0{}", key.app, key.name, key.version);
    hex::encode(&sha2::Sha256::digest(text.as_bytes())[..16])
}
