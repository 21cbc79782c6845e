//! Bugs on purpose, to prove that the crash tests would find them: `EDGEPUSH_BUG=<name>` in a binary
//! that was built with the feature `failpoints`. In every other build [`is_seeded`] is false before
//! it is compiled.

/// A bug that can be seeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Publish without syncing.
    NoSync,
    /// Record a publication before its renames are synced.
    NoSettle,
    /// Remove `current` before it is recreated.
    UnlinkFirst,
    /// Answer callers before their transaction is committed.
    AnswerBeforeCommit,
    /// Commit without syncing.
    NormalSync,
    /// Retry a failed sync, and trust its second result.
    RetrySync,
}

/// Returns whether `bug` is enabled.
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

/// Returns false.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn is_seeded(_bug: Bug) -> bool {
    false
}
