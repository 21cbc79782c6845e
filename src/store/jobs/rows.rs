//! Jobs as they are shown: one, the jobs of a file or a push, and lists of files by their latest job.

use rusqlite::types::Value as Sql;
use rusqlite::{Row, params, params_from_iter};
use serde::Serialize;

use super::super::error::Error;
use super::super::sql::{self, Reader};
use crate::datafile::{ArchiveType, Content, Key};
use crate::job::{Failure, JobId, JobState, Published, Stage};
use crate::wire::push::Via;
use crate::wire::status::Status;

/// A job as it is shown. It holds no secret.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobRow {
    /// Its number; acceptance order.
    pub id: JobId,
    /// The file.
    #[serde(flatten)]
    pub key: Key,
    /// The id of the push it came with.
    pub push: String,
    /// By which way it came in.
    pub via: Via,
    /// How the archive is packed.
    pub archive_type: ArchiveType,
    /// What the push stated of the archive.
    pub stated: Content,
    /// Where it is fetched from, without anything secret.
    pub source: String,
    /// How long the whole push of this file may take.
    pub timeout_ms: i64,
    /// Whether its version becomes `current` when it is published.
    pub activate: bool,
    /// Where it stands.
    pub state: JobState,
    /// The contract's status.
    pub status: Status,
    /// Where on the road it is, or where it ended.
    pub stage: Option<Stage>,
    /// How often it was started.
    pub starts: u32,
    /// Attempts at the source.
    pub attempts: u32,
    /// When it is due again, if it waits for that.
    pub not_before_ms: Option<i64>,
    /// Whether an operator wants it to end.
    pub cancel_requested: bool,
    /// When it was accepted.
    pub accepted_ms: i64,
    /// When it was first started.
    pub started_ms: Option<i64>,
    /// When anything of this last changed.
    pub updated_ms: i64,
    /// When it ended.
    pub finished_ms: Option<i64>,
    /// Bytes of the archive that were here when this was written.
    pub received: u64,
    /// Length of the archive, 0 while unknown.
    pub total: u64,
    /// Bytes that came over the network, repeated ones included.
    pub fetched: u64,
    /// Files written.
    pub files: u64,
    /// Bytes written in them.
    pub written: u64,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What it left.
    pub published: Option<Published>,
    /// The release of this file, whichever job made it.
    pub release: Option<OnDisk>,
}

/// What is on the disk under a job's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OnDisk {
    /// Whether it is `current`.
    pub live: bool,
    /// Whether retention must leave it alone.
    pub pinned: bool,
    /// What `verify` found wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// Which files a list shows; what is empty or none does not restrict.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this application.
    pub app: Option<String>,
    /// With one of these names.
    pub names: Vec<String>,
    /// With one of these versions.
    pub versions: Vec<String>,
    /// Whose latest job is in one of these states.
    pub states: Vec<JobState>,
    /// Whose latest job was accepted at or after this.
    pub from_ms: Option<i64>,
    /// Whose latest job was accepted before this.
    pub before_ms: Option<i64>,
}

/// Which part of a list.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Rows to leave out at the beginning.
    pub offset: u64,
    /// Rows to show at most.
    pub limit: u64,
    /// Newest first instead of in the order of first pushes.
    pub newest_first: bool,
}

impl Page {
    /// Everything, in the order of first pushes.
    pub const ALL: Self = Self {
        offset: 0,
        limit: i64::MAX as u64,
        newest_first: false,
    };
}

/// A part of a list, and how many rows the whole has.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Rows that pass the filter.
    pub total: u64,
    /// Those of the page.
    pub rows: Vec<JobRow>,
}

/// Returns a job.
pub fn get(reader: &Reader<'_>, id: JobId) -> Result<Option<JobRow>, Error> {
    let sql = format!("{SHOWN} WHERE j.id = ?1");
    reader.one("read a job", &sql, [id.0], read)
}

