//! Publishes, activates and removes versions. Each step is one rename, made after everything it
//! exposes has been synced.

mod current;
mod remove;
mod staging;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::manifest::{self, Head};
use super::names::{NameLock, Names};
use super::space::Space;
use super::sync::{Session, Syncer};
use super::trash::Trash;
use super::{Config, Error, Layout};
use crate::datafile::tree::{Entry, EntryKind};
use crate::datafile::{AppId, ArchiveType, Content, DataName, Key};
use crate::sys::failpoint::{Bug, is_seeded};
use crate::sys::readers::Readers;
use crate::sys::{Live, durable, ground};
use crate::verify::{self, Verified};

pub use current::{Flip, Standing};
pub use staging::Staging;
use staging::open_up;

/// Publishes, activates and removes versions below one data directory.
pub struct Publisher {
    layout: Layout,
    rules: Live<Rules>,
    syncer: Syncer,
    space: Space,
    attempts: AtomicU64,
    trash: Trash,
    names: Names,
    /// Where the processes of this host were last, and when that was.
    readers: Mutex<Option<(Instant, Arc<Readers>)>>,
}

/// Settings that a reload can change.
#[derive(Debug)]
struct Rules {
    config: Config,
    umask: u32,
}

/// The facts about a tree that is about to be published.
#[derive(Debug)]
pub struct Record<'a> {
    pub key: &'a Key,
    pub archive_type: ArchiveType,
    pub job: i64,
    /// When the job was accepted.
    pub accepted_ms: i64,
    /// The time of publication.
    pub now_ms: i64,
    pub entries: &'a [Entry],
    /// Whether to replace an existing tree: it was found damaged, and this one has the same
    /// content.
    pub heal: bool,
}

/// A published version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The head of its manifest.
    pub head: Head,
    pub path: PathBuf,
}

impl Publisher {
    /// Opens the data directory, moves away what earlier attempts left in staging, and starts the
    /// sync thread. `umask` is the set of permission bits removed from every version directory.
    pub fn open(root: &Path, config: Config, umask: u32) -> Result<Self, Error> {
        let layout = Layout::open(root)?;
        let syncer = Syncer::start(layout.root(), config.durable)
            .map_err(durable::at("start the sync thread for", layout.root()))?;
        let space = Space::new(layout.root(), config.reserve);
        let trash = Trash::open(layout.trash());
        let publisher = Self {
            layout,
            rules: Live::new(Rules { config, umask }),
            syncer,
            space,
            attempts: AtomicU64::new(0),
            trash,
            names: Names::default(),
            readers: Mutex::default(),
        };
        publisher.collect_leftovers();
        publisher.empty_staging()?;
        Ok(publisher)
    }

    /// Returns the paths of the data directory.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Applies new retention and permission settings; running files keep the old ones. Whether
    /// versions are synced is fixed at the start, when the sync thread is created.
    pub fn reload(&self, config: Config, umask: u32) {
        let durable = self.rules.now().config.durable;
        self.space.set_reserve(config.reserve);
        let config = Config { durable, ..config };
        self.rules.replace(Rules { config, umask });
    }

    /// Returns the current settings.
    #[must_use]
    pub fn config(&self) -> Config {
        self.rules.now().config.clone()
    }

    /// Returns whether archives are retained.
    #[must_use]
    pub fn keeps_archives(&self) -> bool {
        self.rules.now().config.keep_archives
    }

    /// Returns the free-space accounting of the file system.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Opens a sync session for one attempt; with `early`, writes are also synced in the background
    /// while it is open.
    #[must_use]
    pub fn session(&self, early: bool) -> Session {
        self.syncer.session(early)
    }

    /// Turns the tree in `staging` into the version `record.key`: writes its manifest, waits until
    /// everything is on disk, and renames it into place. `keep` moves the archive to where it is
    /// retained, if it is. The version is not live yet, and is only durable after
    /// [`Publisher::settle`].
    pub fn publish(
        &self,
        mut staging: Staging,
        verified: Verified,
        record: &Record<'_>,
        keep: impl FnOnce(&Path) -> Result<(), durable::Error>,
        session: &Session,
    ) -> Result<Release, Error> {
        let head = head_of(record, verified);
        let exchange = match self.place(record, &head)? {
            Place::Free => false,
            Place::Replaced => true,
            Place::Published(release) => return Ok(*release),
        };
        let places = Places::of(&self.layout, record.key, self.keeps_archives());
        places.make_dirs()?;
        let put = || {
            manifest::write(&places.written, &head, staging.as_made(record.entries))?;
            open_up(&staging)?;
            session.wait().map_err(|source| self.sync_error(source))?;
            durable::rename(&places.written, &places.manifest)?;
            if let Some(archive) = &places.archive {
                keep(archive)?;
            }
            if exchange {
                durable::exchange(&staging.path, &places.version)?;
            } else {
                let renamed = durable::rename_no_replace(&staging.path, &places.version);
                renamed.map_err(|error| match error.source.kind() {
                    io::ErrorKind::CrossesDevices => Error::Layout(ground::apart(
                        &self.layout.versions_dir(&record.key.app, &record.key.name),
                    )),
                    _ => error.into(),
                })?;
            }
            Ok(())
        };
        if let Err(error) = put() {
            places.undo();
            return Err(error);
        }
        // After an exchange the staging directory holds the damaged tree, which is deleted with it.
        staging.published = !exchange;
        let path = places.version;
        Ok(Release { head, path })
    }

