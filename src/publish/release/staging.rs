//! Staging: a private directory in which a tree is written, and what could not be removed of one.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::Publisher;
use crate::publish::Error;
use crate::sys::durable;

/// A private directory that a tree is written into. Dropping it deletes it unless it was published.
#[derive(Debug)]
pub struct Staging {
    pub(super) path: PathBuf,
    pub(super) umask: u32,
    pub(super) published: bool,
    leftovers: Leftovers,
}

/// Staging directories that could not be deleted because the disk was read-only or a file in them
/// is immutable. Deletion is retried from time to time.
#[derive(Debug, Clone, Default)]
pub(super) struct Leftovers(Arc<Mutex<Vec<PathBuf>>>);

impl Leftovers {
    /// Deletes `path`, or remembers it on failure.
    fn remove(&self, path: &Path) {
        if let Err(error) = remove_all(path) {
            self.keep(path, &error);
        }
    }

    /// Remembers a path that could not be deleted.
    pub(super) fn keep(&self, path: &Path, error: &io::Error) {
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

impl Publisher {
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

    pub(super) fn unused(&self, prefix: &str) -> PathBuf {
        let n = self.attempts.fetch_add(1, Ordering::Relaxed);
        self.layout.staging().join(format!("{prefix}-{n}"))
    }

    pub(super) fn sweep_staging(&self) -> Result<(), Error> {
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

/// Staging directories are private; a version directory is readable as far as the umask allows.
pub(super) fn open_up(path: &Path, umask: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755 & !umask))
        .map_err(durable::at("set mode of", path))?;
    Ok(())
}
