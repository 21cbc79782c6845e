//! One job from its start to its recorded outcome. Whatever the store does, the job is either
//! recorded or still open.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::notes::Notes;
use super::{Runner, Why};
use crate::datafile::Content;
use crate::deliver::{Done, Note, Retries, Run, Stop};
use crate::job::{Failure, Job, JobId, JobState, Outcome, Published, Stage};
use crate::progress::Unrecorded;
use crate::store::{self, activations, jobs};
use crate::sys::deadline::Deadline;
use crate::sys::failure::{Class, Fault};
use crate::sys::{failpoint, pauses, tasks};

/// Time that a run may take past its deadline before it is abandoned: on a disk that hangs, its
/// threads cannot be stopped.
const PAST_DEADLINE: Duration = Duration::from_secs(3);

/// Jobs whose earlier failures are remembered.
const RETRIES_KEPT: usize = 65_536;

/// Waits until a deadline has long passed.
async fn long_past(deadline: &Deadline) {
    loop {
        deadline.passed().await;
        tokio::time::sleep(PAST_DEADLINE).await;
        if deadline.is_over() {
            return;
        }
    }
}

impl Runner {
    pub(super) async fn run_job(
        self: Arc<Self>,
        job: Job,
        damaged: Option<Content>,
        stop: CancellationToken,
    ) {
        let id = job.id;
        let span = tracing::info_span!("push", job = %id, data = %job.file.key);
        let work = async {
            let work = self.bring_to_end(&job, damaged, &stop);
            if tasks::guarded("job", work).await.is_err() {
                let text = "the agent's own work on the file panicked".to_owned();
                let failure = Stop::internal(text).into_failure(Stage::Publish);
                self.record_failure(&job, failure).await;
            }
        };
        tracing::Instrument::instrument(work, span).await;
        self.lock().remove(&id);
        self.left.notify_one();
    }

    /// Runs the job, and records how it ended.
    async fn bring_to_end(&self, job: &Job, damaged: Option<Content>, stop: &CancellationToken) {
        if job.starts > self.config.now().starts {
            return self
                .record_failure(
                    job,
                    Stop::gave_up(job.starts - 1).into_failure(Stage::Fetch),
                )
                .await;
        }
        let entry = self.board.enter(job.id);
        let deadline = Deadline::after(job.file.timeout.saturating_sub(job.spent));
        entry.progress.begin_after(job.attempts, job.fetched);
        entry
            .progress
            .set_deadline(job.file.timeout, deadline.clone());
        let notes = Notes::new(self.store.clone(), job.id);
        let note = |note: Note| notes.take(note);
        let run = Run {
            job,
            progress: Arc::clone(&entry.progress),
            cancel: stop.clone(),
            deadline: deadline.clone(),
            retries: self.retries_of(job.id),
            allow_local: self.allow_local.load(Ordering::Relaxed),
            damaged,
            note: &note,
        };
        let ended = tokio::select! {
            ended = self.road.deliver(&run) => ended,
            () = long_past(&deadline) => Err(Stop::deadline(entry.progress.snapshot().stage)),
        };
        match ended {
            Ok(done) => self.finish(job, done).await,
            Err(Stop::Failed { mut failure, .. }) => {
                if failure.kind == Stop::DEADLINE && failure.cause.is_none() {
                    failure.cause = job.failure.as_ref().map(|last| Box::new(last.into()));
                }
                self.fail(job, failure).await;
            }
            Err(Stop::Later { failure, wait }) => {
                self.retry_later(job, failure, wait, run.retries).await;
            }
            Err(Stop::Interrupted | Stop::Closed) => self.interrupted(job).await,
        }
    }

    /// Returns what the source of a job has failed with so far.
    fn retries_of(&self, id: JobId) -> Retries {
        let retries = self
            .retries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        retries.unwrap_or_default()
    }

    fn keep_retries(&self, id: JobId, retries: Retries) {
        let mut all = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= RETRIES_KEPT {
            // Those that are forgotten only try sooner. Some are of jobs that were canceled.
            all.clear();
        }
        all.insert(id, retries);
    }

    /// Puts a job off whose source has failed.
    async fn retry_later(&self, job: &Job, failure: Failure, wait: Duration, retries: Retries) {
        self.keep_retries(job.id, retries);
        let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let (id, at) = (job.id, self.clock.now_ms().saturating_add(wait));
        let why = failure.clone();
        let put_off = move |tx: &store::Tx<'_>| jobs::retry_later(tx, id, at, &why);
        self.put_back(id, Some(failure), put_off).await;
    }

    /// Makes a published version live if it should be, waits until all of it is durable, and
    /// records it.
    async fn finish(&self, job: &Job, done: Done) {
        let key = &job.file.key;
        // From the decision to the record, no other flip of this name may come in between.
        let _lock = self.publisher.lock(key).await;
        failpoint::panic_in("settle");
        let head = done.release.head.clone();
        let fetched = done.fetched;
        let settled = async {
            let live = job.activate && self.may_activate(job).await?;
            self.road.settle(done, live.then(|| key.clone())).await?;
            Ok(live)
        };
        let activated = match settled.await {
            Ok(live) => live,
            Err(Stop::Failed { failure, .. } | Stop::Later { failure, .. }) => {
                return self.fail(job, failure).await;
            }
            Err(Stop::Interrupted | Stop::Closed) => return self.interrupted(job).await,
        };
        let outcome = Outcome::Published(Published {
            content: head.source,
            files: head.files,
            bytes: head.bytes,
            fetched,
            activated,
        });
        if self.record(job, outcome).await {
            tracing::info!(
                event = "published",
                files = head.files,
                bytes = head.bytes,
                fetched,
                live = activated,
                "published"
            );
        }
    }

