//! Jobs as they are shown: one, the jobs of a file or a push, and lists of files by their latest
//! job.

use rusqlite::types::Value as Sql;
use rusqlite::{Row, params, params_from_iter};
use serde::Serialize;

use super::super::Error;
use super::super::Reader;
use super::super::columns::{next, next_content, next_key, next_on_disk};
use crate::datafile::{AppId, Key};
use crate::db;
use crate::job::{JobId, JobState};
use crate::shown::{File, Files};

/// Selects the files of a list; empty and `None` do not restrict.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub app: Option<String>,
    /// Any of these names.
    pub names: Vec<String>,
    /// Any of these versions.
    pub versions: Vec<String>,
    /// The latest job is in one of these states.
    pub states: Vec<JobState>,
    /// The latest job was accepted at or after this time.
    pub from_ms: Option<i64>,
    /// The latest job was accepted before this time.
    pub before_ms: Option<i64>,
}

/// Selects a part of a list.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Rows to skip.
    pub offset: u64,
    /// Maximum rows to return.
    pub limit: u64,
    /// Otherwise in order of first pushes.
    pub newest_first: bool,
}

impl Page {
    /// Everything, in order of first pushes.
    pub const ALL: Self = Self {
        offset: 0,
        limit: i64::MAX as u64,
        newest_first: false,
    };
}

/// Returns a job.
pub fn get(reader: &Reader<'_>, id: JobId) -> Result<Option<File>, Error> {
    let sql = format!("{SHOWN} WHERE j.id = ?1");
    reader.one("read a job", &sql, [id.0], read)
}

/// Returns the latest job of a file.
pub fn latest(reader: &Reader<'_>, key: &Key) -> Result<Option<File>, Error> {
    let sql =
        format!("{SHOWN} WHERE f.app = ?1 AND f.name = ?2 AND f.version = ?3 AND j.id = f.job");
    let params = params![key.app, key.name, key.version];
    reader.one("read the latest job of a file", &sql, params, read)
}

/// Returns all remembered jobs of a file, oldest first.
pub fn history(reader: &Reader<'_>, key: &Key) -> Result<Vec<File>, Error> {
    let sql = format!("{SHOWN} WHERE f.app = ?1 AND f.name = ?2 AND f.version = ?3 ORDER BY j.id");
    let params = params![key.app, key.name, key.version];
    reader.many("read the jobs of a file", &sql, params, read)
}

/// Returns the jobs of one push, in the order of its elements.
pub fn of_push(reader: &Reader<'_>, push: &str) -> Result<Vec<File>, Error> {
    let sql = format!("{SHOWN} WHERE j.push = ?1 ORDER BY j.id");
    reader.many("read the jobs of a push", &sql, [push], read)
}

/// Returns files with their latest job, in order of first pushes unless the page says otherwise.
pub fn list(reader: &Reader<'_>, filter: &Filter, page: Page) -> Result<Files, Error> {
    let total = total(reader, filter)?;
    let (sql, params) = listing(filter, page)?;
    let files = reader.many("list files", &sql, params_from_iter(params.iter()), read)?;
    Ok(Files { total, files })
}

/// Returns the query of a list and its parameters.
pub(super) fn listing(filter: &Filter, page: Page) -> Result<(String, Vec<Sql>), Error> {
    let (condition, mut params) = condition(filter)?;
    let order = order(filter, page.newest_first);
    params.push(Sql::Integer(bounded(page.limit)));
    params.push(Sql::Integer(bounded(page.offset)));
    let n = params.len();
    let sql = format!(
        "{SHOWN} WHERE j.id = f.job AND {condition} ORDER BY {order} LIMIT ?{} OFFSET ?{n}",
        n - 1
    );
    Ok((sql, params))
}

/// Returns the number of files that pass a filter; uses the counters that triggers maintain where
/// they suffice.
fn total(reader: &Reader<'_>, filter: &Filter) -> Result<u64, Error> {
    let by_time = filter.from_ms.is_some() || filter.before_ms.is_some();
    let counted = !by_time && filter.names.is_empty() && filter.versions.is_empty();
    let (condition, params) = condition(filter)?;
    let sql = match (counted, by_time) {
        (true, _) => format!("SELECT sum(n) FROM file_counts f WHERE {condition}"),
        (false, true) => {
            format!("SELECT count(*) FROM files f JOIN jobs j ON j.id = f.job WHERE {condition}")
        }
        (false, false) => format!("SELECT count(*) FROM files f WHERE {condition}"),
    };
    let total = reader.number("count files", &sql, params_from_iter(params.iter()))?;
    Ok(u64::try_from(total).unwrap_or(0))
}

/// Returns the ORDER BY clause that leads SQLite to an index, so that the first rows are found
/// without reading all of them.
fn order(filter: &Filter, newest_first: bool) -> &'static str {
    match (
        newest_first,
        filter.app.is_some() && !filter.names.is_empty(),
    ) {
        // A name has few versions: they are found by key and sorted. The plus keeps SQLite from
        // scanning the whole application in this order instead.
        (false, true) => "+f.id",
        (false, false) => "f.id",
        (true, true) => "+j.id DESC",
        (true, false) if filter.states.is_empty() => "j.id DESC",
        (true, false) => "f.job DESC",
    }
}

