//! What the native API says in JSON: the one spelling that the agent writes and the command line reads.
//!
//! Times are milliseconds since the epoch in UTC and end in `_ms`, lengths are bytes. A reader ignores what it does not
//! know, so that an older command line goes on talking to a newer agent; what is here never changes its meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Activation, Event, File, Release};
use crate::datafile::{AppId, DataName, DataVersion, Key};
use crate::job::JobId;
use crate::wire::status::ResultCode;

/// The answer to a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// The push's id; none when it wrote no job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<String>,
    /// One answer per element, in their order.
    pub answers: Vec<Answer>,
}

/// The answer to one element of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The name as it was stated.
    pub name: String,
    /// The version as it was stated.
    pub version: String,
    /// The contract's code: 0, 100, 200 or 300.
    pub code: u16,
    /// What that means: `accepted`, `already-published`, `in-progress` or `refused`.
    pub result: Verdict,
    /// Why, for people.
    pub message: String,
    /// Why it was refused, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The job that was written or found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

/// What an answer's code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// 0.
    Accepted,
    /// 100.
    AlreadyPublished,
    /// 200.
    InProgress,
    /// 300.
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

/// How a push stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Push {
    /// Its id.
    pub push: String,
    /// Whether every file of it has ended.
    pub done: bool,
    /// Its files, in the order of its elements.
    pub files: Vec<File>,
}

/// A list of events, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// The events.
    pub events: Vec<Event>,
}

/// A list of releases, by application, name and age, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Releases {
    /// The releases.
    pub releases: Vec<Release>,
}

/// The log of what became live, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activations {
    /// The changes.
    pub activations: Vec<Activation>,
}

/// Which version: the body of what is asked of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhichVersion {
    /// The application.
    pub app: AppId,
    /// The name.
    pub name: DataName,
    /// The version.
    pub version: DataVersion,
}

/// Which name: the body of `POST /v1/rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhichName {
    /// The application.
    pub app: AppId,
    /// The name.
    pub name: DataName,
}

/// The body of `POST /v1/pin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The application.
    pub app: AppId,
    /// The name.
    pub name: DataName,
    /// The version.
    pub version: DataVersion,
    /// Whether retention must leave it alone.
    pub pinned: bool,
}

/// Which job: by its number, or the one at work at a version. The body of `POST /v1/retry`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WhichJob {
    /// Its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Or the application,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    /// the name,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<DataName>,
    /// and the version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<DataVersion>,
    /// With `POST /v1/cancel`: whether what was received so far is thrown away too.
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

    /// Names the job at work at a version.
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

/// What became of a wish to make a version live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    /// Application, name and the version that is live now.
    #[serde(flatten)]
    pub key: Key,
    /// The version that was live before.
    pub from_version: Option<DataVersion>,
    /// False when it was live already.
    pub changed: bool,
}

/// What became of a wish to cancel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canceled {
    /// The job.
    pub job: JobId,
    /// Whether it has ended; otherwise it will as soon as the station at work looks up.
    pub ended: bool,
}

/// A job that something was done with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    /// The job that is due now.
    pub job: JobId,
}

/// What a removal freed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Application, name and version.
    #[serde(flatten)]
    pub key: Key,
    /// Bytes in its files.
    pub bytes: u64,
}

/// What retention has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// The versions that were removed.
    pub removed: Vec<Removed>,
    /// Bytes that were freed, left-overs included.
    pub freed: u64,
    /// Left-overs of staging and spool that were removed.
    pub swept: u64,
}

/// The body of `POST /v1/verify`: what is compared with its manifest; what is absent does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WhatToVerify {
    /// Of this application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    /// With this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<DataName>,
    /// With this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<DataVersion>,
    /// Whether what is damaged is unpacked again from its kept archive.
    pub heal: bool,
}

/// What comparing trees with their manifests has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// One per version that was looked at.
    pub trees: Vec<VerifiedTree>,
}

