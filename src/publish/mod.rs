//! Publishing: from staging to a version directory to `current`, with the manifest next to the
//! tree; and retention.
//!
//! A published tree is never modified. It appears under its final name by one rename, after
//! everything in it has been synced, and goes live by one more rename of a link. Whatever happens
//! in between, a reader that goes through `current` sees the old version or the new one, complete.
//! All functions block: call them from a blocking thread.

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
mod walk;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::datafile::AppId;
use crate::sys::durable;
use crate::sys::failure::{Class, Fault, Kind, Retry};

pub use layout::Layout;
pub use names::NameLock;
pub use release::{Flip, Publisher, Record, Release, Staging, Standing};
pub use sync::Session;

/// How versions are published and retained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many good versions of a name retention keeps, the live one included; at least 1. Pinned
    /// versions and the rollback target are kept in addition.
    pub keep_versions: u32,
    /// How long a version that was live stays after another one took its place: programs that are in
    /// it can end or follow. Removal by hand does not wait.
    #[serde(with = "crate::sys::units::duration")]
    pub keep_for: Duration,
    /// Whether archives are retained under `archives/`: they can then be downloaded, and damaged
    /// trees repaired from them.
    pub keep_archives: bool,
    /// Free space that a push never uses; `"0B"` means a twentieth of the file system, at most 1
    /// GiB.
    #[serde(with = "crate::sys::units::bytes")]
    pub reserve: u64,
    /// Whether versions are synced to disk before they are published. Turn it off only on
    /// throw-away nodes.
    pub durable: bool,
    /// Overrides of `keep_versions` per application, from `[apps]`.
    #[serde(skip)]
    pub apps_keep_versions: BTreeMap<AppId, u32>,
    /// Per application, the size limit of all its trees, and the size that retention shrinks them
    /// to once they exceed it; from `[apps]`.
    #[serde(skip)]
    pub apps_bytes: BTreeMap<AppId, (u64, u64)>,
}

impl Config {
    /// Returns how many versions of a name of `app` are retained.
    #[must_use]
    pub fn keep_of(&self, app: &AppId) -> u32 {
        let of_app = self.apps_keep_versions.get(app);
        *of_app.unwrap_or(&self.keep_versions)
    }

    /// Returns the smallest number of versions retained for any name.
    #[must_use]
    pub fn least_kept(&self) -> u32 {
        let of_apps = self.apps_keep_versions.values().copied();
        of_apps.fold(self.keep_versions, u32::min)
    }

    /// Returns the size limit of the trees of `app`, and the size that retention shrinks them to.
    #[must_use]
    pub fn bytes_of(&self, app: &AppId) -> Option<(u64, u64)> {
        self.apps_bytes.get(app).copied()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keep_versions: 3,
            keep_for: Duration::from_secs(600),
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
    help: "The disk did not accept the data, and the attempt was discarded: check the kernel's log and the disk's health.",
};
const CONFLICT: Kind = Kind {
    name: "version-conflict",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "Different content is already published under this version, and a version never changes: push a new version.",
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
    help: "The version is live, pinned or held open by a program: activate another version, unpin it, or end the program.",
};

/// Every failure kind of this module, in addition to [`FAULTS`](crate::sys::failure::FAULTS).
pub const KINDS: &[Kind] = &[SYNC, CONFLICT, NOT_FOUND, IN_USE];

/// Why a version could not be published, activated or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Durable(#[from] durable::Error),
    /// Too little free space, detected before the first byte was fetched.
    #[error(
        "not enough {what} on {path}: {needed} needed, {available} available (reserve {reserve}, {promised} promised to other files)"
    )]
    Admission {
        /// `space` or `inodes`.
        what: &'static str,
        /// The data directory.
        path: String,
        needed: String,
        /// Free, without the reserve and the reservations of other files.
        available: String,
        reserve: String,
        /// Reserved for other running files.
        promised: String,
    },
    /// The tree needed more space than there was.
    #[error("not enough space: the tree needs more than the {available} available")]
    TooLarge {
        /// When unpacking began.
        available: String,
    },
    /// A sync failed: nothing written in this attempt can be trusted.
    #[error("sync the file system of `{path}`")]
    Sync {
        /// The data directory.
        path: String,
        #[source]
        source: io::Error,
    },
    /// This version is already published, with different content.
    #[error(
        "version {key} is already published with {what} {published}, but this push has {what} {pushed}"
    )]
    Conflict {
        key: String,
        /// The property that differs.
        what: &'static str,
        published: String,
        pushed: String,
    },
    #[error("version {key} is not published on this node")]
    NotFound { key: String },
    /// Removing the version is not allowed now.
    #[error("version {key} is in use: {why}")]
    InUse {
        key: String,
        /// What uses it.
        why: String,
    },
    /// A manifest is missing or malformed.
    #[error("read manifest `{path}`")]
    Manifest {
        path: String,
        #[source]
        source: serde_json::Error,
    },
    /// The data directory cannot be used as it is.
    #[error("{0}")]
    Layout(String),
}

impl Error {
    /// Returns whether a manifest is missing or malformed, rather than temporarily unreadable.
    pub(crate) fn is_no_manifest(&self) -> bool {
        match self {
            Self::Manifest { .. } => true,
            Self::Durable(e) => e.source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Returns the resource that ran out on this node, if that is the cause.
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

    /// Returns this error's row of [`KINDS`] or of [`FAULTS`](crate::sys::failure::FAULTS).
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
