//! Decides which job runs when, runs it within its limits, and records how it ended.
//!
//! Whoever wants something of the runner (a flip, a cancellation) writes it into the store, which
//! wakes it. An outcome and its report are one transaction, the last step of a job: after a crash
//! before it, the job is still recorded as running, and the next start brings it to the same end
//! without fetching anything twice.

mod flips;
mod notes;
mod outcome;
mod parking;
mod places;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::deliver::{Retries, Road};
use crate::job::{Job, JobId};
use crate::progress::Board;
use crate::publish::Publisher;
use crate::store::jobs::Turn;
use crate::store::{self, Store, jobs};
use crate::sys::clock::Clock;
use crate::sys::{Live, descriptors, pauses};

use places::{Picked, Places, Poll};

/// How much runs at once, how often it is retried, and how often upkeep runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most files in progress at once. A file that waits for its source takes little but a
    /// connection. An application gets at most as many places as it leaves free, an origin half as
    /// many, and small files alone get the last quarter. Small is a stated size of at most `push.small_bytes`.
    pub files: usize,
    /// Most files in progress from one origin that are not slow.
    pub files_per_origin: usize,
    /// Starts of a file after which it is given up. This breaks a loop of crashes.
    pub starts: u32,
    /// Retries of a file that failed because of this node's disk.
    pub device_retries: u32,
    /// Time for running files to reach a checkpoint when the agent stops.
    #[serde(with = "crate::sys::units::duration")]
    pub drain: Duration,
    /// Time between two rounds of upkeep: retention, links and unused partial archives.
    #[serde(with = "crate::sys::units::duration")]
    pub upkeep_every: Duration,
    /// How long the partial archive of a failed file stays for a later push of the same content.
    #[serde(with = "crate::sys::units::duration")]
    pub keep_partial: Duration,
    /// Time between two scrubs: every published tree is compared with its manifest, and repaired
    /// from its kept archive if it is damaged. "0s" for never.
    #[serde(with = "crate::sys::units::duration")]
    pub scrub_every: Duration,
    /// Most bytes per second that a scrub reads.
    #[serde(with = "crate::sys::units::bytes")]
    pub scrub_rate: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            files: 4096,
            files_per_origin: 64,
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

/// Time between two progress events of a running file.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Longest time between two polls of the store when nothing wakes the runner.
const POLL_EVERY: Duration = Duration::from_secs(60);

/// Runs jobs.
pub struct Runner {
    store: Store,
    publisher: Arc<Publisher>,
    road: Arc<Road>,
    board: Board,
    config: Live<Config>,
    clock: Arc<dyn Clock>,
    /// Most files in progress that this process may have descriptors for.
    most: usize,
    /// Whether `file:` URLs may be read. A reload may change it.
    allow_local: Arc<AtomicBool>,
    running: Mutex<HashMap<JobId, Running>>,
    /// What the source of a job has failed with so far, for those that are put off.
    retries: Mutex<HashMap<JobId, Retries>>,
    /// Behind which turn the next poll goes on.
    after: Mutex<Option<Turn>>,
    /// Wakes the loop when a job has ended or was put back.
    left: Notify,
}

struct Running {
    stop: CancellationToken,
    why: Why,
    turn: Turn,
    /// Whether it counts as a small file.
    small: bool,
    since: Instant,
    /// Bytes received by earlier starts.
    fetched: u64,
}

/// Why a running job is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The agent ends; also the value of those that run on.
    Drain,
    Canceled,
    /// It is slow, and others wait for its place.
    Parked,
}

/// Shortest time between two polls while files wait for places.
const CROWDED_POLL: Duration = Duration::from_millis(250);

/// Returns how many files `descriptors` are enough for: a connection, a partial archive, a staging
/// directory and a file in it each, besides what the rest of the agent has open.
fn most_files(descriptors: u64) -> usize {
    usize::try_from(descriptors.saturating_sub(64) / 4)
        .unwrap_or(usize::MAX)
        .max(8)
}

