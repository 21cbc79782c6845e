//! Bugs on purpose, to prove that the tests would find them. They exist in debug builds and in those
//! with the feature `failpoints`; in every other build nothing here is left after compilation.
//!
//! `EDGEPUSH_BUG=<name>` enables a [`Bug`], `EDGEPUSH_PANIC=<task>` lets the first run of a task
//! panic.

use std::time::Duration;

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
#[cfg(any(debug_assertions, feature = "failpoints"))]
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
#[cfg(not(any(debug_assertions, feature = "failpoints")))]
#[must_use]
pub const fn is_seeded(_bug: Bug) -> bool {
    false
}

/// Panics if a panic of `task` is seeded and has not happened yet.
#[cfg(any(debug_assertions, feature = "failpoints"))]
pub fn panic_in(task: &str) {
    use std::sync::atomic::{AtomicBool, Ordering};
    static DONE: AtomicBool = AtomicBool::new(false);
    let seeded = std::env::var("EDGEPUSH_PANIC").is_ok_and(|seeded| seeded == task);
    if seeded && !DONE.swap(true, Ordering::Relaxed) {
        panic!("seeded in `{task}`");
    }
}

/// Does nothing.
#[cfg(not(any(debug_assertions, feature = "failpoints")))]
pub const fn panic_in(_task: &str) {}

/// Returns `usual`, or the milliseconds in the variable `name` in a build with failpoints: what
/// takes minutes in life takes seconds in a test.
#[must_use]
pub fn shortened(name: &str, usual: Duration) -> Duration {
    if cfg!(any(debug_assertions, feature = "failpoints")) {
        let stated = std::env::var(name).ok().and_then(|ms| ms.parse().ok());
        return stated.map_or(usual, Duration::from_millis);
    }
    usual
}
