//! What the disk has, whatever the database says: of each name its versions, the parts that are left
//! of others, and what readers find at `current`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::manifest::{self, Head};
use super::release::Standing;
use super::{Error, Publisher};
use crate::datafile::Key;
use crate::sys::durable;

/// A name as path components, those of its application and its own.
pub type Place = (String, String);

/// What the disk has of one name. Versions are path components.
#[derive(Debug)]
pub struct OnDisk {
    pub place: Place,
    pub manifests: BTreeSet<String>,
    pub trees: BTreeSet<String>,
    pub archives: BTreeSet<String>,
    /// What readers find at `current`.
    pub standing: Standing,
    /// What once stood at `current` and was no link of ours.
    pub set_aside: Vec<PathBuf>,
}

impl OnDisk {
    /// Returns the versions that have both a manifest and a tree.
    pub fn versions(&self) -> impl Iterator<Item = &String> {
        self.trees.intersection(&self.manifests)
    }
}

impl Publisher {
    /// Returns every name of which the disk has anything.
    pub fn places(&self) -> Result<BTreeSet<Place>, Error> {
        let layout = self.layout();
        let mut places = BTreeSet::new();
        for root in [layout.data(), layout.manifests(), layout.archives()] {
            for app in components(&root)? {
                for name in components(&root.join(&app))? {
                    places.insert((app.clone(), name));
                }
            }
        }
        Ok(places)
    }

    /// Returns what the disk has of a name.
    pub fn look(&self, place: &Place) -> Result<OnDisk, Error> {
        let layout = self.layout();
        let below = |root: PathBuf| root.join(&place.0).join(&place.1);
        let dir = below(layout.data());
        let versions = dir.join("versions");
        let trees = components(&versions)?.into_iter();
        let manifests = components(&below(layout.manifests()))?.into_iter();
        Ok(OnDisk {
            place: place.clone(),
            manifests: manifests
                .filter_map(|file| file.strip_suffix(".json").map(str::to_owned))
                .collect(),
            trees: trees.filter(|tree| is_dir(&versions.join(tree))).collect(),
            archives: components(&below(layout.archives()))?,
            standing: Standing::of(&dir),
            set_aside: Standing::set_aside(&dir),
        })
    }

    /// Returns the head of a manifest, `None` if it cannot be read or belongs to another version.
    #[must_use]
    pub fn head(&self, place: &Place, version: &str) -> Option<Head> {
        let dir = self.layout().manifests().join(&place.0).join(&place.1);
        let path = dir.join(format!("{version}.json"));
        let head = manifest::read_head(&path).ok()?;
        (self.layout().manifest(&head.key) == path).then_some(head)
    }

    /// Removes what an interrupted publication of `key` left next to its tree: temporary files and
    /// links of an earlier process, and a manifest or archive without a tree. Other versions of the
    /// name may be published at the same time.
    pub fn sweep_key(&self, key: &Key) -> Result<(), Error> {
        let layout = self.layout();
        let manifest = layout.manifest(key);
        let archive = layout.archive(key);
        for dir in [
            manifest.parent(),
            archive.parent(),
            Some(layout.name_dir(&key.app, &key.name).as_path()),
        ]
        .into_iter()
        .flatten()
        {
            for path in list(dir)? {
                let left_over = path
                    .file_name()
                    .and_then(|n| n.to_str())
                    .is_some_and(durable::is_left_over);
                if left_over {
                    remove_if_there(&path)?;
                }
            }
        }
        for path in list(&layout.versions_dir(&key.app, &key.name))? {
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(durable::is_left_over) {
                // Only an empty one is made there; see `Publisher::stage`.
                let _ = fs::remove_dir(&path);
            }
        }
        if fs::symlink_metadata(layout.version_dir(key)).is_err() {
            remove_if_there(&manifest)?;
            remove_if_there(&archive)?;
        }
        Ok(())
    }
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        // Another version of the name may be cleaned up at the same time.
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(durable::at("remove", path)(e).into())
        }
        _ => Ok(()),
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), NotFound | NotADirectory) => return Ok(Vec::new()),
        Err(e) => return Err(durable::at("read directory", dir)(e).into()),
    };
    let paths: Result<Vec<PathBuf>, std::io::Error> =
        entries.map(|e| e.map(|e| e.path())).collect();
    Ok(paths.map_err(durable::at("read directory", dir))?)
}

/// Returns what may be a component of ours in a directory. One of ours never begins with a dot.
fn components(dir: &Path) -> Result<BTreeSet<String>, Error> {
    let paths = list(dir)?.into_iter();
    let names = paths.filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    Ok(names.filter(|name| !name.starts_with('.')).collect())
}

fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}
