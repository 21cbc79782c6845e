//! How far running jobs are, before anything of it is written down: the stations count, the API and
//! the command line read.
//!
//! [`Board`] also remembers failures that the database could not take (its disk is full or
//! read-only), and is the one place that decides how such a job is shown: [`Board::show`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::job::{Failure, JobId, JobState, Snapshot, Stage};
use crate::shown::File;

/// How far a running job is; written by the stations, read by anyone, without a lock.
#[derive(Debug, Default)]
pub struct Progress {
    stage: AtomicU8,
    attempts: Arc<AtomicU32>,
    received: AtomicU64,
    total: AtomicU64,
    fetched: Arc<AtomicU64>,
    files: AtomicU64,
    written: AtomicU64,
}

impl Progress {
    /// Notes that `stage` has started.
    pub fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Notes what earlier starts have taken.
    pub fn begin_after(&self, attempts: u32, fetched: u64) {
        self.attempts.store(attempts, Ordering::Relaxed);
        self.fetched.store(fetched, Ordering::Relaxed);
    }

    /// Returns what counts the attempts at the source.
    #[must_use]
    pub fn attempts(&self) -> &Arc<AtomicU32> {
        &self.attempts
    }

    /// Returns what counts the bytes that come over the network.
    #[must_use]
    pub fn fetched(&self) -> &Arc<AtomicU64> {
        &self.fetched
    }

    /// Notes how many bytes of the archive are here.
    pub fn set_received(&self, bytes: u64) {
        self.received.store(bytes, Ordering::Relaxed);
    }

    /// Notes the length of the archive.
    pub fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    /// Adds files and bytes written to staging.
    pub fn add_written(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Forgets what was written: the attempt starts again.
    pub fn reset_written(&self) {
        self.files.store(0, Ordering::Relaxed);
        self.written.store(0, Ordering::Relaxed);
    }

    /// Reads all of it; the values may be of slightly different moments.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            stage: Stage::ALL[usize::from(self.stage.load(Ordering::Relaxed)).min(3)],
            attempt: self.attempts.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            fetched: self.fetched.load(Ordering::Relaxed),
            files: self.files.load(Ordering::Relaxed),
            written: self.written.load(Ordering::Relaxed),
        }
    }
}

/// The running jobs and how far each is, and those that have failed and cannot be recorded as such
/// for now: the runner enters them, status queries read them.
#[derive(Debug, Clone, Default)]
pub struct Board {
    running: Arc<Mutex<HashMap<JobId, Arc<Progress>>>>,
    unrecorded: Arc<Mutex<HashMap<JobId, Unrecorded>>>,
}

/// A failure that the database does not take: its disk is full or read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrecorded {
    /// How the job failed.
    pub failure: Failure,
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Whether it will be retried once that can be recorded, and so has not ended.
    pub again: bool,
}

impl Board {
    /// Enters a job; it leaves the board when the returned entry is dropped.
    #[must_use]
    pub fn enter(&self, id: JobId) -> BoardEntry {
        let progress = Arc::new(Progress::default());
        self.running().insert(id, Arc::clone(&progress));
        BoardEntry {
            board: self.clone(),
            id,
            progress,
        }
    }

    /// Returns how far a job is, if it is running.
    #[must_use]
    pub fn get(&self, id: JobId) -> Option<Snapshot> {
        self.running().get(&id).map(|p| p.snapshot())
    }

    /// Notes how a job has failed while that cannot be recorded.
    pub fn note_unrecorded(&self, id: JobId, unrecorded: Unrecorded) {
        self.unrecorded().insert(id, unrecorded);
    }

    /// Forgets what was noted of a job: it is recorded now, or never will be.
    pub fn forget_unrecorded(&self, id: JobId) {
        self.unrecorded().remove(&id);
    }

    /// Puts into `file` what its running job reports now, which is newer than its row, and how it
    /// failed where that could not be written down.
    #[must_use]
    pub fn show(&self, mut file: File) -> File {
        if file.state != JobState::Running {
            return file;
        }
        if let Some(now) = self.get(file.id) {
            file.stage = Some(now.stage);
            file.attempts = now.attempt;
            file.received = now.received;
            file.total = now.total;
            file.fetched = now.fetched;
            file.files = now.files;
            file.written = now.written;
        }
        if let Some(failed) = self.unrecorded().get(&file.id).cloned() {
            file.updated_ms = failed.at_ms;
            if !failed.again {
                file.state = JobState::Failed;
                file.status = file.state.status();
                file.stage = Some(failed.failure.stage);
                file.finished_ms = Some(failed.at_ms);
            }
            file.failure = Some(failed.failure);
        }
        file
    }

    /// Returns how many jobs are running.
    #[must_use]
    pub fn len(&self) -> usize {
        self.running().len()
    }

    /// Tells whether no job is running.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn running(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Progress>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unrecorded(&self) -> MutexGuard<'_, HashMap<JobId, Unrecorded>> {
        let locked = self.unrecorded.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job's place on the [`Board`].
#[derive(Debug)]
pub struct BoardEntry {
    board: Board,
    id: JobId,
    /// How far the job is.
    pub progress: Arc<Progress>,
}

impl Drop for BoardEntry {
    fn drop(&mut self) {
        self.board.running().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_leaves_the_board_with_its_entry() {
        let board = Board::default();
        let entry = board.enter(JobId(1));
        entry.progress.set_received(5);
        assert_eq!(board.get(JobId(1)).unwrap().received, 5);
        drop(entry);
        assert!(board.get(JobId(1)).is_none());
    }
}
