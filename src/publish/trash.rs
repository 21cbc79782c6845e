//! Deletes trees that are already out of sight, one at a time, so that a large retention run does
//! not occupy every blocking thread.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sys::beneath::clear;

/// Trees waiting for deletion.
#[derive(Debug, Default)]
pub(super) struct Trash(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<PathBuf>,
    /// Whether a thread is deleting.
    busy: bool,
}

impl Trash {
    /// Deletes `path`, or leaves it to the thread that is already deleting. Calls `failed` for what
    /// cannot be deleted.
    pub(super) fn delete(&self, path: &Path, failed: impl Fn(&Path, io::Error)) {
        let mut queue = self.lock();
        queue.waiting.push_back(path.to_owned());
        if queue.busy {
            return;
        }
        queue.busy = true;
        while let Some(next) = queue.waiting.pop_front() {
            drop(queue);
            if let Err(error) = remove(&next) {
                failed(&next, error);
            }
            queue = self.lock();
        }
        queue.busy = false;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a tree; a missing one is fine. Links are removed, not followed.
fn remove(path: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta?,
    };
    if !meta.is_dir() {
        return fs::remove_file(path);
    }
    clear(fs::File::open(path)?.as_fd())?;
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(root: &Path, files: usize) -> PathBuf {
        let path = root.join(files.to_string());
        for dir in ["a", "b/c"] {
            fs::create_dir_all(path.join(dir)).unwrap();
        }
        for n in 0..files {
            let dir = ["", "a", "b/c"][n % 3];
            fs::write(path.join(dir).join(n.to_string()), "x").unwrap();
        }
        path
    }

    #[test]
    fn deletes_whole_trees_and_never_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let kept = tree(dir.path(), 3);
        let gone = tree(dir.path(), 100);
        std::os::unix::fs::symlink(&kept, gone.join("a/link")).unwrap();
        let trash = Trash::default();
        let fail = |path: &Path, error: io::Error| panic!("{}: {error}", path.display());
        trash.delete(&gone, fail);
        trash.delete(&gone, fail);
        assert!(!gone.exists());
        assert_eq!(fs::read_dir(kept).unwrap().count(), 3);
    }

    #[test]
    fn deletes_paths_that_are_longer_than_a_path_may_be() {
        use rustix::fs::{Mode, OFlags, mkdirat, openat};
        let dir = tempfile::tempdir().unwrap();
        let gone = tree(dir.path(), 3);
        let name = "d".repeat(250);
        let mut at = fs::File::open(&gone).unwrap();
        for _ in 0..20 {
            mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = openat(&at, &name, OFlags::DIRECTORY, Mode::empty())
                .unwrap()
                .into();
        }
        Trash::default().delete(&gone, |_, error| panic!("{error}"));
        assert!(!gone.exists());
    }

    #[test]
    fn a_tree_that_comes_while_a_thread_deletes_is_left_to_that_thread() {
        let dir = tempfile::tempdir().unwrap();
        let trash = Trash::default();
        let (first, second) = (tree(dir.path(), 3), tree(dir.path(), 4));
        trash.lock().busy = true;
        trash.delete(&second, |_, error| panic!("{error}"));
        assert!(second.exists());
        trash.lock().busy = false;
        trash.delete(&first, |_, error| panic!("{error}"));
        assert!(!second.exists() && !first.exists());
    }
}
