//! What the owner of the database and its handles share: clocks, failure, wake-ups, figures.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::error::Error;
use super::reserve::Reserve;
use super::sql;
use crate::sys::clock::Clock;
use crate::sys::place::Place;

/// More than any role uses.
const TOPICS: usize = 4;

/// State shared by the owner and the handles.
pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    started: Instant,
    uptime_base_ms: i64,
    pub(super) reserve: Reserve,
    /// The database and its directory, as they were opened.
    place: Place,
    /// What else has to stay as it was; see [`super::Db::depend_on`].
    pub(super) more: OnceLock<Place>,
    /// The last write that the disk refused; cleared by the next successful one.
    refused: Mutex<Option<(Instant, Error)>>,
    pub(super) failed: watch::Sender<Option<Arc<str>>>,
    pub(super) wakes: [watch::Sender<u64>; TOPICS],
    pub(super) closed: AtomicBool,
    /// When the owner started its current work, in milliseconds since `started` plus 1; 0 while it
    /// is idle.
    busy_since: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) pieces: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        uptime_base_ms: i64,
        reserve: Reserve,
        place: Place,
    ) -> Self {
        Self {
            clock,
            started: Instant::now(),
            uptime_base_ms,
            reserve,
            place,
            more: OnceLock::new(),
            refused: Mutex::default(),
            failed: watch::Sender::new(None),
            wakes: std::array::from_fn(|_| watch::Sender::new(0)),
            closed: AtomicBool::new(false),
            busy_since: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            pieces: AtomicU64::new(0),
        }
    }

    fn since_start_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn uptime_ms(&self) -> i64 {
        self.uptime_base_ms
            .saturating_add(i64::try_from(self.since_start_ms()).unwrap_or(i64::MAX))
    }

    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.failed.borrow().clone()
    }

    /// Records the first failure, permanently, and returns it.
    pub(super) fn fail(&self, why: &str) -> Arc<str> {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                tracing::error!(
                    event = "store-failed",
                    why,
                    "the database has failed; the process must end"
                );
                *failed = Some(why.into());
            }
            first
        });
        self.failure().unwrap_or_else(|| why.into())
    }

    /// Fails for good if the database is not the file that its path leads to, or something else of
    /// its place has changed: what is written then is lost, however often it is synced.
    pub(super) fn check_place(&self) {
        let more = self.more.get().map_or(Ok(()), Place::check);
        if let Err(why) = self.place.check().and(more) {
            self.fail(&format!(
                "{why} under the running agent, which ends; its next start uses what is there then"
            ));
        }
    }

    /// Returns why the owner is gone.
    pub(super) fn gone(&self) -> Error {
        self.failure()
            .map_or(Error::Closed, |why| Error::Failed { why })
    }

    pub(super) fn tell(&self, effects: sql::Effects) {
        for after in effects.after {
            after();
        }
        for topic in effects.topics {
            self.wakes[topic.0].send_modify(|n| *n += 1);
        }
    }

    pub(super) fn count(&self, pieces: usize) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.pieces.fetch_add(pieces as u64, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, error: Option<&Error>) {
        let now = Instant::now();
        *self.refused_lock() = error.map(|error| (now, error.clone()));
    }

    pub(super) fn refused_lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Error)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self) {
        self.busy_since
            .store(self.since_start_ms() + 1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn busy_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(
            self.since_start_ms().saturating_sub(since),
        ))
    }
}
