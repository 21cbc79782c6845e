//! The contract's result codes and file states.

use serde::{Deserialize, Serialize};

/// The contract's status of a file in a region (docs/ens.md §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Accepted, not ended.
    Pushing,
    /// Published.
    Success,
    /// Ended without being published.
    Failed,
}

impl Status {
    /// Returns the contract's spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pushing => "PUSHING",
            Self::Success => "SUCCESS",
            Self::Failed => "FAILED",
        }
    }
}

/// The contract's answer to one element of a push (docs/ens.md §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResultCode {
    /// 0: accepted now.
    Accepted,
    /// 100: published before; nothing is fetched.
    AlreadyPublished,
    /// 200: accepted before and still in progress.
    InProgress,
    /// 300: refused; the reason is in `ResultDescrip`.
    Refused,
}

impl ResultCode {
    /// Returns the number on the wire.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Accepted => 0,
            Self::AlreadyPublished => 100,
            Self::InProgress => 200,
            Self::Refused => 300,
        }
    }
}
