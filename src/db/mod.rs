//! SQLite with one owner: what the databases of every role share. The only tables here are the
//! outbox and the nonces.
//!
//! One thread owns the writing connection. Callers hand it closures; it runs all queued ones in one
//! transaction, each in its own savepoint, and answers only after the commit was synced. So an
//! acknowledged write is never lost, and a burst of pushes costs one sync. Queries run in parallel
//! on read-only connections.
//!
//! A failed commit or sync is never retried: every caller gets an error, [`Db::failed`] resolves,
//! and the process must end; the next start finds out what is on disk. The same happens when the
//! database's file or directory is replaced under the process. A full disk is milder:
//! callers get [`Error::Full`], nothing was written, and the database stays usable.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

use crate::sys::clock::Clock;
use crate::sys::place::Place;
use crate::sys::{Chain, durable, tasks};

pub mod endpoints;
mod error;
pub mod nonces;
pub mod outbox;
mod owner;
mod readers;
mod reserve;
pub(crate) mod schema;
mod shared;
mod sql;

pub use error::{Error, KINDS};
use readers::Readers;
use reserve::Reserve;
use shared::Shared;
pub use sql::{Reader, Tx};
pub(crate) use sql::{json, to_json, to_value};

/// Length of the owner's queue; callers wait while it is full.
const QUEUE: usize = 1024;
/// How often the uptime clock is saved, as part of a transaction that is written anyway.
const SAVE_UPTIME_MS: i64 = 60_000;

/// The tables of this module. The first migration of every role starts with them.
#[cfg(test)]
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// Everything specific to a role's database: its tables and its limits.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Stored in the file header; a database with a different id is refused.
    pub application_id: i64,
    /// `user_version` after the first migration. A database with a lower one is rebuilt.
    pub first: i64,
    /// Oldest first. Each adds 1 to `user_version`.
    pub migrations: &'static [&'static str],
    /// Number of connections for queries.
    pub readers: u32,
    pub outbox: OutboxBounds,
}

/// Limits on the number of callbacks, over all endpoints.
#[derive(Debug, Clone)]
pub struct OutboxBounds {
    /// Maximum pending. Beyond it, the oldest callbacks of the first droppable type are dropped,
    /// then those of the next type; after that, the oldest become dead letters.
    pub pending: u32,
    /// Maximum delivered, and maximum dead.
    pub settled: u32,
    /// Types whose pending callbacks may be dropped, because newer ones supersede them.
    pub droppable: &'static [&'static str],
}

impl Setup {
    fn newest(&self) -> i64 {
        let more = i64::try_from(self.migrations.len()).unwrap_or(i64::MAX);
        self.first - 1 + more
    }
}

/// A group of changes that a task can wait for. A role numbers its own from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(pub usize);

impl Topic {
    /// A callback is pending.
    pub const OUTBOX: Self = Self(0);
}

/// Counters since the database was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Committed transactions.
    pub commits: u64,
    /// Pieces of work in those transactions.
    pub pieces: u64,
}

/// A handle to the database; clones share it. Dropping the last one closes the database cleanly.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Option<mpsc::Sender<owner::Command>>,
    owner: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
    readers: Readers,
    path: PathBuf,
    /// Holds the directory lock; released only after the owner thread has ended.
    _lock: File,
}

