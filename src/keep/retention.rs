//! Retention: which versions may go, and how a version is removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Keep;
use crate::datafile::{AppId, DataName, Key};
use crate::publish::NameLock;
use crate::publish::retention::{self, Candidate};
use crate::shown::Release;
use crate::store::{self, activations, releases, remove};
use crate::sys::Chain;

/// How old a refusal of the disk may be to count.
const FULL: Duration = Duration::from_secs(60);
/// How long a round waits for a name that a file is being published under. A round after that comes.
const BUSY: Duration = Duration::from_millis(50);

/// What a round of upkeep removed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Versions, each with the bytes in its files.
    pub versions: Vec<(Key, u64)>,
    /// Bytes in all of them.
    pub bytes: u64,
    /// How many partial archives.
    pub partials: u64,
}

/// How the removal of a version ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The version is gone.
    Done,
    /// There is no such version here.
    Unknown,
    /// It must stay, and why.
    Held(String),
}

impl Keep {
    /// Applies retention to those names and applications only that have more than they may: on a
    /// full node that is next to none.
    pub(super) async fn sweep_everywhere(
        &self,
        swept: &mut Swept,
        stop: &CancellationToken,
    ) -> Result<(), store::Error> {
        let config = self.publisher.config();
        let least = config.least_kept();
        let crowded = self
            .store
            .read(move |r| releases::crowded(r, least))
            .await?;
        for (app, name, versions) in crowded {
            if stop.is_cancelled() {
                return Ok(());
            }
            if versions > u64::from(config.keep_of(&app)) {
                self.sweep_versions(&app, &name, swept).await;
            }
        }
        for (app, bytes) in self.store.read(releases::apps).await? {
            if stop.is_cancelled() {
                return Ok(());
            }
            self.sweep_app(&app, bytes, swept).await;
        }
        Ok(())
    }

    /// Makes room on a disk so full that not even a removal can be recorded: the archives of versions
    /// that retention removes anyway go first. Takes no lock, since who holds one may wait for room.
    pub(super) async fn drop_surplus_archives(&self) -> Result<(), store::Error> {
        let refused = self.store.refused_within(FULL);
        if !refused.is_some_and(|error| error.is_full()) {
            return Ok(());
        }
        let config = self.publisher.config();
        let least = config.least_kept();
        let crowded = self.store.read(move |r| releases::crowded(r, least));
        for (app, name, _) in crowded.await? {
            let versions = self.candidates(&app, &name).await?;
            for key in retention::surplus(&versions, config.keep_of(&app)) {
                self.on_disk(move |publisher| publisher.remove_archive(&key))
                    .await?;
            }
        }
        Ok(())
    }

    /// Applies retention to a name, and then the size limit of its application.
    pub(super) async fn sweep_name(&self, app: &AppId, name: &DataName) {
        let mut swept = Swept::default();
        self.sweep_versions(app, name, &mut swept).await;
        if self.publisher.config().bytes_of(app).is_some()
            && let Ok(apps) = self.store.read(releases::apps).await
            && let Some((_, bytes)) = apps.into_iter().find(|(a, _)| a == app)
        {
            self.sweep_app(app, bytes, &mut swept).await;
        }
    }

    async fn sweep_versions(&self, app: &AppId, name: &DataName, swept: &mut Swept) {
        // What is live, pinned or previous must not change between the choice and the removal.
        let Some(_lock) = self.lock_unless_busy(app, name).await else {
            return;
        };
        if let Ok(versions) = self.candidates(app, name).await {
            let surplus = retention::surplus(&versions, self.publisher.config().keep_of(app));
            self.remove_all(surplus, &versions, "more versions than are kept", swept)
                .await;
        }
    }

    async fn sweep_app(&self, app: &AppId, bytes: u64, swept: &mut Swept) {
        let Some((max, low)) = self.publisher.config().bytes_of(app) else {
            return;
        };
        if bytes <= max {
            return;
        }
        let of_app = app.clone();
        let listed = self
            .store
            .read(move |r| releases::list(r, Some(of_app.as_str()), None, 0, u32::MAX));
        let Ok(rows) = listed.await else {
            return;
        };
        let names: BTreeSet<DataName> = rows.into_iter().map(|row| row.key.name).collect();
        let mut versions = Vec::new();
        for name in names {
            versions.extend(self.candidates(app, &name).await.unwrap_or_default());
        }
        for key in retention::oversize(&versions, max, low) {
            let _lock = self.publisher.lock(&key).await;
            let still = self.candidates(app, &key.name).await.unwrap_or_default();
            let held = |c: &Candidate| c.key == key && c.is_held();
            if !still.iter().any(held) {
                self.remove_all(
                    vec![key],
                    &versions,
                    "the application is over its size limit",
                    swept,
                )
                .await;
            }
        }
    }

