//! A value that a reload replaces: who begins takes the newest, who is at work keeps what it has.

use std::sync::Arc;

use tokio::sync::watch;

/// The value in force.
#[derive(Debug)]
pub struct Live<T>(watch::Sender<Arc<T>>);

impl<T> Live<T> {
    /// Puts `value` in force.
    pub fn new(value: T) -> Self {
        Self(watch::Sender::new(Arc::new(value)))
    }

    /// Returns what is in force now.
    #[must_use]
    pub fn now(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }

    /// Puts another value in force.
    pub fn replace(&self, value: T) {
        self.0.send_replace(Arc::new(value));
    }

    /// Returns what hears of each replacement.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Arc<T>> {
        self.0.subscribe()
    }
}
