//! Why a push, or an element of it, is refused.

use crate::admission::{INVALID_ITEM, VERSION_CONFLICT};
use crate::datafile::AppId;
use crate::store;
use crate::sys::failure::{Class, Kind, Retry};

/// Why a whole push is refused. Nothing of it was recorded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The application is not in `intake.apps`.
    #[error("AppId `{app}` is not known here")]
    UnknownApp { app: AppId },
    /// The strategy does not select the region of this node.
    #[error("the strategy does not select this node's region `{region}`")]
    NotSelected { region: String },
    /// The push has too many elements.
    #[error("the push has {count} elements, at most {max} are accepted (intake.max_items)")]
    TooMany { count: usize, max: usize },
    /// The push cannot be recorded now: the disk is full, or the agent is stopping. Push again
    /// later.
    #[error("record the push")]
    Unavailable(#[source] store::Error),
    /// The push cannot be recorded.
    #[error("record the push")]
    Store(#[source] store::Error),
}

/// The intake's refusals by stable name: of a push, and of one element.
pub const KINDS: &[Kind] = &[
    UNKNOWN_APP,
    NOT_SELECTED,
    TOO_MANY,
    TOO_MANY_OPEN,
    INVALID_ITEM,
    VERSION_CONFLICT,
];

const UNKNOWN_APP: Kind = Kind {
    name: "unknown-app",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "Add the application to `intake.apps`, or push under an application that is there.",
};
const NOT_SELECTED: Kind = Kind {
    name: "region-not-selected",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "The push strategy names other regions than `intake.region` of this node.",
};
const TOO_MANY: Kind = Kind {
    name: "too-many-elements",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "Split the push, or raise `intake.max_items`.",
};
/// The queue is full.
pub(super) const TOO_MANY_OPEN: Kind = Kind {
    name: "too-many-open-jobs",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "Push again when some of the waiting files have ended, or raise `intake.max_open_jobs` or `intake.max_open_jobs_per_app`.",
};
impl Error {
    /// Returns the row of [`KINDS`], or of the store's, that this error belongs to.
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        match self {
            Self::UnknownApp { .. } => &UNKNOWN_APP,
            Self::NotSelected { .. } => &NOT_SELECTED,
            Self::TooMany { .. } => &TOO_MANY,
            Self::Unavailable(source) | Self::Store(source) => source.kind(),
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        if error.is_unavailable() {
            Self::Unavailable(error)
        } else {
            Self::Store(error)
        }
    }
}
