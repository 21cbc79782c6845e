//! Staging to version directory to `current`; the manifest beside it; how many versions stay.
//!
//! A published tree is never modified. It appears under its final name by one rename, after everything in it has been
//! synced, and becomes live by one more rename of a link. Whatever happens in between, a reader that goes through
//! `current` sees the old version or the new one, whole. All functions block: call them from a blocking thread.

pub mod check;
pub mod layout;
pub mod manifest;
mod names;
pub mod recover;
pub mod release;
pub mod retention;
pub mod space;
pub mod sync;
mod trash;

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::datafile::AppId;
use crate::sys::durable;
use crate::sys::failure::{Class, Fault, Kind, Retry};

pub use layout::Layout;
pub use names::NameLock;
pub use release::{Flip, Link, Publisher, Record, Release, Staging};
pub use sync::Session;

/// How versions are published and kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many good versions of a name stay on the node, the live one included. At least 1; what is pinned and what a
    /// rollback would go to stay beside them.
    pub keep_versions: u32,
    /// Whether the archive as received is kept under `archives/`, so that it can be downloaded and a damaged tree healed.
    pub keep_archives: bool,
    /// Free space that a push never touches; `"0B"` stands for a twentieth of the file system, at most 1 GiB.
    #[serde(with = "crate::sys::units::bytes")]
    pub reserve: u64,
    /// Whether versions are synced to the disk before they are published. Only a throw-away node may turn it off.
    pub durable: bool,
    /// `keep_versions` of single applications, from `[apps]`.
    #[serde(skip)]
    pub apps_keep_versions: BTreeMap<AppId, u32>,
    /// How many bytes all trees of an application may take, and down to how many versions are removed
    /// beyond that; from `[apps]`.
    #[serde(skip)]
    pub apps_bytes: BTreeMap<AppId, (u64, u64)>,
}

impl Config {
    /// Returns how many versions of a name of `app` are kept.
    #[must_use]
    pub fn keep_of(&self, app: &AppId) -> u32 {
        let of_app = self.apps_keep_versions.get(app);
        *of_app.unwrap_or(&self.keep_versions)
    }

    /// Returns the fewest versions that are kept of any name.
    #[must_use]
    pub fn least_kept(&self) -> u32 {
        let of_apps = self.apps_keep_versions.values().copied();
        of_apps.fold(self.keep_versions, u32::min)
    }

    /// Returns how many bytes the trees of `app` may take, and down to how many versions are removed
    /// beyond that.
    #[must_use]
    pub fn bytes_of(&self, app: &AppId) -> Option<(u64, u64)> {
        self.apps_bytes.get(app).copied()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keep_versions: 3,
            keep_archives: true,
            reserve: 0,
            durable: true,
            apps_keep_versions: BTreeMap::new(),
            apps_bytes: BTreeMap::new(),
        }
    }
}

const SYNC: Kind = Kind {
    name: "sync-failed",
    class: Class::Device,
    retry: Retry::Transient,
    help: "The disk did not take what was written. The attempt was thrown away; look at the kernel's log and the disk's health.",
};
const CONFLICT: Kind = Kind {
    name: "version-conflict",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "Another content is published under this version, and a version never changes: push a new version.",
};
const NOT_FOUND: Kind = Kind {
    name: "not-published",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "The version is not on this node: push it first.",
};
const IN_USE: Kind = Kind {
    name: "in-use",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "The version is live, pinned or held open by a program: activate another one, unpin it, or end the program.",
};

/// Every way in which this station fails, besides [`FAULTS`](crate::sys::failure::FAULTS).
pub const KINDS: &[Kind] = &[SYNC, CONFLICT, NOT_FOUND, IN_USE];

/// Why a version could not be published, activated or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    Durable(#[from] durable::Error),
    /// There is not enough room, found out before the first byte.
    #[error(
        "not enough {what} on {path}: {needed} needed, {available} available (reserve {reserve}, {promised} promised to other files)"
    )]
    Admission {
        /// `space` or `inodes`.
        what: &'static str,
        /// The data directory.
        path: String,
        /// What the file needs.
        needed: String,
        /// What may be used.
        available: String,
        /// What is never used.
        reserve: String,
        /// What running files will still use.
        promised: String,
    },
    /// The tree turned out to need more room than there is.
    #[error("not enough space: the tree takes more than the {available} that are available")]
    TooLarge {
        /// What could be used when unpacking began.
        available: String,
    },
    /// A sync failed; nothing of the attempt may be trusted.
    #[error("sync the file system of `{path}`")]
    Sync {
        /// The data directory.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The version directory is there already, with other content.
    #[error(
        "version {key} is there already: {what} of the published one is {published}, of the pushed one {pushed}"
    )]
    Conflict {
        /// Which version.
        key: String,
        /// What differs.
        what: &'static str,
        /// The published value.
        published: String,
        /// The pushed value.
        pushed: String,
    },
    /// There is no such version.
    #[error("version {key} is not published on this node")]
    NotFound {
        /// Which version.
        key: String,
    },
    /// The version must not be removed now.
    #[error("version {key} is in use: {why}")]
    InUse {
        /// Which version.
        key: String,
        /// By what.
        why: &'static str,
    },
    /// A manifest cannot be read.
    #[error("read manifest `{path}`")]
    Manifest {
        /// Its path.
        path: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The directories cannot work together.
    #[error("{0}")]
    Layout(String),
}

impl Error {
    /// Tells whether a manifest is gone or cannot be read as one, as opposed to a system that refuses to read it now.
    pub(crate) fn is_no_manifest(&self) -> bool {
        match self {
            Self::Manifest { .. } => true,
            Self::Durable(e) => e.source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Returns what this node lacks, if that is why.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Admission { .. } | Self::TooLarge { .. } => Some(Fault::NoSpace),
            Self::Durable(e) => Some(e.fault()),
            Self::Sync { source, .. } if Fault::of(source).is_full() => Some(Fault::NoSpace),
            Self::Manifest { .. } | Self::Layout(_) => Some(Fault::Io),
            Self::Sync { .. }
            | Self::Conflict { .. }
            | Self::NotFound { .. }
            | Self::InUse { .. } => None,
        }
    }

    /// Returns the row of [`KINDS`] or of [`FAULTS`](crate::sys::failure::FAULTS).
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        if let Some(fault) = self.fault() {
            return fault.kind();
        }
        match self {
            Self::Conflict { .. } => &CONFLICT,
            Self::NotFound { .. } => &NOT_FOUND,
            Self::InUse { .. } => &IN_USE,
            _ => &SYNC,
        }
    }
}
