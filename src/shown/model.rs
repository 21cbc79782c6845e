//! Requests and responses of the native API that are not shown alone, in JSON.
//!
//! The agent writes and the command line reads the same types. Times are milliseconds since the
//! epoch in UTC and end in `_ms`; sizes are bytes. A reader ignores unknown fields, so that an
//! older command line works with a newer agent. No field ever changes its meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Activation, Callback, EndpointStatus, Event, File, Release};
use crate::datafile::{AppId, DataName, DataVersion, Key};
use crate::job::JobId;
use crate::wire::status::ResultCode;

/// Most rows of one answer; the next page has what is behind them.
pub const MOST_LISTED: usize = 10_000;

/// The response to a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// The id of the push; none if it made no job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<String>,
    /// One answer per element, in order.
    pub answers: Vec<Answer>,
}

/// The answer to one element of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub name: String,
    pub version: String,
    /// The contract's code: 0, 100, 200 or 300.
    pub code: u16,
    /// The same as a word.
    pub result: Verdict,
    /// The reason, for people.
    pub message: String,
    /// The reason of a refusal, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The job that was made or found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

/// The meaning of an answer's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Accepted,
    AlreadyPublished,
    InProgress,
    Refused,
}

impl From<ResultCode> for Verdict {
    fn from(code: ResultCode) -> Self {
        match code {
            ResultCode::Accepted => Self::Accepted,
            ResultCode::AlreadyPublished => Self::AlreadyPublished,
            ResultCode::InProgress => Self::InProgress,
            ResultCode::Refused => Self::Refused,
        }
    }
}

/// A push and its jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Push {
    pub push: String,
    /// Whether every file has ended.
    pub done: bool,
    /// In the order of the push's elements.
    pub files: Vec<File>,
}

/// A list of events, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Events {
    pub events: Vec<Event>,
}

/// A list of releases, by application, name and age, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Releases {
    pub releases: Vec<Release>,
}

/// A list of activations, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activations {
    pub activations: Vec<Activation>,
}

/// Names a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhichVersion {
    pub app: AppId,
    pub name: DataName,
    pub version: DataVersion,
}

/// The body of `POST /v1/rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhichName {
    pub app: AppId,
    pub name: DataName,
}

/// The body of `POST /v1/pin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    pub app: AppId,
    pub name: DataName,
    pub version: DataVersion,
    /// Whether retention must leave it alone.
    pub pinned: bool,
}

/// Names a job by its number, or the latest one of a version. The body of `POST /v1/retry` and
/// `POST /v1/cancel`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WhichJob {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<DataName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<DataVersion>,
    /// With `POST /v1/cancel`: whether to delete what was received so far.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub drop_partial: bool,
}

impl WhichJob {
    /// Names a job by its number.
    #[must_use]
    pub fn number(job: JobId) -> Self {
        Self {
            job: Some(job),
            ..Self::default()
        }
    }

    /// Names the latest job of a version.
    #[must_use]
    pub fn of(key: Key) -> Self {
        Self {
            app: Some(key.app),
            name: Some(key.name),
            version: Some(key.version),
            ..Self::default()
        }
    }
}

/// The result of an activation or rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    /// The version that is live now.
    #[serde(flatten)]
    pub key: Key,
    /// The version that was live before.
    pub from_version: Option<DataVersion>,
    /// False if it was already live.
    pub changed: bool,
}

/// The result of a cancellation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canceled {
    pub job: JobId,
    /// Whether the job has ended. Otherwise it will at the next point where its work can stop.
    pub ended: bool,
}

/// The result of `POST /v1/retry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    /// The job, which is due now.
    pub job: JobId,
}

/// A version that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    #[serde(flatten)]
    pub key: Key,
    /// Bytes in its files.
    pub bytes: u64,
}

/// What a round of retention removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// The versions that were removed.
    pub removed: Vec<Removed>,
    /// Bytes freed.
    pub freed: u64,
    /// How many partial archives were removed.
    pub swept: u64,
}

/// The body of `POST /v1/verify`: which versions are compared with their manifests. Absent fields
/// do not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WhatToVerify {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<DataName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<DataVersion>,
    /// Whether to repair damaged versions from their kept archives.
    pub heal: bool,
}

/// The result of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// One per version.
    pub trees: Vec<VerifiedTree>,
}

/// The result for one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedTree {
    #[serde(flatten)]
    pub key: Key,
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The first differences; empty if the tree is intact.
    pub damage: Vec<String>,
    /// Whether the damage was repaired.
    #[serde(default)]
    pub healed: bool,
}

/// Endpoints and callbacks, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outbox {
    #[serde(default)]
    pub pending: u64,
    #[serde(default)]
    pub dead: u64,
    #[serde(default)]
    pub endpoints: Vec<EndpointStatus>,
    pub callbacks: Vec<Callback>,
}

/// The body of `POST /v1/outbox/replay`: which callbacks are sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replay {
    /// Only those to this endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Only this one; absent means every one that was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
}

/// How many callbacks will be sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    pub replayed: u64,
}

/// The state of the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub version: String,
    pub region: String,
    /// `ready`, `draining`, or what is wrong.
    pub state: String,
    pub started_ms: i64,
    /// The agent's clock.
    pub now_ms: i64,
    pub data_dir: String,
    /// The address of the ENS endpoint over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_http: Option<String>,
    /// Files by the state of their latest job.
    pub counts: BTreeMap<String, u64>,
    /// The files in progress, with current progress.
    pub running: Vec<File>,
    /// The most recent failures, newest first.
    pub failures: Vec<File>,
    /// Names with a published version.
    pub names: u64,
    /// Published versions.
    pub releases: u64,
    /// Bytes in their files.
    pub bytes: u64,
    pub outbox_pending: u64,
    pub outbox_dead: u64,
    pub disk: Option<Disk>,
    /// When retention last succeeded.
    pub gc_last_success_ms: Option<i64>,
    /// Changed configuration keys that need a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart_needed: Vec<String>,
    #[serde(default)]
    pub workers: Vec<Worker>,
    #[serde(default)]
    pub inbox: Inbox,
    /// Panics of the agent's own tasks since the start.
    #[serde(default)]
    pub panics: u64,
    /// Log lines since the start that standard error did not take.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// What was found on the disk that an operator should know: damage, what a restore left, what
    /// was corrected since the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// What is in the inbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbox {
    /// Documents whose files have not all ended.
    pub in_progress: u64,
    /// Documents whose result cannot be written: the agent retries.
    pub stuck: u64,
    /// Entries that are not documents.
    pub ignored: u64,
    /// The first of them, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_first: Vec<String>,
}

/// Something about the disk that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable name of its kind, such as `recovered` or `set-aside`.
    pub what: String,
    /// The version or name that it is about.
    pub on: String,
    /// What was found, and what to do.
    pub text: String,
}

/// Space on the file system of the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Free bytes.
    pub free: u64,
    /// Size in bytes.
    pub total: u64,
    /// Free inodes; absent if the file system does not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_inodes: Option<u64>,
}

/// Whether the node accepts pushes, and the checks that decide it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    pub ready: bool,
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    /// The result, for people.
    pub detail: String,
}

/// What a worker does now.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    #[default]
    Idle,
    Running,
}

/// Versions done in a round, of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerProgress {
    pub done: u64,
    pub total: u64,
}

/// A background worker, and how its rounds went since the start.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    pub name: String,
    pub state: WorkerState,
    /// Of the running round, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<WorkerProgress>,
    pub errors: u64,
    /// Why the last failed round failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When a round last succeeded, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_ms: Option<i64>,
}
