//! Detects a body that is too slow. Only time spent waiting for the network counts: a full disk queue or a
//! bandwidth limit is not the origin's fault.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::config::Stall;

/// Parts of a window; bytes are counted per part.
const PARTS: u32 = 32;

/// Watches one body.
#[derive(Debug)]
pub(super) struct StallClock {
    window: Duration,
    enough: u64,
    /// Time waited so far.
    waited: Duration,
    /// Start of the current wait; outlives a dropped one.
    since: Option<Instant>,
    /// Ends of parts, in time waited, and the bytes that arrived in each.
    parts: VecDeque<(Duration, u64)>,
}

/// The body is too slow.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooSlow;

impl StallClock {
    pub(super) fn new(config: &Stall) -> Self {
        Self {
            window: config.window,
            enough: config.bytes(),
            waited: Duration::ZERO,
            since: None,
            parts: VecDeque::new(),
        }
    }

    /// Waits for the next piece of the body, as long as the rate allows. May be dropped and called again.
    pub(super) async fn watch<F: Future>(&mut self, piece: F) -> Result<F::Output, TooSlow> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let patience = self.limit().saturating_sub(self.waited);
        let output = timeout_at(since + patience, piece)
            .await
            .map_err(|_| TooSlow)?;
        self.waited += since.elapsed();
        self.since = None;
        Ok(output)
    }

    /// Records that bytes arrived.
    pub(super) fn arrived(&mut self, bytes: usize) {
        let part = self.window / PARTS;
        let number = self.waited.as_nanos() / part.as_nanos().max(1);
        let end = part.saturating_mul(u32::try_from(number + 1).unwrap_or(u32::MAX));
        match self.parts.back_mut() {
            Some((last, count)) if *last == end => *count += bytes as u64,
            _ => self.parts.push_back((end, bytes as u64)),
        }
        while self
            .parts
            .front()
            .is_some_and(|(at, _)| *at + self.window < self.waited)
        {
            self.parts.pop_front();
        }
    }

    /// Returns when, in time waited, the body is too slow if nothing more arrives.
    fn limit(&self) -> Duration {
        let mut sum = 0;
        for (at, bytes) in self.parts.iter().rev() {
            sum += bytes;
            if sum >= self.enough {
                return *at + self.window;
            }
        }
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a body that brings `bytes` each `every`, for at most `most`; returns when it was too slow.
    fn play(bytes: usize, every: Duration, most: Duration) -> Option<Duration> {
        let mut clock = StallClock::new(&Stall::default());
        while clock.waited < most {
            let limit = clock.limit();
            if clock.waited + every > limit {
                return Some(limit.max(clock.waited));
            }
            clock.waited += every;
            clock.arrived(bytes);
        }
        None
    }

    #[test]
    fn a_slow_body_is_found_and_a_steady_one_is_not() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let thirty = Duration::from_secs(30);
        assert_eq!(play(3 * 1024, second, hour), None);
        assert_eq!(play(1100, second, hour), None);
        assert_eq!(play(30 * 1100, thirty, hour), None);
        // One byte and silence; a drip.
        assert_eq!(play(1, hour, hour), Some(thirty));
        assert_eq!(play(1, second / 2, hour), Some(thirty));
        assert!(play(900, second, hour).is_some_and(|at| at <= thirty + second));
        // A megabyte, then silence: 30 s after it and no more than a part later.
        let mut clock = StallClock::new(&Stall::default());
        clock.waited = Duration::from_secs(100);
        clock.arrived(1 << 20);
        let limit = clock.limit();
        assert!(
            limit >= Duration::from_secs(130) && limit < Duration::from_secs(132),
            "{limit:?}"
        );
    }

    #[tokio::test]
    async fn a_wait_that_is_dropped_goes_on() {
        let config = Stall {
            rate: 1024,
            window: Duration::from_millis(60),
        };
        let mut clock = StallClock::new(&config);
        let begin = Instant::now();
        let result = loop {
            let wait = clock.watch(std::future::pending::<()>());
            match tokio::time::timeout(Duration::from_millis(10), wait).await {
                Ok(result) => break result,
                Err(_) => assert!(begin.elapsed() < Duration::from_secs(5)),
            }
        };
        assert_eq!(result, Err(TooSlow));
        assert!(begin.elapsed() >= Duration::from_millis(50));
    }
}