    async fn may_activate(&self, job: &Job) -> Result<bool, Stop> {
        let (id, key) = (job.id, job.file.key.clone());
        self.store
            .read(move |r| activations::job_may_activate(r, &key, id))
            .await
            .map_err(|e| Stop::internal(crate::sys::Chain(&e).to_string()))
    }

    /// Records a failure. One of this node's disk is retried first, since the next attempt may
    /// succeed.
    async fn fail(&self, job: &Job, failure: Failure) {
        let full = [Fault::NoSpace, Fault::NoInodes].map(|fault| fault.kind().name);
        let has_room = full.contains(&failure.kind.as_str()) && self.make_room(job).await;
        let again = failure.class == Class::Device
            && failure.retryable
            && job.starts <= self.config.now().device_retries;
        if !again && !has_room {
            return self.record_failure(job, failure).await;
        }
        let wait = pauses::DEVICE.after(job.starts.saturating_sub(1));
        let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let (id, at) = (job.id, self.clock.now_ms() + wait);
        tracing::warn!(
            event = "again",
            kind = failure.kind,
            wait_ms = wait,
            error = failure.in_full(),
            "this node's disk failed the file; retrying"
        );
        let why = failure.to_string();
        let requeue = move |tx: &store::Tx<'_>| jobs::requeue(tx, id, at, &why);
        self.put_back(id, Some(failure), requeue).await;
    }

    /// Removes partial archives of jobs that have ended, oldest first, for one that lacks space. Returns
    /// whether there were any.
    async fn make_room(&self, job: &Job) -> bool {
        let Ok(open) = self.store.read(jobs::open_keys).await else {
            return false;
        };
        let open = open.into_iter().collect();
        let needed = job
            .file
            .size
            .map_or(u64::MAX, |size| size.saturating_mul(2));
        let road = Arc::clone(&self.road);
        let evicting = tokio::task::spawn_blocking(move || road.evict_partials(&open, needed));
        let removed = evicting.await.unwrap_or(0);
        if removed > 0 {
            tracing::info!(
                event = "evicted",
                removed,
                "removed partial archives of ended files to make room"
            );
        }
        removed > 0
    }

    fn note_unrecorded(&self, id: JobId, failure: &Failure, again: bool) {
        let unrecorded = Unrecorded {
            failure: failure.clone(),
            at_ms: self.clock.now_ms(),
            again,
        };
        self.board.note_unrecorded(id, unrecorded);
    }

    async fn record_failure(&self, job: &Job, failure: Failure) {
        let (kind, stage, message) = (failure.kind.clone(), failure.stage, failure.in_full());
        if self.record(job, Outcome::Failed(failure)).await {
            tracing::warn!(event = "failed", kind, %stage, error = message, "the file failed");
        }
    }

    /// Handles a run that was stopped: canceled by an operator, it has ended; stopped by a drain,
    /// it resumes after the next start.
    async fn interrupted(&self, job: &Job) {
        let why = self.lock().get(&job.id).map_or(Why::Drain, |r| r.why);
        if why == Why::Canceled {
            if self.record(job, Outcome::Canceled).await {
                tracing::info!(event = "canceled", "canceled");
            }
            return;
        }
        let id = job.id;
        let why = match why {
            Why::Parked => "slow, and others waited for its place; it resumes where it stopped",
            Why::Drain | Why::Canceled => "the agent shut down",
        };
        self.put_back(id, None, move |tx| jobs::put_back(tx, id, why))
            .await;
    }

    /// Puts a job back into the queue. If that cannot be written, it stays a running job, which the
    /// next start resumes.
    async fn put_back<F>(&self, id: JobId, why: Option<Failure>, put: F)
    where
        F: FnOnce(&store::Tx<'_>) -> Result<bool, store::Error> + Clone + Send + 'static,
    {
        loop {
            let (put, spent) = (put.clone(), self.board.get(id));
            let written = self.store.write(move |tx| {
                jobs::note_spent(tx, id, spent.as_ref())?;
                put(tx)
            });
            match written.await {
                Err(error) if error.is_transient() => {
                    if let Some(failure) = &why {
                        self.note_unrecorded(id, failure, true);
                    }
                    tokio::time::sleep(pauses::STORE.after(0)).await;
                }
                _ => break,
            }
        }
        self.board.forget_unrecorded(id);
    }

    /// Records an outcome. While the store cannot take it, the job stays open. A store that has
    /// failed for good ends the process, and the next start comes to the same outcome.
    async fn record(&self, job: &Job, outcome: Outcome) -> bool {
        let stated = job.file.content();
        if outcome.state() != JobState::Succeeded && stated.md5.is_none() && stated.sha256.is_none()
        {
            // No later push can use it. Before the record: afterwards it may be that push's.
            self.road.discard_partial(&job.file.key).await;
        }
        let (id, now) = (job.id, self.clock.now_ms());
        let recorded = loop {
            let (written, spent) = (outcome.clone(), self.board.get(id));
            let ended = self
                .store
                .write(move |tx| {
                    jobs::note_spent(tx, id, spent.as_ref())?;
                    jobs::finish(tx, id, &written, now)
                })
                .await;
            match ended {
                Ok(recorded) => break recorded,
                Err(error) if error.is_transient() => {
                    // The API shows the failure although it is not recorded yet.
                    if let Outcome::Failed(failure) = &outcome {
                        self.note_unrecorded(id, failure, false);
                    }
                    tokio::time::sleep(pauses::STORE.after(0)).await;
                }
                Err(error) => {
                    tracing::error!(event = "record-failed", error = %crate::sys::Chain(&error), "could not record an outcome");
                    break false;
                }
            }
        };
        self.board.forget_unrecorded(id);
        recorded
    }
}
