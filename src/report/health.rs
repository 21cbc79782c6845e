//! Health of one endpoint: callbacks in flight, pauses after failures, and what of that is logged.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::setup::{Setup, Target};
use crate::db::outbox::Message;
use crate::sys::pauses::Pauses;

/// A failing endpoint is tried again within this at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Failures in a row after which the endpoint is at fault, and not the callbacks.
const FAULTY: u32 = 5;

/// An endpoint and its state.
pub(super) struct Health {
    pub(super) target: Arc<Target>,
    /// Whether the receiver has answered 410.
    pub(super) disabled: bool,
    rows: HashSet<i64>,
    files: HashSet<i64>,
    failures: u32,
    paused_until: Option<Instant>,
    /// Until when the receiver itself has asked for a pause.
    asked_until: Option<Instant>,
    failing_since: Option<Instant>,
}

impl Health {
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
        }
    }

    /// Takes a changed configuration, with which the endpoint is tried again. Callbacks in flight stay, and so
    /// does a pause that the receiver asked for, unless the URL changed.
    pub(super) fn renew(&mut self, target: Arc<Target>) {
        if !target.has_the_url_of(&self.target) {
            self.asked_until = None;
        }
        self.target = target;
        self.failures = 0;
        self.paused_until = self.asked_until;
    }

    /// Returns how many more callbacks may be sent now: none during a pause, one to probe a faulty endpoint.
    pub(super) fn free_slots(&self, parallel: usize) -> usize {
        if self.disabled || self.pause().is_some() {
            return 0;
        }
        let most = if self.is_faulty() { 1 } else { parallel };
        most.saturating_sub(self.rows.len())
    }

    /// Returns how long the pause lasts, if there is one.
    pub(super) fn pause(&self) -> Option<Duration> {
        let left = self.paused_until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Pauses for `pause`, or until the end of a longer pause.
    pub(super) fn pause_for(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        self.paused_until = Some(self.paused_until.map_or(until, |p| p.max(until)));
    }

    /// Pauses for as long as the receiver asked for.
    pub(super) fn pause_as_asked(&mut self, asked: Duration) {
        self.pause_for(asked);
        let until = Instant::now() + asked;
        self.asked_until = Some(self.asked_until.map_or(until, |p| p.max(until)));
    }

    pub(super) fn in_flight(&self) -> usize {
        self.rows.len()
    }

    /// Marks a callback as in flight, unless it or an earlier one of its file is.
    pub(super) fn start(&mut self, message: &Message) -> bool {
        if self.rows.contains(&message.id)
            || message.order_key.is_some_and(|f| self.files.contains(&f))
        {
            return false;
        }
        self.rows.insert(message.id);
        self.files.extend(message.order_key);
        true
    }

    /// Marks a callback as no longer in flight.
    pub(super) fn end(&mut self, message: &Message) {
        self.rows.remove(&message.id);
        if let Some(file) = message.order_key {
            self.files.remove(&file);
        }
    }

    /// Records a success. Returns whether the endpoint was failing.
    pub(super) fn worked(&mut self) -> bool {
        self.failures = 0;
        self.paused_until = None;
        self.asked_until = None;
        let Some(since) = self.failing_since.take() else {
            return false;
        };
        tracing::info!(
            event = "callbacks-working",
            endpoint = self.target.name,
            target = self.target.shown,
            after_s = since.elapsed().as_secs(),
            "the endpoint accepts callbacks again"
        );
        true
    }

    /// Records a failure. `away` means that the endpoint is at fault and not the callback; `asked` is its
    /// Retry-After.
    pub(super) fn failed(
        &mut self,
        error: &str,
        away: bool,
        asked: Option<Duration>,
        setup: &Setup,
    ) {
        self.failing_since.get_or_insert_with(Instant::now);
        // Callbacks sent in parallel that fail during the pause of the first are the same failure.
        if self.pause().is_none() {
            self.failures = self.failures.saturating_add(1);
            if away || self.is_faulty() {
                let longest = setup.longest_retry.min(LONGEST_PAUSE);
                let pauses = Pauses::new(setup.first_retry, longest);
                self.pause_for(pauses.random(self.failures - 1));
            }
        }
        if let Some(asked) = asked {
            self.pause_as_asked(asked);
        }
        tracing::warn!(
            event = "callbacks-failing",
            endpoint = self.target.name,
            target = self.target.shown,
            error,
            "a callback failed and will be retried"
        );
    }

    fn is_faulty(&self) -> bool {
        self.failures >= FAULTY
    }
}
