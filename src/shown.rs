//! What the node shows of itself, once: the store reads its rows into these types, the native API
//! sends them, the command line reads them, and a callback about a job is a view of [`File`].
//!
//! Times are milliseconds since the epoch in UTC and end in `_ms`, lengths are bytes. Nothing here
//! holds a secret. A reader ignores fields that it does not know, so that an older command line can
//! talk to a newer agent; what is here never changes its meaning.

pub mod model;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::datafile::{ArchiveType, Content, DataVersion, Key, SourceUrl};
pub use crate::db::endpoints::EndpointStatus;
pub use crate::db::outbox::Callback;
use crate::job::{EventKind, Failure, JobId, JobState, Published, Reason, Stage};
use crate::wire::push::Via;
use crate::wire::status::Status;

/// A data file in progress or ended: a job, and what is on the disk under its key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Grows with acceptance.
    pub id: JobId,
    #[serde(flatten)]
    pub key: Key,
    /// The same for all files of one push.
    pub push: String,
    pub via: Via,
    pub archive_type: ArchiveType,
    /// What the push stated of the archive.
    pub stated: Content,
    /// The URL without user information and query.
    pub source: String,
    pub timeout_ms: i64,
    /// Whether its version becomes `current` when it is published.
    pub activate: bool,
    pub state: JobState,
    pub status: Status,
    /// The station it is at, or where it ended.
    pub stage: Option<Stage>,
    pub starts: u32,
    /// Requests to the source, over all starts.
    pub attempts: u32,
    /// When a job that waits to retry is due.
    pub not_before_ms: Option<i64>,
    pub cancel_requested: bool,
    pub accepted_ms: i64,
    /// The first start.
    pub started_ms: Option<i64>,
    pub updated_ms: i64,
    pub finished_ms: Option<i64>,
    /// Bytes of the archive that are here.
    pub received: u64,
    /// Length of the archive, 0 while unknown.
    pub total: u64,
    /// Bytes that came over the network, repeated ones included.
    pub fetched: u64,
    /// Files written to staging.
    pub files: u64,
    /// Bytes written to staging.
    pub written: u64,
    /// Why it failed; of a file that is retried or runs again, why the last attempt did.
    pub failure: Option<Failure>,
    /// What a queued file waits for, if it is not about to start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    pub published: Option<Published>,
    /// What is on the disk under this key, whichever job published it.
    pub release: Option<OnDisk>,
    /// The published tree. The API fills it in, the store does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl File {
    /// Returns host and port of its source; empty for a file of this host.
    #[must_use]
    pub fn origin(&self) -> String {
        SourceUrl::parse(&self.source).map_or_else(|_| String::new(), |url| url.origin())
    }
}

/// What is on the disk under a file's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDisk {
    /// Whether it is `current`.
    pub live: bool,
    /// Whether retention must leave it alone.
    pub pinned: bool,
    /// How it differs from its manifest, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// A page of a list of files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Files {
    /// How many files pass the filter, over all pages.
    pub total: u64,
    pub files: Vec<File>,
}

/// A version that is on the disk, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    #[serde(flatten)]
    pub key: Key,
    /// The job that published it.
    pub job: JobId,
    /// Size and digests of its archive.
    pub content: Content,
    /// Files in the tree.
    pub files: u64,
    /// Bytes in the tree's files.
    pub bytes: u64,
    pub published_ms: i64,
    /// When it last became live.
    pub activated_ms: Option<i64>,
    /// Whether it is `current`.
    pub live: bool,
    /// Whether retention must leave it alone.
    pub pinned: bool,
    /// How it differs from its manifest, if it does.
    pub damage: Option<String>,
    /// The tree. The API fills it in, the store does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A change of what is live: done, pending, or refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    pub id: i64,
    /// The version that becomes live.
    #[serde(flatten)]
    pub key: Key,
    /// The version that was live before.
    pub from_version: Option<DataVersion>,
    pub reason: Reason,
    /// Who asked for it: a way in, or an operator.
    pub actor: String,
    /// The push that asked for it.
    pub job: Option<JobId>,
    /// Its turn: greater is later, over all versions of a name.
    pub seq: i64,
    pub requested_ms: i64,
    /// When it happened or was refused; none while it is pending.
    pub done_ms: Option<i64>,
    /// Why it did not happen.
    pub error: Option<String>,
    /// Whether a later turn was taken, so that this one must not happen any more. Not sent.
    #[serde(skip)]
    pub superseded: bool,
}

/// An event of the timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows with time: a follower that comes back names the last one that it has seen.
    pub id: i64,
    pub ts_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// None for an event of the node.
    #[serde(flatten)]
    pub key: Option<Key>,
    #[serde(rename = "type")]
    pub kind: EventKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// A sentence for people.
    pub message: String,
    /// Details for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// The types of callbacks.
pub mod callbacks {
    /// A file was accepted.
    pub const ACCEPTED: &str = "edgepush.file.accepted";
    /// A file is on its way.
    pub const PROGRESS: &str = "edgepush.file.progress";
    /// A version is published.
    pub const PUBLISHED: &str = "edgepush.file.published";
    /// A push of a file has failed, or was cancelled.
    pub const FAILED: &str = "edgepush.file.failed";
    /// A version became live.
    pub const ACTIVATED: &str = "edgepush.file.activated";
    /// An earlier version became live again.
    pub const ROLLED_BACK: &str = "edgepush.file.rolled_back";
    /// A version was removed from the disk.
    pub const REMOVED: &str = "edgepush.file.removed";
    /// A version on the disk was found to differ from its manifest.
    pub const DAMAGED: &str = "edgepush.file.damaged";
    /// A damaged version is whole again without a push.
    pub const HEALED: &str = "edgepush.file.healed";
    /// The agent has started.
    pub const NODE_STARTED: &str = "edgepush.node.started";

    /// Every type.
    pub const TYPES: [&str; 10] = [
        ACCEPTED,
        PROGRESS,
        PUBLISHED,
        FAILED,
        ACTIVATED,
        ROLLED_BACK,
        REMOVED,
        DAMAGED,
        HEALED,
        NODE_STARTED,
    ];
}
