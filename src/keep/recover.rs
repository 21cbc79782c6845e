//! Reconciles the database with the trees and manifests on disk: at each start before any job runs,
//! in each round of upkeep, and on `edgepush recover`.
//!
//! Whoever restores a part of a node, or changes it by hand, leaves the disk ahead of the database
//! or behind it. What is whole on the disk and unknown is entered first; only then `current` is
//! believed (`links`). Nothing that readers see goes back, and nothing is deleted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio_util::sync::CancellationToken;

use super::{Keep, Verification};
use crate::datafile::{AppId, DataName, DataVersion, Key, from_path_component};
use crate::job::{JobId, Published};
use crate::publish::manifest::Head;
use crate::publish::recover::{OnDisk, Place};
use crate::publish::{self, Publisher, Standing};
use crate::shown::Release;
use crate::store::{self, recover, releases};
use crate::sys::Chain;

/// Names compared at once, so that what is entered of them is committed together.
const AT_ONCE: usize = 64;

/// What a comparison of the disk with the database found and did.
#[derive(Debug, Default)]
pub struct Found {
    /// Versions that were on the disk and not in the database, and have been entered.
    pub entered: Vec<Key>,
    /// Known versions of which the tree or the manifest is not on the disk.
    pub missing: Vec<Key>,
}

/// One name, as far as both sides know it.
pub(super) struct Compared {
    pub(super) disk: OnDisk,
    pub(super) rows: Vec<Release>,
    /// Versions that an open job or a pending request is about to publish or to make live: what is
    /// not recorded of them yet is no difference.
    pub(super) unfinished: Vec<DataVersion>,
}

impl Compared {
    pub(super) fn row(&self, component: &str) -> Option<&Release> {
        let of = |row: &&Release| row.key.version.path_component() == component;
        self.rows.iter().find(of)
    }

    /// Tells whether the database knows a version, or is about to.
    pub(super) fn knows(&self, component: &str) -> bool {
        self.row(component).is_some()
            || (self.unfinished.iter()).any(|version| version.path_component() == component)
    }
}

impl Keep {
    /// Compares the disk with the database, repairs from the kept archives what is missing, and
    /// lets jobs run from then on.
    pub(super) async fn reconcile(&self, stop: &CancellationToken) {
        let settled = Settled(self);
        let compared = self.recover(stop).await;
        drop(settled);
        let repaired = match compared {
            Ok(found) => self.repair(&found, stop).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = repaired {
            tracing::warn!(event = "recover-failed", error = %Chain(&error), "could not compare the disk with the database");
        }
    }

    /// Waits until the disk was compared with the database once: no job may run before, since it
    /// could make an older version live than readers see.
    pub async fn settled(&self) {
        let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
    }

    /// Enters versions that are whole on the disk and not in the database, believes `current`, and
    /// marks known versions whose tree or manifest is gone.
    pub async fn recover(&self, stop: &CancellationToken) -> Result<Found, store::Error> {
        let rows = self.store.read(releases::outline).await?;
        let differing = match self.on_disk(move |p| differing(p, rows)).await? {
            Ok(differing) => differing,
            Err(error) => {
                tracing::warn!(event = "survey-failed", error = %Chain(&error), "could not read what is published");
                return Ok(Found::default());
            }
        };
        self.findings.retain(|place| differing.contains_key(place));
        let differing = differing.into_iter();
        let settling = differing.map(|(place, name)| async move {
            match name {
                _ if stop.is_cancelled() => Ok(Found::default()),
                Some((app, name)) => self.settle(&app, &name).await,
                None => {
                    self.findings.note_unnamed(&place);
                    Ok(Found::default())
                }
            }
        });
        let found: Vec<Found> = stream::iter(settling)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let found = found.into_iter().fold(Found::default(), |mut all, one| {
            all.entered.extend(one.entered);
            all.missing.extend(one.missing);
            all
        });
        if !found.entered.is_empty() {
            let entered = found.entered.len();
            tracing::warn!(
                event = "recovered",
                entered,
                "entered versions that were on the disk and not in the database"
            );
        }
        Ok(found)
    }

    /// As [`Keep::recover`], for one name, unless a file is being published under it.
    pub(super) async fn settle(&self, app: &AppId, name: &DataName) -> Result<Found, store::Error> {
        match self.lock_unless_busy(app, name).await {
            Some(_lock) => self.settle_locked(app, name).await,
            None => Ok(Found::default()),
        }
    }

    /// As [`Keep::settle`], for a name that the caller has locked.
    pub(super) async fn settle_locked(
        &self,
        app: &AppId,
        name: &DataName,
    ) -> Result<Found, store::Error> {
        let place = (app.path_component(), name.path_component());
        let looked = self
            .on_disk(move |publisher| publisher.look(&place))
            .await?;
        let disk = match looked {
            Ok(disk) => disk,
            Err(error) => {
                tracing::warn!(event = "survey-failed", %app, %name, error = %Chain(&error), "could not read what is published of a name");
                return Ok(Found::default());
            }
        };
        let mut compared = self.compared(app, name, disk).await?;
        let entered = self.enter(&compared).await?;
        if !entered.is_empty() {
            compared = self.compared(app, name, compared.disk).await?;
        }
        let missing = self.mark_missing(&compared).await?;
        self.settle_link(app, name, &compared).await?;
        Ok(Found { entered, missing })
    }

    async fn compared(
        &self,
        app: &AppId,
        name: &DataName,
        disk: OnDisk,
    ) -> Result<Compared, store::Error> {
        let (app, name) = (app.clone(), name.clone());
        let read = move |r: &store::Reader<'_>| {
            let rows = releases::of_name(r, &app, &name)?;
            Ok((rows, recover::unfinished(r, &app, &name)?))
        };
        let (rows, unfinished) = self.store.read(read).await?;
        Ok(Compared {
            disk,
            rows,
            unfinished,
        })
    }

