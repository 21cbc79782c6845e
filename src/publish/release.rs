//! Publishes, activates and removes versions. Each step is one rename, made after everything it
//! exposes has been synced.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::manifest::{self, Head};
use super::names::{NameLock, Names};
use super::space::Space;
use super::sync::{Session, Syncer};
use super::trash::Trash;
use super::{Config, Error, Layout};
use crate::datafile::tree::{Entry, EntryKind};
use crate::datafile::{
    AppId, ArchiveType, Content, DataName, DataVersion, Key, from_path_component,
};
use crate::sys::failpoint::{Bug, is_seeded};
use crate::sys::{Live, durable};
use crate::verify::{self, Verified};

/// Publishes, activates and removes versions below one data directory.
pub struct Publisher {
    layout: Layout,
    rules: Live<Rules>,
    syncer: Syncer,
    space: Space,
    attempts: AtomicU64,
    leftovers: Leftovers,
    trash: Trash,
    names: Names,
}

/// Settings that a reload can change.
#[derive(Debug)]
struct Rules {
    config: Config,
    umask: u32,
}

/// A private directory that a tree is written into. Dropping it deletes it unless it was published.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    umask: u32,
    published: bool,
    leftovers: Leftovers,
}

/// Staging directories that could not be deleted because the disk was read-only or a file in them
/// is immutable. Deletion is retried from time to time.
#[derive(Debug, Clone, Default)]
struct Leftovers(Arc<Mutex<Vec<PathBuf>>>);

impl Leftovers {
    /// Deletes `path`, or remembers it on failure.
    fn remove(&self, path: &Path) {
        if let Err(error) = remove_all(path) {
            self.keep(path, &error);
        }
    }

    /// Remembers a path that could not be deleted.
    fn keep(&self, path: &Path, error: &io::Error) {
        tracing::warn!(path = %path.display(), %error, "could not remove a staging directory; will retry");
        self.lock().push(path.to_owned());
    }

    /// Retries the deletions that failed.
    fn sweep(&self) {
        let left = std::mem::take(&mut *self.lock());
        let stuck = left.into_iter().filter(|path| remove_all(path).is_err());
        let stuck: Vec<PathBuf> = stuck.collect();
        self.lock().extend(stuck);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staging {
    /// Opens the directory for a writer that uses only descriptors.
    pub fn open(&self) -> Result<OwnedFd, Error> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, Mode::empty())
            .map_err(|e| durable::at("open", &self.path)(e.into()).into())
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            self.leftovers.remove(&self.path);
        }
    }
}

/// Removes a tree, a file or a link; a missing one is fine.
fn remove_all(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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

/// State of a name's `current`, compared with the version recorded as live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// It points to that version.
    Right,
    /// It points to another published version.
    Other(Key),
    /// It is missing, or points to nothing that was published.
    Broken,
    /// The recorded version has no tree for `current` to point to.
    NoTree,
}

/// One flip of `current`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// The version that was live before, if any.
    pub from: Option<DataVersion>,
    /// False if `current` already pointed to the version.
    pub changed: bool,
}

impl Publisher {
    /// Opens the data directory, deletes what earlier attempts left in staging, and starts the sync
    /// thread. `umask` is the set of permission bits removed from every version directory.
    pub fn open(root: &Path, config: Config, umask: u32) -> Result<Self, Error> {
        let layout = Layout::open(root)?;
        let syncer = Syncer::start(layout.root(), config.durable)
            .map_err(durable::at("start the sync thread for", layout.root()))?;
        let space = Space::new(layout.root(), config.reserve);
        let publisher = Self {
            layout,
            rules: Live::new(Rules { config, umask }),
            syncer,
            space,
            attempts: AtomicU64::new(0),
            leftovers: Leftovers::default(),
            trash: Trash::default(),
            names: Names::default(),
        };
        publisher.sweep_staging()?;
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

    /// Creates a private staging directory for `job`, under a name that no other attempt uses.
    pub fn stage(&self, job: i64) -> Result<Staging, Error> {
        loop {
            let path = self.unused(&job.to_string());
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                // An earlier process left it, and it could not be deleted.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(durable::at("make directory", &path)(e).into()),
                Ok(()) => {
                    return Ok(Staging {
                        path,
                        umask: self.rules.now().umask,
                        published: false,
                        leftovers: self.leftovers.clone(),
                    });
                }
            }
        }
    }

    fn unused(&self, prefix: &str) -> PathBuf {
        let n = self.attempts.fetch_add(1, Ordering::Relaxed);
        self.layout.staging().join(format!("{prefix}-{n}"))
    }

    fn sweep_staging(&self) -> Result<(), Error> {
        let staging = self.layout.staging();
        for entry in fs::read_dir(&staging).map_err(durable::at("read directory", &staging))? {
            let path = entry
                .map_err(durable::at("read directory", &staging))?
                .path();
            // What cannot be deleted takes up space, but must not prevent a start.
            self.leftovers.remove(&path);
        }
        Ok(())
    }