/// What comparing one tree with its manifest has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedTree {
    /// Application, name and version.
    #[serde(flatten)]
    pub key: Key,
    /// Files that were read.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is wrong, at most the first few; empty when the tree is whole.
    pub damage: Vec<String>,
    /// Whether the damage that was found is healed.
    #[serde(default)]
    pub healed: bool,
}

/// A callback that waits, was delivered, or was given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Callback {
    /// Its number.
    pub id: i64,
    /// To which endpoint.
    pub endpoint: String,
    /// The same on each attempt at the receiver.
    pub webhook_id: String,
    /// What it tells, such as `edgepush.file.published`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `pending`, `delivered` or `dead`.
    pub state: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it happened.
    pub created_ms: i64,
    /// When it was delivered or given up.
    pub settled_ms: Option<i64>,
    /// In how many milliseconds it is due; none while an earlier one of its file waits.
    pub due_in_ms: Option<i64>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The job it tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

/// Who is told, and callbacks, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outbox {
    /// How many wait.
    #[serde(default)]
    pub pending: u64,
    /// How many were given up.
    #[serde(default)]
    pub dead: u64,
    /// Who is told, and how that goes.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// The callbacks.
    pub callbacks: Vec<Callback>,
}

/// Someone who is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// Scheme, host and port of its URL.
    pub target: String,
    /// Whether it has said that it wants no more.
    pub disabled: bool,
    /// Attempts that failed since the last that did not.
    pub failures: u32,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When one last succeeded.
    pub last_success_ms: Option<i64>,
    /// How many callbacks wait for it.
    pub pending: u64,
    /// How many were given up.
    pub dead: u64,
}

/// The body of `POST /v1/outbox/replay`: which callbacks are sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replay {
    /// Of this endpoint only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// This one only; else every one that was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
}

/// How many callbacks will be sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// How many.
    pub replayed: u64,
}

/// The node at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The agent's version.
    pub version: String,
    /// Its region.
    pub region: String,
    /// `ready`, `draining`, or what is wrong.
    pub state: String,
    /// When it was started.
    pub started_ms: i64,
    /// Its clock.
    pub now_ms: i64,
    /// Where everything is kept.
    pub data_dir: String,
    /// The address of the ENS endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_http: Option<String>,
    /// Files by the state of their latest job.
    pub counts: BTreeMap<String, u64>,
    /// The files at work, with live progress.
    pub running: Vec<File>,
    /// The files that failed last, newest first.
    pub failures: Vec<File>,
    /// Names with a version on the disk.
    pub names: u64,
    /// Versions on the disk.
    pub releases: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Callbacks that wait.
    pub outbox_pending: u64,
    /// Callbacks that were given up.
    pub outbox_dead: u64,
    /// Room on the disk.
    pub disk: Option<Disk>,
    /// When retention last succeeded.
    pub gc_last_success_ms: Option<i64>,
    /// Keys of the configuration that were changed since the start and that only a restart takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart_needed: Vec<String>,
    /// What the background workers do, and how their rounds went since the start.
    #[serde(default)]
    pub workers: Vec<Worker>,
}

/// Room on the file system that holds everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Bytes that may still be written.
    pub free: u64,
    /// Size in bytes.
    pub total: u64,
    /// Inodes left; absent where they are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_inodes: Option<u64>,
}

/// Whether the node takes pushes, and each thing that decides it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether it takes pushes.
    pub ready: bool,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// One thing that decides whether the node takes pushes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it is all right.
    pub ok: bool,
    /// How it is, for people.
    pub detail: String,
}

/// What a worker does now.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// It waits for its next round.
    #[default]
    Idle,
    /// A round is running.
    Running,
}

/// How far a round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerProgress {
    /// Versions.
    pub done: u64,
    /// Versions.
    pub total: u64,
}

/// What a worker does now, and how its rounds went since the start.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    pub name: String,
    pub state: WorkerState,
    /// How far the running round is, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<WorkerProgress>,
    /// Rounds that failed.
    pub errors: u64,
    /// How the last failed round failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When a round last succeeded, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_ms: Option<i64>,
}
