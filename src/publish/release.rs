//! Publishes, activates and removes versions. Each step is one rename; what goes before it is synced.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::manifest::{self, Entry, Head};
use super::names::{NameLock, Names};
use super::space::Space;
use super::sync::{Session, Syncer};
use super::trash::Trash;
use super::{Config, Error, Layout};
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

/// What a reload may change.
#[derive(Debug)]
struct Rules {
    config: Config,
    umask: u32,
}

/// A private directory in which a tree is written. It removes itself unless it is published.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    umask: u32,
    published: bool,
    leftovers: Leftovers,
}

/// Directories of staging that could not be removed when they should: the disk was read-only, or a file in them is
/// immutable. They are tried again now and then.
#[derive(Debug, Clone, Default)]
struct Leftovers(Arc<Mutex<Vec<PathBuf>>>);

impl Leftovers {
    /// Removes what is at `path`, or remembers it.
    fn remove(&self, path: &Path) {
        if let Err(error) = remove_all(path) {
            self.keep(path, &error);
        }
    }

    /// Remembers what could not be removed.
    fn keep(&self, path: &Path, error: &io::Error) {
        tracing::warn!(path = %path.display(), %error, "could not remove a staging directory; it is tried again");
        self.lock().push(path.to_owned());
    }

    /// Tries again to remove what is left.
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
    /// Opens the directory, for a writer that works by descriptors only.
    pub fn open(&self) -> Result<OwnedFd, Error> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, Mode::empty())
            .map_err(|e| durable::at("open", &self.path)(e.into()).into())
    }

    /// Returns its path.
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

/// Removes a tree, a file or a link; that there is none is as good.
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

/// What is known of a tree that is about to be published.
#[derive(Debug)]
pub struct Record<'a> {
    /// Under which key.
    pub key: &'a Key,
    /// How it was packed.
    pub archive_type: ArchiveType,
    /// By which job.
    pub job: i64,
    /// When that was accepted.
    pub accepted_ms: i64,
    /// The moment of publication.
    pub now_ms: i64,
    /// What the tree holds.
    pub entries: &'a [Entry],
    /// Whether a tree that is there already is exchanged: it was found damaged, and this one has the same content.
    pub heal: bool,
}

/// A published version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// What its manifest says.
    pub head: Head,
    /// Its tree.
    pub path: PathBuf,
}

/// What `current` of a name is, beside the version that is said to be live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// It leads to that version.
    Right,
    /// It leads to another published version.
    Other(Key),
    /// It is not there, or leads to nothing that was published.
    Broken,
    /// The version has no tree, so that nothing could lead to it.
    NoTree,
}

/// One flip of `current`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// The version that was live before, where there was one.
    pub from: Option<DataVersion>,
    /// Whether `current` changed at all.
    pub changed: bool,
}

impl Publisher {
    /// Opens the data directory, sweeps what earlier attempts have left in staging, and starts the sync thread.
    /// `umask` holds the permission bits that no version directory gets.
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

    /// Returns where things are.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Changes how versions are kept and the permission bits that none gets; what is at work keeps the old ones. Whether
    /// versions are synced stays as it was at the start: the sync thread was made for it.
    pub fn reload(&self, config: Config, umask: u32) {
        let durable = self.rules.now().config.durable;
        self.space.set_reserve(config.reserve);
        let config = Config { durable, ..config };
        self.rules.replace(Rules { config, umask });
    }

    /// Returns how versions are kept.
    #[must_use]
    pub fn config(&self) -> Config {
        self.rules.now().config.clone()
    }

    /// Tells whether archives are kept as received.
    #[must_use]
    pub fn keeps_archives(&self) -> bool {
        self.rules.now().config.keep_archives
    }

    /// Returns the room of the file system.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Opens a sync session for one attempt; with `early`, what is written is synced in the background meanwhile.
    #[must_use]
    pub fn session(&self, early: bool) -> Session {
        self.syncer.session(early)
    }

    /// Makes a private staging directory for `job`, with a name that no other attempt has.
    pub fn stage(&self, job: i64) -> Result<Staging, Error> {
        loop {
            let path = self.unused(&job.to_string());
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                // Left by an earlier life, and nobody could remove it.
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
            // What cannot be removed takes room, but is no reason not to start.
            self.leftovers.remove(&path);
        }
        Ok(())
    }

    /// Tries again to remove what could not be removed from staging before.
    pub fn sweep_leftovers(&self) {
        self.leftovers.sweep();
    }

