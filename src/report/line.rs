//! How one endpoint does: what is on its way to it, when it may be asked again, and what of that is worth a line of the log.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::setup::{Setup, Target};
use crate::store::outbox::Message;

/// An endpoint that fails is asked again within this at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// So many failures in a row say that the endpoint is at fault, and not the callbacks.
const FAULTY: u32 = 5;
/// An endpoint that keeps failing is complained about this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// An endpoint and its state.
pub(super) struct Line {
    pub(super) target: Arc<Target>,
    /// It has told us to stop.
    pub(super) disabled: bool,
    rows: HashSet<i64>,
    files: HashSet<i64>,
    failures: u32,
    paused_until: Option<Instant>,
    /// Until when the receiver itself has asked for a pause.
    asked_until: Option<Instant>,
    failing_since: Option<Instant>,
    /// When its failing was last worth a line.
    complained: Option<Instant>,
    /// Whether the present failing was.
    said: bool,
    unsaid: u32,
}

impl Line {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            disabled: false,
            rows: HashSet::new(),
            files: HashSet::new(),
            failures: 0,
            paused_until: None,
            asked_until: None,
            failing_since: None,
            complained: None,
            said: false,
            unsaid: 0,
        }
    }

    /// Takes a changed configuration, and with it a new chance; what is on its way stays so, and so does a pause that the
    /// receiver has asked for, unless it is another one now.
    pub(super) fn renew(&mut self, target: Arc<Target>) {
        if !target.is_at_the_address_of(&self.target) {
            self.asked_until = None;
        }
        self.target = target;
        self.failures = 0;
        self.paused_until = self.asked_until;
    }

    /// Returns how many more callbacks may be sent now: none in a pause, one to find out whether a pause may end.
    pub(super) fn free(&self, parallel: usize) -> usize {
        if self.disabled || self.pause().is_some() {
            return 0;
        }
        let most = if self.is_faulty() { 1 } else { parallel };
        most.saturating_sub(self.rows.len())
    }

    /// Returns how long nothing is to be sent.
    pub(super) fn pause(&self) -> Option<Duration> {
        let left = self.paused_until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Sends nothing for `pause`, or longer if that was said before.
    pub(super) fn pause_for(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        self.paused_until = Some(self.paused_until.map_or(until, |p| p.max(until)));
    }

    /// Sends nothing for as long as the receiver has asked for.
    pub(super) fn pause_as_asked(&mut self, asked: Duration) {
        self.pause_for(asked);
        let until = Instant::now() + asked;
        self.asked_until = Some(self.asked_until.map_or(until, |p| p.max(until)));
    }

    /// Returns how many callbacks are on their way.
    pub(super) fn on_their_way(&self) -> usize {
        self.rows.len()
    }

    /// Puts a callback on its way, unless it or an earlier one of its file is.
    pub(super) fn take(&mut self, message: &Message) -> bool {
        if self.rows.contains(&message.id) || message.file.is_some_and(|f| self.files.contains(&f))
        {
            return false;
        }
        self.rows.insert(message.id);
        self.files.extend(message.file);
        true
    }

    /// Notes that a callback is no longer on its way.
    pub(super) fn put_down(&mut self, message: &Message) {
        self.rows.remove(&message.id);
        if let Some(file) = message.file {
            self.files.remove(&file);
        }
    }

    /// Notes a success. Returns whether the endpoint failed before.
    pub(super) fn worked(&mut self) -> bool {
        let failed = self.failing_since.take();
        self.failures = 0;
        self.paused_until = None;
        self.asked_until = None;
        if let (Some(since), true) = (failed, std::mem::take(&mut self.said)) {
            tracing::info!(
                event = "callbacks-working",
                endpoint = self.target.name,
                target = self.target.shown,
                after_s = since.elapsed().as_secs(),
                "callbacks are taken again"
            );
        }
        failed.is_some()
    }

    /// Notes a failure. `away` says that the endpoint is at fault and not the callback; `asked` is what it asked for.
    pub(super) fn failed(
        &mut self,
        error: &str,
        away: bool,
        asked: Option<Duration>,
        setup: &Setup,
    ) {
        self.failing_since.get_or_insert_with(Instant::now);
        // What was sent side by side and fails in the pause of the first is the same failure.
        if self.pause().is_none() {
            self.failures = self.failures.saturating_add(1);
            if away || self.is_faulty() {
                let longest = setup.longest_retry.min(LONGEST_PAUSE);
                self.pause_for(jitter(setup.first_retry, longest, self.failures - 1));
            }
        }
        if let Some(asked) = asked {
            self.pause_as_asked(asked);
        }
        self.complain(error);
    }

    fn is_faulty(&self) -> bool {
        self.failures >= FAULTY
    }

    /// One line when it begins to fail, then at most one a minute; also when it fails and works by turns.
    fn complain(&mut self, error: &str) {
        if self
            .complained
            .is_some_and(|c| c.elapsed() < COMPLAIN_EVERY)
        {
            self.unsaid = self.unsaid.saturating_add(1);
            return;
        }
        tracing::warn!(
            event = "callbacks-failing",
            endpoint = self.target.name,
            target = self.target.shown,
            error,
            more = self.unsaid,
            "a callback was not taken; it is tried again"
        );
        self.complained = Some(Instant::now());
        self.said = true;
        self.unsaid = 0;
    }
}

/// Returns a random time up to `first` doubled `attempts` times, at most `longest`: full jitter, so that what failed
/// together does not come again together.
pub(super) fn jitter(first: Duration, longest: Duration, attempts: u32) -> Duration {
    let doubled = first.saturating_mul(1u32.checked_shl(attempts).unwrap_or(u32::MAX));
    let most = doubled.min(longest);
    most.mul_f64(fastrand::f64())
        .max(Duration::from_millis(20).min(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_full_and_grows_to_its_bound() {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(3600));
        for (attempts, most) in [
            (0, 1),
            (1, 2),
            (5, 32),
            (11, 2048),
            (12, 3600),
            (40, 3600),
            (99, 3600),
        ] {
            let drawn: Vec<_> = (0..200).map(|_| jitter(first, longest, attempts)).collect();
            let (least, greatest) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
            assert!(
                *greatest <= Duration::from_secs(most),
                "{attempts}: {greatest:?}"
            );
            assert!(
                *greatest > Duration::from_secs(most) / 2,
                "{attempts}: {greatest:?}"
            );
            assert!(
                *least < Duration::from_secs(most) / 4,
                "{attempts}: {least:?}"
            );
        }
    }
}