    /// Enters what is whole on the disk and unknown, in the order of publication.
    async fn enter(&self, compared: &Compared) -> Result<Vec<Key>, store::Error> {
        let disk = &compared.disk;
        let unknown = disk.versions().filter(|version| !compared.knows(version));
        let unknown: Vec<String> = unknown.cloned().collect();
        if unknown.is_empty() {
            return Ok(Vec::new());
        }
        let place = disk.place.clone();
        let read = move |publisher: &Publisher| -> Vec<Head> {
            let heads = unknown.iter().filter_map(|v| publisher.head(&place, v));
            heads.collect()
        };
        let mut heads = self.on_disk(read).await?;
        heads.sort_by_key(|head| (head.published_ms, head.job));
        let standing = disk.standing.clone();
        let entered = self
            .store
            .write(move |tx| {
                let mut entered = Vec::new();
                for head in heads {
                    let live = standing.leads_to(&head.key);
                    if recover::release(tx, &found_release(&head, live))? {
                        entered.push((head.key, live));
                    }
                }
                Ok(entered)
            })
            .await?;
        let before = compared.rows.iter().find(|row| row.live);
        for (key, live) in &entered {
            self.findings
                .note_entered(key, *live, before.map(|row| &row.key.version));
        }
        Ok(entered.into_iter().map(|(key, _)| key).collect())
    }

    /// Marks known versions whose tree or manifest is gone, and returns them.
    async fn mark_missing(&self, compared: &Compared) -> Result<Vec<Key>, store::Error> {
        let mut missing = Vec::new();
        for row in &compared.rows {
            let component = row.key.version.path_component();
            let what = match () {
                () if compared.unfinished.contains(&row.key.version) => continue,
                () if !compared.disk.trees.contains(&component) => "its tree is not on the disk",
                () if !compared.disk.manifests.contains(&component) => {
                    "its manifest is not on the disk"
                }
                () => continue,
            };
            self.mark(&row.key, Some(what.to_owned())).await?;
            missing.push(row.key.clone());
        }
        Ok(missing)
    }

