//! Who may use the processor now. A file that arrives fast keeps a core and a half busy, and more than a few such at once
//! only get in each other's way; a file that arrives slowly takes next to nothing. So a place in the heavy lane is held
//! by the rate of what arrives: a slow or stalled transfer never keeps one that another file could use.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Above this rate, in bytes a second, a transfer is a heavy one.
const HEAVY_RATE: u64 = 16 << 20;
/// How long a rate is measured.
const WINDOW: Duration = Duration::from_millis(200);
/// How long a source may be silent before its place is given to others.
pub(super) const SILENCE: Duration = Duration::from_millis(50);

/// The places of the heavy lane.
#[derive(Clone)]
pub(super) struct Lanes(Arc<Semaphore>);

impl Lanes {
    pub(super) fn new(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places.max(1))))
    }

    /// Waits for a place, for work that needs one from beginning to end.
    pub(super) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).acquire_owned().await.ok()
    }

    /// Returns the lane of a transfer that starts in the light lane, whose first `free` bytes never need a place.
    pub(super) fn of_transfer(&self, free: u64) -> Lane {
        Lane {
            lanes: self.clone(),
            free,
            bytes: 0,
            since: Instant::now(),
            heavy: true,
            place: None,
        }
    }
}

/// The lane of one transfer.
pub(super) struct Lane {
    lanes: Lanes,
    free: u64,
    bytes: u64,
    since: Instant,
    heavy: bool,
    place: Option<OwnedSemaphorePermit>,
}

impl Lane {
    /// Notes that `bytes` have arrived, and returns when they may go on.
    pub(super) async fn pass(&mut self, bytes: u64) {
        self.free = self.free.saturating_sub(bytes);
        self.bytes += bytes;
        let elapsed = self.since.elapsed();
        if elapsed >= WINDOW {
            let millis = u64::try_from(elapsed.as_millis())
                .unwrap_or(u64::MAX)
                .max(1);
            self.heavy = self.bytes.saturating_mul(1000) / millis >= HEAVY_RATE;
            (self.bytes, self.since) = (0, Instant::now());
            if !self.heavy {
                self.place = None;
            }
        }
        if self.heavy && self.free == 0 && self.place.is_none() {
            self.place = self.lanes.enter().await;
            // Waiting for the place says nothing about the source.
            (self.bytes, self.since) = (0, Instant::now());
        }
    }

    /// Gives the place to others while the source is silent.
    pub(super) fn leave(&mut self) {
        self.place = None;
    }

    /// Tells whether a place is held.
    pub(super) fn is_held(&self) -> bool {
        self.place.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slow_transfers_hold_no_place() {
        let lanes = Lanes::new(1);
        let mut slow = lanes.of_transfer(0);
        slow.pass(1000).await;
        assert!(slow.is_held(), "what its rate is shows only with time");
        tokio::time::advance(WINDOW).await;
        slow.pass(1000).await;
        assert!(!slow.is_held());
        let mut fast = lanes.of_transfer(0);
        for _ in 0..5 {
            fast.pass(HEAVY_RATE).await;
            tokio::time::advance(WINDOW).await;
        }
        assert!(fast.is_held());
        let mut second = lanes.of_transfer(0);
        assert!(
            tokio::time::timeout(WINDOW * 10, second.pass(HEAVY_RATE))
                .await
                .is_err()
        );
        fast.leave();
        assert!(
            tokio::time::timeout(WINDOW, second.pass(HEAVY_RATE))
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn small_files_need_no_place() {
        let lanes = Lanes::new(1);
        let _held = lanes.enter().await;
        let mut small = lanes.of_transfer(100);
        assert!(tokio::time::timeout(WINDOW, small.pass(99)).await.is_ok());
    }
}
