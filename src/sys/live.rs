//! A value that a reload replaces: new work takes the latest, running work keeps the one it has.

use std::sync::Arc;

use tokio::sync::watch;

/// The current value.
#[derive(Debug)]
pub struct Live<T>(watch::Sender<Arc<T>>);

impl<T> Live<T> {
    /// Starts with `value`.
    pub fn new(value: T) -> Self {
        Self(watch::Sender::new(Arc::new(value)))
    }

    /// Returns the current value.
    #[must_use]
    pub fn now(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }

    /// Replaces the value.
    pub fn replace(&self, value: T) {
        self.0.send_replace(Arc::new(value));
    }

    /// Returns a receiver of each replacement.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Arc<T>> {
        self.0.subscribe()
    }
}
