//! What the runner does beside jobs: flips that were asked for, old versions that may go, left-over partial files, and
//! the comparison of disk and database after an end that was not clean.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Runner;
use crate::datafile::{AppId, DataName, Key};
use crate::deliver::{Candidate, Stop};
use crate::job::{JobId, Published};
use crate::store::{self, activations, releases};
use crate::sys::Chain;

/// What upkeep remembers between its rounds.
pub(super) struct State {
    names: Mutex<HashSet<(AppId, DataName)>>,
    wanted: Notify,
    done: Box<dyn Fn(i64) + Send + Sync>,
}

impl State {
    pub(super) fn new(done: Box<dyn Fn(i64) + Send + Sync>) -> Self {
        Self {
            names: Mutex::default(),
            wanted: Notify::new(),
            done,
        }
    }

    /// Asks for a look at the versions of a name, soon.
    pub(super) fn look_at(&self, key: &Key) {
        self.lock().insert((key.app.clone(), key.name.clone()));
        self.wanted.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<(AppId, DataName)>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a round of upkeep has done.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Versions that were removed, and the bytes in their files.
    pub versions: Vec<(Key, u64)>,
    /// Bytes in all of them.
    pub bytes: u64,
    /// Partial archives that were removed.
    pub partials: u64,
}

/// What became of a wish to remove a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Done,
    /// It is not here.
    Unknown,
    /// It must stay, and why.
    Held(String),
}

impl Runner {
    /// Makes live what was asked for, in the order of the requests.
    pub(super) async fn execute_flips(
        &self,
        pending: Vec<activations::ActivationRow>,
    ) -> Result<(), store::Error> {
        for request in pending {
            let _turn = self.names.lock(&request.key).await;
            let key = request.key.clone();
            let seq = request.seq;
            let newer = self
                .store
                .read(move |r| Ok(!activations::may_activate(r, &key.app, &key.name, seq)?))
                .await?;
            let error = if newer {
                Some("a later request has taken its place".to_owned())
            } else {
                self.flip(&request.key)
                    .await
                    .err()
                    .map(|stop| stop.into_failure(crate::job::Stage::Publish).message)
            };
            let id = request.id;
            let told = error.clone();
            self.store
                .write(move |tx| activations::done(tx, id, told.as_deref()))
                .await?;
            match error {
                None => {
                    tracing::info!(event = "activated", data = %request.key, by = request.actor, "made live")
                }
                Some(error) => {
                    tracing::warn!(event = "activation-failed", data = %request.key, error, "could not make live")
                }
            }
            self.upkeep.look_at(&request.key);
        }
        Ok(())
    }

    pub(super) async fn flip(&self, key: &Key) -> Result<(), Stop> {
        self.road.activate(key).await?;
        self.road.settle_name(key).await
    }

    /// Keeps the node tidy until `drain`: soon after a publication for its name, and now and then for everything.
    pub(super) async fn keep_up(self: Arc<Self>, drain: CancellationToken) {
        let mut changed = self.config.follow();
        let mut last = Instant::now();
        let mut first = true;
        loop {
            let next = if first {
                last
            } else {
                last + self.config.now().upkeep_every
            };
            tokio::select! {
                () = drain.cancelled() => return,
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(next) => {
                    last = Instant::now();
                    if first {
                        first = false;
                        if self.store.is_doubtful() {
                            self.compare_with_disk().await;
                        }
                    }
                    self.sweep_all().await;
                }
                () = self.upkeep.wanted.notified() => {
                    let names: Vec<_> = self.upkeep.lock().drain().collect();
                    for (app, name) in names {
                        self.sweep_name(&app, &name).await;
                    }
                }
            }
        }
    }

    /// Removes what may go, everywhere on the node.
    pub async fn sweep_all(&self) -> Swept {
        let mut swept = Swept::default();
        if let Err(error) = self.sweep_everywhere(&mut swept).await {
            tracing::warn!(event = "upkeep-failed", error = %Chain(&error), "could not look for old versions");
            return swept;
        }
        if let Err(error) = self.check_links().await {
            tracing::warn!(event = "upkeep-failed", error = %Chain(&error), "could not look at what is live");
        }
        swept.partials = self.sweep_partials().await;
        self.road.sweep_leftovers().await;
        if self.store.housekeep().await.is_ok() {
            (self.upkeep.done)(self.clock.now_ms());
        }
        swept
    }

