//! Thin wrappers of SQLite for the table modules: [`Reader`] queries; [`Tx`] also writes, and
//! collects what to do after the commit.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Deref;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::OutboxBounds;
use super::Topic;
use super::error::Error;

/// A consistent snapshot of the database.
pub struct Reader<'c> {
    conn: &'c Connection,
    uptime_ms: i64,
}

impl<'c> Reader<'c> {
    pub(super) fn new(conn: &'c Connection, uptime_ms: i64) -> Self {
        Self { conn, uptime_ms }
    }

    /// Returns how long agents have run on this database, in milliseconds. This clock never jumps
    /// and stands still while no agent runs; retries and expiry of callbacks use it.
    #[must_use]
    pub fn uptime_ms(&self) -> i64 {
        self.uptime_ms
    }

    /// Returns the row that a query yields, if any.
    pub(crate) fn one<T>(
        &self,
        what: &'static str,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Error> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row(params, read).optional())
            .map_err(Error::sql(what))
    }

    /// Returns all rows that a query yields.
    pub(crate) fn many<T>(
        &self,
        what: &'static str,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut s| s.query_map(params, read)?.collect())
            .map_err(Error::sql(what))
    }

    /// Returns the number that a query yields, or 0 if there is no row.
    pub(crate) fn number(
        &self,
        what: &'static str,
        sql: &str,
        params: impl Params,
    ) -> Result<i64, Error> {
        let read = |r: &Row<'_>| r.get::<_, Option<i64>>(0);
        Ok(self.one(what, sql, params, read)?.flatten().unwrap_or(0))
    }

    pub(crate) fn connection(&self) -> &Connection {
        self.conn
    }
}

/// One piece of work inside the transaction of its group: it is committed completely or not at all.
pub struct Tx<'c> {
    reader: Reader<'c>,
    now_ms: i64,
    bounds: &'c OutboxBounds,
    effects: RefCell<Effects>,
}

/// What is triggered after the commit.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) after: Vec<Box<dyn FnOnce() + Send>>,
    pub(super) topics: BTreeSet<Topic>,
}

impl Effects {
    pub(super) fn merge(&mut self, other: Self) {
        self.after.extend(other.after);
        self.topics.extend(other.topics);
    }
}

impl<'c> Tx<'c> {
    pub(super) fn new(reader: Reader<'c>, now_ms: i64, bounds: &'c OutboxBounds) -> Self {
        Self {
            reader,
            now_ms,
            bounds,
            effects: RefCell::default(),
        }
    }

    /// Returns the wall clock's time, in milliseconds since the epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// After the commit, wakes the tasks waiting for `topic`.
    pub fn touch(&self, topic: Topic) {
        self.effects.borrow_mut().topics.insert(topic);
    }

    /// Runs `f` on the owner's thread once the commit is on disk. It must be short and must not
    /// block.
    pub(crate) fn after_commit(&self, f: impl FnOnce() + Send + 'static) {
        self.effects.borrow_mut().after.push(Box::new(f));
    }

    pub(super) fn bounds(&self) -> &OutboxBounds {
        self.bounds
    }

    pub(super) fn into_effects(self) -> Effects {
        self.effects.into_inner()
    }

    /// Runs a statement and returns the number of rows it changed.
    pub(crate) fn run(
        &self,
        what: &'static str,
        sql: &str,
        params: impl Params,
    ) -> Result<usize, Error> {
        self.connection()
            .prepare_cached(sql)
            .and_then(|mut s| s.execute(params))
            .map_err(Error::sql(what))
    }

    /// Runs an insert and returns the new row's id.
    pub(crate) fn insert(
        &self,
        what: &'static str,
        sql: &str,
        params: impl Params,
    ) -> Result<i64, Error> {
        self.run(what, sql, params)?;
        Ok(self.connection().last_insert_rowid())
    }
}

impl<'c> Deref for Tx<'c> {
    type Target = Reader<'c>;
    fn deref(&self) -> &Reader<'c> {
        &self.reader
    }
}

/// Reads a nullable JSON column.
pub(crate) fn json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: &str,
) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    let parse = |text: String| serde_json::from_str(&text);
    text.map(parse).transpose().map_err(|error| {
        let index = row.as_ref().column_index(column).unwrap_or_default();
        rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error))
    })
}

/// Converts a value to JSON.
pub(crate) fn to_value(
    what: &'static str,
    value: &impl serde::Serialize,
) -> Result<serde_json::Value, Error> {
    serde_json::to_value(value).map_err(|e| Error::Row {
        what,
        found: e.to_string(),
    })
}

/// Serializes a value as JSON text for a column.
pub(crate) fn to_json(what: &'static str, value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::Row {
        what,
        found: e.to_string(),
    })
}