impl Db {
    /// Opens the database at `path`, creating it if missing, and locks its directory against other
    /// processes. Its pages are checked first if the last run did not end cleanly.
    pub fn open(path: &Path, clock: Arc<dyn Clock>, setup: Setup) -> Result<Self, Error> {
        let parent = path.parent().unwrap_or(Path::new("."));
        durable::create_dir_all(parent).map_err(|e| Error::Prepare(Arc::new(e)))?;
        let lock = lock_directory(parent)?;
        let reserve = Reserve::of(path);
        let setup = Arc::new(setup);
        let conn = match schema::open_writer(path, &setup) {
            Err(error) if error.is_full() && reserve.give_up() => {
                schema::open_writer(path, &setup)?
            }
            opened => opened?,
        };
        let place = Place::of([parent, path]).map_err(|e| Error::Prepare(Arc::new(e)))?;
        let shared = Arc::new(Shared::new(clock, saved_uptime(&conn)?, reserve, place));
        let (sender, queue) = mpsc::channel(QUEUE);
        let readers = Readers::new(path.to_owned(), setup.readers);
        let owner = owner::Owner::new(conn, path.to_owned(), queue, Arc::clone(&shared), setup);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                // What of the last transaction is on the disk is unknown: only a new start can tell.
                if tasks::guarded_here("store", || owner.run()).is_err() {
                    theirs.fail("its thread panicked");
                }
            })
            .map_err(durable::at("start a thread for", path))
            .map_err(|e| Error::Prepare(Arc::new(e)))?;
        Ok(Self {
            inner: Arc::new(Inner {
                queue: Some(sender),
                owner: Mutex::new(Some(thread)),
                shared,
                readers,
                path: path.to_owned(),
                _lock: lock,
            }),
        })
    }

    /// Runs `f` in a transaction on the owner's thread; returns after the commit was synced.
    ///
    /// An error of `f` rolls back only what `f` wrote. Dropping the returned future does not cancel
    /// the work.
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

    /// Queues `f` without waiting for it: it runs before anything written after this call. A
    /// failure is only logged.
    pub fn write_soon<F>(&self, f: F) -> Result<(), Error>
    where
        F: FnOnce(&Tx<'_>) -> Result<(), Error> + Send + 'static,
    {
        let logged = |tx: &Tx<'_>| {
            f(tx).inspect_err(
                |error| tracing::error!(error = %Chain(error), "write to the database"),
            )
        };
        let (reply, _) = oneshot::channel();
        let work = owner::Command::Work(Box::new(owner::Call::new(logged, reply)));
        let queue = self.inner.queue.as_ref().ok_or(Error::Closed)?;
        queue.try_send(work).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Busy,
            mpsc::error::TrySendError::Closed(_) => self.inner.shared.gone(),
        })
    }

    /// Runs `f` on a read-only connection, on a blocking thread, over one consistent snapshot.
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

    /// Returns a receiver that changes after each commit that touches `topic`.
    #[must_use]
    pub fn wake(&self, topic: Topic) -> watch::Receiver<u64> {
        self.inner.shared.wakes[topic.0].subscribe()
    }

    /// Waits until the database has failed; the process must then end with an error and be
    /// restarted.
    pub async fn failed(&self) -> Error {
        let mut failed = self.inner.shared.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => Error::Failed {
                why: why.clone().unwrap_or_else(|| "unknown".into()),
            },
            Err(_) => Error::Closed,
        }
    }

    /// Returns why the database has failed, if it has; see [`Db::failed`].
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        let why = self.inner.shared.failure()?;
        Some(Error::Failed { why })
    }

    /// Adds to what must stay the same while the database is open; once only.
    pub fn depend_on(&self, place: Place) {
        let _ = self.inner.shared.more.set(place);
    }

    /// Checks that the database, its directory and what else it depends on are still the ones that
    /// were opened; if not, the database has failed. Every write checks that as well.
    pub fn check_place(&self) {
        self.inner.shared.check_place();
    }

    /// Returns how long the current transaction has been running: a hung disk shows here.
    #[must_use]
    pub fn busy_for(&self) -> Option<Duration> {
        self.inner.shared.busy_for()
    }

    /// Returns why the disk refused a write within the last `age`, unless a later write succeeded.
    #[must_use]
    pub fn refused_within(&self, age: Duration) -> Option<Error> {
        let refused = self.inner.shared.refused_lock();
        let (when, error) = refused.as_ref()?;
        (when.elapsed() <= age).then(|| error.clone())
    }

    /// Returns the counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            commits: self.inner.shared.commits.load(Ordering::Relaxed),
            pieces: self.inner.shared.pieces.load(Ordering::Relaxed),
        }
    }

    /// Returns the path of the database.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Returns the wall clock's time, in milliseconds since the epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.inner.shared.clock.now_ms()
    }

    /// Trims the tables of this module, restores the disk-space reserve, and returns free pages to
    /// the disk. Call it periodically.
    pub async fn housekeep(&self) -> Result<(), Error> {
        let shared = Arc::clone(&self.inner.shared);
        let _ = tokio::task::spawn_blocking(move || shared.reserve.restore()).await;
        self.write(|tx| {
            nonces::expire(tx)?;
            outbox::trim_settled(tx)?;
            // It returns a row for each page.
            tx.many(
                "give pages back",
                "PRAGMA incremental_vacuum(256)",
                [],
                |_| Ok(()),
            )
            .map(drop)
        })
        .await
    }

    /// Finishes the queued work and closes the database cleanly; later calls get [`Error::Closed`].
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.send(owner::Command::Close(reply)).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// Returns the number of queued pieces of work.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        let queue = self.inner.queue.as_ref();
        queue.map_or(0, |queue| QUEUE - queue.capacity())
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
        // The owner ends once its queue has no sender. Reopening the database must not run into it.
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

/// Locks the directory of the database; the kernel releases the lock with the process, however it
/// ends.
fn lock_directory(path: &Path) -> Result<File, Error> {
    let file = File::open(path)
        .map_err(durable::at("open directory", path))
        .map_err(|e| Error::Prepare(Arc::new(e)))?;
    match file.try_lock() {
        // A file system without lock support: continue unprotected.
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
