//! How long to pause before the next attempt: the shape of such pauses, and each that the
//! configuration does not govern.

use std::time::Duration;

/// Pauses that double with every failure in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pauses {
    first: Duration,
    longest: Duration,
}

/// The database takes no writes: its disk is full or read-only.
pub const STORE: Pauses = Pauses::new(Duration::from_millis(500), Duration::from_millis(500));
/// The disk takes no file.
pub const DISK: Pauses = Pauses::seconds(1, 60);
/// This node's disk failed the work on a file, which starts over.
pub const DEVICE: Pauses = Pauses::seconds(2, 64);
/// A task panicked.
pub const TASK: Pauses = Pauses::seconds(1, 60);
/// An ENS endpoint does not answer the command line.
pub const ENDPOINT: Pauses = Pauses::new(Duration::from_millis(500), Duration::from_secs(5));

impl Pauses {
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    const fn seconds(first: u64, longest: u64) -> Self {
        Self::new(Duration::from_secs(first), Duration::from_secs(longest))
    }

    /// Returns the pause after `failures` in a row, before this one.
    #[must_use]
    pub fn after(self, failures: u32) -> Duration {
        let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }

    /// Returns a random pause up to that. Full jitter, so that what failed together does not come back
    /// together.
    #[must_use]
    pub fn random(self, failures: u32) -> Duration {
        self.after(failures).mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_pauses_grow_to_their_bound_with_full_jitter() {
        let pauses = Pauses::new(Duration::from_secs(1), Duration::from_secs(3600));
        for (attempts, most) in [
            (0, 1),
            (1, 2),
            (5, 32),
            (11, 2048),
            (12, 3600),
            (40, 3600),
            (99, 3600),
        ] {
            let drawn: Vec<_> = (0..200).map(|_| pauses.random(attempts)).collect();
            let (least, greatest) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
            let most = Duration::from_secs(most);
            assert!(
                *greatest <= most && *greatest > most / 2,
                "{attempts}: {greatest:?}"
            );
            assert!(*least < most / 4, "{attempts}: {least:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let after = |failures| DEVICE.after(failures).as_secs();
        assert_eq!([0, 1, 4, 5, 6, 99].map(after), [2, 4, 32, 64, 64, 64]);
    }
}
