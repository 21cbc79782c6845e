//! The read-only connections.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::error::Error;
use super::schema;
use super::shared::Shared;
use super::sql::Reader;

/// The connections for queries, opened on first use.
pub(super) struct Readers {
    path: PathBuf,
    pub(super) permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, count: u32) -> Self {
        Self {
            path,
            permits: Arc::new(Semaphore::new(count.max(1) as usize)),
            idle: Mutex::default(),
        }
    }

    pub(super) fn with<T>(
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
        // A connection that cannot end its transaction is discarded.
        if conn.execute_batch("ROLLBACK").is_ok() {
            self.idle().push(conn);
        }
        result
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