/// Returns the latest job of a file.
pub fn latest(reader: &Reader<'_>, key: &Key) -> Result<Option<JobRow>, Error> {
    let sql =
        format!("{SHOWN} WHERE f.app = ?1 AND f.name = ?2 AND f.version = ?3 AND j.id = f.job");
    let params = params![key.app.as_str(), key.name.as_str(), key.version.as_str()];
    reader.one("read the latest job of a file", &sql, params, read)
}

/// Returns every job of a file that is kept, oldest first.
pub fn history(reader: &Reader<'_>, key: &Key) -> Result<Vec<JobRow>, Error> {
    let sql = format!("{SHOWN} WHERE f.app = ?1 AND f.name = ?2 AND f.version = ?3 ORDER BY j.id");
    let params = params![key.app.as_str(), key.name.as_str(), key.version.as_str()];
    reader.many("read the jobs of a file", &sql, params, read)
}

/// Returns the jobs of one push, in the order of its elements.
pub fn of_push(reader: &Reader<'_>, push: &str) -> Result<Vec<JobRow>, Error> {
    let sql = format!("{SHOWN} WHERE j.push = ?1 ORDER BY j.id");
    reader.many("read the jobs of a push", &sql, [push], read)
}

/// Returns files by their latest job, in the order of their first push unless the page says otherwise.
pub fn list(reader: &Reader<'_>, filter: &Filter, page: Page) -> Result<Listed, Error> {
    let total = total(reader, filter)?;
    let (sql, params) = listing(filter, page)?;
    let rows = reader.many("list files", &sql, params_from_iter(params.iter()), read)?;
    Ok(Listed { total, rows })
}

/// The query of a list and its parameters.
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

/// Returns how many files pass a filter, by what the database counts itself wherever that tells.
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

/// The order of a list, in words that lead SQLite to the index that finds the first rows without looking at all of them.
fn order(filter: &Filter, newest_first: bool) -> &'static str {
    match (
        newest_first,
        filter.app.is_some() && !filter.names.is_empty(),
    ) {
        // A name has few versions: they are found by their key and sorted (the plus keeps it from walking the whole
        // application in this order instead).
        (false, true) => "+f.id",
        (false, false) => "f.id",
        (true, true) => "+j.id DESC",
        (true, false) if filter.states.is_empty() => "j.id DESC",
        (true, false) => "f.job DESC",
    }
}

/// Returns how many files there are in each state.
pub fn counts(reader: &Reader<'_>) -> Result<Vec<(JobState, u64)>, Error> {
    reader.many(
        "count files by state",
        "SELECT state, sum(n) FROM file_counts GROUP BY state HAVING sum(n) > 0 ORDER BY state",
        [],
        |r| {
            let state = sql::parsed(r, "state", sql::word("state", JobState::parse))?;
            Ok((state, r.get(1)?))
        },
    )
}

/// Returns whether an application and a name were ever pushed, the name's versions aside: (application, name).
pub fn known(reader: &Reader<'_>, app: &str, name: &str) -> Result<(bool, bool), Error> {
    let app_known = reader.number(
        "look for an application",
        "SELECT EXISTS (SELECT 1 FROM files WHERE app = ?1)",
        [app],
    )?;
    let name_known = reader.number(
        "look for a name",
        "SELECT EXISTS (SELECT 1 FROM files WHERE app = ?1 AND name = ?2)",
        [app, name],
    )?;
    Ok((app_known == 1, name_known == 1))
}

/// The WHERE clause of a filter and its parameters.
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

/// A clause that holds for any of `values`; of one value only, an index can give rows in the order of its next column.
fn one_of<T: AsRef<str> + Serialize>(column: &str, values: &[T]) -> Result<(String, Sql), Error> {
    Ok(match values {
        [one] => (format!("{column} = #"), Sql::Text(one.as_ref().to_owned())),
        many => (
            format!("{column} IN (SELECT value FROM json_each(#))"),
            Sql::Text(sql::to_json("filter", &many)?),
        ),
    })
}

