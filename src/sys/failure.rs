//! The vocabulary of failures: every station has a table of [`Kind`] and names one in each of its errors.
//! The `name` is for programs and never changes; the texts are for people.

use std::fmt;
use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Who or what is to blame, and so where to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// The push itself is wrong: a bad value, a conflict with what is published.
    Request,
    /// This node's configuration forbids it.
    Policy,
    /// The network to the origin: connect, reset, stall, deadline.
    Network,
    /// The origin responded, but not with the file.
    Origin,
    /// The bytes are not what was announced, or cannot be unpacked.
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
    /// Retry within the file's time limit.
    Transient,
    /// It would fail the same way again.
    Fatal,
}

/// One row of a station's table of failures.
#[derive(Debug)]
pub struct Kind {
    /// Stable name for programs, such as `digest-mismatch`.
    pub name: &'static str,
    pub class: Class,
    pub retry: Retry,
    /// One sentence on what to do.
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

/// What this node lacks when it cannot read or write a file. This is the one place that gives an
/// error of the system such a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The disk or a quota is full.
    NoSpace,
    /// No inode is free. The system reports it as [`Fault::NoSpace`]; only who asks the file
    /// system can tell the two apart.
    NoInodes,
    /// The process or the system has too many open files.
    NoDescriptors,
    /// The file system is mounted read-only.
    ReadOnly,
    /// Anything else.
    Io,
}

impl Fault {
    /// Returns what `error` says about this node.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace,
            Some(Errno::MFILE | Errno::NFILE) => Self::NoDescriptors,
            Some(Errno::ROFS) => Self::ReadOnly,
            _ => Self::Io,
        }
    }

    /// Returns the row of [`FAULTS`].
    #[must_use]
    pub fn kind(self) -> &'static Kind {
        &FAULTS[self as usize]
    }

    /// Returns whether there is no room for more, in bytes or in files.
    #[must_use]
    pub fn is_full(self) -> bool {
        matches!(self, Self::NoSpace | Self::NoInodes)
    }
}

/// The kinds of [`Fault`], which any station that works on files may name.
pub const FAULTS: &[Kind] = &[
    Kind {
        name: "no-space",
        class: Class::Device,
        retry: Retry::Fatal,
        help: "The file system is full or out of inodes, or a quota is used up: free space, lower `publish.keep_versions`, or move the data directory.",
    },
    Kind {
        name: "no-inodes",
        class: Class::Device,
        retry: Retry::Fatal,
        help: "The file system has no inodes left: remove files, or make it with more inodes.",
    },
    Kind {
        name: "no-descriptors",
        class: Class::Device,
        retry: Retry::Transient,
        help: "The process or the system has too many open files: raise `LimitNOFILE`.",
    },
    Kind {
        name: "read-only",
        class: Class::Device,
        retry: Retry::Fatal,
        help: "The file system is mounted read-only, often after an error: check the kernel's log, repair it, and mount it again.",
    },
    Kind {
        name: "io",
        class: Class::Device,
        retry: Retry::Transient,
        help: "The system refused a file operation: the message names path and reason.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_are_told_apart() {
        for (errno, fault, name) in [
            (Errno::NOSPC, Fault::NoSpace, "no-space"),
            (Errno::DQUOT, Fault::NoSpace, "no-space"),
            (Errno::MFILE, Fault::NoDescriptors, "no-descriptors"),
            (Errno::ROFS, Fault::ReadOnly, "read-only"),
            (Errno::IO, Fault::Io, "io"),
        ] {
            assert_eq!(Fault::of(&errno.into()), fault);
            assert_eq!(fault.kind().name, name);
        }
        assert_eq!(Fault::NoInodes.kind().name, "no-inodes");
    }
}
