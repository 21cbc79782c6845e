//! The input of one run of a job, and the notes it reports. The runner creates a [`Run`] for each
//! start of a job and writes its notes to the timeline.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::failure::Stop;
use crate::datafile::{Content, DataFile};
use crate::fetch::{self, Request, Source, Spool};
use crate::job::{Failure, Job, Stage};
use crate::progress::Progress;
use crate::publish::space::Promise;
use crate::sys::deadline::Deadline;
use crate::verify::Hasher;

/// Longest wait for the next attempt that a run stays for.
const PATIENCE: Duration = Duration::from_secs(2);

/// One run of a job, and how to watch and stop it.
pub struct Run<'a> {
    pub job: &'a Job,
    pub progress: Arc<Progress>,
    /// Ends the run at its next checkpoint.
    pub cancel: CancellationToken,
    /// When the file's time limit expires. It stands still while the file waits for this node.
    pub deadline: Deadline,
    /// Failures of the source so far.
    pub retries: fetch::Retries,
    /// Whether `file:` URLs may be read; true only for a local push document.
    pub allow_local: bool,
    /// Set if the version is already here but damaged, and is to be replaced: its archive's size
    /// and digests.
    pub damaged: Option<Content>,
    /// Receives progress notes for the job's timeline.
    pub note: &'a (dyn Fn(Note) + Send + Sync),
}

/// A progress note of a run, for the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    Stage(Stage),
    /// The transfer resumes after this many bytes.
    Resumed(u64),
    /// The source failed and will be retried.
    Retrying {
        /// The attempt that failed.
        attempt: u32,
        /// Time until the next attempt.
        wait: Duration,
        failure: Failure,
    },
    /// What was received is no longer valid, and the transfer restarts at zero; with the reason.
    Restarted(String),
    /// The bytes were not the announced ones; they are fetched once more from zero.
    Refetching(Failure),
}

impl Run<'_> {
    /// Notes that the source failed. A long wait for the next attempt ends the run, so that it holds
    /// no place meanwhile.
    pub(super) fn retrying(
        &self,
        attempt: u32,
        error: fetch::Error,
        wait: Duration,
    ) -> Result<(), Stop> {
        // That a host is spared says less than why.
        let failure = match &self.job.failure {
            Some(last) if matches!(error.cause(), fetch::Cause::Silent { .. }) => last.clone(),
            _ => Stop::fetch(error).into_failure(Stage::Fetch),
        };
        (self.note)(Note::Retrying {
            attempt,
            wait,
            failure: failure.clone(),
        });
        if wait > PATIENCE {
            return Err(Stop::Later { failure, wait });
        }
        Ok(())
    }

    /// Counts bytes that have arrived.
    pub(super) fn received(&self, promise: &Promise, source: &Source, bytes: usize) {
        self.progress.set_received(source.position());
        self.progress.set_total(source.total().unwrap_or(0));
        self.progress.set_resumable(source.is_resumable());
        promise.add_used(bytes as u64);
    }

    pub(super) fn stage(&self, stage: Stage) {
        self.progress.set_stage(stage);
        (self.note)(Note::Stage(stage));
    }

    /// Returns whether the push states a digest to verify the bytes by.
    pub(super) fn is_proven(&self) -> bool {
        self.job.file.md5.is_some() || self.job.file.sha256.is_some()
    }
}

/// Returns the request for the bytes that `spool` does not have yet.
pub(super) fn request(run: &Run<'_>, spool: Option<&Spool>, fresh: bool) -> Request {
    let file = &run.job.file;
    Request {
        url: file.url.clone(),
        app: file.key.app.clone(),
        size: file.size,
        offset: spool.map_or(0, Spool::len),
        validator: spool.and_then(Spool::validator).cloned(),
        deadline: run.deadline.clone(),
        cancel: run.cancel.clone(),
        proven: run.is_proven(),
        from_origin: fresh,
        allow_local: run.allow_local,
        attempts: Arc::clone(run.progress.attempts()),
        fetched: Arc::clone(run.progress.fetched()),
        retries: run.retries.clone(),
    }
}

/// Returns the hasher for the archive of `file`. The SHA-256 of a retained archive (`kept`) can be
/// computed later, if it is asked for.
pub(super) fn hasher(file: &DataFile, kept: bool) -> Hasher {
    let hasher = Hasher::new(file.content());
    if kept { hasher } else { hasher.with_sha256() }
}
