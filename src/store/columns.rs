//! How the node's types are stored: in one column each, as the text serde writes for them, or in
//! several columns.

use rusqlite::types::{
    FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Value as Sql, ValueRef,
};
use rusqlite::{Result, Row};
use serde::Deserialize;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as WordError;

use crate::datafile::{AppId, ArchiveType, Content, DataName, DataVersion, Key, Md5, Sha256};
use crate::job::{EventKind, Failure, JobId, JobState, Published, Reason, Stage};
use crate::shown::OnDisk;
use crate::wire::push::Via;
use crate::wire::status::Status;

macro_rules! texts {
    ($($type:ty),* $(,)?) => {$(
        impl FromSql for $type {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                Self::deserialize(value.as_str()?.into_deserializer())
                    .map_err(|error: WordError| FromSqlError::Other(Box::new(error)))
            }
        }

        impl ToSql for $type {
            fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
                Ok(self.to_string().into())
            }
        }
    )*};
}

texts!(
    AppId,
    ArchiveType,
    DataName,
    DataVersion,
    EventKind,
    JobState,
    Md5,
    Reason,
    Sha256,
    Stage,
    Via,
);

macro_rules! documents {
    ($($type:ty),* $(,)?) => {$(
        impl FromSql for $type {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                serde_json::from_str(value.as_str()?)
                    .map_err(|error| FromSqlError::Other(Box::new(error)))
            }
        }

        impl ToSql for $type {
            fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
                serde_json::to_string(self)
                    .map(Into::into)
                    .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
            }
        }
    )*};
}

documents!(Failure, Published);

impl FromSql for JobId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Self)
    }
}

impl ToSql for JobId {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(self.0.into())
    }
}

/// Not stored: the contract's status follows from the state.
impl FromSql for Status {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        JobState::column_result(value).map(JobState::status)
    }
}

/// Reads the next column of a row, by position: to look a column up by name, SQLite compares all
/// names in each row, which is measurable in long lists.
pub(super) fn next<T: FromSql>(row: &Row<'_>, at: &mut usize) -> Result<T> {
    *at += 1;
    row.get(*at - 1)
}

/// Reads the next three columns as a key.
pub(super) fn next_key(row: &Row<'_>, at: &mut usize) -> Result<Key> {
    Ok(Key {
        app: next(row, at)?,
        name: next(row, at)?,
        version: next(row, at)?,
    })
}

/// Reads the next three columns as size and digests of an archive.
pub(super) fn next_content(row: &Row<'_>, at: &mut usize) -> Result<Content> {
    Ok(Content {
        size: next(row, at)?,
        md5: next(row, at)?,
        sha256: next(row, at)?,
    })
}

/// Reads the next three columns as the state on disk; they are null if nothing is on disk.
pub(super) fn next_on_disk(row: &Row<'_>, at: &mut usize) -> Result<Option<OnDisk>> {
    let (live, pinned, damage) = (next(row, at)?, next(row, at)?, next(row, at)?);
    let on_disk = |live: bool, pinned: bool| OnDisk {
        live,
        pinned,
        damage,
    };
    Ok(Option::zip(live, pinned).map(|(live, pinned)| on_disk(live, pinned)))
}

/// Reads the columns of a key by name.
pub(super) fn read_key(row: &Row<'_>) -> Result<Key> {
    Ok(Key {
        app: row.get("app")?,
        name: row.get("name")?,
        version: row.get("version")?,
    })
}

/// Reads the columns of an archive's size and digests by name.
pub(super) fn read_content(row: &Row<'_>) -> Result<Content> {
    Ok(Content {
        size: row.get("size")?,
        md5: row.get("md5")?,
        sha256: row.get("sha256")?,
    })
}

/// Returns the condition, with its parameters, that selects the rows of the given application and
/// name. Parts not given are left out: a clause such as "or not given" would keep SQLite from using
/// an index.
pub(super) fn of_name(app: Option<&str>, name: Option<&str>) -> (String, Vec<Sql>) {
    let mut condition = "1".to_owned();
    let mut params = Vec::new();
    for (column, value) in [("app", app), ("name", name)] {
        if let Some(value) = value {
            condition.push_str(&format!(" AND {column} = ?"));
            params.push(Sql::from(value.to_owned()));
        }
    }
    (condition, params)
}
