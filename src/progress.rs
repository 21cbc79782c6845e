//! The progress of running jobs before any of it is stored: the stages count, the API and the
//! command line read.
//!
//! [`Board`] also remembers failures that the database could not record (its disk is full or
//! read-only), and is the one place that decides how such a job is shown: [`Board::show`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::job::{Failure, JobId, JobState, Snapshot, Stage};
use crate::shown::File;
use crate::sys::deadline::Deadline;

/// The progress of one running job; written by the stages, read by anyone, without locks.
#[derive(Debug, Default)]
pub struct Progress {
    stage: AtomicU8,
    attempts: Arc<AtomicU32>,
    received: AtomicU64,
    total: AtomicU64,
    fetched: Arc<AtomicU64>,
    files: AtomicU64,
    written: AtomicU64,
    resumable: AtomicBool,
    limit: OnceLock<(Duration, Deadline)>,
}

impl Progress {
    /// Records that `stage` has started.
    pub fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Adds the attempts and bytes of earlier starts.
    pub fn begin_after(&self, attempts: u32, fetched: u64) {
        self.attempts.store(attempts, Ordering::Relaxed);
        self.fetched.store(fetched, Ordering::Relaxed);
    }

    /// Sets the file's time limit and its deadline.
    pub fn set_deadline(&self, limit: Duration, deadline: Deadline) {
        let _ = self.limit.set((limit, deadline));
    }

    fn spent_ms(&self) -> u64 {
        let spent = self
            .limit
            .get()
            .map(|(limit, deadline)| limit.saturating_sub(deadline.left()));
        spent.map_or(0, |spent| {
            u64::try_from(spent.as_millis()).unwrap_or(u64::MAX)
        })
    }

    /// Returns the counter of attempts at the source.
    #[must_use]
    pub fn attempts(&self) -> &Arc<AtomicU32> {
        &self.attempts
    }

    /// Returns the counter of bytes received over the network.
    #[must_use]
    pub fn fetched(&self) -> &Arc<AtomicU64> {
        &self.fetched
    }

    /// Records how many bytes of the archive have been received.
    pub fn set_received(&self, bytes: u64) {
        self.received.store(bytes, Ordering::Relaxed);
    }

    /// Records the length of the archive.
    pub fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    /// Records whether the transfer could go on later from here.
    pub fn set_resumable(&self, resumable: bool) {
        self.resumable.store(resumable, Ordering::Relaxed);
    }

    /// Returns whether the transfer could go on later from here.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.resumable.load(Ordering::Relaxed)
    }

    /// Adds files and bytes written to staging.
    pub fn add_written(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Resets what was written: the attempt starts again.
    pub fn reset_written(&self) {
        self.files.store(0, Ordering::Relaxed);
        self.written.store(0, Ordering::Relaxed);
    }

    /// Reads all values; they may be from slightly different moments.
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
            spent_ms: self.spent_ms(),
        }
    }
}

/// The running jobs and their progress, and the failures that could not be recorded yet. The runner
/// writes it, status queries read it.
#[derive(Debug, Clone, Default)]
pub struct Board {
    running: Arc<Mutex<HashMap<JobId, Arc<Progress>>>>,
    unrecorded: Arc<Mutex<HashMap<JobId, Unrecorded>>>,
    /// Why queued files wait, by application and origin.
    crowded: Arc<Mutex<HashMap<(String, String), String>>>,
}

/// A failure that the database could not record: its disk is full or read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrecorded {
    pub failure: Failure,
    /// When it failed, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Whether the job will be retried once the database can be written, and so has not ended.
    pub again: bool,
}

impl Board {
    /// Adds a job; it leaves the board when the returned entry is dropped.
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

    /// Returns the progress of a job, if it is running.
    #[must_use]
    pub fn get(&self, id: JobId) -> Option<Snapshot> {
        self.progress(id).map(|p| p.snapshot())
    }

    /// Returns the progress of a job as it moves, if it is running.
    #[must_use]
    pub fn progress(&self, id: JobId) -> Option<Arc<Progress>> {
        self.running().get(&id).cloned()
    }

    /// Replaces what is known of files that wait for a place, by application and origin.
    pub fn note_crowded(&self, crowded: HashMap<(String, String), String>) {
        *self.crowded() = crowded;
    }

    /// Remembers a failure that could not be recorded.
    pub fn note_unrecorded(&self, id: JobId, unrecorded: Unrecorded) {
        self.unrecorded().insert(id, unrecorded);
    }

    /// Forgets the failure of a job: it has been recorded, or never will be.
    pub fn forget_unrecorded(&self, id: JobId) {
        self.unrecorded().remove(&id);
    }

    /// Updates `file` with the current progress of its running job, which is newer than its row,
    /// and with a failure that could not be recorded.
    #[must_use]
    pub fn show(&self, mut file: File) -> File {
        if file.state == JobState::Queued {
            let turn = (file.key.app.to_string(), file.origin());
            file.waits = self.crowded().get(&turn).cloned();
        }
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

    /// Returns whether no job is running.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn crowded(&self) -> MutexGuard<'_, HashMap<(String, String), String>> {
        self.crowded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Progress>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unrecorded(&self) -> MutexGuard<'_, HashMap<JobId, Unrecorded>> {
        let locked = self.unrecorded.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job's entry on the [`Board`]; dropping it removes the entry.
#[derive(Debug)]
pub struct BoardEntry {
    board: Board,
    id: JobId,
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
