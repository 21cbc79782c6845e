//! The nouns of a job, which brings one data file to this node: its states and stages, how it
//! ended, and the kinds of its events.
//!
//! Pure: no I/O, no clock. Names that are stored or sent never change.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::datafile::{Content, DataFile};
use crate::sys::failure::{Class, Kind, Retry};
use crate::wire::status::Status;

/// The number of a job: unique on a node, never reused, increasing in order of acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub i64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The stages of a delivery, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Bytes are arriving. A tar is unpacked into staging at the same time.
    Fetch,
    /// Size and digests are compared.
    Verify,
    /// The archive is unpacked into staging; for a tar, what is left of it.
    Unpack,
    /// The tree is synced, renamed and made live.
    Publish,
}

impl Stage {
    /// All stages, in order.
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

/// The types of timeline events: what happened to a job, a file or the node. Kebab-case wherever
/// they are stored or sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    Accepted,
    Started,
    /// The progress of a running job.
    Progress,
    /// The fetch resumes after the bytes received earlier.
    Resumed,
    /// The source failed and will be retried after a pause.
    Retrying,
    /// The fetch restarts at zero: the source no longer has the same bytes.
    Restarted,
    /// The bytes failed verification and are fetched once more from zero.
    Refetching,
    Requeued,
    /// An operator made a queued job due immediately.
    Hurried,
    CancelRequested,
    Canceled,
    Failed,
    Published,
    /// The version went live.
    Activated,
    /// The version went live again by a rollback.
    RolledBack,
    /// A request to make the version live was refused or failed.
    NotActivated,
    /// The version was found on disk and added to a rebuilt database.
    Recovered,
    /// The version was removed.
    Removed,
    /// The version was protected from retention.
    Pinned,
    Unpinned,
    /// The version differs from its manifest.
    Damaged,
    /// The version matches its manifest again.
    Healed,
    /// `current` did not point to the live version and was corrected.
    LinkMended,
    /// A type introduced by a newer agent: an older command line still shows it.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The state of a job. After a restart, `Running` becomes `Queued`: the work starts again from what
/// is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Accepted, and waiting for its turn.
    Queued,
    /// An attempt failed; the next one is due later.
    Retrying,
    Running,
    Succeeded,
    /// Ended without a version; its failure has the reason.
    Failed,
    /// Ended by an operator.
    Canceled,
}

impl JobState {
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Retrying,
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
            Self::Retrying => "retrying",
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

    /// Returns whether the job has ended. A final state never changes: the database refuses it.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Retrying | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Canceled => true,
        }
    }

    /// Returns the contract's status of a file in this state (docs/ens.md §3).
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Queued | Self::Retrying | Self::Running => Status::Pushing,
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

/// Why a version goes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Its push succeeded.
    Push,
    /// It was pushed again while published but not live.
    Repush,
    /// An operator requested it.
    Activate,
    /// An operator requested the previous version.
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

/// One accepted data file, as the store hands it to the runner.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: JobId,
    pub file: DataFile,
    /// Including this one. A job whose starts kept ending with the agent's death is given up by
    /// this count.
    pub starts: u32,
    /// Milliseconds since the epoch.
    pub accepted_ms: i64,
    /// Whether the version becomes `current` when published.
    pub activate: bool,
    /// Requests for the file made by earlier starts.
    pub attempts: u32,
    /// Bytes received over the network by earlier starts.
    pub fetched: u64,
    /// The part of its time limit that earlier starts have used.
    pub spent: Duration,
    /// Why the attempt before failed.
    pub failure: Option<Failure>,
}

/// Why a job failed, as stored, reported and shown. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub stage: Stage,
    /// Stable name for programs; `docs/errors.md` explains each.
    pub kind: String,
    pub class: Class,
    /// Whether pushing the same again may help.
    pub retryable: bool,
    /// A sentence for people: path or host, expected and found. Whoever may ask for the job's state
    /// may read it, so it has nothing that only this node could read.
    pub message: String,
    /// What the source said instead of sending the file. Leaves this node only over the unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The archive member at fault, escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The configuration key of the exceeded limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Set if it is a value, such as a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// What failed last before the file's time was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Box<Cause>>,
}

/// The failure behind another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    pub kind: String,
    pub class: Class,
    pub message: String,
}

impl From<&Failure> for Cause {
    fn from(failure: &Failure) -> Self {
        Self {
            kind: failure.kind.clone(),
            class: failure.class,
            message: failure.message.clone(),
        }
    }
}

impl Failure {
    #[must_use]
    pub fn new(stage: Stage, kind: &Kind, message: String) -> Self {
        Self {
            stage,
            kind: kind.name.to_owned(),
            class: kind.class,
            retryable: kind.retry == Retry::Transient,
            message,
            detail: None,
            entry: None,
            limit: None,
            expected: None,
            found: None,
            cause: None,
        }
    }

    /// Returns what others than the operator of this node may know: not the text of a response, and no
    /// digest of what only this node can read. A length may be told.
    #[must_use]
    pub fn for_others(&self) -> Self {
        let is_length =
            |text: &String| text.trim_start_matches("more than ").parse::<u64>().is_ok();
        Self {
            detail: None,
            found: self.found.clone().filter(is_length),
            ..self.clone()
        }
    }

    /// Returns the message with everything that the operator of this node may know, for the log.
    #[must_use]
    pub fn in_full(&self) -> String {
        let mut text = self.message.clone();
        if let Some(found) = self.found.as_ref().filter(|found| !text.contains(*found)) {
            text = format!("{text}, found {found}");
        }
        if let Some(detail) = &self.detail {
            text = format!("{text}; {detail}");
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}: {}", self.kind, self.stage, self.message)
    }
}

/// What a successful job left on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Of the archive as received.
    pub content: Content,
    /// In the tree.
    pub files: u64,
    /// In the tree's files.
    pub bytes: u64,
    /// Bytes received over the network, repeated ones included.
    pub fetched: u64,
    /// Whether this version became `current`.
    pub activated: bool,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Published(Published),
    /// Not published; nothing of the attempt is left.
    Failed(Failure),
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

/// The progress of a running job at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub stage: Stage,
    /// Attempts at the source started so far.
    pub attempt: u32,
    /// Bytes of the archive received.
    pub received: u64,
    /// Length of the archive, 0 while unknown.
    pub total: u64,
    /// Bytes received over the network, repeated ones included.
    pub fetched: u64,
    /// Written to staging.
    pub files: u64,
    /// Bytes written to staging.
    pub written: u64,
    /// How much of the file's time limit is used, in milliseconds. Not shown.
    #[serde(skip)]
    pub spent_ms: u64,
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
        assert_eq!(
            all,
            [
                "PUSHING", "PUSHING", "PUSHING", "SUCCESS", "FAILED", "FAILED"
            ]
        );
    }
}
