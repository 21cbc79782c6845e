//! A file that only takes up space, and is deleted when the disk is full: the agent can then still
//! start, answer, and record that files failed for lack of space, instead of being the first victim
//! of the full disk.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::sys::space;

/// What the file takes: about a hundred transactions, or many more where the journal is written
/// over.
const LENGTH: u64 = 1 << 20;
/// It is made only where it is a small part of what is free.
const FREE_FACTOR: u64 = 8;

/// The reserve of one database.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// The reserve beside the database at `database`.
    pub(super) fn beside(database: &Path) -> Self {
        Self {
            path: database.with_extension("reserve"),
        }
    }

    /// Gives the space back; returns whether there was any.
    pub(super) fn give_up(&self) -> bool {
        let there = fs::metadata(&self.path).is_ok_and(|m| m.len() > 0);
        let given = there && fs::remove_file(&self.path).is_ok();
        if given {
            tracing::error!(event = "reserve-used", path = %self.path.display(), "the disk is full: the space reserved for the database is used now");
        }
        given
    }

    /// Reserves the space again if the disk has plenty.
    pub(super) fn restore(&self) {
        if fs::metadata(&self.path).is_ok_and(|m| m.len() >= LENGTH) {
            return;
        }
        if let Err(error) = self.make() {
            let _ = fs::remove_file(&self.path);
            tracing::debug!(%error, path = %self.path.display(), "set room aside for the database");
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
        // After a power cut it may be there or not: it needs no sync. Where room cannot be set
        // aside there is none.
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
        let reserve = Reserve::beside(&dir.path().join("edgepush.db"));
        assert!(!reserve.give_up());
        reserve.restore();
        reserve.restore();
        let meta = fs::metadata(dir.path().join("edgepush.reserve")).unwrap();
        assert_eq!(meta.len(), LENGTH);
        assert!(meta.blocks() * 512 >= LENGTH, "it takes no room");
        assert!(reserve.give_up());
        assert!(!reserve.give_up());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