    /// Determines what already exists where the version will be published.
    fn place(&self, record: &Record<'_>, head: &Head) -> Result<Place, Error> {
        let key = record.key;
        let there = match self.find(key) {
            // The content of a tree without a readable manifest is unknown; the new tree's is
            // known.
            Err(error) if error.is_no_manifest() => {
                tracing::warn!(event = "foreign-tree", data = %key, "a tree without a readable manifest exists where this version belongs; replacing it");
                return Ok(Place::Replaced);
            }
            found => found?,
        };
        match there {
            None => Ok(Place::Free),
            Some(_) if record.heal => Ok(Place::Replaced),
            // An earlier process published it and could not record it: same content.
            Some(there) if there.head.source.md5 == head.source.md5 => {
                Ok(Place::Published(there.into()))
            }
            Some(there) => Err(conflict(&there.head, head)),
        }
    }

    /// Returns the version `key` if it is already on disk: an earlier process published it and
    /// could not record that.
    pub fn find(&self, key: &Key) -> Result<Option<Release>, Error> {
        let path = self.layout.version_dir(key);
        if fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        let head = manifest::read_head(&self.layout.manifest(key))?;
        Ok(Some(Release { head, path }))
    }

    /// Measures the retained archive of `key`: size and digests, or `None` if it is not retained or
    /// cannot be read.
    #[must_use]
    pub fn archive_content(&self, key: &Key) -> Option<Content> {
        verify::measure(fs::File::open(self.layout.archive(key)).ok()?).ok()
    }

    /// Locks the name of `key`; see [`NameLock`].
    pub async fn lock(&self, key: &Key) -> NameLock {
        self.names.lock(key).await
    }

    /// Locks a name; see [`NameLock`].
    pub async fn lock_name(&self, app: &AppId, name: &DataName) -> NameLock {
        self.names.lock_name(app, name).await
    }

    /// Waits until the renames of this session are on disk. Only then may an outcome be recorded.
    pub fn settle(&self, session: &Session) -> Result<(), Error> {
        if is_seeded(Bug::NoSettle) {
            return Ok(());
        }
        session.wait().map_err(|source| self.sync_error(source))
    }

    /// Waits until a flip of this name is on disk, without waiting for other writers.
    pub fn settle_name(&self, app: &AppId, name: &DataName) -> Result<(), Error> {
        if self.rules.now().config.durable {
            durable::sync_dir(&self.layout.name_dir(app, name))?;
        }
        Ok(())
    }

    fn sync_error(&self, source: io::Error) -> Error {
        Error::Sync {
            path: self.layout.root().display().to_string(),
            source,
        }
    }
}

/// What already exists where a version will be published.
enum Place {
    Free,
    /// A tree that the new one replaces.
    Replaced,
    /// The same version.
    Published(Box<Release>),
}

/// The final paths of a version's parts.
struct Places {
    /// The manifest until it is synced.
    written: PathBuf,
    manifest: PathBuf,
    version: PathBuf,
    /// `None` if archives are not retained.
    archive: Option<PathBuf>,
}

impl Places {
    fn of(layout: &Layout, key: &Key, keeps_archives: bool) -> Self {
        let manifest = layout.manifest(key);
        Self {
            written: durable::temporary_sibling(&manifest),
            version: layout.version_dir(key),
            archive: keeps_archives.then(|| layout.archive(key)),
            manifest,
        }
    }

    /// The sync round that follows makes the new directories durable; they need no sync of their
    /// own.
    fn make_dirs(&self) -> Result<(), Error> {
        let paths = [&self.manifest, &self.version].into_iter();
        for path in paths.chain(&self.archive) {
            let parent = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(parent).map_err(|e| match ground::obstacle(parent) {
                Some(why) => Error::Layout(why),
                None => durable::at("make directory", parent)(e).into(),
            })?;
        }
        Ok(())
    }

    /// Removes what a failed publication left; if a tree is in place, its manifest stays.
    fn undo(&self) {
        let _ = fs::remove_file(&self.written);
        if fs::symlink_metadata(&self.version).is_err() {
            for path in [&self.manifest].into_iter().chain(&self.archive) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn head_of(record: &Record<'_>, verified: Verified) -> Head {
    let sizes = record.entries.iter().filter_map(|e| match &e.kind {
        EntryKind::File { size, .. } => Some(*size),
        EntryKind::Dir | EntryKind::Symlink { .. } => None,
    });
    let (files, bytes) = sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size));
    Head {
        format: manifest::FORMAT,
        key: record.key.clone(),
        archive_type: record.archive_type,
        source: verified.content(),
        job: record.job,
        accepted_ms: record.accepted_ms,
        published_ms: record.now_ms,
        files,
        bytes,
    }
}

fn conflict(published: &Head, pushed: &Head) -> Error {
    let (a, b) = (published.source.md5, pushed.source.md5);
    let show = |md5: Option<crate::datafile::Md5>| {
        md5.map_or_else(|| "unknown".to_owned(), |d| d.to_string())
    };
    Error::Conflict {
        key: pushed.key.to_string(),
        what: "md5",
        published: show(a),
        pushed: show(b),
    }
}

#[cfg(test)]
mod tests;
