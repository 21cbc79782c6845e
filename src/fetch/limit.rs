//! Bandwidth limits: one for all downloads together and one per application, changeable while they run.
//!
//! Before it reads on, a download waits for what it has read, in small pieces; each piece reserves the next
//! free slot of every limit that applies. So downloads alternate piece by piece, and a small file waits one
//! round, however many large ones run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::config::{Bandwidth, Hours};
use crate::datafile::AppId;

/// Unused time that may be caught up: timers wake up late.
const SLACK: Duration = Duration::from_millis(50);
/// How often the time of day is checked.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Applications remembered before idle ones are dropped.
const REMEMBERED: usize = 1024;
/// Minimum number of pieces per second.
const PIECES: u64 = 20;
const SMALLEST_PIECE: u64 = 1024;
const LARGEST_PIECE: u64 = 256 * 1024;

/// The limits of this node.
pub(super) struct Limits {
    agent: Arc<Cap>,
    apps: Mutex<HashMap<AppId, Arc<Cap>>>,
    config: watch::Sender<Bandwidth>,
}

impl Limits {
    pub(super) fn new(config: Bandwidth) -> Self {
        Self {
            agent: Arc::new(Cap::new(agent_rates(&config))),
            apps: Mutex::default(),
            config: watch::Sender::new(config),
        }
    }

    /// Changes the limits of running downloads too.
    pub(super) fn change(&self, config: Bandwidth) {
        if *self.config.borrow() == config {
            return;
        }
        self.agent.change(agent_rates(&config));
        for (app, cap) in lock(&self.apps).iter() {
            cap.change(app_rates(&config, app));
        }
        self.config.send_replace(config);
    }

    /// Makes the meter of one download.
    pub(super) fn meter(&self, app: &AppId) -> Meter {
        let mut apps = lock(&self.apps);
        if apps.len() >= REMEMBERED {
            apps.retain(|_, cap| Arc::strong_count(cap) > 1);
        }
        let cap = apps.entry(app.clone()).or_insert_with(|| {
            let rates = app_rates(&self.config.borrow(), app);
            Arc::new(Cap::new(rates))
        });
        Meter {
            caps: [Arc::clone(cap), Arc::clone(&self.agent)],
            changed: self.config.subscribe(),
            owed: 0,
            slot: None,
        }
    }
}

fn agent_rates(config: &Bandwidth) -> Rates {
    Rates {
        base: config.rate.map(|r| r.0),
        table: config.table.clone(),
    }
}

