//! The entries of a tree: what an archive becomes, and what the manifest of a version records.

use super::Sha256;

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path below the root: bytes, components joined by single slashes.
    pub path: Vec<u8>,
    /// Permission bits, as on disk.
    pub mode: u32,
    /// Modification time from the archive; `None` for a directory that is only implied.
    pub mtime: Option<Mtime>,
    pub kind: EntryKind,
}

/// The kind of an [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    Dir,
    File {
        size: u64,
        /// Digest of the content; `None` if the tree was only checked.
        sha256: Option<Sha256>,
        /// The path of the entry that this one is a hard link to; not recorded in manifests.
        link_to: Option<Vec<u8>>,
    },
    /// A symbolic link that stays inside the tree.
    Symlink {
        /// Its target, as in the archive.
        target: Vec<u8>,
    },
}

/// A modification time: seconds since the epoch, negative before it, plus nanoseconds, which
/// manifests do not record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mtime {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// Nanoseconds to add, below 10^9.
    pub nanos: u32,
}
