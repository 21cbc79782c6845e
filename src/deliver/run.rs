//! One run of a job down the road: what it is given, and what it reports.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::failure::Stop;
use crate::datafile::{Content, DataFile};
use crate::fetch::{self, Request, Spool};
use crate::job::{Failure, Job, Stage};
use crate::progress::Progress;
use crate::verify::Hasher;

/// One run: a job, and how to watch and stop it.
pub struct Run<'a> {
    /// What to publish.
    pub job: &'a Job,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// Ends the run at its next safe point.
    pub cancel: CancellationToken,
    /// When the file's time is up.
    pub deadline: Instant,
    /// Whether `file:` URLs may be read: a local push document only.
    pub allow_local: bool,
    /// What the version is made of that is there already, damaged, and to be exchanged.
    pub damaged: Option<Content>,
    /// Hears of what happens on the way.
    pub note: &'a (dyn Fn(Note) + Send + Sync),
}

/// What a run tells on its way, for the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A station has started.
    Stage(Stage),
    /// The transfer goes on after so many bytes that are here already.
    Resumed(u64),
    /// The source failed for now, and is tried again.
    Retrying {
        /// Which attempt failed.
        attempt: u32,
        /// How long until the next one.
        wait: Duration,
        /// How it failed.
        failure: Failure,
    },
    /// What was here is void, and the transfer starts at zero.
    Restarted(String),
    /// The bytes were not the announced ones; they are fetched once more from zero.
    Refetching(Failure),
}

impl Run<'_> {
    pub(super) fn retrying(&self, attempt: u32, error: fetch::Error, wait: Duration) {
        let failure = Stop::fetch(error).into_failure(Stage::Fetch);
        (self.note)(Note::Retrying {
            attempt,
            wait,
            failure,
        });
    }

    pub(super) fn stage(&self, stage: Stage) {
        self.progress.set_stage(stage);
        (self.note)(Note::Stage(stage));
    }

    /// Returns whether the push states a digest, so that the bytes can be proven right.
    pub(super) fn is_proven(&self) -> bool {
        self.job.file.md5.is_some() || self.job.file.sha256.is_some()
    }
}

/// Returns what to fetch for a run, after what is in `spool` already.
pub(super) fn request(run: &Run<'_>, spool: Option<&Spool>, fresh: bool) -> Request {
    let file = &run.job.file;
    Request {
        url: file.url.clone(),
        app: file.key.app.clone(),
        size: file.size,
        offset: spool.map_or(0, Spool::len),
        validator: spool.and_then(Spool::validator).cloned(),
        deadline: run.deadline,
        cancel: run.cancel.clone(),
        proven: run.is_proven(),
        from_origin: fresh,
        allow_local: run.allow_local,
        attempts: Arc::clone(run.progress.attempts()),
        fetched: Arc::clone(run.progress.fetched()),
    }
}

/// Returns what hashes the archive of `file`. One that is `kept` can be asked for its SHA-256 when somebody wants it.
pub(super) fn hasher(file: &DataFile, kept: bool) -> Hasher {
    let hasher = Hasher::new(file.content());
    if kept { hasher } else { hasher.with_sha256() }
}
