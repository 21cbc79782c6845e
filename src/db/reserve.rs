//! A file that only occupies space and is deleted when the disk is full. The agent can then still
//! start, answer, and record that files failed for lack of space, instead of being the first victim
//! of the full disk.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::sys::space;

/// Size of the file: enough for about a hundred transactions, and many more once the write-ahead
/// log is reused.
const LENGTH: u64 = 1 << 20;
/// The file is created only if the free space is at least this many times its size.
const FREE_FACTOR: u64 = 8;

/// The reserve of one database.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Returns the reserve stored next to the database at `database`.
    pub(super) fn of(database: &Path) -> Self {
        Self {
            path: database.with_extension("reserve"),
        }
    }

    /// Frees the space; returns whether there was any.
    pub(super) fn give_up(&self) -> bool {
        let there = fs::metadata(&self.path).is_ok_and(|m| m.len() > 0);
        let given = there && fs::remove_file(&self.path).is_ok();
        if given {
            tracing::error!(event = "reserve-used", path = %self.path.display(), "the disk is full: using the space reserved for the database");
        }
        given
    }

    /// Creates the reserve again if the disk has plenty of space.
    pub(super) fn restore(&self) {
        if fs::metadata(&self.path).is_ok_and(|m| m.len() >= LENGTH) {
            return;
        }
        if let Err(error) = self.make() {
            let _ = fs::remove_file(&self.path);
            tracing::debug!(%error, path = %self.path.display(), "reserve space for the database");
        }
    }

    fn make(&self) -> io::Result<()> {
        let parent = self.path.parent().unwrap_or(Path::new("."));
        if space::free(parent)?.bytes < LENGTH * FREE_FACTOR {
            return Ok(());
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)?;
        // No sync is needed: after a power failure the file may exist or not. If the space cannot
        // be allocated, there is no reserve.
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, LENGTH).map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn takes_its_room_and_gives_it_back_once() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(&dir.path().join("edgepush.db"));
        assert!(!reserve.give_up());
        reserve.restore();
        reserve.restore();
        let meta = fs::metadata(dir.path().join("edgepush.reserve")).unwrap();
        assert_eq!(meta.len(), LENGTH);
        assert!(meta.blocks() * 512 >= LENGTH, "it takes no space");
        assert!(reserve.give_up());
        assert!(!reserve.give_up());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
