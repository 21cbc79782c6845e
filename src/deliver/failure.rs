//! How a run ends without a version: what each station's error means for the job.

use crate::datafile::Key;
use crate::fetch;
use crate::job::{Failure, Stage};
use crate::publish;
use crate::sys::Chain;
use crate::sys::failure::{Class, Kind, Retry};
use crate::sys::units::show_bytes;
use crate::unpack;
use crate::verify;

const DEADLINE: Kind = Kind {
    name: "deadline",
    class: Class::Network,
    retry: Retry::Transient,
    help: "The file's time limit was reached: push it again, with a larger `timeout` or from a nearer origin.",
};
const GAVE_UP: Kind = Kind {
    name: "gave-up",
    class: Class::Device,
    retry: Retry::Fatal,
    help: "The agent ended again and again while it worked on this file: look at its log for the reason before pushing it again.",
};
const INTERNAL: Kind = Kind {
    name: "internal",
    class: Class::Device,
    retry: Retry::Transient,
    help: "A defect of the agent, or a machine out of threads: the log says more; please report it.",
};

/// The failures of the road itself, beside those of its stations.
pub const KINDS: &[Kind] = &[DEADLINE, GAVE_UP, INTERNAL];

/// How a run ended without a version.
#[derive(Debug)]
pub enum Stop {
    /// The file cannot be published.
    Failed {
        /// Why.
        failure: Failure,
        /// Whether the bytes themselves are in doubt, so that fetching them once more from zero may help.
        doubtful: bool,
    },
    /// The run was canceled or the agent is draining; the spool is kept.
    Interrupted,
    /// A thread has closed its end; what it says replaces this.
    Closed,
}

impl Stop {
    fn failed(stage: Stage, kind: &Kind, message: String) -> Self {
        Self::Failed {
            failure: Failure::new(stage, kind, message),
            doubtful: false,
        }
    }

    pub(super) fn fetch(error: fetch::Error) -> Self {
        if error.is_canceled() {
            return Self::Interrupted;
        }
        let mut failure = Failure::new(Stage::Fetch, error.kind(), Chain(&error).to_string());
        if let Some((expected, found)) = error.values() {
            (failure.expected, failure.found) = (Some(expected), Some(found));
        }
        Self::Failed {
            failure,
            doubtful: false,
        }
    }

    pub(super) fn verify(error: verify::Error) -> Self {
        let mut failure = Failure::new(Stage::Verify, error.kind(), Chain(&error).to_string());
        if let Some((expected, found)) = error.values() {
            (failure.expected, failure.found) = (Some(expected), Some(found));
        }
        Self::Failed {
            failure,
            doubtful: false,
        }
    }

    /// `room` is what the disk has room for, where that is less than the configuration allows.
    pub(super) fn unpack(error: &unpack::Error, room: Option<u64>) -> Self {
        if matches!(error, unpack::Error::Canceled) {
            return Self::Interrupted;
        }
        if let (Some("max_total_bytes"), Some(room)) = (error.limit(), room) {
            let error = publish::Error::TooLarge {
                available: show_bytes(room),
            };
            return Self::failed(Stage::Unpack, error.kind(), error.to_string());
        }
        let mut failure = Failure::new(Stage::Unpack, error.kind(), Chain(error).to_string());
        failure.entry = error.entry().map(str::to_owned);
        failure.limit = error.limit().map(str::to_owned);
        failure.expected = error.expected().map(str::to_owned);
        failure.found = error.found().map(str::to_owned);
        Self::Failed {
            failure,
            doubtful: false,
        }
    }

    pub(super) fn spool(error: crate::sys::durable::Error) -> Self {
        let error = publish::Error::Durable(error);
        Self::failed(Stage::Fetch, error.kind(), Chain(&error).to_string())
    }

    pub(super) fn publish(error: publish::Error) -> Self {
        Self::failed(Stage::Publish, error.kind(), Chain(&error).to_string())
    }

    pub(super) fn spool_read(error: std::io::Error) -> Self {
        let failure = Failure::new(
            Stage::Fetch,
            &INTERNAL,
            format!("read the spool again: {error}"),
        );
        Self::Failed {
            failure,
            doubtful: true,
        }
    }

    pub(super) fn conflict(
        key: &Key,
        what: &'static str,
        published: String,
        pushed: String,
    ) -> Self {
        Self::publish(publish::Error::Conflict {
            key: key.to_string(),
            what,
            published,
            pushed,
        })
    }

    /// The file's time limit was reached in `stage`.
    #[must_use]
    pub fn deadline(stage: Stage) -> Self {
        Self::failed(
            stage,
            &DEADLINE,
            format!("the time limit of the file was reached in {stage}"),
        )
    }

    /// The agent was started `starts` times on this file and never ended it.
    #[must_use]
    pub fn gave_up(starts: u32) -> Self {
        Self::failed(
            Stage::Fetch,
            &GAVE_UP,
            format!("gave up after {starts} starts, none of which came to an end"),
        )
    }

    /// Something that should not happen.
    #[must_use]
    pub fn internal(message: String) -> Self {
        Self::failed(Stage::Publish, &INTERNAL, message)
    }

    /// Notes that the bytes are in doubt, and what was odd about the answer that brought them.
    pub(super) fn doubted(self, suspicion: Option<&str>) -> Self {
        match self.explained(suspicion) {
            Self::Failed { failure, .. } => Self::Failed {
                failure,
                doubtful: true,
            },
            other => other,
        }
    }

    pub(super) fn explained(mut self, suspicion: Option<&str>) -> Self {
        if let (Self::Failed { failure, .. }, Some(suspicion)) = (&mut self, suspicion) {
            failure.message.push_str("; ");
            failure.message.push_str(suspicion);
        }
        self
    }

    /// Tells whether the disk is full, or out of inodes.
    pub(super) fn is_no_space(&self) -> bool {
        matches!(self, Self::Failed { failure, .. } if matches!(failure.kind.as_str(), "no-space" | "no-inodes"))
    }

    /// Tells whether what arrived is to blame, so that it is of no use for a later try.
    pub(super) fn is_content(&self) -> bool {
        matches!(self, Self::Failed { failure, .. } if failure.class == Class::Content)
    }

    /// Tells whether the archive cannot be read as one, which a damaged or different one cannot either.
    pub(super) fn is_unreadable(&self) -> bool {
        let Self::Failed { failure, .. } = self else {
            return false;
        };
        failure.kind.starts_with("gzip-")
            || matches!(
                failure.kind.as_str(),
                "not-an-archive" | "truncated" | "checksum" | "tar-eof" | "pax-malformed"
            )
    }

    /// Returns the failure; an interruption has none of its own and becomes a plain one.
    #[must_use]
    pub fn into_failure(self, stage: Stage) -> Failure {
        match self {
            Self::Failed { failure, .. } => failure,
            Self::Interrupted | Self::Closed => {
                Failure::new(stage, &INTERNAL, "the work was broken off".to_owned())
            }
        }
    }
}
