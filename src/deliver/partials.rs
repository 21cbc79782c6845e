//! Partially received archives in the spool, one per key: opens them, and deletes those that no job
//! needs any more.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::Road;
use super::Stop;
use super::threads::blocking;
use crate::datafile::{DataFile, Key};
use crate::fetch::{Identity, Spool};
use crate::sys::durable;

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

    /// Deletes the spool files that belong to none of the `open` keys and that `stale` accepts, and
    /// what an earlier process left half written. Returns how many.
    pub fn sweep_partials(&self, open: &HashSet<Key>, stale: impl Fn(&Path) -> bool) -> u64 {
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

/// Returns the spool name of a file: by key, so that a new push of a failed file resumes where it
/// stopped.
fn spool_name(key: &Key) -> String {
    use sha2::Digest as _;
    let text = format!("{}\0{}\0{}", key.app, key.name, key.version);
    hex::encode(&sha2::Sha256::digest(text.as_bytes())[..16])
}
