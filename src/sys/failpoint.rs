//! Bugs on purpose, to prove that the crash tests would find them: `EDGEPUSH_BUG=<name>` in a binary
//! that was built with the feature `failpoints`. In every other build [`is_seeded`] is false before
//! it is compiled.

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

/// Tells whether `bug` is to be committed: it is not.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn is_seeded(_bug: Bug) -> bool {
    false
}
