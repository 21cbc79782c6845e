//! How a run ends without a version: maps the errors of fetching, verifying, unpacking and
//! publishing to the failure recorded for the job.

use std::time::Duration;

use crate::datafile::Key;
use crate::fetch;
use crate::job::{Cause, Failure, Stage};
use crate::publish;
use crate::sys::Chain;
use crate::sys::failure::{Class, Fault, Kind, Retry};
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
    help: "The agent ended repeatedly while it worked on this file: check its log for the cause before pushing the file again.",
};
const INTERNAL: Kind = Kind {
    name: "internal",
    class: Class::Device,
    retry: Retry::Transient,
    help: "A defect of the agent, or a machine out of threads: the log has the details; please report it.",
};

const PARTIAL_CHANGED: Kind = Kind {
    name: "partial-changed",
    class: Class::Device,
    retry: Retry::Transient,
    help: "What an earlier run received was changed on the disk: the agent fetches it again from zero. Check the disk.",
};

/// Failure kinds of the delivery itself, in addition to those of its stages.
pub const KINDS: &[Kind] = &[DEADLINE, GAVE_UP, INTERNAL, PARTIAL_CHANGED];

/// How a run ended without a version.
#[derive(Debug)]
pub enum Stop {
    /// The file could not be published.
    Failed {
        failure: Failure,
        /// Whether the bytes themselves are suspect, so that fetching them again from zero may
        /// help.
        doubtful: bool,
        /// How the delivery reacts.
        nature: Nature,
    },
    /// The source failed, and is asked again after `wait`; the spool is kept.
    Later { failure: Failure, wait: Duration },
    /// The run was canceled or the agent is draining; the spool is kept.
    Interrupted,
    /// A thread has closed its end of the queue; that thread's own result replaces this one.
    Closed,
}

/// Distinguishes the failures that the delivery reacts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// The disk is full: delete what was received, it would only take up space.
    DiskFull,
    /// The archive is malformed: it may simply be the wrong bytes.
    Unreadable,
    /// Other archives have the memory for its entries: unpack it when it has arrived.
    Crowded,
    Other,
}

impl Nature {
    fn of(fault: Option<Fault>) -> Self {
        if fault.is_some_and(Fault::is_full) {
            Self::DiskFull
        } else {
            Self::Other
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed {
            failure,
            doubtful: false,
            nature: Nature::Other,
        }
    }
}

impl Stop {
    fn failed(stage: Stage, kind: &Kind, message: String) -> Self {
        Failure::new(stage, kind, message).into()
    }

    fn with(mut self, is: Nature) -> Self {
        if let Self::Failed { nature, .. } = &mut self {
            *nature = is;
        }
        self
    }

    pub(super) fn fetch(error: fetch::Error) -> Self {
        if error.is_canceled() {
            return Self::Interrupted;
        }
        let mut failure = Failure::new(Stage::Fetch, error.kind(), Chain(&error).to_string());
        if let Some((expected, found)) = error.values() {
            (failure.expected, failure.found) = (Some(expected), Some(found));
        }
        failure.detail = error.detail();
        failure.limit = error.limit().map(str::to_owned);
        failure.cause = error.last().map(|last| {
            Box::new(Cause {
                kind: last.kind().name.to_owned(),
                class: last.kind().class,
                message: Chain(last).to_string(),
            })
        });
        Self::from(failure).with(Nature::of(error.fault()))
    }

    pub(super) fn verify(error: verify::Error) -> Self {
        let mut failure = Failure::new(Stage::Verify, error.kind(), Chain(&error).to_string());
        if let Some((expected, found)) = error.values() {
            (failure.expected, failure.found) = (Some(expected), Some(found));
        }
        failure.into()
    }

