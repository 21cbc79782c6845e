//! What the node knows: files and their jobs, releases and what is live, and the timeline.
//!
//! Each family of tables has its module, with functions over [`Tx`] or [`Reader`]; what belongs
//! together is called within one closure. [`crate::db`] owns the connection and guarantees that an
//! acknowledged write is on disk.

use std::cell::RefCell;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::db::{self, Db, OutboxBounds, Setup};
pub use crate::db::{Error, KINDS, Reader, Topic};
use crate::shown::{Event, callbacks};
use crate::sys::clock::Clock;

pub mod activations;
mod columns;
pub mod documents;
pub mod events;
mod files;
mod forget;
pub mod jobs;
pub mod recover;
pub mod releases;
pub mod remove;
#[cfg(test)]
pub(crate) mod testing;

/// `Epsh`, in the file header of every node's database.
const APPLICATION_ID: i64 = 0x4570_7368;
/// Oldest first. A migration never changes after a release, only new ones are added; an older
/// program refuses a newer database instead of guessing.
const MIGRATIONS: &[&str] = &[concat!(
    include_str!("../db/tables.sql"),
    include_str!("1.sql")
)];
/// Versions before it had other tables, and were never released.
const FIRST: i64 = 4;

/// A job was accepted, is due again, or is to be canceled.
pub const JOBS: Topic = Topic(1);
/// A change of the live version was requested or carried out.
pub const ACTIVATIONS: Topic = Topic(2);

/// Timeline events that a slow subscriber may lag behind before it misses some.
const EVENTS: usize = 4096;

/// Limits on what the database remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Ended jobs remembered per file; older ones are forgotten together with their timeline.
    pub history_per_file: u32,
    /// Timeline events remembered per job, and per file in addition to those of its jobs.
    pub events_per_job: u32,
    /// How long a file is remembered after it has left the disk.
    #[serde(with = "crate::sys::units::duration")]
    pub forget_after: Duration,
    /// Maximum number of files remembered after they have left the disk.
    pub gone_files: u32,
    /// Changes of the live version retained in the audit log, per name.
    pub audit_per_name: u32,
    /// Maximum pending callbacks, over all endpoints. Beyond it, the oldest progress is dropped
    /// first, then the oldest `accepted`, then the oldest of all.
    pub outbox_rows: u32,
    /// Delivered callbacks, and dead ones, retained for `edgepush outbox`.
    pub outbox_settled: u32,
    /// Number of connections for queries.
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

/// A handle to the node's database; clones share it. Dropping the last one closes the database
/// cleanly.
#[derive(Clone)]
pub struct Store {
    db: Db,
    node: Arc<Node>,
}

/// State that writes need in addition to the database.
struct Node {
    config: Config,
    events: broadcast::Sender<Arc<Event>>,
}

/// One piece of work: it is committed completely or not at all.
pub struct Tx<'a> {
    db: &'a db::Tx<'a>,
    config: &'a Config,
    events: RefCell<Vec<Arc<Event>>>,
}

impl<'a> Deref for Tx<'a> {
    type Target = db::Tx<'a>;
    fn deref(&self) -> &db::Tx<'a> {
        self.db
    }
}

impl Tx<'_> {
    /// Sends `event` to all subscribers after the commit.
    fn emit(&self, event: Event) {
        self.events.borrow_mut().push(Arc::new(event));
    }

    fn config(&self) -> &Config {
        self.config
    }
}

impl Deref for Store {
    type Target = Db;
    fn deref(&self) -> &Db {
        &self.db
    }
}

impl Store {
    /// Opens the database at `path` with default limits; see [`Store::open_with`].
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Self::open_with(path, clock, Config::default())
    }

    /// Opens the database at `path`; see [`Db::open`].
    pub fn open_with(path: &Path, clock: Arc<dyn Clock>, config: Config) -> Result<Self, Error> {
        let setup = Setup {
            application_id: APPLICATION_ID,
            first: FIRST,
            migrations: MIGRATIONS,
            readers: config.readers,
            outbox: OutboxBounds {
                pending: config.outbox_rows,
                settled: config.outbox_settled,
                droppable: &[callbacks::PROGRESS, callbacks::ACCEPTED],
            },
        };
        let db = Db::open(path, clock, setup)?;
        let node = Arc::new(Node {
            config,
            events: broadcast::Sender::new(EVENTS),
        });
        Ok(Self { db, node })
    }

    /// Returns the database itself, for work that needs none of the node's tables.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Like [`Db::write`], for the node's tables.
    pub async fn write<T, F>(&self, f: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, Error> + Send + 'static,
    {
        let node = Arc::clone(&self.node);
        self.db.write(move |db| node.run(db, f)).await
    }

    /// Like [`Db::write_soon`], for the node's tables.
    pub fn write_soon<F>(&self, f: F) -> Result<(), Error>
    where
        F: FnOnce(&Tx<'_>) -> Result<(), Error> + Send + 'static,
    {
        let node = Arc::clone(&self.node);
        self.db.write_soon(move |db| node.run(db, f))
    }

    /// Subscribes to the timeline: every event, after its commit. A subscriber that lags behind
    /// reads what it missed from the table.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.node.events.subscribe()
    }

    /// Forgets what exceeds the limits of [`Config`]. Call it periodically.
    pub async fn housekeep(&self) -> Result<(), Error> {
        let (node, now_ms) = (Arc::clone(&self.node), self.now_ms());
        let files = self
            .read(move |reader| forget::forgettable(reader, &node.config, now_ms))
            .await?;
        self.write(move |tx| forget::forget(tx, &files)).await?;
        self.db.housekeep().await
    }
}

impl Node {
    fn run<T>(
        self: Arc<Self>,
        db: &db::Tx<'_>,
        f: impl FnOnce(&Tx<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let tx = Tx {
            db,
            config: &self.config,
            events: RefCell::default(),
        };
        let value = f(&tx)?;
        let events = tx.events.into_inner();
        if !events.is_empty() {
            let sender = self.events.clone();
            db.after_commit(move || {
                for event in events {
                    let _ = sender.send(event);
                }
            });
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests;
