//! Upkeep of what is published: retention, scrub, repair and links.
//!
//! [`Keep::run`] drives background workers of one shape (`worker`): `upkeep` removes what retention
//! no longer keeps, `scrub` compares every tree with its manifest, `repair` checks trees that were
//! pushed again. The API and `edgepush recover` call the same operations. Nothing new is published
//! here, the live version is never removed, and whoever changes a name holds its lock
//! ([`Publisher::lock`]).

mod findings;
mod heal;
mod links;
mod recover;
mod repair;
mod retention;
mod scrub;
mod upkeep;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::datafile::Key;
use crate::deliver::Road;
use crate::intake::Intake;
use crate::publish::Publisher;
use crate::shown;
use crate::store::{self, Store};
use crate::sys::Live;

use findings::Findings;
use worker::{Status, Worker};

pub use heal::Healed;
pub use recover::Found;
pub use retention::{Removed, Swept};
pub use scrub::Verification;

/// How often upkeep runs and what it may cost; the keys are those of `[runner]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Time between two rounds of upkeep.
    pub upkeep_every: Duration,
    /// How long the partial archive of a failed file is kept for a later push of the same content.
    pub keep_partial: Duration,
    /// Time between two scrubs; zero for never.
    pub scrub_every: Duration,
    /// Bytes per second that a scrub reads at most.
    pub scrub_rate: u64,
}

/// Keeps what is published whole, live where it should be, and within its limits.
pub struct Keep {
    store: Store,
    publisher: Arc<Publisher>,
    road: Arc<Road>,
    intake: Arc<Intake>,
    config: Live<Config>,
    /// The workers' states, in the order in which they are shown.
    workers: [Arc<Status>; 3],
    /// Operations that run to their end even if their caller is gone.
    tasks: TaskTracker,
    /// When a whole round of upkeep last succeeded; 0 before the first.
    upkeep_done_ms: AtomicI64,
    /// Whether the disk was compared with the database since the start.
    settled: watch::Sender<bool>,
    findings: Findings,
}

impl Keep {
    /// Joins what upkeep works on.
    #[must_use]
    pub fn new(
        store: Store,
        publisher: Arc<Publisher>,
        road: Arc<Road>,
        intake: Arc<Intake>,
        config: Config,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            publisher,
            road,
            intake,
            config: Live::new(config),
            workers: [
                Status::new(upkeep::Upkeep::NAME),
                Status::new(scrub::Scrub::NAME),
                Status::new(repair::Repair::NAME),
            ],
            tasks: TaskTracker::new(),
            upkeep_done_ms: AtomicI64::new(0),
            settled: watch::Sender::new(false),
            findings: Findings::default(),
        })
    }

    /// Takes a changed configuration; a round that is running keeps the old one.
    pub fn reload(&self, config: Config) {
        self.config.replace(config);
    }

    /// Runs the workers until `drain`, and returns when each has finished what it was doing.
    pub async fn run(self: Arc<Self>, drain: CancellationToken) {
        let [upkeep, scrub, repair] = self.workers.clone();
        let mut workers = JoinSet::new();
        let this = || Arc::clone(&self);
        workers.spawn(worker::run(
            upkeep::Upkeep::new(this()),
            upkeep,
            drain.clone(),
        ));
        workers.spawn(worker::run(scrub::Scrub::new(this()), scrub, drain.clone()));
        workers.spawn(worker::run(repair::Repair::new(this()), repair, drain));
        while workers.join_next().await.is_some() {}
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Returns what each worker does now, and how its last rounds ended.
    #[must_use]
    pub fn workers(&self) -> Vec<shown::model::Worker> {
        self.workers.iter().map(|status| status.shown()).collect()
    }

    /// Returns when a whole round of upkeep last succeeded since the start, in milliseconds since
    /// the epoch.
    #[must_use]
    pub fn upkeep_done_ms(&self) -> Option<i64> {
        match self.upkeep_done_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(ms),
        }
    }

    /// Returns what was found on the disk that an operator should know.
    #[must_use]
    pub fn findings(&self) -> Vec<shown::model::Finding> {
        self.findings.shown()
    }

    /// Removes the partial archive of a key that no job is open for.
    pub async fn discard_partial(&self, key: &Key) {
        self.road.discard_partial(key).await;
    }

    /// Runs `work` to its end even if the caller is dropped meanwhile: half a removal would leave a
    /// tree without a row.
    async fn complete<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, store::Error>> + Send + 'static,
    ) -> Result<T, store::Error> {
        let ended = self.tasks.spawn(work).await;
        ended.unwrap_or(Err(store::Error::Panicked))
    }

    /// Runs blocking `work` on the published trees.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Publisher) -> T + Send + 'static,
    ) -> Result<T, store::Error> {
        let publisher = Arc::clone(&self.publisher);
        let done = tokio::task::spawn_blocking(move || work(&publisher)).await;
        done.map_err(|_| store::Error::Panicked)
    }
}