    /// Looks at those names and applications only that have more than they may: on a full node that is next to none.
    async fn sweep_everywhere(&self, swept: &mut Swept) -> Result<(), store::Error> {
        let least = self.road.least_kept();
        let crowded = self
            .store
            .read(move |r| releases::crowded(r, least))
            .await?;
        for (app, name, versions) in crowded {
            if versions > u64::from(self.road.kept_of(&app)) {
                self.sweep_versions(&app, &name, swept).await;
            }
        }
        for (app, bytes) in self.store.read(releases::apps).await? {
            self.sweep_app(&app, bytes, swept).await;
        }
        Ok(())
    }

    /// Removes what is more than is kept of a name, and then what is too much for its application.
    async fn sweep_name(&self, app: &AppId, name: &DataName) {
        let mut swept = Swept::default();
        self.sweep_versions(app, name, &mut swept).await;
        if self.road.limits_room_of(app)
            && let Ok(apps) = self.store.read(releases::apps).await
            && let Some((_, bytes)) = apps.into_iter().find(|(a, _)| a == app)
        {
            self.sweep_app(app, bytes, &mut swept).await;
        }
    }

    async fn sweep_versions(&self, app: &AppId, name: &DataName, swept: &mut Swept) {
        // What is live, pinned or previous must not change between the choice and the removal.
        let _turn = self.names.lock_name(app, name).await;
        if let Ok(versions) = self.candidates(app, name).await {
            let surplus = self.road.surplus(app, &versions);
            self.remove_all(surplus, &versions, "more versions than are kept", swept)
                .await;
        }
    }

