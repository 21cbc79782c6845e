//! When to retry. Each file waits a random time that grows (full jitter, so that a fleet does not come
//! back as one), and a host that does not answer is spared by all files together.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::config::Retry;
use crate::sys::pauses::Pauses;

/// The window of `per_minute`.
const MINUTE: Duration = Duration::from_secs(60);
/// Hosts remembered before those without news are forgotten.
const REMEMBERED: usize = 1024;

/// The failures of one file so far, shared by the sources that fetch it one after the other.
#[derive(Debug, Clone, Default)]
pub struct Retries(Arc<Mutex<Backoff>>);

impl Retries {
    pub(super) fn lock(&self) -> MutexGuard<'_, Backoff> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The retries of one file.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    /// Starts of requests without progress in the last minute.
    starts: VecDeque<Instant>,
}

impl Backoff {
    /// Records that a request starts now.
    pub(super) fn started(&mut self) {
        self.starts.push_back(Instant::now());
    }

    /// Records that bytes arrived: the next failure starts a new series.
    pub(super) fn progressed(&mut self) {
        *self = Self::default();
    }

    /// Returns how long to wait before the next request, or `None` if that would be after
    /// the deadline, for which `left` is left. `asked` is the Retry-After of the origin.
    pub(super) fn wait(
        &mut self,
        config: &Retry,
        asked: Option<Duration>,
        left: Duration,
    ) -> Option<Duration> {
        let now = Instant::now();
        // Another request before the deadline is worth more than patience.
        let longest = config.cap.min(left.mul_f64(0.9));
        let wait = Pauses::new(config.base, longest)
            .random(self.failures)
            .max(asked.unwrap_or_default())
            .max(until_free(&mut self.starts, config.per_minute, now));
        self.failures = self.failures.saturating_add(1);
        (wait < left).then_some(wait)
    }
}

