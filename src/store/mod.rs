//! What the node knows, in SQLite: files and their jobs, releases and what is live, the timeline, the outbox, nonces.
//!
//! One thread owns the connection that writes. Callers hand it closures; it runs all that are waiting in one transaction,
//! each in a savepoint of its own, and answers only after the commit has been synced. So a push that was answered is never
//! forgotten, and a burst of pushes costs one sync. Queries run beside it on read-only connections.
//!
//! A commit or sync that fails is never tried again: every caller gets an error, [`Store::failed`] resolves, and the
//! process must end; the next start finds out what is on the disk. A full disk is milder: the callers get
//! [`Error::Full`], nothing was written, and the store goes on.
//!
//! The tables are families, one module each: functions over [`Tx`] or [`Reader`], to be joined in one closure when they
//! belong together.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};

use crate::shown::Event;
use crate::sys::clock::Clock;
use crate::sys::{Chain, durable};

pub mod activations;
mod ballast;
mod columns;
mod error;
pub mod events;
mod files;
mod forget;
pub mod jobs;
pub mod nonces;
pub mod outbox;
mod owner;
pub mod recover;
pub mod releases;
pub mod remove;
mod schema;
mod sql;
#[cfg(test)]
pub(crate) mod testing;

use ballast::Ballast;
pub use error::{Error, KINDS};
pub use sql::{Reader, Tx};

/// Work that may wait for the owner before callers have to.
const QUEUE: usize = 1024;
/// Timeline events that a slow subscriber may lag behind before it misses some.
const EVENTS: usize = 4096;
/// How often the uptime clock is written down, with whatever is written anyway.
const SAVE_UPTIME_MS: i64 = 60_000;

/// Bounds of what the database keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Ended jobs kept per file; older ones are forgotten with their timeline.
    pub history_per_file: u32,
    /// Timeline events kept per job, and per file beside its jobs.
    pub events_per_job: u32,
    /// How long a file that is not on the disk any more is remembered.
    #[serde(with = "crate::sys::units::duration")]
    pub forget_after: Duration,
    /// How many files that are not on the disk any more are remembered.
    pub gone_files: u32,
    /// Changes of what is live kept in the audit log, per name.
    pub audit_per_name: u32,
    /// Callbacks waiting for delivery at most, over all endpoints. Beyond it the oldest progress is dropped first, then
    /// the oldest `accepted`, then the oldest of all.
    pub outbox_rows: u32,
    /// Delivered and dead callbacks kept for `edgepush outbox`.
    pub outbox_settled: u32,
    /// Connections for queries.
    pub readers: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            history_per_file: 10,
            events_per_job: 200,
            forget_after: Duration::from_secs(90 * 24 * 3600),
            gone_files: 10_000,
            audit_per_name: 1000,
            outbox_rows: 100_000,
            outbox_settled: 10_000,
            readers: 4,
        }
    }
}

/// What a waiter can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// A job was accepted, is due again, or shall be cancelled.
    Jobs,
    /// A callback waits for delivery.
    Outbox,
    /// A change of what is live was asked for.
    Activations,
}

/// Figures of the store since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Committed transactions.
    pub commits: u64,
    /// Pieces of work in them.
    pub pieces: u64,
}

/// A handle of the database; clones share it. When the last is dropped the database is closed in order.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Option<mpsc::Sender<owner::Command>>,
    owner: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
    readers: Readers,
    path: PathBuf,
    config: Arc<Config>,
    doubtful: bool,
    /// Held as long as the database is in use; released after the owner has ended.
    _lock: File,
}

/// What the owner and the handles share.
struct Shared {
    clock: Arc<dyn Clock>,
    started: Instant,
    uptime_base_ms: i64,
    ballast: Ballast,
    /// The last write that the disk refused, until it takes one.
    refused: Mutex<Option<(Instant, Error)>>,
    failed: watch::Sender<Option<Arc<str>>>,
    events: broadcast::Sender<Arc<Event>>,
    wakes: [watch::Sender<u64>; 3],
    closed: AtomicBool,
    /// When the owner began what it is at, in milliseconds since `started` plus 1; 0 while it waits.
    busy_since: AtomicU64,
    commits: AtomicU64,
    pieces: AtomicU64,
}

