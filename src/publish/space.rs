//! Free space: what a file will need is reserved before its first byte, on top of what running
//! files still need, so that parallel files do not compete for the same last gigabyte.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Error;
use crate::sys::durable;
use crate::sys::space::{self, Free};
use crate::sys::units::show_bytes;

/// A file needs at least this many inodes: its directories and a few files.
const LEAST_INODES: u64 = 16;

/// The free space of one file system and what is reserved of it.
pub struct Space {
    path: PathBuf,
    reserve: AtomicU64,
    promises: Mutex<Vec<Weak<Promise>>>,
}

/// Space reserved for one file, released on drop.
#[derive(Debug)]
pub struct Promise {
    needed: u64,
    used: AtomicU64,
}

impl Promise {
    /// Records bytes written: they are no longer free, so they no longer need to be reserved.
    pub fn add_used(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Undoes [`Promise::add_used`]: what was written has been deleted.
    pub fn reset_used(&self) {
        self.used.store(0, Ordering::Relaxed);
    }

    fn outstanding(&self) -> u64 {
        self.needed
            .saturating_sub(self.used.load(Ordering::Relaxed))
    }
}

impl Space {
    /// Tracks the file system that holds `path`, keeping `reserve` bytes free; 0 means a twentieth
    /// of it, at most 1 GiB.
    pub fn new(path: &Path, reserve: u64) -> Self {
        Self {
            path: path.to_owned(),
            reserve: AtomicU64::new(reserve),
            promises: Mutex::default(),
        }
    }

    /// Changes the number of bytes kept free; 0 as in [`Space::new`].
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

    /// Returns the bytes a file may use now: free space minus the reserve and all reservations.
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

    /// Reserves `needed` bytes, or fails with what is missing.
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

    /// Returns the free space, failing if the file system cannot be read; for health checks.
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