/// Returns how long to wait so that another start makes at most `limit` within a minute.
fn until_free(starts: &mut VecDeque<Instant>, limit: u32, now: Instant) -> Duration {
    while starts.front().is_some_and(|s| *s + MINUTE <= now) {
        starts.pop_front();
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let over = starts.len().checked_sub(limit);
    match over.and_then(|n| starts.get(n)) {
        Some(start) => *start + MINUTE - now,
        None => Duration::ZERO,
    }
}

/// Which hosts answer. One that has failed is asked by all files together at most `per_minute` times a
/// minute, until it gives any response.
#[derive(Debug, Default)]
pub(super) struct Hosts(Mutex<HashMap<String, Host>>);

#[derive(Debug, Default)]
struct Host {
    answered: Option<Instant>,
    /// Requests in the last minute that failed, or that were made after one had failed.
    doubtful: VecDeque<Instant>,
}

/// The right to make one request to a host; its result must be reported.
pub(super) struct Pass {
    hosts: Arc<Hosts>,
    host: String,
    since: Instant,
    /// Whether it counts already.
    doubtful: bool,
}

impl Hosts {
    /// Returns the right to make a request to `host`, or how long to wait for it: until a request may
    /// be made, and a random time more, so that those who wait do not come back as one.
    pub(super) fn enter(self: &Arc<Self>, host: &str, per_minute: u32) -> Result<Pass, Duration> {
        let now = Instant::now();
        let mut table = self.lock();
        if table.len() >= REMEMBERED && !table.contains_key(host) {
            let recent = |at: Option<&Instant>| at.is_some_and(|at| now < *at + MINUTE);
            table.retain(|_, h| recent(h.answered.as_ref()) || recent(h.doubtful.back()));
        }
        let entry = table.entry(host.to_owned()).or_default();
        let doubtful = !entry.doubtful.is_empty();
        let wait = until_free(&mut entry.doubtful, per_minute, now);
        if !wait.is_zero() {
            return Err(wait + wait.mul_f64(fastrand::f64()));
        }
        if doubtful {
            entry.doubtful.push_back(now);
        }
        Ok(Pass {
            hosts: Arc::clone(self),
            host: host.to_owned(),
            since: now,
            doubtful,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Host>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Records that the host gave a response, whatever it was.
    pub(super) fn answered(self) {
        if let Some(entry) = self.hosts.lock().get_mut(&self.host) {
            entry.answered = Some(Instant::now());
            entry.doubtful.clear();
        }
    }

    /// Records that the host did not answer. That says nothing if it has answered others meanwhile.
    pub(super) fn failed(self) {
        if let Some(entry) = self.hosts.lock().get_mut(&self.host)
            && !self.doubtful
            && entry.answered.is_none_or(|at| at < self.since)
        {
            entry.doubtful.push_back(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Retry {
        Retry::default()
    }

    #[test]
    fn waits_grow_with_full_jitter_up_to_the_cap() {
        let left = Duration::from_secs(100_000);
        let mut longest = [Duration::ZERO; 10];
        let mut shortest = [Duration::MAX; 10];
        for _ in 0..300 {
            let mut backoff = Backoff::default();
            for n in 0..10 {
                let wait = backoff.wait(&config(), None, left).unwrap();
                longest[n] = longest[n].max(wait);
                shortest[n] = shortest[n].min(wait);
            }
        }
        for n in 0..10 {
            let bound = Duration::from_secs((1 << n).min(60));
            assert!(
                longest[n] <= bound && longest[n] > bound / 2,
                "{n}: {:?}",
                longest[n]
            );
            assert!(shortest[n] < bound / 4, "{n}: {:?}", shortest[n]);
        }
    }

    #[test]
    fn obeys_retry_after_and_the_deadline() {
        let mut backoff = Backoff::default();
        let left = Duration::from_secs(100);
        let asked = Some(Duration::from_secs(50));
        assert!(backoff.wait(&config(), asked, left).unwrap() >= Duration::from_secs(50));
        let asked = Some(Duration::from_secs(200));
        assert_eq!(backoff.wait(&config(), asked, left), None);
    }

    #[test]
    fn makes_at_most_eight_requests_a_minute_without_progress() {
        let mut backoff = Backoff::default();
        let left = Duration::from_secs(3600);
        let quick = Retry {
            base: Duration::ZERO,
            ..config()
        };
        for _ in 0..8 {
            assert_eq!(backoff.wait(&quick, None, left), Some(Duration::ZERO));
            backoff.started();
        }
        let wait = backoff.wait(&quick, None, left).unwrap();
        assert!(wait > Duration::from_secs(55), "{wait:?}");
        backoff.progressed();
        assert_eq!(backoff.wait(&quick, None, left), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_fails_is_asked_by_all_together() {
        let hosts = Arc::new(Hosts::default());
        let enter = |host: &str| hosts.enter(host, 8);
        // As many as like to, as long as none has failed.
        let mut passes: Vec<_> = (0..20).map(|_| enter("dead:80").unwrap()).collect();
        passes.pop().unwrap().failed();
        for _ in 0..7 {
            enter("dead:80").unwrap().failed();
        }
        let wait = enter("dead:80").err().unwrap();
        assert!(wait >= MINUTE && wait <= 2 * MINUTE, "{wait:?}");
        enter("other:80").unwrap().answered();
        assert!(enter("dead:80").is_err());
        // It was alive after all: everyone may go on at once.
        tokio::time::advance(Duration::from_secs(1)).await;
        passes.pop().unwrap().answered();
        for _ in 0..20 {
            enter("dead:80").unwrap().answered();
        }
        // One that was silent while others were answered says nothing of the host.
        for silent in passes {
            silent.failed();
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        // And now it is gone again.
        for _ in 0..8 {
            enter("dead:80").unwrap().failed();
        }
        assert!(enter("dead:80").is_err());
        tokio::time::advance(MINUTE).await;
        assert!(enter("dead:80").is_ok());
    }
}