    async fn sweep_app(&self, app: &AppId, bytes: u64, swept: &mut Swept) {
        if !self.road.takes_too_much(app, bytes) {
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
        for key in self.road.oversize(app, &versions) {
            let _turn = self.names.lock(&key).await;
            let still = self.candidates(app, &key.name).await.unwrap_or_default();
            let held = |c: &Candidate| c.version == key && (c.live || c.previous || c.pinned);
            if !still.iter().any(held) {
                self.remove_all(
                    vec![key],
                    &versions,
                    "the application takes more room than it may",
                    swept,
                )
                .await;
            }
        }
    }

    async fn candidates(
        &self,
        app: &AppId,
        name: &DataName,
    ) -> Result<Vec<Candidate>, store::Error> {
        let (a, n) = (app.clone(), name.clone());
        let (rows, previous) = self
            .store
            .read(move |r| {
                Ok((
                    releases::of_name(r, &a, &n)?,
                    releases::previous(r, &a, &n)?,
                ))
            })
            .await?;
        let previous = previous.map(|p| p.key.version);
        let candidate = |row: releases::ReleaseRow| Candidate {
            order: row.job.0,
            bytes: row.bytes,
            pinned: row.pinned,
            live: row.live,
            previous: previous.as_ref() == Some(&row.key.version),
            version: row.key,
        };
        Ok(rows.into_iter().map(candidate).collect())
    }

    /// Removes versions whose name's turn the caller has.
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
                .find(|c| c.version == key)
                .map_or(0, |c| c.bytes);
            match self.remove_in_turn(&key, "retention", why).await {
                Ok(Removed::Done) => {
                    swept.versions.push((key, bytes));
                    swept.bytes += bytes;
                }
                // In use, or a disk that refuses: it is looked at again in the next round, and holds up nothing.
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

    /// Takes a version off the node. Its row goes first: a tree without a row is found again, a row without a tree would
    /// be a lie.
    pub async fn remove(&self, key: &Key, actor: &str, why: &str) -> Result<Removed, store::Error> {
        let _turn = self.names.lock(key).await;
        self.remove_in_turn(key, actor, why).await
    }

    async fn remove_in_turn(
        &self,
        key: &Key,
        actor: &str,
        why: &str,
    ) -> Result<Removed, store::Error> {
        if self.road.is_held(key).await {
            return Ok(Removed::Held(
                "a program holds a lock on its directory".to_owned(),
            ));
        }
        if let Some(why) = self.road.is_fixed(key).await {
            return Ok(Removed::Held(why.to_owned()));
        }
        let (k, a, w) = (key.clone(), actor.to_owned(), why.to_owned());
        let removal = self
            .store
            .write(move |tx| releases::remove(tx, &k, &w, &a))
            .await?;
        match removal {
            releases::Removal::Unknown => return Ok(Removed::Unknown),
            releases::Removal::Live => return Ok(Removed::Held("it is live".to_owned())),
            releases::Removal::Wanted => {
                return Ok(Removed::Held("it is about to become live".to_owned()));
            }
            releases::Removal::Pinned => return Ok(Removed::Held("it is pinned".to_owned())),
            releases::Removal::Done => {}
        }
        match self.road.remove(key).await {
            Ok(trash) => self.road.delete(trash),
            Err(stop) => {
                let failure = stop.into_failure(crate::job::Stage::Publish);
                tracing::warn!(event = "remove-failed", data = %key, error = failure.message, "the tree of a removed version is still there");
                // What is there is shown, and tried again.
                if self.road.exists(key).await {
                    self.recover().await?;
                    return Ok(Removed::Held(failure.message));
                }
            }
        }
        tracing::info!(event = "removed", data = %key, by = actor, why, "removed a version");
        Ok(Removed::Done)
    }

    /// Throws away what was received for a key that nothing is at work on.
    pub async fn discard_partial(&self, key: &Key) {
        self.road.discard_partial(key).await;
    }

    async fn sweep_partials(&self) -> u64 {
        let open: HashSet<Key> = match self.store.read(store::jobs::open_keys).await {
            Ok(keys) => keys.into_iter().collect(),
            Err(_) => return 0,
        };
        let (road, keep) = (Arc::clone(&self.road), self.config.now().keep_partial);
        let swept = tokio::task::spawn_blocking(move || {
            let mut swept = 0;
            for path in road.stale_partials(&open, |path| is_older(path, keep)) {
                swept += u64::from(std::fs::remove_file(&path).is_ok());
            }
            swept
        });
        swept.await.unwrap_or(0)
    }

    /// Enters versions that are on the disk and not in the database, and marks releases whose tree is gone.
    async fn compare_with_disk(&self) {
        match self.recover().await {
            Ok(0) => {}
            Ok(entered) => tracing::warn!(
                event = "recovered",
                entered,
                "versions were on the disk that the database did not know; they are entered again"
            ),
            Err(error) => {
                tracing::warn!(event = "recover-failed", error = %Chain(&error), "could not compare the disk with the database")
            }
        }
    }

    /// Rebuilds the database from manifests and trees where it lacks them; returns how many versions were entered.
    pub async fn recover(&self) -> Result<usize, store::Error> {
        let mut found = match self.road.survey().await {
            Ok(found) => found,
            Err(stop) => {
                let failure = stop.into_failure(crate::job::Stage::Publish);
                tracing::warn!(
                    event = "survey-failed",
                    error = failure.message,
                    "could not read the manifests"
                );
                return Ok(0);
            }
        };
        let open: HashSet<Key> = self
            .store
            .read(store::jobs::open_keys)
            .await?
            .into_iter()
            .collect();
        // Where numbers have to be given anew they follow the order of publication.
        found.sort_by_key(|(head, _)| (head.published_ms, head.job));
        let mut entered = 0;
        let mut known = HashSet::new();
        for chunk in found.chunks(256) {
            let rows: Vec<_> = chunk
                .iter()
                .filter(|(head, _)| !open.contains(&head.key))
                .cloned()
                .collect();
            known.extend(rows.iter().map(|(head, _)| head.key.clone()));
            entered += self
                .store
                .write(move |tx| {
                    let mut entered = 0;
                    for (head, live) in &rows {
                        let published = Published {
                            content: head.source,
                            files: head.files,
                            bytes: head.bytes,
                            fetched: 0,
                            activated: *live,
                        };
                        let found = releases::Found {
                            key: head.key.clone(),
                            archive_type: head.archive_type,
                            job: JobId(head.job),
                            published,
                            published_ms: head.published_ms,
                            live: *live,
                        };
                        entered += usize::from(releases::restore(tx, &found)?);
                    }
                    Ok(entered)
                })
                .await?;
        }
        self.mark_missing(&known).await?;
        Ok(entered)
    }

    async fn mark_missing(&self, on_disk: &HashSet<Key>) -> Result<(), store::Error> {
        let rows = self
            .store
            .read(|r| releases::list(r, None, None, 0, u32::MAX))
            .await?;
        for row in rows
            .into_iter()
            .filter(|row| !on_disk.contains(&row.key) && row.damage.is_none())
        {
            if self.road.exists(&row.key).await {
                continue;
            }
            tracing::error!(event = "damaged", data = %row.key, "a published version is not on the disk any more; push it again to heal it");
            let key = row.key.clone();
            self.store
                .write(move |tx| {
                    releases::mark_damaged(tx, &key, Some("its tree is not on the disk"))
                })
                .await?;
        }
        Ok(())
    }
}

fn is_older(path: &Path, age: Duration) -> bool {
    let modified = std::fs::metadata(path)
        .and_then(|m| m.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH);
    modified.elapsed().is_ok_and(|e| e > age)
}
