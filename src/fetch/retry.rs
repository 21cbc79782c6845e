//! When to retry. Each file waits a random time that grows (full jitter, so that a fleet does not come
//! back as one), and a host that does not answer is spared by all files together.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::config::Retry;
use crate::dial::backoff;

/// The window of `per_minute`.
const MINUTE: Duration = Duration::from_secs(60);
/// Hosts remembered before those without news are forgotten.
const REMEMBERED: usize = 1024;

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

    /// Returns how long to wait before the next request, or `None` if that would be after `deadline`.
    /// `asked` is the Retry-After of the origin.
    pub(super) fn wait(
        &mut self,
        config: &Retry,
        asked: Option<Duration>,
        deadline: Instant,
    ) -> Option<Duration> {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        // Another request before the deadline is worth more than patience.
        let longest = config.cap.min(left.mul_f64(0.9));
        let wait = backoff(config.base, longest, self.failures)
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

/// Which hosts answer. While one does not, all files together ask it at most `per_minute` times; as soon
/// as it gives any response, every file may.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    table: Mutex<HashMap<String, Host>>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Host {
    answered: Option<Instant>,
    starts: VecDeque<Instant>,
}

impl Host {
    fn answers(&self, now: Instant) -> bool {
        self.answered.is_some_and(|at| now < at + MINUTE)
    }
}

/// The right to make one request to a host; its result must be reported.
pub(super) struct Pass {
    hosts: Arc<Hosts>,
    host: String,
}

impl Hosts {
    /// Waits until a request to `host` may be made.
    pub(super) async fn enter(self: &Arc<Self>, host: &str, per_minute: u32) -> Pass {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let Some(until) = self.try_enter(host, per_minute) else {
                return Pass {
                    hosts: Arc::clone(self),
                    host: host.to_owned(),
                };
            };
            tokio::select! {
                () = news => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// Enters, or returns when to check again.
    fn try_enter(&self, host: &str, per_minute: u32) -> Option<Instant> {
        let now = Instant::now();
        let mut table = self.lock();
        if table.len() >= REMEMBERED && !table.contains_key(host) {
            table.retain(|_, h| {
                h.answers(now) || h.starts.back().is_some_and(|s| now < *s + MINUTE)
            });
        }
        let entry = table.entry(host.to_owned()).or_default();
        if entry.answers(now) {
            return None;
        }
        let wait = until_free(&mut entry.starts, per_minute, now);
        if wait.is_zero() {
            entry.starts.push_back(now);
            return None;
        }
        Some(now + wait)
    }

    /// Records that a connection to `host` broke: it has to answer again first.
    pub(super) fn doubt(&self, host: &str) {
        if let Some(entry) = self.lock().get_mut(host) {
            entry.answered = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Host>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Records that the host gave a response, whatever it was.
    pub(super) fn answered(self) {
        if let Some(entry) = self.hosts.lock().get_mut(&self.host) {
            entry.answered = Some(Instant::now());
            entry.starts.clear();
        }
        self.hosts.news.notify_waiters();
    }

    /// Records that the host did not answer.
    pub(super) fn failed(self) {
        self.hosts.doubt(&self.host);
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
        let deadline = Instant::now() + Duration::from_secs(100_000);
        let mut longest = [Duration::ZERO; 10];
        let mut shortest = [Duration::MAX; 10];
        for _ in 0..300 {
            let mut backoff = Backoff::default();
            for n in 0..10 {
                let wait = backoff.wait(&config(), None, deadline).unwrap();
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
        let deadline = Instant::now() + Duration::from_secs(100);
        let asked = Some(Duration::from_secs(50));
        assert!(backoff.wait(&config(), asked, deadline).unwrap() >= Duration::from_secs(50));
        let asked = Some(Duration::from_secs(200));
        assert_eq!(backoff.wait(&config(), asked, deadline), None);
    }

    #[test]
    fn makes_at_most_eight_requests_a_minute_without_progress() {
        let mut backoff = Backoff::default();
        let deadline = Instant::now() + Duration::from_secs(3600);
        let quick = Retry {
            base: Duration::ZERO,
            ..config()
        };
        for _ in 0..8 {
            assert_eq!(backoff.wait(&quick, None, deadline), Some(Duration::ZERO));
            backoff.started();
        }
        let wait = backoff.wait(&quick, None, deadline).unwrap();
        assert!(wait > Duration::from_secs(55), "{wait:?}");
        backoff.progressed();
        assert_eq!(backoff.wait(&quick, None, deadline), Some(Duration::ZERO));
    }

    #[tokio::test]
    async fn a_dead_host_is_asked_by_all_together() {
        let hosts = Arc::new(Hosts::default());
        let mut passes = Vec::new();
        for _ in 0..8 {
            passes.push(hosts.enter("dead:80", 8).await);
        }
        let mut ninth = std::pin::pin!(hosts.enter("dead:80", 8));
        let soon = Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, ninth.as_mut()).await.is_err());
        hosts.enter("other:80", 8).await.answered();
        passes.pop().unwrap().failed();
        assert!(tokio::time::timeout(soon, ninth.as_mut()).await.is_err());
        // It was alive after all: everyone may go on at once.
        passes.pop().unwrap().answered();
        tokio::time::timeout(soon, ninth).await.unwrap().answered();
        for _ in 0..20 {
            tokio::time::timeout(soon, hosts.enter("dead:80", 8))
                .await
                .unwrap();
        }
        // And now it is gone again.
        hosts.doubt("dead:80");
        for _ in 0..8 {
            tokio::time::timeout(soon, hosts.enter("dead:80", 8))
                .await
                .unwrap();
        }
        assert!(
            tokio::time::timeout(soon, hosts.enter("dead:80", 8))
                .await
                .is_err()
        );
    }
}