    /// Makes the tree in `staging` the version `record.key`: writes its manifest, waits until all of it is on the disk,
    /// and renames it into place. `keep` moves the archive to where it is kept, if it is. The version is not live yet, and
    /// lasts only after [`Publisher::settle`].
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
        // After an exchange the staging directory holds the damaged tree, and goes with it.
        staging.published = !exchange;
        let path = places.version;
        Ok(Release { head, path })
    }

    /// Finds out what is in the place of the version that is to be published.
    fn place(&self, record: &Record<'_>, head: &Head) -> Result<Place, Error> {
        let key = record.key;
        let there = match self.find(key) {
            // Nobody knows what a tree without a readable manifest holds; the new one is known.
            Err(error) if error.is_no_manifest() => {
                tracing::warn!(event = "foreign-tree", data = %key, "there is a tree without a readable manifest in the place of this version; it is replaced");
                return Ok(Place::Replaced);
            }
            found => found?,
        };
        match there {
            None => Ok(Place::Free),
            Some(_) if record.heal => Ok(Place::Replaced),
            // Published by an earlier life that could not record it: its content is this one.
            Some(there) if there.head.source.md5 == head.source.md5 => {
                Ok(Place::Published(there.into()))
            }
            Some(there) => Err(conflict(&there.head, head)),
        }
    }

    /// Returns the version `key` if it is on the disk already: published by an earlier life of this process that could
    /// not record it any more.
    pub fn find(&self, key: &Key) -> Result<Option<Release>, Error> {
        let path = self.layout.version_dir(key);
        if fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        let head = manifest::read_head(&self.layout.manifest(key))?;
        Ok(Some(Release { head, path }))
    }

    /// Reads the kept archive of `key` and returns its size and digests, or `None` where it is not kept or cannot be read.
    #[must_use]
    pub fn archive_content(&self, key: &Key) -> Option<Content> {
        verify::measure(fs::File::open(self.layout.archive(key)).ok()?).ok()
    }

    /// Makes `key` the live version of its name in one atomic step; it lasts only after [`Publisher::settle`].
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

    /// Waits until nobody else changes the name of `key`, and keeps others from it while the lock is held.
    pub async fn lock(&self, key: &Key) -> NameLock {
        self.names.lock(key).await
    }

    /// As [`Publisher::lock`], by name.
    pub async fn lock_name(&self, app: &AppId, name: &DataName) -> NameLock {
        self.names.lock_name(app, name).await
    }

    /// Flips `current` to `key`, and waits until that is on the disk.
    pub fn flip(&self, key: &Key) -> Result<(), Error> {
        self.activate(key)?;
        self.settle_name(&key.app, &key.name)
    }

    /// Compares `current` with `key`, which is said to be live.
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

    /// Returns the live version of a name, by what `current` says.
    #[must_use]
    pub fn live(&self, app: &AppId, name: &DataName) -> Option<DataVersion> {
        let target = fs::read_link(self.layout.current(app, name)).ok()?;
        let component = target.file_name()?.to_str()?.to_owned();
        match from_path_component(&component) {
            Some(text) => DataVersion::parse(&text).ok(),
            // Cut: the manifest knows the whole text.
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

    /// Waits until the renames of this session are on the disk. Only then may an outcome be recorded.
    pub fn settle(&self, session: &Session) -> Result<(), Error> {
        if is_seeded(Bug::NoSettle) {
            return Ok(());
        }
        session.wait().map_err(|source| self.sync_error(source))
    }

    /// Waits until a flip of this name is on the disk, without waiting for what others write.
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

    /// Takes the version `key` off the node: out of sight in one step, then its manifest and archive, and returns the
    /// directory that is left to be deleted at leisure with [`Publisher::delete`].
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
                // The version is gone nevertheless; without a tree this says nothing, and goes with the next publication.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "could not remove what belonged to a version");
                }
                _ => {}
            }
        }
        Ok(trash)
    }

    /// Tells whether a program holds a `flock` on the version's directory, which is how a reader keeps a version.
    #[must_use]
    pub fn is_held(&self, key: &Key) -> bool {
        is_locked(&self.layout.version_dir(key))
    }

    /// Tells what forbids to take the version's directory out of its place, where the file system says so.
    #[must_use]
    pub fn is_fixed(&self, key: &Key) -> Option<&'static str> {
        let version = self.layout.version_dir(key);
        let fixed = version.ancestors().take(2).any(is_immutable);
        fixed.then_some("its directory is immutable or append-only: see chattr(1)")
    }

    /// Deletes a directory that [`Publisher::remove`] has taken out of sight; if another thread is
    /// deleting already, it is left to that one.
    pub fn delete(&self, trash: &Path) {
        self.trash
            .delete(trash, |path, error| self.leftovers.keep(path, &error));
    }
}

/// What is in the place of a version that is to be published.
enum Place {
    Free,
    /// A tree that the new one takes the place of.
    Replaced,
    /// This very version.
    Published(Box<Release>),
}

/// Where the parts of a version go.
struct Places {
    /// The manifest until it is synced.
    written: PathBuf,
    manifest: PathBuf,
    version: PathBuf,
    /// The archive, if archives are kept.
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

    /// The sync round that follows makes the new directories last, so they need no sync of their own.
    fn make_dirs(&self) -> Result<(), Error> {
        let paths = [&self.manifest, &self.version].into_iter();
        for path in paths.chain(&self.archive) {
            let parent = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(parent).map_err(durable::at("make directory", parent))?;
        }
        Ok(())
    }

    /// Removes what a publication that failed has left; the manifest of a tree that is there stays.
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
        manifest::EntryKind::File { size, .. } => Some(*size),
        manifest::EntryKind::Dir | manifest::EntryKind::Symlink { .. } => None,
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

/// A staging directory is private; a version directory may be read as the mask allows.
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