    /// `space` is the free space of the disk, if that is lower than the configured limit.
    pub(super) fn unpack(error: &unpack::Error, space: Option<u64>) -> Self {
        match error {
            unpack::Error::Canceled => return Self::Interrupted,
            unpack::Error::Crowded => {
                return Self::internal(error.to_string()).with(Nature::Crowded);
            }
            _ => {}
        }
        if let (Some("max_total_bytes"), Some(space)) = (error.limit(), space) {
            let error = publish::Error::TooLarge {
                available: show_bytes(space),
            };
            return Self::failed(Stage::Unpack, error.kind(), error.to_string())
                .with(Nature::DiskFull);
        }
        let mut failure = Failure::new(Stage::Unpack, error.kind(), Chain(error).to_string());
        failure.entry = error.entry().map(str::to_owned);
        failure.limit = error.limit().map(str::to_owned);
        failure.expected = error.expected().map(str::to_owned);
        failure.found = error.found().map(str::to_owned);
        Self::from(failure).with(if error.is_unreadable() {
            Nature::Unreadable
        } else {
            Nature::of(error.fault())
        })
    }

    pub(super) fn spool(error: crate::sys::durable::Error) -> Self {
        let error = publish::Error::Durable(error);
        Self::station(Stage::Fetch, &error)
    }

    pub(super) fn publish(error: publish::Error) -> Self {
        Self::station(Stage::Publish, &error)
    }

    fn station(stage: Stage, error: &publish::Error) -> Self {
        Self::failed(stage, error.kind(), Chain(error).to_string()).with(Nature::of(error.fault()))
    }

    pub(super) fn spool_read(error: std::io::Error) -> Self {
        Self::failed(
            Stage::Fetch,
            &INTERNAL,
            format!("read the spool again: {error}"),
        )
        .doubted(None)
    }

    /// The partial archive on the disk is not what was received.
    pub(super) fn partial_changed() -> Self {
        Self::failed(
            Stage::Fetch,
            &PARTIAL_CHANGED,
            "the partial archive does not match its checksum".to_owned(),
        )
        .doubted(None)
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

    /// The kind of a file whose time limit is over.
    pub const DEADLINE: &str = DEADLINE.name;

    /// The file's time limit expired in `stage`.
    #[must_use]
    pub fn deadline(stage: Stage) -> Self {
        Self::failed(
            stage,
            &DEADLINE,
            format!("the time limit of the file was reached in {stage}"),
        )
    }

    /// The agent was started `starts` times on this file and never finished it.
    #[must_use]
    pub fn gave_up(starts: u32) -> Self {
        Self::failed(
            Stage::Fetch,
            &GAVE_UP,
            format!("gave up after {starts} starts, none of which finished"),
        )
    }

    /// A defect, or a lack of threads.
    #[must_use]
    pub fn internal(message: String) -> Self {
        Self::failed(Stage::Publish, &INTERNAL, message)
    }

    /// Marks the bytes as suspect, and adds what was odd about the response that delivered them.
    pub(super) fn doubted(mut self, suspicion: Option<&fetch::Page>) -> Self {
        if let Self::Failed { doubtful, .. } = &mut self {
            *doubtful = true;
        }
        self.explained(suspicion)
    }

    pub(super) fn explained(mut self, suspicion: Option<&fetch::Page>) -> Self {
        if let (Self::Failed { failure, .. }, Some(page)) = (&mut self, suspicion) {
            failure.message.push_str("; ");
            failure.message.push_str(&page.kind);
            failure.detail.clone_from(&page.text);
        }
        self
    }

    pub(super) fn is(&self, what: Nature) -> bool {
        matches!(self, Self::Failed { nature, .. } if *nature == what)
    }

    /// Returns whether the received bytes are at fault, so that a retry must not reuse them.
    pub(super) fn is_content(&self) -> bool {
        matches!(self, Self::Failed { failure, .. } if failure.class == Class::Content)
    }

    /// Returns the failure; an interruption, which has none, becomes a generic one.
    #[must_use]
    pub fn into_failure(self, stage: Stage) -> Failure {
        match self {
            Self::Failed { failure, .. } | Self::Later { failure, .. } => failure,
            Self::Interrupted | Self::Closed => {
                Failure::new(stage, &INTERNAL, "the work was aborted".to_owned())
            }
        }
    }
}
