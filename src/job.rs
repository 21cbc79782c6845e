//! The nouns of a job, which brings one data file to this node: its states and stages, how it
//! ended, and the kinds of events that happen on the way.
//!
//! Pure: no input or output, no clock. Names that are stored or sent never change.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::datafile::{Content, DataFile};
use crate::sys::failure::{Class, Kind, Retry};
use crate::wire::status::Status;

/// The number of a job: unique on a node, never reused, and growing with acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub i64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The stations of the road, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Bytes are arriving. A tar is unpacked into staging meanwhile.
    Fetch,
    /// Size and digests are compared.
    Verify,
    /// The archive is unpacked into staging, or the end of that is awaited.
    Unpack,
    /// The tree is synced, renamed and made live.
    Publish,
}

impl Stage {
    /// Every stage, in road order.
    pub const ALL: [Self; 4] = [Self::Fetch, Self::Verify, Self::Unpack, Self::Publish];

    /// Returns the stable lower-case name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Verify => "verify",
            Self::Unpack => "unpack",
            Self::Publish => "publish",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happened to a job, a file or the node: the types of timeline events, kebab-case wherever
/// they are stored or sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A push of the file was accepted.
    Accepted,
    /// The job was started.
    Started,
    /// How far a running job is.
    Progress,
    /// The fetch resumes after the bytes that are here.
    Resumed,
    /// The source failed, and is asked again after a pause.
    Retrying,
    /// The fetch starts at zero: the source does not have the same bytes any more.
    Restarted,
    /// The bytes are in doubt, and are fetched once more from zero.
    Refetching,
    /// A running job was put back into the queue.
    Requeued,
    /// An operator made a queued job due at once.
    Hurried,
    /// An operator asked to cancel the job.
    CancelRequested,
    /// The job was canceled.
    Canceled,
    /// The job failed.
    Failed,
    /// The version is published.
    Published,
    /// The version became live.
    Activated,
    /// The version became live again by a rollback.
    RolledBack,
    /// A request to make the version live was refused or failed.
    NotActivated,
    /// The version was found on the disk and entered into a rebuilt database.
    Recovered,
    /// The version was removed.
    Removed,
    /// The version was protected from retention.
    Pinned,
    /// The version is no longer protected from retention.
    Unpinned,
    /// The version differs from its manifest.
    Damaged,
    /// The version no longer differs from its manifest.
    Healed,
    /// `current` did not lead to the live version, and was made anew.
    LinkMended,
    /// A type that only a newer agent knows: an older command line shows it all the same.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Where a job stands. `Running` survives a restart as `Queued`: the work starts again from what
/// the disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Accepted, and waiting for a slot or to retry.
    Queued,
    /// Started.
    Running,
    /// Published.
    Succeeded,
    /// Ended without a version; its failure has the reason.
    Failed,
    /// Ended by an operator.
    Canceled,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Canceled,
    ];

    /// Returns the stable lower-case name, as stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// Parses the stored name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// Returns whether the job has ended. A final state is never left: the database refuses it.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Canceled => true,
        }
    }

    /// Returns the contract's status of a file in this state (docs/ens.md §3).
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Queued | Self::Running => Status::Pushing,
            Self::Succeeded => Status::Success,
            Self::Failed | Self::Canceled => Status::Failed,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a version becomes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Its push has ended.
    Push,
    /// It was pushed again while it was published but not live.
    Repush,
    /// An operator asked for it.
    Activate,
    /// An operator asked for the previous version.
    Rollback,
    /// `current` on disk pointed to it, and the disk decides what is live.
    Recover,
}

impl Reason {
    /// Returns the stable lower-case name, as stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Repush => "repush",
            Self::Activate => "activate",
            Self::Rollback => "rollback",
            Self::Recover => "recover",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One accepted data file, as the runner takes it from the store.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: JobId,
    pub file: DataFile,
    /// This start included. A job that ended the agent too often is given up by this count.
    pub starts: u32,
    /// Milliseconds since the epoch.
    pub accepted_ms: i64,
    /// Whether its version becomes `current` when it is published.
    pub activate: bool,
    /// Requests for the file that earlier starts have made.
    pub attempts: u32,
    /// Bytes that came over the network in earlier starts.
    pub fetched: u64,
}

/// Why a job failed, as it is stored, reported and shown. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub stage: Stage,
    /// Stable name for programs; `docs/errors.md` explains each.
    pub kind: String,
    pub class: Class,
    /// Whether pushing the same again may help.
    pub retryable: bool,
    /// A sentence for people: path or host, expected and found.
    pub message: String,
    /// The archive member at fault, escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The configuration key of the limit that was hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// What was expected, where it is a value such as a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
}

impl Failure {
    /// Makes a failure of `kind` at `stage` with `message`.
    #[must_use]
    pub fn new(stage: Stage, kind: &Kind, message: String) -> Self {
        Self {
            stage,
            kind: kind.name.to_owned(),
            class: kind.class,
            retryable: kind.retry == Retry::Transient,
            message,
            entry: None,
            limit: None,
            expected: None,
            found: None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}: {}", self.kind, self.stage, self.message)
    }
}

/// What a job left on the node when it succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Size and digests of the archive, as received.
    pub content: Content,
    /// Files in the tree.
    pub files: u64,
    /// Bytes in the tree's files.
    pub bytes: u64,
    /// Bytes that came over the network, repeated ones included.
    pub fetched: u64,
    /// Whether this version became `current`.
    pub activated: bool,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The version is published.
    Published(Published),
    /// The version is not published; nothing else of it is left.
    Failed(Failure),
    /// An operator canceled it.
    Canceled,
}

impl Outcome {
    /// Returns the final state.
    #[must_use]
    pub fn state(&self) -> JobState {
        match self {
            Self::Published(_) => JobState::Succeeded,
            Self::Failed(_) => JobState::Failed,
            Self::Canceled => JobState::Canceled,
        }
    }
}

/// How far a running job was at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The station that is at work.
    pub stage: Stage,
    /// Attempts at the source that were begun.
    pub attempt: u32,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        for state in JobState::ALL {
            assert_eq!(JobState::parse(state.as_str()), Some(state));
        }
    }

    #[test]
    fn an_event_keeps_its_kind_even_where_it_is_not_known() {
        for (kind, text) in [
            (EventKind::CancelRequested, "cancel-requested"),
            (EventKind::Other("of-tomorrow".to_owned()), "of-tomorrow"),
        ] {
            assert_eq!(kind.to_string(), text);
            let json = serde_json::to_value(&kind).unwrap();
            assert_eq!(json, text);
            assert_eq!(serde_json::from_value::<EventKind>(json).unwrap(), kind);
        }
    }

    #[test]
    fn every_state_has_the_contracts_status() {
        let all: Vec<&str> = JobState::ALL.iter().map(|s| s.status().as_str()).collect();
        assert_eq!(all, ["PUSHING", "PUSHING", "SUCCESS", "FAILED", "FAILED"]);
    }
}
