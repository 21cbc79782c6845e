//! Deletes trees that are out of sight: one at a time, by a thread of low priority, so that neither a
//! start nor a large retention run waits for millions of files or delays a push.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys::beneath::clear;
use crate::sys::{durable, tasks};

/// The directory of trees that wait for deletion, and the thread that deletes them.
#[derive(Debug, Clone)]
pub(super) struct Trash(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<PathBuf>,
    /// Whether the thread runs.
    busy: bool,
    /// What could not be deleted, because the disk is read-only or a file is immutable.
    stuck: Vec<PathBuf>,
    /// The next name in the directory that may be unused.
    next: u64,
}

impl Trash {
    /// Deletes what is in `dir` from an earlier process.
    pub(super) fn open(dir: PathBuf) -> Self {
        let left = fs::read_dir(&dir).into_iter().flatten().flatten();
        let left: Vec<PathBuf> = left.map(|entry| entry.path()).collect();
        let queue = Mutex::default();
        let trash = Self(Arc::new(Inner { dir, queue }));
        left.into_iter().for_each(|path| trash.delete(path));
        trash
    }

    /// Moves `path` out of sight by one rename, and deletes it afterwards.
    pub(super) fn take(&self, path: &Path) -> Result<(), durable::Error> {
        self.make_dir()?;
        let moved = self.unused(|unused| durable::rename_no_replace(path, unused))?;
        self.delete(moved);
        Ok(())
    }

    /// Exchanges the directory `path` for an empty one by one rename, and deletes it afterwards.
    pub(super) fn take_content(&self, path: &Path) -> Result<(), durable::Error> {
        self.make_dir()?;
        let fresh = self.unused(|unused| {
            let made = fs::DirBuilder::new().mode(0o700).create(unused);
            made.map_err(durable::at("make directory", unused))
        })?;
        let exchanged = durable::exchange(path, &fresh);
        self.delete(fresh);
        exchanged
    }

    /// Deletes `path` in the background, from where it is.
    pub(super) fn delete(&self, path: PathBuf) {
        let mut queue = self.lock();
        queue.waiting.push_back(path);
        if queue.busy {
            return;
        }
        let trash = self.clone();
        let run = move || while tasks::guarded_here("trash", || trash.work()).is_err() {};
        let started = std::thread::Builder::new().name("trash".to_owned());
        // Without a thread it waits for the next one.
        queue.busy = started.spawn(run).is_ok();
    }

    /// Deletes `path` now, or remembers it.
    pub(super) fn delete_now(&self, path: &Path) {
        if let Err(error) = remove(path) {
            tracing::warn!(event = "not-deleted", path = %path.display(), %error, "could not delete a removed or unfinished tree; will retry");
            self.lock().stuck.push(path.to_owned());
        }
    }

    /// Removes an empty directory, or remembers it: a confined thread may not, and the thread that
    /// deletes must not be started by one.
    pub(super) fn remove_dir(&self, dir: &Path) {
        if let Err(error) = fs::remove_dir(dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            self.lock().stuck.push(dir.to_owned());
        }
    }

    /// Removes those of the remembered paths that are empty directories.
    pub(super) fn remove_empty(&self) {
        let is_there = |path: &PathBuf| match fs::remove_dir(path) {
            Ok(()) => false,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        self.lock().stuck.retain(is_there);
    }

    /// Retries what could not be deleted.
    pub(super) fn retry(&self) {
        let stuck = std::mem::take(&mut self.lock().stuck);
        stuck.into_iter().for_each(|path| self.delete(path));
    }

    /// Returns whether something is being deleted, so that more space will be free soon.
    pub(super) fn is_busy(&self) -> bool {
        self.lock().busy
    }

    fn work(&self) {
        // Everything else goes first. Without the right, it is as quick as the others.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
        loop {
            let mut queue = self.lock();
            let Some(next) = queue.waiting.pop_front() else {
                queue.busy = false;
                return;
            };
            drop(queue);
            self.delete_now(&next);
        }
    }

    fn make_dir(&self) -> Result<(), durable::Error> {
        let dir = &self.0.dir;
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(durable::at("make directory", dir)(e))
            }
            _ => Ok(()),
        }
    }

    /// Calls `make` with one name after another, until one is unused.
    fn unused(
        &self,
        make: impl Fn(&Path) -> Result<(), durable::Error>,
    ) -> Result<PathBuf, durable::Error> {
        loop {
            let mut queue = self.lock();
            queue.next += 1;
            let path = self.0.dir.join(queue.next.to_string());
            drop(queue);
            match make(&path) {
                Err(e) if e.source.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| path),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn wait(trash: &Trash) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while trash.is_busy() {
            assert!(std::time::Instant::now() < end, "nothing is deleted");
            std::thread::yield_now();
        }
        assert!(trash.lock().stuck.is_empty());
    }

    #[test]
    fn deletes_whole_trees_and_never_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let kept = tree(dir.path(), 3);
        let gone = tree(dir.path(), 100);
        std::os::unix::fs::symlink(&kept, gone.join("a/link")).unwrap();
        let trash = Trash::open(dir.path().join("trash"));
        trash.take(&gone).unwrap();
        assert!(!gone.exists(), "it is out of sight at once");
        trash.delete(gone);
        wait(&trash);
        assert_eq!(fs::read_dir(&trash.0.dir).unwrap().count(), 0);
        assert_eq!(fs::read_dir(kept).unwrap().count(), 3);
    }

    #[test]
    fn a_directory_is_empty_at_once_and_its_content_goes() {
        let dir = tempfile::tempdir().unwrap();
        let full = tree(dir.path(), 10);
        let trash = Trash::open(dir.path().join("trash"));
        trash.take_content(&full).unwrap();
        assert_eq!(fs::read_dir(&full).unwrap().count(), 0);
        wait(&trash);
        assert_eq!(fs::read_dir(&trash.0.dir).unwrap().count(), 0);
    }

    #[test]
    fn what_an_earlier_process_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("trash")).unwrap();
        let left = tree(&dir.path().join("trash"), 10);
        wait(&Trash::open(dir.path().join("trash")));
        assert!(!left.exists());
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
        remove(&gone).unwrap();
        assert!(!gone.exists());
    }
}
