//! Partially received archives in the spool, one per key: opens and deletes them, and finds those
//! that no job needs any more.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::Road;
use super::Stop;
use super::threads::blocking;
use crate::datafile::{DataFile, Key};
use crate::fetch::{Identity, Spool};

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

    /// Returns the spool files that belong to none of the `open` keys and that `stale` accepts.
    #[must_use]
    pub fn stale_partials(
        &self,
        open: &HashSet<Key>,
        stale: impl Fn(&Path) -> bool,
    ) -> Vec<PathBuf> {
        let names: HashSet<String> = open.iter().map(spool_name).collect();
        let Ok(entries) = std::fs::read_dir(self.publisher.layout().spool()) else {
            return Vec::new();
        };
        let kept = |path: &Path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            names.iter().any(|n| name.starts_with(n.as_str()))
        };
        entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| !kept(p) && stale(p))
            .collect()
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
