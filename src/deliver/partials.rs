//! Partial archives in the spool, by key: which nobody needs any more, and removing one.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::{Road, blocking, spool_name};
use crate::datafile::Key;

impl Road {
    /// Returns the files of the spool that belong to none of the `open` keys and that `stale` agrees to.
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

    /// Removes the partial archive of a key.
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
