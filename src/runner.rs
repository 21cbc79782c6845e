//! Takes due jobs, runs each along the road within its bounds, and records how it ended.
//!
//! It owns which jobs run. Everything that others want of it (a flip, a cancel) they write into the store, which wakes
//! it. An outcome and its report are one transaction, and that comes last: a crash before it finds a job that is still
//! running, and the next start brings it to the same end without fetching anything twice.

mod link;
mod names;
mod scrub;
mod upkeep;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::datafile::Content;
use crate::deliver::{Done, Note, Road, Run, Stop};
use crate::job::{Board, EventKind, Failure, Job, JobId, Outcome, Published, Stage, Unrecorded};
use crate::store::{self, Store, Topic, activations, events, jobs};
use crate::sys::Live;
use crate::sys::clock::Clock;
use crate::sys::failure::Class;

use names::Names;

pub use scrub::Healed;
pub use upkeep::{Removed, Swept};

/// How much is done at once, and how long ends may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Files that may be on the road at once; a file that waits for its source takes little but a place.
    pub files: usize,
    /// Small files (of at most `push.small_bytes`, by what the push states) that may be on the road beside those, the smallest
    /// first: however many large ones are under way, a small one does not wait for their end.
    pub small_files: usize,
    /// How often a file may be started before it is given up: the breaker of a loop of crashes.
    pub starts: u32,
    /// How often a file is tried again after this node's disk failed it.
    pub device_retries: u32,
    /// How long running files may take to reach a safe point when the agent ends.
    #[serde(with = "crate::sys::units::duration")]
    pub drain: Duration,
    /// How often old versions and left-over partial files are looked for.
    #[serde(with = "crate::sys::units::duration")]
    pub upkeep_every: Duration,
    /// How long the partial archive of a failed file is kept for a later push of the same content.
    #[serde(with = "crate::sys::units::duration")]
    pub keep_partial: Duration,
    /// How often everything that is published is compared with its manifest, and healed from its kept archive where it
    /// is damaged; "0s" for never.
    #[serde(with = "crate::sys::units::duration")]
    pub scrub_every: Duration,
    /// How many bytes a second that reads at most.
    #[serde(with = "crate::sys::units::bytes")]
    pub scrub_rate: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            files: 32,
            small_files: 16,
            starts: 10,
            device_retries: 2,
            drain: Duration::from_secs(10),
            upkeep_every: Duration::from_secs(600),
            keep_partial: Duration::from_secs(24 * 3600),
            scrub_every: Duration::from_secs(7 * 24 * 3600),
            scrub_rate: 8 << 20,
        }
    }
}

/// How often a running file's progress is written down.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How long a run may go on past its deadline before it is left behind: a disk that hangs keeps its threads.
const PAST_DEADLINE: Duration = Duration::from_secs(3);
/// How long the store is left alone after it could not take an outcome.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// How long nothing is looked for when nothing rings.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long after a panic a background task is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Runs jobs.
pub struct Runner {
    store: Store,
    road: Arc<Road>,
    board: Board,
    config: Live<Config>,
    clock: Arc<dyn Clock>,
    /// Whether `file:` URLs may be read.
    allow_local: Arc<AtomicBool>,
    running: Mutex<HashMap<JobId, Running>>,
    /// Rings when a job has left the road.
    left: Notify,
    names: Names,
    upkeep: upkeep::State,
}

/// What the store holds for the runner to do.
struct Look {
    canceled: Vec<JobId>,
    flips: Vec<activations::ActivationRow>,
    is_due: bool,
    /// When the next job is due, where none is now.
    next: Option<i64>,
}

impl Look {
    fn take(
        reader: &store::Reader<'_>,
        now_ms: i64,
        places: &Places,
    ) -> Result<Self, store::Error> {
        let is_due = !places.due(reader, now_ms, 1)?.is_empty();
        // Without a free place it does not matter, and with a job that is due it is known.
        let next = match places {
            _ if is_due => None,
            Places { free: 1.., .. } => jobs::next_due_ms(reader)?,
            Places { small: 1.., .. } => jobs::next_small_ms(reader, places.small_bytes)?,
            _ => None,
        };
        Ok(Self {
            canceled: jobs::to_cancel(reader)?,
            flips: activations::pending(reader)?,
            is_due,
            next,
        })
    }
}

/// The places on the road that are free.
struct Places {
    free: usize,
    /// Of those for small files only.
    small: usize,
    /// What a small file is.
    small_bytes: u64,
    /// The jobs that have one.
    taken: HashSet<JobId>,
}

