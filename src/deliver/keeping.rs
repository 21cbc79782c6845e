//! What the runner wants of published versions beside the road: which may go, whether one is whole, what is on the disk.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Road, Stop, blocking, spool_name};
use crate::datafile::{AppId, Key};
use crate::job::Failure;
pub use crate::publish::check::Depth;
use crate::publish::check::Report;
use crate::publish::manifest::Head;
use crate::publish::vacuum;

/// A version when it is decided what stays.
pub type Candidate = vacuum::Candidate<Key>;
/// What the verification of a version has found.
pub type Damaged = Report;

/// How the verification of a version ended.
#[derive(Debug, Clone)]
pub enum Verification {
    /// The tree is what its manifest says.
    Whole(Report),
    /// It is not.
    Damaged(Report),
    /// It could not be compared.
    Failed(Failure),
}

impl Road {
    /// Returns the versions of one name of `app` that are more than are kept, oldest first.
    #[must_use]
    pub fn surplus(&self, app: &AppId, versions: &[Candidate]) -> Vec<Key> {
        vacuum::surplus(versions, self.publisher.config().keep_of(app))
    }

    /// Returns the versions of `app` that take more room than it may have, oldest first.
    #[must_use]
    pub fn oversize(&self, app: &AppId, versions: &[Candidate]) -> Vec<Key> {
        let limits = self.publisher.config().bytes_of(app);
        limits.map_or_else(Vec::new, |(max, low)| vacuum::oversize(versions, max, low))
    }

    /// Tells whether the room of `app` is limited.
    #[must_use]
    pub fn limits_room_of(&self, app: &AppId) -> bool {
        self.publisher.config().bytes_of(app).is_some()
    }

    /// Returns how many versions of a name of `app` are kept.
    #[must_use]
    pub fn kept_of(&self, app: &AppId) -> u32 {
        self.publisher.config().keep_of(app)
    }

    /// Returns the fewest versions that are kept of any name.
    #[must_use]
    pub fn least_kept(&self) -> u32 {
        let config = self.publisher.config();
        let of_apps = config.apps.values().filter_map(|app| app.keep_versions);
        of_apps.fold(config.keep_versions, u32::min)
    }

    /// Tells whether the trees of `app` take more room than they may once they take `bytes`.
    #[must_use]
    pub fn takes_too_much(&self, app: &AppId, bytes: u64) -> bool {
        let limits = self.publisher.config().bytes_of(app);
        limits.is_some_and(|(max, _)| bytes > max)
    }

    /// Tells whether a program holds the version's directory by a lock.
    pub async fn is_held(&self, key: &Key) -> bool {
        let (publisher, key) = (Arc::clone(&self.publisher), key.clone());
        blocking(move || Ok(publisher.is_held(&key)))
            .await
            .unwrap_or(false)
    }

    /// Tells what forbids to take the version's directory out of its place.
    pub async fn is_fixed(&self, key: &Key) -> Option<&'static str> {
        let (publisher, key) = (Arc::clone(&self.publisher), key.clone());
        let looked = blocking(move || Ok(publisher.is_fixed(&key)));
        looked.await.unwrap_or(None)
    }

    /// Tells whether the version's tree is on the disk.
    pub async fn exists(&self, key: &Key) -> bool {
        let (publisher, key) = (Arc::clone(&self.publisher), key.clone());
        blocking(move || Ok(publisher.layout().version_dir(&key).is_dir()))
            .await
            .unwrap_or(true)
    }

    /// Takes a version off the node, and returns the directory that is left to be deleted.
    pub async fn remove(&self, key: &Key) -> Result<PathBuf, Stop> {
        let (publisher, key) = (Arc::clone(&self.publisher), key.clone());
        blocking(move || publisher.remove(&key).map_err(Stop::publish)).await
    }

    /// Deletes a directory that [`Road::remove`] has left, in the background.
    pub fn delete(&self, trash: PathBuf) {
        let publisher = Arc::clone(&self.publisher);
        tokio::task::spawn_blocking(move || publisher.delete(&trash));
    }

    /// Returns every version that the disk knows, and whether it is live.
    pub async fn survey(&self) -> Result<Vec<(Head, bool)>, Stop> {
        let publisher = Arc::clone(&self.publisher);
        blocking(move || Ok(publisher.survey().map_err(Stop::publish)?.versions)).await
    }

    /// Compares a published tree with its manifest, to the `depth` that is asked for and reading at most `rate` bytes a
    /// second. Breaks off when `stop` is cancelled.
    pub async fn verify(
        &self,
        key: &Key,
        depth: Depth,
        rate: Option<u64>,
        stop: CancellationToken,
    ) -> Result<Verification, Stop> {
        let (publisher, key) = (Arc::clone(&self.publisher), key.clone());
        blocking(move || {
            let mut pace = Pace::new(rate);
            let report = publisher
                .verify(&key, depth, &mut |bytes| {
                    pace.take(bytes);
                    !stop.is_cancelled()
                })
                .map_err(Stop::publish)?;
            let whole = report.damaged == 0;
            Ok(if whole {
                Verification::Whole(report)
            } else {
                Verification::Damaged(report)
            })
        })
        .await
    }

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

    /// Tries again to remove what could not be removed from staging.
    pub async fn sweep_leftovers(&self) {
        let publisher = Arc::clone(&self.publisher);
        let swept = blocking(move || {
            publisher.sweep_leftovers();
            Ok(())
        });
        let _ = swept.await;
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

/// Keeps a reader under a rate.
struct Pace {
    rate: Option<u64>,
    started: Instant,
    taken: u64,
}

impl Pace {
    fn new(rate: Option<u64>) -> Self {
        Self {
            rate,
            started: Instant::now(),
            taken: 0,
        }
    }

    fn take(&mut self, bytes: u64) {
        self.taken += bytes;
        if let Some(rate) = self.rate.filter(|r| *r > 0) {
            let due = Duration::from_millis(self.taken.saturating_mul(1000) / rate);
            std::thread::sleep(due.saturating_sub(self.started.elapsed()));
        }
    }
}
