//! What can go wrong with the database, and which errors end the process.

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::sys::durable;
use crate::sys::failure::{Class, Kind, Retry};

/// What can go wrong in the store. It can be cloned: one failed commit is told to every caller of
/// its group.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The directory or the file of the database could not be prepared.
    #[error("prepare the database")]
    Prepare(#[source] Arc<durable::Error>),
    /// The database could not be opened or set up.
    #[error("{verb} `{}`", path.display())]
    Open {
        /// What was tried.
        verb: &'static str,
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// Another process has the directory of the database.
    #[error("lock `{}`: another edgepush process uses it", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The database was written by a newer edgepush.
    #[error(
        "open `{}`: its schema is version {found}, this edgepush knows up to {known}; install the newer edgepush again",
        path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The version it has.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// The file is a database of some other program.
    #[error("open `{}`: application id is {found:#x}, not an edgepush database", path.display())]
    Foreign {
        /// The database file.
        path: PathBuf,
        /// The application id it has.
        found: i64,
    },
    /// The database is damaged.
    #[error("check `{}`: {what}; run `edgepush recover`, which sets it aside and rebuilds it from what is on the disk", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What the check found first.
        what: String,
    },
    /// The disk that holds the database is full. Nothing was written; the store goes on.
    #[error("write the database: no space left")]
    Full,
    /// The disk that holds the database is read-only. Nothing was written; reading goes on.
    #[error("write the database: the file system is read-only")]
    ReadOnly,
    /// One statement failed; the store goes on.
    #[error("{what}")]
    Sql {
        /// What was tried.
        what: &'static str,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// A row holds what this program cannot read.
    #[error("read {what}: found `{found}`")]
    Row {
        /// Which value.
        what: &'static str,
        /// What it holds, shortened.
        found: String,
    },
    /// The store has failed: a commit or a sync did not succeed, nothing more is written, and the
    /// process must end.
    #[error("the database has failed: {why}")]
    Failed {
        /// What failed first, with its causes.
        why: Arc<str>,
    },
    /// More work waits than the store holds.
    #[error("the database has too much work waiting")]
    Busy,
    /// The piece of work panicked; it was undone.
    #[error("work in the database panicked and was undone")]
    Panicked,
    /// The store is closed.
    #[error("the database is closed")]
    Closed,
}

/// The store's failures by stable name.
pub const KINDS: &[Kind] = &[
    OPEN, IN_USE, NEWER, DAMAGED, FULL, READ_ONLY, FAILED, INTERNAL, BUSY, CLOSED,
];

const OPEN: Kind = Kind {
    name: "store-open",
    class: Class::Device,
    retry: Retry::Fatal,
    help: "The database could not be opened: check the path's owner, mode and file system.",
};
const IN_USE: Kind = Kind {
    name: "store-in-use",
    class: Class::Device,
    retry: Retry::Fatal,
    help: "Another edgepush process uses this directory: ask it through its socket, or stop it.",
};
const NEWER: Kind = Kind {
    name: "store-newer",
    class: Class::Device,
    retry: Retry::Fatal,
    help: "The database was written by a newer edgepush, or by another program: install that version, or start with another directory.",
};
const DAMAGED: Kind = Kind {
    name: "store-damaged",
    class: Class::Device,
    retry: Retry::Fatal,
    help: "The database failed its check: run `edgepush recover`, which sets it aside and rebuilds it from the versions on disk.",
};
const FULL: Kind = Kind {
    name: "store-full",
    class: Class::Device,
    retry: Retry::Transient,
    help: "The disk of the database is full: free space, then push again.",
};
const READ_ONLY: Kind = Kind {
    name: "store-read-only",
    class: Class::Device,
    retry: Retry::Transient,
    help: "The file system of the database is read-only: the kernel's log says why.",
};
const FAILED: Kind = Kind {
    name: "store-failed",
    class: Class::Device,
    retry: Retry::Fatal,
    help: "A commit did not reach the disk; the process ends and recovers at its next start. Check the disk.",
};
const INTERNAL: Kind = Kind {
    name: "store-internal",
    class: Class::Device,
    retry: Retry::Fatal,
    help: "A statement failed or a row could not be read: please report this with the log line.",
};
const BUSY: Kind = Kind {
    name: "store-busy",
    class: Class::Device,
    retry: Retry::Transient,
    help: "The disk of the database is slower than the incoming work: retry in a moment.",
};
const CLOSED: Kind = Kind {
    name: "store-closed",
    class: Class::Device,
    retry: Retry::Transient,
    help: "The agent is shutting down: retry once it has restarted.",
};

impl Error {
    /// Returns the row of [`KINDS`] that this error belongs to.
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        match self {
            Self::Prepare(_) | Self::Open { .. } => &OPEN,
            Self::InUse { .. } => &IN_USE,
            Self::Newer { .. } | Self::Foreign { .. } => &NEWER,
            Self::Damaged { .. } => &DAMAGED,
            Self::Full => &FULL,
            Self::ReadOnly => &READ_ONLY,
            Self::Failed { .. } => &FAILED,
            Self::Sql { .. } | Self::Row { .. } | Self::Panicked => &INTERNAL,
            Self::Busy => &BUSY,
            Self::Closed => &CLOSED,
        }
    }

    /// Tells whether the caller may be answered "not now": the store cannot take the work, and did
    /// not take it.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Full | Self::ReadOnly | Self::Failed { .. } | Self::Busy | Self::Closed => true,
            Self::Prepare(_)
            | Self::Open { .. }
            | Self::InUse { .. }
            | Self::Newer { .. }
            | Self::Foreign { .. }
            | Self::Damaged { .. }
            | Self::Sql { .. }
            | Self::Row { .. }
            | Self::Panicked => false,
        }
    }

    /// Tells whether the disk of the database has no room left.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Full => true,
            Self::Prepare(error) => error.fault().is_full(),
            _ => false,
        }
    }

    /// Returns whether the same work may well be accepted a moment later: the disk is full or read-only,
    /// the queue is full, or the process had no descriptor left to open a connection with. The
    /// store itself goes on.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Full | Self::ReadOnly | Self::Busy | Self::Open { .. } => true,
            Self::Sql { source, .. } => source.sqlite_error_code() == Some(ErrorCode::CannotOpen),
            _ => false,
        }
    }

    /// Makes the error of a statement that was to do `what`.
    pub(crate) fn sql(what: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            _ => Self::Sql {
                what,
                source: Arc::new(source),
            },
        }
    }

    /// Tells whether a statement failed because the disk did, or the file is damaged: then nothing
    /// more may be promised.
    pub(crate) fn is_device(&self) -> bool {
        let Self::Sql { source, .. } = self else {
            return false;
        };
        matches!(
            source.sqlite_error_code(),
            Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        )
    }

    /// Tells whether a write was refused by the system, as opposed to a sync that failed: only this
    /// may be the mild case of a file system that became read-only.
    pub(crate) fn is_refused_write(&self) -> bool {
        let Self::Sql { source, .. } = self else {
            return false;
        };
        matches!(
            source.sqlite_extended_error_code(),
            Some(ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_TRUNCATE)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: i32) -> Error {
        Error::sql("write")(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }

    #[test]
    fn tells_a_full_disk_from_a_broken_one() {
        assert!(matches!(failure(ffi::SQLITE_FULL), Error::Full));
        assert!(matches!(failure(ffi::SQLITE_READONLY), Error::ReadOnly));
        assert!(failure(ffi::SQLITE_IOERR_FSYNC).is_device());
        assert!(!failure(ffi::SQLITE_IOERR_FSYNC).is_refused_write());
        assert!(failure(ffi::SQLITE_IOERR_WRITE).is_refused_write());
        assert!(failure(ffi::SQLITE_CORRUPT).is_device());
        assert!(!failure(ffi::SQLITE_CONSTRAINT).is_device());
        let mut names: Vec<_> = KINDS.iter().map(|k| k.name).collect();
        names.dedup();
        assert_eq!(names.len(), KINDS.len());
    }
}