/// Declares the columns that a job is shown with, and the query that yields them in this order.
macro_rules! shown {
    ($first:ident: $first_sql:literal $(, $column:ident: $sql:literal)* $(,)?) => {
        /// A column of [`SHOWN`], by its place.
        #[derive(Clone, Copy)]
        enum Column { $first $(, $column)* }

        const SHOWN: &str = concat!(
            "SELECT ", $first_sql $(, ", ", $sql)*,
            " FROM files f JOIN jobs j ON j.file = f.id LEFT JOIN releases r ON r.file = f.id"
        );
    };
}

shown! {
    Id: "j.id",
    Push: "j.push",
    Via: "j.via",
    ArchiveType: "j.archive_type",
    Size: "j.size",
    Md5: "j.md5",
    Sha256: "j.sha256",
    Source: "j.source",
    Timeout: "j.timeout_ms",
    Activate: "j.activate",
    State: "j.state",
    Stage: "j.stage",
    Starts: "j.starts",
    Attempts: "j.attempts",
    NotBefore: "j.not_before",
    CancelRequested: "j.cancel_requested",
    Accepted: "j.accepted",
    Started: "j.started",
    Updated: "j.updated",
    Finished: "j.finished",
    Received: "j.received",
    Total: "j.total",
    Fetched: "j.fetched",
    Files: "j.files",
    Written: "j.written",
    Failure: "j.failure",
    Published: "j.published",
    App: "f.app",
    Name: "f.name",
    Version: "f.version",
    Live: "r.live",
    Pinned: "r.pinned",
    Damage: "r.damage",
}

impl Column {
    const KEY: [usize; 3] = [
        Self::App as usize,
        Self::Name as usize,
        Self::Version as usize,
    ];
    const CONTENT: [usize; 3] = [
        Self::Size as usize,
        Self::Md5 as usize,
        Self::Sha256 as usize,
    ];
}

fn read(row: &Row<'_>) -> rusqlite::Result<JobRow> {
    use Column as C;
    let state = sql::parsed(row, C::State as usize, sql::word("state", JobState::parse))?;
    let not_before: i64 = row.get(C::NotBefore as usize)?;
    let live: Option<bool> = row.get(C::Live as usize)?;
    let release = match live {
        Some(live) => Some(OnDisk {
            live,
            pinned: row.get(C::Pinned as usize)?,
            damage: row.get(C::Damage as usize)?,
        }),
        None => None,
    };
    Ok(JobRow {
        id: JobId(row.get(C::Id as usize)?),
        key: sql::key_at(row, C::KEY)?,
        push: row.get(C::Push as usize)?,
        via: sql::parsed(row, C::Via as usize, sql::word("way in", Via::parse))?,
        archive_type: sql::parsed(row, C::ArchiveType as usize, ArchiveType::parse)?,
        stated: sql::content_at(row, C::CONTENT)?,
        source: row.get(C::Source as usize)?,
        timeout_ms: row.get(C::Timeout as usize)?,
        activate: row.get(C::Activate as usize)?,
        state,
        status: state.status(),
        stage: sql::stage(row, C::Stage as usize)?,
        starts: row.get(C::Starts as usize)?,
        attempts: row.get(C::Attempts as usize)?,
        not_before_ms: (not_before > 0).then_some(not_before),
        cancel_requested: row.get(C::CancelRequested as usize)?,
        accepted_ms: row.get(C::Accepted as usize)?,
        started_ms: row.get(C::Started as usize)?,
        updated_ms: row.get(C::Updated as usize)?,
        finished_ms: row.get(C::Finished as usize)?,
        received: row.get(C::Received as usize)?,
        total: row.get(C::Total as usize)?,
        fetched: row.get(C::Fetched as usize)?,
        files: row.get(C::Files as usize)?,
        written: row.get(C::Written as usize)?,
        failure: sql::json(row, C::Failure as usize)?,
        published: sql::json(row, C::Published as usize)?,
        release,
    })
}

fn bounded(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
