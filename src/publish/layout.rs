//! Where published versions, and what becomes one, are on disk. It refuses a data directory whose
//! parts are on different file systems. `app` names the database, `api` the key of download paths, and
//! `watch` the inbox.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::Error;
use crate::datafile::{AppId, DataName, Key};
use crate::sys::durable;
use crate::sys::place::Place;

/// The directories below the data directory; see the disk layout in the README.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Opens the data directory `root`, creates what is missing in it, and checks that staging,
    /// spool and data share one file system: otherwise publishing would not be one atomic rename.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let root = std::path::absolute(root).map_err(durable::at("resolve", root))?;
        durable::create_dir_all(&root)?;
        let layout = Self { root };
        for (dir, mode) in [
            (layout.data(), 0o755),
            (layout.staging(), 0o700),
            (layout.spool(), 0o700),
            (layout.manifests(), 0o755),
            (layout.archives(), 0o750),
        ] {
            match fs::DirBuilder::new().mode(mode).create(&dir) {
                Ok(()) => durable::sync_parent(&dir)?,
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && dir.is_dir() => {}
                Err(e) => return Err(durable::at("make directory", &dir)(e).into()),
            }
        }
        layout.check_one_file_system()?;
        Ok(layout)
    }

    fn check_one_file_system(&self) -> Result<(), Error> {
        let device = |path: &Path| {
            fs::metadata(path)
                .map(|m| m.dev())
                .map_err(durable::at("stat", path))
        };
        let wanted = device(&self.data())?;
        for dir in [
            self.staging(),
            self.spool(),
            self.manifests(),
            self.archives(),
        ] {
            if device(&dir)? != wanted {
                return Err(Error::Layout(format!(
                    "`{}` and `{}` are on different file systems, but a version is published by a rename from one to the other",
                    dir.display(),
                    self.data().display()
                )));
            }
        }
        Ok(())
    }

    /// Returns the directories as they are now, to notice later that they were replaced.
    pub fn place(&self) -> Result<Place, Error> {
        let parts = [
            self.data(),
            self.staging(),
            self.spool(),
            self.manifests(),
            self.archives(),
        ];
        Ok(Place::of(parts.iter().map(PathBuf::as_path))?)
    }

    /// Returns the data directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the directory of published trees.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Returns the directory of trees being written.
    #[must_use]
    pub fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Returns the directory of trees that wait for deletion, created when it is first needed.
    #[must_use]
    pub fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// Returns the directory of archives being received.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Returns the directory of manifests.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// Returns the directory of retained archives.
    #[must_use]
    pub fn archives(&self) -> PathBuf {
        self.root.join("archives")
    }

    /// Returns the directory of one name, which holds `versions/` and `current`.
    #[must_use]
    pub fn name_dir(&self, app: &AppId, name: &DataName) -> PathBuf {
        self.data()
            .join(app.path_component())
            .join(name.path_component())
    }

    /// Returns the directory that holds the versions of one name.
    #[must_use]
    pub fn versions_dir(&self, app: &AppId, name: &DataName) -> PathBuf {
        self.name_dir(app, name).join("versions")
    }

    /// Returns the published tree of `key`.
    #[must_use]
    pub fn version_dir(&self, key: &Key) -> PathBuf {
        self.versions_dir(&key.app, &key.name)
            .join(key.version.path_component())
    }

    /// Returns where trees of a name are written that have to inherit from its directory.
    #[must_use]
    pub fn staging_in_place(&self, app: &AppId, name: &DataName) -> PathBuf {
        self.name_dir(app, name).join(".staging")
    }

    /// Returns the link that points to the live version of a name.
    #[must_use]
    pub fn current(&self, app: &AppId, name: &DataName) -> PathBuf {
        self.name_dir(app, name).join("current")
    }

    /// Returns the target of `current` while `key` is live.
    #[must_use]
    pub fn current_target(key: &Key) -> PathBuf {
        Path::new("versions").join(key.version.path_component())
    }

    /// Returns the manifest of `key`.
    #[must_use]
    pub fn manifest(&self, key: &Key) -> PathBuf {
        let dir = self
            .manifests()
            .join(key.app.path_component())
            .join(key.name.path_component());
        dir.join(format!("{}.json", key.version.path_component()))
    }

    /// Returns where the archive of `key` is retained.
    #[must_use]
    pub fn archive(&self, key: &Key) -> PathBuf {
        self.archives()
            .join(key.app.path_component())
            .join(key.name.path_component())
            .join(key.version.path_component())
    }
}
