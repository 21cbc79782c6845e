//! How often the state of a push is queried: often while files end quickly, rarely while they take
//! long, so that the end of a small file shows at once and a thousand files do not keep the agent
//! busy with answers.

use std::time::{Duration, Instant};

/// Shortest and longest pause between two queries over the socket.
const LOCAL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// The same over the network, where each query is a signed call.
const REMOTE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Decides when to query next.
pub(super) struct Pace {
    asked: Instant,
    left: Option<usize>,
    wait: Duration,
    shortest: Duration,
    longest: Duration,
}

impl Pace {
    /// For queries over the agent's socket.
    pub(super) fn local() -> Self {
        Self::between(LOCAL)
    }

    /// For queries over the network.
    pub(super) fn remote() -> Self {
        Self::between(REMOTE)
    }

    fn between((shortest, longest): (Duration, Duration)) -> Self {
        Self {
            asked: Instant::now(),
            left: None,
            wait: shortest / 2,
            shortest,
            longest,
        }
    }

    /// Returns how long to wait, given that `left` files have not ended and that the last question
    /// took so long: half of what the rest will take at the rate so far, and with no rate to go by
    /// twice as long as the time before.
    pub(super) fn wait(&mut self, left: usize, took: Duration) -> Duration {
        let since = self.asked.elapsed();
        self.wait_since(since, left, took)
    }

    fn wait_since(&mut self, since: Duration, left: usize, took: Duration) -> Duration {
        let ended = self.left.map_or(0, |before| before.saturating_sub(left));
        let wait = match ended {
            0 => self.wait * 2,
            _ => since.mul_f64(left as f64 / ended as f64 / 2.0),
        };
        self.asked += since;
        self.left = Some(left);
        self.wait = wait.clamp(self.shortest, self.longest);
        self.wait.max(took * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn asks_ever_less_often_while_nothing_ends() {
        let mut pace = Pace::local();
        let waits: Vec<_> = (0..6).map(|_| pace.wait_since(ms(50), 1, ms(1))).collect();
        assert_eq!(waits, [20, 40, 80, 160, 200, 200].map(ms));
    }

    #[test]
    fn asks_more_often_towards_the_end() {
        let mut pace = Pace::local();
        pace.wait_since(ms(0), 1000, ms(10));
        // 100 files in 100 ms: the other 900 will take far longer than the longest wait.
        assert_eq!(pace.wait_since(ms(100), 900, ms(10)), LOCAL.1);
        assert_eq!(pace.wait_since(ms(200), 100, ms(10)), LOCAL.0);
        assert_eq!(pace.wait_since(ms(100), 50, ms(10)), ms(50));
        assert_eq!(
            pace.wait_since(ms(100), 25, ms(70)),
            ms(140),
            "slow answers"
        );
    }
}