impl Store {
    /// Opens the database at `path` with the default bounds; see [`Store::open_with`].
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Self::open_with(path, clock, Config::default())
    }

    /// Opens the database at `path`, made if missing, and locks its directory against other processes. After a run that
    /// did not end in order its pages are checked first.
    pub fn open_with(path: &Path, clock: Arc<dyn Clock>, config: Config) -> Result<Self, Error> {
        let parent = path.parent().unwrap_or(Path::new("."));
        durable::create_dir_all(parent).map_err(|e| Error::Prepare(Arc::new(e)))?;
        let lock = lock_directory(parent)?;
        let ballast = Ballast::beside(path);
        let (conn, doubtful) = match schema::open_writer(path) {
            Err(error) if error.is_full() && ballast.give_up() => schema::open_writer(path)?,
            opened => opened?,
        };
        let shared = Arc::new(Shared::new(clock, saved_uptime(&conn)?, ballast));
        let (sender, queue) = mpsc::channel(QUEUE);
        let readers = Readers::new(path.to_owned(), config.readers);
        let config = Arc::new(config);
        let owner = owner::Owner::new(
            conn,
            path.to_owned(),
            queue,
            Arc::clone(&shared),
            Arc::clone(&config),
        );
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || owner.run())
            .map_err(durable::at("start a thread for", path))
            .map_err(|e| Error::Prepare(Arc::new(e)))?;
        Ok(Self {
            inner: Arc::new(Inner {
                queue: Some(sender),
                owner: Mutex::new(Some(thread)),
                shared,
                readers,
                path: path.to_owned(),
                config,
                doubtful,
                _lock: lock,
            }),
        })
    }

    /// Runs `f` in a transaction on the owner's thread; returns after the commit has been synced.
    ///
    /// An error of `f` undoes what it wrote and nothing else. When the returned future is dropped the work may still be
    /// done.
    pub async fn write<T, F>(&self, f: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, Error> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let work = owner::Command::Work(Box::new(owner::Call::new(f, reply)));
        self.send(work).await?;
        answer.await.map_err(|_| self.inner.shared.gone())?
    }

    /// Hands `f` to the owner at once and does not wait: it is done before whatever is written after this call. Should it
    /// fail, the log says so.
    pub fn write_soon<F>(&self, f: F) -> Result<(), Error>
    where
        F: FnOnce(&Tx<'_>) -> Result<(), Error> + Send + 'static,
    {
        let told = |tx: &Tx<'_>| {
            f(tx).inspect_err(
                |error| tracing::error!(error = %Chain(error), "write to the database"),
            )
        };
        let (reply, _) = oneshot::channel();
        let work = owner::Command::Work(Box::new(owner::Call::new(told, reply)));
        let queue = self.inner.queue.as_ref().ok_or(Error::Closed)?;
        queue.try_send(work).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Busy,
            mpsc::error::TrySendError::Closed(_) => self.inner.shared.gone(),
        })
    }

    /// Runs `f` on a read-only connection, on a blocking thread, over one consistent state of the database.
    pub async fn read<T, F>(&self, f: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Reader<'_>) -> Result<T, Error> + Send + 'static,
    {
        let permit = Arc::clone(&self.inner.readers.permits)
            .acquire_owned()
            .await
            .map_err(|_| Error::Closed)?;
        let inner = Arc::clone(&self.inner);
        let work = move || {
            let _permit = permit;
            inner.readers.with(&inner.shared, f)
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| Error::Panicked)?
    }

    /// Subscribes to the timeline: every event, after its commit. A subscriber that lags reads the rest from the table.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.inner.shared.events.subscribe()
    }

    /// Returns a receiver that changes after each commit that touched `topic`.
    #[must_use]
    pub fn wake(&self, topic: Topic) -> watch::Receiver<u64> {
        self.inner.shared.wakes[topic as usize].subscribe()
    }

    /// Waits until the store has failed; the process must then end with an error, and start again.
    pub async fn failed(&self) -> Error {
        let mut failed = self.inner.shared.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => Error::Failed {
                why: why.clone().unwrap_or_else(|| "unknown".into()),
            },
            Err(_) => Error::Closed,
        }
    }

    /// Returns how long the owner has been at its present transaction: a disk that hangs shows here.
    #[must_use]
    pub fn busy_for(&self) -> Option<Duration> {
        self.inner.shared.busy_for()
    }

    /// Returns why the disk refused a write in the last `age`, unless it has taken one since.
    #[must_use]
    pub fn refused_within(&self, age: Duration) -> Option<Error> {
        let refused = self.inner.shared.refused_lock();
        let (when, error) = refused.as_ref()?;
        (when.elapsed() <= age).then(|| error.clone())
    }

    /// Returns the store's figures.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            commits: self.inner.shared.commits.load(Ordering::Relaxed),
            pieces: self.inner.shared.pieces.load(Ordering::Relaxed),
        }
    }

    /// Tells whether the disk may know more than the database: the last run did not end in order, or there was none.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.inner.doubtful
    }

    /// Returns the path of the database.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Returns the wall clock's milliseconds since the epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.inner.shared.clock.now_ms()
    }

    /// Keeps the database bounded: forgets what is past the limits of [`Config`]; and sets room aside for the time when the
    /// disk is full. Call it now and then.
    pub async fn housekeep(&self) -> Result<(), Error> {
        let shared = Arc::clone(&self.inner.shared);
        let _ = tokio::task::spawn_blocking(move || shared.ballast.restore()).await;
        let (config, now_ms) = (Arc::clone(&self.inner.config), self.now_ms());
        let files = self
            .read(move |reader| forget::forgettable(reader, &config, now_ms))
            .await?;
        self.write(move |tx| {
            nonces::expire(tx)?;
            outbox::trim_settled(tx)?;
            forget::forget(tx, &files)?;
            tx.run("give pages back", "PRAGMA incremental_vacuum(256)", [])
                .map(drop)
        })
        .await
    }

    /// Finishes the work that is waiting and closes the database in order; later calls get [`Error::Closed`].
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.send(owner::Command::Close(reply)).await.is_ok() {
            let _ = closed.await;
        }
    }

    async fn send(&self, command: owner::Command) -> Result<(), Error> {
        let queue = self.inner.queue.as_ref().ok_or(Error::Closed)?;
        queue
            .send(command)
            .await
            .map_err(|_| self.inner.shared.gone())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The owner ends when its queue has no sender; a database that is opened again must not meet it.
        self.queue = None;
        let owner = self
            .owner
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(owner) = owner
            && owner.thread().id() != std::thread::current().id()
        {
            let _ = owner.join();
        }
    }
}

