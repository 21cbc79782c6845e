//! Removes a version: out of sight by one rename, then deleted in the background.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Publisher;
use crate::datafile::Key;
use crate::publish::Error;
use crate::sys::readers::Readers;

impl Publisher {
    /// Takes the version `key` off the node: moves its tree out of sight in one step, and removes
    /// manifest and archive. The tree is deleted later.
    pub fn remove(&self, key: &Key) -> Result<(), Error> {
        let version = self.layout.version_dir(key);
        let in_use = |why: &str| Error::InUse {
            key: key.to_string(),
            why: why.to_owned(),
        };
        if fs::symlink_metadata(&version).is_err() {
            return Err(Error::NotFound {
                key: key.to_string(),
            });
        }
        if self.standing(&key.app, &key.name).leads_to(key) {
            return Err(in_use("it is live"));
        }
        if let Some(why) = self.held_by(key) {
            return Err(in_use(&why));
        }
        self.trash.take(&version)?;
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
        Ok(())
    }

    /// Deletes the kept archive of a version, if there is one.
    pub fn remove_archive(&self, key: &Key) {
        let path = self.layout.archive(key);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "could not remove an archive");
        }
    }

    /// Returns what uses the version's directory: a program that holds a `flock` on it, which is how
    /// a reader prevents its removal, or one that is in it, as far as this process may see.
    #[must_use]
    pub fn held_by(&self, key: &Key) -> Option<String> {
        let version = self.layout.version_dir(key);
        if is_locked(&version) {
            return Some("a program holds a lock on its directory".to_owned());
        }
        let readers = self.readers();
        readers.of(&version).map(ToString::to_string)
    }

    /// Returns where the processes are. A round of retention asks once a second, not per version.
    fn readers(&self) -> Arc<Readers> {
        let mut known = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((when, readers)) if when.elapsed() < Duration::from_secs(1) => Arc::clone(readers),
            _ => {
                let readers = Arc::new(Readers::near(&self.layout.data()));
                *known = Some((Instant::now(), Arc::clone(&readers)));
                readers
            }
        }
    }

    /// Returns what forbids moving the version's directory, if the file system reports something.
    #[must_use]
    pub fn is_fixed(&self, key: &Key) -> Option<&'static str> {
        let version = self.layout.version_dir(key);
        let fixed = version.ancestors().take(2).any(is_immutable);
        fixed.then_some("its directory is immutable or append-only: see chattr(1)")
    }
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
