//! What the API asks of the agent because it takes more than the store: work on the trees themselves.
//!
//! The agent takes [`Command`]s from a channel and answers each on its own line. What only changes rows (activate, roll
//! back, cancel, pin) goes through the store, where the runner finds it, even after a crash.

use tokio::sync::oneshot;

use super::model::{Collected, Removed, Verified, WhatToVerify};
use crate::datafile::Key;
use crate::job::JobId;

/// Where an answer goes. Whoever asked may be gone.
pub type Reply<T> = oneshot::Sender<Result<T, Denied>>;

/// Something to be done by the agent.
#[derive(Debug)]
pub enum Command {
    /// Remove a version from the disk. The live version is never removed.
    Remove {
        /// Which.
        key: Key,
        /// Where the answer goes.
        reply: Reply<Removed>,
    },
    /// Run retention now.
    Collect {
        /// Where the answer goes.
        reply: Reply<Collected>,
    },
    /// Make `current` lead to a version that is recorded as live.
    RestoreLink {
        /// Which.
        key: Key,
        /// Where the answer goes.
        reply: Reply<()>,
    },
    /// Compare trees with their manifests.
    Verify {
        /// Which.
        what: WhatToVerify,
        /// Where the answer goes.
        reply: Reply<Verified>,
    },
    /// Throw away what was received for a job that has ended.
    DropPartial {
        /// Which.
        job: JobId,
        /// Where the answer goes.
        reply: Reply<()>,
    },
}

/// Why the agent did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// Not as things stand: the version is live, or pinned, or at work.
    #[error("{0}")]
    Conflict(String),
    /// It was tried and went wrong.
    #[error("{0}")]
    Failed(String),
}