impl Shared {
    fn new(clock: Arc<dyn Clock>, uptime_base_ms: i64, ballast: Ballast) -> Self {
        Self {
            clock,
            started: Instant::now(),
            uptime_base_ms,
            ballast,
            refused: Mutex::default(),
            failed: watch::Sender::new(None),
            events: broadcast::Sender::new(EVENTS),
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

    fn uptime_ms(&self) -> i64 {
        self.uptime_base_ms
            .saturating_add(i64::try_from(self.since_start_ms()).unwrap_or(i64::MAX))
    }

    fn failure(&self) -> Option<Arc<str>> {
        self.failed.borrow().clone()
    }

    /// Notes the first failure, for ever, and returns it.
    fn fail(&self, why: &str) -> Arc<str> {
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

    /// Returns why there is no owner any more.
    fn gone(&self) -> Error {
        self.failure()
            .map_or(Error::Closed, |why| Error::Failed { why })
    }

    fn tell(&self, effects: sql::Effects) {
        for event in effects.events {
            let _ = self.events.send(event);
        }
        for topic in effects.topics {
            self.wakes[topic as usize].send_modify(|n| *n += 1);
        }
    }

    fn count(&self, pieces: usize) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.pieces.fetch_add(pieces as u64, Ordering::Relaxed);
    }

    fn refused(&self, error: Option<&Error>) {
        let now = Instant::now();
        *self.refused_lock() = error.map(|error| (now, error.clone()));
    }

    fn refused_lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Error)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) {
        self.busy_since
            .store(self.since_start_ms() + 1, Ordering::Relaxed);
    }

    fn leave(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    fn busy_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(
            self.since_start_ms().saturating_sub(since),
        ))
    }
}

/// The connections for queries, opened when first needed.
struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    fn new(path: PathBuf, count: u32) -> Self {
        Self {
            path,
            permits: Arc::new(Semaphore::new(count.max(1) as usize)),
            idle: Mutex::default(),
        }
    }

    fn with<T>(
        &self,
        shared: &Shared,
        f: impl FnOnce(&Reader<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if shared.closed.load(Ordering::Acquire) {
            return Err(shared.gone());
        }
        let conn = match self.idle().pop() {
            Some(conn) => conn,
            None => schema::open_reader(&self.path)?,
        };
        conn.execute_batch("BEGIN")
            .map_err(Error::sql("begin to read"))?;
        let result = f(&Reader::new(&conn, shared.uptime_ms()));
        // A connection that cannot end its transaction is not used again.
        if conn.execute_batch("ROLLBACK").is_ok() {
            self.idle().push(conn);
        }
        result
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks the directory of the database; the lock goes with the process, however it ends.
fn lock_directory(path: &Path) -> Result<File, Error> {
    let file = File::open(path)
        .map_err(durable::at("open directory", path))
        .map_err(|e| Error::Prepare(Arc::new(e)))?;
    match file.try_lock() {
        // A file system without locks cannot be shared by mistake more easily than with them: go on.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            path: path.to_owned(),
        }),
    }
}

fn saved_uptime(conn: &Connection) -> Result<i64, Error> {
    let saved: Option<String> = Reader::new(conn, 0).one(
        "read the uptime",
        "SELECT value FROM meta WHERE key = 'uptime_ms'",
        [],
        |r| r.get(0),
    )?;
    Ok(saved.and_then(|s| s.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests;
