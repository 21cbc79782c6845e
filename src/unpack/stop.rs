//! Stops all threads of one archive, and keeps the error that caused it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::Error;

/// Set when the work has to end: the caller canceled it, or a part of it failed.
#[derive(Debug, Default)]
pub(super) struct Stop {
    cancel: Arc<AtomicBool>,
    failed: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Stop {
    pub(super) fn new(cancel: &Arc<AtomicBool>) -> Self {
        Self {
            cancel: Arc::clone(cancel),
            ..Self::default()
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.cancel.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn set(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// Records why the work failed; only the first failure is kept.
    pub(super) fn fail(&self, error: Error) {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Takes the recorded failure.
    pub(super) fn take_failure(&self) -> Option<Error> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}
