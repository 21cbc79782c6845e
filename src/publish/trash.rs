//! Deletes trees that nobody sees any more, one after the other, and while others write only a little at a time: deleting
//! takes processor and journal from a push for nothing that anyone waits for.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::beneath::clear_with;

/// Files deleted between two looks at whether someone writes.
const SLICE: u32 = 16;
/// For each moment of deleting, so many of rest while someone writes; shared by the trees that wait, so that they never
/// become more and more where someone always writes.
const REST: usize = 100;
/// The longest rest, so that the end of the writing is noticed.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// Trees to be deleted, and who writes meanwhile.
#[derive(Debug, Default)]
pub(super) struct Trash {
    queue: Mutex<Queue>,
    writers: Arc<AtomicUsize>,
    /// Trees that wait or are being deleted.
    backlog: AtomicUsize,
    /// How often the deleting has rested.
    #[cfg(test)]
    rests: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<PathBuf>,
    /// Whether someone is at work on it.
    open: bool,
}

/// Someone writes a tree, for as long as this is held.
#[derive(Debug)]
pub(super) struct Writing(Arc<AtomicUsize>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Trash {
    /// Notes that a tree is being written.
    pub(super) fn writing(&self) -> Writing {
        self.writers.fetch_add(1, Ordering::Relaxed);
        Writing(Arc::clone(&self.writers))
    }

    /// Deletes `path`, or leaves it to the thread that is deleting already. What cannot be deleted goes to `failed`.
    pub(super) fn delete(&self, path: &Path, failed: impl Fn(&Path, io::Error)) {
        let mut queue = self.lock();
        queue.waiting.push_back(path.to_owned());
        self.backlog.fetch_add(1, Ordering::Relaxed);
        if std::mem::replace(&mut queue.open, true) {
            return;
        }
        while let Some(next) = queue.waiting.pop_front() {
            drop(queue);
            let mut pace = Pace::new(self);
            if let Err(error) = pace.remove(&next) {
                failed(&next, error);
            }
            self.backlog.fetch_sub(1, Ordering::Relaxed);
            queue = self.lock();
        }
        queue.open = false;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes, and rests in between while someone writes.
struct Pace<'a> {
    trash: &'a Trash,
    since: Instant,
    done: u32,
}

impl<'a> Pace<'a> {
    fn new(trash: &'a Trash) -> Self {
        Self {
            trash,
            since: Instant::now(),
            done: 0,
        }
    }

    /// Removes a tree; that there is none is as good. Links are removed, not followed.
    fn remove(&mut self, path: &Path) -> io::Result<()> {
        let meta = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            meta => meta?,
        };
        if !meta.is_dir() {
            return fs::remove_file(path);
        }
        clear_with(fs::File::open(path)?.as_fd(), || self.rest())?;
        fs::remove_dir(path)
    }

    fn rest(&mut self) {
        self.done += 1;
        if !self.done.is_multiple_of(SLICE) {
            return;
        }
        if self.trash.writers.load(Ordering::Relaxed) > 0 {
            let share = REST / self.trash.backlog.load(Ordering::Relaxed).max(1);
            let share = u32::try_from(share).unwrap_or(0);
            let rest = self.since.elapsed().saturating_mul(share);
            thread::sleep(rest.min(LONGEST_REST));
            #[cfg(test)]
            self.trash.rests.fetch_add(1, Ordering::Relaxed);
        }
        self.since = Instant::now();
    }
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
    fn one_thread_deletes_and_slowly_while_someone_writes() {
        let dir = tempfile::tempdir().unwrap();
        let trash = Trash::default();
        let rests = |files| {
            let path = tree(dir.path(), files);
            trash.delete(&path, |_, error| panic!("{error}"));
            assert!(!path.exists());
            trash.rests.swap(0, Ordering::Relaxed)
        };
        assert_eq!(rests(800), 0);
        let writing = trash.writing();
        assert_eq!(rests(801), 801 / SLICE as usize);
        let (first, second) = (tree(dir.path(), 1600), tree(dir.path(), 10));
        thread::scope(|scope| {
            scope.spawn(|| trash.delete(&first, |_, error| panic!("{error}")));
            while !trash.lock().open {
                thread::sleep(Duration::from_millis(1));
            }
            // It is left to the thread that is at work, which does it before it ends.
            trash.delete(&second, |_, error| panic!("{error}"));
            assert!(second.exists() && first.exists());
            drop(writing);
        });
        assert!(!second.exists() && !first.exists());
    }
}