impl Runner {
    /// Makes a runner of the jobs in `store`.
    pub fn new(
        store: Store,
        publisher: Arc<Publisher>,
        road: Arc<Road>,
        board: Board,
        config: Config,
        clock: Arc<dyn Clock>,
        allow_local: Arc<AtomicBool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            publisher,
            road,
            board,
            config: Live::new(config),
            clock,
            most: most_files(descriptors::raise()),
            allow_local,
            running: Mutex::default(),
            retries: Mutex::default(),
            after: Mutex::default(),
            left: Notify::new(),
        })
    }

    /// Takes a changed configuration; running jobs keep the old one.
    pub fn reload(&self, config: Config) {
        self.config.replace(config);
        self.left.notify_one();
    }

    /// Runs jobs until `drain`, then checkpoints those that are running; they resume after the next
    /// start. With `until_idle` it also ends when no job is left.
    pub async fn run(
        self: Arc<Self>,
        drain: CancellationToken,
        until_idle: bool,
    ) -> Result<(), store::Error> {
        let mut tasks = JoinSet::new();
        let mut jobs_wake = self.store.wake(store::JOBS);
        let mut flips_wake = self.store.wake(store::ACTIVATIONS);
        let mut progress = tokio::time::interval(PROGRESS_EVERY);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut resumed = false;
        let mut stuck = false;
        while !drain.is_cancelled() {
            let next = match self.run_due(&mut resumed, &mut tasks).await {
                Ok(next) => next,
                // A full disk may get space again, perhaps from a file that is failing right now.
                Err(error) if error.is_transient() => {
                    if !std::mem::replace(&mut stuck, true) {
                        tracing::error!(event = "store-unavailable", error = %crate::sys::Chain(&error), "the database takes no writes; no job starts until it does");
                    }
                    tokio::select! {
                        () = drain.cancelled() => {}
                        () = tokio::time::sleep(pauses::STORE.after(0)) => {}
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            if std::mem::take(&mut stuck) {
                tracing::info!(event = "store-available", "the database takes writes again");
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
                // Even the record of a job's end has panicked: only a new start knows the state.
                Some(ended) = tasks.join_next() => ended.map_err(|_| store::Error::Panicked)?,
                () = tokio::time::sleep(next) => {}
            }
        }
        self.drain(&mut tasks).await;
        Ok(())
    }

    /// Starts, cancels and flips what is due, and returns how long until there may be more.
    async fn run_due(
        self: &Arc<Self>,
        resumed: &mut bool,
        tasks: &mut JoinSet<()>,
    ) -> Result<Duration, store::Error> {
        if !*resumed {
            self.resume().await?;
            *resumed = true;
        }
        // Most wakes find nothing or one thing, so one read looks for all of it before any write.
        let (places, now) = (self.places(), self.clock.now_ms());
        let places_of = places.clone();
        let after = self
            .after
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let from_start = after.is_none();
        let poll = self
            .store
            .read(move |r| Poll::take(r, now, places, after.as_ref()));
        let poll = poll.await?;
        self.stop(&poll.canceled, Why::Canceled);
        if !poll.flips.is_empty() {
            self.execute_flips(poll.flips).await?;
        }
        if poll.lost {
            self.store
                .write(move |tx| jobs::forget_clock_jump(tx, now))
                .await?;
            return Ok(Duration::ZERO);
        }
        let Picked {
            jobs,
            crowded,
            after,
        } = poll.picked;
        let whole = from_start && after.is_none();
        *self.after.lock().unwrap_or_else(PoisonError::into_inner) = after;
        let started = !jobs.is_empty();
        if started {
            self.start(jobs, tasks).await?;
        }
        self.park_slow(&crowded);
        let wait = match poll.next {
            // More may have come meanwhile.
            _ if started => Duration::ZERO,
            _ if !crowded.is_empty() || !whole => CROWDED_POLL,
            Some(at) => Duration::from_millis((at - now).clamp(50, i64::MAX).unsigned_abs()),
            None => POLL_EVERY,
        };
        self.board
            .note_crowded(crowded.iter().map(|c| places_of.describe(c)).collect());
        Ok(wait.min(POLL_EVERY))
    }

    /// Queues the jobs that were running when the previous process ended.
    async fn resume(&self) -> Result<(), store::Error> {
        let jobs = self.store.write(jobs::interrupted).await?;
        for job in jobs {
            tracing::info!(event = "taken-up", job = %job.id, data = %job.file.key, starts = job.starts, "resuming an interrupted file");
        }
        Ok(())
    }

    /// Starts jobs.
    async fn start(
        self: &Arc<Self>,
        picked: Vec<(Job, bool)>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), store::Error> {
        let now = self.clock.now_ms();
        let started = self
            .store
            .write(move |tx| {
                let mut started = Vec::new();
                for (mut job, small) in picked {
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
            let running = Running {
                stop: stop.clone(),
                why: Why::Drain,
                turn: Turn {
                    app: job.file.key.app.clone(),
                    origin: job.file.url.origin(),
                },
                small,
                since: Instant::now(),
                fetched: job.fetched,
            };
            self.lock().insert(job.id, running);
            tasks.spawn(Arc::clone(self).run_job(job, damaged, stop));
        }
        Ok(())
    }

    fn places(&self) -> Places {
        let config = self.config.now();
        let small_bytes = self.road.config().small_bytes;
        let mut places = Places::new(
            config.files.min(self.most),
            config.files_per_origin,
            small_bytes,
        );
        for (id, running) in self.lock().iter() {
            let slow = self.is_slow(*id, running);
            places.take(*id, &running.turn, running.small, slow);
        }
        places
    }

    async fn is_idle(&self) -> Result<bool, store::Error> {
        Ok(!self.store.read(jobs::any_waiting).await? && self.lock().is_empty())
    }

    fn stop(&self, wanted: &[JobId], why: Why) {
        for id in wanted {
            if let Some(running) = self.lock().get_mut(id) {
                running.why = why;
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
                        "files did not reach a checkpoint in time; they resume from an earlier one after the next start"
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