    /// Retries deleting from staging what could not be deleted before.
    pub fn sweep_leftovers(&self) {
        self.leftovers.sweep();
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
            manifest::write(&places.written, &head, record.entries.iter())?;
            open_up(&staging.path, staging.umask)?;
            session.wait().map_err(|source| self.sync_error(source))?;
            durable::rename(&places.written, &places.manifest)?;
            if let Some(archive) = &places.archive {
                keep(archive)?;
            }
            if exchange {
                durable::exchange(&staging.path, &places.version)?;
            } else {
                durable::rename_no_replace(&staging.path, &places.version)?;
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

    /// Makes `key` the live version of its name in one atomic step; durable only after
    /// [`Publisher::settle`].
    pub fn activate(&self, key: &Key) -> Result<Flip, Error> {
        if !self.layout.version_dir(key).is_dir() {
            return Err(Error::NotFound {
                key: key.to_string(),
            });
        }
        let link = self.layout.current(&key.app, &key.name);
        let target = Layout::current_target(key);
        let from = self.live(&key.app, &key.name);
        if fs::read_link(&link).is_ok_and(|now| now == target) {
            return Ok(Flip {
                from,
                changed: false,
            });
        }
        durable::replace_symlink(&target, &link)?;
        Ok(Flip {
            from,
            changed: true,
        })
    }

    /// Locks the name of `key`; see [`NameLock`].
    pub async fn lock(&self, key: &Key) -> NameLock {
        self.names.lock(key).await
    }

    /// Locks a name; see [`NameLock`].
    pub async fn lock_name(&self, app: &AppId, name: &DataName) -> NameLock {
        self.names.lock_name(app, name).await
    }

    /// Flips `current` to `key`, and waits until the flip is on disk.
    pub fn flip(&self, key: &Key) -> Result<(), Error> {
        self.activate(key)?;
        self.settle_name(&key.app, &key.name)
    }

    /// Compares `current` with `key`, the version recorded as live.
    #[must_use]
    pub fn look_at_link(&self, key: &Key) -> Link {
        if !self.layout.version_dir(key).is_dir() {
            return Link::NoTree;
        }
        let Ok(target) = fs::read_link(self.layout.current(&key.app, &key.name)) else {
            return Link::Broken;
        };
        if target == Layout::current_target(key) {
            return Link::Right;
        }
        let other = self.live(&key.app, &key.name).map(|version| Key {
            version,
            ..key.clone()
        });
        match other {
            Some(other)
                if target == Layout::current_target(&other)
                    && self.layout.version_dir(&other).is_dir() =>
            {
                Link::Other(other)
            }
            _ => Link::Broken,
        }
    }

    /// Returns the live version of a name, according to `current`.
    #[must_use]
    pub fn live(&self, app: &AppId, name: &DataName) -> Option<DataVersion> {
        let target = fs::read_link(self.layout.current(app, name)).ok()?;
        let component = target.file_name()?.to_str()?.to_owned();
        match from_path_component(&component) {
            Some(text) => DataVersion::parse(&text).ok(),
            // The path component was truncated: the manifest has the full text.
            None => {
                let dir = self
                    .layout
                    .manifests()
                    .join(app.path_component())
                    .join(name.path_component());
                manifest::read_head(&dir.join(format!("{component}.json")))
                    .ok()
                    .map(|head| head.key.version)
            }
        }
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

    /// Takes the version `key` off the node: moves its tree out of sight in one step, removes
    /// manifest and archive, and returns the directory that [`Publisher::delete`] has yet to
    /// delete.
    pub fn remove(&self, key: &Key) -> Result<PathBuf, Error> {
        let version = self.layout.version_dir(key);
        let in_use = |why| Error::InUse {
            key: key.to_string(),
            why,
        };
        if fs::symlink_metadata(&version).is_err() {
            return Err(Error::NotFound {
                key: key.to_string(),
            });
        }
        if fs::read_link(self.layout.current(&key.app, &key.name))
            .is_ok_and(|t| t == Layout::current_target(key))
        {
            return Err(in_use("it is live"));
        }
        if self.is_held(key) {
            return Err(in_use("a program holds a lock on its directory"));
        }
        let trash = loop {
            let trash = self.unused("trash");
            match durable::rename_no_replace(&version, &trash) {
                Err(e) if e.source.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e.into()),
                Ok(()) => break trash,
            }
        };
        for path in [self.layout.manifest(key), self.layout.archive(key)] {
            match fs::remove_file(&path) {
                // The version is gone all the same: without its tree, what is left of it is
                // ignored, and the next publication removes it.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "could not remove a file of a removed version");
                }
                _ => {}
            }
        }
        Ok(trash)
    }

    /// Returns whether a program holds a `flock` on the version's directory, which is how a reader
    /// prevents its removal.
    #[must_use]
    pub fn is_held(&self, key: &Key) -> bool {
        is_locked(&self.layout.version_dir(key))
    }

    /// Returns what forbids moving the version's directory, if the file system reports something.
    #[must_use]
    pub fn is_fixed(&self, key: &Key) -> Option<&'static str> {
        let version = self.layout.version_dir(key);
        let fixed = version.ancestors().take(2).any(is_immutable);
        fixed.then_some("its directory is immutable or append-only: see chattr(1)")
    }

    /// Deletes a directory returned by [`Publisher::remove`]. If another thread is already
    /// deleting, that thread takes it over.
    pub fn delete(&self, trash: &Path) {
        self.trash
            .delete(trash, |path, error| self.leftovers.keep(path, &error));
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
            fs::create_dir_all(parent).map_err(durable::at("make directory", parent))?;
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

/// Staging directories are private; a version directory is readable as far as the umask allows.
fn open_up(path: &Path, umask: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755 & !umask))
        .map_err(durable::at("set mode of", path))?;
    Ok(())
}

fn is_immutable(dir: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    statx(CWD, dir, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.intersects(fixed))
}

fn is_locked(dir: &Path) -> bool {
    use rustix::fs::{FlockOperation, flock};
    let Ok(file) = fs::File::open(dir) else {
        return false;
    };
    flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK)
}

#[cfg(test)]
mod tests;
