//! A time limit that stands still while its owner waits for something that is not its fault.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// When some work has to end. Clones share one limit.
#[derive(Debug, Clone)]
pub struct Deadline(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    at: Instant,
    /// Since when it stands still.
    paused: Option<Instant>,
}

impl Deadline {
    /// Makes a limit that is reached after `left`.
    #[must_use]
    pub fn after(left: Duration) -> Self {
        let now = Instant::now();
        // A hundred years stand for a time that cannot be told.
        let at = now
            .checked_add(left)
            .unwrap_or(now + Duration::from_secs(100 * 365 * 86400));
        Self(Arc::new(Mutex::new(State { at, paused: None })))
    }

    /// Returns the time left, zero once it is reached.
    #[must_use]
    pub fn left(&self) -> Duration {
        let state = self.lock();
        let now = state.paused.unwrap_or_else(Instant::now);
        state.at.saturating_duration_since(now)
    }

    /// Returns whether it is reached.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// Waits until it is reached.
    pub async fn passed(&self) {
        loop {
            let left = self.left();
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }

    /// Lets it stand still until the returned guard is dropped.
    #[must_use]
    pub fn pause(&self) -> Pause<'_> {
        self.lock().paused.get_or_insert_with(Instant::now);
        Pause(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives, a [`Deadline`] stands still.
#[derive(Debug)]
pub struct Pause<'a>(&'a Deadline);

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if let Some(since) = state.paused.take() {
            state.at += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_does_not_count() {
        let deadline = Deadline::after(Duration::from_secs(10));
        sleep(Duration::from_secs(4)).await;
        let pause = deadline.pause();
        sleep(Duration::from_secs(60)).await;
        assert_eq!(deadline.left(), Duration::from_secs(6));
        drop(pause);
        let since = Instant::now();
        deadline.passed().await;
        assert_eq!(since.elapsed(), Duration::from_secs(6));
        assert!(deadline.is_over());
    }
}
