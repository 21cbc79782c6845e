//! Staging: a private directory in which a tree is written, and what is done with one that is not
//! published.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::Publisher;
use crate::datafile::Key;
use crate::datafile::tree::Entry;
use crate::publish::Error;
use crate::publish::trash::Trash;
use crate::sys::durable;

/// A private directory that a tree is written into. Dropping it deletes it unless it was published.
#[derive(Debug)]
pub struct Staging {
    pub(super) path: PathBuf,
    /// The private directory around a tree that inherits from where it will be published: its own
    /// modes are final from the beginning.
    wrapper: Option<PathBuf>,
    pub(super) umask: u32,
    pub(super) published: bool,
    trash: Trash,
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

    /// Returns the directory that a writer may be confined to, if the tree is to keep what it
    /// inherits.
    #[must_use]
    pub fn wrapper(&self) -> Option<&Path> {
        self.wrapper.as_deref()
    }

    /// Returns the entries as they are on the disk: what a tree inherits changes their modes.
    pub(super) fn as_made<'a>(
        &'a self,
        entries: &'a [Entry],
    ) -> impl Iterator<Item = Cow<'a, Entry>> {
        entries.iter().map(|entry| {
            let path = self.path.join(OsStr::from_bytes(&entry.path));
            let made = self.wrapper.as_ref().map(|_| fs::symlink_metadata(path));
            let mode = match made {
                Some(Ok(meta)) if !meta.is_symlink() => meta.mode() & 0o7777,
                _ => entry.mode,
            };
            if mode == entry.mode {
                return Cow::Borrowed(entry);
            }
            let mut entry = entry.clone();
            entry.mode = mode;
            Cow::Owned(entry)
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // At once: whoever failed for want of space has it back before that is reported.
            self.trash.delete_now(&self.path);
        }
        if let Some(wrapper) = &self.wrapper {
            self.trash.remove_dir(wrapper);
            let _ = wrapper.parent().map(fs::remove_dir);
        }
    }
}

impl Publisher {
    /// Creates a private staging directory for `job` under a name that no other attempt uses: in
    /// `staging/`, or, where versions inherit an ACL or a group from the directory that they are
    /// published in, next to that.
    pub fn stage(&self, key: &Key, job: i64) -> Result<Staging, Error> {
        let versions = self.layout.versions_dir(&key.app, &key.name);
        if passes_on(&versions) {
            self.trash.remove_empty();
            let place = self.layout.staging_in_place(&key.app, &key.name);
            return self.stage_in_place(&versions, &place, job);
        }
        loop {
            let path = self.unused(&job.to_string());
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                // An earlier process left it, and it could not be deleted.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(durable::at("make directory", &path)(e).into()),
                Ok(()) => return Ok(self.staging(path, None)),
            }
        }
    }

    /// The private wrapper is created among the versions and moved away at once: so it inherits
    /// what they do, and passes it on to the tree.
    fn stage_in_place(&self, versions: &Path, place: &Path, job: i64) -> Result<Staging, Error> {
        fs::create_dir_all(versions).map_err(durable::at("make directory", versions))?;
        let make = |path: &Path, mode: u32| {
            let made = fs::DirBuilder::new().mode(mode).create(path);
            made.map_err(durable::at("make directory", path))
        };
        loop {
            let n = self.attempts.fetch_add(1, Ordering::Relaxed);
            let wrapper = place.join(format!("{job}-{n}"));
            let new = durable::temporary_sibling(&versions.join("staging"));
            make(&new, 0o700)?;
            let moved = match make(place, 0o700) {
                Err(e) if e.source.kind() != io::ErrorKind::AlreadyExists => Err(e),
                _ => durable::rename_no_replace(&new, &wrapper),
            };
            if let Err(error) = moved {
                let _ = fs::remove_dir(&new);
                // The last attempt of the name to end removes the directory of them all.
                let again = [io::ErrorKind::AlreadyExists, io::ErrorKind::NotFound];
                match error.source.kind() {
                    kind if again.contains(&kind) && versions.is_dir() => continue,
                    _ => return Err(error.into()),
                }
            }
            let staging = self.staging(wrapper.join("tree"), Some(wrapper));
            make(&staging.path, 0o755 & !staging.umask)?;
            return Ok(staging);
        }
    }

    fn staging(&self, path: PathBuf, wrapper: Option<PathBuf>) -> Staging {
        Staging {
            path,
            wrapper,
            umask: self.rules.now().umask,
            published: false,
            trash: self.trash.clone(),
        }
    }

    /// Deletes what earlier processes left next to published trees: it is moved away at once.
    pub(super) fn collect_leftovers(&self) {
        let subdirectories = |dir: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect()
        };
        for app in subdirectories(&self.layout.data()) {
            for name in subdirectories(&app) {
                let left = name.join(".staging");
                if fs::symlink_metadata(&left).is_ok() {
                    self.discard(&left);
                }
            }
        }
    }

    fn unused(&self, prefix: &str) -> PathBuf {
        let n = self.attempts.fetch_add(1, Ordering::Relaxed);
        self.layout.staging().join(format!("{prefix}-{n}"))
    }

    /// Empties staging of what an earlier process left, which is deleted later.
    pub(super) fn empty_staging(&self) -> Result<(), Error> {
        let staging = self.layout.staging();
        let listed = || fs::read_dir(&staging).map_err(durable::at("read directory", &staging));
        if listed()?.next().is_some() && self.trash.take_content(&staging).is_err() {
            // Such as a full disk, or a mount point. What is left takes up space, but must not
            // prevent a start.
            for entry in listed()?.flatten() {
                self.trash.delete(entry.path());
            }
        }
        Ok(())
    }

    /// Deletes `path`, which may be large: it is out of sight on return, and gone later. What cannot
    /// be moved is deleted from where it is.
    pub fn discard(&self, path: &Path) {
        if self.trash.take(path).is_err() {
            self.trash.delete(path.to_owned());
        }
    }

    /// Retries deleting what could not be deleted before.
    pub fn sweep_leftovers(&self) {
        self.trash.retry();
    }

    /// Returns whether trees are being deleted, so that more space will be free soon.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        self.trash.is_busy()
    }
}

/// Staging directories are private; a version directory is readable as far as the umask allows.
pub(super) fn open_up(staging: &Staging) -> Result<(), Error> {
    let Staging {
        path,
        umask,
        wrapper,
        ..
    } = staging;
    if wrapper.is_some() {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o755 & !umask))
        .map_err(durable::at("set mode of", path))?;
    Ok(())
}

/// Tells whether what is created in `dir`, or in the nearest directory above it that exists,
/// inherits an ACL or a group.
fn passes_on(dir: &Path) -> bool {
    let Some((dir, meta)) = dir
        .ancestors()
        .find_map(|dir| Some((dir, fs::metadata(dir).ok()?)))
    else {
        return false;
    };
    let acl = rustix::fs::getxattr(dir, "system.posix_acl_default", &mut [0u8; 0][..]);
    meta.mode() & 0o2000 != 0 || acl.is_ok()
}