    /// Repairs what is missing from the kept archives, and compares what was entered with its
    /// manifest: a restore may have been cut short. Returns how many versions were repaired.
    pub async fn repair(
        &self,
        found: &Found,
        stop: &CancellationToken,
    ) -> Result<usize, store::Error> {
        let mut repaired = 0;
        for key in &found.missing {
            if !stop.is_cancelled() {
                repaired += usize::from(self.heal(key).await? == super::Healed::Done);
            }
        }
        for key in &found.entered {
            if stop.is_cancelled() {
                break;
            }
            if matches!(self.glance(key, stop).await?, Verification::Damaged(_)) {
                repaired += usize::from(self.heal(key).await? == super::Healed::Done);
            }
        }
        Ok(repaired)
    }
}

/// Lets jobs run when it is dropped, even by a panic: a node that compares nothing still works.
struct Settled<'a>(&'a Keep);

impl Drop for Settled<'_> {
    fn drop(&mut self) {
        self.0.settled.send_replace(true);
    }
}

/// Returns the names of which the disk and the database do not say the same, each with its text if
/// that can be told.
fn differing(
    publisher: &Publisher,
    rows: Vec<releases::Outline>,
) -> Result<BTreeMap<Place, Option<(AppId, DataName)>>, publish::Error> {
    let mut known: HashMap<Place, Known> = HashMap::new();
    for row in rows {
        let place = (row.key.app.path_component(), row.key.name.path_component());
        let version = row.key.version.path_component();
        let of_name = known.entry(place).or_insert_with(|| Known {
            name: (row.key.app, row.key.name),
            versions: BTreeSet::new(),
            live: None,
        });
        if row.live {
            of_name.live = Some(version.clone());
        }
        of_name.versions.insert(version);
    }
    let mut places = publisher.places()?;
    places.extend(known.keys().cloned());
    let mut differing = BTreeMap::new();
    for place in places {
        let (disk, known) = (publisher.look(&place)?, known.remove(&place));
        if !known
            .as_ref()
            .map_or_else(|| is_empty(&disk), |known| known.agrees(&disk))
        {
            let name = known.map(|known| known.name);
            differing.insert(place, name.or_else(|| name_of(publisher, &disk)));
        }
    }
    Ok(differing)
}

/// What the database knows of a name; versions are path components.
struct Known {
    name: (AppId, DataName),
    versions: BTreeSet<String>,
    live: Option<String>,
}

impl Known {
    fn agrees(&self, disk: &OnDisk) -> bool {
        let live = self.live.as_ref().map(|version| Standing::Version {
            version: version.clone(),
            exact: true,
        });
        disk.trees == self.versions
            && disk.manifests == self.versions
            && disk.archives.is_subset(&self.versions)
            && disk.set_aside.is_empty()
            && disk.standing == live.unwrap_or(Standing::Missing)
    }
}

fn is_empty(disk: &OnDisk) -> bool {
    let versions = [&disk.trees, &disk.manifests, &disk.archives];
    versions.iter().all(|set| set.is_empty())
        && disk.set_aside.is_empty()
        && disk.standing == Standing::Missing
}

/// Returns the text of a name that the database does not know: its path components, unless those
/// were cut, and then a manifest's.
fn name_of(publisher: &Publisher, disk: &OnDisk) -> Option<(AppId, DataName)> {
    let (app, name) = &disk.place;
    let app = from_path_component(app).and_then(|text| AppId::parse(&text).ok());
    let name = from_path_component(name).and_then(|text| DataName::parse(&text).ok());
    if let (Some(app), Some(name)) = (app, name) {
        return Some((app, name));
    }
    let mut manifests = disk.manifests.iter();
    let head = manifests.find_map(|version| publisher.head(&disk.place, version))?;
    Some((head.key.app, head.key.name))
}

fn found_release(head: &Head, live: bool) -> recover::Found {
    recover::Found {
        key: head.key.clone(),
        archive_type: head.archive_type,
        job: JobId(head.job),
        published: Published {
            content: head.source,
            files: head.files,
            bytes: head.bytes,
            fetched: 0,
            activated: live,
        },
        published_ms: head.published_ms,
        live,
    }
}