fn app_rates(config: &Bandwidth, app: &AppId) -> Rates {
    Rates {
        base: config.apps.get(app).map(|r| r.0),
        table: Vec::new(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Rates {
    base: Option<u64>,
    table: Vec<Hours>,
}

impl Rates {
    /// Returns the rate at this time of day. The time zone is only read if there is a table.
    fn now(&self) -> Option<u64> {
        if self.table.is_empty() {
            self.base
        } else {
            self.at(minute_of_day())
        }
    }

    fn at(&self, minute: u16) -> Option<u64> {
        match self.table.iter().find(|hours| hours.contain(minute)) {
            Some(hours) => hours.rate.map(|r| r.0),
            None => self.base,
        }
    }
}

struct Cap(Mutex<CapState>);

struct CapState {
    rates: Rates,
    /// The rate at this time of day, as of `checked`.
    now: Option<u64>,
    checked: Instant,
    /// Start of the next unreserved slot.
    free: Instant,
}

impl Cap {
    fn new(rates: Rates) -> Self {
        let now = Instant::now();
        Self(Mutex::new(CapState {
            now: rates.now(),
            rates,
            checked: now,
            free: now,
        }))
    }

    fn change(&self, rates: Rates) {
        let mut state = lock(&self.0);
        state.now = rates.now();
        state.rates = rates;
        state.checked = Instant::now();
        state.free = state.checked;
    }

    /// Returns the current rate.
    fn rate(&self) -> Option<u64> {
        let mut state = lock(&self.0);
        if !state.rates.table.is_empty() && state.checked.elapsed() >= CHECK_EVERY {
            state.now = state.rates.now();
            state.checked = Instant::now();
        }
        state.now
    }

    /// Reserves the next free slot for `bytes`; returns its end.
    fn reserve(&self, bytes: u64) -> Option<Instant> {
        let rate = self.rate()?;
        let mut state = lock(&self.0);
        let now = Instant::now();
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        let start = state.free.max(earliest);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        state.free = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Some(state.free)
    }
}

fn minute_of_day() -> u16 {
    let now = jiff::ZonedDateTime::now();
    let minute = i32::from(now.hour()) * 60 + i32::from(now.minute());
    u16::try_from(minute).unwrap_or(0)
}

/// Bytes that one download has read and not yet waited for.
pub(super) struct Meter {
    caps: [Arc<Cap>; 2],
    changed: watch::Receiver<Bandwidth>,
    owed: u64,
    /// The piece being waited for: when its slot ends, and its size.
    slot: Option<(Instant, u64)>,
}

impl Meter {
    /// Adds bytes that were read.
    pub(super) fn owe(&mut self, bytes: usize) {
        self.owed += bytes as u64;
    }

    /// Returns whether there is something to wait for.
    pub(super) fn owes(&self) -> bool {
        self.owed > 0
    }

    /// Waits for everything read. May be dropped and called again.
    pub(super) async fn pay(&mut self) {
        while self.owed > 0 {
            let (until, piece) = match self.slot {
                Some(slot) => slot,
                None => match self.next_slot() {
                    Some(slot) => slot,
                    None => {
                        self.owed = 0;
                        return;
                    }
                },
            };
            self.slot = Some((until, piece));
            tokio::select! {
                () = sleep_until(until) => {
                    self.owed -= piece;
                    self.slot = None;
                }
                // New limits: slots under the old ones do not count.
                changed = self.changed.changed(), if self.changed.has_changed().is_ok() => {
                    if changed.is_ok() {
                        self.slot = None;
                    }
                }
            }
        }
    }

    /// Reserves the next slot under all limits; `None` if there is no limit.
    fn next_slot(&self) -> Option<(Instant, u64)> {
        let slowest = self.caps.iter().filter_map(|cap| cap.rate()).min()?;
        let piece = (slowest / PIECES)
            .clamp(SMALLEST_PIECE, LARGEST_PIECE)
            .min(self.owed);
        let until = self
            .caps
            .iter()
            .filter_map(|cap| cap.reserve(piece))
            .max()?;
        Some((until, piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::units::Bytes;

    fn app(id: &str) -> AppId {
        AppId::parse(id).unwrap()
    }

    fn bandwidth(rate: u64) -> Bandwidth {
        Bandwidth {
            rate: Some(Bytes(rate)),
            ..Bandwidth::default()
        }
    }

    async fn read(limits: &Limits, id: &str, bytes: usize) -> Duration {
        let start = Instant::now();
        let mut meter = limits.meter(&app(id));
        meter.owe(bytes);
        meter.pay().await;
        start.elapsed()
    }

    #[tokio::test]
    async fn keeps_to_the_rate_and_alternates() {
        let limits = Limits::new(bandwidth(1_000_000));
        // Three big ones and a small one: 330 kB at 1 MB/s.
        let (a, b, c, small) = tokio::join!(
            read(&limits, "a", 100_000),
            read(&limits, "b", 100_000),
            read(&limits, "c", 100_000),
            read(&limits, "d", 30_000)
        );
        for big in [a, b, c] {
            assert!(big > Duration::from_millis(180), "{big:?}");
        }
        let last = a.max(b).max(c);
        assert!(
            last > Duration::from_millis(260) && last < Duration::from_secs(2),
            "{last:?}"
        );
        assert!(small < last * 3 / 4, "{small:?} of {last:?}");
    }

    #[tokio::test]
    async fn caps_an_application_alone() {
        let mut config = Bandwidth::default();
        config.apps.insert(app("slow"), Bytes(100_000));
        let limits = Limits::new(config);
        let (slow, fast) = tokio::join!(
            read(&limits, "slow", 30_000),
            read(&limits, "fast", 30_000_000)
        );
        assert!(slow > Duration::from_millis(240), "{slow:?}");
        assert!(fast < slow, "{fast:?}");
    }

    #[tokio::test]
    async fn a_new_rate_counts_at_once() {
        let limits = Limits::new(bandwidth(1000));
        let change = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            limits.change(Bandwidth::default());
        };
        let (took, ()) = tokio::join!(read(&limits, "a", 1_000_000), change);
        assert!(took < Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn the_table_goes_by_the_minute() {
        let config: Bandwidth = toml::from_str(
            "rate = 5\ntable = [{ from = \"08:00\", to = \"18:00\", rate = 1 }, { from = \"22:00\", to = \"06:00\" }]",
        )
        .unwrap();
        let rates = agent_rates(&config);
        for (minute, rate) in [
            (12 * 60, Some(1)),
            (18 * 60, Some(5)),
            (23 * 60, None),
            (7 * 60, Some(5)),
        ] {
            assert_eq!(rates.at(minute), rate, "{minute}");
        }
    }
}