/// Returns how many files of an application wait or run, and how many of all.
pub fn open_counts(reader: &Reader<'_>, app: &AppId) -> Result<(u64, u64), Error> {
    let open = "FROM file_counts WHERE state IN ('queued', 'retrying', 'running')";
    let of_app = format!("SELECT coalesce(sum(n), 0) {open} AND app = ?1");
    let of_app = reader.number("count open jobs of an application", &of_app, [app])?;
    let all = format!("SELECT coalesce(sum(n), 0) {open}");
    let all = reader.number("count open jobs", &all, [])?;
    Ok((of_app.try_into().unwrap_or(0), all.try_into().unwrap_or(0)))
}

/// Returns the number of files in each state.
pub fn counts(reader: &Reader<'_>) -> Result<Vec<(JobState, u64)>, Error> {
    reader.many(
        "count files by state",
        "SELECT state, sum(n) FROM file_counts GROUP BY state HAVING sum(n) > 0 ORDER BY state",
        [],
        |r| Ok((r.get(0)?, r.get(1)?)),
    )
}

/// Returns whether the application was ever pushed, and whether the name was, in any version.
pub fn known(reader: &Reader<'_>, app: &str, name: &str) -> Result<(bool, bool), Error> {
    let app_known = reader.number(
        "find an application",
        "SELECT EXISTS (SELECT 1 FROM files WHERE app = ?1)",
        [app],
    )?;
    let name_known = reader.number(
        "find a name",
        "SELECT EXISTS (SELECT 1 FROM files WHERE app = ?1 AND name = ?2)",
        [app, name],
    )?;
    Ok((app_known == 1, name_known == 1))
}

/// Returns the WHERE clause of a filter and its parameters.
fn condition(filter: &Filter) -> Result<(String, Vec<Sql>), Error> {
    let (mut clauses, mut params) = (vec!["1".to_owned()], Vec::new());
    let mut add = |clause: &str, value: Sql| {
        params.push(value);
        clauses.push(clause.replace('#', &format!("?{}", params.len())));
    };
    if let Some(app) = &filter.app {
        add("f.app = #", Sql::Text(app.clone()));
    }
    for (column, values) in [("f.name", &filter.names), ("f.version", &filter.versions)] {
        if !values.is_empty() {
            let (clause, value) = one_of(column, values)?;
            add(&clause, value);
        }
    }
    if !filter.states.is_empty() {
        let states: Vec<&str> = filter.states.iter().map(|s| s.as_str()).collect();
        let (clause, value) = one_of("f.state", &states)?;
        add(&clause, value);
    }
    if let Some(from) = filter.from_ms {
        add("j.accepted >= #", Sql::Integer(from));
    }
    if let Some(before) = filter.before_ms {
        add("j.accepted < #", Sql::Integer(before));
    }
    Ok((clauses.join(" AND "), params))
}

/// Returns a clause that holds for any of `values`. A single value becomes an equality, so that an
/// index also delivers the rows in the order of its next column.
fn one_of<T: AsRef<str> + Serialize>(column: &str, values: &[T]) -> Result<(String, Sql), Error> {
    Ok(match values {
        [one] => (format!("{column} = #"), Sql::Text(one.as_ref().to_owned())),
        many => (
            format!("{column} IN (SELECT value FROM json_each(#))"),
            Sql::Text(db::to_json("filter", &many)?),
        ),
    })
}

/// Declares the columns that a job is read from, in order: a single list for the query and for the
/// reader, so that they cannot diverge. A field made of several columns names its own reader.
macro_rules! columns {
    (@read $row:ident, $at:ident) => { next($row, $at)? };
    (@read $row:ident, $at:ident, $reader:ident) => { $reader($row, $at)? };
    ($first:ident = $first_sql:literal, $($field:ident = $sql:literal $(=> $reader:ident)?),* $(,)?) => {
        const SHOWN: &str = concat!(
            "SELECT ", $first_sql $(, ", ", $sql)*,
            " FROM files f JOIN jobs j ON j.file = f.id LEFT JOIN releases r ON r.file = f.id"
        );

        fn read(row: &Row<'_>) -> rusqlite::Result<File> {
            let at = &mut 0;
            Ok(File {
                $first: columns!(@read row, at),
                $($field: columns!(@read row, at $(, $reader)?),)*
            })
        }
    };
}

columns! {
    id = "j.id",
    key = "f.app, f.name, f.version" => next_key,
    push = "j.push",
    via = "j.via",
    archive_type = "j.archive_type",
    stated = "j.size, j.md5, j.sha256" => next_content,
    source = "j.source",
    timeout_ms = "j.timeout_ms",
    activate = "j.activate",
    state = "j.state",
    status = "j.state",
    stage = "j.stage",
    starts = "j.starts",
    attempts = "j.attempts",
    not_before_ms = "nullif(max(j.not_before, 0), 0)",
    cancel_requested = "j.cancel_requested",
    accepted_ms = "j.accepted",
    started_ms = "j.started",
    updated_ms = "j.updated",
    finished_ms = "j.finished",
    received = "j.received",
    total = "j.total",
    fetched = "j.fetched",
    files = "j.files",
    written = "j.written",
    failure = "j.failure",
    waits = "NULL",
    published = "j.published",
    release = "r.live, r.pinned, r.damage" => next_on_disk,
    path = "NULL",
}

fn bounded(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
