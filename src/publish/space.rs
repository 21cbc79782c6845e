//! Free space: what a file will need is reserved before its first byte, in addition to what running
//! files will still use, so that parallel files do not run into the same last gigabyte.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Error;
use crate::sys::durable;
use crate::sys::space::{self, Free};
use crate::sys::units::show_bytes;

/// Inodes that a file is expected to need at least: its directories and a few files.
const LEAST_INODES: u64 = 16;

/// The room of one file system.
pub struct Space {
    path: PathBuf,
    reserve: AtomicU64,
    promises: Mutex<Vec<Weak<Promise>>>,
}

/// Room that was promised to one file; it is given back when the promise is dropped.
#[derive(Debug)]
pub struct Promise {
    needed: u64,
    used: AtomicU64,
}

impl Promise {
    /// Notes bytes that were written: they are no longer free, and so no longer promised.
    pub fn add_used(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Forgets what was written: it was removed again.
    pub fn reset_used(&self) {
        self.used.store(0, Ordering::Relaxed);
    }

    fn outstanding(&self) -> u64 {
        self.needed
            .saturating_sub(self.used.load(Ordering::Relaxed))
    }
}

impl Space {
    /// Watches over the file system that holds `path`, keeping `reserve` bytes free, or a twentieth of it and at most
    /// 1 GiB when `reserve` is 0.
    pub fn new(path: &Path, reserve: u64) -> Self {
        Self {
            path: path.to_owned(),
            reserve: AtomicU64::new(reserve),
            promises: Mutex::default(),
        }
    }

    /// Keeps another number of bytes free from now on; 0 as in [`Space::new`].
    pub(super) fn set_reserve(&self, bytes: u64) {
        self.reserve.store(bytes, Ordering::Relaxed);
    }

    fn reserve_of(&self, free: &Free) -> u64 {
        match self.reserve.load(Ordering::Relaxed) {
            0 => (free.total / 20).min(1 << 30),
            stated => stated,
        }
    }

    fn free(&self) -> Result<Free, Error> {
        Ok(space::free(&self.path).map_err(durable::at("read free space of", &self.path))?)
    }

    /// Returns the bytes that a file may use now, beside the reserve and what is promised.
    pub fn available(&self) -> Result<u64, Error> {
        let free = self.free()?;
        Ok(free
            .bytes
            .saturating_sub(self.reserve_of(&free))
            .saturating_sub(self.promised()))
    }

    fn promised(&self) -> u64 {
        let mut promises = self.promises.lock().unwrap_or_else(PoisonError::into_inner);
        promises.retain(|p| p.strong_count() > 0);
        promises
            .iter()
            .filter_map(Weak::upgrade)
            .map(|p| p.outstanding())
            .sum()
    }

    /// Promises `needed` bytes, or says why not.
    pub fn promise(&self, needed: u64) -> Result<Arc<Promise>, Error> {
        let free = self.free()?;
        let reserve = self.reserve_of(&free);
        let promised = self.promised();
        let available = free.bytes.saturating_sub(reserve).saturating_sub(promised);
        let refuse = |what, needed: String, available: String| {
            Err(Error::Admission {
                what,
                path: self.path.display().to_string(),
                needed,
                available,
                reserve: show_bytes(reserve),
                promised: show_bytes(promised),
            })
        };
        if needed > available {
            return refuse("space", show_bytes(needed), show_bytes(available));
        }
        if free.inodes < LEAST_INODES {
            return refuse("inodes", LEAST_INODES.to_string(), free.inodes.to_string());
        }
        let promise = Arc::new(Promise {
            needed,
            used: AtomicU64::new(0),
        });
        self.promises
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::downgrade(&promise));
        Ok(promise)
    }

    /// Tells whether the file system can be read at all; for health checks.
    pub fn check(&self) -> io::Result<Free> {
        space::free(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_add_up_and_are_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path(), 1);
        let available = space.available().unwrap();
        let first = space.promise(available / 2).unwrap();
        let error = space.promise(available - available / 4).unwrap_err();
        assert_eq!(error.kind().name, "no-space");
        assert!(error.to_string().contains("needed"), "{error}");
        first.add_used(available / 2);
        assert!(
            space.promise(available / 4).is_ok(),
            "what was written is no longer promised"
        );
        drop(first);
        assert_eq!(space.promised(), 0);
    }

    #[test]
    fn refuses_more_than_there_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Space::new(dir.path(), 0).promise(u64::MAX).is_err());
    }
}
