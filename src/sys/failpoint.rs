//! Bugs on purpose, one at a time, to prove that the crash tests would find them: `EDGEPUSH_BUG=<name>` in a binary that was
//! built with the feature `failpoints`. And parts of the work left out, to see what they cost: `EDGEPUSH_WITHOUT=<name>,…`. In
//! every other build [`is_seeded`] and [`is_left_out`] are false before they are compiled.

/// A bug that can be seeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Nothing is synced before it is published.
    NoSync,
    /// The renames of a publication are not synced before they are recorded.
    NoSettle,
    /// `current` is removed before it is made again.
    UnlinkFirst,
    /// Callers are answered before their transaction is committed.
    AnswerBeforeCommit,
    /// A commit is not synced.
    NormalSync,
    /// A sync that failed is tried again, and its second result believed.
    RetrySync,
}

/// Tells whether `bug` is to be committed.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn is_seeded(bug: Bug) -> bool {
    let name = match bug {
        Bug::NoSync => "no-sync",
        Bug::NoSettle => "no-settle",
        Bug::UnlinkFirst => "unlink-first",
        Bug::AnswerBeforeCommit => "answer-before-commit",
        Bug::NormalSync => "normal-sync",
        Bug::RetrySync => "retry-sync",
    };
    std::env::var("EDGEPUSH_BUG").is_ok_and(|seeded| seeded == name)
}

/// A part of the work that can be left out, to measure it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The SHA-256 of every entry.
    EntryDigests,
    /// The list of entries in the manifest.
    Entries,
    /// The archive on its way to the disk, to resume it and to keep it.
    Spool,
    /// The syncs of the database.
    StoreSync,
}

/// Tells whether `part` is to be left out.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn is_left_out(part: Part) -> bool {
    static LEFT_OUT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let name = match part {
        Part::EntryDigests => "entry-digests",
        Part::Entries => "entries",
        Part::Spool => "spool",
        Part::StoreSync => "store-sync",
    };
    LEFT_OUT
        .get_or_init(|| std::env::var("EDGEPUSH_WITHOUT").unwrap_or_default())
        .split(',')
        .any(|left_out| left_out == name)
}

/// Tells whether `part` is to be left out: it is not.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn is_left_out(_part: Part) -> bool {
    false
}

/// Tells whether `bug` is to be committed: it is not.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn is_seeded(_bug: Bug) -> bool {
    false
}
