//! Staging: a private directory in which a tree is written, and what is done with one that is not
//! published.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::Publisher;
use crate::publish::Error;
use crate::publish::trash::Trash;
use crate::sys::durable;

/// A private directory that a tree is written into. Dropping it deletes it unless it was published.
#[derive(Debug)]
pub struct Staging {
    pub(super) path: PathBuf,
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
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // At once: whoever failed for want of space has it back before that is reported.
            self.trash.delete_now(&self.path);
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
                        trash: self.trash.clone(),
                    });
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
pub(super) fn open_up(path: &Path, umask: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755 & !umask))
        .map_err(durable::at("set mode of", path))?;
    Ok(())
}
