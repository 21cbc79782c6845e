//! Thin words over SQLite for the table families: [`Reader`] looks, [`Tx`] also writes and remembers what to tell
//! everyone after the commit.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use rusqlite::types::{Type, Value as Sql};
use rusqlite::{Connection, OptionalExtension, Params, Row, RowIndex};

use super::error::Error;
use super::events::EventRow;
use super::{Config, Topic};
use crate::datafile::{Content, Key, Md5, Sha256};
use crate::job::Stage;

/// A consistent look at the database.
pub struct Reader<'c> {
    conn: &'c Connection,
    uptime_ms: i64,
}

impl<'c> Reader<'c> {
    pub(super) fn new(conn: &'c Connection, uptime_ms: i64) -> Self {
        Self { conn, uptime_ms }
    }

    /// Returns how long agents have run on this database, in milliseconds: a clock that never jumps, that stands still
    /// while no agent runs, and by which callbacks are retried and given up.
    #[must_use]
    pub fn uptime_ms(&self) -> i64 {
        self.uptime_ms
    }

    /// Returns the row that a query yields, if any.
    pub(super) fn one<T>(
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

    /// Returns every row that a query yields.
    pub(super) fn many<T>(
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

    /// Returns the number that a query yields, 0 if it yields none.
    pub(super) fn number(
        &self,
        what: &'static str,
        sql: &str,
        params: impl Params,
    ) -> Result<i64, Error> {
        let read = |r: &Row<'_>| r.get::<_, Option<i64>>(0);
        Ok(self.one(what, sql, params, read)?.flatten().unwrap_or(0))
    }

    pub(super) fn connection(&self) -> &Connection {
        self.conn
    }
}

/// One piece of writing inside the transaction of its group: all of it is committed, or none.
pub struct Tx<'c> {
    reader: Reader<'c>,
    now_ms: i64,
    config: &'c Config,
    effects: RefCell<Effects>,
}

/// What everyone is told after the commit.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) events: Vec<Arc<EventRow>>,
    pub(super) topics: BTreeSet<Topic>,
}

impl Effects {
    pub(super) fn merge(&mut self, other: Self) {
        self.events.extend(other.events);
        self.topics.extend(other.topics);
    }
}

impl<'c> Tx<'c> {
    pub(super) fn new(reader: Reader<'c>, now_ms: i64, config: &'c Config) -> Self {
        Self {
            reader,
            now_ms,
            config,
            effects: RefCell::default(),
        }
    }

    /// Returns the wall clock's milliseconds since the epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Wakes whoever waits for `topic`, after the commit.
    pub fn touch(&self, topic: Topic) {
        self.effects.borrow_mut().topics.insert(topic);
    }

    pub(super) fn emit(&self, event: EventRow) {
        self.effects.borrow_mut().events.push(Arc::new(event));
    }

    pub(super) fn config(&self) -> &Config {
        self.config
    }

    pub(super) fn into_effects(self) -> Effects {
        self.effects.into_inner()
    }

    /// Runs a statement and returns how many rows it changed.
    pub(super) fn run(
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

    /// Runs an insert and returns the new row's number.
    pub(super) fn insert(
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

/// Reads a column through a parser of the domain. A column is told by its name, or, where many rows are read, by its place:
/// a name is looked for among all of them in each row.
pub(super) fn parsed<T, E>(
    row: &Row<'_>,
    column: impl RowIndex,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> rusqlite::Result<T>
where
    E: StdError + Send + Sync + 'static,
{
    let index = column.idx(row.as_ref())?;
    let text: String = row.get(index)?;
    parse(&text)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(e)))
}

/// As [`parsed`], for a column that may be null.
pub(super) fn parsed_option<T, E>(
    row: &Row<'_>,
    column: impl RowIndex,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> rusqlite::Result<Option<T>>
where
    E: StdError + Send + Sync + 'static,
{
    match row.get::<_, Option<String>>(column)? {
        None => Ok(None),
        Some(_) => parsed(row, column, parse).map(Some),
    }
}

/// Reads a column by the [`FromStr`] of its type.
pub(super) fn typed<T>(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: StdError + Send + Sync + 'static,
{
    parsed(row, column, T::from_str)
}

/// Reads a column of JSON that may be null.
pub(super) fn json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: impl RowIndex,
) -> rusqlite::Result<Option<T>> {
    parsed_option(row, column, |text| serde_json::from_str(text))
}

/// Makes the condition for rows of an application and a name, where they are given, and its parameters.
pub(super) fn of_name(app: Option<&str>, name: Option<&str>) -> (String, Vec<Sql>) {
    let given = [("app", app), ("name", name)]
        .into_iter()
        .filter_map(|(column, value)| {
            Some((format!("{column} = ?"), Sql::from(value?.to_owned())))
        });
    let (clauses, params): (Vec<String>, Vec<Sql>) = given.unzip();
    let condition = match clauses.is_empty() {
        true => "1".to_owned(),
        false => clauses.join(" AND "),
    };
    (condition, params)
}

/// A stored word that this program does not know.
#[derive(Debug, thiserror::Error)]
#[error("unknown {what}")]
pub(super) struct Unknown {
    pub(super) what: &'static str,
}

/// Makes a parser that knows a closed list of words into one that says what it did not know.
pub(super) fn word<T>(
    what: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> impl FnOnce(&str) -> Result<T, Unknown> {
    move |text| parse(text).ok_or(Unknown { what })
}

/// Reads a column with a stage of the road, which may be null.
pub(super) fn stage(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Option<Stage>> {
    let parse = |text: &str| Stage::ALL.into_iter().find(|s| s.as_str() == text);
    parsed_option(row, column, word("stage", parse))
}

/// Reads the columns of a key.
pub(super) fn read_key(row: &Row<'_>) -> rusqlite::Result<Key> {
    key_at(row, ["app", "name", "version"])
}

/// Reads the columns of a key, which are these.
pub(super) fn key_at(
    row: &Row<'_>,
    [app, name, version]: [impl RowIndex; 3],
) -> rusqlite::Result<Key> {
    Ok(Key {
        app: typed(row, app)?,
        name: typed(row, name)?,
        version: typed(row, version)?,
    })
}

/// Reads the columns of what is known of an archive.
pub(super) fn read_content(row: &Row<'_>) -> rusqlite::Result<Content> {
    content_at(row, ["size", "md5", "sha256"])
}

/// Reads the columns of what is known of an archive, which are these.
pub(super) fn content_at(
    row: &Row<'_>,
    [size, md5, sha256]: [impl RowIndex; 3],
) -> rusqlite::Result<Content> {
    Ok(Content {
        size: row.get(size)?,
        md5: parsed_option(row, md5, Md5::parse)?,
        sha256: parsed_option(row, sha256, Sha256::parse)?,
    })
}

/// Turns a value into JSON.
pub(super) fn to_value(
    what: &'static str,
    value: &impl serde::Serialize,
) -> Result<serde_json::Value, Error> {
    serde_json::to_value(value).map_err(|e| Error::Row {
        what,
        found: e.to_string(),
    })
}

/// Writes a value as the JSON text of a column.
pub(super) fn to_json(what: &'static str, value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::Row {
        what,
        found: e.to_string(),
    })
}
