//! Database errors: which kinds there are, and which of them end the process. After
//! [`Error::Failed`] nothing is written any more.

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::sys::durable;
use crate::sys::failure::{Class, Fault, Kind, Retry};

/// Why the database refused or failed. Cloneable, because every caller in a group receives the
/// error of a failed commit.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Creating the directory or the database file failed.
    #[error("prepare the database")]
    Prepare(#[source] Arc<durable::Error>),
    /// Opening or setting up the database failed.
    #[error("{verb} `{}`", path.display())]
    Open {
        /// The step that failed.
        verb: &'static str,
        /// The database file.
        path: PathBuf,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// Another process has locked the directory.
    #[error("lock `{}`: another edgepush process uses it", path.display())]
    InUse { path: PathBuf },
    #[error(
        "open `{}`: its schema is version {found}, this edgepush knows up to {known}; install the newer edgepush again",
        path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        found: i64,
        /// The newest version this program supports.
        known: i64,
    },
    #[error("open `{}`: application id is {found:#x}, not an edgepush database", path.display())]
    Foreign {
        /// The database file.
        path: PathBuf,
        /// The application id in the file.
        found: i64,
    },
    /// The integrity check failed.
    #[error("check `{}`: {what}; run `edgepush recover`, which sets it aside and rebuilds it from what is on disk", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// The first finding of the check.
        what: String,
    },
    /// The disk is full. Nothing was written; the database stays usable.
    #[error("write the database: no space left")]
    Full,
    /// The file system is read-only. Nothing was written; reads still work.
    #[error("write the database: the file system is read-only")]
    ReadOnly,
    /// One statement failed; the database stays usable.
    #[error("{what}")]
    Sql {
        /// The step that failed.
        what: &'static str,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// A row holds a value that this program cannot read.
    #[error("read {what}: found `{found}`")]
    Row {
        /// The name of the value.
        what: &'static str,
        /// The value, shortened.
        found: String,
    },
    /// A commit or sync failed: nothing more is written, and the process must end.
    #[error("the database has failed: {why}")]
    Failed {
        /// The first failure, with its causes.
        why: Arc<str>,
    },
    /// The owner's queue is full.
    #[error("the database's queue is full")]
    Busy,
    /// The piece of work panicked and was rolled back.
    #[error("a database operation panicked and was rolled back")]
    Panicked,
    #[error("the database is closed")]
    Closed,
}

/// Every failure kind of the database.
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
    help: "A commit did not reach the disk, or the data directory was moved, removed or mounted over under the agent. The process ends and recovers at its next start. Check the disk, and that it is mounted before the agent starts (RequiresMountsFor=).",
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
    /// Returns this error's row of [`KINDS`].
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

    /// Returns whether the caller may be asked to retry later: the work was not done and cannot be
    /// done now.
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

    /// Returns what this node lacks, if that is why.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Prepare(error) => Some(error.fault()),
            Self::Full => Some(Fault::NoSpace),
            Self::ReadOnly => Some(Fault::ReadOnly),
            Self::Open { source, .. } | Self::Sql { source, .. } => fault_of(source),
            Self::InUse { .. }
            | Self::Newer { .. }
            | Self::Foreign { .. }
            | Self::Damaged { .. }
            | Self::Row { .. }
            | Self::Failed { .. }
            | Self::Busy
            | Self::Panicked
            | Self::Closed => None,
        }
    }

    /// Returns whether the database could not be opened.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::Prepare(_))
    }

    /// Returns whether the database's disk is full.
    pub(crate) fn is_full(&self) -> bool {
        self.fault().is_some_and(Fault::is_full)
    }

    /// Returns whether the same work may be accepted a moment later: the disk is full or read-only,
    /// the queue is full, or no descriptor was free to open a connection. The database stays
    /// usable.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Full | Self::ReadOnly | Self::Busy | Self::Open { .. } => true,
            Self::Sql { source, .. } => source.sqlite_error_code() == Some(ErrorCode::CannotOpen),
            _ => false,
        }
    }

    /// Wraps the error of a statement; `what` names the step.
    pub(crate) fn sql(what: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| match fault_of(&source) {
            Some(Fault::NoSpace) => Self::Full,
            Some(Fault::ReadOnly) => Self::ReadOnly,
            _ => Self::Sql {
                what,
                source: Arc::new(source),
            },
        }
    }

    /// Returns whether a statement failed because the disk failed or the file is damaged: then no
    /// further write may be acknowledged.
    pub(crate) fn is_device(&self) -> bool {
        let Self::Sql { source, .. } = self else {
            return false;
        };
        fault_of(source) == Some(Fault::Io)
            || matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            )
    }

    /// Returns whether the system refused a write, as opposed to failing a sync: only a refused
    /// write can be the harmless case of a file system that became read-only.
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

/// Returns what this node lacks, as far as SQLite reports it.
pub(super) fn fault_of(error: &rusqlite::Error) -> Option<Fault> {
    match error.sqlite_error_code()? {
        ErrorCode::DiskFull => Some(Fault::NoSpace),
        ErrorCode::ReadOnly => Some(Fault::ReadOnly),
        ErrorCode::SystemIoFailure => Some(Fault::Io),
        _ => None,
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
        assert!(failure(ffi::SQLITE_FULL).is_full());
        assert_eq!(failure(ffi::SQLITE_READONLY).fault(), Some(Fault::ReadOnly));
        assert_eq!(failure(ffi::SQLITE_IOERR_FSYNC).fault(), Some(Fault::Io));
        assert_eq!(failure(ffi::SQLITE_CORRUPT).fault(), None);
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
