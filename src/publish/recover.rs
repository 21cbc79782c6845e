//! What is published according to the disk alone, for when the database is lost or in doubt: every
//! version that has a manifest, and which ones are live.

use std::fs;
use std::path::{Path, PathBuf};

use super::manifest::{self, Head};
use super::{Error, Publisher};
use crate::datafile::Key;
use crate::sys::durable;

/// Result of a walk over manifests and trees.
#[derive(Debug, Default)]
pub struct Found {
    /// Published versions, each with whether it is live.
    pub versions: Vec<(Head, bool)>,
    /// Manifests that have no tree or cannot be read.
    pub orphans: Vec<PathBuf>,
}

impl Publisher {
    /// Walks all manifests and returns the versions that have both manifest and tree.
    pub fn survey(&self) -> Result<Found, Error> {
        let mut found = Found::default();
        for app in subdirectories(&self.layout().manifests())? {
            for name in subdirectories(&app)? {
                self.survey_name(&name, &mut found)?;
            }
        }
        Ok(found)
    }

    fn survey_name(&self, manifests: &Path, found: &mut Found) -> Result<(), Error> {
        for path in list(manifests)? {
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match manifest::read_head(&path) {
                Ok(head) if self.layout().version_dir(&head.key).is_dir() => {
                    let live = self.live(&head.key.app, &head.key.name).as_ref()
                        == Some(&head.key.version);
                    found.versions.push((head, live));
                }
                Ok(_) | Err(Error::Manifest { .. }) => found.orphans.push(path),
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(durable::at("read directory", dir)(e).into()),
    };
    let paths: Result<Vec<PathBuf>, std::io::Error> =
        entries.map(|e| e.map(|e| e.path())).collect();
    Ok(paths.map_err(durable::at("read directory", dir))?)
}

fn subdirectories(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(list(dir)?.into_iter().filter(|p| p.is_dir()).collect())
}