impl Places {
    /// Returns the jobs that may start now, at most `most`, and whether each takes a place for small files.
    fn due(
        &self,
        reader: &store::Reader<'_>,
        now_ms: i64,
        most: usize,
    ) -> Result<Vec<(Job, bool)>, store::Error> {
        let mut due = Vec::new();
        if self.free > 0 {
            due = jobs::due(reader, now_ms, self.free.min(most), &self.taken)?;
        }
        let first = due.len();
        // While there are other places, nothing that is due is left.
        let small = self.small.min(most - first);
        if first == self.free && small > 0 {
            let taken = self.taken.iter().copied();
            let taken = taken.chain(due.iter().map(|job| job.id)).collect();
            due.extend(jobs::due_small(
                reader,
                self.small_bytes,
                now_ms,
                small,
                &taken,
            )?);
        }
        let beside = (0..).map(|n| n >= first);
        Ok(due.into_iter().zip(beside).collect())
    }
}

struct Running {
    stop: CancellationToken,
    canceled: bool,
    /// Whether it has a place for small files.
    small: bool,
}

impl Runner {
    /// Makes a runner of the jobs in `store`. `upkeep_done` is told the time, in milliseconds since the epoch, whenever a
    /// whole round of upkeep has ended well.
    pub fn new(
        store: Store,
        road: Arc<Road>,
        board: Board,
        config: Config,
        clock: Arc<dyn Clock>,
        allow_local: Arc<AtomicBool>,
        upkeep_done: Box<dyn Fn(i64) + Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            road,
            board,
            config: Live::new(config),
            clock,
            allow_local,
            running: Mutex::default(),
            left: Notify::new(),
            names: Names::default(),
            upkeep: upkeep::State::new(upkeep_done),
        })
    }

    /// Changes how much is done at once, and how often; what is at work goes on as it began.
    pub fn reload(&self, config: Config) {
        self.config.replace(config);
        self.left.notify_one();
    }

    /// Runs until `drain`, then lets every file on the road come to a safe point; what was not finished goes on after the
    /// next start. With `until_idle` it also ends when no job is left.
    pub async fn run(
        self: Arc<Self>,
        drain: CancellationToken,
        until_idle: bool,
    ) -> Result<(), store::Error> {
        let mut tasks = JoinSet::new();
        let mut jobs_wake = self.store.wake(Topic::Jobs);
        let mut flips_wake = self.store.wake(Topic::Activations);
        let mut progress = tokio::time::interval(PROGRESS_EVERY);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beside = JoinSet::new();
        let (this, end) = (Arc::clone(&self), drain.clone());
        beside.spawn(supervise("upkeep", move || {
            Arc::clone(&this).keep_up(end.clone())
        }));
        let (this, end) = (Arc::clone(&self), drain.clone());
        beside.spawn(supervise("scrub", move || {
            Arc::clone(&this).scrub(end.clone())
        }));
        let mut taken_up = false;
        let mut stuck = false;
        while !drain.is_cancelled() {
            let next = match self.work_off(&mut taken_up, &mut tasks).await {
                Ok(next) => next,
                // A full disk is given room again by someone, perhaps by a file that is failing right now.
                Err(error) if error.passes() => {
                    if !std::mem::replace(&mut stuck, true) {
                        tracing::error!(event = "store-unavailable", error = %crate::sys::Chain(&error), "the database takes nothing now; work waits until it does");
                    }
                    tokio::select! {
                        () = drain.cancelled() => {}
                        () = tokio::time::sleep(STORE_RETRY) => {}
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            if std::mem::take(&mut stuck) {
                tracing::info!(event = "store-available", "the database takes work again");
            }
            if until_idle && tasks.is_empty() && self.is_idle().await? {
                break;
            }
            tokio::select! {
                () = drain.cancelled() => {}
                _ = jobs_wake.changed() => {}
                _ = flips_wake.changed() => {}
                () = self.left.notified() => {}
                _ = progress.tick() => self.note_progress().await,
                Some(_) = tasks.join_next() => {}
                () = tokio::time::sleep(next) => {}
            }
        }
        self.drain(&mut tasks).await;
        Ok(())
    }

    /// Does all that is to be done now, and returns when there will be more.
    async fn work_off(
        self: &Arc<Self>,
        taken_up: &mut bool,
        tasks: &mut JoinSet<()>,
    ) -> Result<Duration, store::Error> {
        if !*taken_up {
            self.take_up().await?;
            *taken_up = true;
        }
        // Most wakes find nothing, or one thing: one look for all of it, and only then the writer.
        let (places, now) = (self.places(), self.clock.now_ms());
        let look = self.store.read(move |r| Look::take(r, now, &places));
        let look = look.await?;
        self.cancel(&look.canceled);
        if !look.flips.is_empty() {
            self.execute_flips(look.flips).await?;
        }
        if look.is_due {
            self.start_due(tasks).await?;
            // What else is due shows at the next look; there is none before a place is free.
            let Places { free, small, .. } = self.places();
            let full = free == 0 && small == 0;
            return Ok(if full { LOOK_EVERY } else { Duration::ZERO });
        }
        Ok(look.next.map_or(LOOK_EVERY, |at| {
            let wait = Duration::from_millis((at - now).clamp(50, i64::MAX).unsigned_abs());
            wait.min(LOOK_EVERY)
        }))
    }

    /// Takes up what an earlier life of this process has left.
    async fn take_up(&self) -> Result<(), store::Error> {
        let jobs = self.store.write(jobs::interrupted).await?;
        for job in jobs {
            tracing::info!(event = "taken-up", job = %job.id, data = %job.file.key, starts = job.starts, "going on with an interrupted file");
        }
        Ok(())
    }

    /// Starts as many due jobs as there are places.
    async fn start_due(self: &Arc<Self>, tasks: &mut JoinSet<()>) -> Result<(), store::Error> {
        let (places, now) = (self.places(), self.clock.now_ms());
        let started = self
            .store
            .write(move |tx| {
                let mut started = Vec::new();
                for (mut job, small) in places.due(tx, now, usize::MAX)? {
                    if let Some(starts) = jobs::start(tx, job.id, now)? {
                        job.starts = starts;
                        let damaged = store::releases::get(tx, &job.file.key)?
                            .filter(|release| release.damage.is_some())
                            .map(|release| release.content);
                        started.push((job, damaged, small));
                    }
                }
                Ok(started)
            })
            .await?;
        for (job, damaged, small) in started {
            let stop = CancellationToken::new();
            self.lock().insert(
                job.id,
                Running {
                    stop: stop.clone(),
                    canceled: false,
                    small,
                },
            );
            tasks.spawn(Arc::clone(self).run_job(job, damaged, stop));
        }
        Ok(())
    }

    fn places(&self) -> Places {
        let running = self.lock();
        let small = running.values().filter(|r| r.small).count();
        let config = self.config.now();
        Places {
            free: config.files.saturating_sub(running.len() - small),
            small: config.small_files.saturating_sub(small),
            small_bytes: self.road.config().small_bytes,
            taken: running.keys().copied().collect(),
        }
    }

    async fn is_idle(&self) -> Result<bool, store::Error> {
        Ok(self.store.read(jobs::next_due_ms).await?.is_none() && self.lock().is_empty())
    }

    async fn run_job(self: Arc<Self>, job: Job, damaged: Option<Content>, stop: CancellationToken) {
        let id = job.id;
        let span = tracing::info_span!("push", job = %id, data = %job.file.key);
        tracing::Instrument::instrument(self.bring_to_end(&job, damaged, &stop), span).await;
        self.lock().remove(&id);
        self.left.notify_one();
    }

    /// Runs the job, and records how it ended. Whatever the store says, the job is either recorded or still open.
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
        entry.progress.begin_after(job.attempts, job.fetched);
        let notes = Notes::new(self.store.clone(), job.id);
        let deadline = Instant::now() + job.file.timeout;
        let note = |note: Note| notes.take(note);
        let run = Run {
            job,
            progress: Arc::clone(&entry.progress),
            cancel: stop.clone(),
            deadline,
            allow_local: self.allow_local.load(Ordering::Relaxed),
            damaged,
            note: &note,
        };
        let ended =
            match tokio::time::timeout_at(deadline + PAST_DEADLINE, self.road.run(&run)).await {
                Ok(ended) => ended,
                Err(_) => Err(Stop::deadline(entry.progress.snapshot().stage)),
            };
        match ended {
            Ok(done) => self.finish(job, done).await,
            Err(Stop::Failed { failure, .. }) => self.fail(job, failure).await,
            Err(Stop::Interrupted | Stop::Closed) => self.interrupted(job).await,
        }
    }

    /// Makes a published version live where it should be, waits until all of it lasts, and records it.
    async fn finish(&self, job: &Job, done: Done) {
        let key = &job.file.key;
        // From the decision to the record, no other flip of this name may come in between.
        let _turn = self.names.lock(key).await;
        let head = done.release.head.clone();
        let fetched = done.fetched;
        let settled = async {
            let live = job.activate && self.may_activate(job).await?;
            self.road.settle(done, live.then(|| key.clone())).await?;
            Ok(live)
        };
        let activated = match settled.await {
            Ok(live) => live,
            Err(Stop::Failed { failure, .. }) => return self.fail(job, failure).await,
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
            self.upkeep.look_at(key);
        }
    }

    async fn may_activate(&self, job: &Job) -> Result<bool, Stop> {
        let (id, key) = (job.id, job.file.key.clone());
        self.store
            .read(move |r| activations::may_activate(r, &key.app, &key.name, jobs::seq(r, id)?))
            .await
            .map_err(|e| Stop::internal(crate::sys::Chain(&e).to_string()))
    }

    /// Records a failure, unless this node's disk is to blame and may do better the next time.
    async fn fail(&self, job: &Job, failure: Failure) {
        let again = failure.class == Class::Device
            && failure.retryable
            && job.starts <= self.config.now().device_retries;
        if !again {
            return self.record_failure(job, failure).await;
        }
        let wait = i64::from(1u32 << job.starts.min(6)) * 1000;
        let (id, at) = (job.id, self.clock.now_ms() + wait);
        tracing::warn!(
            event = "again",
            kind = failure.kind,
            wait_ms = wait,
            error = failure.message,
            "this node failed the file; it is tried again"
        );
        let why = failure.to_string();
        let requeue = move |tx: &store::Tx<'_>| jobs::requeue(tx, id, at, &why);
        self.put_back(id, Some(failure), requeue).await;
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
        let (kind, stage, message) = (failure.kind.clone(), failure.stage, failure.message.clone());
        if self.record(job, Outcome::Failed(failure)).await {
            tracing::warn!(event = "failed", kind, %stage, error = message, "the file failed");
        }
    }

    /// The run was stopped: by an operator, and then it has ended, or by the drain, and then it goes on later.
    async fn interrupted(&self, job: &Job) {
        let canceled = self.lock().get(&job.id).is_some_and(|r| r.canceled);
        if canceled {
            if self.record(job, Outcome::Canceled).await {
                tracing::info!(event = "canceled", "canceled");
            }
            return;
        }
        let id = job.id;
        self.put_back(id, None, move |tx| jobs::put_back(tx, id))
            .await;
    }

    /// Puts a job back in the queue. What is not written stays a running job, which the next start takes up.
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
                Err(error) if error.passes() => {
                    if let Some(failure) = &why {
                        self.note_unrecorded(id, failure, true);
                    }
                    tokio::time::sleep(STORE_RETRY).await;
                }
                _ => break,
            }
        }
        self.board.forget_unrecorded(id);
    }

    /// Records an outcome. While the store cannot take it the job stays open here; a store that has failed for good ends
    /// the process, and the next start finds the same outcome again.
    async fn record(&self, job: &Job, outcome: Outcome) -> bool {
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
                Err(error) if error.passes() => {
                    // Who asks is told how it ended nevertheless.
                    if let Outcome::Failed(failure) = &outcome {
                        self.note_unrecorded(id, failure, false);
                    }
                    tokio::time::sleep(STORE_RETRY).await;
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

    fn cancel(&self, wanted: &[JobId]) {
        for id in wanted {
            if let Some(running) = self.lock().get_mut(id) {
                running.canceled = true;
                running.stop.cancel();
            }
        }
    }

    async fn note_progress(&self) {
        let ids: Vec<JobId> = self.lock().keys().copied().collect();
        let rows: Vec<_> = ids
            .into_iter()
            .filter_map(|id| Some((id, self.board.get(id)?)))
            .collect();
        if rows.is_empty() {
            return;
        }
        let now = self.clock.now_ms();
        let noted = self.store.write(move |tx| {
            rows.iter()
                .try_for_each(|(id, snapshot)| jobs::progress_event(tx, *id, snapshot, now))
        });
        if let Err(error) = noted.await {
            tracing::debug!(error = %crate::sys::Chain(&error), "could not note progress");
        }
    }

    async fn drain(&self, tasks: &mut JoinSet<()>) {
        for running in self.lock().values() {
            running.stop.cancel();
        }
        let end = Instant::now() + self.config.now().drain;
        while !tasks.is_empty() {
            match tokio::time::timeout_at(end, tasks.join_next()).await {
                Ok(_) => {}
                Err(_) => {
                    tracing::warn!(
                        event = "drain-cut",
                        left = tasks.len(),
                        "files did not reach a safe point in time; they start again after the next start"
                    );
                    return;
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what `start` makes until it ends by itself; when it panics, that is logged, and it is started again.
async fn supervise<F>(what: &'static str, start: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        // A set and not a plain task: dropped with this, it takes its task along.
        let mut task = JoinSet::new();
        task.spawn(start());
        match task.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                tracing::error!(
                    event = "restarted",
                    what,
                    "a task in the background has panicked; it is started again"
                );
                tokio::time::sleep(RESTART_AFTER).await;
            }
            _ => return,
        }
    }
}

/// Writes a run's notes into the timeline, in their order, without holding it up.
struct Notes {
    store: Store,
    job: JobId,
}

impl Notes {
    fn new(store: Store, job: JobId) -> Self {
        Self { store, job }
    }

    fn take(&self, note: Note) {
        let (kind, message, stage, attempt, bytes) = match note {
            // Stages of a healthy run pass in milliseconds: the board shows them, and the timeline has the ends.
            Note::Stage(_) => return,
            Note::Resumed(bytes) => (
                EventKind::Resumed,
                "goes on after what was here already".to_owned(),
                Stage::Fetch,
                None,
                Some(bytes),
            ),
            Note::Retrying {
                attempt,
                wait,
                failure,
            } => {
                let message = format!(
                    "{}; next try in {:.1} s",
                    failure.message,
                    wait.as_secs_f64()
                );
                tracing::warn!(
                    event = "retrying",
                    kind = failure.kind,
                    attempt,
                    wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                    error = failure.message,
                    "the source failed; trying again"
                );
                (
                    EventKind::Retrying,
                    message,
                    failure.stage,
                    Some(attempt),
                    None,
                )
            }
            Note::Restarted(why) => (
                EventKind::Restarted,
                format!("starts at zero: {why}"),
                Stage::Fetch,
                None,
                None,
            ),
            Note::Refetching(failure) => {
                tracing::warn!(
                    event = "refetching",
                    kind = failure.kind,
                    error = failure.message,
                    "the bytes are in doubt; fetching them once more from zero"
                );
                (
                    EventKind::Refetching,
                    format!("{}; fetching once more from zero", failure.message),
                    failure.stage,
                    None,
                    None,
                )
            }
        };
        let job = self.job;
        let written = self.store.write_soon(move |tx| {
            let mut note = events::Note::new(kind, &message).stage(stage);
            if let Some(attempt) = attempt {
                note = note.attempt(attempt);
            }
            if let Some(bytes) = bytes {
                note = note.bytes(bytes);
            }
            events::add(tx, job, note)
        });
        if let Err(error) = written {
            tracing::debug!(error = %crate::sys::Chain(&error), "could not write the timeline");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_background_task_that_panics_is_started_again() {
        let starts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&starts);
        supervise("test", move || {
            let n = counted.fetch_add(1, Ordering::Relaxed);
            async move { assert!(n >= 2, "on purpose") }
        })
        .await;
        assert_eq!(starts.load(Ordering::Relaxed), 3);
    }

    /// A note that was taken before something else is written comes before it in the timeline.
    #[tokio::test]
    async fn the_timeline_keeps_the_order_of_the_notes() {
        use crate::store::testing::{Bench, file};
        let bench = Bench::new();
        let job = bench.accept(file("a", "1")).await;
        let notes = Notes::new(bench.store.clone(), job);
        for bytes in 1..=3 {
            notes.take(Note::Resumed(bytes));
        }
        let ended = move |tx: &store::Tx<'_>| {
            events::add(tx, job, events::Note::new(EventKind::Failed, ""))
        };
        bench.store.write(ended).await.unwrap();
        let read = bench.store.read(move |r| events::of_job(r, job, 0, 100));
        let rows = read.await.unwrap();
        let noted: Vec<_> = rows.iter().map(|e| (e.kind.clone(), e.bytes)).collect();
        let resumed = |bytes| (EventKind::Resumed, Some(bytes));
        assert_eq!(
            noted[noted.len() - 4..],
            [
                resumed(1),
                resumed(2),
                resumed(3),
                (EventKind::Failed, None)
            ]
        );
    }
}
