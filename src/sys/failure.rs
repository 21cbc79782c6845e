//! The common words for what can go wrong: every station lists its failure kinds as a table of [`Kind`], and names one of
//! them in each of its errors. The `name` is for programs and never changes; the texts are for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who or what is to blame, and so where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// The push itself is wrong: a bad value, a conflict with what is published.
    Request,
    /// This node's configuration forbids it.
    Policy,
    /// The way to the origin: connect, reset, stall, deadline.
    Network,
    /// The origin answered, but not with the file.
    Origin,
    /// The bytes are not what was announced, or not what can be unpacked.
    Content,
    /// This node's disk, memory or kernel.
    Device,
}

impl Class {
    /// Returns the stable lower-case name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Policy => "policy",
            Self::Network => "network",
            Self::Origin => "origin",
            Self::Content => "content",
            Self::Device => "device",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether trying the same thing again may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    /// It may pass by itself: try again within the file's time limit.
    Transient,
    /// It will fail the same way again.
    Fatal,
}

/// One row of a station's table of failures.
#[derive(Debug)]
pub struct Kind {
    /// Stable name for programs, such as `digest-mismatch`.
    pub name: &'static str,
    /// Who is to blame.
    pub class: Class,
    /// Whether to try again.
    pub retry: Retry,
    /// One sentence: what to do about it.
    pub help: &'static str,
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
impl Eq for Kind {}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
