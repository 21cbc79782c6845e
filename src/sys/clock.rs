//! Timestamps, from the wall clock or from a clock that tests set. Durations come from the monotonic clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of timestamps.
pub trait Clock: Send + Sync {
    /// Returns milliseconds since 1970-01-01T00:00:00Z by the wall clock.
    fn now_ms(&self) -> i64;
}

/// The host's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// A clock that stands still until it is set, for tests of time windows.
#[cfg(test)]
pub(crate) struct SetClock(std::sync::atomic::AtomicI64);

#[cfg(test)]
impl SetClock {
    pub(crate) fn new(ms: i64) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self(ms.into()))
    }

    pub(crate) fn set(&self, ms: i64) {
        self.0.store(ms, std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(test)]
impl Clock for SetClock {
    fn now_ms(&self) -> i64 {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_clock_counts_from_the_epoch() {
        assert!(SystemClock.now_ms() > 1_700_000_000_000);
    }
}