    /// Locks a name. `None` if its lock is not free soon: who holds it may wait for room on the disk,
    /// which a round of upkeep is to make.
    pub(super) async fn lock_unless_busy(&self, app: &AppId, name: &DataName) -> Option<NameLock> {
        let lock = self.publisher.lock_name(app, name);
        tokio::time::timeout(BUSY, lock).await.ok()
    }

    async fn candidates(
        &self,
        app: &AppId,
        name: &DataName,
    ) -> Result<Vec<Candidate>, store::Error> {
        let (a, n) = (app.clone(), name.clone());
        let (rows, previous, taken_down) = self
            .store
            .read(move |r| {
                Ok((
                    releases::of_name(r, &a, &n)?,
                    releases::previous(r, &a, &n)?,
                    activations::taken_down(r, &a, &n)?,
                ))
            })
            .await?;
        let (now, keep_for) = (self.store.now_ms(), self.publisher.config().keep_for);
        // A clock that was set does not hold it for longer.
        let is_recent = |at: &i64| u128::from(now.abs_diff(*at)) < keep_for.as_millis();
        let previous = previous.map(|p| p.key.version);
        let candidate = |row: Release| Candidate {
            order: row.job.0,
            bytes: row.bytes,
            pinned: row.pinned,
            live: row.live,
            previous: previous.as_ref() == Some(&row.key.version),
            resting: taken_down.get(&row.key.version).is_some_and(is_recent),
            key: row.key,
        };
        Ok(rows.into_iter().map(candidate).collect())
    }

    /// Removes versions whose name the caller has locked.
    async fn remove_all(
        &self,
        keys: Vec<Key>,
        versions: &[Candidate],
        why: &str,
        swept: &mut Swept,
    ) {
        for key in keys {
            let bytes = versions
                .iter()
                .find(|c| c.key == key)
                .map_or(0, |c| c.bytes);
            match self.remove_locked(&key, "retention", why).await {
                Ok(Removed::Done) => {
                    swept.versions.push((key, bytes));
                    swept.bytes += bytes;
                }
                // In use, or the disk refuses: the next round retries it, and the others continue.
                Ok(Removed::Held(why)) => {
                    tracing::info!(event = "kept", data = %key, why, "an old version stays");
                }
                Ok(Removed::Unknown) => {}
                Err(error) => {
                    tracing::warn!(event = "remove-failed", data = %key, error = %Chain(&error), "could not remove an old version")
                }
            }
        }
    }

    /// Removes a version from the node, unless it is live, pinned or in use.
    pub async fn remove(
        self: &Arc<Self>,
        key: Key,
        actor: &'static str,
        why: &'static str,
    ) -> Result<Removed, store::Error> {
        let this = Arc::clone(self);
        self.complete(async move {
            let _lock = this.publisher.lock(&key).await;
            this.remove_locked(&key, actor, why).await
        })
        .await
    }

    /// The row goes first: a tree without a row is found again, a row without a tree would be
    /// wrong.
    async fn remove_locked(
        &self,
        key: &Key,
        actor: &str,
        why: &str,
    ) -> Result<Removed, store::Error> {
        if let Some(why) = self.held_on_disk(key).await? {
            return Ok(Removed::Held(why));
        }
        let (k, a, w) = (key.clone(), actor.to_owned(), why.to_owned());
        let removal = self
            .store
            .write(move |tx| remove::release(tx, &k, &w, &a))
            .await?;
        let held = |why: &str| Ok(Removed::Held(why.to_owned()));
        match removal {
            remove::Removal::Unknown => return Ok(Removed::Unknown),
            remove::Removal::Live => return held("it is live"),
            remove::Removal::Wanted => return held("it is about to become live"),
            remove::Removal::Pinned => return held("it is pinned"),
            remove::Removal::Done => {}
        }
        let k = key.clone();
        match self.on_disk(move |publisher| publisher.remove(&k)).await? {
            Ok(()) => {}
            Err(error) => {
                let error = Chain(&error).to_string();
                tracing::warn!(event = "remove-failed", data = %key, error, "the tree of a removed version is still there");
                // The tree is entered again, so that it is shown and its removal retried.
                if self.exists(key).await? {
                    self.settle_locked(&key.app, &key.name).await?;
                    return Ok(Removed::Held(error));
                }
            }
        }
        tracing::info!(event = "removed", data = %key, by = actor, why, "removed a version");
        Ok(Removed::Done)
    }

    async fn held_on_disk(&self, key: &Key) -> Result<Option<String>, store::Error> {
        let key = key.clone();
        self.on_disk(move |publisher| {
            let held = publisher.held_by(&key);
            held.or_else(|| publisher.is_fixed(&key).map(str::to_owned))
        })
        .await
    }

    /// Tells whether the version's tree is on the disk.
    pub(super) async fn exists(&self, key: &Key) -> Result<bool, store::Error> {
        let key = key.clone();
        self.on_disk(move |publisher| publisher.layout().version_dir(&key).is_dir())
            .await
    }
}
